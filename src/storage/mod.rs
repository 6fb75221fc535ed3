//! Durable sinks: what leaves the stream arrives in a storage, or the storage says what is missing.
//!
//! ```
//! use lapwing::event::{Category, Event, Source, SourceKind};
//! use lapwing::storage::{Batch, Storage, StorageError, StorageWriter};
//! use lapwing::stream::EventStream;
//! use std::time::{Duration, Instant};
//!
//! struct Memory(Vec<u8>);
//!
//! impl Storage for Memory {
//!     fn append(&mut self, batch: &Batch) -> Result<(), StorageError> {
//!         self.0.extend_from_slice(batch.lines());
//!         Ok(())
//!     }
//! }
//!
//! let stream = EventStream::new()?;
//! let mut writer = StorageWriter::new(&stream, Memory(Vec::new()));
//! stream.publish(&Event::new("tick", Category::System, Source::new(SourceKind::LocalProcess)).ts(7))?;
//! stream.close();
//! writer.run()?; // in a thread of its own, as a rule; it ends here since the stream is closed
//! let memory = writer.close(Instant::now() + Duration::from_secs(1))?;
//! assert!(memory.0.starts_with(br#"{"seq":1,"event":{"ts":7,"#));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A [`StorageWriter`] is one reader of the stream, in front of one [`Storage`]. The ring is its only buffer, but for one batch: while the storage
//! fails, the writer tries again and again and does not go on. When the ring laps it meanwhile, it writes an event of type `events_dropped` in
//! the place of what is lost, so that whoever reads the storage sees it there:
//!
//! ```json
//! {"seq":17,"event":{"ts":1795346234966162,"type":"events_dropped","category":"system",
//!  "source":{"kind":"local_process","event":"lapwing.storage"},"data":{"from":3,"to":17,"count":15}}}
//! ```
//!
//! Its seq is the last one that is lost. So the seqs in a storage always rise, and what is not there is told. (It is shown here in two lines.)
//!
//! A writer needs no async runtime. From one, give it a thread: `tokio::task::spawn_blocking(move || writer.run())`.

mod json_lines;
#[cfg(feature = "s2")]
mod s2;
mod writer;

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::ops::Range;
use std::time::Instant;

pub use json_lines::{
    FileError, Fsync, JsonLines, JsonLinesConfig, Line, Lines, OpenError, Position, ReadError, Recovered,
    Torn,
};
#[cfg(feature = "s2")]
pub use s2::{S2Config, S2Error, S2Records, S2Storage, S2StorageWriter, StopError};
pub use writer::{CloseError, RunError, Status, StatusHandle, StorageWriter, WriterCanceller};

use crate::event::{Category, Envelope, Event, RawValue, Source, SourceKind};
use crate::ring::MAX_SEQ;
use crate::stream::RawEnvelope;

/// What an envelope has before its seq, and between that and its event.
const HEAD: &[u8] = b"{\"seq\":";
const MIDDLE: &[u8] = b",\"event\":";
/// The type of the event that stands for lost ones.
const GAP: &str = "events_dropped";

/// Where envelopes are put.
pub trait Storage: Send {
    /// Takes the envelopes of a batch, all of them, in their order.
    ///
    /// After an error that can be [retried](StorageError::Retry) the same batch comes again: nothing of it may be in the storage then, or what is there has to
    /// be recognized.
    ///
    /// # Errors
    ///
    /// The storage says what the writer has to do.
    fn append(&mut self, batch: &Batch) -> Result<(), StorageError>;

    /// Does what is due while there is nothing to append, and says when it wants to be called again; `None` for not before the next append.
    /// It is called after each append, too.
    ///
    /// # Errors
    ///
    /// As for [`append`](Self::append).
    fn idle(&mut self) -> Result<Option<Instant>, StorageError> {
        Ok(None)
    }

    /// The last seq up to which everything that was appended would survive a crash, where the storage makes such a promise.
    fn durable(&self) -> Option<u64> {
        None
    }

    /// Makes durable what was appended, and closes, until `deadline`.
    ///
    /// # Errors
    ///
    /// As for [`append`](Self::append): until the deadline it is called again, after what it wants once more was appended.
    fn close(&mut self, deadline: Instant) -> Result<(), StorageError> {
        let _ = deadline;
        Ok(())
    }

    /// How much a batch may hold.
    fn limits(&self) -> Limits {
        Limits::default()
    }
}

/// How much a batch may hold. The last envelope may go beyond the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most envelopes.
    pub envelopes: usize,
    /// The most bytes, with a line break for each envelope.
    pub bytes: usize,
}

impl Default for Limits {
    /// 1,024 envelopes and 1 MiB.
    fn default() -> Self {
        Self { envelopes: 1024, bytes: 1 << 20 }
    }
}

/// Why a storage did not take a batch, and what comes of it.
#[derive(Debug)]
#[non_exhaustive]
pub enum StorageError {
    /// It may take the same batch later.
    Retry(Box<dyn Error + Send + Sync>),
    /// It has lost track, and found that it holds everything up to this seq, and nothing beyond: the writer has to go on after it.
    Rewind {
        /// The last seq in the storage. Not below what it has told to be [durable](Storage::durable); where it tells nothing, not below what it
        /// took before this batch.
        after: u64,
        /// Why.
        error: Box<dyn Error + Send + Sync>,
    },
    /// It will not take anything any more.
    Fatal(Box<dyn Error + Send + Sync>),
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry(error) => write!(f, "the storage failed for now: {error}"),
            Self::Rewind { after, error } => {
                write!(f, "the storage holds what is up to seq {after}: {error}")
            }
            Self::Fatal(error) => write!(f, "the storage failed for good: {error}"),
        }
    }
}

impl Error for StorageError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Retry(error) | Self::Rewind { error, .. } | Self::Fatal(error) => Some(&**error),
        }
    }
}

/// Envelopes of one stream in the order of their seqs, each as one line.
#[derive(Debug)]
pub struct Batch {
    epoch: u64,
    after: u64,
    lines: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    seq: u64,
    category: u8,
    /// In the lines, without the line break.
    at: Range<usize>,
}

/// One envelope of a [`Batch`].
#[derive(Clone, Copy, Debug)]
pub struct BatchEntry<'a> {
    /// Its seq.
    pub seq: u64,
    /// The envelope as one line of JSON, without a line break at its end.
    pub json: &'a [u8],
    /// The event in it.
    pub event_json: &'a [u8],
    category: u8,
}

impl<'a> BatchEntry<'a> {
    /// The event's category. A name that is not [known](Category::KNOWN) is parsed for.
    pub fn category(&self) -> Category<'a> {
        crate::stream::category(self.category, self.event_json)
    }
}

impl Batch {
    fn new(epoch: u64) -> Self {
        Self { epoch, after: 0, lines: Vec::new(), entries: Vec::new() }
    }

    /// The [epoch](crate::stream::Handle::epoch) of the stream: a storage that outlives a stream tells by it which seqs belong together.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The seq before everything in the batch: one before the first seq, or before the first that is lost, if the batch begins with a gap.
    pub fn after(&self) -> u64 {
        self.after
    }

    /// Every envelope, with a line break behind each: JSON Lines.
    pub fn lines(&self) -> &[u8] {
        &self.lines
    }

    /// One envelope after the other.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = BatchEntry<'_>> {
        self.entries.iter().map(|Entry { seq, category, at }| {
            let json = &self.lines[at.clone()];
            BatchEntry { seq: *seq, json, event_json: event_json(*seq, json), category: *category }
        })
    }

    /// How many envelopes there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The first seq. Numbers are missing in between only where a gap stands for them.
    pub fn first_seq(&self) -> Option<u64> {
        self.entries.first().map(|entry| entry.seq)
    }

    /// The last seq.
    pub fn last_seq(&self) -> Option<u64> {
        self.entries.last().map(|entry| entry.seq)
    }

    fn clear(&mut self) {
        self.lines.clear();
        self.entries.clear();
    }

    #[inline(always)]
    fn push(&mut self, mut envelope: RawEnvelope<'_>) {
        let (seq, category) = (envelope.seq(), envelope.category_index());
        let start = self.begin(seq);
        let json = envelope.json();
        self.lines.reserve(json.len() + 1);
        self.lines.extend_from_slice(json);
        self.end(seq, category, start);
    }

    /// The event that stands for what is lost.
    fn push_gap(&mut self, from: u64, to: u64) {
        let start = self.begin(from);
        let source = Source::new(SourceKind::LocalProcess).event("lapwing.storage");
        let data = format!("{{\"from\":{from},\"to\":{to},\"count\":{}}}", to - from + 1);
        let mut event = Event::new(GAP, Category::System, source).ts(crate::stream::now());
        event.data = RawValue::from_string(data).ok().map(Cow::Owned);
        Envelope { seq: to, event }.write_json(&mut self.lines);
        self.end(to, Category::System.index(), start);
    }

    /// Where the envelope begins that stands for `from`, or for what is lost from there on.
    fn begin(&mut self, from: u64) -> usize {
        if self.entries.is_empty() {
            self.after = from - 1;
        }
        self.lines.len()
    }

    fn end(&mut self, seq: u64, category: u8, start: usize) {
        self.entries.push(Entry { seq, category, at: start..self.lines.len() });
        self.lines.push(b'\n');
    }
}

/// The seq of an envelope, by what is around it: enough for a line that was written whole. A number that no stream gives is none.
fn seq_of(line: &[u8]) -> Option<u64> {
    let rest = line.strip_prefix(HEAD)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = rest.split_at(digits);
    let event = rest.strip_prefix(MIDDLE)?;
    let seq = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let is_seq = (1..=MAX_SEQ).contains(&seq) && !digits.starts_with(b"0");
    (is_seq && event.starts_with(b"{") && event.ends_with(b"}}")).then_some(seq)
}

/// The event in an envelope, as this crate writes envelopes.
fn event_json(seq: u64, envelope: &[u8]) -> &[u8] {
    let digits = seq.checked_ilog10().unwrap_or(0) as usize + 1;
    &envelope[HEAD.len() + digits + MIDDLE.len()..envelope.len() - 1]
}
