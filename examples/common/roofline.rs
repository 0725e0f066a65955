//! What an evaluation of a Diffusion Transformer does on a GPU: operations, and bytes that must be read or written.
#![allow(dead_code)] // Who shows it, tests it or measures beside it uses a part.

use invad::Products;
use invad::denoisers::DitConfig;

/// Bytes of numbers.
const F32: usize = 4;
const F16: usize = 2;

/// One launch of an evaluation, or several alike.
#[derive(Clone, Debug)]
pub struct Stage {
    pub name: &'static str,
    /// How the kernel's name begins.
    pub kernel: &'static str,
    /// How often there is one in an evaluation.
    pub calls: usize,
    /// Multiplications and additions of matrix products, of one.
    pub operations: f64,
    /// Bytes of device memory of one, each once.
    pub read: usize,
    pub written: usize,
    /// What its products multiply, if not f16.
    pub products: Option<Products>,
}

/// The stages of an evaluation of a batch of images, in f16 or with the blocks' products of int8, and the step that
/// follows it.
pub fn evaluation(c: &DitConfig, batch: usize, products: Option<Products>) -> Vec<Stage> {
    let (n, d, token) = (c.tokens(), c.width, c.channels * c.patch * c.patch);
    let rows = batch * n;
    let plain = |name, kernel, calls, read, written| Stage {
        name,
        kernel,
        calls,
        operations: 0.0,
        read,
        written,
        products: None,
    };
    // y (rows, to) = x (rows, from) · weightᵀ + bias.
    let layer = |name, calls, from: usize, to: usize| Stage {
        operations: 2.0 * (rows * from * to) as f64,
        ..plain(
            name,
            "cublasLtMatmul",
            calls,
            F16 * (rows * from + from * to + to),
            F16 * rows * to,
        )
    };
    // The same of codes, whose rows and columns have a scale each.
    let layer_of_codes = |name, calls, from: usize, to: usize| Stage {
        operations: 2.0 * (rows * from * to) as f64,
        products,
        ..plain(
            name,
            "linear_quantised",
            calls,
            rows * from + from * to + F32 * (rows + to) + F16 * to,
            F16 * rows * to,
        )
    };
    let mut stages = vec![
        plain("patchify", "patchify", 1, F32 * rows * token, F16 * rows * token),
        layer("embedding", 1, token, d),
        plain("position", "add_position", 1, F16 * rows * d + F32 * n * d, F16 * rows * d),
        // The stream, shift and scale; then also the branch and its gate.
        plain("first AdaLN-Zero", "adaln_zero", 1, F16 * rows * d + 2 * F32 * d, F16 * rows * d),
        plain(
            "AdaLN-Zero",
            "adaln_zero",
            2 * c.depth,
            2 * F16 * rows * d + 3 * F32 * d,
            2 * F16 * rows * d,
        ),
        Stage {
            operations: (4 * batch * n * n * d) as f64,
            ..plain("attention", "attention", c.depth, 3 * F16 * rows * d, F16 * rows * d)
        },
    ];
    for (name, from, to) in
        [("qkv", d, 3 * d), ("projection", d, d), ("fc1 and GELU", d, 4 * d), ("fc2", 4 * d, d)]
    {
        match products {
            None => stages.push(layer(name, c.depth, from, to)),
            Some(_) => {
                let (read, written) = (F16 * rows * from, rows * from + F32 * rows);
                stages.push(plain("codes of it", "quantise", c.depth, read, written));
                stages.push(layer_of_codes(name, c.depth, from, to));
            }
        }
    }
    stages.extend([
        layer("output", 1, d, token),
        plain("unpatchify", "unpatchify", 1, F16 * rows * token, F16 * rows * token),
        plain("step", "inversion_step", 1, (F32 + F16) * rows * token, F32 * rows * token),
    ]);
    stages
}

/// Operations of an evaluation of an image.
pub fn operations(c: &DitConfig) -> f64 {
    evaluation(c, 1, None).iter().map(|stage| stage.calls as f64 * stage.operations).sum()
}
