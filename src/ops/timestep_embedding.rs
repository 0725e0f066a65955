//! The sinusoidal embedding of timesteps.

use std::borrow::Cow;

use super::expect_shape;
use crate::error::{Error, Result};
use crate::tensor::{TensorView, TensorViewMut};

/// out = (cos(t·f), sin(t·f)) with half as many frequencies f = 10000^(−i/(F/2)) as there are features.
///
/// `t`: (B), timesteps; `out`: (B, F), F even, f16 on a GPU. The products are rounded to f32, as in the models this
/// embedding is used with, and 128 frequencies are the f32 numbers those models were trained with:
/// at t = 999 an ulp of a product moves the embedding by 3e-5.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
pub fn timestep_embedding<'a>(
    t: impl Into<TensorView<'a>>,
    out: impl Into<TensorViewMut<'a>>,
) -> Result<()> {
    const OP: &str = "timestep_embedding";
    let (t, out) = (t.into(), out.into());
    let [images] = *t.shape() else { return Err(Error::shape(OP, "t", "(B)", t.shape())) };
    let features = match *out.shape() {
        [_, features] if features >= 2 && features.is_multiple_of(2) => features,
        ref got => return Err(Error::shape(OP, "out", format!("({images}, F), F even"), got)),
    };
    expect_shape(OP, "out", out.shape(), &[images, features])?;
    let frequencies = frequencies(features / 2);
    on_gpu!(t, crate::cuda::ops::timestep_embedding(t, &frequencies, out));
    crate::cpu::timestep_embedding(t.f32s(OP, "t")?, &frequencies, out.into_f32s(OP, "out")?);
    Ok(())
}

/// The bits of exp(f32(f32(−ln 10000)·i)/count), i from 0.
fn frequencies(count: usize) -> Cow<'static, [u32]> {
    if count == FREQUENCY_BITS.len() {
        return Cow::Borrowed(&FREQUENCY_BITS);
    }
    let exponent = |i| -(1e4f64.ln()) as f32 * i as f32 / count as f32;
    Cow::Owned((0..count).map(|i| (f64::from(exponent(i)).exp() as f32).to_bits()).collect())
}

/// Of 128, as a common f32 exponential returns it, which differs from the
/// correctly rounded value by one ulp at i = 12 and 106.
const FREQUENCY_BITS: [u32; 128] = [
    0x3f800000, 0x3f6e39f8, 0x3f5dafd6, 0x3f4e4bac, 0x3f3ff911, 0x3f32a506, 0x3f263de0, 0x3f1ab32b,
    0x3f0ff59a, 0x3f05f6ee, 0x3ef953ce, 0x3ee80460, 0x3ed7e89b, 0x3ec8eb23, 0x3ebaf81b, 0x3eadfcff,
    0x3ea1e89b, 0x3e96aaea, 0x3e8c3503, 0x3e827908, 0x3e72d422, 0x3e61f836, 0x3e5247ed, 0x3e43ae7c,
    0x3e361887, 0x3e297409, 0x3e1db03f, 0x3e12bd90, 0x3e088d77, 0x3dfe24df, 0x3dec7fd5, 0x3ddc1464,
    0x3dcccccc, 0x3dbe94c7, 0x3db15978, 0x3da50957, 0x3d99940d, 0x3d8eea6c, 0x3d84fe4c, 0x3d778511,
    0x3d6655c1, 0x3d5657e3, 0x3d477640, 0x3d399d18, 0x3d2cba15, 0x3d20bc1b, 0x3d159348, 0x3d0b30cb,
    0x3d0186e2, 0x3cf11177, 0x3ce054d1, 0x3cd0c1a8, 0x3cc2434e, 0x3cb4c691, 0x3ca83989, 0x3c9c8b96,
    0x3c91ad39, 0x3c879009, 0x3c7c4d30, 0x3c6ac8e6, 0x3c5a7bf1, 0x3c4b50b5, 0x3c3d330e, 0x3c301050,
    0x3c23d70a, 0x3c187706, 0x3c0de12e, 0x3c040777, 0x3bf5b9ad, 0x3be4aa45, 0x3bd4ca15, 0x3bc6040a,
    0x3bb8449a, 0x3bab7982, 0x3b9f91cc, 0x3b947daf, 0x3b8a2e75, 0x3b80967c, 0x3b6f520d, 0x3b5eb47a,
    0x3b4f3e33, 0x3b40dac2, 0x3b33770d, 0x3b270153, 0x3b1b690d, 0x3b109ed8, 0x3b06946d, 0x3afa78f0,
    0x3ae91528, 0x3ad8e675, 0x3ac9d759, 0x3abbd3eb, 0x3aaec98e, 0x3aa2a6f7, 0x3a975c0b, 0x3a8cd9d9,
    0x3a83126e, 0x3a73f1a2, 0x3a6301e3, 0x3a533f24, 0x3a44948a, 0x3a36ee9d, 0x3a2a3b44, 0x3a1e69a2,
    0x3a136a14, 0x3a092e01, 0x39ff4fad, 0x39ed95e4, 0x39dd1721, 0x39cdbd93, 0x39bf74d6, 0x39b229fb,
    0x39a5cb61, 0x399a48a0, 0x398f9275, 0x39859aa4, 0x3978a80d, 0x3967648c, 0x395753e2, 0x394860bf,
    0x393a7753, 0x392d852a, 0x39217919, 0x39164326, 0x390bd46d, 0x39021f28, 0x38f22cdd, 0x38e15c8e,
];
