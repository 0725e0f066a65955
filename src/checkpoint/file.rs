//! The container of both kinds of file: safetensors with one JSON object as metadata. Tensors are
//! written and read one after the other: those of a large denoiser fit into memory once.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensorError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::files::AtomicFile;
use crate::tensor::{Device, Tensor, TensorView};
use crate::weights::read_metadata;

/// The metadata's only key: one, so that equal contents are equal bytes.
const KEY: &str = "invad";
/// Bytes of a file's first number, the length of its head.
const LENGTH: usize = 8;

#[derive(Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Header<T> {
    format: String,
    version: u32,
    config: T,
}

/// What a reader needs to know before it can understand the rest.
#[derive(serde::Deserialize)]
struct Preamble {
    format: String,
    version: u32,
}

/// Numbers brought from a GPU at once.
const PART: usize = 1 << 18;

pub(super) fn write<T: Serialize>(
    path: &Path,
    format: &str,
    version: u32,
    config: &T,
    mut tensors: Vec<(String, TensorView)>,
) -> Result<()> {
    let fail = |e: String| Error::file(path, format!("cannot be written: {e}"));
    let header = Header { format: format.into(), version, config };
    let json = serde_json::to_string(&header).map_err(|e| fail(e.to_string()))?;
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut end = 0;
    let infos = tensors.iter().map(|(name, view)| {
        let start = end;
        end += size_of::<f32>() * view.len();
        let shape = view.shape().to_vec();
        (name.clone(), TensorInfo { dtype: Dtype::F32, shape, data_offsets: (start, end) })
    });
    let infos = infos.collect();
    let metadata = Metadata::new(Some(HashMap::from([(KEY.to_string(), json)])), infos);
    let metadata = metadata.map_err(|e| fail(e.to_string()))?;
    let mut head = serde_json::to_vec(&metadata).map_err(|e| fail(e.to_string()))?;
    head.resize(head.len().next_multiple_of(LENGTH), b' ');

    let mut file = AtomicFile::create(path)?;
    let mut put = |bytes: &[u8]| file.write_all(bytes).map_err(|e| Error::io(path, e));
    put(&(head.len() as u64).to_le_bytes())?;
    put(&head)?;
    let mut part = Vec::new();
    for (_, view) in &tensors {
        if let Ok(numbers) = view.f32s("save", "tensor") {
            put(bytemuck::cast_slice(numbers))?;
            continue;
        }
        for start in (0..view.len()).step_by(PART) {
            let len = PART.min(view.len() - start);
            part.resize(len, 0.0);
            view.part(start, &[len])?.copy_to_slice(&mut part)?;
            put(bytemuck::cast_slice(&part))?;
        }
    }
    file.commit()
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
    let what = format!("not a whole {format} file");
    let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
    let len = file.metadata().map_err(|e| Error::io(path, e))?.len();
    let metadata = match read_metadata(&mut file, len) {
        Ok(metadata) => metadata,
        Err(SafeTensorError::IoError(e)) => return Err(Error::io(path, e)),
        Err(e) => return Err(fail(format!("{what}: {e}"))),
    };
    let json = metadata
        .metadata()
        .as_ref()
        .and_then(|m| m.get(KEY))
        .ok_or_else(|| fail(format!("not an {format} file: it lacks the metadata `{KEY}`")))?;
    let preamble: Preamble =
        serde_json::from_str(json).map_err(|e| fail(format!("{what}: {e}")))?;
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
    let header: Header<T> = serde_json::from_str(json).map_err(|e| fail(format!("{what}: {e}")))?;
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
            return Err(fail(format!("tensor `{name}` holds {bad}: the file is damaged")));
        }
        tensors.insert(name, Tensor::from_f32(data, shape, Device::Cpu)?);
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
