//! `kernels/channel_mean.cu`, which no operation uses yet.

mod on_gpu {
    use half::f16;
    use invad::cuda::cudarc::driver::PushKernelArg;

    use crate::common::assert_close;
    use crate::gpu::*;

    fn check([images, pixels, channels]: [usize; 3]) {
        let Some(Kernel { stream, function }) = kernel("channel_mean", &[]) else { return };
        let x = halves(1, images * pixels * channels, 1.7);
        let on_gpu = stream.clone_htod(&x.iter().map(|&x| f16::from_f32(x)).collect::<Vec<_>>());
        let mut mean = stream.clone_htod(&vec![f16::NAN; images * channels]).unwrap();
        let (on_gpu, sizes) = (on_gpu.unwrap(), [pixels as i32, channels as i32]);
        let mut launch = stream.launch_builder(&function);
        launch.arg(&on_gpu).arg(&mut mean).arg(&sizes[0]).arg(&sizes[1]);
        let shape = config([channels.div_ceil(64), images, 1], 256, 0);
        // SAFETY: the kernel's contract.
        unsafe { launch.launch(shape) }.unwrap();
        let got: Vec<f64> =
            stream.clone_dtoh(&mean).unwrap().into_iter().map(f16::to_f64).collect();
        let want: Vec<f64> = (0..images * channels)
            .map(|i| {
                let (image, channel) = (i / channels, i % channels);
                let at = |p: usize| f64::from(x[(image * pixels + p) * channels + channel]);
                (0..pixels).map(at).sum::<f64>() / pixels as f64
            })
            .collect();
        assert_close(&format!("{images} × {pixels} × {channels}"), &got, &want, 1.0 / 2048.0);
    }

    #[test]
    fn tiny() {
        for shape in [[1, 1, 8], [2, 33, 72], [1, 100, 64]] {
            check(shape);
        }
    }
}
