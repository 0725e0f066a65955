//! The same on a GPU, whose kernels keep activations in f16.

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
            (0..d)
                .map(|j| rounded(rounded((x_out[j] - mean) * rstd) * (1.0 + scale[j]) + shift[j])),
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
        EPS,
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
            ops::adaln_zero(&x, None, chunk(0), chunk(1), EPS, None, out.view_mut(), None),
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
    ops::adaln_zero_backward(&x, &stats, shift, chunk(1), &dout, dx_at, branch, table_at).unwrap();
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
