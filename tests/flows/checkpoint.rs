//! Detectors and training states in files, and back.

use std::fs;

use invad::checkpoint::{BackboneId, Checkpoint, TrainingState};
use invad::{Detector, Device, Error};
use tempfile::tempdir;

use crate::support::files::calibrated;
use crate::support::networks::*;
use crate::support::numbers::{bits, tensor};

#[test]
fn round_trip() {
    let folder = tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for recipe in recipes() {
        let trainer = trained(&training(recipe.clone(), 8), 6, 5);
        trainer.state().save(path("a")).unwrap();
        trainer.state().save(path("b")).unwrap();
        assert!(fs::read(path("a")).unwrap() == fs::read(path("b")).unwrap());
        let state = TrainingState::load(path("a")).unwrap();
        assert_eq!(&state.config, trainer.config());
        assert_eq!((state.step, &state.features), (5, &trainer.state().features));
        assert!(state_bits(&state) == state_bits(trainer.state()));
        assert_eq!(state.whitening.is_some(), recipe.whiten);
        state.save(path("b")).unwrap();
        assert!(fs::read(path("a")).unwrap() == fs::read(path("b")).unwrap());

        let checkpoint = calibrated(trainer.into_checkpoint().unwrap());
        checkpoint.save(path("a")).unwrap();
        let loaded = Checkpoint::load(path("a")).unwrap();
        assert_eq!(loaded.config, checkpoint.config);
        assert_eq!((loaded.config.steps, loaded.config.images), (5, 6));
        assert_eq!(loaded.calibration, checkpoint.calibration);
        assert_eq!(loaded.levels, checkpoint.levels);
        assert_eq!(loaded.levels.is_some(), recipe.prior);
        match (&loaded.prior, &checkpoint.prior) {
            (Some(a), Some(b)) => {
                assert!(bits(a.weight()) == bits(b.weight()));
                assert_eq!(a.categories().len(), 1);
                let [a, b] = [a, b].map(|prior| &prior.categories()["dots"]);
                assert!(bits(&a.mean) == bits(&b.mean) && bits(&a.vectors) == bits(&b.vectors));
            }
            (a, b) => assert!(a.is_none() && b.is_none() && !recipe.prior),
        }
        assert!(bits(&loaded.denoiser) == bits(&checkpoint.denoiser));
        assert!(bits(&loaded.ema) == bits(&checkpoint.ema));
        match (&loaded.whitening, &checkpoint.whitening) {
            (Some(a), Some(b)) => {
                assert!(bits(a.parts().0) == bits(b.parts().0));
                assert!(bits(a.parts().1) == bits(b.parts().1));
            }
            (a, b) => assert!(a.is_none() && b.is_none() && !recipe.whiten),
        }
        loaded.save(path("b")).unwrap();
        assert!(fs::read(path("a")).unwrap() == fs::read(path("b")).unwrap());
    }
}

#[test]
fn another_backbone() {
    let [whitened, _] = recipes();
    let own = BackboneId::from(lite0(Device::Cpu).spec());
    let refused = |change: fn(&mut Checkpoint), contains: &[&str]| {
        let folder = tempdir().unwrap();
        let path = folder.path().join("detector");
        let mut checkpoint = checkpoint(whitened.clone(), 1);
        change(&mut checkpoint);
        checkpoint.save(&path).unwrap();
        let Err(Error::File { path: named, reason }) = Detector::load(&path) else {
            panic!("refused as a file")
        };
        assert_eq!(named, path);
        for part in contains {
            assert!(reason.contains(part), "`{reason}` should contain `{part}`");
        }
    };
    let hash = |c: &mut Checkpoint| c.config.backbone.hash = "00ff".into();
    refused(hash, &["efficientnet-lite0", "00ff", &own.hash]);
    let name = |c: &mut Checkpoint| c.config.backbone.name = "resnet".into();
    refused(name, &["resnet", "efficientnet-lite0"]);
    refused(|c| c.config.backbone.image_size = 300, &["image size", "300", "256"]);
}

#[test]
fn a_denoiser_of_other_features() {
    let [whitened, _] = recipes();
    let mut config = training(whitened, 1);
    config.backbone = BackboneId::from(lite0(Device::Cpu).spec());
    let checkpoint = trained(&config, 3, 1).into_checkpoint().unwrap();
    let refused = Detector::new(checkpoint).err().unwrap().to_string();
    let want = "Detector: `denoiser` should be one of 192 channels on a grid of 16, the features of `efficientnet-lite0` ";
    assert!(refused.starts_with(want) && refused.ends_with("got 5 on 4"), "{refused}");
    assert!(refused.contains("--backbone"), "{refused}");
}

#[test]
fn a_failed_save_leaves_the_old_file() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("detector");
    let [whitened, _] = recipes();
    let mut checkpoint =
        calibrated(trained(&training(whitened, 5), 6, 5).into_checkpoint().unwrap());
    checkpoint.save(&path).unwrap();
    let before = fs::read(&path).unwrap();
    let untouched = || {
        assert!(fs::read(&path).unwrap() == before);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file is left");
    };

    // What cannot be written.
    let whole = checkpoint.ema;
    checkpoint.ema = tensor(1, &[7], 1.0);
    let refused = checkpoint.save(&path).unwrap_err();
    assert!(matches!(refused, Error::Shape { .. }), "{refused}");
    untouched();
    checkpoint.ema = whole;

    // Where nothing can be written: this user may be one whom permissions do not bind.
    checkpoint.config.seed += 1;
    let mut permissions = fs::metadata(folder.path()).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(folder.path(), permissions.clone()).unwrap();
    if fs::write(folder.path().join("probe"), "").is_err() {
        let refused = checkpoint.save(&path).unwrap_err();
        assert!(matches!(&refused, Error::Io { path: p, .. } if *p == path), "{refused}");
        untouched();
    } else {
        println!("skipped: this user writes in read-only folders");
        fs::remove_file(folder.path().join("probe")).unwrap();
    }
    #[allow(clippy::permissions_set_readonly_false)]
    permissions.set_readonly(false);
    fs::set_permissions(folder.path(), permissions).unwrap();

    // A folder in the place of the file.
    let taken = folder.path().join("taken");
    fs::create_dir(&taken).unwrap();
    let refused = checkpoint.save(&taken).unwrap_err();
    assert!(matches!(&refused, Error::Io { path, .. } if *path == taken), "{refused}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);

    checkpoint.save(&path).unwrap();
    assert_eq!(Checkpoint::load(&path).unwrap().config.seed, checkpoint.config.seed);
}
