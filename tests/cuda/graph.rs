use invad::cuda::Graph;
use invad::cuda::cudarc::driver::CudaContext;
use invad::{DType, Device, Tensor, ops};

use crate::alone::passes_alone;
use crate::support::emulator::gpu;

#[test]
fn recorded_work_runs_again_and_again() {
    let Some(gpu) = gpu() else { return };
    let mut x = Tensor::from_f32(vec![1.0; 3000], &[3000], gpu).unwrap();
    let mut output = Tensor::zeros(&[3000], DType::F16, gpu).unwrap();
    output.view_mut().fill(1.0).unwrap();
    let work = || {
        ops::inversion_step(&mut x, &output, 2.0, 0.0)?;
        ops::inversion_step(&mut x, &output, 1.0, 1.0)
    };
    // SAFETY: x and output outlive the graph.
    let mut graph = unsafe { Graph::record(gpu, work) }.unwrap();
    // Once for real.
    assert_eq!(x.to_vec_f32(), [3.0; 3000]);
    x.view_mut().fill(0.0).unwrap();
    for want in [1.0, 3.0, 7.0] {
        graph.run().unwrap();
        assert_eq!(x.to_vec_f32(), [want; 3000]);
    }
    output.view_mut().fill(-1.0).unwrap();
    graph.run().unwrap();
    assert_eq!(x.to_vec_f32(), [13.0; 3000]);
}

/// Other threads' work is neither recorded nor held up.
#[test]
fn other_threads_work_is_not_recorded() {
    let Some(gpu) = gpu() else { return };
    let tensors = || {
        let x = Tensor::from_f32(vec![1.0; 100], &[100], gpu).unwrap();
        (x, Tensor::zeros(&[100], DType::F16, gpu).unwrap())
    };
    let ((mut x, output), (mut y, other)) = (tensors(), tensors());
    let work = || {
        ops::inversion_step(&mut x, &output, 2.0, 0.0)?;
        std::thread::scope(|scope| {
            scope.spawn(|| ops::inversion_step(&mut y, &other, 3.0, 0.0)).join().unwrap()
        })
    };
    // SAFETY: x and output outlive the graph.
    let mut graph = unsafe { Graph::record(gpu, work) }.unwrap();
    graph.run().unwrap();
    graph.run().unwrap();
    assert_eq!(x.to_vec_f32(), [8.0; 100]);
    assert_eq!(y.to_vec_f32(), [9.0; 100]);
}

/// In a process of its own, so that it spoils no other test's recording.
#[test]
fn a_spoilt_recording_is_made_again() {
    for (spoilt, attempts) in [("1", 2), ("1000", 10)] {
        let text = passes_alone("graph::a_spoilt_recording", &[(SPOILT, spoilt)]);
        assert!(text.contains(&format!("recorded {attempts} times\n")), "{text}");
    }
}

/// How many attempts are spoilt.
const SPOILT: &str = "INVAD_TEST_SPOILT";

/// The whole GPU is waited for while work is recorded.
#[test]
#[ignore = "run by the other test"]
fn a_spoilt_recording() {
    let Some(gpu) = gpu() else { return };
    let spoilt: u32 = std::env::var(SPOILT).unwrap().parse().unwrap();
    let mut x = Tensor::zeros(&[100], DType::F32, gpu).unwrap();
    let mut output = Tensor::zeros(&[100], DType::F16, gpu).unwrap();
    output.view_mut().fill(1.0).unwrap();
    let mut calls = 0;
    let work = || {
        calls += 1;
        // The first is no recording.
        if (2..2 + spoilt).contains(&calls) {
            CudaContext::new(0).unwrap().synchronize().unwrap_err();
        }
        ops::inversion_step(&mut x, &output, 1.0, 1.0)
    };
    // SAFETY: x and output outlive the graph.
    let graph = unsafe { Graph::record(gpu, work) };
    println!("\nrecorded {} times", calls - 1);
    match graph {
        Ok(mut graph) => {
            graph.run().unwrap();
            assert_eq!(x.to_vec_f32(), [2.0; 100]);
        }
        Err(refused) => {
            let text = refused.to_string();
            assert!(text.contains("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"), "{text}");
        }
    }
}

#[test]
fn what_cannot_be_recorded_is_refused() {
    let Some(gpu) = gpu() else { return };
    let mut x = Tensor::zeros(&[100], DType::F32, gpu).unwrap();
    // SAFETY: x outlives the graph.
    let refused = unsafe { Graph::record(gpu, || x.view_mut().copy_from_slice(&[1.0; 100])) };
    assert_eq!(
        refused.unwrap_err().to_string(),
        "cuda:0: writing: numbers on the host cannot be recorded"
    );
    // SAFETY: nothing is recorded.
    let refused = unsafe { Graph::record(Device::Cpu, || Ok(())) };
    assert_eq!(
        refused.unwrap_err().to_string(),
        "Graph::record: `device` should be a GPU, got cpu"
    );
    assert_eq!(x.to_vec_f32(), [1.0; 100], "the GPU is usable afterwards");
}
