//! `kernels/stem_conv.cu`, which the features of images begin with.

mod on_gpu {
    use half::f16;
    use invad::cuda::interop::cudarc::driver::PushKernelArg;

    use crate::gpu::*;
    use crate::support::numbers::{assert_close, uniform};

    fn check([height, width, channels]: [usize; 3]) {
        let Some(Kernel { stream, function }) = kernel("stem_conv", &[]) else { return };
        let rgb: Vec<u8> = (0..height * width * 3).map(|i| (i * 89 % 251) as u8).collect();
        let (normalise, bias) = (uniform(1, 6, 0.02), uniform(2, channels, 1.0));
        let weight = uniform(3, 27 * channels, 1.0);
        let [rows, columns] = [height.div_ceil(2), width.div_ceil(2)];
        // One row above and one column to the left.
        let at = |row: usize, column: usize, c: usize| {
            let (Some(row), Some(column)) = (row.checked_sub(1), column.checked_sub(1)) else {
                return 0.0;
            };
            if row >= height || column >= width {
                return 0.0;
            }
            let byte = f64::from(rgb[(row * width + column) * 3 + c]);
            byte * f64::from(normalise[c]) + f64::from(normalise[3 + c])
        };
        let want: Vec<f64> = (0..rows * columns * channels)
            .map(|i| {
                let (row, column) = (i / channels / columns, i / channels % columns);
                let term = |k: usize| {
                    let x = at(2 * row + k / 9, 2 * column + k / 3 % 3, k % 3);
                    x * f64::from(weight[k * channels + i % channels])
                };
                (0..27).map(term).sum::<f64>() + f64::from(bias[i % channels])
            })
            .collect();

        let bytes = stream.clone_htod(&rgb).unwrap();
        let [normalise, weight, bias] =
            [normalise, weight, bias].map(|x| stream.clone_htod(&x).unwrap());
        let mut y = stream.clone_htod(&vec![f16::NAN; want.len()]).unwrap();
        // Padding, then no activation, of bytes.
        let sizes = [height, width, rows, columns, channels, 1, 1, 0, 0].map(|n| n as i32);
        let mut launch = stream.launch_builder(&function);
        launch.arg(&bytes).arg(&normalise).arg(&weight).arg(&bias).arg(&mut y);
        sizes.iter().for_each(|size| {
            launch.arg(size);
        });
        let across = (columns.div_ceil(4) * (channels / 8)).div_ceil(128);
        let shape = config([across, rows, 1], 128, 112 * channels);
        // SAFETY: the kernel's contract.
        unsafe { launch.launch(shape) }.unwrap();
        let got: Vec<f64> = stream.clone_dtoh(&y).unwrap().into_iter().map(f16::to_f64).collect();
        assert_close(&format!("{height} × {width} to {channels}"), &got, &want, 1.0 / 2048.0);
    }

    #[test]
    fn tiny() {
        for shape in [[1, 1, 8], [5, 7, 16], [6, 37, 32]] {
            check(shape);
        }
    }
}
