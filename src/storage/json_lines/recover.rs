//! What an earlier writer has left, in a directory that nobody else writes in.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memchr::memrchr;

use super::files::{LOCK, Name, UNFINISHED, checked_seq_of, list, sync_dir};
use super::read::Lines;
use super::{FileError, OpenError, Position, ReadError, Recovered, Torn};

/// The lock of a directory. The system lets go of it when the process dies.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    /// To close the file is not enough: a process that is just being started holds it, too, until it runs its program.
    fn drop(&mut self) {
        let _ = fs4::FileExt::unlock(&self.0);
    }
}

pub(super) struct Found {
    pub(super) lock: Arc<Lock>,
    pub(super) recovered: Recovered,
    pub(super) next_number: u64,
    #[cfg_attr(not(feature = "zstd"), allow(dead_code))]
    pub(super) uncompressed: Vec<PathBuf>,
}

/// Locks a directory, and cuts off what is unfinished in it. What is found is `durable` then, if wanted.
pub(super) fn recover(dir: &Path, durable: bool) -> Result<Found, OpenError> {
    std::fs::create_dir_all(dir).map_err(FileError::new("make", dir))?;
    let lock = lock(dir)?;
    remove_leftovers(dir)?;
    let files = list(dir)?;
    let next_number = files.last().map_or(1, |(name, _)| name.number + 1);
    let (mut uncompressed, mut torn) = (Vec::new(), Vec::new());
    let mut last: Option<Position> = None;
    // The categories of the last run whose last line is known.
    let mut known = Vec::new();
    for (name, path) in files.iter().rev() {
        let is_of_last = last.is_none_or(|last| last.epoch == name.epoch);
        let seq = if name.compressed {
            if is_of_last && !known.contains(&name.category) { last_compressed(path)? } else { None }
        } else {
            let (seq, bytes) = cut(path, durable).map_err(FileError::new("recover", path))?;
            if bytes > 0 {
                torn.push(Torn { path: path.clone(), bytes });
            }
            if seq.is_none() {
                std::fs::remove_file(path).map_err(FileError::new("remove", path))?;
            } else {
                uncompressed.push(path.clone());
            }
            seq
        };
        if let Some(seq) = seq.filter(|_| is_of_last) {
            known.push(name.category);
            let last = last.get_or_insert(Position { epoch: name.epoch, seq });
            last.seq = last.seq.max(seq);
        }
    }
    if durable {
        sync_dir(dir)?;
        if let Some(parent) = dir.canonicalize().map_err(FileError::new("find", dir))?.parent() {
            sync_dir(parent)?;
        }
    }
    uncompressed.reverse();
    torn.reverse();
    Ok(Found { lock, recovered: Recovered { last, torn }, next_number, uncompressed })
}

fn lock(dir: &Path) -> Result<Arc<Lock>, OpenError> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(FileError::new("open", &path))?;
    match fs4::FileExt::try_lock(&file) {
        Ok(()) => Ok(Arc::new(Lock(file))),
        Err(fs4::TryLockError::WouldBlock) => Err(OpenError::Locked { dir: dir.into() }),
        Err(fs4::TryLockError::Error(error)) => Err(FileError::new("lock", &path)(error).into()),
    }
}

/// Removes what was not compressed to the end, and what was, but is still there as it was before.
fn remove_leftovers(dir: &Path) -> Result<(), FileError> {
    for entry in std::fs::read_dir(dir).map_err(FileError::new("list", dir))? {
        let entry = entry.map_err(FileError::new("list", dir))?;
        let (path, name) = (entry.path(), entry.file_name());
        let Some(name) = name.to_str() else { continue };
        let is_leftover = match name.strip_suffix(UNFINISHED) {
            Some(name) => Name::parse(name).is_some_and(|name| name.compressed),
            None => Name::parse(name).is_some_and(|name| {
                !name.compressed && dir.join(Name { compressed: true, ..name }.to_string()).exists()
            }),
        };
        if is_leftover {
            std::fs::remove_file(&path).map_err(FileError::new("remove", &path))?;
        }
    }
    Ok(())
}

/// Cuts off what is behind the last whole line. Returns its seq, and how many bytes there were behind it.
fn cut(path: &Path, durable: bool) -> io::Result<(Option<u64>, u64)> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let len = file.metadata()?.len();
    let (end, seq) = last_line(&mut file, len)?;
    if end < len {
        file.set_len(end)?;
    }
    if durable {
        file.sync_all()?;
    }
    Ok((seq, len - end))
}

/// The end of the last whole line in a file of this length, and the seq of that line.
fn last_line(file: &mut File, len: u64) -> io::Result<(u64, Option<u64>)> {
    let mut wanted = 64 << 10;
    let mut bytes = Vec::new();
    loop {
        let start = len.saturating_sub(wanted);
        bytes.clear();
        file.seek(SeekFrom::Start(start))?;
        file.take(len - start).read_to_end(&mut bytes)?;
        let mut rest = &bytes[..];
        while let Some(end) = memrchr(b'\n', rest) {
            let line = match memrchr(b'\n', &rest[..end]) {
                Some(before) => before + 1,
                None if start == 0 => 0,
                None => break, // its beginning is further back
            };
            if let Some(seq) = checked_seq_of(&rest[line..end]) {
                return Ok((start + end as u64 + 1, Some(seq)));
            }
            rest = &rest[..line];
        }
        if start == 0 {
            return Ok((0, None));
        }
        wanted *= 4;
    }
}

/// The seq of the last line in a compressed file.
fn last_compressed(path: &Path) -> Result<Option<u64>, OpenError> {
    let mut last = None;
    for line in Lines::of_file(path) {
        match line {
            Ok(line) => last = Some(line.seq()),
            Err(ReadError::File(error)) => return Err(error.into()),
            Err(ReadError::Compressed { path }) => return Err(OpenError::Compressed { path }),
            Err(_) => {} // for those who read
        }
    }
    Ok(last)
}
