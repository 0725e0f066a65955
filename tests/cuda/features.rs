use invad::backbones::Workspace;
use invad::{DType, Device, Error, Tensor};

use crate::inversion::difference;
use crate::support::emulator::gpu;
use crate::support::networks::*;

#[test]
fn features_are_those_of_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let mut images = pictures(Kind::Stripes, 0..1);
    images.push(picture(Kind::Dots, 1, 300, 200));
    let (here, backbone) = (lite0(Device::Cpu), lite0(gpu));
    let shape = backbone.spec().features().of(images.len());
    let mut want = Tensor::zeros(&shape, DType::F32, Device::Cpu).unwrap();
    // Whose memory it was does not matter.
    let mut space = Workspace::default();
    here.extract(&images, &mut want, &mut space).unwrap();
    for dtype in [DType::F16, DType::F32, DType::F32] {
        let mut got = Tensor::zeros(&shape, dtype, gpu).unwrap();
        got.view_mut().fill(f32::NAN).unwrap();
        backbone.extract(&images, &mut got, &mut space).unwrap();
        let off = difference(&got, &want);
        println!("{dtype:?}: {off:.1e}");
        assert!(off < 3e-3, "{dtype:?}: {off:.1e}");
    }
    let mut got = Tensor::zeros(&shape, DType::F16, gpu).unwrap();
    let refused = here.extract(&images, &mut got, &mut space).unwrap_err();
    assert!(matches!(refused, Error::Device { .. }), "{refused}");
}
