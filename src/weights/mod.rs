//! Tensors of files that other programs wrote, by name: weights of backbones, denoisers trained elsewhere.
//!
//! A file is one of safetensors, or one that `torch.save` wrote (`.pth`, `.pt`, `.bin`), before PyTorch 1.6 or since; what
//! it is is told by its content. It is read as it is asked for, a tensor at a time, and nothing in it is executed.
//!
//! Of a file with dictionaries in dictionaries the keys are joined by dots. [`Weights::below`] takes the tensors of one of
//! them, [`Weights::without_prefixes`] what training programs put before names:
//!
//! ```no_run
//! # fn main() -> invad::Result<()> {
//! use invad::weights::Weights;
//!
//! let checkpoint = Weights::open("checkpoint.pth")?;
//! let weights = checkpoint.below("model_ema")?.without_prefixes(&["module."])?;
//! let bias = weights.f32s("head.bias", &[1000])?;
//! # Ok(())
//! # }
//! ```
//!
//! [`find`] knows where files of published weights are; [`write()`] makes files of safetensors.

mod find;
#[cfg(feature = "hub")]
mod hub;
mod safe;
mod torch;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use half::{bf16, f16};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

pub use find::{Fetched, Places, SOURCES, Source, find, find_with};
pub use safe::write;
pub(crate) use safe::{read_head, write_amended};

/// What the elements of a stored tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Element {
    /// Floating point of 64 bits.
    F64,
    /// Of 32 bits.
    F32,
    /// Of 16 bits.
    F16,
    /// Of 16 bits, the upper half of an f32.
    Bf16,
    /// Integers of 64 bits.
    I64,
    /// Of 32 bits.
    I32,
    /// Of 16 bits.
    I16,
    /// Of 8 bits.
    I8,
    /// Of 8 bits without a sign.
    U8,
    /// A byte, 0 or 1.
    Bool,
}

impl Element {
    /// Bytes of one.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }
}

/// A tensor in a file: where its elements lie and how they are to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What its elements are.
    pub element: Element,
    /// Its shape.
    pub shape: Vec<usize>,
    /// From its first element to the end of its last in the file.
    bytes: Range<u64>,
    /// Elements from one to the next along each axis; without, they are row-major, one behind the other.
    strides: Option<Vec<usize>>,
}

impl Entry {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where the bytes of a file are.
enum Stored {
    File(OnDisk),
    Memory(Cow<'static, [u8]>),
}

/// A file, and when it was last written as it was opened: what was said of it holds only as long.
struct OnDisk {
    file: Mutex<File>,
    len: u64,
    written: Option<SystemTime>,
}

impl OnDisk {
    fn open(path: &Path) -> io::Result<Self> {
        // What is none, such as a pipe, may wait for ever.
        match fs::metadata(path)? {
            folder if folder.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            other if !other.is_file() => return Err(io::Error::other("this is no regular file")),
            _ => {}
        }
        let file = File::open(path)?;
        let now = file.metadata()?;
        Ok(Self { file: Mutex::new(file), len: now.len(), written: now.modified().ok() })
    }

    fn read(&self, start: u64, out: &mut [u8]) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(start))?;
        let read = file.read_exact(out);
        let now = file.metadata()?;
        if (now.len(), now.modified().ok()) != (self.len, self.written) {
            return Err(io::Error::other("it was written to since it was opened"));
        }
        read
    }
}

impl Stored {
    fn len(&self) -> u64 {
        match self {
            Self::File(file) => file.len,
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }

    /// Its bytes from one on.
    fn reader(&self, at: u64) -> Reader<'_> {
        Reader { source: self, at }
    }

    /// Fills `out` with the bytes from `start` on.
    fn read(&self, start: u64, out: &mut [u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.read(start, out),
            Self::Memory(bytes) => {
                let from = usize::try_from(start).ok().and_then(|start| bytes.get(start..));
                match from.and_then(|from| from.get(..out.len())) {
                    Some(from) => out.copy_from_slice(from),
                    None => return Err(io::ErrorKind::UnexpectedEof.into()),
                }
                Ok(())
            }
        }
    }
}

/// The bytes of a source one after another.
struct Reader<'a> {
    source: &'a Stored,
    at: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.source.len().saturating_sub(self.at);
        let n = usize::try_from(left).map_or(out.len(), |left| left.min(out.len()));
        self.source.read(self.at, &mut out[..n])?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for Reader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(offset) => self.source.len().checked_add_signed(offset),
            SeekFrom::Current(offset) => self.at.checked_add_signed(offset),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// The tensors of a file, by name.
pub struct Weights {
    source: Stored,
    /// The file, or what stands for it in errors.
    path: PathBuf,
    tensors: BTreeMap<String, Entry>,
    texts: BTreeMap<String, String>,
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Weights of {}: {} tensors", self.path.display(), self.tensors.len())
    }
}

impl Weights {
    /// Of a file of safetensors or of PyTorch.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::File`] if it is neither or damaged, or if it is one of PyTorch that
    /// names anything but tensors in dictionaries, describes much more than its size, or repeats numbers (a stride of 0) to
    /// more bytes than it has.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = OnDisk::open(path).map_err(|e| Error::io(path, e))?;
        Self::of(Stored::File(file), path)
    }

    /// Of the bytes of such a file; `name` is what errors call it.
    ///
    /// # Errors
    /// [`Error::File`] if it is none, or damaged.
    pub fn of_bytes(
        name: impl Into<PathBuf>,
        bytes: impl Into<Cow<'static, [u8]>>,
    ) -> Result<Self> {
        Self::of(Stored::Memory(bytes.into()), &name.into())
    }

    fn of(source: Stored, path: &Path) -> Result<Self> {
        let read = match torch::tensors(&source) {
            Some(tensors) => tensors.map(|tensors| (tensors, BTreeMap::new())),
            None => safe::tensors(&source),
        };
        let (tensors, texts) = read.map_err(|e| e.at(path))?;
        Ok(Self { source, path: path.into(), tensors, texts })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A text that a file of safetensors has beside its tensors.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.texts.get(name).map(String::as_str)
    }

    /// Its tensors, in the order of their names.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.tensors.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    /// SHA-256 of the file, in hexadecimal.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read.
    pub fn hash(&self) -> Result<String> {
        let mut digest = Sha256::new();
        let mut file = BufReader::with_capacity(1 << 20, self.source.reader(0));
        loop {
            let part = file.fill_buf().map_err(|e| Error::io(&self.path, e))?;
            let read = part.len();
            if read == 0 {
                break;
            }
            digest.update(part);
            file.consume(read);
        }
        Ok(hexadecimal(digest.finalize()))
    }

    /// The same with other names: what `rename` returns for each, and without those for which it returns nothing.
    ///
    /// # Errors
    /// [`Error::File`] if two get the same name.
    pub fn renamed(self, rename: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for (old, entry) in self.tensors {
            let Some(new) = rename(&old) else { continue };
            if tensors.contains_key(&new) {
                let reason = format!("two of its tensors are `{new}`, one of them as `{old}`");
                return Err(Error::file(&self.path, reason));
            }
            tensors.insert(new, entry);
        }
        Ok(Self { tensors, ..self })
    }

    /// The tensors whose names begin with `key` and a dot, without both: those of the dictionary `key`.
    ///
    /// # Errors
    /// [`Error::File`] if there are none.
    pub fn below(self, key: &str) -> Result<Self> {
        let keys: BTreeSet<_> = self.tensors.keys().map(|name| first_part(name)).collect();
        let has = some(&quoted(keys));
        let below = self.renamed(|name| Some(name.strip_prefix(key)?.strip_prefix('.')?.into()))?;
        match below.tensors.is_empty() {
            false => Ok(below),
            true => Err(Error::file(
                &below.path,
                format!("there is nothing below `{key}`; it has {has}"),
            )),
        }
    }

    /// The same with names without these prefixes, each taken away, in this order, where a name begins with it.
    ///
    /// # Errors
    /// [`Error::File`] if two get the same name.
    pub fn without_prefixes(self, prefixes: &[&str]) -> Result<Self> {
        self.renamed(|name| {
            let without = |name, prefix: &&str| str::strip_prefix(name, *prefix).unwrap_or(name);
            Some(prefixes.iter().fold(name, without).into())
        })
    }

    /// What is known of a tensor.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.tensors.get(name)
    }

    /// The elements of a tensor, row-major and with the lowest byte first, whatever their type.
    ///
    /// # Errors
    /// [`Error::File`] if there is no such tensor; [`Error::Io`] if it cannot be read.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        self.stored(self.expected(name)?)
    }

    /// The numbers of a floating-point tensor of this shape, in f32.
    ///
    /// # Errors
    /// [`Error::File`] if there is no such tensor, or a number of it is not finite in f32; [`Error::Io`] if it cannot
    /// be read, or was written to since it was opened; [`Error::HostMemory`] if there is not enough.
    pub fn f32s(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let fail = |reason: String| Err(Error::file(&self.path, reason));
        let entry = self.expected(name)?;
        if entry.shape != shape {
            return fail(format!("`{name}` should have shape {shape:?}, got {:?}", entry.shape));
        }
        let bytes = self.stored(entry)?;
        let numbers: Vec<f32> = match entry.element {
            Element::F32 => convert(&bytes, f32::from_le_bytes),
            Element::F64 => convert(&bytes, |b| f64::from_le_bytes(b) as f32),
            Element::F16 => convert(&bytes, |b| f16::from_le_bytes(b).to_f32()),
            Element::Bf16 => convert(&bytes, |b| bf16::from_le_bytes(b).to_f32()),
            other => {
                return fail(format!("`{name}` should hold floating-point numbers, got {other:?}"));
            }
        };
        match numbers.iter().find(|number| !number.is_finite()) {
            Some(bad) => fail(format!("`{name}` holds {bad}")),
            None => Ok(numbers),
        }
    }

    fn expected(&self, name: &str) -> Result<&Entry> {
        let missing = || Error::file(&self.path, format!("there is no tensor `{name}`"));
        self.tensors.get(name).ok_or_else(missing)
    }

    /// A tensor's elements, row-major.
    fn stored(&self, entry: &Entry) -> Result<Vec<u8>> {
        let asked = (entry.bytes.end - entry.bytes.start) as usize;
        let mut bytes =
            bytemuck::try_zeroed_vec(asked).map_err(|()| Error::HostMemory { asked })?;
        let read = self.source.read(entry.bytes.start, &mut bytes);
        read.map_err(|e| Error::io(&self.path, e))?;
        Ok(match &entry.strides {
            None => bytes,
            Some(strides) => gathered(&bytes, &entry.shape, strides, entry.element.size()),
        })
    }

    /// That all of these are there, with these shapes; returns the names of the others.
    ///
    /// # Errors
    /// [`Error::File`] that names the first that are missing or have another shape, and those that nobody asked for.
    pub fn require(
        &self,
        expected: impl IntoIterator<Item = (String, Vec<usize>)>,
    ) -> Result<Vec<String>> {
        self.compare(expected, false)
    }

    /// That these are there, with these shapes, and no others.
    ///
    /// # Errors
    /// As [`Weights::require`].
    pub fn require_all(
        &self,
        expected: impl IntoIterator<Item = (String, Vec<usize>)>,
    ) -> Result<()> {
        self.compare(expected, true).map(drop)
    }

    /// Those that were not asked for, unless there should be `none_left`.
    fn compare(
        &self,
        expected: impl IntoIterator<Item = (String, Vec<usize>)>,
        none_left: bool,
    ) -> Result<Vec<String>> {
        let mut left: BTreeSet<&str> = self.tensors.keys().map(String::as_str).collect();
        let (mut missing, mut other) = (Vec::new(), Vec::new());
        for (name, shape) in expected {
            left.remove(name.as_str());
            match self.tensors.get(&name) {
                None => missing.push(name),
                Some(entry) if entry.shape != shape => {
                    other.push(format!("`{name}` ({:?} for {shape:?})", entry.shape));
                }
                Some(_) => {}
            }
        }
        if missing.is_empty() && other.is_empty() && (left.is_empty() || !none_left) {
            return Ok(left.into_iter().map(str::to_string).collect());
        }
        let below = self.key_above(&missing);
        let mut reason = String::from("not the weights of this network");
        let missing = quoted(missing.iter().map(String::as_str));
        for (what, names) in
            [("missing", missing), ("of another shape", other), ("not asked for", quoted(left))]
        {
            if !names.is_empty() {
                write!(reason, "; {what}: {}", some(&names)).expect("a String takes all");
            }
        }
        if let Some(key) = below {
            write!(reason, "; are they what is below `{key}` (--below {key})?")
                .expect("a String takes all");
        }
        Err(Error::file(&self.path, reason))
    }

    /// A key of [`Weights::below`] below which all tensors of these names are.
    pub(crate) fn key_above<S: AsRef<str>>(&self, names: &[S]) -> Option<&str> {
        let first = names.first()?.as_ref();
        let mut keys =
            self.tensors.keys().filter_map(|name| name.strip_suffix(first)?.strip_suffix('.'));
        keys.find(|key| {
            names.iter().all(|name| self.tensors.contains_key(&format!("{key}.{}", name.as_ref())))
        })
    }

    /// The first names, and how many there are.
    pub(crate) fn summary(&self) -> String {
        match self.tensors.is_empty() {
            true => "it has no tensors".into(),
            false => format!("it has {}", some(&quoted(self.tensors.keys().map(String::as_str)))),
        }
    }
}

/// The elements of so many bytes of a view that begins where `bytes` do, row-major.
fn gathered(bytes: &[u8], shape: &[usize], strides: &[usize], size: usize) -> Vec<u8> {
    let len: usize = shape.iter().product();
    let mut gathered = Vec::with_capacity(len * size);
    let (mut index, mut at) = (vec![0; shape.len()], 0);
    for _ in 0..len {
        gathered.extend_from_slice(&bytes[at * size..][..size]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= strides[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    gathered
}

/// What stands before the first dot of a name.
fn first_part(name: &str) -> &str {
    name.split_once('.').map_or(name, |(first, _)| first)
}

fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    names.into_iter().map(|name| format!("`{name}`")).collect()
}

/// The first few, and how many there are.
fn some(names: &[String]) -> String {
    const SHOWN: usize = 3;
    match names.len() {
        n if n <= SHOWN => names.join(", "),
        n => format!("{} and {} more", names[..SHOWN].join(", "), n - SHOWN),
    }
}

/// A hash in hexadecimal.
pub(crate) fn hexadecimal(hash: impl AsRef<[u8]>) -> String {
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn convert<const N: usize>(bytes: &[u8], each: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&b| each(b)).collect()
}

/// Why a file could not be read.
enum Unreadable {
    Io(io::Error),
    Damaged(String),
}

impl Unreadable {
    fn at(self, path: &Path) -> Error {
        match self {
            Self::Io(e) => Error::io(path, e),
            Self::Damaged(reason) => Error::file(path, reason),
        }
    }
}

impl From<io::Error> for Unreadable {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}
