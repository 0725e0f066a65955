//! The sum by which a file tells that it is whole.

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::weights::hexadecimal;

/// Numbers of a piece, 1 MiB.
pub(super) const PIECE: usize = 1 << 18;
/// What stands in a head for the digits of the sum, of which they cannot be a part.
pub(super) const UNKNOWN: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// SHA-256 of the SHA-256 of each piece of each tensor, in their order, and of the file's head with [`UNKNOWN`] in the
/// place of the sum. Pieces are of [`PIECE`] numbers, the last of a tensor of what is left, so that many threads can
/// share them.
#[derive(Default)]
pub(super) struct Checksum(Sha256);

impl Checksum {
    /// Goes on with numbers of a tensor: with all of it, or with a part that is a multiple of a piece or its last.
    pub fn add(&mut self, numbers: &[f32]) {
        let pieces = numbers.par_chunks(PIECE);
        let sums: Vec<_> =
            pieces.map(|piece| Sha256::digest(bytemuck::cast_slice::<f32, u8>(piece))).collect();
        sums.iter().for_each(|sum| self.0.update(sum));
    }

    /// Puts the sum into a head that has [`UNKNOWN`] in its place.
    pub fn seal(mut self, head: &mut [u8]) {
        self.0.update(&*head);
        let place = place(head, UNKNOWN).expect("a head is written with a place for the sum");
        place.copy_from_slice(hexadecimal(self.0.finalize()).as_bytes());
    }

    /// Whether this is the sum that a head has.
    pub fn is(mut self, sum: &str, mut head: Vec<u8>) -> bool {
        let Some(place) = place(&mut head, sum) else { return false };
        place.copy_from_slice(UNKNOWN.as_bytes());
        self.0.update(&head);
        hexadecimal(self.0.finalize()) == sum
    }
}

/// Where the digits of a sum are in a head: first in it, before all that its writer chose.
fn place<'a>(head: &'a mut [u8], sum: &str) -> Option<&'a mut [u8]> {
    if sum.len() != UNKNOWN.len() {
        return None;
    }
    let at = head.windows(sum.len()).position(|bytes| bytes == sum.as_bytes())?;
    Some(&mut head[at..][..sum.len()])
}
