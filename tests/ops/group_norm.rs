#[cfg(feature = "cuda")]
mod on_gpu;

use crate::support::numbers::*;
use invad::Tensor;
use invad::ops::{self, Activation, GroupNorm, Shift};
use invad::tensor::TensorView;

/// So large that results depend on it.
const EPS: f32 = 1e-3;

/// Columns of the table before and after those of the shift.
const AROUND: [usize; 2] = [3, 2];

/// (B, cells, C, groups).
const SIZES: [[usize; 4]; 9] = [
    [1, 1, 1, 1],
    [2, 1, 8, 4],
    [2, 4, 24, 4],
    [3, 17, 40, 5],
    [2, 64, 96, 3],
    [1, 5, 34, 2],
    [1, 256, 64, 32],
    [2, 16, 512, 32],
    [1, 1024, 48, 1],
];

/// Which shifts there are: none, one row for all images, one for each.
const SHIFTS: [usize; 3] = [0, 1, 2];

struct Inputs {
    sizes: [usize; 4],
    x: Tensor,
    table: Option<Tensor>,
    weight: Tensor,
    bias: Tensor,
    activation: Activation,
}

impl Inputs {
    /// Every other channel has the mean `offset`, the others −`offset`.
    fn new(sizes: [usize; 4], shift: usize, activation: Activation, offset: f32) -> Self {
        let [b, n, c, _] = sizes;
        let mut x = uniform(1, b * n * c, 2.0);
        x.iter_mut()
            .enumerate()
            .for_each(|(i, x)| *x += if i % c % 2 == 0 { offset } else { -offset });
        let columns = AROUND[0] + c + AROUND[1];
        Self {
            sizes,
            x: from(&x, &[b, n, c]),
            table: (shift > 0).then(|| tensor(2, &[if shift == 1 { 1 } else { b }, columns], 1.0)),
            weight: tensor(3, &[c], 2.0),
            bias: tensor(4, &[c], 1.0),
            activation,
        }
    }

    fn norm(&self) -> GroupNorm<'_> {
        norm(&self.sizes, self.table.as_ref(), [&self.weight, &self.bias], self.activation)
    }

    fn forward(&self) -> [Tensor; 2] {
        let [b, _, _, groups] = self.sizes;
        let (mut y, mut stats) = (poisoned(self.x.shape()), poisoned(&[b, groups, 2]));
        ops::group_norm(&self.x, self.norm(), &mut y, &mut stats).unwrap();
        [y, stats]
    }

    /// x, shift, weight and bias in f64 of one image's group: (cells, channels) and channels each.
    fn group(&self, image: usize, group: usize) -> [Vec<f64>; 4] {
        let [_, n, c, groups] = self.sizes;
        let (size, x) = (c / groups, f64s(&self.x));
        let channels = group * size..(group + 1) * size;
        let of_cell = |cell| channels.clone().map(move |ch| (image * n + cell) * c + ch);
        let shift = match &self.table {
            None => vec![0.0; size],
            Some(table) => {
                let row = if table.shape()[0] == 1 { 0 } else { image };
                f64s(table)[row * table.shape()[1] + AROUND[0]..][channels.clone()].to_vec()
            }
        };
        [
            (0..n).flat_map(of_cell).map(|i| x[i]).collect(),
            shift,
            f64s(&self.weight)[channels.clone()].to_vec(),
            f64s(&self.bias)[channels.clone()].to_vec(),
        ]
    }

    /// Puts what is of groups, (cells, channels) each, where it is in (B, cells, C).
    fn spread(&self, mut of: impl FnMut(usize, usize) -> Vec<f64>) -> Vec<f64> {
        let [b, n, c, groups] = self.sizes;
        let (size, mut all) = (c / groups, vec![f64::NAN; b * n * c]);
        for (image, group) in (0..b).flat_map(|b| (0..groups).map(move |g| (b, g))) {
            for (i, v) in of(image, group).into_iter().enumerate() {
                all[(image * n + i / size) * c + group * size + i % size] = v;
            }
        }
        all
    }
}

fn norm<'a>(
    sizes: &[usize; 4],
    table: Option<&'a Tensor>,
    [weight, bias]: [&'a Tensor; 2],
    activation: Activation,
) -> GroupNorm<'a> {
    let shift = table.map(|table| Shift { table: table.view(), start: AROUND[0] });
    let (weight, bias) = (weight.view(), bias.view());
    GroupNorm { groups: sizes[3], eps: EPS, weight, bias, shift, activation }
}

fn silu(z: f64) -> f64 {
    z / (1.0 + (-z).exp())
}

/// y, mean and 1/σ of a group.
fn forward(
    [x, shift, weight, bias]: &[Vec<f64>; 4],
    activation: Activation,
) -> (Vec<f64>, f64, f64) {
    let size = shift.len();
    let v: Vec<f64> = x.iter().enumerate().map(|(i, x)| x + shift[i % size]).collect();
    let mean = v.iter().sum::<f64>() / v.len() as f64;
    let variance = v.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / v.len() as f64;
    let rstd = 1.0 / (variance + f64::from(EPS)).sqrt();
    let of = |(i, v): (usize, &f64)| {
        let z = (v - mean) * rstd * weight[i % size] + bias[i % size];
        if activation == Activation::Silu { silu(z) } else { z }
    };
    (v.iter().enumerate().map(of).collect(), mean, rstd)
}

/// The gradients of Σ dy·y with respect to x, shift, weight and bias of a group.
fn backward(group: &[Vec<f64>; 4], dy: &[f64], activation: Activation) -> [Vec<f64>; 4] {
    let [x, shift, weight, bias] = group;
    let (size, (_, mean, rstd)) = (shift.len(), forward(group, activation));
    let normalised: Vec<f64> =
        x.iter().enumerate().map(|(i, x)| (x + shift[i % size] - mean) * rstd).collect();
    let dz: Vec<f64> = (0..x.len())
        .map(|i| {
            let z = normalised[i] * weight[i % size] + bias[i % size];
            let s = 1.0 / (1.0 + (-z).exp());
            dy[i] * if activation == Activation::Silu { s + z * s * (1.0 - s) } else { 1.0 }
        })
        .collect();
    let g: Vec<f64> = (0..x.len()).map(|i| dz[i] * weight[i % size]).collect();
    let (mean_g, mean_gx) =
        (g.iter().sum::<f64>() / g.len() as f64, dot(&g, &normalised) / g.len() as f64);
    let dx: Vec<f64> =
        (0..x.len()).map(|i| rstd * (g[i] - mean_g - normalised[i] * mean_gx)).collect();
    let over_cells = |v: &dyn Fn(usize) -> f64| -> Vec<f64> {
        (0..size).map(|c| (c..x.len()).step_by(size).map(v).sum()).collect()
    };
    let dshift = over_cells(&|i| dx[i]);
    let dweight = over_cells(&|i| dz[i] * normalised[i]);
    [dx.clone(), dshift, dweight, over_cells(&|i| dz[i])]
}

const ACTIVATIONS: [Activation; 2] = [Activation::None, Activation::Silu];

#[test]
fn oracle_is_the_gradient() {
    for activation in ACTIVATIONS {
        let inputs = Inputs::new([2, 3, 8, 2], 2, activation, 0.5);
        let dy = f64s(&tensor(5, &[12], 1.0));
        for (image, group) in [(0, 0), (1, 1)] {
            let group = inputs.group(image, group);
            let want = numeric_gradient(&group.concat(), |v| {
                let (x, rest) = v.split_at(12);
                let [shift, weight, bias] = [0, 1, 2].map(|i| rest[4 * i..][..4].to_vec());
                dot(&dy, &forward(&[x.to_vec(), shift, weight, bias], activation).0)
            });
            let got = backward(&group, &dy, activation).concat();
            assert_close(&format!("{activation:?}"), &got, &want, 1e-8);
        }
    }
}

fn check_forward(case: &str, inputs: &Inputs, tolerance: f64) {
    let [b, _, _, groups] = inputs.sizes;
    let [y, stats] = inputs.forward();
    let want = inputs.spread(|b, g| forward(&inputs.group(b, g), inputs.activation).0);
    assert_close(&format!("{case}: y"), &f64s(&y), &want, tolerance);
    let stats = f64s(&stats);
    for (i, got) in stats.chunks(2).enumerate() {
        let group = inputs.group(i / groups, i % groups);
        let (_, mean, rstd) = forward(&group, inputs.activation);
        let largest = group[0].iter().fold(1.0f64, |m, x| m.max(x.abs()));
        assert!((got[0] - mean).abs() <= 3e-7 * largest, "{case}: mean {} of {mean}", got[0]);
        assert!((got[1] / rstd - 1.0).abs() <= tolerance, "{case}: 1/σ {} of {rstd}", got[1]);
    }
    assert_eq!(stats.len(), 2 * b * groups);
}

/// What the backward pass should write, and what tells how large its errors may be.
struct Gradients {
    dx: Vec<f64>,
    /// (B, C), and as many sums of absolute values.
    dshift: Vec<f64>,
    dshift_scale: f64,
    dweight: Vec<f64>,
    dbias: Vec<f64>,
}

fn gradients(inputs: &Inputs, dy: &[f64]) -> Gradients {
    let [b, n, c, groups] = inputs.sizes;
    let size = c / groups;
    let mut all = Gradients {
        dx: vec![],
        dshift: vec![0.0; b * c],
        dshift_scale: 0.0,
        dweight: vec![0.0; c],
        dbias: vec![0.0; c],
    };
    all.dx = inputs.spread(|image, group| {
        let channels = group * size..(group + 1) * size;
        let dy: Vec<f64> = (0..n)
            .flat_map(|cell| channels.clone().map(move |ch| (image * n + cell) * c + ch))
            .map(|i| dy[i])
            .collect();
        let [dx, dshift, dweight, dbias] =
            backward(&inputs.group(image, group), &dy, inputs.activation);
        all.dshift[image * c..][channels.clone()].copy_from_slice(&dshift);
        for (i, channel) in channels.enumerate() {
            all.dweight[channel] += dweight[i];
            all.dbias[channel] += dbias[i];
            let sizes = dx.iter().skip(i).step_by(size).map(|d| d.abs());
            all.dshift_scale = all.dshift_scale.max(sizes.sum());
        }
        dx
    });
    all
}

impl Gradients {
    /// Against the columns of a table around which nothing may have been written.
    fn check_table(&self, case: &str, dtable: &[f64], [b, c]: [usize; 2], tolerance: f64) {
        for (image, row) in dtable.chunks(dtable.len() / b).enumerate() {
            let (before, rest) = row.split_at(AROUND[0]);
            let (got, after) = rest.split_at(c);
            assert!(before.iter().chain(after).all(|v| v.is_nan()), "{case}: around dshift");
            for (got, want) in got.iter().zip(&self.dshift[image * c..]) {
                let error = (got - want).abs();
                assert!(
                    error <= tolerance * self.dshift_scale + 1e-12,
                    "{case}: dshift {got} of {want}"
                );
            }
        }
    }
}

fn check_backward(case: &str, inputs: &Inputs, tolerance: f64) {
    let [b, _, c, _] = inputs.sizes;
    let [_, stats] = inputs.forward();
    let (dy, start) = (tensor(5, inputs.x.shape(), 1.0), tensor(6, inputs.x.shape(), 1.0));
    let (start_weight, start_bias) = (tensor(7, &[c], 1.0), tensor(8, &[c], 1.0));
    let mut want = gradients(inputs, &f64s(&dy));
    let add = |to: &mut Vec<f64>, t: &Tensor| to.iter_mut().zip(f64s(t)).for_each(|(w, s)| *w += s);
    add(&mut want.dweight, &start_weight);
    add(&mut want.dbias, &start_bias);
    for accumulate in [false, true] {
        let case = format!("{case} accumulate {accumulate}");
        let mut dx = if accumulate { start.clone() } else { poisoned(inputs.x.shape()) };
        let (mut dweight, mut dbias) = (start_weight.clone(), start_bias.clone());
        let mut dtable = poisoned(&[b, AROUND[0] + c + AROUND[1]]);
        let to_table = inputs.table.is_some().then(|| dtable.view_mut());
        ops::group_norm_backward(
            &inputs.x,
            inputs.norm(),
            &stats,
            &dy,
            &mut dx,
            accumulate,
            &mut dweight,
            &mut dbias,
            to_table,
        )
        .unwrap();
        if accumulate {
            add(&mut want.dx, &start);
        }
        assert_close(&format!("{case}: dx"), &f64s(&dx), &want.dx, tolerance);
        assert_close(&format!("{case}: dweight"), &f64s(&dweight), &want.dweight, tolerance);
        assert_close(&format!("{case}: dbias"), &f64s(&dbias), &want.dbias, tolerance);
        if inputs.table.is_some() {
            want.check_table(&case, &f64s(&dtable), [b, c], tolerance);
        }
    }
}

#[test]
fn forward_and_backward() {
    for sizes in SIZES {
        for shift in SHIFTS {
            for activation in ACTIVATIONS {
                let case = format!("{sizes:?} shift {shift} {activation:?}");
                let inputs = Inputs::new(sizes, shift, activation, 0.5);
                check_forward(&case, &inputs, 2e-6);
                // Of few numbers most of a gradient cancels.
                let few = sizes[1] * sizes[2] / sizes[3] < 16;
                check_backward(&case, &inputs, if few { 3e-5 } else { 4e-6 });
            }
        }
    }
}

/// A mean is stored as f32, so what is normalised is off by at least half an ulp of mean/σ.
#[test]
fn means_far_above_sigma() {
    for (offset, tolerance) in [(100.0, 1e-5), (1e4, 1e-3)] {
        // A group has one of the two means.
        let mut inputs = Inputs::new([2, 65, 4, 4], 2, Activation::Silu, offset);
        check_forward(&format!("mean {offset}"), &inputs, tolerance);
        check_backward(&format!("mean {offset}"), &inputs, tolerance);
        inputs.activation = Activation::None;
        check_forward(&format!("mean {offset}"), &inputs, tolerance);
    }
}

#[test]
fn constant_groups_give_the_bias() {
    let mut inputs = Inputs::new([1, 6, 16, 2], 0, Activation::None, 0.0);
    inputs.x = from(&[7.25; 96], &[1, 6, 16]);
    assert_eq!(inputs.forward()[0].to_vec_f32(), inputs.bias.to_vec_f32().repeat(6));
}

/// An image's bits are the same in any batch, and axes between are cells.
#[test]
fn images_are_on_their_own() {
    let inputs = Inputs::new([3, 12, 40, 5], 2, Activation::Silu, 0.5);
    let [all, _] = inputs.forward();
    let table = inputs.table.as_ref().unwrap();
    for image in 0..3 {
        let x = inputs.x.view().part(image * 480, &[1, 3, 4, 40]).unwrap();
        let row = table.view().part(image * table.shape()[1], &[1, table.shape()[1]]).unwrap();
        let shift = Some(Shift { table: row, start: AROUND[0] });
        let (mut y, mut stats) = (poisoned(&[1, 3, 4, 40]), poisoned(&[1, 5, 2]));
        ops::group_norm(x, GroupNorm { shift, ..inputs.norm() }, &mut y, &mut stats).unwrap();
        assert_eq!(bits(&y), bits(&all)[image * 480..][..480]);
    }
}

#[test]
fn threads_do_not_matter() {
    let inputs = Inputs::new([3, 65, 130, 10], 2, Activation::Silu, 0.5);
    let dy = tensor(5, inputs.x.shape(), 1.0);
    assert_threads_do_not_matter(|| {
        let [y, stats] = inputs.forward();
        let (mut dx, mut dtable) = (dy.clone(), poisoned(&[3, AROUND[0] + 130 + AROUND[1]]));
        let (mut dweight, mut dbias) = (inputs.weight.clone(), inputs.bias.clone());
        let to = Some(dtable.view_mut());
        let parameters = (&mut dweight, &mut dbias);
        ops::group_norm_backward(
            &inputs.x,
            inputs.norm(),
            &stats,
            &dy,
            &mut dx,
            true,
            parameters.0,
            parameters.1,
            to,
        )
        .unwrap();
        [y, stats, dx, dweight, dbias, dtable]
    });
}

#[test]
fn refuses_other_arguments() {
    let inputs = Inputs::new([2, 3, 12, 4], 2, Activation::Silu, 0.0);
    let run = |norm: GroupNorm, stats: &[usize]| {
        ops::group_norm(&inputs.x, norm, &mut poisoned(&[2, 3, 12]), &mut poisoned(stats))
    };
    let norm = inputs.norm();
    assert_refused(
        run(norm, &[2, 3, 2]),
        "group_norm: `stats` should have shape [2, 4, 2], got [2, 3, 2]",
    );
    for groups in [0, 5, 24] {
        assert_refused(
            run(GroupNorm { groups, ..norm }, &[2, 4, 2]),
            &format!("group_norm: `groups` should be a divisor of the 12 channels, got {groups}"),
        );
    }
    assert_refused(
        run(GroupNorm { activation: Activation::Relu6, ..norm }, &[2, 4, 2]),
        "group_norm: `activation` should be no activation or SiLU, got Relu6",
    );
    let short: TensorView = inputs.weight.view().part(0, &[11]).unwrap();
    assert_refused(
        run(GroupNorm { bias: short, ..norm }, &[2, 4, 2]),
        "group_norm: `bias` should have shape [12], got [11]",
    );
    for start in [6, usize::MAX] {
        let shift = norm.shift.map(|shift| Shift { start, ..shift });
        let least = start.saturating_add(12);
        assert_refused(
            run(GroupNorm { shift, ..norm }, &[2, 4, 2]),
            &format!(
                "group_norm: `shift` should have shape (1 or 2, at least {least}), got [2, 17]"
            ),
        );
    }
    let back = |norm: GroupNorm, dtable: Option<&mut Tensor>| {
        let dtable = dtable.map(|t| t.view_mut());
        let (mut dx, stats) = (poisoned(&[2, 3, 12]), poisoned(&[2, 4, 2]));
        let [mut dweight, mut dbias] = [poisoned(&[12]), poisoned(&[12])];
        let (x, dw, db) = (&inputs.x, &mut dweight, &mut dbias);
        ops::group_norm_backward(x, norm, &stats, x, &mut dx, false, dw, db, dtable)
    };
    assert_refused(
        back(norm, None),
        "group_norm_backward: `dtable` should be given exactly where there is a shift, got none",
    );
    assert_refused(
        back(GroupNorm { shift: None, ..norm }, Some(&mut poisoned(&[2, 17]))),
        "group_norm_backward: `dtable` should be given exactly where there is a shift, got some",
    );
    assert_refused(
        back(norm, Some(&mut poisoned(&[1, 17]))),
        "group_norm_backward: `dtable` should have shape (2, at least 15), got [1, 17]",
    );
}
