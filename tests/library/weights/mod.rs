//! Weights of files: what PyTorch wrote, and what only looks like it.

mod damaged;
mod find;
mod hub;
mod writer;

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::time::Duration;

use invad::Error;
use invad::weights::{Element, Weights};
use tempfile::tempdir;

use crate::support::memory::peak;
use crate::support::numbers::Numbers;
use writer::*;

fn read(bytes: Vec<u8>) -> Weights {
    Weights::of_bytes("weights", bytes).unwrap()
}

fn names(weights: &Weights) -> Vec<&str> {
    weights.entries().map(|(name, _)| name).collect()
}

#[test]
fn dictionaries_in_dictionaries() {
    let floats = View::FLOATS.pickled();
    let object = dict(&[
        (text("epoch"), int(7)),
        (text("lr"), [b"G".to_vec(), 0.1f64.to_be_bytes().to_vec()].concat()),
        (text("model"), dict(&[(text("module.net.a.weight"), floats.clone())])),
        (text("optimizer"), dict(&[(int(3), dict(&[(text("exp_avg"), floats.clone())]))])),
        (text("list"), list(&[b"N".to_vec(), floats.clone(), tuple(&[floats])])),
        // Nothing that would need a name.
        (tuple(&[]), b"N".to_vec()),
    ]);
    let open = || read(file(&object));
    let all = ["list.1", "list.2.0", "model.module.net.a.weight", "optimizer.3.exp_avg"];
    assert_eq!(names(&open()), all);
    let model = open().below("model").unwrap();
    assert_eq!(names(&model), ["module.net.a.weight"]);
    let model = model.without_prefixes(&["backbone.", "module.", "net."]).unwrap();
    assert_eq!(model.f32s("a.weight", &[2, 3]).unwrap(), FLOATS);
    let deeper = open().below("optimizer.3").unwrap();
    assert_eq!(names(&deeper), ["exp_avg"]);

    let of_network = |weights: &Weights, names: &[&str]| {
        let expected = names.iter().map(|name| (name.to_string(), vec![2, 3]));
        weights.require(expected).unwrap_err().to_string()
    };
    let error = of_network(&open(), &["a.weight"]);
    let says = "weights: not the weights of this network; missing: `a.weight`; not asked for: `list.1`, `list.2.0`, \
                `model.module.net.a.weight` and 1 more; are they what is below `model.module.net` (--below \
                model.module.net)?";
    assert_eq!(error, says);
    // Not all of them are.
    let error = of_network(&open(), &["a.weight", "b.weight"]);
    assert!(!error.contains("--below"), "{error}");

    let error = open().below("mode").unwrap_err().to_string();
    let has = "weights: there is nothing below `mode`; it has `list`, `model`, `optimizer`";
    assert_eq!(error, has);
    let error = deeper.bytes("a").unwrap_err().to_string();
    assert_eq!(error, "weights: there is no tensor `a`");
    let two =
        dict(&[(text("a"), View::FLOATS.pickled()), (text("module.a"), View::FLOATS.pickled())]);
    let error = read(file(&two)).without_prefixes(&["module."]).unwrap_err();
    assert!(matches!(error, Error::File { .. }), "{error}");
}

#[test]
fn any_type_of_numbers() {
    let bytes: Vec<u8> = (1..=48).collect();
    for (class, element) in [
        ("DoubleStorage", Element::F64),
        ("FloatStorage", Element::F32),
        ("HalfStorage", Element::F16),
        ("BFloat16Storage", Element::Bf16),
        ("LongStorage", Element::I64),
        ("IntStorage", Element::I32),
        ("ShortStorage", Element::I16),
        ("CharStorage", Element::I8),
        ("ByteStorage", Element::U8),
        ("BoolStorage", Element::Bool),
    ] {
        let width = element.size();
        let view = View { class, ..View::FLOATS };
        let mut records = records(&dict(&[(text("a"), view.pickled())]));
        records[2].data = bytes[..6 * width].to_vec();
        let weights = read(archive(&records));
        assert_eq!(weights.entry("a").unwrap().element, element);
        assert_eq!(weights.bytes("a").unwrap(), &bytes[..6 * width]);
    }
}

/// Views of random shapes, strides and offsets against their definition; a file before PyTorch 1.6 alike.
#[test]
fn views_are_gathered() {
    let mut numbers = Numbers::new(3);
    let mut strided = 0;
    for _ in 0..2000 {
        let axes = numbers.below(4);
        let mut draw = |n| (0..axes).map(|_| numbers.below(n) as i64).collect::<Vec<_>>();
        let (size, stride) = (draw(4), draw(3));
        let offset = numbers.below(3) as i64;
        let last = size.iter().zip(&stride).map(|(size, stride)| (size - 1) * stride).sum::<i64>();
        let len = size.iter().product::<i64>();
        let view = View { offset, size: &size, stride: &stride, ..View::FLOATS };
        let fits = len == 0 || offset + last < 6;
        let mut want = Vec::new();
        for i in 0..if fits { len } else { 0 } {
            let (mut left, mut at) = (i, offset);
            for (size, stride) in size.iter().zip(&stride).rev() {
                at += left % size * stride;
                left /= size;
            }
            want.push(FLOATS[at as usize]);
        }
        let shape: Vec<usize> = size.iter().map(|&n| n as usize).collect();
        for bytes in [
            file(&dict(&[(text("a"), view.pickled())])),
            Legacy::new(dict(&[(text("a"), view.legacy())])).bytes(),
        ] {
            match Weights::of_bytes("weights", bytes) {
                Ok(weights) if fits => assert_eq!(weights.f32s("a", &shape).unwrap(), want),
                Err(_) if !fits => {}
                other => panic!("{size:?} {stride:?} {offset}: {other:?}"),
            }
        }
        strided += usize::from(fits && len > 1);
    }
    assert!(strided > 200, "{strided}");
}

/// An archive of more than 4 GiB, of which no more is read than what is asked for.
#[test]
fn beyond_4_gib() {
    let large: i64 = (1 << 30) + 11;
    let object = pickle(&dict(&[
        (
            text("large"),
            View { count: large, size: &[large], stride: &[1], ..View::FLOATS }.pickled(),
        ),
        (text("small"), View { key: "1", ..View::FLOATS }.pickled()),
    ]));
    let folder = tempdir().unwrap();
    let path = folder.path().join("large.pth");
    let mut file = File::create(&path).unwrap();
    let mut directory = Vec::new();
    let records = [
        ("a/data/0", &[][..], 4 * large as u64),
        ("a/data/1", &floats(), 24),
        ("a/data.pkl", &object, 0),
    ];
    for (name, data, len) in records {
        let at = file.stream_position().unwrap();
        let len = len.max(data.len() as u64);
        let name_len = (name.len() as u16).to_le_bytes();
        let sizes = [len.to_le_bytes(), len.to_le_bytes()].concat();
        let local = [b"\x01\0\x10\0", &sizes[..]].concat();
        let central = [b"\x01\0\x18\0", &sizes[..], &at.to_le_bytes()].concat();
        let header = [
            b"PK\x03\x04",
            &[0; 14][..],
            &[0xff; 8],
            &name_len,
            &[20, 0],
            name.as_bytes(),
            &local,
            data,
        ];
        file.write_all(&header.concat()).unwrap();
        // A hole in the file.
        file.seek(SeekFrom::Current((len - data.len() as u64) as i64)).unwrap();
        directory.extend(
            [
                b"PK\x01\x02",
                &[0; 16][..],
                &[0xff; 8],
                &name_len,
                &[28, 0],
                &[0; 10],
                &[0xff; 4],
                name.as_bytes(),
                &central,
            ]
            .concat(),
        );
    }
    let at = file.stream_position().unwrap();
    let end = at + directory.len() as u64;
    let [count, len, at, end] = [3, directory.len() as u64, at, end].map(u64::to_le_bytes);
    let mut tail = directory;
    tail.extend(
        [b"PK\x06\x06\x2c\0\0\0\0\0\0\0", &[0; 12][..], &count, &count, &len, &at].concat(),
    );
    tail.extend([b"PK\x06\x07\0\0\0\0", &end[..], &[1, 0, 0, 0]].concat());
    tail.extend([b"PK\x05\x06", &[0; 4][..], &[0xff; 12], &[0; 2]].concat());
    file.write_all(&tail).unwrap();
    drop(file);

    let (weights, opened) = peak(|| Weights::open(&path).unwrap());
    assert_eq!(weights.entry("large").unwrap().shape, [large as usize]);
    let (small, taken) = peak(|| weights.f32s("small", &[2, 3]).unwrap());
    assert_eq!(small, FLOATS);
    assert!(opened < 1 << 20 && taken < 1 << 10, "{opened} bytes, then {taken}");
}

/// What a file holds and what is known of it belong together.
#[test]
fn a_file_that_is_written_to_meanwhile() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("weights.pth");
    let whole = file(&dict(&[(text("a"), View::FLOATS.pickled())]));
    let refused = |change: &dyn Fn()| {
        std::fs::write(&path, &whole).unwrap();
        let weights = Weights::open(&path).unwrap();
        assert_eq!(weights.f32s("a", &[2, 3]).unwrap(), FLOATS);
        change();
        for error in [weights.f32s("a", &[2, 3]).unwrap_err(), weights.hash().unwrap_err()] {
            assert!(matches!(error, Error::Io { .. }), "{error}");
            assert!(error.to_string().contains("was written to since it was opened"), "{error}");
        }
    };
    refused(&|| std::fs::write(&path, b"").unwrap());
    refused(&|| File::options().append(true).open(&path).unwrap().write_all(b"x").unwrap());
    // As long, and the time says so.
    refused(&|| {
        let changed = File::options().write(true).open(&path).unwrap();
        let later = changed.metadata().unwrap().modified().unwrap() + Duration::from_secs(2);
        changed.set_modified(later).unwrap();
    });
    // Another file in its place is not this one.
    let weights = Weights::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(weights.f32s("a", &[2, 3]).unwrap(), FLOATS);
    let error = Weights::open(folder.path()).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_not_waited_for() {
    let error = Weights::open("/dev/null").unwrap_err();
    assert!(error.to_string().contains("no regular file"), "{error}");
}
