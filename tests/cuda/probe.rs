use invad::cuda::{compile, kernels, probe, source};
use invad::{Device, Error};

use crate::emulator::{gpu, is_emulated};

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
    assert!(log.contains("attention needs HEAD_SIZE"), "{log}");
    assert!(log.contains("attention.cu"), "{log}");
    let refused = compile("attention", &[], 1234).unwrap_err().to_string();
    assert!(refused.contains("sm_1234") && refused.contains("pip install"), "{refused}");
    assert!(matches!(compile("no_such_kernel", &[], 89), Err(Error::Argument { .. })));
}
