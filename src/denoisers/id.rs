//! What a file says of a denoiser.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Which denoiser it is: its kind, and what its kind needs to know to make it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DenoiserId {
    /// The name of its [`Kind`](super::Kind).
    #[serde(default = "dit")]
    pub kind: String,
    /// Sizes and choices, a JSON object.
    #[serde(flatten)]
    pub sizes: Map<String, Value>,
}

/// Files had no kind when there was only this one.
fn dit() -> String {
    super::dit::KIND.name.into()
}

impl fmt::Display for DenoiserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        self.sizes.iter().try_for_each(|(name, size)| write!(f, " {name} {size}"))
    }
}

impl DenoiserId {
    /// Of this kind, with what `sizes` serialises to.
    ///
    /// # Panics
    /// If that is no JSON object.
    pub fn new(kind: &str, sizes: &impl Serialize) -> Self {
        match serde_json::to_value(sizes) {
            Ok(Value::Object(sizes)) => Self { kind: kind.into(), sizes },
            other => panic!("sizes of a denoiser are a JSON object, got {other:?}"),
        }
    }

    /// The sizes as their kind has them.
    ///
    /// # Errors
    /// [`Error::Argument`] if they are not of this form.
    pub fn sizes<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(Value::Object(self.sizes.clone())).map_err(|e| {
            let expected = format!("sizes of a {}", self.kind);
            Error::argument("denoiser", "sizes", expected, e)
        })
    }
}
