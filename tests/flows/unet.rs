//! The U-Net's sizes, its fresh parameters, and what is planned of the real one.

use invad::denoisers::{Denoiser, FeatureShape, Parameters, Recompute, Training, Unet, UnetConfig};
use invad::device::Plan;
use invad::train::Resources;
use invad::{Device, Error, Precision, Tensor};

use crate::support::numbers::tensor;

const FEATURES: FeatureShape = FeatureShape { grid: 8, channels: 5 };

/// Two levels, attention on both.
fn config() -> UnetConfig {
    UnetConfig {
        channels: 5,
        grid: 8,
        width: 32,
        channel_mult: vec![1, 2],
        res_blocks: 1,
        attention_downsample: vec![1, 2],
        head_size: 16,
    }
}

#[test]
fn sizes_that_cannot_work() {
    let refused = |change: &dyn Fn(&mut UnetConfig)| {
        let mut config = config();
        change(&mut config);
        match Unet::new(config) {
            Err(Error::Argument { op: "Unet", arg, .. }) => arg,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(&|c| c.channels = 0), "channels");
    assert_eq!(refused(&|c| c.grid = 7), "grid");
    assert_eq!(refused(&|c| c.grid = 0), "grid");
    assert_eq!(refused(&|c| c.width = 40), "width");
    assert_eq!(refused(&|c| c.width = usize::MAX), "width");
    assert_eq!(refused(&|c| c.head_size = 0), "head_size");
    assert_eq!(refused(&|c| c.head_size = 24), "head_size");
    assert_eq!(refused(&|c| c.head_size = 64), "head_size");
    assert_eq!(refused(&|c| c.res_blocks = 0), "res_blocks");
    assert_eq!(refused(&|c| c.res_blocks = 65), "res_blocks");
    assert_eq!(refused(&|c| c.channel_mult.clear()), "channel_mult");
    assert_eq!(refused(&|c| c.channel_mult = vec![1; 9]), "channel_mult");
    assert_eq!(refused(&|c| c.channel_mult[1] = 0), "channel_mult");
    assert_eq!(refused(&|c| c.channel_mult[1] = usize::MAX), "channel_mult");
    // 64 are a head of the last level, which has no attention but in the middle.
    let mut fits = config();
    (fits.head_size, fits.attention_downsample) = (64, vec![]);
    Unet::new(fits).unwrap();
}

/// It returns 0, whatever it is given, and not all of it is 0.
#[test]
fn fresh_networks() {
    let unet = Unet::new(config()).unwrap();
    let parameters = unet.init(3, Device::Cpu).unwrap();
    let how = Training { precision: Precision::F32, recompute: Recompute::Nothing };
    let mut network = unet.trainable(2, how, &mut Device::Cpu).unwrap();
    let (x, t) = (tensor(1, &FEATURES.of(2), 1.7), tensor(2, &[2], 500.0));
    let mut out = tensor(3, &FEATURES.of(2), f32::NAN);
    network.forward(Parameters::from(&parameters), x.view(), t.view(), out.view_mut()).unwrap();
    assert!(out.to_vec_f32().iter().all(|v| *v == 0.0));
    let values = parameters.to_vec_f32();
    for p in unet.parameters() {
        let values = &values[p.offset..][..p.len()];
        let largest = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let at = |name: &str| p.name.ends_with(name);
        let norm = |end| {
            at(&format!(".norm.{end}"))
                || at(&format!("_layers.0.{end}"))
                || p.name == format!("out.0.{end}")
        };
        if norm("weight") {
            assert!(values.iter().all(|v| *v == 1.0), "{}", p.name);
        } else if norm("bias")
            || p.name.contains("out_layers.3")
            || p.name.contains("proj_out")
            || p.name.starts_with("out.2")
        {
            assert_eq!(largest, 0.0, "{}", p.name);
        } else {
            let weight =
                unet.parameters().iter().find(|w| w.name == p.name.replace(".bias", ".weight"));
            let weight = weight.unwrap();
            let bound = ((weight.len() / weight.shape[0]) as f32).sqrt().recip();
            assert!(largest <= bound && largest > 0.8 * bound, "{}: {largest} of {bound}", p.name);
        }
    }
}

/// From the reference's layout to ours and back.
#[test]
fn layouts() {
    let unet = Unet::new(config()).unwrap();
    let named = |name: &str| unet.parameters().iter().find(|p| p.name == name).unwrap();
    let conv = named("input_blocks.0.0.weight");
    assert_eq!(
        (&conv.shape[..], &conv.reference_shape()[..]),
        (&[32, 3, 3, 5][..], &[32, 5, 3, 3][..])
    );
    let qkv = named("input_blocks.1.1.qkv.weight");
    assert_eq!(qkv.reference_shape(), [96, 32, 1]);
    for p in unet.parameters() {
        let theirs: Vec<f32> = (0..p.len()).map(|i| i as f32).collect();
        let (mut ours, mut back) = (vec![f32::NAN; p.len()], vec![f32::NAN; p.len()]);
        p.from_reference(&theirs, &mut ours);
        p.to_reference(&ours, &mut back);
        assert_eq!(back, theirs, "{}", p.name);
        if p.name == conv.name {
            // Output 2, channel 3, row 1, column 2.
            assert_eq!(ours[((2 * 3 + 1) * 3 + 2) * 5 + 3], (((2 * 5 + 3) * 3 + 1) * 3 + 2) as f32);
        }
        if p.name == qkv.name {
            // The fourth row of the second head's keys.
            assert_eq!(ours[(32 + 16 + 3) * 32 + 7], (((3 + 1) * 16 + 3) * 32 + 7) as f32);
        }
    }
}

/// The reference's network, of which nothing is taken.
#[test]
fn the_real_size() {
    let features = FeatureShape { grid: 16, channels: 272 };
    let unet = Unet::new(UnetConfig::reference(features)).unwrap();
    assert_eq!(unet.len(), 1_433_708_304);
    let resources = Resources::from(Device::Cpu);
    let plans = Recompute::ALL.map(|way| resources.plan(&unet, 8, way).unwrap().total());
    assert!(plans.is_sorted_by(|a, b| a > b), "{plans:?}");
    // Parameters, their gradients, two moments and the average are f32.
    assert!(plans[2] > 5 * 4 * unet.len());
    let how = Training { precision: Precision::F32, recompute: Recompute::Nothing };
    let mut counted = Plan::new(Device::Cpu);
    unet.trainable(8, how, &mut counted).unwrap();
    assert!(counted.total() < plans[0] - 4 * unet.len());
    let small = Unet::new(UnetConfig::small(FeatureShape { grid: 16, channels: 192 })).unwrap();
    assert!((1_000_000..3_100_000).contains(&small.len()), "{}", small.len());
    let _: Tensor = small.init(1, Device::Cpu).unwrap();
}
