//! Nearest-neighbour resizing of masks on the host.

/// Resizes `src` of `from` = (height, width) numbers into `dst` of `to`.
pub(crate) fn resize_nearest(src: &[u8], from: [usize; 2], dst: &mut [u8], to: [usize; 2]) {
    let columns = sources(from[1], to[1]);
    for (y, row) in sources(from[0], to[0]).into_iter().zip(dst.chunks_exact_mut(to[1].max(1))) {
        let src = &src[y * from[1]..][..from[1]];
        for (o, &x) in row.iter_mut().zip(&columns) {
            *o = src[x];
        }
    }
}

/// The input under the centre of each output. Centres are summed up step by step, as Pillow does:
/// where one falls on the border of two inputs, rounding decides.
fn sources(input: usize, output: usize) -> Vec<usize> {
    let step = input as f64 / output as f64;
    let mut centre = step * 0.5;
    (0..output)
        .map(|_| {
            let at = (centre as usize).min(input - 1);
            centre += step;
            at
        })
        .collect()
}
