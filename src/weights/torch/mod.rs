//! Files that `torch.save` wrote: tensors in dictionaries, described by a pickle.
//!
//! The pickle is read as data: what it may name is a list of a dozen names (`pickle::Global`), and nothing is called. All
//! that it makes is paid for from a [`Budget`], so that a file takes no more memory or time than one of its size may.

mod legacy;
mod pickle;
mod zip;

use std::collections::BTreeMap;

use super::{Entry, Stored, Unreadable};
use pickle::{Object, Pickle, Tensor, Value};

/// How deep dictionaries may lie in one another.
const DEEPEST: usize = 64;

/// What every file may take, whatever its size: enough for some thousand tensors without elements.
const FREE: u64 = 4 << 20;

/// The tensors of a file that begins as one of PyTorch's does; `None` for another.
pub(super) fn tensors(source: &Stored) -> Option<Result<BTreeMap<String, Entry>, Unreadable>> {
    let mut start = [0; legacy::MAGIC.len()];
    let known = source.len().min(legacy::MAGIC.len() as u64) as usize;
    if let Err(e) = source.read(0, &mut start[..known]) {
        return Some(Err(e.into()));
    }
    let load = match () {
        () if zip::SIGNATURES.iter().any(|signature| start.starts_with(signature)) => zip::load,
        () if start == legacy::MAGIC => legacy::load,
        () => return None,
    };
    Some(load(source).map_err(|e| match e {
        Unreadable::Damaged(reason) => {
            Unreadable::Damaged(format!("no PyTorch file that can be read: {reason}"))
        }
        io => io,
    }))
}

/// The memory that a file's objects and names may still take: in all as much as its size, and [`FREE`].
///
/// Lists double as they grow, so that no allocation is larger than twice that.
struct Budget {
    file: u64,
    left: u64,
}

impl Budget {
    fn new(file: u64) -> Self {
        Self { file, left: file.saturating_add(FREE) }
    }

    fn spend(&mut self, bytes: usize) -> Result<(), Unreadable> {
        self.left = self.left.checked_sub(bytes as u64).ok_or_else(|| {
            damaged("what it describes would take much more memory than the file has bytes")
        })?;
        Ok(())
    }
}

fn damaged(reason: impl Into<String>) -> Unreadable {
    Unreadable::Damaged(reason.into())
}

/// A text of a file as a message shows it: on one line, and not endless.
fn shown(text: &str) -> String {
    const LONGEST: usize = 100;
    let mut shown: String = text.escape_debug().take(LONGEST).collect();
    if text.escape_debug().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

/// The tensors of what was pickled by name, each storage at its place in the file.
fn named(
    pickle: &Pickle,
    places: &BTreeMap<&str, u64>,
    budget: Budget,
) -> Result<BTreeMap<String, Entry>, Unreadable> {
    let mut names = Names { pickle, places, budget, tensors: BTreeMap::new() };
    names.below(pickle.root, "", 0)?;
    Ok(names.tensors)
}

/// Gives each tensor the keys on the way to it, joined by dots.
struct Names<'a> {
    pickle: &'a Pickle,
    places: &'a BTreeMap<&'a str, u64>,
    budget: Budget,
    tensors: BTreeMap<String, Entry>,
}

impl Names<'_> {
    fn below(&mut self, value: Value, name: &str, depth: usize) -> Result<(), Unreadable> {
        // Also for what has no tensors in it: a few values that hold each other twice are followed for ever.
        self.budget.spend(size_of::<Value>())?;
        let pickle = self.pickle;
        let Some(object) = pickle.object(value) else { return Ok(()) };
        if depth > DEEPEST {
            return Err(damaged(format!("it is nested deeper than {DEEPEST} dictionaries")));
        }
        match object {
            Object::Tensor(tensor) => self.insert(tensor, name),
            Object::Dict { entries, .. } => entries.iter().try_for_each(|&(key, value)| {
                if pickle.object(value).is_none() {
                    return Ok(());
                }
                match (key, pickle.text(key)) {
                    (_, Some(key)) => self.below(value, &joined(name, key), depth + 1),
                    (Value::Int(key), _) => {
                        self.below(value, &joined(name, &key.to_string()), depth + 1)
                    }
                    _ => Err(damaged(format!(
                        "a key in the dictionary `{}` is neither text nor a whole number",
                        shown(name)
                    ))),
                }
            }),
            Object::List(values) | Object::Tuple(values) => {
                values.iter().enumerate().try_for_each(|(i, &value)| {
                    self.below(value, &joined(name, &i.to_string()), depth + 1)
                })
            }
            Object::Text(_) | Object::Storage(_) => Ok(()),
        }
    }

    fn insert(&mut self, tensor: &Tensor, name: &str) -> Result<(), Unreadable> {
        // A name is there twice, while it is looked up and in the map.
        let axes = 2 * tensor.shape.len() * size_of::<usize>();
        self.budget.spend(2 * name.len() + size_of::<(String, Entry)>() + axes)?;
        let start = self.places[self.pickle.storage(tensor.storage).key.as_str()];
        let entry = self
            .entry(tensor, start)
            .map_err(|reason| damaged(format!("`{}` {reason}", shown(name))))?;
        match self.tensors.insert(name.into(), entry) {
            None => Ok(()),
            Some(_) => Err(damaged(format!("two of its tensors are `{}`", shown(name)))),
        }
    }

    /// A view of a storage that begins at `start` in the file.
    fn entry(&self, tensor: &Tensor, start: u64) -> Result<Entry, String> {
        let element = self.pickle.storage(tensor.storage).element;
        let width = element.size() as u64;
        let len: usize = tensor.shape.iter().product();
        let size = (len as u64).saturating_mul(width);
        if size > self.budget.file {
            return Err(format!(
                "repeats its numbers to {size} bytes, and the file has {}",
                self.budget.file
            ));
        }
        let shape = tensor.shape.clone();
        let first = start + if len == 0 { 0 } else { tensor.offset * width };
        let mut entry = Entry { element, shape, bytes: first..first + size, strides: None };
        let mut step = 1;
        let row_major = tensor.shape.iter().zip(&tensor.strides).rev().all(|(&size, &stride)| {
            let next = size == 1 || stride == step;
            step *= size;
            next
        });
        if len > 0 && !row_major {
            // A stride along an axis of one element says nothing, and may be any number.
            let strides = tensor.shape.iter().zip(&tensor.strides);
            let strides = strides.map(|(&size, &stride)| if size == 1 { 0 } else { stride });
            let strides: Vec<usize> = strides.collect();
            let last = tensor.shape.iter().zip(&strides).map(|(&size, &s)| (size - 1) * s);
            entry.bytes.end = first + (last.sum::<usize>() as u64 + 1) * width;
            entry.strides = Some(strides);
        }
        Ok(entry)
    }
}

fn joined(name: &str, key: &str) -> String {
    match name {
        "" => key.into(),
        name => format!("{name}.{key}"),
    }
}
