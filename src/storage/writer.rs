//! One reader of the stream in front of one storage.

use std::error::Error;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::{Batch, Storage, StorageError};
use crate::stream::{Canceller, Handle, PositionError, RawEnvelope, ReadError, ReadResult, Reader};

/// The pause after the first failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Forwards every envelope of a stream to a storage, at least once and in the order of their seqs. See [the module](super).
///
/// For single use: one [`run`](Self::run), which ends when it is cancelled, when the stream is closed and everything is appended, or when the storage
/// fails for good. Then [`drain`](Self::drain) and [`close`](Self::close).
pub struct StorageWriter<S> {
    reader: Reader,
    storage: S,
    batch: Batch,
    ran: bool,
    status: StatusHandle,
    canceller: WriterCanceller,
}

#[derive(Default)]
struct Counters {
    appended: AtomicU64,
    durable: AtomicU64,
    retries: AtomicU64,
    errors: AtomicU64,
    dropped: AtomicU64,
    last_error: Mutex<Option<String>>,
}

/// Nothing that is locked here can panic half-way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a writer is getting on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The last seq that the storage has taken; 0 for none.
    pub appended: u64,
    /// The last seq that would survive a crash, as far as the storage promises that; 0 for none.
    pub durable: u64,
    /// How many times the same batch was tried again.
    pub retries: u64,
    /// How many times the storage has failed.
    pub errors: u64,
    /// How many events were lost to this writer, because the ring lapped it.
    pub dropped: u64,
    /// How many events are claimed after the last one that the storage has taken.
    pub lag: u64,
    /// What the storage said when it failed last.
    pub last_error: Option<String>,
}

/// Tells from any thread how a writer is getting on.
#[derive(Clone)]
pub struct StatusHandle {
    counters: Arc<Counters>,
    stream: Handle,
}

impl StatusHandle {
    /// The status at this moment.
    pub fn get(&self) -> Status {
        let counters = &*self.counters;
        let appended = counters.appended.load(Relaxed);
        Status {
            appended,
            durable: counters.durable.load(Relaxed),
            retries: counters.retries.load(Relaxed),
            errors: counters.errors.load(Relaxed),
            dropped: counters.dropped.load(Relaxed),
            lag: self.stream.seq().saturating_sub(appended),
            last_error: lock(&counters.last_error).clone(),
        }
    }
}

impl fmt::Debug for StatusHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// Ends the run of a writer, from any thread: also when it sleeps between two attempts.
#[derive(Clone)]
pub struct WriterCanceller {
    reader: Canceller,
    cancelled: Arc<(Mutex<bool>, Condvar)>,
}

impl WriterCanceller {
    /// The run ends before it takes another event.
    pub fn cancel(&self) {
        let (cancelled, changed) = &*self.cancelled;
        *lock(cancelled) = true;
        changed.notify_all();
        self.reader.cancel();
    }

    fn is_cancelled(&self) -> bool {
        *lock(&self.cancelled.0)
    }

    /// Sleeps until it is cancelled or time is up.
    fn sleep_until(&self, until: Instant) {
        let (cancelled, changed) = &*self.cancelled;
        let time = until.saturating_duration_since(Instant::now());
        drop(changed.wait_timeout_while(lock(cancelled), time, |cancelled| !*cancelled));
    }
}

impl fmt::Debug for WriterCanceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriterCanceller").field("cancelled", &self.is_cancelled()).finish()
    }
}

/// A run ended with an error, or was refused.
#[derive(Debug)]
#[non_exhaustive]
pub enum RunError {
    /// A writer runs once; this one has.
    SecondRun,
    /// The storage has failed for good. What it did not take is still in the ring, as long as the ring holds it.
    Storage(StorageError),
    /// The storage asked to go on after a seq that the stream does not have.
    Position(PositionError),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SecondRun => f.write_str("a storage writer runs once, and this one has run"),
            Self::Storage(error) => error.fmt(f),
            Self::Position(error) => write!(f, "the storage is not of this stream: {error}"),
        }
    }
}

impl Error for RunError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::SecondRun => None,
            Self::Storage(error) => Some(error),
            Self::Position(error) => Some(error),
        }
    }
}

/// A storage did not take, or did not make durable, everything by its deadline.
#[derive(Debug)]
pub struct CloseError {
    /// The last seq that the storage has taken.
    pub appended: u64,
    /// The last seq that would survive a crash, as far as the storage promises that.
    pub durable: u64,
    /// Why.
    pub error: StorageError,
}

impl fmt::Display for CloseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { appended, durable, error } = self;
        write!(f, "closed with everything up to seq {appended} appended, and up to {durable} durable: {error}")
    }
}

impl Error for CloseError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}

impl<S: Storage> StorageWriter<S> {
    /// A writer that begins with the oldest event there is.
    pub fn new(stream: &Handle, storage: S) -> Self {
        Self::make(stream.reader_from_oldest(), storage)
    }

    /// A writer that goes on after the event `seq`. When what follows is overwritten already, a gap is written first.
    ///
    /// # Errors
    ///
    /// When `seq` is beyond the newest event.
    pub fn after(stream: &Handle, storage: S, seq: u64) -> Result<Self, PositionError> {
        Ok(Self::make(stream.reader_after(seq)?, storage))
    }

    fn make(reader: Reader, storage: S) -> Self {
        let reader = reader.named("storage");
        let counters = Counters::default();
        counters.appended.store(reader.next_seq() - 1, Relaxed);
        Self {
            status: StatusHandle { counters: Arc::new(counters), stream: reader.handle().clone() },
            canceller: WriterCanceller { reader: reader.canceller(), cancelled: Arc::default() },
            reader,
            storage,
            batch: Batch::default(),
            ran: false,
        }
    }

    /// The same writer, whose reader has this name in the stream's list of readers.
    pub fn named(mut self, name: &str) -> Self {
        self.reader = self.reader.named(name);
        self
    }

    /// How it is getting on, for any thread.
    pub fn status(&self) -> StatusHandle {
        self.status.clone()
    }

    /// What ends the run, for any thread.
    pub fn canceller(&self) -> WriterCanceller {
        self.canceller.clone()
    }

    /// The storage.
    pub fn storage(&self) -> &S {
        &self.storage
    }

    /// Forwards until it is cancelled, or the stream is closed and everything is appended. A failing storage is tried again, after longer and longer
    /// pauses of up to a second, for as long as that takes.
    ///
    /// # Errors
    ///
    /// On a second run, and when the storage fails for good.
    pub fn run(&mut self) -> Result<(), RunError> {
        if std::mem::replace(&mut self.ran, true) {
            return Err(RunError::SecondRun);
        }
        loop {
            let read = match self.until_done(None, Storage::idle)? {
                Done::Yes(Some(due)) => self.reader.read_deadline(due),
                Done::Yes(None) | Done::Rewound => self.reader.read(),
                Done::Stopped => return Ok(()),
            };
            match read {
                Ok(read) => take(read, &mut self.batch, &self.status),
                Err(ReadError::TimedOut) => continue,
                Err(ReadError::Closed | ReadError::Cancelled) => return Ok(()),
            }
            self.fill();
            if !self.append(None)? {
                return Ok(());
            }
        }
    }

    /// Forwards what is there without waiting for more, until `deadline`. Returns the last seq that the storage has taken.
    ///
    /// # Errors
    ///
    /// When the storage fails for good. When it is just failing at the deadline, what it did not take is left where it is; the
    /// [status](Self::status) tells.
    pub fn drain(&mut self, deadline: Instant) -> Result<u64, RunError> {
        loop {
            // What a cancelled run had in hand comes first.
            self.fill();
            if self.batch.is_empty() || !self.append(Some(deadline))? || Instant::now() >= deadline {
                break;
            }
        }
        Ok(self.status.counters.appended.load(Relaxed))
    }

    /// Makes durable what was appended and closes the storage, until `deadline`. Gives the storage back.
    ///
    /// # Errors
    ///
    /// What the storage could not make durable.
    pub fn close(mut self, deadline: Instant) -> Result<S, CloseError> {
        let closed = self.storage.close(deadline);
        self.note_durable();
        let counters = &self.status.counters;
        match closed {
            Ok(()) => Ok(self.storage),
            Err(error) => Err(CloseError {
                appended: counters.appended.load(Relaxed),
                durable: counters.durable.load(Relaxed),
                error,
            }),
        }
    }

    /// Takes more envelopes into the batch, as many as it may have, without waiting.
    fn fill(&mut self) {
        let limits = self.storage.limits();
        while self.batch.len() < limits.envelopes
            && self.batch.lines().len() < limits.bytes
            && let Ok(read) = self.reader.try_read()
        {
            take(read, &mut self.batch, &self.status);
        }
    }

    /// Appends the batch, and empties it. False if it was stopped before that: then the batch is still there.
    fn append(&mut self, deadline: Option<Instant>) -> Result<bool, RunError> {
        let batch = std::mem::take(&mut self.batch);
        let done = self.until_done(deadline, |storage| storage.append(&batch));
        self.batch = batch;
        match done? {
            Done::Yes(()) => {
                if let Some(seq) = self.batch.last_seq() {
                    self.status.counters.appended.store(seq, Relaxed);
                }
            }
            Done::Rewound => {} // what the batch holds is read again
            Done::Stopped => return Ok(false),
        }
        self.batch.clear();
        Ok(true)
    }

    /// Does something with the storage, again and again until it succeeds. It is stopped by the deadline, or where there is none, by the
    /// canceller.
    fn until_done<R>(
        &mut self,
        deadline: Option<Instant>,
        mut attempt: impl FnMut(&mut S) -> Result<R, StorageError>,
    ) -> Result<Done<R>, RunError> {
        let mut pause = FIRST_PAUSE;
        loop {
            let result = attempt(&mut self.storage);
            self.note_durable();
            let error = match result {
                Ok(result) => return Ok(Done::Yes(result)),
                Err(error) => error,
            };
            let counters = &self.status.counters;
            counters.errors.fetch_add(1, Relaxed);
            *lock(&counters.last_error) = Some(error.to_string());
            match error {
                StorageError::Rewind { after, .. } => {
                    self.reader.move_after(after).map_err(RunError::Position)?;
                    counters.appended.store(after, Relaxed);
                    return Ok(Done::Rewound);
                }
                StorageError::Fatal(_) => return Err(RunError::Storage(error)),
                StorageError::Retry(_) => {}
            }
            let until = Instant::now() + pause;
            pause = (pause * 2).min(MAX_PAUSE);
            match deadline {
                Some(deadline) if until >= deadline => return Ok(Done::Stopped),
                Some(_) => std::thread::park_timeout(until.saturating_duration_since(Instant::now())),
                None => self.canceller.sleep_until(until),
            }
            if deadline.is_none() && self.canceller.is_cancelled() {
                return Ok(Done::Stopped);
            }
            self.status.counters.retries.fetch_add(1, Relaxed);
        }
    }

    fn note_durable(&self) {
        if let Some(seq) = self.storage.durable() {
            self.status.counters.durable.store(seq, Relaxed);
        }
    }
}

/// What came of an attempt.
enum Done<R> {
    Yes(R),
    /// The reader was moved to where the storage wants to go on.
    Rewound,
    Stopped,
}

/// Puts an envelope, or what stands for lost ones, behind the batch.
fn take(read: ReadResult<RawEnvelope<'_>>, batch: &mut Batch, status: &StatusHandle) {
    match read {
        ReadResult::Envelope(envelope) => batch.push(&envelope),
        ReadResult::Dropped { from, to } => {
            status.counters.dropped.fetch_add(to - from + 1, Relaxed);
            batch.push_gap(from, to);
        }
    }
}
