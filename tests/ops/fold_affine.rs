use crate::support::numbers::*;
use invad::{Device, Tensor, ops};

/// Images, sites and width.
const SIZES: [[usize; 3]; 5] = [[1, 1, 1], [3, 1, 17], [2, 3, 8], [5, 4, 45], [1, 3, 300]];

struct Case {
    table: Tensor,
    affine: Tensor,
    dfolded: Tensor,
    daffine: Tensor,
}

impl Case {
    fn new([b, s, d]: [usize; 3]) -> Self {
        let (table, affine) = ([b, (3 * s - 1) * d], [s, 2, d]);
        Self {
            table: tensor(1, &table, 1.0),
            affine: tensor(2, &affine, 2.0),
            dfolded: tensor(3, &table, 1.0),
            daffine: tensor(4, &affine, 1.0),
        }
    }

    fn on(&self, device: Device) -> [Tensor; 4] {
        [&self.table, &self.affine, &self.dfolded, &self.daffine]
            .map(|tensor| tensor.view().copied_to(device, invad::DType::F32).unwrap())
    }

    /// (LN(x)·w + b)·(1 + scale) + shift of any LN(x), written as LN(x)·(1 + scale') + shift'.
    fn folded(table: &[f64], affine: &[f64], [_, s, d]: [usize; 3]) -> Vec<f64> {
        let columns = (3 * s - 1) * d;
        let vector = |row: usize, i: usize, d0: usize| table[row * columns + i * d + d0];
        let modulated = |row: usize, site: usize, d0: usize, normed: f64| {
            let (w, b) = (affine[2 * site * d + d0], affine[(2 * site + 1) * d + d0]);
            (normed * w + b) * (1.0 + vector(row, 3 * site + 1, d0)) + vector(row, 3 * site, d0)
        };
        let at = |i: usize| (i / columns, i % columns / d, i % d);
        (0..table.len())
            .map(|i| match at(i) {
                (row, chunk, d0) if chunk % 3 == 0 => modulated(row, chunk / 3, d0, 0.0),
                (row, chunk, d0) if chunk % 3 == 1 => {
                    let site = chunk / 3;
                    modulated(row, site, d0, 1.0) - modulated(row, site, d0, 0.0) - 1.0
                }
                (row, chunk, d0) => vector(row, chunk, d0),
            })
            .collect()
    }

    /// The gradients of Σ dfolded·folded, by finite differences of a function that is linear in each number.
    fn gradients(&self, sizes: [usize; 3]) -> [Vec<f64>; 2] {
        let (table, affine, d) = (f64s(&self.table), f64s(&self.affine), f64s(&self.dfolded));
        let dtable =
            numeric_gradient(&table, |table| dot(&Self::folded(table, &affine, sizes), &d));
        let daffine =
            numeric_gradient(&affine, |affine| dot(&Self::folded(&table, affine, sizes), &d));
        let start = f64s(&self.daffine);
        [dtable, daffine.iter().zip(start).map(|(g, start)| g + start).collect()]
    }
}

#[test]
fn forward() {
    for sizes in SIZES {
        let case = Case::new(sizes);
        let mut folded = poisoned(case.table.shape());
        ops::fold_affine(&case.table, &case.affine, &mut folded).unwrap();
        let want = Case::folded(&f64s(&case.table), &f64s(&case.affine), sizes);
        assert_close(&format!("{sizes:?}"), &f64s(&folded), &want, 3e-7);
    }
}

#[test]
fn backward() {
    for sizes in SIZES {
        let case = Case::new(sizes);
        let (mut dtable, mut daffine) = (case.dfolded.clone(), case.daffine.clone());
        ops::fold_affine_backward(&case.table, &case.affine, &mut dtable, &mut daffine).unwrap();
        let [want, want_affine] = case.gradients(sizes);
        assert_close(&format!("{sizes:?}: dtable"), &f64s(&dtable), &want, 1e-6);
        assert_close(&format!("{sizes:?}: daffine"), &f64s(&daffine), &want_affine, 1e-6);
    }
}

#[test]
fn threads_do_not_matter() {
    let case = Case::new([5, 4, 1000]);
    assert_threads_do_not_matter(|| {
        let mut folded = poisoned(case.table.shape());
        let (mut dtable, mut daffine) = (case.dfolded.clone(), case.daffine.clone());
        ops::fold_affine(&case.table, &case.affine, &mut folded).unwrap();
        ops::fold_affine_backward(&case.table, &case.affine, &mut dtable, &mut daffine).unwrap();
        [folded, dtable, daffine]
    });
}

#[test]
fn refuses_other_shapes() {
    let Case { table, affine, .. } = Case::new([2, 3, 8]);
    let other = tensor(1, &[2, 72], 1.0);
    assert_refused(
        ops::fold_affine(&other, &affine, &mut other.clone()),
        "fold_affine: `table` should have shape (B, 64), got [2, 72]",
    );
    assert_refused(
        ops::fold_affine(&table, &other, &mut table.clone()),
        "fold_affine: `affine` should have shape (S, 2, D), got [2, 72]",
    );
    assert_refused(
        ops::fold_affine_backward(&table, &affine, &mut other.clone(), &mut affine.clone()),
        "fold_affine_backward: `dtable` should have shape [2, 64], got [2, 72]",
    );
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::*;
    use crate::gpu::*;
    use invad::DType;

    #[test]
    fn tiny() {
        let Some(gpu) = gpu() else { return };
        for sizes in SIZES {
            let case = Case::new(sizes);
            let [table, affine, ..] = case.on(gpu);
            let mut folded = Guarded::new(table.shape(), DType::F32, gpu);
            ops::fold_affine(&table, &affine, folded.view_mut()).unwrap();
            let want = Case::folded(&f64s(&case.table), &f64s(&case.affine), sizes);
            assert_close(&format!("{sizes:?}"), &folded.f64s(), &want, 3e-7);
        }
    }

    #[test]
    fn tiny_backward() {
        let Some(gpu) = gpu() else { return };
        for sizes in SIZES {
            let case = Case::new(sizes);
            let [table, affine, ..] = case.on(gpu);
            let guarded = |from: &Tensor| {
                let mut to = Guarded::new(from.shape(), DType::F32, gpu);
                to.view_mut().copy_from_slice(&from.to_vec_f32()).unwrap();
                to
            };
            let (mut dtable, mut daffine) = (guarded(&case.dfolded), guarded(&case.daffine));
            ops::fold_affine_backward(&table, &affine, dtable.view_mut(), daffine.view_mut())
                .unwrap();
            let [want, want_affine] = case.gradients(sizes);
            assert_close(&format!("{sizes:?}: dtable"), &dtable.f64s(), &want, 1e-6);
            assert_close(&format!("{sizes:?}: daffine"), &daffine.f64s(), &want_affine, 1e-6);
        }
    }
}
