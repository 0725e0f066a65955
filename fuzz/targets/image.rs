//! Any bytes are refused as an image, or decode to one of a size that is allowed, also as a mask.
#![no_main]

use invad::data::{decode_image, load_mask};
use libfuzzer_sys::fuzz_target;

mod file;

fuzz_target!(|bytes: &[u8]| {
    let image = decode_image("image", bytes);
    if let Err(e) = &image {
        assert!(!e.to_string().contains('\n'), "{e}");
    }
    let mask = load_mask(file::holding(bytes));
    assert_eq!(image.is_ok(), mask.is_ok());
    if let (Ok(image), Ok(mask)) = (image, mask) {
        assert!(u64::from(image.width()) * u64::from(image.height()) <= 100_000_000);
        assert_eq!(
            (image.width() as usize, image.height() as usize),
            (mask.width(), mask.height())
        );
    }
});
