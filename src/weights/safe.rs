//! Files of safetensors.

use std::collections::BTreeMap;
use std::io::Read;

use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensorError};

use super::{Element, Entry, Stored, Unreadable};

/// Bytes of a file's first number, the length of its head.
const LENGTH: u64 = 8;
/// The longest head that safetensors allows, in bytes.
const LONGEST_HEAD: u64 = 100_000_000;

/// What stands before the tensors of a file of `len` bytes, which begin where `file` is then.
pub(crate) fn read_metadata(file: &mut impl Read, len: u64) -> Result<Metadata, SafeTensorError> {
    let after = len.checked_sub(LENGTH).ok_or(SafeTensorError::HeaderTooSmall)?;
    let mut length = [0; LENGTH as usize];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > LONGEST_HEAD {
        return Err(SafeTensorError::HeaderTooLarge);
    }
    let data = after.checked_sub(length).ok_or(SafeTensorError::InvalidHeaderLength)?;
    let mut head = vec![0; length as usize];
    file.read_exact(&mut head)?;
    let head = std::str::from_utf8(&head).map_err(SafeTensorError::InvalidHeader)?;
    let metadata: Metadata =
        serde_json::from_str(head).map_err(SafeTensorError::InvalidHeaderDeserialization)?;
    match metadata.data_len() as u64 == data {
        true => Ok(metadata),
        false => Err(SafeTensorError::MetadataIncompleteBuffer),
    }
}

/// The tensors of a file.
pub(super) fn tensors(source: &Stored) -> Result<BTreeMap<String, Entry>, Unreadable> {
    let damaged = |reason: String| {
        Unreadable::Damaged(format!("no whole file of safetensors, and none of PyTorch: {reason}"))
    };
    let len = source.len();
    let metadata = read_metadata(&mut source.reader(0), len).map_err(|e| match e {
        SafeTensorError::IoError(e) => Unreadable::Io(e),
        other => damaged(other.to_string()),
    })?;
    let start = len - metadata.data_len() as u64;
    let mut tensors = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        let element = match info.dtype {
            Dtype::F64 => Element::F64,
            Dtype::F32 => Element::F32,
            Dtype::F16 => Element::F16,
            Dtype::BF16 => Element::Bf16,
            Dtype::I64 => Element::I64,
            Dtype::I32 => Element::I32,
            Dtype::I16 => Element::I16,
            Dtype::I8 => Element::I8,
            Dtype::U8 => Element::U8,
            Dtype::BOOL => Element::Bool,
            other => {
                let reason = format!("`{name}` holds {other:?}, which is not read");
                return Err(Unreadable::Damaged(reason));
            }
        };
        let (first, end) = info.data_offsets;
        let bytes = start + first as u64..start + end as u64;
        tensors.insert(name, Entry { element, shape: info.shape.clone(), bytes, strides: None });
    }
    Ok(tensors)
}
