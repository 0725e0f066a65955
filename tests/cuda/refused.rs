//! What a GPU cannot do ends in a typed error before anything is launched: outputs stay as they were.

use invad::checkpoint::TrainingConfig;
use invad::denoisers::{Denoiser, Dit, DitConfig, Mlp, MlpConfig, Unet, UnetConfig, Use};
use invad::diffusion::{Inverter, Parameterisation};
use invad::ops::{self, Activation, Chunk, Residual};
use invad::{DType, Detector, Device, Error, Precision, Tensor, Trainer};

use crate::alone::passes_alone;
use crate::support::emulator::{gpu, is_emulated};
use crate::support::networks::{Kind, checkpoint, pictures, recipes, training};

/// Room for the weights of [`detector`] and for scoring an image, but not for scoring eight.
const LITTLE_MEMORY: &str = "41943040";

fn tensor(dtype: DType, shape: &[usize], gpu: Device) -> Tensor {
    Tensor::zeros(shape, dtype, gpu).unwrap()
}

fn poisoned(dtype: DType, shape: &[usize], gpu: Device) -> Tensor {
    let mut tensor = tensor(dtype, shape, gpu);
    tensor.view_mut().fill(f32::NAN).unwrap();
    tensor
}

#[track_caller]
fn assert_untouched(outputs: &[&Tensor]) {
    for output in outputs {
        assert!(output.to_vec_f32().iter().all(|x| x.is_nan()), "an output has been written");
    }
}

#[test]
fn head_sizes() {
    let Some(gpu) = gpu() else { return };
    for size in [1, 4, 12, 36, 100, 257, 264, 512] {
        let qkv = tensor(DType::F16, &[2, 3, 3, 2, size], gpu);
        let mut out = poisoned(DType::F16, &[2, 3, 2 * size], gpu);
        let mut lse = poisoned(DType::F32, &[2, 2, 3], gpu);
        let refused = ops::attention(&qkv, &mut out, Some(lse.view_mut())).unwrap_err();
        let Error::Shape { op: "attention", arg: "qkv", expected, got } = &refused else {
            panic!("{refused}");
        };
        assert!(expected.contains("d a multiple of 8 up to 256"), "{refused}");
        assert_eq!(*got, [2, 3, 3, 2, size]);
        assert_untouched(&[&out, &lse]);
    }
}

#[test]
fn widths() {
    let Some(gpu) = gpu() else { return };
    for width in [4, 60, 8200] {
        let x = tensor(DType::F32, &[1, 2, width], gpu);
        let y = tensor(DType::F16, &[1, 2, width], gpu);
        let table = tensor(DType::F32, &[1, 3 * width], gpu);
        let chunk = |index| Chunk { table: table.view(), index };
        let residual = Some(Residual { y: y.view(), gate: chunk(2) });
        let mut x_out = poisoned(DType::F32, &[1, 2, width], gpu);
        let mut out = poisoned(DType::F16, &[1, 2, width], gpu);
        let refused = ops::adaln_zero(
            x.view(),
            residual,
            chunk(0),
            chunk(1),
            1e-6,
            Some(x_out.view_mut()),
            &mut out,
            None,
        );
        let refused = refused.unwrap_err();
        assert!(matches!(refused, Error::Shape { op: "adaln_zero", arg: "x", .. }), "{refused}");
        assert_untouched(&[&out, &x_out]);
    }
}

#[test]
fn element_types() {
    let Some(gpu) = gpu() else { return };
    let f16 = |shape: &[usize]| tensor(DType::F16, shape, gpu);
    let f32 = |shape: &[usize]| tensor(DType::F32, shape, gpu);
    let assert_dtype = |refused: invad::Result<()>, wanted: &str, outputs: &[&Tensor]| {
        let refused = refused.unwrap_err();
        let Error::DType { op, arg, .. } = &refused else { panic!("{wanted}: {refused}") };
        assert_eq!(format!("{op} {arg}"), wanted);
        assert_untouched(outputs);
    };
    {
        let mut out = poisoned(DType::F16, &[1, 2, 8], gpu);
        let refused = ops::attention(&f32(&[1, 2, 3, 1, 8]), &mut out, None);
        assert_dtype(refused, "attention qkv", &[&out]);
        let mut out = poisoned(DType::F32, &[1, 2, 8], gpu);
        let refused = ops::attention(&f16(&[1, 2, 3, 1, 8]), &mut out, None);
        assert_dtype(refused, "attention out", &[&out]);
    }
    {
        let table = f16(&[1, 16]);
        let chunk = |index| Chunk { table: table.view(), index };
        let (x, mut out) = (f32(&[1, 2, 8]), poisoned(DType::F16, &[1, 2, 8], gpu));
        let refused = ops::adaln_zero(&x, None, chunk(0), chunk(1), 1e-6, None, &mut out, None);
        assert_dtype(refused, "adaln_zero shift", &[&out]);
    }
    {
        let (x, weight, mut y) = (f16(&[2, 8]), f32(&[8, 8]), poisoned(DType::F16, &[2, 8], gpu));
        let refused = ops::linear(&x, &weight, None, Activation::None, None, &mut y);
        assert_dtype(refused, "linear weight", &[&y]);
    }
    {
        let mut map = poisoned(DType::F32, &[1, 4], gpu);
        let mut stats = poisoned(DType::F32, &[1, ops::SCORE_STATS], gpu);
        let refused = ops::score(&f16(&[1, 4, 8]), &mut map, &mut stats);
        assert_dtype(refused, "score latent", &[&map, &stats]);
    }
    {
        let mut x = poisoned(DType::F32, &[8], gpu);
        let refused = ops::inversion_step(&mut x, &f32(&[8]), 1.0, 1.0);
        assert_dtype(refused, "inversion_step output", &[&x]);
    }
    {
        let mut y = poisoned(DType::F32, &[1, 4, 4, 8], gpu);
        let refused = ops::resize_bilinear(&f16(&[1, 2, 2, 8]), &mut y);
        assert_dtype(refused, "resize_bilinear x", &[&y]);
    }
}

fn detector() -> Detector {
    let [whitened, _] = recipes();
    let mut detector = Detector::new(checkpoint(whitened, 1)).unwrap();
    detector.calibrate("dots", &pictures(Kind::Dots, 0..2), &[]).unwrap();
    detector
}

#[test]
#[ignore = "run by the next test with little memory"]
fn with_little_memory() {
    let Some(gpu) = gpu() else { return };
    let detector = detector().to_device(gpu).unwrap();
    let images = pictures(Kind::Dots, 10..18);
    let refused = detector.score(&images).unwrap_err();
    println!("\nrefused: {refused}");
    let Error::OutOfMemory { device, asked, free, total } = refused else { panic!("{refused}") };
    assert_eq!((device, total.to_string().as_str()), (gpu, LITTLE_MEMORY));
    assert!(free < asked, "{free} free, {asked} asked for");
    // What had been made is given back, and fewer images can be scored.
    for _ in 0..2 {
        assert_eq!(detector.score(&images[..1]).unwrap().len(), 1);
    }
    assert!(matches!(detector.score(&images), Err(Error::OutOfMemory { .. })));
}

/// What an ignored test prints on an emulated device with so many bytes.
fn passes_with_memory(test: &str, bytes: &str) -> String {
    passes_alone(test, &[("INVAD_EMULATOR_MEMORY", bytes)])
}

/// Where the buffers of a batch do not fit, the error says what to lower, and lowering it helps.
#[test]
fn memory_for_a_batch() {
    gpu();
    if !is_emulated() {
        return;
    }
    let text = passes_with_memory("refused::with_little_memory", LITTLE_MEMORY);
    let refused = text.lines().find_map(|line| line.strip_prefix("refused: ")).unwrap();
    assert!(
        refused.starts_with("cuda:0: ") && refused.contains("; lower the batch size ("),
        "{refused}"
    );
}

/// A variable's value that is none of those it takes.
#[test]
fn linear_layers_of_another_name() {
    if gpu().is_some() {
        passes_alone("refused::with_another_name", &[("INVAD_LINEAR", "cutlass")]);
    }
}

#[test]
#[ignore = "run by the test before"]
fn with_another_name() {
    let gpu = gpu().unwrap();
    // It is not passed over for the CPU.
    assert_eq!(Device::best(), gpu);
    let refused = gpu.require().unwrap_err();
    assert!(matches!(refused, Error::Argument { arg: "INVAD_LINEAR", .. }), "{refused}");
    let text = "Device::require: `INVAD_LINEAR` should be cublaslt or own, got cutlass";
    assert_eq!(refused.to_string(), text);
    let refused = Tensor::zeros(&[1], DType::F32, gpu).unwrap_err();
    assert_eq!(refused.to_string(), text);
}

/// What no kernel can compute, by the argument that says so.
fn networks() -> Vec<(&'static str, DitConfig)> {
    let fits = DitConfig { channels: 192, grid: 16, width: 64, depth: 1, heads: 2, patch: 1 };
    vec![
        ("width", DitConfig { width: 60, heads: 1, ..fits }),
        ("width", DitConfig { width: 8200, heads: 41, depth: 0, ..fits }),
        ("head size", DitConfig { heads: 64, ..fits }),
        ("head size", DitConfig { width: 72, heads: 6, ..fits }),
        ("head size", DitConfig { width: 264, heads: 1, ..fits }),
        ("head size", DitConfig { width: 512, heads: 1, ..fits }),
        ("tokens", DitConfig { grid: 65, ..fits }),
    ]
}

#[test]
fn networks_without_kernels() {
    let Some(gpu) = gpu() else { return };
    for (wanted, config) in networks() {
        let dit = Dit::new(config).unwrap();
        let parameters = Tensor::zeros(&[dit.len()], DType::F32, Device::Cpu).unwrap();
        let make =
            |device| Inverter::new(&dit, &parameters, Parameterisation::Velocity, 3, 0, device);
        let refuses = |refused: Error| {
            let Error::Argument { op: "Dit", arg, .. } = &refused else { panic!("{refused}") };
            assert_eq!(*arg, wanted, "{refused}");
            assert!(refused.to_string().contains(" on a GPU, got "), "{refused}");
        };
        refuses(make(gpu).err().unwrap());
        let [_, paper] = recipes();
        let training = TrainingConfig { denoiser: config.into(), ..training(paper, 1) };
        let features = [1, config.grid, config.grid, config.channels];
        let features = Tensor::zeros(&features, DType::F32, Device::Cpu).unwrap();
        refuses(Trainer::new(training, features, gpu).err().unwrap());
        if config.width < 1000 {
            make(Device::Cpu).unwrap();
        }
    }
}

#[test]
fn mlps_without_kernels() {
    let Some(gpu) = gpu() else { return };
    let refused = |width, purpose| {
        let mlp = Mlp::new(MlpConfig { channels: 7, grid: 3, width, depth: 1 }).unwrap();
        mlp.require(Device::Cpu, purpose, Precision::F32).unwrap();
        mlp.require(gpu, purpose, Precision::F16).err().map(|e| e.to_string())
    };
    for width in [60, 8200] {
        let wanted =
            format!("Mlp: `width` should be a multiple of 8 up to 8192 on a GPU, got {width}");
        assert_eq!(refused(width, Use::Inference), Some(wanted));
    }
    assert_eq!(refused(4104, Use::Inference), None);
    let wanted = "Mlp: `width` should be up to 4096 for training on a GPU, got 4104";
    assert_eq!(refused(4104, Use::Training).as_deref(), Some(wanted));
}

#[test]
fn unets_without_kernels() {
    let Some(gpu) = gpu() else { return };
    let refused = |channels, head_size, grid| {
        let config = UnetConfig {
            channels,
            grid,
            width: 32,
            channel_mult: vec![1, 3],
            res_blocks: 1,
            attention_downsample: vec![],
            head_size,
        };
        let unet = Unet::new(config).unwrap();
        unet.require(Device::Cpu, Use::Training, Precision::F32).unwrap();
        unet.require(gpu, Use::Inference, Precision::F16).err().map(|e| e.to_string())
    };
    assert_eq!(refused(16, 8, 4), None);
    let wanted = "Unet: `channels` should be a multiple of 8 up to 16384 on a GPU, got 12";
    assert_eq!(refused(12, 8, 4).as_deref(), Some(wanted));
    let wanted = "Unet: `head size` should be a multiple of 8 up to 256 on a GPU, got 12";
    assert_eq!(refused(16, 12, 4).as_deref(), Some(wanted));
    // The middle's attention is over a quarter of the cells.
    assert_eq!(refused(16, 8, 128), None);
    let wanted =
        "Unet: `cells of an attention` should be a multiple of 1 up to 4096 on a GPU, got 4225";
    assert_eq!(refused(16, 8, 130).as_deref(), Some(wanted));
}

/// A network of this width can be computed, but not trained.
fn too_wide_to_train() -> DitConfig {
    DitConfig { channels: 4, grid: 2, width: 4104, depth: 0, heads: 27, patch: 1 }
}

#[test]
#[ignore = "run by the next test with hardly any memory"]
fn with_hardly_any_memory() {
    let Some(gpu) = gpu() else { return };
    let [whitened, paper] = recipes();
    let denoiser = too_wide_to_train();
    let network = Dit::new(denoiser).unwrap();
    network.require(gpu, Use::Inference, Precision::F16).unwrap();
    let features = Tensor::zeros(&[1, 2, 2, 4], DType::F32, Device::Cpu).unwrap();
    let training = TrainingConfig { denoiser: denoiser.into(), ..training(paper, 1) };
    let refused = Trainer::new(training, features, gpu).err().unwrap().to_string();
    assert_eq!(refused, "Dit: `width` should be up to 4096 for training on a GPU, got 4104");
    for (heads, memory) in [(8, false), (2, true)] {
        let mut checkpoint = checkpoint(whitened.clone(), 1);
        checkpoint.config.denoiser.sizes.insert("heads".into(), heads.into());
        let refused = Detector::new(checkpoint).unwrap().to_device(gpu).err().unwrap();
        match refused {
            Error::Argument { op: "Dit", arg: "head size", .. } if !memory => {}
            Error::OutOfMemory { .. } if memory => {}
            other => panic!("{other}"),
        }
    }
}

/// A network that has no kernels is refused before any memory is taken.
#[test]
fn networks_that_do_not_fit_the_kernels_take_no_memory() {
    gpu();
    if !is_emulated() {
        return;
    }
    passes_with_memory("refused::with_hardly_any_memory", "1");
}
