//! The wish of whoever observes to stop, as an error that ends all that hands it on.

use std::io::{self, ErrorKind};

use crate::error::{Error, Result};

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Go on.
    Continue,
    /// Stop: after this step, with the state saved, or after this batch of images.
    Stop,
}

#[derive(Debug, thiserror::Error)]
#[error("the observer stops")]
struct Stop;

impl Control {
    /// An error where it is to stop, which [`is_stop`] tells from others.
    pub(crate) fn go_on(self) -> Result<()> {
        match self {
            Control::Continue => Ok(()),
            Control::Stop => Err(Error::io("", io::Error::new(ErrorKind::Interrupted, Stop))),
        }
    }
}

/// Whether an error is that of [`Control::go_on`].
pub(crate) fn is_stop(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.get_ref().is_some_and(|e| e.is::<Stop>()))
}
