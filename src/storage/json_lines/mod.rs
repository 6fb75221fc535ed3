//! A directory of JSON Lines.

#[cfg(feature = "zstd")]
mod compress;
mod files;
mod read;
mod recover;

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::files::{Name, create, sync_dir};
pub use self::read::{Line, Lines, ReadError};
use super::{Batch, Limits, Storage, StorageError};
use crate::event::Category;

/// An append-only directory of JSON Lines: one line an envelope, byte for byte as the stream has it.
///
/// ```
/// use lapwing::event::{Category, Event, Source, SourceKind};
/// use lapwing::storage::{JsonLines, JsonLinesConfig, StorageWriter};
/// use lapwing::stream::Config;
/// use std::time::{Duration, Instant};
///
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
/// let (storage, recovered) = JsonLines::open(dir, JsonLinesConfig::new())?;
/// for torn in &recovered.torn {
///     eprintln!("{} bytes of an unfinished line were cut off {}", torn.bytes, torn.path.display());
/// }
/// // The numbers go on where the last run ended.
/// let stream = Config::new().first_seq(recovered.last.map_or(1, |last| last.seq + 1)).build()?;
/// let mut writer = StorageWriter::new(&stream, storage);
/// stream.publish(&Event::new("tick", Category::System, Source::new(SourceKind::LocalProcess)).ts(7))?;
/// stream.close();
/// writer.run()?; // in a thread of its own, as a rule
/// writer.close(Instant::now() + Duration::from_secs(1))?;
/// for line in JsonLines::read(dir)? {
///     println!("{}", String::from_utf8_lossy(line?.json()));
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Files
///
/// ```text
/// 0000000007-9f86d081884c7d65-00000000000000000042.ndjson
/// number     epoch            first seq
/// ```
///
/// A name says all that the lines do not. The numbers rise, so the order of the names is the order of writing, also when the seqs of another run
/// begin with 1 again. The epoch tells which seqs are of one stream. And nothing but envelopes is in a file: `cat *.ndjson` is JSON Lines, and
/// a file of which only a torn line is left still has its place. With a file for each category its name comes behind the first seq
/// (`….network.ndjson`); names that are not [known](Category::KNOWN) share `other`. Compressed files end in `.ndjson.zst`.
///
/// Every [`open`](Self::open) begins new files; a finished file never changes.
///
/// # What can be relied on
///
/// - A batch is appended whole or not at all: after an error, such as a full disk, what was written of it is cut off again, and it is tried again. It
///   is never torn in the middle.
/// - What the directory holds of a stream already is not appended again: a writer that begins with the oldest event does no harm.
/// - When the process dies, the last line of a file can be torn, and the next `open` cuts it off and tells. With a file for each category it
///   can be one batch of which some categories are there and others are not.
/// - When the machine dies, what is [durable](Storage::durable) is there. That is up to [`Fsync`].
/// - When the system fails to make durable what it took, nobody knows what is there. It is cut off, and read from the ring once more.
/// - When somebody removes a file, what was in it is gone. If it is the one that is written to, the next batch fails, and goes to a new file when it
///   is tried again; if the directory is gone, for as long as it is.
/// - One process writes: a second `open` is refused while the first one lasts. Anybody may read.
#[derive(Debug)]
pub struct JsonLines {
    dir: PathBuf,
    config: JsonLinesConfig,
    /// What was appended last.
    last: Option<Position>,
    run: Option<Run>,
    /// One, or one for each category.
    chains: Vec<Chain>,
    next_number: u64,
    #[cfg(feature = "zstd")]
    compressor: Option<compress::Compressor>,
    _lock: Arc<recover::Lock>,
}

/// A seq of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The [epoch](crate::stream::Handle::epoch) of the stream.
    pub epoch: u64,
    /// The seq.
    pub seq: u64,
}

/// What is known of the stream since the storage was opened.
#[derive(Debug)]
struct Run {
    epoch: u64,
    durable: u64,
    /// When something was appended first that is not durable.
    unsynced_since: Option<Instant>,
}

/// The files of a category, one after the other, of which this is the last one.
#[derive(Debug, Default)]
struct Chain {
    file: Option<Current>,
    /// Its lines of a batch.
    lines: Vec<u8>,
    first_seq: u64,
}

#[derive(Debug)]
struct Current {
    file: File,
    path: PathBuf,
    created: Instant,
    /// What of it belongs to batches that were appended whole.
    len: u64,
    /// What was written; more than `len` in the middle of a batch, and after a failure until it could be cut.
    written: u64,
    synced: u64,
}

/// How a directory of JSON Lines is written.
#[derive(Clone, Debug)]
pub struct JsonLinesConfig {
    max_bytes: u64,
    max_age: Option<Duration>,
    fsync: Fsync,
    per_category: bool,
    #[cfg(feature = "zstd")]
    compression: Option<i32>,
}

/// When what was appended is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// When the system likes. It is safe when the process dies, and not when the machine does.
    Never,
    /// At the latest so long after it was appended.
    Every(Duration),
    /// Before a batch counts as appended.
    EveryBatch,
}

impl Default for JsonLinesConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl JsonLinesConfig {
    /// One chain of files of up to 64 MiB, of any age, made durable every 100 ms, not compressed.
    pub fn new() -> Self {
        Self {
            max_bytes: 64 << 20,
            max_age: None,
            fsync: Fsync::Every(Duration::from_millis(100)),
            per_category: false,
            #[cfg(feature = "zstd")]
            compression: None,
        }
    }

    /// A file that the next batch would make larger is finished, and a new one begun. So a file has at most as many bytes, or is of one batch.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// A file is finished so long after it was begun.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// When what was appended is made durable.
    pub fn fsync(mut self, fsync: Fsync) -> Self {
        self.fsync = fsync;
        self
    }

    /// Whether each category has files of its own.
    pub fn per_category(mut self, yes: bool) -> Self {
        self.per_category = yes;
        self
    }

    /// Finished files are compressed, with this level of zstd, by a thread of its own. 3 is common.
    #[cfg(feature = "zstd")]
    pub fn compression(mut self, level: i32) -> Self {
        self.compression = Some(level);
        self
    }
}

/// What [`JsonLines::open`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The last envelope that is there.
    pub last: Option<Position>,
    /// What was cut off.
    pub torn: Vec<Torn>,
}

/// The end of a file that is no whole line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// The file.
    pub path: PathBuf,
    /// How many bytes there were behind the last whole line.
    pub bytes: u64,
}

/// Something could not be done with a file.
#[derive(Debug)]
pub struct FileError {
    /// What.
    pub doing: &'static str,
    /// The file, or the directory.
    pub path: PathBuf,
    /// Why not.
    pub error: io::Error,
}

impl FileError {
    fn new(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self { doing, path: path.into(), error }
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { doing, path, error } = self;
        write!(f, "cannot {doing} {}: {error}", path.display())
    }
}

impl Error for FileError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}

/// After it nothing has changed, and the same can be tried again.
impl From<FileError> for StorageError {
    fn from(error: FileError) -> Self {
        Self::Retry(error.into())
    }
}

/// A directory could not be opened. Nothing in it was appended; torn ends may be cut off.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// Another one writes there, in this process or in another.
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// Something could not be done with a file.
    File(FileError),
    /// A file is compressed, and this program was built without the feature `zstd`.
    Compressed {
        /// The file.
        path: PathBuf,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked { dir } => write!(f, "{} is locked: another writer has it open", dir.display()),
            Self::File(error) => error.fmt(f),
            Self::Compressed { path } => {
                write!(f, "{} is compressed, and this build is without zstd", path.display())
            }
        }
    }
}

impl Error for OpenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::File(error) => Some(error),
            Self::Locked { .. } | Self::Compressed { .. } => None,
        }
    }
}

impl From<FileError> for OpenError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl JsonLines {
    /// Opens a directory, and makes it if need be. Cuts off what an earlier writer left unfinished, and says what there is.
    ///
    /// # Errors
    ///
    /// When another writer has it open, and when the system fails.
    pub fn open(dir: impl Into<PathBuf>, config: JsonLinesConfig) -> Result<(Self, Recovered), OpenError> {
        let dir = dir.into();
        let found = recover::recover(&dir, config.fsync != Fsync::Never)?;
        let chains = if config.per_category { Category::KNOWN.len() + 1 } else { 1 };
        #[cfg(feature = "zstd")]
        let compressor = config.compression.map(|level| {
            compress::Compressor::start(dir.clone(), level, Arc::clone(&found.lock), found.uncompressed)
        });
        let storage = Self {
            #[cfg(feature = "zstd")]
            compressor: compressor.transpose().map_err(FileError::new("start a thread for", &dir))?,
            dir,
            config,
            last: found.recovered.last,
            run: None,
            chains: (0..chains).map(|_| Chain::default()).collect(),
            next_number: found.next_number,
            _lock: found.lock,
        };
        Ok((storage, found.recovered))
    }

    /// Every line of a directory: those of one run after those of the run before, in the order of their seqs.
    ///
    /// Nothing in the directory is changed, and it may be written to meanwhile.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read.
    pub fn read(dir: impl AsRef<Path>) -> Result<Lines, FileError> {
        Lines::new(dir.as_ref())
    }

    /// The last envelope that is there.
    pub fn last(&self) -> Option<Position> {
        self.last
    }

    fn files(&mut self) -> impl Iterator<Item = &mut Current> {
        self.chains.iter_mut().filter_map(|chain| chain.file.as_mut())
    }

    /// Writes what of a batch is not there yet. It belongs to the files when all of it is written.
    fn write_batch(&mut self, batch: &Batch) -> Result<(), StorageError> {
        let held = self.last.filter(|last| last.epoch == batch.epoch()).map_or(0, |last| last.seq);
        let mut new = batch.entries.iter().skip_while(|entry| entry.seq <= held).peekable();
        if self.chains.len() == 1 {
            return match new.peek() {
                Some(first) => self.write(0, batch.epoch(), first.seq, &batch.lines()[first.at.start..]),
                None => Ok(()),
            };
        }
        for entry in new {
            let chain = &mut self.chains[usize::from(entry.category)];
            if chain.lines.is_empty() {
                chain.first_seq = entry.seq;
            }
            chain.lines.extend_from_slice(&batch.lines()[entry.at.start..=entry.at.end]);
        }
        let mut result = Ok(());
        for at in 0..self.chains.len() {
            let chain = &mut self.chains[at];
            let (mut lines, first_seq) = (std::mem::take(&mut chain.lines), chain.first_seq);
            if result.is_ok() && !lines.is_empty() {
                result = self.write(at, batch.epoch(), first_seq, &lines);
            }
            lines.clear();
            self.chains[at].lines = lines;
        }
        result
    }

    /// Writes lines to the file of a chain, or to a new one.
    fn write(&mut self, at: usize, epoch: u64, first_seq: u64, lines: &[u8]) -> Result<(), StorageError> {
        if let Some(file) = self.chains[at].file.take_if(|file| file.is_removed()) {
            let error = io::Error::new(io::ErrorKind::NotFound, "it was removed");
            return Err(file.failed("append to")(error).into());
        }
        let Self { config, chains, .. } = &*self;
        if chains[at].file.as_ref().is_some_and(|file| {
            file.len + lines.len() as u64 > config.max_bytes || file.is_older_than(config.max_age)
        }) {
            self.finish(at)?;
        }
        let category = (self.chains.len() > 1).then(|| files::category(at));
        let chain = &mut self.chains[at];
        let file = match &mut chain.file {
            Some(file) => file,
            empty => {
                let name = Name { number: self.next_number, epoch, first_seq, category, compressed: false };
                let (file, path) = create(&self.dir, &name)?;
                self.next_number += 1;
                let created = Instant::now();
                let file = empty.insert(Current { file, path, created, len: 0, written: 0, synced: 0 });
                if self.config.fsync != Fsync::Never {
                    sync_dir(&self.dir)?;
                }
                file
            }
        };
        let mut rest = lines;
        while !rest.is_empty() {
            match file.file.write(rest) {
                Ok(0) => return Err(file.failed("append to")(io::ErrorKind::WriteZero.into()).into()),
                Ok(written) => {
                    file.written += written as u64;
                    rest = &rest[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(file.failed("append to")(error).into()),
            }
        }
        Ok(())
    }

    /// Cuts off what does not belong to a whole batch. A file of which nothing is left is removed: the next one begins with another seq.
    fn cut(&mut self) -> Result<(), FileError> {
        for chain in &mut self.chains {
            let Some(file) = &mut chain.file else { continue };
            if file.len == 0 {
                match std::fs::remove_file(&file.path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(file.failed("remove")(error));
                    }
                    _ => chain.file = None,
                }
            } else if file.written != file.len {
                file.file.set_len(file.len).map_err(file.failed("cut back"))?;
                file.written = file.len;
            }
        }
        Ok(())
    }

    /// Makes durable what belongs to the files. If that fails, what is not durable no longer belongs to them.
    fn sync(&mut self) -> Result<(), StorageError> {
        let Some(run) = &mut self.run else { return Ok(()) };
        if self.config.fsync == Fsync::Never {
            return Ok(());
        }
        run.unsynced_since = None;
        let failed = self.chains.iter().filter_map(|chain| chain.file.as_ref()).find_map(|file| {
            let synced = if file.synced < file.len { file.file.sync_data() } else { Ok(()) };
            synced.map_err(file.failed("make durable")).err()
        });
        let Some(error) = failed else {
            run.durable = self.last.map_or(run.durable, |last| last.seq);
            self.files().for_each(|file| file.synced = file.len);
            return Ok(());
        };
        let Run { epoch, durable: after, .. } = *run;
        self.last = Some(Position { epoch, seq: after });
        self.files().for_each(|file| file.len = file.synced);
        let _ = self.cut(); // otherwise before the next append
        Err(StorageError::Rewind { after, error: error.into() })
    }

    /// Ends the file of a chain.
    fn finish(&mut self, at: usize) -> Result<(), StorageError> {
        // All of them, for a file that is finished is not cut any more.
        self.sync()?;
        if let Some(_file) = self.chains[at].file.take() {
            #[cfg(feature = "zstd")]
            if let Some(compressor) = &self.compressor {
                compressor.compress(_file.path);
            }
        }
        Ok(())
    }

    fn finish_all(&mut self) -> Result<(), StorageError> {
        self.sync()?;
        (0..self.chains.len()).try_for_each(|at| self.finish(at))
    }
}

impl Current {
    fn is_older_than(&self, age: Option<Duration>) -> bool {
        age.is_some_and(|age| self.created.elapsed() >= age)
    }

    /// Whether somebody has removed it: what is written to it then is gone with it, and no write fails. Where there is no such thing, false.
    fn is_removed(&self) -> bool {
        #[cfg(unix)]
        return self.file.metadata().is_ok_and(|file| std::os::unix::fs::MetadataExt::nlink(&file) == 0);
        #[cfg(not(unix))]
        false
    }

    fn failed(&self, doing: &'static str) -> impl FnOnce(io::Error) -> FileError {
        FileError::new(doing, &self.path)
    }
}

impl Storage for JsonLines {
    fn append(&mut self, batch: &Batch) -> Result<(), StorageError> {
        self.cut()?;
        let (epoch, Some(seq)) = (batch.epoch(), batch.last_seq()) else { return Ok(()) };
        if self.run.as_ref().is_none_or(|run| run.epoch != epoch) {
            self.finish_all()?;
            let held = self.last.filter(|last| last.epoch == epoch).map_or(0, |last| last.seq);
            self.run = Some(Run { epoch, durable: batch.after().max(held), unsynced_since: None });
        }
        if let Err(error) = self.write_batch(batch) {
            let _ = self.cut(); // otherwise before the next append
            return Err(error);
        }
        self.files().for_each(|file| file.len = file.written);
        if self.last.is_none_or(|last| last.epoch != epoch || last.seq < seq) {
            self.last = Some(Position { epoch, seq });
        }
        match (self.config.fsync, &mut self.run) {
            (Fsync::EveryBatch, _) => self.sync()?,
            (Fsync::Every(_), Some(run)) => _ = run.unsynced_since.get_or_insert_with(Instant::now),
            _ => {}
        }
        Ok(())
    }

    fn idle(&mut self) -> Result<Option<Instant>, StorageError> {
        self.cut()?;
        let mut due = None;
        if let (Fsync::Every(period), Some(since)) =
            (self.config.fsync, self.run.as_ref().and_then(|run| run.unsynced_since))
        {
            if since.elapsed() >= period {
                self.sync()?;
            } else {
                due = since.checked_add(period);
            }
        }
        let Some(age) = self.config.max_age else { return Ok(due) };
        for at in 0..self.chains.len() {
            let Some(file) = &self.chains[at].file else { continue };
            if file.is_older_than(Some(age)) {
                self.finish(at)?;
            } else if let Some(old) = file.created.checked_add(age) {
                due = Some(due.map_or(old, |due| due.min(old)));
            }
        }
        Ok(due)
    }

    fn durable(&self) -> Option<u64> {
        let run = self.run.as_ref().filter(|_| self.config.fsync != Fsync::Never);
        run.map(|run| run.durable)
    }

    /// Does not wait longer than until `deadline` for the compression of finished files. What is not compressed then is by the next one who
    /// opens the directory.
    fn close(&mut self, deadline: Instant) -> Result<(), StorageError> {
        self.cut()?;
        self.finish_all()?;
        #[cfg(feature = "zstd")]
        if let Some(compressor) = &mut self.compressor {
            compressor.wait(deadline);
        }
        #[cfg(not(feature = "zstd"))]
        let _ = deadline;
        Ok(())
    }

    /// As many bytes as a file may have, at most 1 MiB.
    fn limits(&self) -> Limits {
        let limits = Limits::default();
        Limits {
            bytes: limits.bytes.min(usize::try_from(self.config.max_bytes).unwrap_or(usize::MAX)),
            ..limits
        }
    }
}
