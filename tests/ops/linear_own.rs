//! `kernels/linear.cu`, by which linear layers on a GPU are computed where `INVAD_LINEAR` is `own`.

use std::env;
use std::process::Command;

use half::f16;
use invad::cuda::interop::cudarc::driver::PushKernelArg;

use crate::gpu::*;
use crate::linear::activated;
use crate::support::emulator::is_emulated;
use crate::support::numbers::{assert_close, product, transposed, uniform};
use invad::ops::Activation;

/// Rows and columns of a tile.
const TILES: [usize; 2] = [64, 128];
/// Numbers around an output, which nobody may write.
const GUARD: usize = 64;
const CANARY: f16 = f16::from_f32_const(-776.0);

/// A layer of m rows, k terms and n columns with bias, residual and GELU.
struct Layer {
    sizes: [usize; 3],
    x: Vec<f16>,
    w: Vec<f16>,
    bias: Vec<f16>,
    skip: Vec<f16>,
}

impl Layer {
    fn new([m, k, n]: [usize; 3]) -> Self {
        let of =
            |seed, len, scale| uniform(seed, len, scale).into_iter().map(f16::from_f32).collect();
        let w = of(2, n * k, 3.0 / (k as f32).sqrt());
        Self {
            sizes: [m, k, n],
            x: of(1, m * k, 2.0),
            w,
            bias: of(3, n, 1.0),
            skip: of(4, m * n, 1.0),
        }
    }

    /// What GELU is applied to, and what it makes of that.
    fn want(&self) -> [Vec<f64>; 2] {
        let [m, k, n] = self.sizes;
        let wide = |of: &[f16]| of.iter().map(|x| x.to_f64()).collect::<Vec<_>>();
        let mut kept = product(&wide(&self.x), &transposed(&wide(&self.w), n, k), [m, k, n]);
        for (i, sum) in kept.iter_mut().enumerate() {
            *sum += self.bias[i % n].to_f64() + self.skip[i].to_f64();
        }
        let y = kept.iter().map(|&x| activated(Activation::Gelu, x)).collect();
        [kept, y]
    }

    /// What the kernel makes of the first rows, with tiles of a size on so many blocks; x begins after `offset` numbers.
    fn run(&self, rows: usize, tile: usize, blocks: usize, offset: usize) -> Option<[Vec<f16>; 2]> {
        let Kernel { stream, function } = kernel("linear", &[("TILE", tile as i64)])?;
        let [_, k, n] = self.sizes;
        let x = [&vec![f16::NAN; offset][..], &self.x[..rows * k]].concat();
        let [x, w, bias, skip] = [&x[..], &self.w, &self.bias, &self.skip[..rows * n]]
            .map(|of| stream.clone_htod(of).unwrap());
        let poisoned =
            [vec![CANARY; GUARD], vec![f16::NAN; rows * n], vec![CANARY; GUARD]].concat();
        let [mut kept, mut y] = [(); 2].map(|()| stream.clone_htod(&poisoned).unwrap());
        let sizes = [rows, n, k, 1, 1].map(|n| n as i32);
        {
            let x = x.slice(offset..);
            let [mut kept, mut y] = [&mut kept, &mut y].map(|of| of.slice_mut(GUARD..));
            let mut launch = stream.launch_builder(&function);
            launch.arg(&x).arg(&w).arg(&bias).arg(&skip).arg(&mut kept).arg(&mut y);
            sizes.iter().for_each(|size| {
                launch.arg(size);
            });
            // SAFETY: the kernel's contract.
            unsafe { launch.launch(config([blocks, 1, 1], 128, 49_152)) }.unwrap();
        }
        Some([kept, y].map(|of| {
            let all = stream.clone_dtoh(&of).unwrap();
            let (got, after) = all[GUARD..].split_at(rows * n);
            let around = all[..GUARD].iter().chain(after);
            assert!(around.into_iter().all(|&x| x == CANARY), "written outside the output");
            got.to_vec()
        }))
    }

    /// Holds what the kernel makes of all rows to what it should be.
    fn check(&self, blocks: usize, offset: usize) {
        let want = self.want();
        for tile in TILES {
            let Some(got) = self.run(self.sizes[0], tile, blocks, offset) else { return };
            for (what, (got, want)) in ["kept", "y"].iter().zip(got.iter().zip(&want)) {
                let case = format!("{:?} in {tile}, {what} from {offset} on", self.sizes);
                let got: Vec<f64> = got.iter().map(|x| x.to_f64()).collect();
                assert_close(&case, &got, want, 1.0 / 2048.0);
            }
        }
    }
}

mod on_gpu {
    use super::*;

    /// Slots that are used again, by copies of whole vectors and of single numbers, for two tiles of a block.
    #[test]
    fn tiny() {
        for sizes in [[3, 264, 5], [66, 300, 16]] {
            Layer::new(sizes).check(1, 0);
        }
    }

    #[test]
    fn all_sizes() {
        for sizes in [[1, 1, 1], [5, 8, 130], [150, 33, 72], [129, 136, 200], [257, 40, 263]] {
            for offset in [0, 3, 8] {
                Layer::new(sizes).check(3, offset);
            }
        }
    }

    /// Bits of a row depend neither on how many there are, nor on the tiles, nor on how they are shared out.
    #[test]
    fn rows_are_on_their_own() {
        for sizes in [[150, 1032, 136], [150, 588, 71]] {
            let layer = Layer::new(sizes);
            let Some(all) = layer.run(150, 128, 2, 0) else { return };
            for (rows, tile, blocks) in
                [(150, 64, 5), (1, 64, 1), (1, 128, 1), (77, 64, 9), (130, 128, 1)]
            {
                let got = layer.run(rows, tile, blocks, 0).unwrap();
                for (got, all) in got.iter().zip(&all) {
                    let same = got.iter().zip(all).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same && got.len() == rows * sizes[2], "{rows} of {sizes:?} in {tile}");
                }
            }
        }
    }

    /// What holds for linear layers on a GPU holds for these, too.
    #[test]
    fn as_any_linear_layer() {
        if gpu().is_none() {
            return;
        }
        let device = if is_emulated() { "emulated" } else { "cuda" };
        let ran = Command::new(env::current_exe().unwrap())
            .args(["linear::on_gpu::", "gelu::on_gpu::", "shapes::"])
            .env("INVAD_TEST_DEVICE", device)
            .env("INVAD_LINEAR", "own")
            .output()
            .unwrap();
        let [out, err] = [ran.stdout, ran.stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(ran.status.success(), "{out}{err}");
    }
}
