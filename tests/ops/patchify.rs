use crate::support::numbers::*;
use invad::ops::{self, PatchOrder};

const ORDERS: [PatchOrder; 2] = [PatchOrder::ChannelsFirst, PatchOrder::ChannelsLast];

/// (B, H, W, C, p).
const SIZES: [[usize; 5]; 7] = [
    [1, 4, 4, 3, 1],
    [2, 4, 4, 3, 2],
    [2, 6, 9, 5, 3],
    [1, 8, 4, 1, 4],
    [3, 5, 5, 2, 5],
    [2, 16, 16, 17, 2],
    [1, 28, 42, 3, 14],
];

#[test]
fn follows_the_index_formula_and_back() {
    for [b, h, w, c, p] in SIZES {
        for order in ORDERS {
            let case = format!("(B {b}, {h} × {w}, C {c}, p {p}) {order:?}");
            let across = w / p;
            let (tokens, features) = (h / p * across, c * p * p);
            let grid = tensor(1, &[b, h, w, c], 1.0);
            let mut patches = poisoned(&[b, tokens, features]);
            ops::patchify(&grid, &mut patches, p, order).unwrap();

            let from = grid.to_vec_f32();
            let mut want = vec![f32::NAN; from.len()];
            for (i, v) in from.iter().enumerate() {
                let (channel, x, y, image) = (i % c, i / c % w, i / c / w % h, i / c / w / h);
                let token = (y / p) * across + x / p;
                let feature = match order {
                    PatchOrder::ChannelsFirst => (channel * p + y % p) * p + x % p,
                    PatchOrder::ChannelsLast => ((y % p) * p + x % p) * c + channel,
                };
                want[(image * tokens + token) * features + feature] = *v;
            }
            assert_eq!(patches.to_vec_f32(), want, "{case}");

            let mut back = poisoned(&[b, h, w, c]);
            ops::unpatchify(&patches, &mut back, p, order).unwrap();
            assert_eq!(back.to_vec_f32(), from, "{case}: back");
        }
    }
}

#[test]
fn empty_grids_have_empty_patches() {
    for [b, g, c] in [[0, 4, 3], [2, 0, 3], [2, 4, 0]] {
        let (mut grid, mut patches) = (poisoned(&[b, g, g, c]), poisoned(&[b, g * g / 4, 4 * c]));
        ops::patchify(&grid, &mut patches, 2, PatchOrder::ChannelsFirst).unwrap();
        ops::unpatchify(&patches, &mut grid, 2, PatchOrder::ChannelsFirst).unwrap();
    }
}

#[test]
fn threads_do_not_matter() {
    let grid = tensor(1, &[3, 16, 16, 40], 1.0);
    assert_threads_do_not_matter(|| {
        let (mut patches, mut back) = (poisoned(&[3, 64, 160]), poisoned(grid.shape()));
        ops::patchify(&grid, &mut patches, 2, PatchOrder::ChannelsFirst).unwrap();
        ops::unpatchify(&patches, &mut back, 2, PatchOrder::ChannelsLast).unwrap();
        [patches, back]
    });
}

#[test]
fn refuses_other_shapes() {
    let grid = tensor(1, &[1, 4, 4, 3], 1.0);
    for patch in [0, 3] {
        assert_refused(
            ops::patchify(&grid, &mut poisoned(&[1, 4, 12]), patch, ORDERS[0]),
            &format!(
                "patchify: `grid` should have shape (B, H, W, C), H and W multiples of {patch}, \
                 got [1, 4, 4, 3]"
            ),
        );
    }
    assert_refused(
        ops::unpatchify(&poisoned(&[1, 12, 4]), &mut grid.clone(), 2, ORDERS[1]),
        "unpatchify: `patches` should have shape [1, 4, 12], got [1, 12, 4]",
    );
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::*;
    use crate::gpu::*;
    use invad::DType;

    #[test]
    fn as_on_the_cpu_and_back() {
        let Some(gpu) = gpu() else { return };
        for [b, h, w, c, p] in SIZES {
            for order in ORDERS {
                let case = format!("(B {b}, {h} × {w}, C {c}, p {p}) {order:?}");
                let (tokens, features) = (h / p * (w / p), c * p * p);
                let numbers = halves(1, b * h * w * c, 1.0);
                let mut want = poisoned(&[b, tokens, features]);
                ops::patchify(&from(&numbers, &[b, h, w, c]), &mut want, p, order).unwrap();

                for dtype in [DType::F32, DType::F16] {
                    let grid = upload(&numbers, &[b, h, w, c], dtype, gpu);
                    let mut patches = Guarded::new(&[b, tokens, features], DType::F16, gpu);
                    ops::patchify(&grid, patches.view_mut(), p, order).unwrap();
                    assert_eq!(patches.f64s(), f64s(&want), "{case} {dtype:?}");

                    let mut back = Guarded::new(&[b, h, w, c], DType::F16, gpu);
                    ops::unpatchify(patches.view_mut().view(), back.view_mut(), p, order).unwrap();
                    assert_eq!(back.f64s(), f64s(&grid), "{case} {dtype:?}: back");
                }
            }
        }
    }
}
