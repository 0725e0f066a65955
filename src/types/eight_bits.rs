//! Formats of eight bits.

/// A format that numbers are quantised to: x ≈ scale · decode(code).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EightBits {
    /// Integers from −127 to 127, in two's complement.
    Int8,
    /// Floats of 4 bits of exponent and 3 of mantissa without infinities, the E4M3 of Micikevicius et al., "FP8 Formats
    /// for Deep Learning", 2022.
    E4m3,
}

impl EightBits {
    /// The largest number.
    pub fn largest(self) -> f32 {
        match self {
            Self::Int8 => 127.0,
            Self::E4m3 => 448.0,
        }
    }

    /// The scale by which a number becomes the largest: 1 of 0, NaN of what is not finite, never
    /// subnormal.
    pub(crate) fn scale(self, largest: f32) -> f32 {
        if largest == 0.0 {
            1.0
        } else if largest.is_finite() {
            (largest / self.largest()).max(f32::MIN_POSITIVE)
        } else {
            f32::NAN
        }
    }

    /// The code of the nearest number, of two the even one; beyond the largest that. NaN stays NaN in E4M3, and is 0 as an
    /// integer.
    pub fn encode(self, x: f32) -> u8 {
        match self {
            Self::Int8 => x.round_ties_even().clamp(-127.0, 127.0) as i8 as u8,
            Self::E4m3 => encode_e4m3(x),
        }
    }

    /// The number of a code.
    pub fn decode(self, code: u8) -> f32 {
        match self {
            Self::Int8 => (code as i8).into(),
            Self::E4m3 => decode_e4m3(code),
        }
    }
}

/// Bits of an f32's mantissa that E4M3 has not.
const DROPPED: u32 = 23 - 3;
/// The difference of the exponents' biases.
const BIAS: u32 = 127 - 7;
/// The smallest number that is not subnormal, and the step below it.
const NORMAL: f32 = 1.0 / 64.0;
const STEP: f32 = 1.0 / 512.0;
const NAN: u8 = 0x7f;

fn encode_e4m3(x: f32) -> u8 {
    let sign = (x.to_bits() >> 24) as u8 & 0x80;
    if x.is_nan() {
        return sign | NAN;
    }
    let x = x.abs().min(448.0);
    let code = if x < NORMAL {
        (x / STEP).round_ties_even() as u32
    } else {
        let bits = x.to_bits();
        let up = (1 << (DROPPED - 1)) - 1 + ((bits >> DROPPED) & 1);
        ((bits + up) >> DROPPED) - (BIAS << 3)
    };
    sign | code as u8
}

fn decode_e4m3(code: u8) -> f32 {
    let magnitude = u32::from(code & 0x7f);
    let x = match magnitude {
        0x7f => f32::NAN,
        0..8 => magnitude as f32 * STEP,
        _ => f32::from_bits((magnitude + (BIAS << 3)) << DROPPED),
    };
    if code & 0x80 == 0 { x } else { -x }
}
