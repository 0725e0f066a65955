//! The form before PyTorch 1.6: pickles one behind the other, then the storages.
//!
//! The pickles are a magic number, the protocol's number, what is said of the machine, what was saved, and the list of
//! the keys of storages; behind them lie, in that order, for each storage the number of its elements (i64) and these.

use std::collections::BTreeMap;

use super::pickle::{self, Input, Object, Value};
use super::{Budget, Entry, Stored, Unreadable, damaged, named, shown};

/// The first pickle, of the number 0x1950a86a20f9469cfc6c.
pub(super) const MAGIC: [u8; 15] = *b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
const PROTOCOL: i64 = 1001;

pub(super) fn load(source: &Stored) -> Result<BTreeMap<String, Entry>, Unreadable> {
    let len = source.len();
    let mut budget = Budget::new(len);
    let mut input = Input::new(source, MAGIC.len() as u64..len);
    let mut next = |budget: &mut Budget| pickle::read(&mut input, budget);
    if !matches!(next(&mut budget)?.root, Value::Int(PROTOCOL)) {
        return Err(damaged(format!("its protocol is not {PROTOCOL}")));
    }
    let machine = next(&mut budget)?;
    let little = match machine.object(machine.root) {
        Some(Object::Dict { entries, .. }) => entries.iter().any(|&(key, value)| {
            machine.text(key) == Some("little_endian") && matches!(value, Value::Bool(true))
        }),
        _ => false,
    };
    if !little {
        return Err(damaged("it does not say that its numbers are `little_endian`"));
    }
    let saved = next(&mut budget)?;
    let keys = next(&mut budget)?;
    let Some(Object::List(order)) = keys.object(keys.root) else {
        return Err(damaged("it has no list of the keys of storages"));
    };

    let mut storages = BTreeMap::new();
    for storage in saved.storages() {
        let other = storages.insert(storage.key.as_str(), storage);
        if other.is_some_and(|other| other != storage) {
            let key = shown(&storage.key);
            return Err(damaged(format!("its storage `{key}` is described in two ways")));
        }
    }
    let mut places = BTreeMap::new();
    for &key in order {
        let Some(key) = keys.text(key) else {
            return Err(damaged("the key of a storage is no text"));
        };
        let bad = |what: String| damaged(format!("its storage `{}` {what}", shown(key)));
        // Without what it holds its length would not be known.
        let Some((key, storage)) = storages.remove_entry(key) else {
            return Err(bad("is there twice, or belongs to no tensor".into()));
        };
        let count = i64::from_le_bytes(input.array()?);
        if u64::try_from(count) != Ok(storage.count) {
            return Err(bad(format!("has {count} elements, and should have {}", storage.count)));
        }
        places.insert(key, input.at());
        match storage.bytes() {
            Some(bytes) if bytes <= input.left() => input.skip(bytes)?,
            _ => return Err(bad("ends beyond the end of the file".into())),
        }
    }
    if let Some(missing) = storages.keys().next() {
        return Err(damaged(format!("its storage `{}` is not there", shown(missing))));
    }
    if input.left() > 0 {
        return Err(damaged(format!("{} bytes follow the last storage", input.left())));
    }
    named(&saved, &places, budget)
}
