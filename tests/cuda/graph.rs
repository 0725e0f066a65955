use invad::cuda::Graph;
use invad::cuda::interop::Queue;
use invad::cuda::interop::cudarc::driver::CudaContext;
use invad::{DType, Device, Tensor, ops};

use crate::alone::passes_alone;
use crate::support::emulator::{gpu, is_emulated};

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
    let mut graph = Graph::record(gpu, work).unwrap();
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
    let mut graph = Graph::record(gpu, work).unwrap();
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
    let graph = Graph::record(gpu, work);
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

/// What was freed is there as long as the work that uses it.
#[test]
fn a_recording_keeps_its_memory() {
    let Some(gpu) = gpu() else { return };
    let mut x = Tensor::from_f32(vec![1.0; 3000], &[3000], gpu).unwrap();
    let mut output = Tensor::zeros(&[3000], DType::F16, gpu).unwrap();
    output.view_mut().fill(1.0).unwrap();
    let mut graph = Graph::record(gpu, || ops::inversion_step(&mut x, &output, 1.0, 1.0)).unwrap();
    drop(output);
    let other = Tensor::from_f32(vec![7.0; 1500], &[1500], gpu).unwrap();
    graph.run().unwrap();
    assert_eq!(x.to_vec_f32(), [3.0; 3000]);
    assert_eq!(other.to_vec_f32(), [7.0; 1500]);
}

/// In a process of its own, as every test that makes a context (see `interop`).
#[test]
fn memory_of_the_callers_is_not_recorded() {
    passes_alone("graph::a_recording_of_a_callers_memory", &[]);
}

#[test]
#[ignore = "run by the other test"]
fn a_recording_of_a_callers_memory() {
    if gpu().is_none() {
        return;
    }
    let stream = CudaContext::new(0).unwrap().new_stream().unwrap();
    let queue = Queue::new(&stream).unwrap();
    let mut x = stream.clone_htod(&[1.0f32; 8]).unwrap();
    let output = stream.clone_htod(&[half::f16::ONE; 8]).unwrap();
    let mut step = || {
        let output = queue.view(&output, &[8])?;
        ops::inversion_step(queue.view_mut(&mut x, &[8])?, output, 1.0, 1.0)
    };
    let refused = Graph::record(Device::Cuda(0), &mut step).unwrap_err().to_string();
    assert!(refused.contains("memory of the caller's"), "{refused}");
    step().unwrap();
    assert_eq!(stream.clone_dtoh(&x).unwrap(), [3.0; 8]);
}

/// In a process of its own, which has two GPUs.
#[test]
fn another_gpus_work_is_not_recorded() {
    if is_emulated() {
        passes_alone("graph::two_gpus_at_once", &[("INVAD_EMULATOR_DEVICES", "2")]);
    }
}

/// Each GPU's work is recorded apart, and runs on its own.
#[test]
#[ignore = "run by the other test"]
fn two_gpus_at_once() {
    let Some(gpu) = gpu() else { return };
    let tensors = |device| {
        let x = Tensor::from_f32(vec![1.0; 100], &[100], device).unwrap();
        (x, Tensor::zeros(&[100], DType::F16, device).unwrap())
    };
    let ((mut x, output), (mut y, other)) = (tensors(gpu), tensors(Device::Cuda(1)));
    let refused = Graph::record(gpu, || {
        ops::inversion_step(&mut x, &output, 2.0, 0.0)?;
        ops::inversion_step(&mut y, &other, 3.0, 0.0)
    });
    assert_eq!(
        refused.unwrap_err().to_string(),
        "cuda:1: recording: work is being recorded for cuda:0 alone; record this apart"
    );
    // Both once for real.
    assert_eq!((x.to_vec_f32(), y.to_vec_f32()), (vec![2.0; 100], vec![3.0; 100]));
    let mut first = Graph::record(gpu, || {
        // What is on the other GPU can be looked at meanwhile.
        assert_eq!(y.to_vec_f32(), [3.0; 100]);
        ops::inversion_step(&mut x, &output, 2.0, 0.0)
    })
    .unwrap();
    let work = || ops::inversion_step(&mut y, &other, 3.0, 0.0);
    let mut second = Graph::record(Device::Cuda(1), work).unwrap();
    first.run().unwrap();
    second.run().unwrap();
    second.run().unwrap();
    assert_eq!((x.to_vec_f32(), y.to_vec_f32()), (vec![8.0; 100], vec![81.0; 100]));
}

#[test]
fn what_cannot_be_recorded_is_refused() {
    let Some(gpu) = gpu() else { return };
    let mut x = Tensor::zeros(&[100], DType::F32, gpu).unwrap();
    let refused = Graph::record(gpu, || x.view_mut().copy_from_slice(&[1.0; 100]));
    assert_eq!(
        refused.unwrap_err().to_string(),
        "cuda:0: writing: numbers on the host cannot be recorded"
    );
    let refused = Graph::record(Device::Cpu, || Ok(()));
    assert_eq!(
        refused.unwrap_err().to_string(),
        "Graph::record: `device` should be a GPU, got cpu"
    );
    assert_eq!(x.to_vec_f32(), [1.0; 100], "the GPU is usable afterwards");
}
