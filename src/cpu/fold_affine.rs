//! The weight and bias of LayerNorms, as part of the modulation, on the host.

use rayon::prelude::*;

/// folded = shift', scale' and gate of each site, for each image.
pub(crate) fn fold_affine(
    table: &[f32],
    affine: &[f32],
    folded: &mut [f32],
    [_, sites, width]: [usize; 3],
) {
    let columns = (3 * sites - 1) * width;
    let rows = folded.par_chunks_exact_mut(columns).zip(table.par_chunks_exact(columns));
    rows.for_each(|(folded, table)| {
        let sites = folded.chunks_mut(3 * width).zip(table.chunks(3 * width));
        for ((folded, table), affine) in sites.zip(affine.chunks_exact(2 * width)) {
            folded.copy_from_slice(table);
            let (w, b) = affine.split_at(width);
            let (shift, rest) = folded.split_at_mut(width);
            for (((shift, scale), w), b) in shift.iter_mut().zip(rest).zip(w).zip(b) {
                let factor = 1.0 + *scale;
                *shift += b * factor;
                *scale = w * factor - 1.0;
            }
        }
    });
}

/// dtable from the gradient of folded to that of table; daffine += the sums over images.
pub(crate) fn fold_affine_backward(
    table: &[f32],
    affine: &[f32],
    dtable: &mut [f32],
    daffine: &mut [f32],
    [_, sites, width]: [usize; 3],
) {
    let columns = (3 * sites - 1) * width;
    daffine.par_chunks_exact_mut(2 * width).enumerate().for_each(|(site, daffine)| {
        let (dw, db) = daffine.split_at_mut(width);
        for (table, dtable) in table.chunks_exact(columns).zip(dtable.chunks_exact(columns)) {
            let scale = &table[(3 * site + 1) * width..][..width];
            let (dshift, dscale) = dtable[3 * site * width..].split_at(width);
            for d in 0..width {
                let factor = 1.0 + scale[d];
                dw[d] += dscale[d] * factor;
                db[d] += dshift[d] * factor;
            }
        }
    });
    dtable.par_chunks_exact_mut(columns).for_each(|dtable| {
        for (dtable, affine) in dtable.chunks_mut(3 * width).zip(affine.chunks_exact(2 * width)) {
            let (w, b) = affine.split_at(width);
            let (dshift, rest) = dtable.split_at_mut(width);
            for (((dshift, dscale), w), b) in dshift.iter().zip(rest).zip(w).zip(b) {
                *dscale = *dscale * w + dshift * b;
            }
        }
    });
}
