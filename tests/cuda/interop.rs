use half::f16;
use invad::cuda::interop::Queue;
use invad::cuda::interop::cudarc::driver::CudaContext;
use invad::{DType, Tensor, ops};

use crate::alone::passes_alone;
use crate::support::emulator::gpu;

/// In a process of its own: where a context makes its first stream cudarc waits for the whole GPU, which the
/// driver refuses while another test records.
#[test]
fn operations_run_on_a_callers_stream() {
    passes_alone("interop::operations_on_a_callers_stream", &[]);
}

/// Operations on another context's stream and memory, with cudarc's events and without.
#[test]
#[ignore = "run by the other test"]
fn operations_on_a_callers_stream() {
    let Some(gpu) = gpu() else { return };
    gpu.require().unwrap();
    let stream = CudaContext::new(0).unwrap().new_stream().unwrap();
    let output = stream.clone_htod(&[f16::ONE; 500]).unwrap();
    let mut x = stream.clone_htod(&[2.0f32; 520]).unwrap();
    let queue = Queue::new(&stream).unwrap();
    let at = queue.view(&output, &[5, 100]).unwrap();
    for _ in 0..2 {
        let mut part = x.slice_mut(8..508);
        let part = queue.view_mut(&mut part, &[5, 100]).unwrap();
        ops::inversion_step(part, at, 3.0, 1.0).unwrap();
    }
    let got = stream.clone_dtoh(&x).unwrap();
    assert_eq!(got[..8], [2.0; 8]);
    assert_eq!(got[8..508], [22.0; 500]);
    assert_eq!(got[508..], [2.0; 12]);

    let refused = queue.view(&output, &[5, 101]).unwrap_err();
    assert_eq!(refused.to_string(), "view: `memory` should have shape [5, 101], got [500]");
    let mut own = Tensor::zeros(&[500], DType::F32, gpu).unwrap();
    let at = queue.view(&output, &[500]).unwrap();
    let refused = ops::inversion_step(&mut own, at, 1.0, 1.0).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "inversion_step: `output` should be on the stream of the other arguments, got memory of \
         another stream"
    );
}
