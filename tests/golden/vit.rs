//! Section `vit`: ViT-B/16 of DINO, at its real size.

use std::sync::Arc;

use serde_json::Value;

use crate::golden::{Golden, Trials, whole};
use crate::library;
use crate::vit_family::{Network, Reference, Wanted, network_trials};

pub fn trials(golden: &'static Golden, section: &'static Value) -> Trials {
    let tensors = golden.tensors("vit")?;
    let config = library::vit_family("dino", 0)?;
    let seed = whole(section, "seed")? as u64;
    let network = Arc::new(Network::new(config, seed, [1, 3, 224, 224]));
    let resampling = network.config.resampling;
    let mut trials = Vec::new();
    for (name, array) in tensors.iter() {
        // Rows of the grid, of which some files have a few.
        let (wanted, rows) = match (name, name.strip_prefix("features")) {
            ("block0", _) => ((0, false, false), vec![]),
            ("cls_pre_norm", _) => ((11, false, false), vec![]),
            (_, Some(rows)) => {
                let rows = rows
                    .strip_prefix("_rows_")
                    .map(|rows| rows.split('_').map(str::parse).collect::<Result<Vec<usize>, _>>());
                let rows = rows.transpose().map_err(|_| format!("{name}: which rows?"))?;
                ((11, true, true), rows.unwrap_or_else(|| (0..14).collect()))
            }
            _ => return Err(format!("`{name}` is not known here"))?,
        };
        let (block, norm, patches_only) = wanted;
        let blocks = vec![block];
        let wanted = Wanted { blocks, norm, resampling, eps: 1e-6, patches_only };
        let want = Reference::new(array, &network, &rows)?;
        trials.extend(network_trials(&format!("vit/{name}"), &network, &wanted, &want));
    }
    Ok(trials)
}
