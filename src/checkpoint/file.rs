//! The container of both kinds of file: safetensors with one JSON object as metadata. Tensors are
//! written and read one after the other: those of a large denoiser fit into memory once.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use safetensors::tensor::TensorInfo;
use safetensors::{Dtype, SafeTensorError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::checksum::{Checksum, PIECE, UNKNOWN};
use crate::error::{Error, Result};
use crate::tensor::{Device, Tensor, TensorView};
use crate::weights::{read_head, write_amended};

/// The metadata's only key: one, so that equal contents are equal bytes.
const KEY: &str = "invad";

#[derive(Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Header<T> {
    format: String,
    version: u32,
    /// Before all else whose text is not known ([`Checksum`]).
    #[serde(default)]
    checksum: Option<String>,
    config: T,
}

/// From this version on files of both kinds have a checksum.
const FIRST_WITH_CHECKSUM: u32 = 4;
/// What to do about a damaged file.
const MEND: &str = "copy it again from where it is whole, or train again";

/// What a reader needs to know before it can understand the rest.
#[derive(serde::Deserialize)]
struct Preamble {
    format: String,
    version: u32,
}

/// Numbers brought from a GPU at once.
const PART: usize = 8 * PIECE;

pub(super) fn write<T: Serialize>(
    path: &Path,
    format: &str,
    version: u32,
    config: &T,
    tensors: Vec<(String, TensorView)>,
) -> Result<()> {
    let checksum = Some(UNKNOWN.into());
    let header = Header { format: format.into(), version, checksum, config };
    let json = serde_json::to_string(&header)
        .map_err(|e| Error::file(path, format!("cannot be written: {e}")))?;
    let (names, views): (Vec<_>, Vec<_>) =
        tensors.into_iter().map(|(name, view)| ((name, view.shape().to_vec()), view)).unzip();
    let checksum = RefCell::new(Checksum::default());
    let mut part = Vec::new();
    let each = |i: usize, put: &mut dyn FnMut(&[f32]) -> Result<()>| {
        let view: TensorView = views[i];
        let mut put = |numbers: &[f32]| {
            checksum.borrow_mut().add(numbers);
            put(numbers)
        };
        if let Ok(numbers) = view.f32s("save", "tensor") {
            return put(numbers);
        }
        for start in (0..view.len()).step_by(PART) {
            let len = PART.min(view.len() - start);
            part.resize(len, 0.0);
            view.part(start, &[len])?.copy_to_slice(&mut part)?;
            put(&part)?;
        }
        Ok(())
    };
    write_amended(path, Some((KEY, json)), &names, each, |head| checksum.take().seal(head))
}

/// The parsed file: its configuration, and its tensors by name.
pub(super) struct Contents<T> {
    pub config: T,
    tensors: HashMap<String, Tensor>,
    path: std::path::PathBuf,
}

pub(super) fn read<T: DeserializeOwned>(
    path: &Path,
    format: &str,
    version: u32,
) -> Result<Contents<T>> {
    let fail = |reason: String| Error::file(path, reason);
    let not_whole = |e: &dyn Display| fail(format!("not a whole {format} file: {e}; {MEND}"));
    let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
    let len = file.metadata().map_err(|e| Error::io(path, e))?.len();
    let (head, metadata) = match read_head(&mut file, len) {
        Ok(read) => read,
        Err(SafeTensorError::IoError(e)) => return Err(Error::io(path, e)),
        Err(e) => return Err(not_whole(&e)),
    };
    let json = metadata
        .metadata()
        .as_ref()
        .and_then(|m| m.get(KEY))
        .ok_or_else(|| fail(format!("not an {format} file: it lacks the metadata `{KEY}`")))?;
    let preamble: Preamble = serde_json::from_str(json).map_err(|e| not_whole(&e))?;
    if preamble.format != format {
        return Err(fail(format!("its format is {}; {format} is needed", preamble.format)));
    }
    if !(1..=version).contains(&preamble.version) {
        return Err(fail(format!(
            "its version is {}; this invad reads versions 1 to {version}: use the invad that wrote \
             it, or train again",
            preamble.version
        )));
    }
    let header: Header<T> = serde_json::from_str(json).map_err(|e| not_whole(&e))?;
    if header.version >= FIRST_WITH_CHECKSUM && header.checksum.is_none() {
        return Err(not_whole(&"it lacks its checksum"));
    }
    let mut checksum = Checksum::default();
    let mut tensors = HashMap::new();
    for name in metadata.offset_keys() {
        let TensorInfo { dtype, shape, .. } = metadata.info(&name).expect("a key has its tensor");
        if *dtype != Dtype::F32 {
            return Err(fail(format!("tensor `{name}` should hold F32, got {dtype:?}")));
        }
        if shape.len() > crate::tensor::MAX_RANK {
            return Err(fail(format!("tensor `{name}` has {} axes", shape.len())));
        }
        let mut data = vec![0.0f32; shape.iter().product()];
        file.read_exact(bytemuck::cast_slice_mut(&mut data)).map_err(|e| Error::io(path, e))?;
        if let Some(bad) = data.iter().find(|v| !v.is_finite()) {
            return Err(fail(format!("tensor `{name}` holds {bad}: the file is damaged; {MEND}")));
        }
        if header.checksum.is_some() {
            checksum.add(&data);
        }
        tensors.insert(name, Tensor::from_f32(data, shape, Device::Cpu)?);
    }
    if header.checksum.is_some_and(|sum| !checksum.is(&sum, head)) {
        let reason =
            format!("its checksum is not that of what it holds: the file is damaged; {MEND}");
        return Err(fail(reason));
    }
    Ok(Contents { config: header.config, tensors, path: path.to_path_buf() })
}

impl<T> Contents<T> {
    /// Takes the tensor of this name, which must have this shape.
    pub fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let tensor = self
            .tensors
            .remove(name)
            .ok_or_else(|| self.fail(format!("tensor `{name}` is missing")))?;
        if tensor.shape() != shape {
            let got = tensor.shape();
            return Err(self.fail(format!("tensor `{name}` should be {shape:?}, got {got:?}")));
        }
        Ok(tensor)
    }

    /// The lengths of the axes of a tensor that is there.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(Tensor::shape)
    }

    /// An error about this file.
    pub fn fail(&self, reason: impl Into<String>) -> Error {
        Error::file(&self.path, reason)
    }

    /// Fails if a tensor was not taken.
    pub fn finish(self) -> Result<()> {
        match self.tensors.keys().min() {
            None => Ok(()),
            Some(name) => Err(self.fail(format!("tensor `{name}` does not belong here"))),
        }
    }
}
