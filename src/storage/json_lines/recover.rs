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
    let mut ends = Vec::new();
    let mut last: Option<Position> = None;
    // The categories of the last run whose last line is known.
    let mut known = Vec::new();
    for (name, path) in files.iter().rev() {
        let is_of_last = last.is_none_or(|last| last.epoch == name.epoch);
        let seq = if name.compressed {
            if is_of_last && !known.contains(&name.category) { last_compressed(path)? } else { None }
        } else {
            let end = end(path).map_err(FileError::new("recover", path))?;
            let seq = end.seq;
            ends.push((path.clone(), end));
            seq
        };
        if let Some(seq) = seq.filter(|_| is_of_last) {
            known.push(name.category);
            let last = last.get_or_insert(Position { epoch: name.epoch, seq });
            last.seq = last.seq.max(seq);
        }
    }
    // Not before all else was found in order: who is refused is told of nothing.
    let (mut uncompressed, mut torn) = (Vec::new(), Vec::new());
    for (path, end) in ends.into_iter().rev() {
        if end.torn > 0 {
            torn.push(Torn { path: path.clone(), bytes: end.torn });
        }
        if end.seq.is_none() {
            std::fs::remove_file(&path).map_err(FileError::new("remove", &path))?;
        } else {
            cut(&path, &end, durable).map_err(FileError::new("recover", &path))?;
            uncompressed.push(path);
        }
    }
    if durable {
        sync_dir(dir)?;
        if let Some(parent) = dir.canonicalize().map_err(FileError::new("find", dir))?.parent() {
            sync_dir(parent)?;
        }
    }
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

/// Removes what was not compressed to the end, and what was, but is still there as it was before. If anything of that is not in its compressed
/// form, it stays.
fn remove_leftovers(dir: &Path) -> Result<(), FileError> {
    for entry in std::fs::read_dir(dir).map_err(FileError::new("list", dir))? {
        let entry = entry.map_err(FileError::new("list", dir))?;
        let (path, name) = (entry.path(), entry.file_name());
        let Some(name) = name.to_str() else { continue };
        let is_leftover = match name.strip_suffix(UNFINISHED) {
            Some(name) => Name::parse(name).is_some_and(|name| name.compressed),
            None => Name::parse(name).is_some_and(|name| {
                !name.compressed && is_whole(&dir.join(Name { compressed: true, ..name }.to_string()), &path)
            }),
        };
        if is_leftover {
            std::fs::remove_file(&path).map_err(FileError::new("remove", &path))?;
        }
    }
    Ok(())
}

/// Whether the compressed form of a file is there, and has all of it.
#[cfg(feature = "zstd")]
fn is_whole(compressed: &Path, path: &Path) -> bool {
    has_all(compressed, path).unwrap_or(false)
}

/// Nobody can tell.
#[cfg(not(feature = "zstd"))]
fn is_whole(_: &Path, _: &Path) -> bool {
    false
}

/// Whether a compressed file has what another file has, and no more.
#[cfg(feature = "zstd")]
fn has_all(compressed: &Path, path: &Path) -> io::Result<bool> {
    use std::io::{BufRead, BufReader};

    let mut compressed = BufReader::new(zstd::Decoder::new(File::open(compressed)?)?);
    let mut plain = BufReader::new(File::open(path)?);
    loop {
        let (left, right) = (compressed.fill_buf()?, plain.fill_buf()?);
        let len = left.len().min(right.len());
        if len == 0 || left[..len] != right[..len] {
            return Ok(left.is_empty() && right.is_empty());
        }
        compressed.consume(len);
        plain.consume(len);
    }
}

/// How a file ends.
struct End {
    /// The bytes up to the end of the last whole line.
    whole: u64,
    /// The bytes behind it.
    torn: u64,
    /// The seq of that line.
    seq: Option<u64>,
}

fn end(path: &Path) -> io::Result<End> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    let (whole, seq) = last_line(&mut file, len)?;
    Ok(End { whole, torn: len - whole, seq })
}

/// Cuts off what is behind the last whole line.
fn cut(path: &Path, end: &End, durable: bool) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    if end.torn > 0 {
        file.set_len(end.whole)?;
    }
    if durable {
        file.sync_all()?;
    }
    Ok(())
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
