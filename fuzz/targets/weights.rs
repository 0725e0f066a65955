//! A file of weights of any bytes is refused, or has tensors that can all be read.
#![no_main]

use invad::weights::Weights;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let len = bytes.len();
    let weights = match Weights::of_bytes("weights", bytes.to_vec()) {
        Ok(weights) => weights,
        Err(e) => return assert!(!e.to_string().contains('\n'), "{e}"),
    };
    for (name, entry) in weights.entries() {
        let read = weights.bytes(name).expect("it is within the file");
        assert!(read.len() == entry.len() * entry.element.size() && read.len() <= len);
    }
});
