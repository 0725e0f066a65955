//! An image scores the same whatever is scored beside it, and however.

use std::sync::Mutex;
use std::thread;

use invad::Error;
use invad::detect::ScoreOptions;

use super::*;

const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Detector>();
};

#[test]
fn images_do_not_see_each_other() {
    let (detector, images) = (detector(), tested());
    let want: Vec<_> =
        images.iter().map(|i| score(detector, std::slice::from_ref(i)).remove(0)).collect();
    for threads in [1, 2, 3, 16] {
        on_threads(threads, || {
            for at_once in [2, 5, 7] {
                let got = images.chunks(at_once).flat_map(|i| score(detector, i));
                let got: Vec<_> = got.collect();
                assert!(got == want, "{threads} threads, {at_once} at once");
            }
            let reversed: Vec<_> = images.iter().rev().cloned().collect();
            let mut got = score(detector, &reversed);
            got.reverse();
            assert!(got == want, "{threads} threads, reversed");
        });
    }
}

#[test]
fn batch_sizes_do_not_matter() {
    let folder = tempdir().unwrap();
    let (path, images) = (folder.path().join("detector"), tested());
    let paths = saved(folder.path(), &images);
    let detector = with_prior();
    detector.save(&path).unwrap();
    let want = score(&detector, &images);
    for size in [1, 2, 3, 7, 1024] {
        let detector = Detector::load(&path).unwrap().with_batch_size(size).unwrap();
        assert_eq!(detector.batch_size(), size);
        for threads in [1, 3] {
            on_threads(threads, || {
                assert!(score(&detector, &images) == want, "{size} at once, {threads} threads");
                let mut got = Vec::new();
                let each = |_: &PathBuf, result: invad::Result<(RgbImage, Scored)>| {
                    got.push(scored_bits(&result?.1));
                    Ok(())
                };
                detector.score_files(&paths, &ScoreOptions::default(), each).unwrap();
                assert!(got == want, "files, {size} at once, {threads} threads");
            });
        }
    }
    for size in [0, 1025] {
        let detector = Detector::load(&path).unwrap();
        assert_eq!(detector.batch_size(), 8);
        let error = detector.with_batch_size(size).err().unwrap().to_string();
        assert_eq!(error, format!("Detector: `batch size` should be in 1..=1024, got {size}"));
    }
}

#[test]
fn scores_from_four_threads_at_once() {
    let (detector, images) = (detector(), tested());
    let want = score(detector, &images);
    thread::scope(|scope| {
        for first in 0..4 {
            let (images, want) = (&images, &want);
            scope.spawn(move || {
                let mut got = Vec::new();
                for images in images[first..].chunks(1 + first % 3) {
                    got.extend(score(detector, images));
                }
                assert!(got == want[first..]);
            });
        }
    });
}

#[test]
fn files_score_as_images_do() {
    let (detector, images) = (detector(), tested());
    let folder = tempdir().unwrap();
    let mut paths = saved(folder.path(), &images);
    let broken = folder.path().join("broken.png");
    std::fs::write(&broken, "this is no image").unwrap();
    paths.insert(3, broken.clone());
    let want = score(detector, &images);
    let (mut got, mut seen, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    let each = |path: &PathBuf, result: invad::Result<(RgbImage, Scored)>| {
        seen.push(path.clone());
        match result {
            Ok((image, scored)) => {
                assert_eq!(image, images[got.len()]);
                got.push(scored_bits(&scored));
            }
            Err(e) => refused.push(e),
        }
        Ok(())
    };
    detector.score_files(&paths, &ScoreOptions::default(), each).unwrap();
    assert_eq!(seen, paths);
    assert!(got == want);
    assert_eq!(refused.len(), 1);
    assert!(matches!(&refused[0], Error::Image { path, .. } if *path == broken), "{}", refused[0]);
    assert!(detector.score(&[]).unwrap().is_empty());

    // An error of the caller ends it.
    let mut calls = 0;
    let each = |_: &PathBuf, _: invad::Result<_>| {
        calls += 1;
        if calls == 2 { Err(Error::image("here", "enough")) } else { Ok(()) }
    };
    let error = detector.score_files(&paths, &ScoreOptions::default(), each).unwrap_err();
    assert_eq!((calls, error.to_string().as_str()), (2, "here: enough"));
}

#[test]
fn a_file_scores_as_what_was_saved() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("detector");
    for detector in [detector(), &with_prior()] {
        detector.save(&path).unwrap();
        let loaded = Detector::load(&path).unwrap();
        assert_eq!(loaded.config(), detector.config());
        assert_eq!(loaded.calibration(), detector.calibration());
        assert_eq!(loaded.prior().is_some(), detector.prior().is_some());
        assert!(score(&loaded, &tested()) == score(detector, &tested()));
    }
}

/// One detector behind a lock that every thread takes would pass too; that threads do score at the
/// same time is seen by their meeting inside.
#[test]
fn threads_score_at_the_same_time() {
    let folder = tempdir().unwrap();
    let paths = saved(folder.path(), &pictures(Kind::Dots, 0..2));
    let barrier = std::sync::Barrier::new(2);
    let count = Mutex::new(0);
    thread::scope(|scope| {
        for path in &paths {
            let (barrier, count) = (&barrier, &count);
            scope.spawn(move || {
                let each = |_: &&PathBuf, result: invad::Result<_>| {
                    result.map(|_: (RgbImage, Scored)| ()).unwrap();
                    barrier.wait();
                    *count.lock().unwrap() += 1;
                    Ok(())
                };
                detector().score_files(&[path], &ScoreOptions::default(), each).unwrap();
            });
        }
    });
    assert_eq!(count.into_inner().unwrap(), 2);
}
