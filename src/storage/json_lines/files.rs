//! The files of a directory: their names, their order, and what a line in them is.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::super::seq_of;
use super::FileError;
use crate::event::{Category, RawValue};

/// The file that is locked by who writes in the directory.
pub(super) const LOCK: &str = "lock";
/// The end of the name of what is being compressed.
pub(super) const UNFINISHED: &str = ".tmp";
/// The last number of a file: with more digits, the order of the names would not be that of the numbers.
const MAX_NUMBER: u64 = 9_999_999_999;
/// The category of names that are not known.
const OTHER: &str = "other";

/// The name of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) number: u64,
    pub(super) epoch: u64,
    pub(super) first_seq: u64,
    pub(super) category: Option<&'static str>,
    pub(super) compressed: bool,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010}-{:016x}-{:020}", self.number, self.epoch, self.first_seq)?;
        if let Some(category) = self.category {
            write!(f, ".{category}")?;
        }
        f.write_str(if self.compressed { ".ndjson.zst" } else { ".ndjson" })
    }
}

impl Name {
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (rest, compressed) = match name.strip_suffix(".zst") {
            Some(rest) => (rest, true),
            None => (name, false),
        };
        let rest = rest.strip_suffix(".ndjson")?;
        let (rest, category) = match rest.split_once('.') {
            Some((rest, category)) => (rest, Some(categories().find(|known| *known == category)?)),
            None => (rest, None),
        };
        let mut parts = rest.split('-');
        let parsed = Self {
            number: parts.next()?.parse().ok()?,
            epoch: u64::from_str_radix(parts.next()?, 16).ok()?,
            first_seq: parts.next()?.parse().ok()?,
            category,
            compressed,
        };
        (parsed.number <= MAX_NUMBER && parsed.to_string() == name).then_some(parsed)
    }

    /// All that tells a file from others: it stays the same when the file is compressed.
    fn key(&self) -> (u64, u64, u64, Option<&'static str>) {
        (self.number, self.epoch, self.first_seq, self.category)
    }
}

/// What the files of each category are called.
fn categories() -> impl Iterator<Item = &'static str> {
    (0..=Category::KNOWN.len()).map(category)
}

/// What the files of the category with this index are called.
pub(super) fn category(index: usize) -> &'static str {
    static KNOWN: [Category<'static>; Category::KNOWN.len()] = Category::KNOWN;
    KNOWN.get(index).map_or(OTHER, Category::as_str)
}

/// The files of lines in a directory in the order of their numbers. Of one that is there in both forms, as it was: it goes only when the
/// other one is whole.
pub(super) fn list(dir: &Path) -> Result<Vec<(Name, PathBuf)>, FileError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(FileError::new("list", dir))? {
        let entry = entry.map_err(FileError::new("list", dir))?;
        if let Some(name) = entry.file_name().to_str().and_then(Name::parse) {
            found.push((name, entry.path()));
        }
    }
    found.sort_by_key(|(name, _)| (name.key(), name.compressed));
    found.dedup_by_key(|(name, _)| name.key());
    Ok(found)
}

/// A file to append to.
pub(super) fn create(dir: &Path, name: &Name) -> Result<(File, PathBuf), FileError> {
    let path = dir.join(name.to_string());
    if name.number > MAX_NUMBER {
        let what = format!("{MAX_NUMBER} is the last number of a file");
        return Err(FileError::new("create", &path)(io::Error::other(what)));
    }
    let file = OpenOptions::new().append(true).create_new(true).open(&path);
    Ok((file.map_err(FileError::new("create", &path))?, path))
}

/// Makes durable which files a directory has.
pub(super) fn sync_dir(dir: &Path) -> Result<(), FileError> {
    // Elsewhere a directory cannot be opened, and need not be.
    if cfg!(unix) {
        let synced = File::open(dir).and_then(|dir| dir.sync_all());
        synced.map_err(FileError::new("make durable", dir))?;
    }
    Ok(())
}

/// The seq of an envelope, if it is one from the first byte to the last.
pub(super) fn checked_seq_of(line: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Envelope<'a> {
        seq: u64,
        #[serde(borrow)]
        #[allow(dead_code)] // that it is JSON is all
        event: &'a RawValue,
    }
    seq_of(line)?;
    serde_json::from_slice(line).ok().map(|Envelope { seq, .. }| seq)
}

/// The first seq that the events stand for whose loss this line tells; `None` for any other line.
pub(super) fn lost_from(line: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow)]
        event: crate::event::Event<'a>,
    }
    #[derive(Deserialize)]
    struct Lost {
        from: u64,
    }
    let Envelope { event } = serde_json::from_slice(line).ok()?;
    let data = event.data.filter(|_| event.r#type == super::super::GAP)?;
    serde_json::from_str(data.get()).ok().map(|Lost { from }| from)
}
