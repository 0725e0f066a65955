use invad::cuda::{compile, kernels, probe, source};
use invad::{DType, Device, Error, Tensor};

use crate::alone::passes_alone;
use crate::support::emulator::{gpu, is_emulated};

#[test]
fn what_is_there_is_found() {
    let Some(gpu) = gpu() else { return };
    let probe = probe();
    for library in [&probe.driver, &probe.nvrtc, &probe.cublaslt] {
        assert_eq!(library.problem, None, "{library:?}");
        assert!(library.version.is_some_and(|v| v >= (12, 0)), "{library:?}");
        assert!(library.path.as_ref().is_some_and(|path| path.is_file()), "{library:?}");
    }
    assert!(probe.gpus[0].memory.is_some_and(|bytes| bytes > 0));
    if is_emulated() {
        assert!(probe.gpus[0].name.contains("Emulated"), "{:?}", probe.gpus);
    }
    assert!(gpu.require().is_ok());
    assert_eq!(Device::best(), Device::Cuda(0));
}

#[test]
fn sources_are_whole() {
    assert!(kernels().count() > 0);
    for kernel in kernels() {
        let text = source(kernel).unwrap();
        assert!(!text.contains("#include"), "{kernel}");
        assert!(text.contains(&format!("REGISTER_KERNEL({kernel})")), "{kernel}");
    }
    assert_eq!(source("no_such_kernel"), None);
}

#[test]
fn compilers_say_what_is_wrong() {
    let Some(_) = gpu() else { return };
    let missing = compile("attention", &[], 89).unwrap_err();
    let Error::Compile { kernel, arch, log, .. } = &missing else { panic!("{missing}") };
    assert_eq!((kernel.as_str(), *arch), ("attention", 89));
    assert!(log.contains("attention needs TOKENS_256"), "{log}");
    assert!(log.contains("attention.cu"), "{log}");
    let refused = compile("attention", &[], 1234).unwrap_err().to_string();
    assert!(refused.contains("sm_1234") && refused.contains("pip install"), "{refused}");
    assert!(matches!(compile("no_such_kernel", &[], 89), Err(Error::Argument { .. })));
}

/// What another process says of the GPU with these variables.
fn refused_with(variables: &[(&str, &str)]) -> String {
    let text = passes_alone("probe::require", variables);
    text.lines().find_map(|line| line.strip_prefix("refused: ")).unwrap_or_default().into()
}

#[test]
#[ignore = "run by the other tests"]
fn require() {
    gpu();
    println!();
    if let Err(e) = Device::Cuda(0).require() {
        assert!(matches!(e, Error::Unavailable { .. }));
        assert_eq!(Device::best(), Device::Cpu);
        let memory = Tensor::zeros(&[1], DType::F32, Device::Cuda(0));
        assert!(matches!(memory, Err(Error::Unavailable { .. })));
        println!("refused: {e}");
    }
}

#[test]
fn what_is_too_old_or_too_new_is_named() {
    gpu();
    if !is_emulated() {
        return;
    }
    assert_eq!(refused_with(&[]), "");
    let old_gpu = refused_with(&[("INVAD_EMULATOR_ARCH", "75")]);
    assert!(old_gpu.contains("compute capability 7.5, and the kernels need 8.0"), "{old_gpu}");
    let old = refused_with(&[("INVAD_EMULATOR_NVRTC", "11.8")]);
    assert!(old.contains("NVRTC is of version 11.8; 12.0 or newer is needed"), "{old}");
    let new = refused_with(&[("INVAD_EMULATOR_NVRTC", "14.0")]);
    assert!(new.contains("NVRTC is of version 14.0, too new for the driver's CUDA"), "{new}");
    assert!(new.contains("pip install nvidia-cuda-nvrtc"), "{new}");
}

/// Without a driver nothing panics, and what to install is said.
#[test]
fn machines_without_a_driver() {
    let is_real = gpu().is_some() && !is_emulated();
    if is_real || std::path::Path::new("/dev/nvidia0").exists() {
        return;
    }
    let refused = refused_with(&[("INVAD_TEST_DEVICE", "cpu")]);
    let says = "cuda:0 is not available: NVIDIA's driver was not found; to install it: https://";
    assert!(refused.starts_with(says), "{refused}");
}
