//! Files of safetensors.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensorError};

use super::{Element, Entry, Stored, Unreadable};
use crate::error::{Error, Result};
use crate::files::AtomicFile;

/// Bytes of a file's first number, the length of its head.
const LENGTH: u64 = 8;
/// The longest head that safetensors allows, in bytes.
const LONGEST_HEAD: u64 = 100_000_000;

/// What stands before the tensors of a file of `len` bytes, which begin where `file` is then: the head's bytes, and what
/// they say.
pub(crate) fn read_head(
    file: &mut impl Read,
    len: u64,
) -> std::result::Result<(Vec<u8>, Metadata), SafeTensorError> {
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
    let text = std::str::from_utf8(&head).map_err(SafeTensorError::InvalidHeader)?;
    let metadata: Metadata =
        serde_json::from_str(text).map_err(SafeTensorError::InvalidHeaderDeserialization)?;
    match metadata.data_len() as u64 == data {
        true => Ok((head, metadata)),
        false => Err(SafeTensorError::MetadataIncompleteBuffer),
    }
}

/// Tensors, and texts beside them, by name.
type Contents = (BTreeMap<String, Entry>, BTreeMap<String, String>);

/// What a file has.
pub(super) fn tensors(source: &Stored) -> std::result::Result<Contents, Unreadable> {
    let damaged = |reason: String| {
        Unreadable::Damaged(format!("no whole file of safetensors, and none of PyTorch: {reason}"))
    };
    let len = source.len();
    let (_, metadata) = read_head(&mut source.reader(0), len).map_err(|e| match e {
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
    let texts = metadata.metadata().iter().flatten();
    let texts = texts.map(|(key, text)| (key.clone(), text.clone())).collect();
    Ok((tensors, texts))
}

/// Writes a file of f32, aside first and then renamed: the same contents are the same bytes.
///
/// `text`: of a name, beside the tensors ([`Weights::text`](super::Weights::text)). `tensors`: names and shapes; `each` is called for them in the order of
/// their names, with an index, and hands over the numbers of that tensor, all at once or part by part.
///
/// # Errors
/// [`Error::File`] if two have one name, or there are more or fewer numbers than a shape says; [`Error::Io`] if it cannot be written; those of `each`.
pub fn write(
    path: impl AsRef<Path>,
    text: Option<(&str, String)>,
    tensors: &[(String, Vec<usize>)],
    each: impl FnMut(usize, &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()>,
) -> Result<()> {
    write_amended(path.as_ref(), text, tensors, each, |_| {})
}

/// [`write`], with a head that is known in full when all tensors are written: `amend` then changes its bytes.
pub(crate) fn write_amended(
    path: &Path,
    text: Option<(&str, String)>,
    tensors: &[(String, Vec<usize>)],
    mut each: impl FnMut(usize, &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()>,
    amend: impl FnOnce(&mut [u8]),
) -> Result<()> {
    let fail = |reason: String| Error::file(path, format!("cannot be written: {reason}"));
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by(|&a, &b| tensors[a].0.cmp(&tensors[b].0));
    let mut end = 0;
    let infos = order.iter().map(|&i| {
        let ((name, shape), start) = (&tensors[i], end);
        end += size_of::<f32>() * shape.iter().product::<usize>();
        let data_offsets = (start, end);
        (name.clone(), TensorInfo { dtype: Dtype::F32, shape: shape.clone(), data_offsets })
    });
    let infos = infos.collect();
    // One, since several would be in any order.
    let text = text.map(|(name, text)| [(name.to_string(), text)].into());
    let metadata = Metadata::new(text, infos).map_err(|e| fail(e.to_string()))?;
    let mut head = serde_json::to_vec(&metadata).map_err(|e| fail(e.to_string()))?;
    head.resize(head.len().next_multiple_of(LENGTH as usize), b' ');

    let mut file = AtomicFile::create(path)?;
    let io = |e| Error::io(path, e);
    let mut put = |bytes: &[u8]| file.write_all(bytes).map_err(io);
    put(&(head.len() as u64).to_le_bytes())?;
    put(&head)?;
    for i in order {
        let (name, shape) = &tensors[i];
        let mut got = 0;
        each(i, &mut |numbers| {
            got += numbers.len();
            put(bytemuck::cast_slice(numbers))
        })?;
        if got != shape.iter().product::<usize>() {
            return Err(fail(format!("`{name}` of shape {shape:?} was given {got} numbers")));
        }
    }
    let written = head.clone();
    amend(&mut head);
    if head != written {
        file.seek(SeekFrom::Start(LENGTH)).and_then(|_| file.write_all(&head)).map_err(io)?;
    }
    file.commit()
}
