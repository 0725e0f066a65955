//! Things that are known by name: those of this crate, and what a program adds.

use std::sync::{PoisonError, RwLock};

use crate::error::{Error, Result};

/// Names, and what makes the things.
type Own<T> = &'static [(&'static str, fn() -> Result<T>)];

/// Things of one kind by name.
pub(crate) struct Registry<T: 'static> {
    /// What one is called, as in `backbone`.
    kind: &'static str,
    own: Own<T>,
    added: RwLock<Vec<(String, T)>>,
}

impl<T: Clone> Registry<T> {
    /// Those of this crate.
    pub const fn new(kind: &'static str, own: Own<T>) -> Self {
        Self { kind, own, added: RwLock::new(Vec::new()) }
    }

    /// The one of this name.
    pub fn named(&self, name: &str) -> Result<T> {
        if let Some((_, make)) = self.own.iter().find(|(own, _)| *own == name) {
            return make();
        }
        let added = self.added.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, added)) = added.iter().find(|(added, _)| added == name) {
            return Ok(added.clone());
        }
        drop(added);
        let expected = format!("one of {}", self.names().join(", "));
        Err(Error::argument(self.kind, "name", expected, name))
    }

    /// Those of this crate that can be made.
    pub fn own(&self) -> impl Iterator<Item = T> {
        self.own.iter().filter_map(|(_, make)| make().ok())
    }

    /// The names, those of this crate first.
    pub fn names(&self) -> Vec<String> {
        let added = self.added.read().unwrap_or_else(PoisonError::into_inner);
        let own = self.own.iter().map(|(name, _)| (*name).to_string());
        own.chain(added.iter().map(|(name, _)| name.clone())).collect()
    }

    /// Adds one, unless `refuse` has something against it beside these others that were added.
    pub fn register(
        &self,
        name: String,
        added: T,
        refuse: impl FnOnce(&[(String, T)]) -> Result<()>,
    ) -> Result<()> {
        let mut all = self.added.write().unwrap_or_else(PoisonError::into_inner);
        let own = self.own.iter().any(|(own, _)| *own == name);
        if own || all.iter().any(|(other, _)| *other == name) {
            return Err(Error::argument(self.kind, "name", "one that is not taken", name));
        }
        refuse(&all)?;
        all.push((name, added));
        Ok(())
    }
}
