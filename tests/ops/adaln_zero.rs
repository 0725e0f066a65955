#[cfg(feature = "cuda")]
mod on_gpu;

use crate::support::numbers::*;
use invad::Tensor;
use invad::ops::{self, Chunk, Residual, ResidualBackward};

/// So large that results depend on it.
const EPS: f32 = 1e-3;

/// Vectors in a table.
const CHUNKS: usize = 6;

const SIZES: [[usize; 3]; 6] =
    [[1, 1, 1], [2, 3, 5], [1, 17, 40], [3, 7, 64], [2, 65, 130], [1, 196, 31]];

/// Which vectors of the table are shift, scale and gate.
const INDICES: [[usize; 3]; 3] = [[0, 1, 2], [5, 3, 4], [2, 0, 1]];

struct Inputs {
    shape: [usize; 3],
    x: Tensor,
    y: Tensor,
    table: Tensor,
    indices: [usize; 3],
}

struct Outputs {
    x_out: Tensor,
    out: Tensor,
    stats: Tensor,
}

impl Inputs {
    /// Rows of `x` have the mean `offset` or −`offset`.
    fn new(shape: [usize; 3], shared: bool, indices: [usize; 3], offset: f32) -> Self {
        let [b, _, d] = shape;
        let mut x = tensor(1, &shape, 2.0).to_vec_f32();
        for (i, row) in x.chunks_exact_mut(d).enumerate() {
            row.iter_mut().for_each(|v| *v += if i % 2 == 0 { offset } else { -offset });
        }
        Self {
            shape,
            x: from(&x, &shape),
            y: tensor(2, &shape, 1.5),
            table: tensor(3, &[if shared { 1 } else { b }, CHUNKS * d], 1.0),
            indices,
        }
    }

    fn chunk(&self, which: usize) -> Chunk<'_> {
        Chunk { table: self.table.view(), index: self.indices[which] }
    }

    fn residual(&self) -> Residual<'_> {
        Residual { y: self.y.view(), gate: self.chunk(2) }
    }

    fn forward(&self, residual: bool, with_stats: bool) -> Outputs {
        let [b, n, _] = self.shape;
        let (mut x_out, mut out) = (poisoned(&self.shape), poisoned(&self.shape));
        let mut stats = poisoned(&[b, n, 2]);
        ops::adaln_zero(
            &self.x,
            residual.then(|| self.residual()),
            self.chunk(0),
            self.chunk(1),
            EPS,
            residual.then(|| x_out.view_mut()),
            &mut out,
            with_stats.then(|| stats.view_mut()),
        )
        .unwrap();
        Outputs { x_out, out, stats }
    }

    /// Row `i` in f64: x, y (zeros without a residual), shift, scale, gate.
    fn row(&self, i: usize, residual: bool) -> [Vec<f64>; 5] {
        let [_, n, d] = self.shape;
        let of = |t: &Tensor, start: usize| -> Vec<f64> {
            t.view().part(start, &[d]).unwrap().to_vec_f32().into_iter().map(f64::from).collect()
        };
        let table_row = if self.table.shape()[0] == 1 { 0 } else { i / n };
        let [shift, scale, gate] =
            self.indices.map(|index| of(&self.table, (table_row * CHUNKS + index) * d));
        let y = if residual { of(&self.y, i * d) } else { vec![0.0; d] };
        [of(&self.x, i * d), y, shift, scale, gate]
    }
}

/// x_out, out, mean and 1/σ of one row.
fn forward(row: &[Vec<f64>; 5]) -> (Vec<f64>, Vec<f64>, f64, f64) {
    let [x, y, shift, scale, gate] = row;
    let d = x.len();
    let x_out: Vec<f64> = (0..d).map(|j| x[j] + gate[j] * y[j]).collect();
    let mean = x_out.iter().sum::<f64>() / d as f64;
    let variance = x_out.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / d as f64;
    let rstd = 1.0 / (variance + f64::from(EPS)).sqrt();
    let out = (0..d).map(|j| (x_out[j] - mean) * rstd * (1.0 + scale[j]) + shift[j]).collect();
    (x_out, out, mean, rstd)
}

/// The gradients of Σ dout·out + Σ dx_out·x_out with respect to x, y, shift, scale and gate.
fn backward(row: &[Vec<f64>; 5], dout: &[f64], dx_out: &[f64]) -> [Vec<f64>; 5] {
    let [_, y, _, scale, gate] = row;
    let d = y.len();
    let (x_out, _, mean, rstd) = forward(row);
    let normalised: Vec<f64> = x_out.iter().map(|x| (x - mean) * rstd).collect();
    let g: Vec<f64> = (0..d).map(|j| dout[j] * (1.0 + scale[j])).collect();
    let g_mean = g.iter().sum::<f64>() / d as f64;
    let gx_mean = dot(&g, &normalised) / d as f64;
    let dx: Vec<f64> =
        (0..d).map(|j| dx_out[j] + rstd * (g[j] - g_mean - normalised[j] * gx_mean)).collect();
    [
        dx.clone(),
        (0..d).map(|j| gate[j] * dx[j]).collect(),
        dout.to_vec(),
        (0..d).map(|j| dout[j] * normalised[j]).collect(),
        (0..d).map(|j| y[j] * dx[j]).collect(),
    ]
}

#[test]
fn oracle_is_the_gradient() {
    for residual in [false, true] {
        let inputs = Inputs::new([2, 2, 7], false, [4, 0, 2], 0.5);
        let (dout, dx_out) = (f64s(&tensor(4, &[7], 1.0)), f64s(&tensor(5, &[7], 1.0)));
        for i in 0..4 {
            let row = inputs.row(i, residual);
            let want = numeric_gradient(&row.concat(), |v| {
                let row: Vec<Vec<f64>> = v.chunks(7).map(<[f64]>::to_vec).collect();
                let (x_out, out, ..) = forward(&row.try_into().unwrap());
                dot(&dout, &out) + dot(&dx_out, &x_out)
            });
            let got = backward(&row, &dout, &dx_out).concat();
            assert_close(&format!("row {i} residual {residual}"), &got, &want, 1e-9);
        }
    }
}

fn check_forward(case: &str, inputs: &Inputs, residual: bool, tolerance: f64) {
    let [b, n, d] = inputs.shape;
    let (mut x_out, mut out, mut mean, mut rstd) = (vec![], vec![], vec![], vec![]);
    for i in 0..b * n {
        let (x, o, m, r) = forward(&inputs.row(i, residual));
        x_out.extend(x);
        out.extend(o);
        mean.push(m);
        rstd.push(r);
    }
    let got = inputs.forward(residual, true);
    let stats = f64s(&got.stats);
    let column = |c| stats.iter().skip(c).step_by(2).copied().collect::<Vec<f64>>();
    assert_close(&format!("{case}: out"), &f64s(&got.out), &out, tolerance);
    assert_close(&format!("{case}: 1/σ"), &column(1), &rstd, tolerance);
    let scale = x_out.iter().fold(1.0f64, |m, x| m.max(x.abs()));
    let means = |v: &[f64]| v.iter().map(|m| m / scale).chain([1.0]).collect::<Vec<f64>>();
    assert_close(&format!("{case}: mean"), &means(&column(0)), &means(&mean), 3e-7);
    if residual {
        assert_close(&format!("{case}: x_out"), &f64s(&got.x_out), &x_out, 2e-7);
    }
    let without = inputs.forward(residual, false);
    assert_eq!(bits(&without.out), bits(&got.out), "{case}: without stats");
    assert_eq!(bits(&without.x_out), bits(&got.x_out), "{case}: without stats");
    assert_eq!(got.out.len(), b * n * d);
}

fn check_backward(case: &str, inputs: &Inputs, residual: bool, tolerance: f64) {
    let [b, n, d] = inputs.shape;
    let forward = inputs.forward(residual, true);
    let x = if residual { &forward.x_out } else { &inputs.x };
    let (dout, dx_out) = (tensor(4, &inputs.shape, 1.0), tensor(5, &inputs.shape, 1.0));
    let (mut dx, mut dy) = (dx_out.clone(), poisoned(&inputs.shape));
    let mut dtable = poisoned(&[b, CHUNKS * d]);
    let branch =
        residual.then(|| ResidualBackward { forward: inputs.residual(), dy: dy.view_mut() });
    ops::adaln_zero_backward(
        x,
        &forward.stats,
        inputs.indices[0],
        inputs.chunk(1),
        &dout,
        &mut dx,
        branch,
        &mut dtable,
    )
    .unwrap();

    let (dout, dx_out) = (f64s(&dout), f64s(&dx_out));
    let (mut want_dx, mut want_dy) = (vec![], vec![]);
    let mut want_table = vec![vec![vec![0.0; d]; 3]; b];
    for i in 0..b * n {
        let (dout, dx_out) = (&dout[i * d..][..d], &dx_out[i * d..][..d]);
        let [dx, dy, vectors @ ..] = backward(&inputs.row(i, residual), dout, dx_out);
        want_dx.extend(dx);
        want_dy.extend(dy);
        for (sum, v) in want_table[i / n].iter_mut().zip(vectors) {
            sum.iter_mut().zip(v).for_each(|(s, v)| *s += v);
        }
    }
    assert_close(&format!("{case}: dx"), &f64s(&dx), &want_dx, tolerance);
    if residual {
        assert_close(&format!("{case}: dy"), &f64s(&dy), &want_dy, tolerance);
    }
    let written = if residual { 3 } else { 2 };
    let dtable = f64s(&dtable);
    for (which, name) in ["dshift", "dscale", "dgate"][..written].iter().enumerate() {
        let columns = |image: usize| {
            dtable[(image * CHUNKS + inputs.indices[which]) * d..][..d].iter().copied()
        };
        let got: Vec<f64> = (0..b).flat_map(columns).collect();
        let want: Vec<f64> = want_table.iter().flat_map(|v| v[which].clone()).collect();
        assert_close(&format!("{case}: {name}"), &got, &want, tolerance);
    }
    for (i, v) in dtable.iter().enumerate() {
        let used = inputs.indices[..written].contains(&(i / d % CHUNKS));
        assert_eq!(v.is_nan(), !used, "{case}: dtable[{i}] is {v}");
    }
}

#[test]
fn forward_and_backward() {
    for shape in SIZES {
        for shared in [false, true] {
            for indices in INDICES {
                for residual in [false, true] {
                    let case = format!("{shape:?} shared {shared} {indices:?} residual {residual}");
                    let inputs = Inputs::new(shape, shared, indices, 0.5);
                    check_forward(&case, &inputs, residual, 1.5e-6);
                    check_backward(&case, &inputs, residual, 1.5e-6);
                }
            }
        }
    }
}

/// A mean is stored as f32, so the normalised row is off by at least half an ulp of mean/σ.
#[test]
fn means_far_above_sigma() {
    for (offset, tolerance) in [(100.0, 1e-5), (1e4, 1e-3)] {
        for residual in [false, true] {
            let case = format!("mean {offset} residual {residual}");
            let inputs = Inputs::new([2, 5, 200], false, [0, 1, 2], offset);
            check_forward(&case, &inputs, residual, tolerance);
            check_backward(&case, &inputs, residual, tolerance);
        }
    }
}

#[test]
fn constant_rows_give_the_shift() {
    let mut inputs = Inputs::new([1, 2, 48], true, [1, 2, 0], 0.0);
    inputs.x = from(&[7.25; 96], &[1, 2, 48]);
    let out = inputs.forward(false, false).out.to_vec_f32();
    assert_eq!(out, inputs.table.to_vec_f32()[48..96].repeat(2));
}

#[test]
fn threads_do_not_matter() {
    let inputs = Inputs::new([3, 65, 130], false, [0, 1, 2], 0.5);
    let dout = tensor(4, &inputs.shape, 1.0);
    for residual in [false, true] {
        assert_threads_do_not_matter(|| {
            let Outputs { x_out, out, stats } = inputs.forward(residual, true);
            let (mut dx, mut dy) = (dout.clone(), poisoned(&inputs.shape));
            let mut dtable = poisoned(&[3, CHUNKS * 130]);
            let x = if residual { &x_out } else { &inputs.x };
            let branch = residual
                .then(|| ResidualBackward { forward: inputs.residual(), dy: dy.view_mut() });
            let scale = inputs.chunk(1);
            ops::adaln_zero_backward(x, &stats, 0, scale, &dout, &mut dx, branch, &mut dtable)
                .unwrap();
            [x_out, out, stats, dx, dy, dtable]
        });
    }
}

#[test]
fn refuses_other_arguments() {
    let inputs = Inputs::new([2, 3, 5], false, [0, 1, 2], 0.0);
    let (shift, scale) = (inputs.chunk(0), inputs.chunk(1));
    let mut out = poisoned(&[2, 3, 5]);
    assert_refused(
        ops::adaln_zero(&inputs.x, None, shift, scale, EPS, None, &mut poisoned(&[2, 3, 4]), None),
        "adaln_zero: `out` should have shape [2, 3, 5], got [2, 3, 4]",
    );
    for index in [CHUNKS, usize::MAX] {
        let beyond = Chunk { table: inputs.table.view(), index };
        let error = ops::adaln_zero(&inputs.x, None, beyond, scale, EPS, None, &mut out, None)
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("adaln_zero: `shift` should have shape (1 or 2,"), "{error}");
        let mut dx = inputs.x.clone();
        let stats = poisoned(&[2, 3, 2]);
        let error = ops::adaln_zero_backward(
            &inputs.x,
            &stats,
            index,
            scale,
            &inputs.y,
            &mut dx,
            None,
            &mut poisoned(&[2, CHUNKS * 5]),
        )
        .unwrap_err()
        .to_string();
        assert!(error.starts_with("adaln_zero_backward: `dtable` should have shape"), "{error}");
    }
    assert_refused(
        ops::adaln_zero(
            &inputs.x,
            Some(inputs.residual()),
            shift,
            scale,
            EPS,
            None,
            &mut out,
            None,
        ),
        "adaln_zero: `x_out` should be given exactly where there is a residual, got none",
    );
    let three = poisoned(&[3, CHUNKS * 5]);
    let rows = Chunk { table: three.view(), index: 1 };
    assert_refused(
        ops::adaln_zero(&inputs.x, None, shift, rows, EPS, None, &mut out, None),
        "adaln_zero: `scale` should have shape (1 or 2, at least 10), got [3, 30]",
    );
}
