//! Folders of very many images.

use std::time::{Duration, Instant};

use super::*;

/// What a program wrote to standard error, and its largest memory in kilobytes.
fn peak(command: &mut Command, log: &Path) -> (String, u64) {
    let file = fs::File::create(log).unwrap();
    let mut child = command.stdout(Stdio::null()).stderr(file).spawn().unwrap();
    let status = PathBuf::from(format!("/proc/{}/status", child.id()));
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let size = line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok());
        peak = size.unwrap_or(peak);
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(matches!(child.wait().unwrap().code(), Some(0 | 4)));
    (fs::read_to_string(log).unwrap(), peak)
}

/// Links to one image; most of them to one that is empty, which takes less time.
fn fill(folder: &Path, images: usize, whole: usize) {
    fs::create_dir_all(folder).unwrap();
    let image = put(folder.with_extension("png"), RgbImage::from_pixel(8, 8, Rgb([90, 80, 70])));
    let empty = folder.with_extension("empty");
    fs::write(&empty, "").unwrap();
    // A file has a largest number of names.
    for n in 0..images {
        let to = if n.is_multiple_of(images / whole) { &image } else { &empty };
        let name = folder.join(format!("{:02}/{n:06}.png", n % 100));
        fs::create_dir_all(name.parent().unwrap()).unwrap();
        if fs::hard_link(to, &name).is_err() {
            fs::copy(to, &name).unwrap();
        }
    }
}

#[test]
fn a_hundred_thousand_images_take_no_more_memory() {
    const MANY: usize = 100_000;
    const FEW: usize = 5000;
    let root = TempDir::new().unwrap();
    let run = |images: usize, whole: usize| {
        let folder = root.path().join(images.to_string());
        fill(&folder, images, whole);
        let out = root.path().join(format!("out-{images}"));
        let mut command = score(&shared().detector, &out);
        command.arg("--no-pictures").arg(&folder);
        let start = Instant::now();
        let (log, peak) = peak(&mut command, &root.path().join("log"));
        let lines = json_lines(out.join("scores.jsonl"));
        assert_eq!(lines.len(), images);
        assert_eq!(lines.iter().filter(|line| line.get("error").is_none()).count(), whole);
        println!("{images} images: {:.1} s, at most {peak} kB", start.elapsed().as_secs_f64());
        (log, peak)
    };
    let (_, few) = run(FEW, FEW / 500);
    let (log, many) = run(MANY, MANY / 500);
    assert!(log.contains(&format!("scoring: {MANY} images in ")), "no progress was shown");
    let growth = many.saturating_sub(few) * 1024 / (MANY - FEW) as u64;
    assert!(growth < 1000, "{growth} bytes more for each image: {few} kB, {many} kB");
    println!(
        "| a folder of {MANY} images | {MANY} files | {growth} bytes of memory for each more image \
         | 0 | 0 |"
    );
}
