//! Reading what was written.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::super::{event_json, seq_of};
use super::FileError;
use super::files::{Name, list, lost_from};

/// One line: an envelope.
#[derive(Clone, PartialEq, Eq)]
pub struct Line {
    epoch: u64,
    seq: u64,
    json: Vec<u8>,
}

impl Line {
    #[cfg(feature = "s2")]
    pub(in crate::storage) fn new(epoch: u64, seq: u64, json: Vec<u8>) -> Self {
        Self { epoch, seq, json }
    }

    /// The [epoch](crate::stream::Handle::epoch) of the stream that it is of.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Its seq.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The envelope as one line of JSON, without a line break at its end.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// The event in it.
    pub fn event_json(&self) -> &[u8] {
        event_json(self.seq, &self.json)
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Line({})", String::from_utf8_lossy(&self.json))
    }
}

/// Something in a directory of JSON Lines is not as it should be. Reading goes on behind it.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReadError {
    /// The last line of a file is not whole: its writer died, or is at it.
    Torn {
        /// The file.
        path: PathBuf,
        /// How many bytes there are behind the last line break.
        bytes: u64,
    },
    /// A line is no envelope.
    Invalid {
        /// The file.
        path: PathBuf,
        /// Where in it the line begins; in a compressed one, in what was compressed.
        at: u64,
    },
    /// Seqs are missing, and no line tells of their loss.
    Missing {
        /// The epoch of their stream.
        epoch: u64,
        /// The first one.
        from: u64,
        /// The last one.
        to: u64,
    },
    /// A file could not be read, or only up to here.
    File(FileError),
    /// A file is compressed, and this program was built without the feature `zstd`.
    Compressed {
        /// The file.
        path: PathBuf,
    },
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Torn { path, bytes } => {
                write!(f, "{}: its last {bytes} bytes are no whole line", path.display())
            }
            Self::Invalid { path, at } => {
                write!(f, "{}: the line at byte {at} is no envelope", path.display())
            }
            Self::Missing { epoch, from, to } => {
                write!(f, "seqs {from} to {to} of epoch {epoch:016x} are missing")
            }
            Self::File(error) => error.fmt(f),
            Self::Compressed { path } => {
                write!(f, "{} is compressed, and this build is without zstd", path.display())
            }
        }
    }
}

impl Error for ReadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::File(error) => Some(error),
            _ => None,
        }
    }
}

impl From<FileError> for ReadError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

/// The lines of a directory. Made by [`JsonLines::read`](super::JsonLines::read).
#[derive(Debug)]
pub struct Lines {
    /// The files of later runs.
    files: VecDeque<(Name, PathBuf)>,
    epoch: u64,
    /// Of this run, one for each category.
    chains: Vec<Chain>,
    /// The last seq of this run that there was.
    last: Option<u64>,
}

/// The files of a category.
#[derive(Debug)]
struct Chain {
    category: Option<&'static str>,
    files: VecDeque<PathBuf>,
    open: Option<Open>,
    next: Option<Line>,
}

struct Open {
    path: PathBuf,
    input: Box<dyn BufRead + Send>,
    at: u64,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open").field("path", &self.path).field("at", &self.at).finish_non_exhaustive()
    }
}

impl Lines {
    pub(super) fn new(dir: &Path) -> Result<Self, FileError> {
        Ok(Self { files: list(dir)?.into(), epoch: 0, chains: Vec::new(), last: None })
    }

    /// Those of one file.
    pub(super) fn of_file(path: &Path) -> Self {
        let chain = Chain { category: None, files: [path.into()].into(), open: None, next: None };
        Self { files: VecDeque::new(), epoch: 0, chains: vec![chain], last: None }
    }

    /// Goes on to the next run. False if there is none.
    fn next_run(&mut self) -> bool {
        let Some((name, _)) = self.files.front() else { return false };
        self.epoch = name.epoch;
        self.last = None;
        self.chains.clear();
        let files = self.files.iter().take_while(|(name, _)| name.epoch == self.epoch).count();
        for (name, path) in self.files.drain(..files) {
            match self.chains.iter_mut().find(|chain| chain.category == name.category) {
                Some(chain) => chain.files.push_back(path),
                None => self.chains.push(Chain {
                    category: name.category,
                    files: [path].into(),
                    open: None,
                    next: None,
                }),
            }
        }
        true
    }
}

impl Iterator for Lines {
    type Item = Result<Line, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            for chain in &mut self.chains {
                if let Err(error) = chain.fill(self.epoch) {
                    return Some(Err(error));
                }
            }
            let first = self.chains.iter_mut().filter(|chain| chain.next.is_some());
            let Some(chain) = first.min_by_key(|chain| chain.next.as_ref().map(|line| line.seq)) else {
                if !self.next_run() {
                    return None;
                }
                continue;
            };
            if let (Some(last), Some(line)) = (self.last, &chain.next) {
                let (from, epoch) = (last + 1, self.epoch);
                if line.seq > from {
                    // Once only.
                    self.last = Some(line.seq - 1);
                    let to = lost_from(&line.json).map_or(line.seq, |lost| lost.clamp(1, line.seq)) - 1;
                    if to >= from {
                        return Some(Err(ReadError::Missing { epoch, from, to }));
                    }
                }
            }
            let line = chain.next.take()?;
            self.last = self.last.max(Some(line.seq));
            return Some(Ok(line));
        }
    }
}

impl Chain {
    /// Reads the next line, if there is one.
    fn fill(&mut self, epoch: u64) -> Result<(), ReadError> {
        while self.next.is_none() {
            if self.open.is_none() {
                let Some(path) = self.files.pop_front() else { return Ok(()) };
                self.open = Some(Open::new(path)?);
            }
            let Some(open) = &mut self.open else { return Ok(()) };
            let mut json = Vec::new();
            let read = open.input.read_until(b'\n', &mut json);
            let (at, path) = (open.at, &open.path);
            open.at += json.len() as u64;
            match read {
                Ok(0) => self.open = None,
                Ok(_) if json.pop_if(|byte| *byte == b'\n').is_some() => match seq_of(&json) {
                    Some(seq) => self.next = Some(Line { epoch, seq, json }),
                    None => return Err(ReadError::Invalid { path: path.clone(), at }),
                },
                Ok(_) => {
                    let error = ReadError::Torn { path: path.clone(), bytes: json.len() as u64 };
                    self.open = None;
                    return Err(error);
                }
                Err(error) => {
                    let error = FileError::new("read", path)(error);
                    self.open = None;
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }
}

impl Open {
    fn new(mut path: PathBuf) -> Result<Self, ReadError> {
        let mut file = File::open(&path);
        if let Err(error) = &file
            && error.kind() == io::ErrorKind::NotFound
            && path.extension().is_some_and(|extension| extension == "ndjson")
        {
            // Perhaps it was compressed since the directory was listed.
            let compressed = path.with_extension("ndjson.zst");
            if let Ok(found) = File::open(&compressed) {
                (path, file) = (compressed, Ok(found));
            }
        }
        let file = file.map_err(FileError::new("open", &path))?;
        let compressed = path.extension().is_some_and(|extension| extension == "zst");
        let input = if compressed {
            decompress(file, &path)?
        } else {
            Box::new(BufReader::with_capacity(BUFFER, file))
        };
        Ok(Self { path, input, at: 0 })
    }
}

/// Bytes that are read at once.
const BUFFER: usize = 128 << 10;

#[cfg(feature = "zstd")]
fn decompress(file: File, path: &Path) -> Result<Box<dyn BufRead + Send>, ReadError> {
    let mut compressed = BufReader::with_capacity(BUFFER, file);
    // To the decoder that would be as good as a file without lines.
    let is_empty = compressed.fill_buf().map_err(FileError::new("read", path))?.is_empty();
    if is_empty {
        let error = io::Error::new(io::ErrorKind::UnexpectedEof, "nothing is in it");
        return Err(FileError::new("read", path)(error).into());
    }
    let decoder = zstd::Decoder::with_buffer(compressed).map_err(FileError::new("read", path))?;
    Ok(Box::new(BufReader::with_capacity(BUFFER, decoder)))
}

#[cfg(not(feature = "zstd"))]
fn decompress(_: File, path: &Path) -> Result<Box<dyn BufRead + Send>, ReadError> {
    Err(ReadError::Compressed { path: path.into() })
}
