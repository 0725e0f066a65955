use invad::ops::{self, Activation};
use invad::{DType, Device, Error, Tensor};

use crate::support::emulator::gpu;
use crate::support::numbers::{bits, from, uniform};

fn on_gpu(data: &[f32], shape: &[usize], device: Device) -> Tensor {
    Tensor::from_f32(data.to_vec(), shape, device).unwrap()
}

fn half(data: &[f32], shape: &[usize], dtype: DType, device: Device) -> Tensor {
    let mut tensor = Tensor::zeros(shape, dtype, device).unwrap();
    tensor.view_mut().copy_from_slice(data).unwrap();
    tensor
}

#[test]
fn numbers_go_there_and_back() {
    let Some(gpu) = gpu() else { return };
    for n in [0, 1, 3, 1000, 70_001] {
        let data = uniform(1, n, 1e3);
        let there = on_gpu(&data, &[n], gpu);
        assert_eq!((there.device(), there.dtype(), there.len()), (gpu, DType::F32, n));
        assert_eq!(there.to_vec_f32(), data);
        for dtype in [DType::F16, DType::BF16] {
            let [there, here] = [gpu, Device::Cpu].map(|device| half(&data, &[n], dtype, device));
            assert_eq!((there.device(), there.dtype()), (gpu, dtype));
            assert_eq!((here.device(), here.dtype()), (Device::Cpu, dtype));
            assert_eq!(there.to_vec_f32(), here.to_vec_f32());
            let epsilon = if dtype == DType::F16 { 1.0 / 2048.0 } else { 1.0 / 256.0 };
            let near = |(got, want): (&f32, &f32)| (got - want).abs() <= epsilon * want.abs();
            assert!(here.to_vec_f32().iter().zip(&data).all(near), "{dtype:?}");
        }
    }
}

/// Bytes are rounded and saturate, there as on the host.
#[test]
fn bytes_go_there_and_back() {
    let Some(gpu) = gpu() else { return };
    let data = [-1.0, 0.4, 0.5, 1.0, 77.3, 254.5, 255.0, 256.0, 1e9, f32::INFINITY, f32::NAN];
    let want = [0.0, 0.0, 1.0, 1.0, 77.0, 255.0, 255.0, 255.0, 255.0, 255.0, 0.0];
    for device in [gpu, Device::Cpu] {
        let mut x = half(&data, &[11], DType::U8, device);
        assert_eq!((x.device(), x.dtype(), x.dtype().size()), (device, DType::U8, 1));
        assert_eq!(x.to_vec_f32(), want);
        assert_eq!(x.view().part(4, &[3]).unwrap().to_vec_f32(), want[4..7]);
        assert_eq!(x.try_clone().unwrap().to_vec_f32(), want);
        let there = x.view().copied_to(gpu, DType::U8).unwrap();
        assert_eq!(there.view().copied_to(Device::Cpu, DType::F32).unwrap().to_vec_f32(), want);
        let (mut first, mut rest) = x.view_mut().split(&[3]).unwrap();
        first.fill(300.0).unwrap();
        rest.copy_from_slice(&[9.0; 8]).unwrap();
        let filled = [[255.0; 3].to_vec(), [9.0; 8].to_vec()].concat();
        assert_eq!(x.to_vec_f32(), filled);
    }
    let bytes = [3, 200];
    let view = invad::tensor::TensorView::from_bytes(&bytes, &[2]).unwrap();
    assert_eq!(view.to_vec_f32(), [3.0, 200.0]);
    assert!(invad::tensor::TensorView::from_bytes(&bytes, &[3]).is_err());
}

#[test]
fn new_memory_is_zero_and_can_be_filled() {
    let Some(gpu) = gpu() else { return };
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let mut x = Tensor::zeros(&[3, 5], dtype, gpu).unwrap();
        assert_eq!(x.to_vec_f32(), [0.0; 15]);
        x.view_mut().part(4, &[6]).unwrap().fill(-1.5).unwrap();
        let want: Vec<f32> =
            (0..15).map(|i| if (4..10).contains(&i) { -1.5 } else { 0.0 }).collect();
        assert_eq!(x.to_vec_f32(), want);
        x.view_mut().fill(f32::NAN).unwrap();
        assert!(x.to_vec_f32().iter().all(|x| x.is_nan()));
    }
}

#[test]
fn parts_are_where_they_should_be() {
    let Some(gpu) = gpu() else { return };
    let data: Vec<f32> = (0..60).map(|i| i as f32).collect();
    let halves = [DType::F16, DType::BF16].map(|dtype| half(&data, &[60], dtype, gpu));
    for mut x in halves.into_iter().chain([on_gpu(&data, &[60], gpu)]) {
        let part = x.view().part(7, &[2, 3]).unwrap();
        assert_eq!((part.shape(), part.device()), (&[2, 3][..], gpu));
        assert_eq!(part.to_vec_f32(), data[7..13]);
        assert_eq!(part.part(2, &[2]).unwrap().to_vec_f32(), data[9..11]);
        let (mut first, rest) = x.view_mut().split(&[4, 5]).unwrap();
        first.copy_from_slice(&[-1.0; 20]).unwrap();
        rest.part(30, &[2]).unwrap().copy_from_slice(&[-2.0; 2]).unwrap();
        let mut want = data.clone();
        want[..20].fill(-1.0);
        want[50..52].fill(-2.0);
        assert_eq!(x.to_vec_f32(), want);
    }
}

#[test]
fn copies_are_apart() {
    let Some(gpu) = gpu() else { return };
    let data = uniform(1, 100, 1.0);
    let mut x = on_gpu(&data, &[100], gpu);
    let copy = x.clone();
    x.view_mut().fill(0.0).unwrap();
    assert_eq!(copy.to_vec_f32(), data);
    assert_eq!(copy.reshape(&[4, 25]).unwrap().shape(), [4, 25]);
}

#[test]
fn many_threads() {
    let Some(gpu) = gpu() else { return };
    std::thread::scope(|scope| {
        for seed in 0..4 {
            scope.spawn(move || {
                for round in 0..20 {
                    let data = uniform(seed * 100 + round, 999, 1.0);
                    assert_eq!(on_gpu(&data, &[999], gpu).to_vec_f32(), data);
                }
            });
        }
    });
}

#[test]
fn arguments_on_different_devices_are_refused() {
    let Some(gpu) = gpu() else { return };
    let (mut here, mut there) = (from(&[1.0; 4], &[4]), on_gpu(&[1.0; 4], &[4], gpu));
    let refused = ops::inversion_step(&mut there, &here, 1.0, 1.0).unwrap_err();
    assert_eq!(refused.to_string(), "inversion_step: `output` should be on cuda:0, got cpu");
    let refused = ops::inversion_step(&mut here, &there, 1.0, 1.0).unwrap_err();
    assert_eq!(refused.to_string(), "inversion_step: `output` should be on cpu, got cuda:0");
    assert!(matches!(refused, Error::Device { .. }));
    let wide = there.clone();
    let refused = ops::inversion_step(&mut there, &wide, 1.0, 1.0).unwrap_err();
    assert_eq!(refused.to_string(), "inversion_step: `output` should hold F16, got F32");
}

#[test]
fn parts_that_are_not_aligned_are_refused() {
    let Some(gpu) = gpu() else { return };
    let mut x = on_gpu(&[1.0; 16], &[16], gpu);
    let output = half(&[1.0; 16], &[16], DType::F16, gpu);
    let part = output.view().part(4, &[8]).unwrap();
    let refused = ops::inversion_step(x.view_mut().part(0, &[8]).unwrap(), part, 1.0, 1.0);
    assert_eq!(
        refused.unwrap_err().to_string(),
        "inversion_step: `output` should be a part that begins at a multiple of 16 bytes, on a GPU, \
         got 8 bytes more"
    );
    // A bias, which cuBLASLt takes for aligned.
    let halves = |len, shape: &[usize]| half(&vec![1.0; len], shape, DType::F16, gpu);
    let (x, weight, biases) = (halves(32, &[4, 8]), halves(64, &[8, 8]), halves(16, &[16]));
    let mut y = halves(32, &[4, 8]);
    let mut linear = |start| {
        let bias = Some(biases.view().part(start, &[8]).unwrap());
        ops::linear(&x, &weight, bias, Activation::None, None, &mut y)
    };
    let refused = linear(1).unwrap_err().to_string();
    assert!(refused.starts_with("linear: `bias` should be a part that begins"), "{refused}");
    linear(8).unwrap();
    assert_eq!(y.to_vec_f32(), [9.0; 32]);
}

/// What does not fit is refused, with what was asked for and what is free.
#[test]
fn out_of_memory() {
    let Some(gpu) = gpu() else { return };
    let terabytes = Tensor::zeros(&[1 << 43], DType::F32, gpu).unwrap_err();
    let Error::OutOfMemory { device, asked, free, total } = terabytes else {
        panic!("{terabytes}");
    };
    assert_eq!((device, asked), (gpu, 1 << 45));
    assert!(free <= total && total > 0 && total < asked);
    let text = terabytes.to_string();
    assert!(text.contains("35184372.1 MB asked for"), "{text}");
    assert!(text.contains("; lower the batch size ("), "{text}");
    let small = on_gpu(&[1.0], &[1], gpu);
    assert_eq!(bits(&small), [1.0f32.to_bits()], "the GPU is usable afterwards");
}

#[test]
fn gpus_that_are_not_there() {
    let Some(Device::Cuda(_)) = gpu() else { return };
    let refused = Tensor::zeros(&[1], DType::F32, Device::Cuda(99)).unwrap_err();
    assert!(matches!(&refused, Error::Unavailable { .. }));
    assert!(
        refused.to_string().starts_with("cuda:99 is not available: the GPUs here are cuda:0 to")
    );
}

#[test]
fn copies_to_slices_check_lengths() {
    let Some(gpu) = gpu() else { return };
    let x = on_gpu(&[1.0; 4], &[4], gpu);
    let refused = x.view().copy_to_slice(&mut [0.0; 3]).unwrap_err();
    assert_eq!(refused.to_string(), "copy_to_slice: `out` should have shape [4], got [3]");
}
