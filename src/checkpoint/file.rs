//! The container of both kinds of file: safetensors with one JSON object as metadata.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors, View};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::files::write_atomic;
use crate::tensor::{Device, Tensor, TensorView};

/// The metadata's only key: one, so that equal contents are equal bytes.
const KEY: &str = "invad";

#[derive(Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Header<T> {
    format: String,
    version: u32,
    config: T,
}

/// What a reader needs to know before it can understand the rest.
#[derive(serde::Deserialize)]
struct Kind {
    format: String,
    version: u32,
}

struct Data<'a>(TensorView<'a>);

impl View for &Data<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self.0.f32s("save", "tensor") {
            Ok(data) => Cow::Borrowed(bytemuck::cast_slice(data)),
            Err(_) => Cow::Owned(bytemuck::cast_slice(&self.0.to_vec_f32()).to_vec()),
        }
    }

    fn data_len(&self) -> usize {
        4 * self.0.len()
    }
}

pub(super) fn write<T: Serialize>(
    path: &Path,
    format: &str,
    version: u32,
    config: &T,
    tensors: Vec<(String, TensorView)>,
) -> Result<()> {
    let header = Header { format: format.into(), version, config };
    let json = serde_json::to_string(&header).map_err(|e| Error::file(path, e.to_string()))?;
    let metadata = HashMap::from([(KEY.to_string(), json)]);
    let data: Vec<_> = tensors.into_iter().map(|(name, view)| (name, Data(view))).collect();
    let views = data.iter().map(|(name, data)| (name, data));
    let bytes = safetensors::serialize(views, Some(metadata))
        .map_err(|e| Error::file(path, format!("cannot be written: {e}")))?;
    write_atomic(path, |w| std::io::Write::write_all(w, &bytes))
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
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let what = format!("not a whole {format} file");
    let file = SafeTensors::deserialize(&bytes).map_err(|e| fail(format!("{what}: {e}")))?;
    let (_, metadata) =
        SafeTensors::read_metadata(&bytes).map_err(|e| fail(format!("{what}: {e}")))?;
    let json = metadata
        .metadata()
        .as_ref()
        .and_then(|m| m.get(KEY))
        .ok_or_else(|| fail(format!("not an {format} file: it lacks the metadata `{KEY}`")))?;
    let kind: Kind = serde_json::from_str(json).map_err(|e| fail(format!("{what}: {e}")))?;
    if kind.format != format {
        return Err(fail(format!("its format is {}; {format} is needed", kind.format)));
    }
    if kind.version != version {
        return Err(fail(format!(
            "its version is {}; this invad reads version {version}: use the invad that wrote it, \
             or train again",
            kind.version
        )));
    }
    let header: Header<T> = serde_json::from_str(json).map_err(|e| fail(format!("{what}: {e}")))?;
    let mut tensors = HashMap::new();
    for (name, view) in file.tensors() {
        if view.dtype() != Dtype::F32 {
            return Err(fail(format!("tensor `{name}` should hold F32, got {:?}", view.dtype())));
        }
        if view.shape().len() > crate::tensor::MAX_RANK {
            return Err(fail(format!("tensor `{name}` has {} axes", view.shape().len())));
        }
        let data: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
        if let Some(bad) = data.iter().find(|v| !v.is_finite()) {
            return Err(fail(format!("tensor `{name}` holds {bad}: the file is damaged")));
        }
        tensors.insert(name.to_string(), Tensor::from_f32(data, view.shape(), Device::Cpu)?);
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
