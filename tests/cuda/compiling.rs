//! Kernels are compiled while other threads compute.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use invad::ops::{self, Activation, Chunk};
use invad::{DType, Device, Tensor};

use crate::alone::passes_alone;
use crate::support::emulator::{gpu, is_emulated};

/// Where the compiler says that it waits, and is told to go on.
const FOLDER: &str = "INVAD_TEST_COMPILING";
/// Waits, for 30 s at most, before it compiles.
const COMPILER: &str = r#"#!/bin/sh
folder=$(dirname "$0")
touch "$folder/waits"
i=0
while ! rm "$folder/go" 2>/dev/null; do
    i=$((i + 1))
    [ $i -lt 600 ] || { echo "nobody else could compute" >&2; exit 1; }
    sleep 0.05
done
exec c++ "$@" -O0
"#;
/// Of the operations below.
const KERNELS: usize = 10;

/// In a process of its own, which has compiled nothing and finds the compiler that waits.
#[test]
fn others_compute_while_a_kernel_is_compiled() {
    if !is_emulated() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("kernels");
    let variables = [
        ("INVAD_KERNEL_CACHE", cache.to_str().unwrap()),
        (FOLDER, folder.path().to_str().unwrap()),
    ];
    let text = passes_alone("compiling::operations_at_first_use", &variables);
    let compiled: usize =
        text.lines().find_map(|line| line.strip_prefix("compiled: ")).unwrap().parse().unwrap();
    let kept = fs::read_dir(&cache).unwrap().count();
    // All of them but the one of the thread that waits for no compiler.
    assert_eq!((compiled, kept), (KERNELS, KERNELS + 1));
}

#[test]
#[ignore = "run by the other test"]
fn operations_at_first_use() {
    let Some(gpu) = gpu() else { return };
    let folder = std::env::var(FOLDER).unwrap();
    let folder = Path::new(&folder);
    let mut x = Tensor::from_f32(vec![1.0; 9], &[9], gpu).unwrap();
    let output = Tensor::zeros(&[9], DType::F16, gpu).unwrap();
    let step = |x: &mut Tensor| ops::inversion_step(x, &output, -1.0, 0.0).unwrap();
    step(&mut x);
    let compiler = folder.join("compiler");
    fs::write(&compiler, COMPILER).unwrap();
    fs::set_permissions(&compiler, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    // SAFETY: no other thread of this process reads the environment now.
    unsafe { std::env::set_var("CXX", &compiler) };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let all = scope.spawn(|| {
            let result = std::panic::catch_unwind(|| each_operation(gpu));
            done.store(true, Ordering::Release);
            result.unwrap();
        });
        let mut compiled = 0;
        while !done.load(Ordering::Acquire) {
            if fs::remove_file(folder.join("waits")).is_ok() {
                step(&mut x);
                fs::write(folder.join("go"), "").unwrap();
                compiled += 1;
            }
            thread::sleep(Duration::from_millis(5));
        }
        all.join().unwrap();
        println!("\ncompiled: {compiled}");
        let sign = if compiled % 2 == 0 { -1.0 } else { 1.0 };
        assert_eq!(x.to_vec_f32(), [sign; 9]);
    });
}

/// Operations of several kernels.
fn each_operation(gpu: Device) {
    let full = |shape: &[usize]| Tensor::zeros(shape, DType::F32, gpu).unwrap();
    let half = |shape: &[usize]| Tensor::zeros(shape, DType::F16, gpu).unwrap();
    let (qkv, lse, token) = (half(&[1, 2, 3, 1, 8]), full(&[1, 1, 2]), half(&[1, 2, 8]));
    ops::attention_backward(&qkv, &token, &lse, &token, &mut half(&[1, 2, 3, 1, 8])).unwrap();

    let (table, [x, stats]) = (full(&[1, 16]), [full(&[1, 2, 8]), full(&[1, 2, 2])]);
    let (scale, mut dx) = (Chunk { table: table.view(), index: 1 }, full(&[1, 2, 8]));
    let dtable = &mut full(&[1, 16]);
    ops::adaln_zero_backward(&x, &stats, 0, scale, &token, &mut dx, None, dtable).unwrap();

    let (rows, weight) = (half(&[300, 8]), half(&[8, 8]));
    let (mut dweight, mut dbias) = (full(&[8, 8]), full(&[8]));
    let dy = full(&[300, 8]);
    ops::linear_backward_weight(&dy, &rows, &mut dweight, Some(dbias.view_mut())).unwrap();
    ops::linear(&rows, &weight, None, Activation::GeluErf, None, &mut half(&[300, 8])).unwrap();

    let numbers = full(&[ops::AdamW::NUMBERS]);
    ops::global_norm(&dweight, 1.0, &numbers, &mut full(&[2])).unwrap();
    ops::score(&x, &mut full(&[1, 2]), &mut full(&[1, ops::SCORE_STATS])).unwrap();
}
