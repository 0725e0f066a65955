use crate::common::*;
use invad::Tensor;
use invad::ops::{self, Chunk, Residual, ResidualBackward};

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
    let rstd = 1.0 / (variance + 1e-6).sqrt();
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
        ops::adaln_zero(&inputs.x, None, shift, scale, None, &mut poisoned(&[2, 3, 4]), None),
        "adaln_zero: `out` should have shape [2, 3, 5], got [2, 3, 4]",
    );
    for index in [CHUNKS, usize::MAX] {
        let beyond = Chunk { table: inputs.table.view(), index };
        let error = ops::adaln_zero(&inputs.x, None, beyond, scale, None, &mut out, None)
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
        ops::adaln_zero(&inputs.x, Some(inputs.residual()), shift, scale, None, &mut out, None),
        "adaln_zero: `x_out` should be given exactly where there is a residual, got none",
    );
    let three = poisoned(&[3, CHUNKS * 5]);
    let rows = Chunk { table: three.view(), index: 1 };
    assert_refused(
        ops::adaln_zero(&inputs.x, None, shift, rows, None, &mut out, None),
        "adaln_zero: `scale` should have shape (1 or 2, at least 10), got [3, 30]",
    );
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::*;
    use crate::gpu::*;
    use invad::DType;

    /// Against the oracle, with `offset` added to every other row of x and taken from the others.
    fn check(shape: [usize; 3], shared: bool, residual: bool, stream: DType, offset: f32) {
        let Some(gpu) = gpu() else { return };
        let case = format!("{shape:?} shared {shared} residual {residual} {stream:?} ± {offset}");
        let [b, n, d] = shape;
        let rows = if shared { 1 } else { b };
        let indices = [4, 0, 2];
        let mut x = halves(1, b * n * d, 2.0);
        for (i, row) in x.chunks_exact_mut(d).enumerate() {
            row.iter_mut().for_each(|v| {
                let moved = *v + if i % 2 == 0 { offset } else { -offset };
                *v = rounded(moved.into()) as f32;
            });
        }
        let (y, table) = (halves(2, b * n * d, 1.5), uniform(3, rows * CHUNKS * d, 1.0));
        let inputs = Inputs {
            shape,
            x: from(&x, &shape),
            y: from(&y, &shape),
            table: from(&table, &[rows, CHUNKS * d]),
            indices,
        };
        let (mut want_x, mut want, mut want_stats, mut naive) = (vec![], vec![], vec![], vec![]);
        for i in 0..b * n {
            let row = inputs.row(i, residual);
            let (x_out, out, mean, rstd) = super::forward(&row);
            let [_, _, shift, scale, _] = &row;
            naive.extend(
                (0..d).map(|j| {
                    rounded(rounded((x_out[j] - mean) * rstd) * (1.0 + scale[j]) + shift[j])
                }),
            );
            want_x.extend(x_out);
            want.extend(out);
            want_stats.extend([mean, rstd]);
        }
        let (x, y) = (upload(&x, &shape, stream, gpu), upload(&y, &shape, DType::F16, gpu));
        let table = upload(&table, &[rows, CHUNKS * d], DType::F32, gpu);
        let chunk = |which: usize| Chunk { table: table.view(), index: indices[which] };
        let mut x_out = Guarded::new(&shape, stream, gpu);
        let mut out = Guarded::new(&shape, DType::F16, gpu);
        let mut stats = Guarded::new(&[b, n, 2], DType::F32, gpu);
        ops::adaln_zero(
            &x,
            residual.then(|| Residual { y: y.view(), gate: chunk(2) }),
            chunk(0),
            chunk(1),
            residual.then(|| x_out.view_mut()),
            out.view_mut(),
            Some(stats.view_mut()),
        )
        .unwrap();
        // In f32 the normalised row is off by half an ulp of mean/σ.
        let floor = f64::from(offset) * 6e-8;
        let naive: Vec<f64> = naive.iter().map(|v| v + 2.0 * floor).collect();
        assert_as_good(&format!("{case}: out"), &out.f64s(), &want, &naive);
        assert_close(&format!("{case}: stats"), &stats.f64s(), &want_stats, 2e-6);
        if residual {
            let tolerance = if stream == DType::F16 { 1.0 / 2048.0 } else { 2e-7 };
            assert_close(&format!("{case}: x_out"), &x_out.f64s(), &want_x, tolerance);
        }
    }

    #[test]
    fn tiny() {
        check([2, 3, 40], false, true, DType::F32, 0.5);
        check([1, 2, 2056], false, true, DType::F16, 0.5);
    }

    #[test]
    fn forward() {
        for shape in [[1, 1, 8], [2, 3, 40], [3, 7, 64], [2, 65, 136], [1, 17, 1024]] {
            for shared in [false, true] {
                for residual in [false, true] {
                    check(shape, shared, residual, DType::F32, 0.5);
                }
            }
        }
        check([2, 5, 136], false, true, DType::F16, 0.5);
        check([1, 5, 2048], true, true, DType::F32, 0.5);
        check([2, 3, 4096], false, true, DType::F32, 0.5);
        check([1, 2, 8192], true, false, DType::F32, 0.5);
    }

    #[test]
    fn means_far_above_sigma() {
        check([2, 5, 200], false, true, DType::F32, 100.0);
    }

    #[test]
    fn refuses_widths_it_has_no_kernel_for() {
        let Some(gpu) = gpu() else { return };
        for d in [12, 8200] {
            let x = upload(&vec![0.0; d], &[1, 1, d], DType::F32, gpu);
            let table = upload(&vec![0.0; 2 * d], &[1, 2 * d], DType::F32, gpu);
            let chunk = |index| Chunk { table: table.view(), index };
            let mut out = Guarded::new(&[1, 1, d], DType::F16, gpu);
            assert_refused(
                ops::adaln_zero(&x, None, chunk(0), chunk(1), None, out.view_mut(), None),
                &format!(
                    "adaln_zero: `x` should have shape (B, N, D) with D a multiple of 8 up to 8192 \
                     on a GPU, got [1, 1, {d}]"
                ),
            );
        }
    }

    /// The gradients, at numbers that f16 and f32 hold exactly where they lie in them.
    fn check_backward(shape: [usize; 3], shared: bool, residual: bool, stream: DType) {
        let Some(gpu) = gpu() else { return };
        let case = format!("{shape:?} shared {shared} residual {residual} {stream:?}");
        let [b, n, d] = shape;
        let rows = if shared { 1 } else { b };
        let inputs = Inputs {
            shape,
            x: from(&halves(1, b * n * d, 2.0), &shape),
            y: from(&halves(2, b * n * d, 1.5), &shape),
            table: tensor(3, &[rows, CHUNKS * d], 1.0),
            indices: [4, 0, 2],
        };
        let (dout, dx_out) = (halves(4, b * n * d, 1.0), uniform(5, b * n * d, 1.0));
        // To x the residual has been added: the oracle is asked without it, and for its gradients by itself.
        let (mut want_dx, mut want_dy, mut stats) = (vec![], vec![], vec![]);
        let (mut naive_dx, mut naive_dy) = (vec![], vec![]);
        let mut want_table = vec![vec![vec![0.0; d]; 3]; b];
        let mut naive_table = want_table.clone();
        let wide = |v: &[f32]| v.iter().map(|&v| v.into()).collect::<Vec<f64>>();
        for i in 0..b * n {
            let (row, [_, y, .., gate]) = (inputs.row(i, false), inputs.row(i, true));
            let (_, _, mean, rstd) = super::forward(&row);
            stats.extend([mean as f32, rstd as f32]);
            let (dout, dx_out) = (wide(&dout[i * d..][..d]), wide(&dx_out[i * d..][..d]));
            let [dx, _, dshift, dscale, _] = backward(&row, &dout, &dx_out);
            let naive = |v: &[f64]| v.iter().map(|&v| rounded(v)).collect::<Vec<f64>>();
            let dgate: Vec<f64> = dx.iter().zip(&y).map(|(dx, y)| dx * y).collect();
            let vectors = [dshift, dscale, dgate];
            for ((sums, naives), v) in
                want_table[i / n].iter_mut().zip(&mut naive_table[i / n]).zip(&vectors)
            {
                sums.iter_mut().zip(v).for_each(|(s, v)| *s += v);
                naives.iter_mut().zip(v).for_each(|(s, &v)| *s = rounded(*s + rounded(v)));
            }
            want_dy.extend(dx.iter().zip(&gate).map(|(dx, gate)| dx * gate));
            naive_dy.extend(dx.iter().zip(&gate).map(|(dx, gate)| rounded(rounded(*dx) * gate)));
            naive_dx.extend(naive(&dx));
            want_dx.extend(dx);
        }
        let of = |t: &Tensor, dtype| upload(&t.to_vec_f32(), t.shape(), dtype, gpu);
        let (x, y) = (of(&inputs.x, stream), of(&inputs.y, DType::F16));
        let table = of(&inputs.table, DType::F32);
        let chunk = |which: usize| Chunk { table: table.view(), index: inputs.indices[which] };
        let stats = upload(&stats, &[b, n, 2], DType::F32, gpu);
        let dout = upload(&dout, &shape, DType::F16, gpu);
        let mut dx = Guarded::new(&shape, DType::F32, gpu);
        dx.view_mut().copy_from_slice(&dx_out).unwrap();
        let mut dy = Guarded::new(&shape, DType::F16, gpu);
        let mut dtable = Guarded::new(&[b, CHUNKS * d], DType::F32, gpu);
        let branch = residual.then(|| ResidualBackward {
            forward: Residual { y: y.view(), gate: chunk(2) },
            dy: dy.view_mut(),
        });
        let shift = inputs.indices[0];
        let (dx_at, table_at) = (dx.view_mut(), dtable.view_mut());
        ops::adaln_zero_backward(&x, &stats, shift, chunk(1), &dout, dx_at, branch, table_at)
            .unwrap();
        assert_gradient_as_good(&format!("{case}: dx"), &dx.f64s(), &want_dx, &naive_dx);
        assert_close(&format!("{case}: dx"), &dx.f64s(), &want_dx, 5e-6);
        if residual {
            assert_gradient_as_good(&format!("{case}: dy"), &dy.f64s(), &want_dy, &naive_dy);
        }
        let written = if residual { 3 } else { 2 };
        let dtable = dtable.f64s();
        for (which, name) in ["dshift", "dscale", "dgate"][..written].iter().enumerate() {
            let columns = |image: usize| {
                dtable[(image * CHUNKS + inputs.indices[which]) * d..][..d].iter().copied()
            };
            let got: Vec<f64> = (0..b).flat_map(columns).collect();
            let [want, naive] = [&want_table, &naive_table]
                .map(|t| t.iter().flat_map(|v| v[which].clone()).collect::<Vec<f64>>());
            assert_gradient_as_good(&format!("{case}: {name}"), &got, &want, &naive);
            assert_close(&format!("{case}: {name}"), &got, &want, 5e-6);
        }
        for (i, v) in dtable.iter().enumerate() {
            let used = inputs.indices[..written].contains(&(i / d % CHUNKS));
            assert_eq!(v.is_nan(), !used, "{case}: dtable[{i}] is {v}");
        }
    }

    #[test]
    fn tiny_backward() {
        check_backward([2, 3, 40], false, true, DType::F32);
        check_backward([2, 11, 264], true, true, DType::F16);
    }

    #[test]
    fn backward_as_the_oracle() {
        for shape in [[1, 1, 8], [3, 7, 64], [2, 65, 136], [1, 17, 1024]] {
            for shared in [false, true] {
                for residual in [false, true] {
                    check_backward(shape, shared, residual, DType::F32);
                }
            }
        }
        check_backward([1, 5, 2048], false, true, DType::F16);
        check_backward([2, 3, 4096], true, true, DType::F32);
    }

    #[test]
    fn refuses_widths_it_has_no_gradient_for() {
        let Some(gpu) = gpu() else { return };
        for d in [12, 4104] {
            let shape = [1, 1, d];
            let of = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, gpu).unwrap();
            let (x, dout) = (of(&shape, DType::F32), of(&shape, DType::F16));
            let (stats, table) = (of(&[1, 1, 2], DType::F32), of(&[1, 2 * d], DType::F32));
            let scale = Chunk { table: table.view(), index: 1 };
            let mut dx = Guarded::new(&shape, DType::F32, gpu);
            let mut dtable = Guarded::new(&[1, 2 * d], DType::F32, gpu);
            let (dx_at, to) = (dx.view_mut(), dtable.view_mut());
            assert_refused(
                ops::adaln_zero_backward(&x, &stats, 0, scale, &dout, dx_at, None, to),
                &format!(
                    "adaln_zero_backward: `x` should have shape (B, N, D) with D a multiple of 8 \
                     up to 4096 on a GPU, got [1, 1, {d}]"
                ),
            );
            assert!(dx.f64s().iter().chain(&dtable.f64s()).all(|x| x.is_nan()));
        }
    }
}
