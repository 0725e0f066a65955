//! Images on their way to the GPU and scores on their way back, while it computes and the host goes on.
//! The emulated device copies as late as it may, so that a wait that is missing gives wrong numbers.

use std::path::PathBuf;
use std::process::Command;

use image::RgbImage;
use invad::backbones::Workspace;
use invad::detect::{ScoreOptions, Scored};
use invad::{DType, Detector, Device, Error, Tensor};
use tempfile::tempdir;

use crate::inversion::difference;
use crate::support::emulator::{gpu, is_emulated};
use crate::support::networks::*;

/// Features that are only read after all of them have been asked for.
#[test]
fn images_follow_each_other() {
    let Some(gpu) = gpu() else { return };
    let (here, backbone) = (lite0(Device::Cpu), lite0(gpu));
    let mut space = Workspace::default();
    let zeros = |device| Tensor::zeros(&[1, 16, 16, 192], DType::F32, device).unwrap();
    let images: Vec<_> = (0..4)
        .map(|i| picture([Kind::Dots, Kind::Stripes][i as usize % 2], i, 64, 64 + 9 * i as u32))
        .collect();
    let mut got: Vec<_> = images.iter().map(|_| zeros(gpu)).collect();
    for (image, got) in images.iter().zip(&mut got) {
        backbone.extract(std::slice::from_ref(image), got, &mut space).unwrap();
    }
    for (i, (image, got)) in images.iter().zip(&got).enumerate() {
        let mut want = zeros(Device::Cpu);
        here.extract(std::slice::from_ref(image), &mut want, &mut space).unwrap();
        let off = difference(got, &want);
        assert!(off < 3e-3, "image {i}: {off:.1e}");
    }
}

fn detector(gpu: Device, batch_size: usize) -> Detector {
    let [whitened, _] = recipes();
    let mut detector = Detector::new(checkpoint(whitened, 12)).unwrap();
    detector.calibrate("dots", &pictures(Kind::Dots, 20..30), &[]).unwrap();
    detector.to_device(gpu).unwrap().with_batch_size(batch_size).unwrap()
}

/// Whether two maps are the same but for rounding, which may differ with the size of a batch.
fn close(got: &Scored, want: &Scored) -> bool {
    let values = got.map.values().iter().zip(want.map.values());
    values.into_iter().all(|(got, want)| (got - want).abs() < 2e-2)
}

/// Whatever the batches, images get their own scores, in order.
#[test]
fn files_are_scored_in_a_stream() {
    let Some(gpu) = gpu() else { return };
    let detector = detector(gpu, 2);
    let mut images = pictures(Kind::Dots, 40..45);
    images.insert(2, defective(Kind::Dots, 1, 48, 40));
    images.push(defective(Kind::Dots, 2, 48, 40));
    let score = |image: &RgbImage| detector.score(std::slice::from_ref(image)).unwrap().remove(0);
    let want: Vec<Scored> = images.iter().map(score).collect();
    assert!(want.windows(2).all(|pair| !close(&pair[0], &pair[1])));

    let folder = tempdir().unwrap();
    let mut paths = Vec::new();
    for (i, image) in images.iter().enumerate() {
        paths.push(folder.path().join(format!("{i}.png")));
        image.save(&paths[i]).unwrap();
    }
    let broken = folder.path().join("broken.png");
    std::fs::write(&broken, "no image").unwrap();
    paths.insert(4, broken);
    // What ends early leaves nothing behind that spoils what follows. With 5 threads, 3 batches are begun at once.
    for (stop, threads) in [(2, None), (usize::MAX, None), (2, Some(5)), (usize::MAX, Some(5))] {
        let mut got = Vec::new();
        let each = |_: &PathBuf, result: invad::Result<(RgbImage, Scored)>| match result {
            _ if got.len() == stop => Err(Error::image("here", "enough")),
            Ok((image, scored)) => {
                assert_eq!(image, images[got.len()]);
                got.push(scored);
                Ok(())
            }
            Err(e) => {
                assert!(got.len() == 4 && e.to_string().contains("broken.png"), "{e}");
                Ok(())
            }
        };
        let options = ScoreOptions::default();
        let score = || detector.score_files(&paths, &options, each);
        let ended = match threads {
            None => score(),
            Some(threads) => on_threads(threads, score),
        };
        assert_eq!(ended.is_ok(), stop > 2);
        assert_eq!(got.len(), stop.min(images.len()));
        assert!(got.iter().zip(&want).all(|(got, want)| close(got, want)));
        let all = detector.score(&images).unwrap();
        assert!(all.iter().zip(&want).all(|(got, want)| close(got, want)));
    }
}

/// Whether the tests above pass on an emulated device that passes by these calls.
fn pass_without(calls: &str) -> bool {
    let ran = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--test-threads=1"])
        .args(
            ["images_follow_each_other", "files_are_scored_in_a_stream"]
                .map(|t| format!("transfer::{t}")),
        )
        .env("INVAD_TEST_DEVICE", "emulated")
        .env("INVAD_EMULATOR_REMOVE", calls)
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&ran.stdout).contains("running 2 tests"), "{ran:?}");
    ran.status.success()
}

/// The host waits for copies, the first stream (which computes) for what was sent, the other (which
/// copies) until it has been read: without one of them the tests above fail.
#[test]
fn each_wait_is_missed() {
    gpu();
    if !is_emulated() {
        return;
    }
    assert!(pass_without(""));
    for calls in ["cuEventSynchronize", "cuStreamWaitEvent:0", "cuStreamWaitEvent:1"] {
        assert!(!pass_without(calls), "passed without {calls}");
    }
}
