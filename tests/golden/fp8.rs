//! Section `fp8`: codes of E4M3, and products of what is quantised to them.

use half::{bf16, f16};
use invad::EightBits;
use serde_json::Value;

use crate::golden::{Array, Golden, Tensors, Trials, cases, compare, compare_absolute, trial};
use crate::library;

const FORMAT: EightBits = EightBits::E4m3;
/// Of the largest result, in f32.
const TOLERANCE: f64 = 1e-6;

/// What `quantise` and `linear_quantised` make of two matrices.
pub struct Product {
    pub codes: [Vec<u8>; 2],
    pub scales: [Vec<f32>; 2],
    pub y: Vec<f32>,
}

pub fn trials(golden: &'static Golden, section: &'static Value) -> Trials {
    let tensors = golden.tensors("fp8")?;
    let (codes, values) = (tensors.get("decode.codes")?.u8s(), tensors.get("decode.values")?);
    let values = values.data.clone();
    let mut trials = vec![trial("fp8/decode", move || {
        compare_absolute(codes.iter().map(|&code| FORMAT.decode(code)), &values, 0.0)
    })];
    let numbers = |name: &str, inputs: Vec<f32>| -> Result<_, String> {
        let want = tensors.get(&format!("{name}.saturating"))?.u8s();
        Ok(trial(format!("fp8/{name}"), move || encoded(&inputs, &want)))
    };
    let bits = &tensors.get("encode.f32_bits")?.data;
    trials.push(numbers("encode", bits.iter().map(|&bits| f32::from_bits(bits as u32)).collect())?);
    let all = |of: fn(u16) -> f32| (0..=u16::MAX).map(of).collect();
    for (name, inputs) in [
        ("encode_f16", all(|bits| f16::from_bits(bits).to_f32())),
        ("encode_bf16", all(|bits| bf16::from_bits(bits).to_f32())),
    ] {
        // One set has the one, another the other.
        if tensors.get(&format!("{name}.saturating")).is_ok() {
            trials.push(numbers(name, inputs)?);
        }
    }
    for (case, _) in cases(&section["products"]) {
        for by in ["row", "tensor"] {
            let of = tensors.part(&format!("{case}."));
            trials.push(trial(format!("fp8/{case}/{by}"), move || product(&of, by)));
        }
    }
    Ok(trials)
}

/// NaN has two codes, of which the sign does not matter.
fn encoded(inputs: &[f32], want: &[u8]) -> Result<(), String> {
    if inputs.len() != want.len() {
        return Err(format!("{} inputs, {} codes", inputs.len(), want.len()));
    }
    let code = |x: f32| if x.is_nan() { FORMAT.encode(x) & 0x7f } else { FORMAT.encode(x) };
    let want =
        inputs.iter().zip(want).map(|(x, code)| if x.is_nan() { code & 0x7f } else { *code });
    same(inputs.iter().map(|&x| code(x)).collect(), want.collect())
}

fn product(of: &Tensors, by: &str) -> Result<(), String> {
    let (x, w) = (of.get("x")?, of.get("w")?);
    let matrix = |of: &Array| -> Result<_, String> {
        Ok((of.f32s(), of.shape.clone().try_into().map_err(|shape| format!("{shape:?}"))?))
    };
    let got = library::quantised_product(matrix(x)?, matrix(w)?, FORMAT, by == "row")?;
    let sides = got.codes.into_iter().zip(got.scales);
    for (side, (codes, scales)) in ["x", "w"].into_iter().zip(sides) {
        let want = |what: &str| of.get(&format!("{by}.{side}_{what}"));
        same(codes, want("codes")?.u8s()).map_err(|e| format!("{side}: {e}"))?;
        compare_absolute(scales, &want("scale")?.data, 0.0)?;
    }
    compare(got.y, &of.get(&format!("{by}.y"))?.data, TOLERANCE)
}

fn same(got: Vec<u8>, want: Vec<u8>) -> Result<(), String> {
    if got.len() != want.len() || want.is_empty() {
        return Err(format!("{} codes, not {}", got.len(), want.len()));
    }
    match got.iter().zip(&want).position(|(got, want)| got != want) {
        None => Ok(()),
        Some(i) => Err(format!("code {i} is {:#04x}, not {:#04x}", got[i], want[i])),
    }
}
