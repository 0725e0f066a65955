//! Backbones whose weights are files: found by name, and again by the detector that was trained with them.

use invad::backbones::EfficientNet;
use invad::weights::Weights;

use super::*;
use crate::support::networks::{efficientnet_numbers, safetensors};
use crate::support::numbers::uniform;

/// A file of weights that mean nothing.
pub fn weights(network: &str, seed: u64) -> Vec<u8> {
    let network = EfficientNet::named(network).unwrap();
    safetensors(&efficientnet_numbers(&network, |name, n| {
        uniform(seed + name.bytes().map(u64::from).sum::<u64>(), n, 1.0)
    }))
}

#[test]
fn weights_of_a_folder() {
    const NAME: &str = "efficientnet-lite1";
    let root = TempDir::new().unwrap();
    let [folder, none, out] = ["weights", "none", "out"].map(|name| root.path().join(name));
    for folder in [&folder, &none] {
        fs::create_dir(folder).unwrap();
    }
    let at_home = |mut command: Command, weights: &Path| {
        let home = root.path().join("home");
        command.env("INVAD_WEIGHTS", weights).env("HF_HOME", &home);
        command.env("XDG_DATA_HOME", &home).run()
    };
    let data = &shared().data;
    let train = |weights: &Path| {
        let mut command = train(data, &out, 2);
        command.args(["--backbone", NAME, "--category", "nut"]);
        at_home(command, weights)
    };
    train(&none).refused(&[NAME, none.to_str().unwrap()]);
    let file = folder.join(format!("{NAME}.safetensors"));
    fs::write(&file, &weights("efficientnet-lite2", 1)[..]).unwrap();
    train(&folder).refused(&[file.to_str().unwrap(), "not the weights of this network"]);
    fs::write(&file, weights(NAME, 1)).unwrap();
    train(&folder).expect(0);

    let detector = out.join("detector.safetensors");
    let score = |weights: &Path| {
        let mut command = score(&detector, &root.path().join("scored"));
        command.arg(data.join("nut/test/good"));
        at_home(command, weights)
    };
    score(&folder).expect(0);
    score(&none).refused(&[NAME, none.to_str().unwrap()]);
    // Others of the same name are not those that it was trained with.
    let hash = || Weights::open(&file).unwrap().hash().unwrap();
    let wanted = hash();
    fs::write(&file, weights(NAME, 2)).unwrap();
    let (path, got) = (file.to_str().unwrap(), hash());
    score(&folder).refused(&[path, &wanted, &got, "INVAD_WEIGHTS", "`convert`"]);
    let mut resumed = super::train(data, &out, 2);
    resumed.args(["--backbone", NAME, "--category", "nut", "--resume"]);
    at_home(resumed, &folder).refused(&["`backbone weights`", &wanted, &got, "INVAD_WEIGHTS"]);
}
