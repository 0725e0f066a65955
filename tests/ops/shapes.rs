//! Random shapes: an operation takes what fits together, refuses the rest with an error that names
//! it, and never panics.

use std::cell::Cell;

use invad::ops::*;
use invad::tensor::{DType, TensorView, TensorViewMut};
use invad::{Device, Error, Result, Tensor};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

const EPS: f32 = 1e-6;

/// What an operation does with an argument.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    Read,
    Write,
    /// Is read and written.
    Update,
}
use Role::{Read, Update, Write};

type Call = Box<dyn Fn(&mut [Tensor]) -> Result<()>>;

/// Names, roles and shapes of the arguments, and the call.
struct Case {
    op: &'static str,
    args: Vec<(&'static str, Role, Vec<usize>)>,
    call: Call,
}

/// Cases of all operations for sizes between 0 and a few; `k` is the number of the operation.
fn case(k: usize, s: [usize; 6]) -> Option<Case> {
    let [b, n, c, h, d, p] = s;
    macro_rules! case {
        ($op:ident, [$($arg:ident $role:ident $shape:expr),*], $call:expr) => {
            Some(Case {
                op: stringify!($op),
                args: vec![$((stringify!($arg), $role, $shape.to_vec())),*],
                call: Box::new(move |tensors| {
                    let [$($arg),*] = tensors else { unreachable!("as many as there are names") };
                    $call
                }),
            })
        };
    }
    let convolution = Convolution {
        stride: 1 + d % 2,
        padding: Padding::all(p % 3),
        activation: Activation::None,
    };
    let kernel = [3, 5][h % 2];
    let out = |size: usize, kernel: usize| {
        (size + 2 * (p % 3)).checked_sub(kernel).map_or(0, |rest| rest / (1 + d % 2) + 1)
    };
    let deep = [out(n, kernel), out(c, kernel)];
    let wide = [out(n, h), out(c, h)];
    let resample = [Resample::Same, Resample::Halve, Resample::Double][p % 3];
    let places = resample.output([n, c]).iter().product();
    match k {
        0 => case!(add_noise, [x Read [b, n, c], noise Read [b, n, c], signal_scale Read [b],
            noise_scale Read [b], out Write [b, n, c]],
            add_noise(&*x, &*noise, &*signal_scale, &*noise_scale, out)),
        1 => case!(add_position, [tokens Read [b, n, d], position Read [n, d], x Write [b, n, d]],
            add_position(&*tokens, &*position, x)),
        2 => case!(add_position_backward, [dx Read [b, n, d], dposition Update [n, d]],
            add_position_backward(&*dx, dposition)),
        3 => case!(attention, [qkv Read [b, n, 3, h, d], out Write [b, n, h * d],
            lse Write [b, h, n]], attention(&*qkv, out, Some(lse.view_mut()))),
        4 => case!(attention_backward, [qkv Read [b, n, 3, h, d], out Read [b, n, h * d],
            lse Read [b, h, n], dout Read [b, n, h * d], dqkv Write [b, n, 3, h, d]],
            attention_backward(&*qkv, &*out, &*lse, &*dout, dqkv)),
        5 => case!(conv2d, [x Read [b, n, c, d], weight Read [h, h, d, p], bias Read [p],
            y Write [b, wide[0], wide[1], p]],
            conv2d(&*x, &*weight, &*bias, convolution, y)),
        6 => case!(linear_residual, [x Read [b, n, c], weight Read [d, c], bias Read [d],
            residual Read [b, n, d], y Write [b, n, d]],
            linear_residual(&*x, &*weight, Some(bias.view()), &*residual, y)),
        7 => case!(depthwise_conv2d, [x Read [b, n, c, d], weight Read [kernel, kernel, d],
            bias Read [d], y Write [b, deep[0], deep[1], d]],
            depthwise_conv2d(&*x, &*weight, &*bias, convolution, y)),
        8 => case!(ema, [parameters Read [n, c], average Update [n, c]],
            ema(0.5, &*parameters, average)),
        9 => case!(inversion_step, [x Update [b, n, c], output Read [b, n, c]],
            inversion_step(x, &*output, 0.5, 0.25)),
        10 => case!(linear, [x Read [b, n, c], weight Read [d, c], bias Read [d],
            before_activation Write [b, n, d], y Write [b, n, d]],
            linear(&*x, &*weight, Some(bias.view()), Activation::Gelu,
                Some(before_activation.view_mut()), y)),
        11 => case!(linear, [x Read [b, n, c], weight Read [d, c], y Write [b, n, d]],
            linear(&*x, &PackedWeight::new(&*weight)?, None, Activation::None, None, y)),
        12 => case!(linear_backward_input, [dy Read [b, n, d], weight Read [d, c],
            gelu_input Read [b, n, c], dx Write [b, n, c]],
            linear_backward_input(&*dy, &*weight, Some(gelu_input.view()), dx)),
        13 => case!(linear_backward_weight, [dy Read [b, n, d], x Read [b, n, c],
            dweight Update [d, c], dbias Update [d]],
            linear_backward_weight(&*dy, &*x, dweight, Some(dbias.view_mut()))),
        14 => case!(denoising_loss, [prediction Read [b, n, c], x0 Read [b, n, c],
        noise Read [b, n, c], signal_scale Read [b], noise_scale Read [b], weight Read [b],
        slope Read [b], loss Write [b], dprediction Write [b, n, c]],
        {
            let target = Target {
                x0: x0.view(),
                noise: noise.view(),
                signal_scale: signal_scale.view(),
                noise_scale: noise_scale.view(),
            };
            let gradient = Some(dprediction.view_mut());
            denoising_loss(&*prediction, target, &*weight, &*slope, loss, gradient)
        }),
        15 => case!(global_norm, [gradient Read [b, n, c], numbers Read [AdamW::NUMBERS],
            norm Write [2]], global_norm(&*gradient, 1.0, &*numbers, norm)),
        16 => {
            case!(patchify, [grid Read [b, n * p, n * p, c], patches Write [b, n * n, c * p * p]],
            patchify(&*grid, patches, p, PatchOrder::ChannelsFirst))
        }
        17 => case!(unpatchify, [patches Read [b, n * n, c * p * p],
            grid Write [b, n * p, n * p, c]],
            unpatchify(&*patches, grid, p, PatchOrder::ChannelsLast)),
        18 => case!(resize_bilinear, [x Read [b, n, c, d], y Write [b, h, p, d]],
            resize_bilinear(&*x, y)),
        19 => case!(score, [latent Read [b, n, c], map Write [b, n], stats Write [b, SCORE_STATS]],
            score(&*latent, map, stats)),
        20 => case!(silu, [x Read [b, n], y Write [b, n]], silu(&*x, y)),
        21 => case!(silu_backward, [x Read [b, n], dy Read [b, n], dx Write [b, n]],
            silu_backward(&*x, &*dy, dx)),
        22 => case!(timestep_embedding, [t Read [b], out Write [b, 2 * n]],
            timestep_embedding(&*t, out)),
        23 => case!(adamw, [gradient Read [n, c], numbers Read [AdamW::NUMBERS], norm Read [2],
        parameters Update [n, c], m Update [n, c], v Update [n, c], average Update [n, c]],
        {
            let moved = Moved {
                parameters: parameters.view_mut(),
                m: m.view_mut(),
                v: v.view_mut(),
                average: Some(average.view_mut()),
                rounded: None,
            };
            adamw(&*gradient, &*numbers, &*norm, 0, moved)
        }),
        24 => case!(adaln_zero, [x Read [b, n, d], y Read [b, n, d], table Read [b, 3 * d],
        x_out Write [b, n, d], out Write [b, n, d], stats Write [b, n, 2]],
        {
            let chunk = |index| Chunk { table: table.view(), index };
            let residual = Residual { y: y.view(), gate: chunk(2) };
            let (x_out, stats) = (x_out.view_mut(), stats.view_mut());
            adaln_zero(&*x, Some(residual), chunk(0), chunk(1), EPS, Some(x_out), out, Some(stats))
        }),
        25 => case!(adaln_zero_backward, [x Read [b, n, d], stats Read [b, n, 2],
        table Read [b, 3 * d], dout Read [b, n, d], dx Update [b, n, d], y Read [b, n, d],
        dy Write [b, n, d], dtable Update [b, 3 * d]],
        {
            let chunk = |index| Chunk { table: table.view(), index };
            let forward = Residual { y: y.view(), gate: chunk(2) };
            let residual = Some(ResidualBackward { forward, dy: dy.view_mut() });
            let shift = 0;
            adaln_zero_backward(&*x, &*stats, shift, chunk(1), &*dout, dx, residual, dtable)
        }),
        26 => case!(channel_mean, [x Read [b, n, c, d], mean Write [b, d]],
            channel_mean(&*x, mean)),
        27 => case!(channel_gate, [x Update [b, n, c, d], gate Read [b, d]],
            channel_gate(x, &*gate)),
        28 => case!(gelu, [x Read [b, n], y Write [b, n]], gelu(&*x, y)),
        29 => case!(mahalanobis, [x Read [b, n, c], mean Read [n, c], vectors Read [n, h, c],
            map Write [b, n]], mahalanobis(&*x, &*mean, &*vectors, map)),
        30 => case!(gather_tokens, [x Read [b, n + 1, d], features Update [b, n, d]],
            gather_tokens(&*x, 0, features)),
        31 => case!(fold_affine, [table Read [b, (3 * h).saturating_sub(1) * d],
            affine Read [h, 2, d], folded Write [b, (3 * h).saturating_sub(1) * d]],
            fold_affine(&*table, &*affine, folded)),
        32 => case!(fold_affine_backward, [table Read [b, (3 * h).saturating_sub(1) * d],
            affine Read [h, 2, d], dtable Update [b, (3 * h).saturating_sub(1) * d],
            daffine Update [h, 2, d]],
            fold_affine_backward(&*table, &*affine, dtable, daffine)),
        33 => case!(gather_patches, [x Read [b, n, c, d], patches Write [b, places, 9 * d]],
            gather_patches(&*x, resample, patches)),
        34 => case!(gather_patches_backward, [dpatches Read [b, places, 9 * d],
            dx Write [b, n, c, d]], gather_patches_backward(&*dpatches, resample, dx, false)),
        35 => case!(group_norm, [x Read [b, n, h * d], weight Read [h * d], bias Read [h * d],
        table Read [b, h * d], y Write [b, n, h * d], stats Write [b, h, 2]],
        {
            let norm = group_norm_of(h, [&*weight, &*bias], table);
            group_norm(&*x, norm, y, stats)
        }),
        36 => case!(group_norm_backward, [x Read [b, n, h * d], weight Read [h * d],
        bias Read [h * d], table Read [b, h * d], stats Read [b, h, 2], dy Read [b, n, h * d],
        dx Write [b, n, h * d], dweight Update [h * d], dbias Update [h * d],
        dtable Update [b, h * d]],
        {
            let norm = group_norm_of(h, [&*weight, &*bias], table);
            let to = Some(dtable.view_mut());
            group_norm_backward(&*x, norm, &*stats, &*dy, dx, false, dweight, dbias, to)
        }),
        37 => case!(concat, [a Read [b, n, c], b Read [b, n, d], y Write [b, n, c + d]],
            concat(&*a, &*b, y)),
        38 => case!(concat_backward, [dy Read [b, n, c + d], da Write [b, n, c],
            db Write [b, n, d]], concat_backward(&*dy, da, db)),
        39 => case!(add, [x Read [b, n], y Update [b, n]], add(y, &*x)),
        _ => None,
    }
}

/// A group norm with all there is to it.
fn group_norm_of<'a>(
    groups: usize,
    [weight, bias]: [&'a Tensor; 2],
    table: &'a Tensor,
) -> GroupNorm<'a> {
    GroupNorm {
        groups,
        eps: EPS,
        weight: weight.view(),
        bias: bias.view(),
        shift: Some(Shift { table: table.view(), start: 0 }),
        activation: Activation::Silu,
    }
}

const OPERATIONS: usize = 40;

/// How the shape of an argument is spoilt.
#[derive(Clone, Debug)]
enum Change {
    None,
    Length(Index, usize),
    Less,
    More(usize),
    Any(Vec<usize>),
}

fn change() -> impl Strategy<Value = (Index, Change)> {
    let kind = prop_oneof![
        Just(Change::None),
        (any::<Index>(), 0usize..7).prop_map(|(axis, length)| Change::Length(axis, length)),
        Just(Change::Less),
        (0usize..4).prop_map(Change::More),
        prop::collection::vec(0usize..6, 0..=6).prop_map(Change::Any),
    ];
    (any::<Index>(), kind)
}

impl Change {
    fn of(&self, shape: &[usize]) -> Vec<usize> {
        let mut shape = shape.to_vec();
        match self {
            Change::None => {}
            Change::Length(axis, length) => {
                let axis = axis.index(shape.len());
                shape[axis] = *length;
            }
            Change::Less => drop(shape.pop()),
            Change::More(length) => shape.push(*length),
            Change::Any(any) => shape.clone_from(any),
        }
        shape
    }
}

/// Where a call panics, the runner shows the smallest case of it.
#[test]
fn operations() {
    let cases = std::env::var("INVAD_SHAPES").map_or(20_000, |n| n.parse().unwrap());
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let sizes = prop_oneof![4 => 1usize..5, 1 => 0usize..7];
    let strategy = (0..OPERATIONS, prop::array::uniform6(sizes), change());
    let (accepted, refused) = (Cell::new(0), Cell::new(0));
    let run = TestRunner::new(config).run(&strategy, |(k, sizes, (at, change))| {
        let Case { op, args, call } = case(k, sizes).expect("an operation");
        let changed = at.index(args.len());
        let mut same = true;
        let mut tensors = Vec::new();
        for (i, (_, role, shape)) in args.iter().enumerate() {
            let mut shape = shape.clone();
            if i == changed {
                let other = change.of(&shape);
                same = other == shape;
                shape = other;
            }
            let value = if *role == Write { f32::NAN } else { 0.5 };
            let numbers = vec![value; shape.iter().product()];
            tensors.push(Tensor::from_f32(numbers, &shape, Device::Cpu)?);
        }
        // The mean of no numbers is none.
        let empty = tensors.iter().any(Tensor::is_empty);
        let before: Vec<_> = tensors.iter().map(Tensor::to_vec_f32).collect();
        match call(&mut tensors) {
            Ok(()) => {
                accepted.set(accepted.get() + 1);
                for ((name, _, _), tensor) in args.iter().zip(&tensors) {
                    let finite = tensor.to_vec_f32().iter().all(|v| v.is_finite());
                    prop_assert!(finite || empty, "{op}: `{name}` is not finite");
                }
                // As many numbers may come in other axes, and some lengths are free.
                let (name, _, shape) = &args[changed];
                let as_many = tensors[changed].len() == shape.iter().product::<usize>();
                let free = match op {
                    "add_position" => *name == "tokens",
                    "add_position_backward" => *name == "dx",
                    "adaln_zero" | "adaln_zero_backward" => name.ends_with("table"),
                    "conv2d" | "depthwise_conv2d" => ["x", "weight"].contains(name),
                    "resize_bilinear" => true,
                    "channel_gate" | "channel_mean" => *name == "x",
                    "global_norm" => *name == "gradient",
                    "gather_tokens" => true,
                    "mahalanobis" => *name == "vectors",
                    "score" => *name == "latent",
                    "group_norm" | "group_norm_backward" => name.ends_with("table"),
                    "concat" | "concat_backward" => true,
                    // Other numbers of norms and channels may have as many columns.
                    "fold_affine" => *name == "affine",
                    // Any even number of features.
                    "timestep_embedding" => *name == "out",
                    // A second row or none gives a patch.
                    "gather_patches" => *name == "x",
                    "gather_patches_backward" => *name == "dx",
                    _ => false,
                };
                prop_assert!(same || as_many || free, "{op}: `{name}` is accepted");
            }
            Err(Error::Shape { op: named, arg, .. } | Error::Argument { op: named, arg, .. }) => {
                refused.set(refused.get() + 1);
                prop_assert!(named == op || named == "PackedWeight::new", "{op}: {named}");
                let known = args.iter().any(|(name, ..)| *name == arg);
                let other = [
                    "shift",
                    "scale",
                    "gate",
                    "patch",
                    "convolution",
                    "stride",
                    "first_channel",
                    "groups",
                ];
                prop_assert!(known || other.contains(&arg), "{}: what is `{}`?", op, arg);
                prop_assert!(!same || empty, "{op}: what fits is refused");
                // Nothing was written.
                for (tensor, before) in tensors.iter().zip(&before) {
                    let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                    prop_assert_eq!(bits(&tensor.to_vec_f32()), bits(before));
                }
            }
            Err(other) => prop_assert!(false, "{op}: {other}"),
        }
        Ok(())
    });
    run.unwrap_or_else(|e| panic!("{e}"));
    let (accepted, refused) = (accepted.get(), refused.get());
    assert!(accepted > cases / 10 && refused > cases / 4, "{accepted} and {refused}");
    println!(
        "| random shapes, {OPERATIONS} operations | {cases} calls | {accepted} accepted, {refused} \
         refused | 0 | 0 |"
    );
}

/// Sizes that all operations take, on a GPU as well.
const FITTING: [usize; 6] = [2, 8, 8, 8, 8, 2];

/// Arguments of a case, of which those that `bytes` says hold bytes.
fn arguments(case: &Case, device: Device, bytes: impl Fn(usize) -> bool) -> Vec<Tensor> {
    let args = case.args.iter().enumerate();
    args.map(|(i, (_, _, shape))| {
        let dtype = if bytes(i) { DType::U8 } else { DType::F32 };
        Tensor::zeros(shape, dtype, device).unwrap()
    })
    .collect()
}

#[test]
fn bytes_are_refused() {
    for k in 0..OPERATIONS {
        let case = case(k, FITTING).expect("an operation");
        (case.call)(&mut arguments(&case, Device::Cpu, |_| false)).unwrap();
        for (i, (name, ..)) in case.args.iter().enumerate() {
            match (case.call)(&mut arguments(&case, Device::Cpu, |j| j == i)) {
                Err(Error::DType { expected: DType::F32, got: DType::U8, .. }) => {}
                other => panic!("{}: bytes as `{name}`: {other:?}", case.op),
            }
        }
    }
}

#[cfg(feature = "cuda")]
#[test]
fn bytes_are_refused_on_a_gpu() {
    let Some(gpu) = crate::gpu::gpu() else { return };
    for k in 0..OPERATIONS {
        let case = case(k, FITTING).expect("an operation");
        let refused = (case.call)(&mut arguments(&case, gpu, |_| true));
        assert!(refused.is_err(), "{}", case.op);
    }
}

/// Axes of any number and length, also such that their product does not fit in 64 bits.
fn any_shape() -> impl Strategy<Value = Vec<usize>> {
    let length =
        prop_oneof![4 => 0usize..5, 1 => any::<usize>(), 1 => (0u32..64).prop_map(|n| 1 << n)];
    prop::collection::vec(length, 0..9)
}

fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &length| n.checked_mul(length))
}

#[test]
fn memory_that_a_host_has_not() {
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::U8] {
        let refused = Tensor::zeros(&[1 << 55], dtype, Device::Cpu).unwrap_err();
        let asked = dtype.size() << 55;
        assert!(matches!(refused, Error::HostMemory { asked: got } if got == asked), "{refused}");
    }
}

proptest! {
    #![proptest_config(Config { cases: 4000, failure_persistence: None, ..Config::default() })]

    #[test]
    fn tensors(shape in any_shape(), n in 0usize..40, start in any::<usize>(), near in 0usize..50) {
        let fits = elements(&shape) == Some(n) && shape.len() <= 6;
        let numbers = vec![0.5; n];
        let ours = |result: Result<Vec<usize>>, fits| {
            match result {
                Ok(got) => prop_assert!(fits && got == shape, "{got:?}"),
                Err(Error::Shape { .. }) => {
                    // An axis of 0 beside others that are too long is refused as well.
                    prop_assert!(!fits || shape.contains(&0), "{shape:?} is refused");
                }
                Err(other) => prop_assert!(false, "{other}"),
            }
            Ok(())
        };
        let tensor = Tensor::from_f32(numbers.clone(), &shape, Device::Cpu);
        ours(tensor.map(|t| t.shape().to_vec()), fits)?;
        ours(TensorView::from_slice(&numbers, &shape).map(|t| t.shape().to_vec()), fits)?;
        let mut copy = numbers.clone();
        ours(TensorViewMut::from_slice(&mut copy, &shape).map(|t| t.shape().to_vec()), fits)?;
        let mut flat = Tensor::from_f32(numbers, &[n], Device::Cpu).unwrap();
        ours(flat.clone().reshape(&shape).map(|t| t.shape().to_vec()), fits)?;
        for start in [start, near] {
            let within = elements(&shape)
                .and_then(|count| count.checked_add(start))
                .is_some_and(|end| end <= n && shape.len() <= 6);
            ours(flat.view().part(start, &shape).map(|t| t.shape().to_vec()), within)?;
            ours(flat.view_mut().part(start, &shape).map(|t| t.shape().to_vec()), within)?;
        }
        // What is claimed is only set aside where it can be.
        if elements(&shape).is_none_or(|n| n > isize::MAX as usize / 8) || shape.len() > 6 {
            ours(Tensor::zeros(&shape, DType::F32, Device::Cpu).map(|t| t.shape().to_vec()), false)?;
        }
    }

    #[test]
    fn images(bytes in 0usize..200, from in [0usize..9, 0usize..9], to in [0usize..9, 0usize..9]) {
        let rgb = vec![7u8; bytes];
        let mut luma = vec![0; to[0] * to[1]];
        let fits = bytes == 3 * luma.len();
        prop_assert_eq!(rgb_to_luma(&rgb, &mut luma).is_ok(), fits);
        let mut resized = vec![0; 3 * to[0] * to[1]];
        let whole = vec![7u8; 3 * from[0] * from[1]];
        let sides = from[0] * from[1] * to[0] * to[1] > 0;
        prop_assert_eq!(resize_antialias(&whole, from, &mut resized, to).is_ok(), sides);
        let fits = sides && bytes == whole.len();
        prop_assert_eq!(resize_antialias(&rgb, from, &mut resized, to).is_ok(), fits);
        if fits || (sides && !whole.is_empty()) {
            prop_assert!(resized.iter().all(|&v| v == 7));
        }
        let mut y = Tensor::zeros(&[from[0], from[1], to[0]], DType::F32, Device::Cpu).unwrap();
        let pixels = bytes / 3;
        let rgb = TensorView::from_bytes(&rgb[..3 * pixels], &[pixels, 3]).unwrap();
        let fits = to[0] == 3 && rgb.len() == y.len();
        prop_assert_eq!(normalise(rgb, [0.5; 3], [0.5; 3], &mut y).is_ok(), fits);
    }
}
