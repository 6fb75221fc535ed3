//! One reader of the stream in front of one storage.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Batch, Storage, StorageError};
use crate::stream::{Canceller, Handle, PositionError, RawEnvelope, ReadError, ReadResult, Reader};

/// The pause after the first failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// The pause before another look for an event that is still being written.
const LOOK_PAUSE: Duration = Duration::from_millis(1);

/// Forwards every envelope of a stream to a storage, at least once and in the order of their seqs. See [the module](super).
///
/// For single use: one [`run`](Self::run), which ends when it is cancelled, when the stream is closed and everything is appended, or when the storage
/// fails for good. Then [`drain`](Self::drain), for what was not appended yet, and [`close`](Self::close).
pub struct StorageWriter<S> {
    reader: Reader,
    storage: S,
    /// What was read and is not appended yet.
    batch: Batch,
    /// What was lost, and might be lost again: as far as the storage may go back.
    gaps: VecDeque<Gap>,
    /// Before the next attempt, if this one fails.
    pause: Duration,
    /// The last seq that the storage had taken before it went back. Until it has come there again it is failing.
    setback: u64,
    ran: bool,
    status: StatusHandle,
    canceller: WriterCanceller,
}

struct Gap {
    to: u64,
    count: u64,
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
    /// The last seq that the storage has taken; before the first one, the seq after which the writer begins.
    pub appended: u64,
    /// The last seq that would survive a crash, as far as the storage promises that; 0 for none.
    pub durable: u64,
    /// How many times the storage has failed.
    pub errors: u64,
    /// How many times it was tried again after that.
    pub retries: u64,
    /// How many events were lost to this writer, because the ring lapped it: those that the gaps in the storage count.
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
    /// Where the storage itself keeps the last durable seq, which the writer notes when it comes by.
    #[cfg(feature = "s2")]
    durable: Option<Arc<AtomicU64>>,
}

impl StatusHandle {
    #[cfg(feature = "s2")]
    pub(super) fn with_durable(self, durable: Arc<AtomicU64>) -> Self {
        Self { durable: Some(durable), ..self }
    }

    /// The status at this moment.
    pub fn get(&self) -> Status {
        let counters = &*self.counters;
        let durable = &counters.durable;
        #[cfg(feature = "s2")]
        let durable = self.durable.as_deref().unwrap_or(durable);
        let durable = durable.load(Relaxed);
        // What is durable was taken, also when nobody has noted that yet.
        let appended = counters.appended.load(Relaxed).max(durable);
        Status {
            appended,
            durable,
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

    /// Sleeps until time is up or, unless `anyway`, it is cancelled.
    fn sleep_until(&self, until: Instant, anyway: bool) {
        let (cancelled, changed) = &*self.cancelled;
        let time = until.saturating_duration_since(Instant::now());
        drop(changed.wait_timeout_while(lock(cancelled), time, |cancelled| anyway || !*cancelled));
    }
}

impl fmt::Debug for WriterCanceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriterCanceller").field("cancelled", &self.is_cancelled()).finish()
    }
}

/// Not everything was forwarded. What was not is still in the stream, for as long as its ring holds it, or in the writer's hand: see
/// [`drain`](StorageWriter::drain).
#[derive(Debug)]
#[non_exhaustive]
pub enum RunError {
    /// A writer runs once; this one has.
    SecondRun,
    /// The storage has failed for good.
    Storage(StorageError),
    /// Time was up.
    Deadline {
        /// The last seq that the storage has taken.
        appended: u64,
        /// The last seq that it should have.
        wanted: u64,
        /// Why it did not take more, unless it was just too much.
        error: Option<StorageError>,
    },
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SecondRun => f.write_str("a storage writer runs once, and this one has run"),
            Self::Storage(error) => error.fmt(f),
            Self::Deadline { appended, wanted, error } => {
                write!(f, "at the deadline what is up to seq {appended} of {wanted} was appended")?;
                error.as_ref().map_or(Ok(()), |error| write!(f, ": {error}"))
            }
        }
    }
}

impl Error for RunError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::SecondRun => None,
            Self::Storage(error) => Some(error),
            Self::Deadline { error, .. } => error.as_ref().map(|error| error as _),
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
    pub error: RunError,
}

impl fmt::Display for CloseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { appended, durable, error } = self;
        write!(
            f,
            "closed with everything up to seq {appended} appended, and up to {durable} durable: {error}"
        )
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
            status: StatusHandle {
                counters: Arc::new(counters),
                stream: reader.handle().clone(),
                #[cfg(feature = "s2")]
                durable: None,
            },
            canceller: WriterCanceller { reader: reader.canceller(), cancelled: Arc::default() },
            batch: Batch::new(reader.handle().epoch()),
            gaps: VecDeque::new(),
            pause: FIRST_PAUSE,
            setback: 0,
            reader,
            storage,
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
            if self.batch.is_empty() {
                let due = match self.until_done(None, |storage, _| storage.idle())? {
                    Done::Yes(due) => due,
                    // If it has gone back by nothing, there is nothing to read, and what it wanted is still due.
                    Done::Rewound(_) => Some(Instant::now()),
                    Done::Stopped(_) => return Ok(()),
                };
                let read = match due {
                    Some(due) => self.reader.read_deadline(due),
                    None => self.reader.read(),
                };
                match read {
                    Ok(read) => take(read, &mut self.batch, &mut self.gaps, &self.status),
                    Err(ReadError::TimedOut) => continue,
                    Err(ReadError::Closed | ReadError::Cancelled) => return Ok(()),
                }
            }
            self.fill();
            if let Done::Stopped(_) = self.append(None)? {
                return Ok(());
            }
        }
    }

    /// Forwards what was published before the call, and does not wait for more. Also after the run was cancelled, and what that had in hand. Returns
    /// the last seq that the storage has taken.
    ///
    /// # Errors
    ///
    /// When the storage fails for good, and when not everything is appended by the deadline. What is not stays where it is: it can be drained once
    /// more.
    pub fn drain(&mut self, deadline: Instant) -> Result<u64, RunError> {
        self.forward(self.status.stream.seq(), deadline, None)?;
        Ok(self.appended())
    }

    /// Makes durable what was appended and closes the storage, until `deadline`. Gives the storage back.
    ///
    /// What was not appended is not: [`drain`](Self::drain) comes first. But what the storage takes back while it closes is appended again.
    ///
    /// # Errors
    ///
    /// What the storage could not make durable.
    pub fn close(mut self, deadline: Instant) -> Result<S, CloseError> {
        let wanted = self.appended();
        loop {
            let closed = match self.until_done(Some(deadline), |storage, _| storage.close(deadline)) {
                Ok(Done::Yes(())) => return Ok(self.storage),
                Ok(Done::Rewound(error)) if Instant::now() < deadline => {
                    self.forward(wanted, deadline, Some(error))
                }
                Ok(Done::Rewound(error) | Done::Stopped(error)) => {
                    Err(RunError::Deadline { appended: self.appended(), wanted, error: Some(error) })
                }
                Err(error) => Err(error),
            };
            if let Err(error) = closed {
                let Status { appended, durable, .. } = self.status.get();
                return Err(CloseError { appended, durable, error });
            }
        }
    }

    fn appended(&self) -> u64 {
        self.status.counters.appended.load(Relaxed)
    }

    /// Forwards everything up to `wanted`, until `deadline`. It always looks once. The storage has failed before, or not.
    pub(super) fn forward(
        &mut self,
        wanted: u64,
        deadline: Instant,
        mut failure: Option<StorageError>,
    ) -> Result<(), RunError> {
        loop {
            self.fill();
            if self.batch.is_empty() {
                if self.appended() < wanted {
                    // It is claimed, and still being written by its publisher.
                    self.canceller.sleep_until(deadline.min(Instant::now() + LOOK_PAUSE), true);
                }
            } else if let Done::Rewound(error) | Done::Stopped(error) = self.append(Some(deadline))? {
                failure = Some(error);
            }
            let appended = self.appended();
            if appended >= wanted {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(RunError::Deadline { appended, wanted, error: failure });
            }
        }
    }

    /// Takes more envelopes into the batch, as many as it may have and at least one, without waiting.
    fn fill(&mut self) {
        let limits = self.storage.limits();
        while (self.batch.is_empty()
            || self.batch.len() < limits.envelopes && self.batch.lines().len() < limits.bytes)
            && let Ok(read) = self.reader.try_read()
        {
            take(read, &mut self.batch, &mut self.gaps, &self.status);
        }
    }

    /// Appends the batch, and empties it. If it was stopped before that, the batch is still there.
    fn append(&mut self, deadline: Option<Instant>) -> Result<Done<()>, RunError> {
        let done = self.until_done(deadline, |storage, batch| storage.append(batch));
        if let Ok(Done::Yes(())) = done {
            if let Some(seq) = self.batch.last_seq() {
                self.status.counters.appended.store(seq, Relaxed);
            }
            self.succeeded();
            self.batch.clear();
        }
        done
    }

    /// Does something with the storage, again and again until it succeeds. It is stopped by the deadline, or where there is none, by the
    /// canceller. The batch stays where it is, so that it is still there if the storage panics.
    fn until_done<R>(
        &mut self,
        deadline: Option<Instant>,
        mut attempt: impl FnMut(&mut S, &Batch) -> Result<R, StorageError>,
    ) -> Result<Done<R>, RunError> {
        let mut retries = 0u64;
        loop {
            let error = match attempt(&mut self.storage, &self.batch) {
                Ok(result) => {
                    self.succeeded();
                    if retries > 0 {
                        tell!(INFO, "the storage has recovered", retries = retries);
                    }
                    return Ok(Done::Yes(result));
                }
                Err(error) => error,
            };
            self.note_durable();
            let text = error.to_string();
            let counters = &*self.status.counters;
            counters.errors.fetch_add(1, Relaxed);
            tell!(
                WARN,
                "the storage has failed",
                error = text.as_str(),
                appended = self.appended(),
                pause_ms = self.pause.as_millis() as u64,
            );
            *lock(&counters.last_error) = Some(text);
            match error {
                StorageError::Fatal(_) => return Err(RunError::Storage(error)),
                StorageError::Rewind { after, .. } => self.rewind(after)?,
                StorageError::Retry(_) => {}
            }
            let stop = match deadline {
                Some(deadline) => {
                    let out_of_time = Instant::now() >= deadline;
                    self.canceller.sleep_until(deadline.min(Instant::now() + self.pause), true);
                    out_of_time
                }
                None => {
                    self.canceller.sleep_until(Instant::now() + self.pause, false);
                    self.canceller.is_cancelled()
                }
            };
            self.pause = (self.pause * 2).min(MAX_PAUSE);
            if let StorageError::Rewind { .. } = error {
                return Ok(Done::Rewound(error));
            }
            if stop {
                return Ok(Done::Stopped(error));
            }
            retries += 1;
            self.status.counters.retries.fetch_add(1, Relaxed);
        }
    }

    /// Goes back, or forth, to what the storage holds.
    fn rewind(&mut self, after: u64) -> Result<(), RunError> {
        let appended = self.appended();
        self.reader
            .move_after(after)
            .map_err(|error| RunError::Storage(StorageError::Fatal(error.into())))?;
        self.batch.clear();
        self.setback = self.setback.max(appended);
        // They are read once more, and then count as what they are then.
        while let Some(Gap { count, .. }) = self.gaps.back().filter(|gap| gap.to > after) {
            self.status.counters.dropped.fetch_sub(*count, Relaxed);
            self.gaps.pop_back();
        }
        self.status.counters.appended.store(after, Relaxed);
        Ok(())
    }

    /// Takes note of what the storage has achieved.
    fn succeeded(&mut self) {
        let settled = self.note_durable().unwrap_or(self.appended());
        if settled >= self.setback {
            self.pause = FIRST_PAUSE;
        }
        while self.gaps.front().is_some_and(|gap| gap.to <= settled) {
            self.gaps.pop_front();
        }
    }

    fn note_durable(&self) -> Option<u64> {
        let durable = self.storage.durable();
        if let Some(seq) = durable {
            self.status.counters.durable.store(seq, Relaxed);
        }
        durable
    }
}

/// What came of an attempt.
enum Done<R> {
    Yes(R),
    /// The reader was moved to where the storage wants to go on; why.
    Rewound(StorageError),
    /// By the deadline or the canceller; why it had not succeeded.
    Stopped(StorageError),
}

/// Puts an envelope, or what stands for lost ones, behind the batch. Inline, since what was read is large to move.
#[inline(always)]
fn take(
    read: ReadResult<RawEnvelope<'_>>,
    batch: &mut Batch,
    gaps: &mut VecDeque<Gap>,
    status: &StatusHandle,
) {
    match read {
        ReadResult::Envelope(envelope) => batch.push(envelope),
        ReadResult::Dropped { from, to } => {
            let count = to - from + 1;
            tell!(
                WARN,
                "events are lost: the ring has lapped the writer",
                from = from,
                to = to,
                count = count
            );
            status.counters.dropped.fetch_add(count, Relaxed);
            gaps.push_back(Gap { to, count });
            batch.push_gap(from, to);
        }
    }
}
