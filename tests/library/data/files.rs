//! What is written, whole or not at all.

use super::*;

fn files(folder: &TempDir) -> usize {
    folder.path().read_dir().unwrap().count()
}

#[test]
fn written_whole_or_not_at_all() {
    let folder = TempDir::new().unwrap();
    let path = put(&folder, "file", "before");
    let failed = write_atomic(&path, |file| {
        use std::io::Write;
        file.write_all(b"half")?;
        Err(std::io::Error::other("the disk is full"))
    });
    refused(failed, &path, "the disk is full");
    assert_eq!(fs::read(&path).unwrap(), b"before");
    assert_eq!(files(&folder), 1);

    write_atomic(&path, |file| std::io::Write::write_all(file, b"after")).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"after");
    assert_eq!(files(&folder), 1);
}

#[test]
fn where_nothing_can_be_written() {
    let folder = TempDir::new().unwrap();
    let missing = folder.path().join("no/file");
    refused(write_atomic(&missing, |_| Ok(())), &missing, "No such file");
    refused(write_atomic(folder.path(), |_| Ok(())), folder.path(), "directory");
    assert_eq!(files(&folder), 0);
}

#[cfg(unix)]
#[test]
fn others_may_read_what_the_umask_allows() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().unwrap();
    let plain = put(&folder, "plain", "x");
    let path = folder.path().join("atomic");
    write_atomic(&path, |_| Ok(())).unwrap();
    let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode();
    assert_eq!(mode(&path), mode(&plain));
}

#[test]
fn pictures_and_maps_come_back() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("picture.png");
    write_png(&path, &picture(9, 7)).unwrap();
    assert_eq!(load_image(&path).unwrap(), picture(9, 7));
    let grey = GrayImage::from_pixel(3, 2, Luma([255]));
    write_png(&path, &grey).unwrap();
    assert_eq!(image::open(&path).unwrap(), DynamicImage::from(grey));

    let path = folder.path().join("map.tiff");
    let map = [0.0, -1.5, f32::MIN_POSITIVE, 1e30, f32::INFINITY, f32::NAN];
    write_map(&path, &map, 3, 2).unwrap();
    let mut tiff = tiff::decoder::Decoder::new(fs::File::open(&path).unwrap()).unwrap();
    assert_eq!(tiff.dimensions().unwrap(), (3, 2));
    let tiff::decoder::DecodingResult::F32(got) = tiff.read_image().unwrap() else {
        panic!("not 32-bit floats")
    };
    assert!(got.iter().map(|v| v.to_bits()).eq(map.iter().map(|v| v.to_bits())));
    let error = write_map(&path, &map, 2, 2).unwrap_err().to_string();
    assert_eq!(error, "write_map: `map` should have shape (2, 2), not empty, got [6]");
    assert_eq!(files(&folder), 2);
}
