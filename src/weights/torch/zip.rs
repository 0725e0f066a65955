//! The form since PyTorch 1.6: an archive of records that are stored as they are.
//!
//! In one folder of any name: `data.pkl`, the pickle; `data/KEY`, the bytes of each storage; `byteorder`, which older
//! files lack; and others that say nothing about tensors. An archive may be larger than 4 GiB (zip64).

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use rawzip::{
    CompressionMethod, ErrorKind, RECOMMENDED_BUFFER_SIZE, ReaderAt, ZipArchive,
    ZipArchiveEntryWayfinder, ZipFileHeaderRecord, ZipLocator,
};

use super::pickle::{self, Input};
use super::{Budget, Entry, Stored, Unreadable, damaged, named, shown};

/// How an archive begins: with a record, or, without any, with its end.
pub(super) const SIGNATURES: [&[u8]; 2] = [b"PK\x03\x04", b"PK\x05\x06"];

pub(super) fn load(source: &Stored) -> Result<BTreeMap<String, Entry>, Unreadable> {
    let len = source.len();
    let mut budget = Budget::new(len);
    let records = Records::new(source, len, &mut budget)?;
    if let Some(order) = records.range("byteorder")? {
        let mut bytes = [0; 6];
        let known = order.end - order.start == bytes.len() as u64;
        if known {
            source.read(order.start, &mut bytes)?;
        }
        if !known || bytes != *b"little" {
            return Err(damaged("its record `byteorder` does not say `little`"));
        }
    }
    let Some(data) = records.range("data.pkl")? else {
        return Err(damaged("it is an archive without a record `data.pkl`"));
    };
    let pickle = pickle::read(&mut Input::new(source, data), &mut budget)?;
    let mut places = BTreeMap::new();
    for storage in pickle.storages() {
        let name = format!("data/{}", storage.key);
        let Some(range) = records.range(&name)? else {
            return Err(damaged(format!("there is no record `{}`", shown(&name))));
        };
        let bytes = range.end - range.start;
        if storage.bytes() != Some(bytes) {
            return Err(damaged(format!(
                "its record `{}` has {bytes} bytes, and should hold {} elements of {:?}",
                shown(&name),
                storage.count,
                storage.element
            )));
        }
        places.insert(storage.key.as_str(), range.start);
    }
    named(&pickle, &places, budget)
}

/// What an archive has, by the name below its one folder.
struct Records<'a> {
    archive: ZipArchive<&'a Stored>,
    len: u64,
    by_name: BTreeMap<String, Place>,
}

/// A record in the archive.
struct Place {
    record: ZipArchiveEntryWayfinder,
    header: u64,
    /// What keeps it from being read where it lies.
    packed: Option<&'static str>,
}

impl<'a> Records<'a> {
    fn new(source: &'a Stored, len: u64, budget: &mut Budget) -> Result<Self, Unreadable> {
        let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
        let archive = ZipLocator::new()
            .locate_in_reader(source, &mut buffer, len)
            .map_err(|(_, e)| unreadable(e))?;
        let mut by_name = BTreeMap::new();
        let mut root = None;
        let mut entries = archive.entries(&mut buffer);
        while let Some(entry) = entries.next_entry().map_err(unreadable)? {
            let path = entry.file_path();
            let path = std::str::from_utf8(path.as_ref())
                .map_err(|_| damaged("the name of one of its records is not UTF-8"))?;
            let bad = |what| damaged(format!("its record `{}` {what}", shown(path)));
            let plain = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
            let Some((folder, name)) = path.split_once('/').filter(|_| plain) else {
                return Err(bad("is not named as one in a folder"));
            };
            budget.spend(size_of::<(String, Place)>() + name.len())?;
            if root.get_or_insert_with(|| folder.to_string()) != folder {
                return Err(bad("is in a second folder"));
            }
            let (record, header) = (entry.wayfinder(), entry.local_header_offset());
            let place = Place { record, header, packed: packed(&entry) };
            if by_name.insert(name.to_string(), place).is_some() {
                return Err(bad("is there twice"));
            }
        }
        Ok(Self { archive, len, by_name })
    }

    /// Where the bytes of a record lie in the file.
    fn range(&self, name: &str) -> Result<Option<Range<u64>>, Unreadable> {
        let Some(place) = self.by_name.get(name) else { return Ok(None) };
        let bad = |what: &str| damaged(format!("its record `{}` {what}", shown(name)));
        if let Some(how) = place.packed {
            return Err(bad(how));
        }
        if place.header >= self.len {
            return Err(bad("lies beyond the end of the file"));
        }
        let entry = self.archive.get_entry(place.record).map_err(unreadable)?;
        let (start, end) = entry.compressed_data_range();
        match end <= self.len {
            true => Ok(Some(start..end)),
            false => Err(bad("ends beyond the end of the file")),
        }
    }
}

fn packed(entry: &ZipFileHeaderRecord) -> Option<&'static str> {
    if entry.flags().is_encrypted() {
        Some("is encrypted")
    } else if entry.compression_method() != CompressionMethod::STORE
        || entry.compressed_size_hint() != entry.uncompressed_size_hint()
    {
        Some("is compressed, as torch.save does not write it")
    } else {
        None
    }
}

fn unreadable(e: rawzip::Error) -> Unreadable {
    match e.into_kind() {
        // That of a directory that names places beyond the end.
        ErrorKind::IO(e) if e.kind() != io::ErrorKind::UnexpectedEof => Unreadable::Io(e),
        other => damaged(format!("the archive is cut off or damaged ({other})")),
    }
}

impl ReaderAt for Stored {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        io::Read::read(&mut self.reader(offset), out)
    }
}
