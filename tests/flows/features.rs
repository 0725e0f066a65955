//! Features of a training set's files.

use std::fs;
use std::path::Path;

use invad::train::extract_features;
use invad::{Device, Error};
use tempfile::tempdir;

use crate::support::networks::*;
use crate::support::numbers::{bits, poisoned};

/// More files than are computed at once, some of them no images: those features are left out, and each file is told of
/// in order.
#[test]
fn files_in_order_without_those_that_cannot_be_read() {
    let folder = tempdir().unwrap();
    let images: Vec<_> = (0..37).map(|i| picture(Kind::Dots, i, 20 + i as u32, 31)).collect();
    let damaged = [0, 3, 16, 31, 36];
    let mut paths = Vec::new();
    for (i, image) in images.iter().enumerate() {
        paths.push(folder.path().join(format!("{i}.png")));
        match damaged.contains(&i) {
            true => fs::write(&paths[i], "no image").unwrap(),
            false => image.save(&paths[i]).unwrap(),
        }
    }
    let backbone = lite0(Device::Cpu);
    let good = images.iter().enumerate().filter(|(i, _)| !damaged.contains(i));
    let good: Vec<_> = good.map(|(_, image)| image.clone()).collect();
    let mut want = poisoned(&backbone.spec().features().of(good.len()));
    backbone.extract(&good, &mut want, &mut Default::default()).unwrap();
    for threads in [1, 3] {
        let mut told = 0;
        let each = |path: &Path, read: invad::Result<()>| {
            assert_eq!(path, paths[told]);
            assert_eq!(read.is_err(), damaged.contains(&told), "{}", path.display());
            told += 1;
            Ok(())
        };
        let got = on_threads(threads, || extract_features(&backbone, &paths, each).unwrap());
        assert_eq!(told, paths.len());
        assert_eq!(got.shape(), want.shape());
        assert!(bits(&got) == bits(&want), "{threads} threads");
    }

    let mut told = 0;
    let each = |_: &Path, _| {
        told += 1;
        if told == 20 { Err(Error::image("here", "enough")) } else { Ok(()) }
    };
    assert_eq!(extract_features(&backbone, &paths, each).unwrap_err().to_string(), "here: enough");
    assert_eq!(told, 20);
    let none = extract_features(&backbone, &paths[..1], |_, _| Ok(())).unwrap();
    assert_eq!(none.shape()[0], 0);
}
