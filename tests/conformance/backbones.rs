//! What every registered backbone has to hold.

use std::sync::{Arc, Once};

use invad::backbones::{self, Backbone, EfficientNet, Extractor};
use invad::device::{Plan, Purpose};
use invad::tensor::TensorView;
use invad::{DType, Device, Error, Precision, Tensor};

use crate::support::emulator::{gpu, is_emulated, peak_memory};
use crate::support::networks::{
    any_efficientnet_weights, on_threads, random_vit, tiny_vit, weights,
};
use crate::support::numbers::{Numbers, bits, f64s};
use crate::{LISTS, alone, assert_few, difference};

/// Puts one of each kind that a file gives its weights into the registry, of small images, with weights that mean
/// nothing.
fn register_those_of_files() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let b4 = EfficientNet::named("efficientnet-b4").unwrap().image_size(64);
        let file = any_efficientnet_weights(&b4);
        backbones::register(b4.with_weights("efficientnet-b4", file).unwrap()).unwrap();
        let vit = tiny_vit();
        let file = weights(&random_vit(&vit));
        backbones::register(backbones::vit("tiny-vit", vit, file).unwrap()).unwrap();
    });
}

/// Runs a test of each backbone, one at a time.
fn each(test: impl Fn(&str, Arc<dyn Backbone>)) {
    let _alone = alone();
    register_those_of_files();
    assert!(!backbones::names().is_empty());
    for name in backbones::names() {
        test(&name, backbones::named(&name).unwrap());
    }
}

/// Bytes of so many images.
fn images(backbone: &dyn Backbone, count: usize) -> Vec<u8> {
    let side = backbone.spec().image_size;
    let mut numbers = Numbers::new(3);
    let pixel = |i: usize| (i / 3 % side / 7 + i / 3 / side / 5) * (40 + i % 3) % 200;
    (0..count * side * side * 3).map(|i| (pixel(i) + numbers.below(50)) as u8).collect()
}

fn extractor(backbone: &dyn Backbone, batch: usize, device: Device) -> Box<dyn Extractor> {
    let packed = backbone.pack(device, Precision::of(device)).unwrap();
    packed.extractor(batch, &mut { device }).unwrap()
}

fn poisoned(backbone: &dyn Backbone, batch: usize, dtype: DType, device: Device) -> Tensor {
    let shape = backbone.spec().features().of(batch);
    let mut tensor = Tensor::zeros(&shape, dtype, device).unwrap();
    tensor.view_mut().fill(f32::NAN).unwrap();
    tensor
}

/// Bytes on a device.
fn on(device: Device, backbone: &dyn Backbone, bytes: &[u8], batch: usize) -> Tensor {
    let view = TensorView::from_bytes(bytes, &backbone.spec().rgb(batch)).unwrap();
    view.copied_to(device, DType::U8).unwrap()
}

#[test]
fn specifications() {
    each(|name, backbone| {
        let spec = backbone.spec();
        assert_eq!(spec.name, name);
        assert!(spec.image_size > 0 && spec.grid > 0 && spec.channels > 0 && !spec.hash.is_empty());
        assert!(spec.mean.iter().chain(&spec.std).all(|v| v.is_finite()));
        assert!(spec.std.iter().all(|v| *v > 0.0));
        assert_eq!(backbones::named(name).unwrap().spec(), spec, "the same at every call");
        let taken = backbones::register(backbone.clone()).unwrap_err();
        assert!(matches!(taken, Error::Argument { arg: "name", .. }), "{taken}");
    });
}

/// On the CPU neither threads nor the images beside it change an image's bits.
#[test]
fn images_do_not_see_each_other() {
    each(|name, backbone| {
        let bytes = images(&*backbone, 5);
        let len = bytes.len() / 5;
        let run = |threads, at_once: usize| {
            on_threads(threads, || {
                let extracted = bytes.chunks(at_once * len).flat_map(|bytes| {
                    let batch = bytes.len() / len;
                    let mut y = poisoned(&*backbone, batch, DType::F32, Device::Cpu);
                    let rgb = TensorView::from_bytes(bytes, &backbone.spec().rgb(batch)).unwrap();
                    let mut extractor = extractor(&*backbone, batch, Device::Cpu);
                    extractor.extract(rgb, y.view_mut()).unwrap();
                    assert!(f64s(&y).iter().all(|v| v.is_finite()));
                    bits(&y)
                });
                extracted.collect::<Vec<_>>()
            })
        };
        let want = run(1, 5);
        for (threads, at_once) in [(1, 1), (3, 5), (2, 3)] {
            assert!(run(threads, at_once) == want, "{name}: {threads} threads, {at_once} at once");
        }
    });
}

#[test]
fn the_gpu_computes_what_the_cpu_does() {
    each(|name, backbone| {
        let Some(gpu) = gpu() else { return };
        let bytes = images(&*backbone, 2);
        let run = |device, dtype| {
            let mut y = poisoned(&*backbone, 2, dtype, device);
            let rgb = on(device, &*backbone, &bytes, 2);
            extractor(&*backbone, 2, device).extract(rgb.view(), y.view_mut()).unwrap();
            f64s(&y)
        };
        let want = run(Device::Cpu, DType::F32);
        for dtype in [DType::F16, DType::F32] {
            let off = difference(&run(gpu, dtype), &want);
            println!("{name}: {dtype:?}: {off:.1e}");
            assert!(off < 5e-3, "{name}: {dtype:?}: {off:.1e}");
        }
    });
}

#[test]
#[cfg(feature = "cuda")]
fn recorded_work_is_the_same() {
    each(|name, backbone| {
        let Some(gpu) = gpu() else { return };
        let rgb = on(gpu, &*backbone, &images(&*backbone, 1), 1);
        let mut y = poisoned(&*backbone, 1, DType::F16, gpu);
        let mut extractor = extractor(&*backbone, 1, gpu);
        extractor.extract(rgb.view(), y.view_mut()).unwrap();
        let want = bits(&y);
        let work = || extractor.extract(rgb.view(), y.view_mut());
        let mut recorded = invad::cuda::Graph::record(gpu, work).unwrap();
        y.view_mut().fill(f32::NAN).unwrap();
        recorded.run().unwrap();
        assert!(bits(&y) == want, "{name}");
    });
}

/// Memory is taken once, and on a GPU as much of it as was planned.
#[test]
fn memory_is_what_was_planned() {
    each(|name, backbone| {
        for device in [Some(Device::Cpu), gpu().filter(|_| is_emulated())].into_iter().flatten() {
            let packed = backbone.pack(device, Precision::of(device)).unwrap();
            let mut plan = Plan::new(device);
            packed.clone().extractor(2, &mut plan).unwrap();
            // What kernels leave to each other is taken once in a process.
            let planned: usize =
                plan.bytes().filter(|(of, _)| *of != Purpose::Workspace).map(|of| of.1).sum();
            let rgb = on(device, &*backbone, &images(&*backbone, 2), 2);
            let mut y = poisoned(&*backbone, 2, DType::F32, device);
            let mut run = packed.clone().extractor(2, &mut { device }).unwrap();
            if device == Device::Cpu {
                assert_few(name, LISTS, || run.extract(rgb.view(), y.view_mut()).unwrap());
                continue;
            }
            run.extract(rgb.view(), y.view_mut()).unwrap();
            peak_memory();
            let before = peak_memory();
            let again = packed.extractor(2, &mut { device }).unwrap();
            assert_eq!(peak_memory() - before, planned, "{name}");
            drop(again);
            peak_memory();
            run.extract(rgb.view(), y.view_mut()).unwrap();
            assert_eq!(peak_memory(), before, "{name}: taken by a batch");
        }
    });
}

#[test]
fn what_does_not_fit_is_refused() {
    each(|name, backbone| {
        let absent = backbone.pack(Device::Cuda(4096), Precision::F16).unwrap_err();
        assert!(matches!(absent, Error::Unavailable { .. }), "{name}: {absent}");
        let wrong = backbone.pack(Device::Cpu, Precision::F16).unwrap_err();
        assert!(matches!(wrong, Error::Argument { .. }), "{name}: {wrong}");
        let spec = backbone.spec();
        let mut run = extractor(&*backbone, 2, Device::Cpu);
        let mut refused = |rgb: &Tensor, features: [usize; 4]| {
            let mut y = Tensor::zeros(&features, DType::F32, Device::Cpu).unwrap();
            run.extract(rgb.view(), y.view_mut()).unwrap_err()
        };
        let [rgb, fits] = [spec.rgb(2), spec.features().of(2)];
        let zeros = |shape: [usize; 4], dtype| Tensor::zeros(&shape, dtype, Device::Cpu).unwrap();
        for (rgb, features) in [
            (spec.rgb(3), fits),
            ([2, rgb[1] + 1, rgb[2], 3], fits),
            (rgb, spec.features().of(1)),
            (rgb, [2, fits[1], fits[2], fits[3] + 1]),
        ] {
            let refused = refused(&zeros(rgb, DType::U8), features);
            assert!(matches!(refused, Error::Shape { .. }), "{name}: {refused}");
        }
        let refused = refused(&zeros(rgb, DType::F32), fits);
        assert!(matches!(refused, Error::DType { .. }), "{name}: {refused}");
    });
}
