//! The layers between a timestep and the modulation vectors of all sites.

use crate::denoisers::{Layout, Linear};

/// Sinusoid features of a timestep.
const TIMESTEP_FEATURES: usize = 256;

/// Adds the layers from a timestep's features to the condition.
pub(in crate::denoisers) fn time_layers(l: &mut Layout, name: &str, width: usize) -> [Linear; 2] {
    [
        l.linear(&format!("{name}.mlp.0"), width, TIMESTEP_FEATURES),
        l.linear(&format!("{name}.mlp.2"), width, width),
    ]
}

/// Adds the layers from the condition to each owner's number of vectors, which are one layer in memory: all weights,
/// then all biases.
pub(in crate::denoisers) fn table_layer(
    l: &mut Layout,
    width: usize,
    owners: impl IntoIterator<Item = (String, usize)>,
) -> Linear {
    let owners: Vec<_> = owners.into_iter().collect();
    let n = owners.iter().map(|(_, vectors)| vectors * width).sum();
    let layer = Linear { offset: l.len, n, k: width };
    for (owner, vectors) in &owners {
        l.add(format!("{owner}.adaLN_modulation.1.weight"), &[vectors * width, width]);
    }
    for (owner, vectors) in &owners {
        l.add(format!("{owner}.adaLN_modulation.1.bias"), &[vectors * width]);
    }
    layer
}
