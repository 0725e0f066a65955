//! Files that are cut off, damaged, or made to do harm.

use std::path::Path;

use super::*;

/// What any file may take: what it describes as much as its size and 4 MiB, in lists that double as they grow.
fn allowed(len: usize) -> usize {
    3 * (len + (4 << 20)) + (4 << 20)
}

/// Asserts that a file is refused for this reason, in memory and on disk, with little memory.
#[track_caller]
fn refused(bytes: &[u8], reason: &str) {
    let bytes = bytes.to_vec();
    let len = bytes.len();
    let folder = tempdir().unwrap();
    let path = folder.path().join("weights");
    std::fs::write(&path, &bytes).unwrap();
    let (result, taken) = peak(|| Weights::of_bytes("weights", bytes));
    let error = result.expect_err(reason);
    assert!(matches!(&error, Error::File { path, .. } if path == Path::new("weights")), "{error}");
    let text = error.to_string();
    assert!(text.contains(reason), "`{text}` should contain `{reason}`");
    assert!(!text.contains('\n') && text.len() < 500, "{text}");
    assert!(taken < allowed(len), "{reason}: {taken} bytes for a file of {len}");
    let on_disk = Weights::open(&path).unwrap_err().to_string();
    assert!(on_disk.ends_with(text.strip_prefix("weights").unwrap()), "{on_disk}");
}

/// Asserts that an object is refused in an archive, and that the archive is what it takes for others.
#[track_caller]
fn object_refused(object: &[u8], reason: &str) {
    refused(&file(object), reason);
}

fn good() -> [Vec<u8>; 2] {
    let legacy = dict(&[(text("a"), View::FLOATS.legacy())]);
    [file(&state_dict("a")), Legacy::new(legacy).bytes()]
}

#[test]
fn cut_off_anywhere() {
    for bytes in good() {
        read(bytes.clone());
        for len in 0..bytes.len() {
            let error = Weights::of_bytes("weights", bytes[..len].to_vec()).unwrap_err();
            assert!(matches!(error, Error::File { .. }), "{len}: {error}");
        }
    }
}

#[test]
fn changed_bytes_do_not_panic() {
    let mut numbers = Numbers::new(5);
    let (mut loaded, mut errors) = (0, 0);
    for bytes in good() {
        for i in 0..6000 {
            let mut bytes = bytes.clone();
            for _ in 0..1 + i % 3 {
                let at = numbers.below(bytes.len());
                match i % 8 {
                    0..4 => bytes[at] ^= 1 << numbers.below(8),
                    4 | 5 => bytes[at] = numbers.below(256) as u8,
                    6 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, numbers.below(256) as u8),
                }
            }
            let len = bytes.len();
            let (result, taken) = peak(|| {
                let weights = Weights::of_bytes("weights", bytes)?;
                weights.entries().try_for_each(|(name, _)| weights.bytes(name).map(drop))
            });
            match result {
                Ok(()) => loaded += 1,
                Err(Error::File { .. }) => errors += 1,
                Err(other) => panic!("{other}"),
            }
            assert!(taken < allowed(len), "{taken} bytes");
        }
    }
    assert!(loaded > 1000 && errors > 1000, "{loaded} loaded, {errors} errors");
    println!(
        "| PyTorch files with changed bytes | {} files | {loaded} read, {errors} refused | 0 | 0 |",
        loaded + errors
    );
}

/// What would be called is named, and nothing else happens.
#[test]
fn nothing_is_called() {
    let folder = tempdir().unwrap();
    let sentinel = folder.path().join("executed");
    let touch = text(&format!("touch '{}'", sentinel.display()));
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("__builtin__", "exec"),
        ("subprocess", "Popen"),
        ("torch", "load"),
        ("torch", "UntypedStorage"),
        ("torch.storage", "FloatStorage"),
        ("collections", "OrderedDict.fromkeys"),
        ("torch._utils", "_rebuild_tensor"),
    ] {
        let call = call(global(module, name), std::slice::from_ref(&touch));
        let named = format!("it names `{module}.{name}`");
        object_refused(&dict(&[(text("a"), call.clone())]), &named);
        refused(&Legacy::new(call.clone()).bytes(), &named);
        // As a key of the list of storages, and where the machine is described.
        let mut legacy = Legacy::new(dict(&[(text("a"), View::FLOATS.legacy())])).bytes();
        legacy.splice(MAGIC.len().., pickle(&call));
        refused(&legacy, &named);
    }
    object_refused(&global("os\\\u{1b}[31m", "system"), "it names `os\\\\\\u{1b}[31m.system`");
    object_refused(&global(&"a".repeat(2000), "b"), "a name has more than 1000 bytes");
    for (global, reason) in [
        (global("torch", "FloatStorage"), "Storage(F32) should not be called"),
        (global("torch._utils", "_rebuild_tensor_v2"), "a tensor has other arguments"),
    ] {
        object_refused(&call(global, std::slice::from_ref(&touch)), reason);
    }
    let ordered = global("collections", "OrderedDict");
    object_refused(
        &call(ordered, &[list(std::slice::from_ref(&touch))]),
        "should not be called with",
    );
    object_refused(&call(touch.clone(), &[]), "it calls what is no function");
    object_refused(&call(ordered_dict(), &[]), "it calls what is no function");
    let parameter = global("torch._utils", "_rebuild_parameter");
    object_refused(
        &call(parameter, &[touch.clone(), b"N".to_vec(), b"N".to_vec()]),
        "a parameter is no tensor",
    );
    for (object, kind) in [
        (View::FLOATS.pickled(), "a tensor"),
        (dict(&[]), "a plain dictionary"),
        (list(&[]), "a list"),
        (touch, "a text"),
    ] {
        let built = [object, dict(&[]), b"b".to_vec()].concat();
        object_refused(&built, &format!("it sets attributes of {kind}"));
    }
    object_refused(&[ordered_dict(), text("a"), b"b".to_vec()].concat(), "it sets attributes of");
    // OBJ, INST, NEWOBJ, STACK_GLOBAL, EXT1, PERSID.
    for instruction in [b'o', b'i', 0x81, 0x93, 0x82, b'P'] {
        object_refused(&[b'(', instruction], &format!("instruction 0x{instruction:02x} is none"));
    }
    assert!(!sentinel.exists());
}

#[test]
fn views_outside_of_their_storage() {
    const MAX: i64 = i64::MAX;
    let of = View::FLOATS;
    for view in [
        View { offset: 1, ..of },
        View { offset: MAX, ..of },
        View { size: &[2, 4], ..of },
        View { stride: &[4, 1], ..of },
        View { stride: &[MAX, 1], ..of },
        View { stride: &[MAX, MAX], ..of },
        View { size: &[MAX, 2], stride: &[MAX, MAX], ..of },
        View { size: &[6], ..of },
        View { size: &[], stride: &[], offset: 6, ..of },
        // Repeated more often than can be counted, and none of what cannot be counted.
        View { size: &[MAX, MAX], stride: &[0, 0], ..of },
        View { size: &[MAX, MAX, 0], stride: &[0, 0, 0], ..of },
    ] {
        object_refused(
            &dict(&[(text("a"), view.pickled())]),
            "does not lie within its storage of 6",
        );
        let legacy = dict(&[(text("a"), view.legacy())]);
        refused(&Legacy::new(legacy).bytes(), "does not lie within its storage of 6");
    }
    for view in [
        View { offset: -1, ..of },
        View { size: &[-1, 3], ..of },
        View { stride: &[-3, 1], offset: 3, ..of },
    ] {
        object_refused(&view.pickled(), "is negative or no whole number");
    }
    let repeated = View { size: &[1 << 40], stride: &[0], ..of };
    object_refused(
        &dict(&[(text("a"), repeated.pickled())]),
        "`a` repeats its numbers to 4398046511104 bytes, and the file has",
    );
    for count in [5, 7, 1 << 61, MAX] {
        let view = View { count, size: &[1], stride: &[1], ..of };
        object_refused(
            &dict(&[(text("a"), view.pickled())]),
            "`data/0` has 24 bytes, and should hold",
        );
        let legacy = Legacy::new(dict(&[(text("a"), view.legacy())]));
        refused(&legacy.bytes(), "its storage `0` has 6 elements, and should have");
        let reason = match count {
            5 => "bytes follow the last storage",
            _ => "its storage `0` ends beyond the end of the file",
        };
        refused(&Legacy { count, ..legacy }.bytes(), reason);
    }
    object_refused(&View { count: -1, ..of }.pickled(), "a storage is described otherwise");
    object_refused(&View { key: "7", ..of }.pickled(), "there is no record `data/7`");
    object_refused(&View { key: "../0", ..of }.pickled(), "there is no record `data/../0`");
    object_refused(&View { class: "DoubleStorage", ..of }.pickled(), "6 elements of F64");
}

#[test]
fn pickles_that_are_none() {
    for (object, reason) in [
        (&b"h\x05"[..], "nothing was remembered as 5"),
        (b"j\xff\xff\xff\xff", "nothing was remembered as 4294967295"),
        (b"q\x00", "nothing is on the stack"),
        (b"", "ends with 0 values"),
        (b"NN", "ends with 2 values"),
        (b"(N", "ends with 1 values"),
        (b"N\x86", "too few values on the stack"),
        (b"N(N\x86", "too few values on the stack"),
        (b"t", "finds no mark"),
        (b"Q", "too few values"),
        (b"NR", "too few values"),
        (b"}Na", "what is appended to is a plain dictionary"),
        (b"]NNs", "what gets a key is a list"),
        (b"}(Nu", "a key comes without a value"),
        (b"NNa", "should find an object"),
        (b"\x80\x04", "it has pickle protocol 4, and 2 is read"),
        (b"\x8b\xff\xff\xff\x7f", "its pickle is cut off"),
        (b"\x8b\xff\xff\xff\xff", "a number should have -1 bytes"),
        (b"X\xff\xff\xff\xffa", "its pickle is cut off"),
        // BINUNICODE8, of protocol 4.
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffa", "instruction 0x8d is none"),
        (b"X\x02\0\0\0\xff\xfe", "a text of its pickle is not UTF-8"),
        (b"}(NX\x01\0\0\0a}u", "a key comes without a value"),
        (b"})}s", "neither text nor a whole number"),
    ] {
        object_refused(object, reason);
    }
    let twice = dict(&[
        (text("a.b"), View::FLOATS.pickled()),
        (text("a"), dict(&[(text("b"), View::FLOATS.pickled())])),
    ]);
    object_refused(&twice, "two of its tensors are `a.b`");
}

/// Little that stands for much.
#[test]
fn bombs() {
    // Each list holds the one before twice, 60 times.
    let mut lists = b"(]q\0".to_vec();
    for i in 0..60 {
        lists.extend([b']', b'q', i + 1, b'(', b'h', i, b'h', i, b'e']);
    }
    lists.push(b't');
    object_refused(&lists, "much more memory than the file has bytes");
    // The same of dictionaries, with a tensor in the first.
    let mut dicts = [b"(", &dict(&[(text("a"), View::FLOATS.pickled())])[..], b"q\0"].concat();
    for i in 0..60 {
        let entries = [text("a"), vec![b'h', i], text("b"), vec![b'h', i]].concat();
        dicts.extend([&[b'}', b'q', i + 1, b'('][..], &entries, b"u"].concat());
    }
    dicts.push(b't');
    object_refused(&dicts, "much more memory than the file has bytes");
    // What holds itself.
    object_refused(b"]q\0h\0a", "nested deeper than 64");
    object_refused(&[b"}q\0", &text("a")[..], b"h\0s"].concat(), "nested deeper than 64");
    // A million levels.
    object_refused(&[b']'; 1_000_000], "more than 65536 values wait on the stack");
    let deep: Vec<u8> = [&b")"[..], &[0x85; 60_000]].concat();
    object_refused(&deep, "nested deeper than 64");
    object_refused(&[b'('; 100_000], "more than 65536 values wait on the stack");
    // Objects of more memory than bytes that make them.
    let tuples: Vec<u8> = std::iter::once(b'(').chain(b"))))))))))t(".repeat(200_000)).collect();
    object_refused(&tuples, "much more memory than the file has bytes");
    let lists = [&b"]"[..], &b"]a".repeat(1_000_000)].concat();
    object_refused(&lists, "much more memory than the file has bytes");
    let memo: Vec<u8> =
        (0..500_000u32).flat_map(|i| [&b"r"[..], &i.to_le_bytes()].concat()).collect();
    object_refused(&[b"N", &memo[..]].concat(), "much more memory than the file has bytes");
    let numbers = [&b"]("[..], &b"N".repeat(60_000), b"e"].concat();
    read(file(&dict(&[(text("many"), numbers)])));
}

#[test]
fn archives_that_are_none() {
    let records = records(&state_dict("a"));
    let changed = |change: &dyn Fn(&mut Vec<Record>)| {
        let mut records = records.clone();
        change(&mut records);
        archive(&records)
    };
    let (pkl, order, storage) = (0, 1, 2);
    for (bytes, reason) in [
        (changed(&|r| r.push(r[storage].clone())), "its record `some/data/0` is there twice"),
        (changed(&|r| r.push(Record::new("other/data.pkl", b""))), "is in a second folder"),
        (changed(&|r| r[storage].name = "/data/0".into()), "is not named as one in a folder"),
        (changed(&|r| r[storage].name = "some/../../0".into()), "is not named as one in a folder"),
        (changed(&|r| r[storage].name = "C:".into()), "is not named as one in a folder"),
        (changed(&|r| r[storage].name = "some/data/".into()), "is not named as one in a folder"),
        (changed(&|r| r[storage].name = "some/data/1".into()), "there is no record `data/0`"),
        (changed(&|r| drop(r.remove(pkl))), "without a record `data.pkl`"),
        (changed(&Vec::clear), "without a record `data.pkl`"),
        (changed(&|r| r[order].data = b"big".to_vec()), "does not say `little`"),
        (changed(&|r| r[order].data = b"bigger".to_vec()), "does not say `little`"),
        (changed(&|r| r[storage].method = 8), "its record `data/0` is compressed"),
        (changed(&|r| r[pkl].method = 8), "its record `data.pkl` is compressed"),
        (changed(&|r| r[storage].len = Some(u32::MAX - 1)), "ends beyond the end of the file"),
        (changed(&|r| r[pkl].len = Some(1 << 30)), "ends beyond the end of the file"),
        (changed(&|r| r[storage].at = Some(1 << 30)), "lies beyond the end of the file"),
        (changed(&|r| r[storage].at = Some(5)), "cut off or damaged"),
        (changed(&|r| r[storage].len = Some(20)), "has 20 bytes, and should hold 6 elements"),
        (changed(&|r| r[pkl].len = Some(20)), "its pickle is cut off"),
    ] {
        refused(&bytes, reason);
    }
    let good = archive(&records);
    let end = good.len() - 22;
    // The length of the directory and where it should begin.
    for (len, at) in [(5, u32::MAX - 1), (0, end as u32 + 1), (3, 7), (u32::MAX, u32::MAX)] {
        let mut bytes = good.clone();
        bytes[end + 12..][..4].copy_from_slice(&len.to_le_bytes());
        bytes[end + 16..][..4].copy_from_slice(&at.to_le_bytes());
        refused(&bytes, "cut off or damaged");
    }
    refused(b"PK\x03\x04", "cut off or damaged");
    refused(b"", "no whole file of safetensors, and none of PyTorch");
    refused(b"\x80\x04\x95 a pickle, but not of torch.save", "no whole file of safetensors");
}

#[test]
fn legacy_files_that_are_none() {
    let object = dict(&[(text("a"), View::FLOATS.legacy())]);
    let good = Legacy::new(object.clone());
    refused(&Legacy { protocol: 1000, ..good.clone() }.bytes(), "its protocol is not 1001");
    let big = Legacy { little_endian: false, ..good.clone() };
    refused(&big.bytes(), "does not say that its numbers are `little_endian`");
    refused(&Legacy { keys: vec![], ..good.clone() }.bytes(), "its storage `0` is not there");
    let twice = "its storage `0` is there twice, or belongs to no tensor";
    refused(&Legacy { keys: vec!["0", "0"], ..good.clone() }.bytes(), twice);
    refused(
        &Legacy { keys: vec!["0", "1"], ..good.clone() }.bytes(),
        "its storage `1` is there twice",
    );
    refused(&Legacy { count: -1, ..good.clone() }.bytes(), "has -1 elements");
    refused(&[good.bytes(), vec![0]].concat(), "1 bytes follow the last storage");
    let small = View { count: 2, size: &[2], stride: &[1], ..View::FLOATS };
    let two = dict(&[(text("a"), View::FLOATS.legacy()), (text("b"), small.legacy())]);
    refused(&Legacy { object: two, ..good.clone() }.bytes(), "is described in two ways");
    // A part of a storage, as PyTorch before 0.4 had them.
    let mut part = object.clone();
    let none = part.windows(3).position(|at| at == b"NtQ").unwrap();
    part.splice(none..=none, tuple(&[]));
    refused(&Legacy { object: part, ..good }.bytes(), "a storage is described otherwise");
}
