//! The same on a GPU, whose kernels keep activations in f16.

use super::*;
use crate::gpu::*;
use invad::DType;

/// Of numbers that f16 holds.
fn inputs(sizes: [usize; 4], shift: usize, activation: Activation) -> Inputs {
    let mut inputs = Inputs::new(sizes, shift, activation, 0.5);
    let [b, n, c, _] = sizes;
    inputs.x = from(&halves(1, b * n * c, 2.0), &[b, n, c]);
    inputs
}

/// What of the inputs lies on a GPU: x, the table, weight and bias.
fn upload_all(inputs: &Inputs, gpu: invad::Device) -> (Tensor, Option<Tensor>, [Tensor; 2]) {
    let of = |t: &Tensor, dtype| upload(&t.to_vec_f32(), t.shape(), dtype, gpu);
    let affine = [&inputs.weight, &inputs.bias].map(|t| of(t, DType::F32));
    (of(&inputs.x, DType::F16), inputs.table.as_ref().map(|t| of(t, DType::F32)), affine)
}

fn check(sizes: [usize; 4], shift: usize, activation: Activation) {
    let Some(gpu) = gpu() else { return };
    let case = format!("{sizes:?} shift {shift} {activation:?}");
    let inputs = inputs(sizes, shift, activation);
    let [b, _, _, groups] = sizes;
    let (mut naive, mut want_stats) = (vec![], vec![]);
    let want = inputs.spread(|image, group| {
        let of_group = inputs.group(image, group);
        let (y, mean, rstd) = forward(&of_group, activation);
        want_stats.extend([mean, rstd]);
        naive.extend(of_group[0].iter().enumerate().map(|(i, x)| {
            let [_, shift, weight, bias] = &of_group;
            let c = i % shift.len();
            let normalised = rounded((rounded(x + shift[c]) - mean) * rstd);
            let z = rounded(normalised * weight[c] + bias[c]);
            if activation == Activation::Silu { silu(z) } else { z }
        }));
        y
    });
    let mut of_groups = naive.chunks(naive.len() / (b * groups));
    let naive = inputs.spread(|_, _| of_groups.next().unwrap().to_vec());
    let (x, table, [weight, bias]) = upload_all(&inputs, gpu);
    let mut y = Guarded::new(x.shape(), DType::F16, gpu);
    let mut stats = Guarded::new(&[b, groups, 2], DType::F32, gpu);
    let norm = norm(&sizes, table.as_ref(), [&weight, &bias], activation);
    ops::group_norm(&x, norm, y.view_mut(), stats.view_mut()).unwrap();
    assert_as_good(&case, &y.f64s(), &want, &naive);
    assert_close(&format!("{case}: stats"), &stats.f64s(), &want_stats, 2e-6);
}

fn check_backward(
    sizes: [usize; 4],
    shift: usize,
    activation: Activation,
    dtype: DType,
    accumulate: bool,
) {
    let Some(gpu) = gpu() else { return };
    let case = format!("{sizes:?} shift {shift} {activation:?} {dtype:?} accumulate {accumulate}");
    let inputs = inputs(sizes, shift, activation);
    let [b, n, c, groups] = sizes;
    let (dy, start) = (halves(5, b * n * c, 1.0), halves(6, b * n * c, 1.0));
    let starts = [7, 8].map(|seed| uniform(seed, c, 1.0));
    let mut want = gradients(&inputs, &dy.iter().map(|&d| d.into()).collect::<Vec<f64>>());
    let add =
        |to: &mut [f64], s: &[f32]| to.iter_mut().zip(s).for_each(|(w, &s)| *w += f64::from(s));
    add(&mut want.dweight, &starts[0]);
    add(&mut want.dbias, &starts[1]);
    let stats: Vec<f32> = (0..b * groups)
        .flat_map(|i| {
            let (_, mean, rstd) = forward(&inputs.group(i / groups, i % groups), activation);
            [mean as f32, rstd as f32]
        })
        .collect();
    let (x, table, [weight, bias]) = upload_all(&inputs, gpu);
    let dy = upload(&dy, x.shape(), DType::F16, gpu);
    let stats = upload(&stats, &[b, groups, 2], DType::F32, gpu);
    let mut dx = Guarded::new(x.shape(), dtype, gpu);
    if accumulate {
        dx.view_mut().copy_from_slice(&start).unwrap();
        add(&mut want.dx, &start);
    }
    let mut parameters = starts.map(|start| {
        let mut gradient = Guarded::new(&[c], DType::F32, gpu);
        gradient.view_mut().copy_from_slice(&start).unwrap();
        gradient
    });
    let mut dtable = Guarded::new(&[b, AROUND[0] + c + AROUND[1]], DType::F32, gpu);
    let [dweight, dbias] = &mut parameters;
    ops::group_norm_backward(
        &x,
        norm(&sizes, table.as_ref(), [&weight, &bias], activation),
        &stats,
        &dy,
        dx.view_mut(),
        accumulate,
        dweight.view_mut(),
        dbias.view_mut(),
        table.is_some().then(|| dtable.view_mut()),
    )
    .unwrap();
    let most = if dtype == DType::F16 { 5e-4 } else { 5e-6 };
    assert_close(&format!("{case}: dx"), &dx.f64s(), &want.dx, most);
    assert_close(&format!("{case}: dweight"), &dweight.f64s(), &want.dweight, 5e-6);
    assert_close(&format!("{case}: dbias"), &dbias.f64s(), &want.dbias, 5e-6);
    if table.is_some() {
        want.check_table(&case, &dtable.f64s(), [b, c], 5e-6);
    }
}

#[test]
fn tiny() {
    check([2, 5, 48, 2], 2, Activation::Silu);
    check([1, 65, 32, 2], 0, Activation::None);
}

#[test]
fn tiny_backward() {
    check_backward([2, 5, 48, 2], 2, Activation::Silu, DType::F16, true);
    check_backward([1, 65, 32, 2], 1, Activation::None, DType::F32, false);
}

/// Groups that are whole eights of channels and others, of one cell and of more cells than threads.
const SIZES: [[usize; 4]; 8] = [
    [1, 1, 8, 1],
    [2, 4, 24, 4],
    [3, 17, 40, 5],
    [2, 64, 96, 3],
    [1, 256, 64, 32],
    [2, 4, 2048, 32],
    [1, 9, 3584, 32],
    [1, 300, 128, 4],
];

#[test]
fn forward_as_the_oracle() {
    for (i, sizes) in SIZES.into_iter().enumerate() {
        for activation in ACTIVATIONS {
            check(sizes, i % 3, activation);
        }
    }
    check([1, 2, 4096, 2], 2, Activation::Silu);
}

#[test]
fn backward_as_the_oracle() {
    for (i, sizes) in SIZES.into_iter().enumerate() {
        for activation in ACTIVATIONS {
            let dtype = [DType::F16, DType::F32][i % 2];
            check_backward(sizes, (i + 1) % 3, activation, dtype, i % 4 < 2);
        }
    }
    check_backward([1, 2, 4096, 2], 2, Activation::Silu, DType::F16, false);
}

#[test]
fn refuses_channels_it_has_no_kernel_for() {
    let Some(gpu) = gpu() else { return };
    for (c, groups) in [(12, 2), (4096, 1), (520, 2)] {
        let inputs = inputs([1, 1, c, groups], 0, Activation::None);
        let (x, _, [weight, bias]) = upload_all(&inputs, gpu);
        let mut y = Guarded::new(x.shape(), DType::F16, gpu);
        let mut stats = Guarded::new(&[1, groups, 2], DType::F32, gpu);
        let norm = norm(&inputs.sizes, None, [&weight, &bias], Activation::None);
        assert_refused(
            ops::group_norm(&x, norm, y.view_mut(), stats.view_mut()),
            &format!(
                "group_norm: `x` should be (B, …, C) with C a multiple of 8, and C/groups at most 2048, \
                 or 256 where that is none, on a GPU, got C = {c} in {groups} groups"
            ),
        );
    }
}
