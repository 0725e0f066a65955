//! Files that are no detector or training state, or not whole, or say what cannot be.

use std::fs;
use std::path::{Path, PathBuf};

use invad::checkpoint::{Checkpoint, TrainingState};
use invad::denoisers;
use invad::diffusion::Inverter;
use invad::{Device, Error};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::support::files::*;
use crate::support::numbers::Numbers;

/// A detector file and the state it was trained to, of a tiny denoiser.
struct Files {
    folder: TempDir,
    detector: Vec<u8>,
    state: Vec<u8>,
}

impl Files {
    fn new() -> Self {
        let [detector, state] = detector_and_state();
        let folder = tempdir().unwrap();
        Self { folder, detector, state }
    }

    fn put(&self, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join("damaged");
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Asserts that a detector file is refused for this reason.
    #[track_caller]
    fn refused(&self, bytes: &[u8], contains: &str) {
        let path = self.put(bytes);
        refused(Checkpoint::load(&path), &path, contains);
    }

    #[track_caller]
    fn state_refused(&self, bytes: &[u8], contains: &str) {
        let path = self.put(bytes);
        refused(TrainingState::load(&path), &path, contains);
    }
}

#[track_caller]
fn refused<T>(result: invad::Result<T>, path: &Path, contains: &str) {
    match result.err().expect("a damaged file is refused") {
        Error::File { path: named, reason } => {
            assert_eq!(named, path);
            assert!(reason.contains(contains), "`{reason}` should contain `{contains}`");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn truncated_anywhere() {
    let files = Files::new();
    let mut numbers = Numbers::new(1);
    for (bytes, is_state) in [(&files.detector, false), (&files.state, true)] {
        let header = Parts::of(bytes);
        let header = bytes.len() - header.data.len();
        let ends = [0, 1, 7, 8, 9, header - 1, header, header + 1, bytes.len() - 1];
        let drawn = (0..150).map(|_| numbers.below(bytes.len()));
        for end in ends.into_iter().chain(drawn.collect::<Vec<_>>()) {
            match is_state {
                true => files.state_refused(&bytes[..end], "not a whole invad-training file"),
                false => files.refused(&bytes[..end], "not a whole invad-detector file"),
            }
        }
        let longer = [&bytes[..], b"x"].concat();
        match is_state {
            true => files.state_refused(&longer, "not a whole"),
            false => files.refused(&longer, "not a whole"),
        }
    }
}

/// A changed byte is noticed, and where the file is sealed anew with a right checksum, gives another file or an error.
#[test]
fn mutated_bytes_do_not_panic() {
    let files = Files::new();
    let mut numbers = Numbers::new(2);
    let (mut loaded, mut errors) = (0, 0);
    let mut count = |result: Result<(), Error>| match result {
        Ok(()) => loaded += 1,
        Err(Error::File { .. } | Error::Argument { .. } | Error::Shape { .. }) => errors += 1,
        Err(other) => panic!("{other}"),
    };
    for (whole, is_state) in [(&files.detector, false), (&files.state, true)] {
        let header = whole.len() - Parts::of(whole).data.len();
        for i in 0..3000 {
            let mut bytes = whole.clone();
            // Most of what can go wrong is in the header; some bytes become digits, so that it
            // stays JSON.
            for _ in 0..1 + i % 3 {
                let at = numbers.below(if i % 4 == 0 { bytes.len() } else { header });
                match i % 8 {
                    0 | 2 | 4 => bytes[at] = numbers.below(256) as u8,
                    6 if numbers.below(2) == 0 => drop(bytes.remove(at)),
                    6 => bytes.insert(at, numbers.below(256) as u8),
                    _ => bytes[at] = b"0123456789"[numbers.below(10)],
                }
            }
            if bytes != *whole {
                let path = files.put(&bytes);
                let loaded = match is_state {
                    true => TrainingState::load(&path).map(drop),
                    false => Checkpoint::load(&path).map(drop),
                };
                assert!(matches!(loaded, Err(Error::File { .. })), "{loaded:?}");
            }
            let path = files.put(&Parts::parse(&bytes).map_or(bytes, |parts| parts.bytes()));
            if is_state {
                count(TrainingState::load(&path).map(|_| ()));
            } else {
                count(Checkpoint::load(&path).and_then(used));
            }
        }
    }
    assert!(loaded > 100 && errors > 1000, "{loaded} loaded, {errors} errors");
    println!(
        "| detector files and training states with changed bytes | {} files | {loaded} read, {errors} \
         refused | 0 | 0 |",
        loaded + errors
    );
}

/// A bit anywhere among the numbers, of the kind that leaves them finite, and digits of the settings.
#[test]
fn changes_that_leave_all_in_order_are_noticed() {
    const SAYS: &str =
        "its checksum is not that of what it holds: the file is damaged; copy it again";
    let files = Files::new();
    for (bytes, refused) in [
        (&files.detector, Files::refused as fn(&Files, &[u8], &str)),
        (&files.state, Files::state_refused),
    ] {
        assert!(Parts::checksum_holds(bytes));
        let start = bytes.len() - Parts::of(bytes).data.len();
        let last = bytes.len() - 4;
        for at in (start..last).step_by(bytes.len() / 64 / 4 * 4 + 4).chain([last]) {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            refused(&files, &bytes, SAYS);
        }
        let text = String::from_utf8_lossy(&bytes[8..start]).into_owned();
        let sum =
            text.split("checksum\\\":\\\"").nth(1).expect("a checksum").split('\\').next().unwrap();
        for (old, new) in [(sum, &"0".repeat(64)[..]), ("\\\"seed\\\":7", "\\\"seed\\\":8")] {
            assert!(text.contains(old), "{text}");
            let text = text.replacen(old, new, 1);
            let changed = [&bytes[..8], text.as_bytes(), &bytes[start..]];
            refused(&files, &changed.concat(), SAYS);
        }
        // From version 4 on it cannot be left out, as by an older program.
        let without =
            with_config(bytes, |config| drop(config.as_object_mut().unwrap().remove("checksum")));
        refused(&files, &without, "it lacks its checksum; copy it again");
    }
}

/// Files of before have no checksum, and statistics in five columns.
#[test]
fn version_3() {
    let files = Files::new();
    let old = |bytes: &[u8]| {
        with_config(bytes, |config| {
            config["version"] = 3.into();
            config.as_object_mut().unwrap().remove("checksum").unwrap();
        })
    };
    // As many numbers as 5 images have in 7 columns.
    let detector = with_header(&old(&files.detector), |header| {
        assert_eq!(header["trained.dots"]["shape"], json!([5, 7]));
        header["trained.dots"]["shape"] = json!([7, 5]);
    });
    let parts = Parts::of(&detector);
    let [start, end] =
        serde_json::from_value::<[usize; 2]>(parts.header["trained.dots"]["data_offsets"].clone())
            .unwrap();
    let numbers: Vec<f32> = parts.data[start..end]
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    let checkpoint = Checkpoint::load(files.put(&detector)).unwrap();
    let trained = &checkpoint.calibration.trained["dots"];
    assert_eq!(trained.len(), 7);
    for (stats, row) in trained.iter().zip(numbers.chunks_exact(5)) {
        assert_eq!([stats.max, stats.abs, stats.block, stats.top5], row[..4]);
        assert_eq!(stats.nll, f64::from(row[4]));
    }
    assert_eq!(TrainingState::load(files.put(&old(&files.state))).unwrap().step, 5);
}

/// Makes of a checkpoint what scoring needs.
fn used(checkpoint: Checkpoint) -> invad::Result<()> {
    let network = denoisers::read(&checkpoint.config.denoiser)?;
    if let Some(levels) = &checkpoint.levels {
        levels.apply(&mut vec![1.0; network.features().grid.pow(2)])?;
    }
    let recipe = &checkpoint.config.recipe;
    Inverter::new(
        &*network,
        &checkpoint.ema,
        recipe.parameterisation,
        recipe.inversion_steps,
        recipe.single_timestep,
        Device::Cpu,
    )?;
    Ok(())
}

#[test]
fn another_format_or_version() {
    let files = Files::new();
    files.refused(&files.state, "its format is invad-training; invad-detector is needed");
    files.state_refused(&files.detector, "its format is invad-detector; invad-training is needed");
    for (bytes, refused) in [
        (&files.detector, Files::refused as fn(&Files, &[u8], &str)),
        (&files.state, Files::state_refused),
    ] {
        let other = with_setting(bytes, "/version", 5.into());
        refused(&files, &other, "its version is 5; this invad reads versions 1 to 4");
        // What a newer version may have added does not hide which version it is.
        let newer = with_config(&other, |config| config["config"] = json!({"nothing": "alike"}));
        refused(&files, &newer, "its version is 5");
        refused(&files, &with_setting(bytes, "/version", 0.into()), "its version is 0");
        refused(&files, &with_setting(bytes, "/version", (-1).into()), "not a whole");
        refused(&files, &with_setting(bytes, "/format", "bread".into()), "its format is bread;");
        let bare = with_header(bytes, |header| {
            header.as_object_mut().unwrap().remove("__metadata__");
        });
        refused(&files, &bare, "it lacks the metadata `invad`");
        let garbled = with_header(bytes, |h| h["__metadata__"]["invad"] = "{".into());
        refused(&files, &garbled, "not a whole");
    }
    files.refused(b"", "not a whole invad-detector file");
    files.refused(b"\x89PNG\r\n\x1a\n and so on, for some time", "not a whole invad-detector file");
    let missing = files.folder.path().join("missing");
    let error = Checkpoint::load(&missing).err().unwrap();
    assert!(matches!(&error, Error::Io { path, .. } if *path == missing), "{error}");
    let error = TrainingState::load(files.folder.path()).err().unwrap();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[test]
fn settings_that_are_not_known_or_missing() {
    let files = Files::new();
    for place in ["", "/config", "/config/recipe", "/config/denoiser", "/config/backbone"] {
        let added = with_config(&files.detector, |config| {
            config.pointer_mut(place).unwrap()["colour"] = "blue".into();
        });
        files.refused(&added, "unknown field `colour`");
    }
    for place in ["/config", "/config/config", "/config/config/recipe", "/config/config/denoiser"] {
        let added = with_config(&files.state, |config| {
            config.pointer_mut(place).unwrap()["colour"] = "blue".into();
        });
        files.state_refused(&added, "unknown field `colour`");
    }
    for (place, name) in
        [("/config", "seed"), ("/config/recipe", "ema"), ("/config/denoiser", "heads")]
    {
        let without = with_config(&files.detector, |config| {
            config.pointer_mut(place).unwrap().as_object_mut().unwrap().remove(name);
        });
        files.refused(&without, &format!("missing field `{name}`"));
    }
}

#[test]
fn settings_out_of_range() {
    let files = Files::new();
    for (name, value, contains) in [
        ("width", 0, "`width` should be in 1..=16384"),
        ("width", 1u64 << 40, "`width` should be in 1..=16384"),
        ("width", 17, "`heads` should be a divisor of the width 17"),
        ("width", 16384, "should be [16384, 5, 1, 1], got [16, 5, 1, 1]"),
        ("heads", 0, "`heads` should be in 1..=16384"),
        ("heads", 3, "`heads` should be a divisor of the width 16"),
        ("depth", 1 << 50, "`depth` should be at most 1024"),
        ("depth", 1024, "tensor `denoiser.blocks.2.attn.qkv.weight` is missing"),
        ("depth", 1, "does not belong here"),
        ("depth", 0, "does not belong here"),
        ("grid", 16384, "should be [1, 268435456, 16], got [1, 16, 16]"),
        ("grid", 5, "should be [1, 25, 16], got [1, 16, 16]"),
        ("channels", 16384, "should be [16, 16384, 1, 1], got [16, 5, 1, 1]"),
        ("patch", 3, "`patch` should be a divisor of the grid 4"),
        ("patch", 2, "should be [16, 5, 2, 2], got [16, 5, 1, 1]"),
    ] {
        let place = format!("/config/denoiser/{name}");
        files.refused(&with_setting(&files.detector, &place, value.into()), contains);
    }
    let huge = json!({"channels": 16384, "grid": 16384, "width": 16384, "depth": 1024, "heads": 0, "patch": 16384});
    files.refused(&with_setting(&files.detector, "/config/denoiser", huge.clone()), "`heads`");
    files.state_refused(
        &with_setting(&files.state, "/config/config/denoiser", huge.clone()),
        "`heads`",
    );
    let mut huge = huge;
    huge["heads"] = 1.into();
    files.refused(
        &with_setting(&files.detector, "/config/denoiser", huge.clone()),
        "should be [16384",
    );
    files.state_refused(
        &with_setting(&files.state, "/config/config/denoiser", huge),
        "`parameters` should be",
    );
    for (name, value) in [
        ("batch", json!(0)),
        ("inversion_steps", json!(0)),
        ("inversion_steps", json!(1_000_000_000)),
        ("single_timestep", json!(1000)),
        ("timesteps", json!([400, 399])),
        ("timesteps", json!([0, 1000])),
        ("clip", json!(-1.0)),
        ("warmup", json!(1e300)),
        ("beta1", json!(1.5)),
        ("ema", json!({"constant": 2.0})),
    ] {
        let bytes = with_setting(&files.detector, &format!("/config/recipe/{name}"), value.clone());
        files.refused(&bytes, &format!("`{name}` should be"));
        let bytes = with_setting(&files.state, &format!("/config/config/recipe/{name}"), value);
        files.state_refused(&bytes, &format!("`{name}` should be"));
    }
    let at = |step: u64, steps: u64| {
        let bytes = with_setting(&files.state, "/config/step", step.into());
        with_setting(&bytes, "/config/config/steps", steps.into())
    };
    files.state_refused(&at(6, 5), "it is at step 6 of 5");
    files.state_refused(&at(u64::MAX, 5), "it is at step 18446744073709551615 of 5");
    files.state_refused(&at(u64::MAX, u64::MAX), "`steps` should be");
    // A recipe that says to whiten without the whitening, and the other way round.
    let bytes = with_setting(&files.detector, "/config/recipe/whiten", false.into());
    files.refused(&bytes, "tensor `whitening.bias` does not belong here");
}

#[test]
fn tensors_that_do_not_fit() {
    let files = Files::new();
    for (bytes, names, refused) in [
        (
            &files.detector,
            &[
                "denoiser.pos_embed",
                "ema.final_layer.linear.bias",
                "whitening.weight",
                "levels.mean",
                "levels.std",
                "prior.vectors.dots",
            ][..],
            Files::refused as fn(&Files, &[u8], &str),
        ),
        (&files.state, &["parameters", "ema", "m", "v", "whitening.bias"], Files::state_refused),
    ] {
        for name in names {
            let renamed = with_header(bytes, |header| {
                let header = header.as_object_mut().unwrap();
                let info = header.remove(*name).unwrap();
                header.insert("bread".into(), info);
            });
            refused(&files, &renamed, &format!("tensor `{name}` is missing"));
            let reshaped = with_header(bytes, |header| {
                let shape = header[name]["shape"].as_array_mut().unwrap();
                shape.insert(0, 1.into());
            });
            refused(&files, &reshaped, &format!("tensor `{name}` should be ["));
            let deep = with_header(bytes, |header| {
                let shape = header[name]["shape"].as_array_mut().unwrap();
                *shape = [vec![1.into(); 9], shape.clone()].concat();
            });
            refused(&files, &deep, &format!("tensor `{name}` has 1"));
            let halved = with_header(bytes, |header| {
                let shape = header[name]["shape"].as_array_mut().unwrap();
                shape.push(2.into());
                header[name]["dtype"] = "F16".into();
            });
            refused(&files, &halved, &format!("tensor `{name}` should hold F32, got F16"));
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut parts = Parts::of(bytes);
                let start = parts.header[name]["data_offsets"][0].as_u64().unwrap() as usize;
                parts.data[start + 4..][..4].copy_from_slice(&bad.to_le_bytes());
                refused(&files, &parts.bytes(), &format!("tensor `{name}` holds {bad}"));
            }
        }
        // One tensor more than there should be.
        let mut parts = Parts::of(bytes);
        let end = parts.data.len();
        parts.header["more"] =
            json!({"dtype": "F32", "shape": [1], "data_offsets": [end, end + 4]});
        parts.data.extend([0; 4]);
        refused(&files, &parts.bytes(), "tensor `more` does not belong here");
    }
    // Spreads that cannot be divided by.
    for bad in [0.0, -0.0, -1.5f32] {
        let mut parts = Parts::of(&files.detector);
        let start = parts.header["levels.std"]["data_offsets"][0].as_u64().unwrap() as usize;
        parts.data[start + 8..][..4].copy_from_slice(&bad.to_le_bytes());
        let want = format!(
            "tensor `levels.std` is of no use: Levels: `std` should be finite and above 0, got {bad}"
        );
        files.refused(&parts.bytes(), &want);
    }
    // Statistics of a category that the detector does not know, of no images, of other columns.
    let rename = |header: &mut Value| {
        let header = header.as_object_mut().unwrap();
        let info = header.remove("calibration.dots").unwrap();
        header.insert("calibration.nuts".into(), info);
    };
    let renamed = with_header(&files.detector, rename);
    files.refused(&renamed, "tensor `calibration.nuts` does not belong here");
    let reshaped = with_header(&files.detector, |header| {
        header["calibration.dots"]["shape"] = json!([2, 14]);
    });
    files.refused(&reshaped, "tensor `calibration.dots` should be (n ≥ 1, 7), got [2, 14]");
    let mut parts = Parts::of(&files.detector);
    let rows = parts.header["calibration.dots"].take();
    parts.header["calibration.dots"] =
        json!({"dtype": "F32", "shape": [0, 7], "data_offsets": [0, 0]});
    parts.header["spare"] = rows;
    files.refused(&parts.bytes(), "tensor `calibration.dots` should be (n ≥ 1, 7), got [0, 7]");
}

#[test]
fn headers_that_lie() {
    let files = Files::new();
    for (bytes, refused) in [
        (&files.detector, Files::refused as fn(&Files, &[u8], &str)),
        (&files.state, Files::state_refused),
    ] {
        let whole = bytes.len() as u64;
        for len in
            [0, 1, 8, whole - 9, whole - 8, whole, 100_000_001, 1 << 40, u64::MAX - 7, u64::MAX]
        {
            let lying = [&len.to_le_bytes()[..], &bytes[8..]].concat();
            refused(&files, &lying, "not a whole");
        }
        let name = if bytes == &files.state { "parameters" } else { "denoiser.pos_embed" };
        for shape in [json!([1u64 << 40]), json!([u64::MAX, 2]), json!([1u64 << 33, 1u64 << 33])] {
            let elements = shape.as_array().unwrap().iter();
            let bytes_claimed = elements
                .map(|n| u128::from(n.as_u64().unwrap()))
                .product::<u128>()
                .saturating_mul(4)
                .min(u128::from(u64::MAX)) as u64;
            let claims = with_header(bytes, |header| {
                header[name]["shape"] = shape.clone();
                header[name]["data_offsets"] = json!([0, bytes_claimed]);
            });
            refused(&files, &claims, "not a whole");
            let claims = with_header(bytes, |header| header[name]["shape"] = shape.clone());
            refused(&files, &claims, "not a whole");
        }
        for offsets in [json!([8, 4]), json!([u64::MAX, 0]), json!([-1, 4])] {
            let claims =
                with_header(bytes, |header| header[name]["data_offsets"] = offsets.clone());
            refused(&files, &claims, "not a whole");
        }
    }
}
