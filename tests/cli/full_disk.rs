//! Disks that are full, and folders where nothing may be written.

use super::*;

/// A way to have a program meet the end of a disk.
#[derive(Clone, Copy, Debug)]
enum Disk {
    /// A file system of its own of so many kilobytes, where the system lets us make one.
    Own(u32),
    /// Files may not become larger than so many kilobytes. The signal is ignored, so that it is an
    /// error as on a full disk.
    Quota(u32),
    /// A file system of its own that is read-only.
    ReadOnly,
}

/// Whether this user can have file systems of its own.
fn own_disks() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        let mount = ["-rm", "mount", "-t", "tmpfs", "tmpfs"];
        let ran = Command::new("unshare").args(mount).arg(folder.path()).output();
        ran.is_ok_and(|ran| ran.status.success())
    })
}

/// Runs a program with `out` on such a disk; what is there before and after is in `out`.
fn on(disk: Disk, command: &Command, out: &Path) -> Ran {
    let keep = TempDir::new().unwrap();
    let script = match disk {
        Disk::Quota(size) => format!("trap '' XFSZ; ulimit -f {}; shift 2; exec \"$@\"", 2 * size),
        Disk::Own(_) | Disk::ReadOnly => {
            let (size, then) = match disk {
                Disk::Own(size) => (size, ""),
                _ => (1 << 16, "mount -o remount,ro \"$out\""),
            };
            format!(
                "out=$1 keep=$2; shift 2; mkdir -p \"$out\" && cp -a \"$out/.\" \"$keep\" \
                 && mount -t tmpfs -o size={size}k tmpfs \"$out\" && cp -a \"$keep/.\" \"$out\" || exit 99
                 {then}
                 \"$@\"; code=$?; rm -rf \"$keep\"; cp -a \"$out\" \"$keep\" || exit 99; exit $code"
            )
        }
    };
    let mut wrapped = match disk {
        Disk::Quota(_) => Command::new("sh"),
        _ => {
            let mut unshare = Command::new("unshare");
            unshare.args(["-rm", "sh"]);
            unshare
        }
    };
    wrapped.arg("-c").arg(script).arg("sh").arg(out).arg(keep.path());
    wrapped.arg(command.get_program()).args(command.get_args());
    let ran = wrapped.env_remove("RUST_LOG").stdin(Stdio::null()).run();
    if !matches!(disk, Disk::Quota(_)) {
        let _ = fs::remove_dir_all(out);
        fs::rename(keep.path(), out).unwrap();
    }
    ran
}

#[test]
fn a_full_disk_costs_nothing_that_was_there() {
    const STEPS: u64 = 16;
    let data = &shared().data;
    let root = TempDir::new().unwrap();
    let (out, whole) = (root.path().join("out"), root.path().join("whole"));
    train(data, &whole, STEPS).run().expect(0);
    let size = |name: &str| fs::metadata(whole.join(name)).unwrap().len() as u32 / 1024;
    let (state, detector) = (size("training.safetensors"), size("detector.safetensors"));
    assert!(detector / 2 < state - 64);

    // The training stops with its state saved; there is no room for the next.
    let stopped = root.path().join("stopped");
    let mut first = train(data, &stopped, STEPS);
    let mut child = first.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let log = || fs::read_to_string(stopped.join("training.csv")).unwrap_or_default();
    while log().lines().count() < 3 {
        assert!(child.try_wait().unwrap().is_none(), "it ended early");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let saved = fs::read(stopped.join("training.safetensors")).unwrap();

    let own = [Disk::Own(state / 2), Disk::Own(state + detector / 2), Disk::Own(2 * state - 64)];
    let quota = [Disk::Quota(state / 2), Disk::Quota(detector / 2), Disk::Quota(state - 64)];
    let disks = if own_disks() { own } else { quota };
    let mut tried = 0;
    for disk in disks {
        let mut resume = train(data, &out, STEPS);
        for name in ["training.safetensors", "training.csv"] {
            fs::create_dir_all(&out).unwrap();
            fs::copy(stopped.join(name), out.join(name)).unwrap();
        }
        // What does not even hold the state cannot be a disk that it lies on.
        if !matches!(disk, Disk::Own(size) if size < state) {
            resume.arg("--resume");
            let ran = on(disk, &resume, &out);
            ran.refused(&[out.to_str().unwrap(), "safetensors: "]);
            let kept = TrainingState::load(out.join("training.safetensors")).unwrap();
            let before = fs::read(out.join("training.safetensors")).unwrap() == saved;
            assert!(before || kept.step == STEPS, "{disk:?}");
            assert!(!out.join("detector.safetensors").exists());
            assert!(files(&out).iter().all(|f| f.extension().is_some_and(|e| e != "tmp")));
            // With room again, it goes on.
            resume.run().expect(0);
            for name in ["detector.safetensors", "training.safetensors", "training.csv"] {
                let same = fs::read(whole.join(name)).unwrap() == fs::read(out.join(name)).unwrap();
                assert!(same, "{disk:?}: {name} differs");
            }
        } else {
            fs::remove_dir_all(&out).unwrap();
            on(disk, &resume, &out).refused(&["training.safetensors: "]);
            assert_eq!(files(&out), ["training.csv"].map(PathBuf::from));
        }
        tried += 1;
        fs::remove_dir_all(&out).unwrap();
    }

    // Scores: none of the records, and pictures that are whole.
    for size in [4, 24, 40] {
        let disk = if own_disks() { Disk::Own(size) } else { Disk::Quota(size.min(10)) };
        let mut scoring = score(&shared().detector, &out);
        scoring.arg(data);
        on(disk, &scoring, &out).refused(&[out.to_str().unwrap()]);
        for file in files(&out) {
            assert!(file.components().count() > 1, "{disk:?}: {}", file.display());
            if file.extension().is_some_and(|e| e == "png") {
                load_image(out.join(&file)).unwrap();
            }
        }
        tried += 1;
        fs::remove_dir_all(&out).unwrap();
    }
    let kind = if own_disks() { "a file system" } else { "a largest size of files" };
    println!("| a full disk ({kind}) | {tried} runs | {tried} refused in one line | 0 | 0 |");
}

#[test]
fn read_only_folders() {
    let Shared { data, detector, .. } = shared();
    let root = TempDir::new().unwrap();
    let out = root.path().join("out");
    let mut programs = [
        train(data, &out, 5),
        score(detector, &out),
        evaluate(detector, data, &out),
        program("quickstart"),
    ];
    programs[1].arg(data);
    programs[3].arg("--out").arg(&out);
    let mut refused = 0;
    for command in &mut programs {
        fs::create_dir_all(&out).unwrap();
        if own_disks() {
            fs::write(out.join("mine"), "kept").unwrap();
            on(Disk::ReadOnly, command, &out).refused(&[out.to_str().unwrap(), "Read-only"]);
            assert_eq!(files(&out), ["mine"].map(PathBuf::from));
            refused += 1;
            continue;
        }
        // Permissions do not bind every user; folders of the system do.
        let mut permissions = fs::metadata(&out).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(&out, permissions).unwrap();
        if fs::write(out.join("probe"), "").is_err() {
            command.run().refused(&[out.to_str().unwrap(), "Permission denied"]);
            refused += 1;
        } else {
            println!("this user may write everywhere and mount nothing: not tried");
        }
    }
    println!("| a read-only folder | {refused} programs | {refused} refused in one line | 0 | 0 |");
}
