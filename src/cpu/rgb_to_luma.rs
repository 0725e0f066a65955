//! RGB to grey on the host.

pub(crate) fn rgb_to_luma(rgb: &[u8], luma: &mut [u8]) {
    for (l, p) in luma.iter_mut().zip(rgb.as_chunks::<3>().0) {
        let [r, g, b] = p.map(u32::from);
        // 0.299, 0.587, 0.114 in sixteenths of 4096, rounded to nearest.
        *l = ((19_595 * r + 38_470 * g + 7_471 * b + 0x8000) >> 16) as u8;
    }
}
