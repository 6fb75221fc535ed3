//! A storage in front of a stream of S2: batches on their way, and what comes of them.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use s2_sdk::append_session::BatchSubmitTicket;
use s2_sdk::types::{AppendInput, AppendRecord, AppendRecordBatch, Header, MeteredBytes};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{sleep_until, timeout_at};

use super::client::{EPOCH, Fence, SEQ, Since, Taken, Target};
use super::runtime::Runtime;
use super::{MAX_BATCH_BYTES, MAX_RECORD_BYTES, S2Config, S2Error};
use crate::storage::{Batch, BatchEntry, Storage, StorageError};
use crate::stream::Handle;

/// What S2 counts for a record beside its body: 8 bytes, 2 for each header, the headers' names and their values of at most 16 and 20 digits.
const RECORD_OVERHEAD: usize = 8 + 2 * 2 + EPOCH.len() + SEQ.len() + 16 + 20;
/// How often a writer looks for failures while something is not acknowledged.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// A stream of S2 as a [`Storage`], for a [`StorageWriter`](crate::storage::StorageWriter) of one's own. [`S2StorageWriter`](super::S2StorageWriter)
/// is both in one.
///
/// A batch is appended once it is on its way; it is durable once the server has acknowledged it. When the server has not, or says that it
/// has failed, the storage takes the stream anew, looks what it holds, and has the writer go on after that.
///
/// A call waits for the server while too much is not acknowledged, and while the stream is taken: a run that is cancelled then ends after a few
/// request timeouts. [`S2StorageWriter::stop`](super::S2StorageWriter::stop) ends such waiting in time.
pub struct S2Storage {
    link: Arc<Link>,
    config: S2Config,
    runtime: Runtime,
    /// To whoever has the session.
    orders: UnboundedSender<Order>,
    epoch_header: Header,
    /// The last seq that was taken.
    taken: u64,
    /// The seq before everything that this storage was given.
    base: Option<u64>,
    /// Why the session was lost that is being replaced.
    cause: Option<S2Error>,
}

/// What the storage, its session and [`S2StorageWriter`](super::S2StorageWriter) share.
pub(super) struct Link {
    target: Target,
    epoch: u64,
    fence: tokio::sync::Mutex<Fence>,
    state: Mutex<State>,
    changed: Condvar,
    /// The last seq that the server has acknowledged, or that was found in the stream.
    acknowledged: Arc<AtomicU64>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// What is on its way, or waits for it, as S2 counts it.
    unacknowledged: usize,
    since: Since,
    /// When no call may wait any longer.
    deadline: Option<Instant>,
}

#[derive(Debug)]
enum Phase {
    /// The stream is being taken.
    Opening,
    /// It was: this is what it holds.
    Opened(Option<u64>),
    Open,
    /// There is no session any more.
    Lost(S2Error),
}

/// What the session is told.
enum Order {
    Append(Vec<Record>),
    /// Not to wait for more.
    Flush,
}

struct Record {
    record: AppendRecord,
    seq: u64,
    bytes: usize,
}

impl S2Storage {
    /// Opens a stream of S2 for the events of `stream`, and takes it from whoever writes to it. Also returns the last seq of this very `stream` that it
    /// holds already, from an earlier writer: a writer that begins with an older event does no harm.
    ///
    /// # Errors
    ///
    /// What is not valid, and what the server says. Then the stream may be taken all the same.
    pub fn open(
        stream: &Handle,
        basin: &str,
        token: &str,
        stream_name: &str,
        config: S2Config,
    ) -> Result<(Self, Option<u64>), S2Error> {
        let target = Target::new(basin, token, stream_name, &config)?;
        Self::open_target(stream, target, config)
    }

    pub(super) fn open_target(
        stream: &Handle,
        target: Target,
        config: S2Config,
    ) -> Result<(Self, Option<u64>), S2Error> {
        let max = MAX_RECORD_BYTES - RECORD_OVERHEAD;
        if stream.max_envelope_bytes() > max {
            let reason = format!("it may be {}, and {max} fit a record of S2", stream.max_envelope_bytes());
            return Err(S2Error::Invalid { what: "size of the stream's envelopes", reason });
        }
        let epoch = stream.epoch();
        let link = Arc::new(Link {
            target,
            epoch,
            fence: tokio::sync::Mutex::new(Fence::new()),
            state: Mutex::new(State {
                phase: Phase::Opening,
                unacknowledged: 0,
                since: Since::Made(stream.age()),
                deadline: None,
            }),
            changed: Condvar::new(),
            acknowledged: Arc::default(),
        });
        let runtime = Runtime::start()?;
        let orders = start(&runtime, &link, &config);
        let mut storage = Self {
            link,
            config,
            runtime,
            orders,
            epoch_header: Header::new(EPOCH, format!("{epoch:016x}")),
            taken: 0,
            base: None,
            cause: None,
        };
        let last = storage.opened()?;
        Ok((storage, last))
    }

    pub(super) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Waits until the stream is taken, or is not. Returns the last seq in it.
    fn opened(&mut self) -> Result<Option<u64>, S2Error> {
        let opened = self.link.wait(None, |state| match &state.phase {
            Phase::Opened(last) => {
                let last = *last;
                state.phase = Phase::Open;
                Some(Ok(last))
            }
            Phase::Lost(error) => Some(Err(error.clone())),
            Phase::Opening | Phase::Open => None,
        });
        let last = opened.unwrap_or_else(|| Err(self.link.deadline()))?;
        let held = last.unwrap_or(0).max(self.link.acknowledged());
        self.link.acknowledged.store(held, Relaxed);
        self.taken = held.max(self.base.unwrap_or(0));
        Ok(last)
    }

    /// Nothing if there is a session. Otherwise the stream is taken anew, and where that succeeds the writer has to go on where the stream ends.
    fn check_session(&mut self) -> Result<(), StorageError> {
        let mut state = self.link.lock();
        match &state.phase {
            Phase::Open => return Ok(()),
            Phase::Lost(error) if !error.is_transient() => return Err(error.clone().into()),
            Phase::Lost(error) => {
                self.cause.get_or_insert_with(|| error.clone());
                state.phase = Phase::Opening;
                drop(state);
                self.orders = start(&self.runtime, &self.link, &self.config);
            }
            Phase::Opening | Phase::Opened(_) => drop(state),
        }
        self.opened()?;
        let error = self.cause.take().unwrap_or_else(|| self.link.deadline());
        Err(StorageError::Rewind { after: self.taken, error: error.into() })
    }

    /// The records of a batch.
    fn records(&self, batch: &Batch) -> Result<Vec<Record>, S2Error> {
        let record = |entry: BatchEntry<'_>| {
            let seq = entry.seq;
            let too_large = |bytes| S2Error::TooLarge { seq, bytes, max: MAX_RECORD_BYTES };
            // The body alone may be too large for a record that is still without headers.
            let record = AppendRecord::new(entry.json.to_vec());
            let headers = [self.epoch_header.clone(), Header::new(SEQ, seq.to_string())];
            let record = record.and_then(|record| record.with_headers(headers));
            let record = record.map_err(|_| too_large(entry.json.len() + RECORD_OVERHEAD))?;
            let bytes = record.metered_bytes();
            Ok(Record { record, seq, bytes })
        };
        batch.iter().map(record).collect()
    }
}

impl Storage for S2Storage {
    /// Waits while too much is not acknowledged.
    fn append(&mut self, batch: &Batch) -> Result<(), StorageError> {
        let (given, expected) = (batch.epoch(), self.link.epoch);
        if given != expected {
            return Err(S2Error::Epoch { given, expected }.into());
        }
        self.check_session()?;
        self.base.get_or_insert(batch.after());
        if batch.after() < self.taken {
            let error = S2Error::Held { stream: self.link.target.to_string(), seq: self.taken };
            return Err(StorageError::Rewind { after: self.taken, error: error.into() });
        }
        let records = self.records(batch)?;
        let Some(last) = batch.last_seq() else { return Ok(()) };
        let bytes: usize = records.iter().map(|record| record.bytes).sum();
        let limit = self.config.unacknowledged_bytes;
        let room = self.link.wait(None, |state| match state.phase {
            Phase::Open if state.unacknowledged > 0 && state.unacknowledged + bytes > limit => None,
            Phase::Open => {
                state.unacknowledged += bytes;
                Some(true)
            }
            _ => Some(false),
        });
        match room {
            Some(true) => {
                self.taken = last;
                // Nobody takes the order if the session was lost just now. That is told by the next call.
                let _ = self.orders.send(Order::Append(records));
                Ok(())
            }
            Some(false) => self.check_session(),
            None => Err(self.link.deadline().into()),
        }
    }

    fn idle(&mut self) -> Result<Option<Instant>, StorageError> {
        self.check_session()?;
        let idle = self.link.lock().unacknowledged == 0;
        Ok(if idle { None } else { Some(Instant::now() + LOOK_PAUSE) })
    }

    /// The last seq that the server has acknowledged.
    fn durable(&self) -> Option<u64> {
        Some(self.link.acknowledged())
    }

    /// Sends what lingers, and waits for every acknowledgement.
    fn close(&mut self, deadline: Instant) -> Result<(), StorageError> {
        self.check_session()?;
        let _ = self.orders.send(Order::Flush);
        let done = self.link.wait(Some(deadline), |state| match state.phase {
            Phase::Open if state.unacknowledged == 0 => Some(true),
            Phase::Open => None,
            _ => Some(false),
        });
        match done {
            Some(true) => Ok(()),
            Some(false) => self.check_session(),
            None => Err(self.link.deadline().into()),
        }
    }
}

impl fmt::Debug for S2Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S2Storage")
            .field("stream", &format_args!("{}", self.link.target))
            .field("taken", &self.taken)
            .field("acknowledged", &self.link.acknowledged())
            .finish_non_exhaustive()
    }
}

impl Link {
    /// Nothing that is locked here can panic half-way.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something, or until a deadline: this one, or that of everything.
    fn wait<R>(&self, deadline: Option<Instant>, mut done: impl FnMut(&mut State) -> Option<R>) -> Option<R> {
        let mut state = self.lock();
        loop {
            if let Some(result) = done(&mut state) {
                return Some(result);
            }
            let deadline = deadline.into_iter().chain(state.deadline).min();
            state = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return None,
                Some(time) => {
                    self.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// From now on no call waits for longer.
    pub(super) fn set_deadline(&self, deadline: Instant) {
        self.change(|state| state.deadline = Some(deadline));
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Relaxed)
    }

    pub(super) fn durable(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.acknowledged)
    }

    fn deadline(&self) -> S2Error {
        S2Error::Deadline { unacknowledged: self.lock().unacknowledged }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// Takes the stream and opens a session, in the runtime. What becomes of it is told by the phase, which has to be [`Phase::Opening`].
fn start(runtime: &Runtime, link: &Arc<Link>, config: &S2Config) -> UnboundedSender<Order> {
    let (sender, orders) = unbounded_channel();
    let (link, config) = (Arc::clone(link), config.clone());
    runtime.spawn(async move {
        if let Err(error) = serve(&link, &config, orders).await {
            link.change(|state| state.phase = Phase::Lost(error));
        }
    });
    sender
}

/// Serves orders until the storage is gone.
async fn serve(link: &Link, config: &S2Config, orders: UnboundedReceiver<Order>) -> Result<(), S2Error> {
    let client = link.target.client()?;
    let since = link.lock().since;
    let taken = client.take(&mut *link.fence.lock().await, link.epoch, since).await?;
    let session = client.session(config.unacknowledged_bytes)?;
    link.change(|state| {
        state.phase = Phase::Opened(taken.last_seq);
        state.since = Since::Record(taken.next_record);
        state.unacknowledged = 0;
    });
    let lane =
        Lane { link, config, taken, batch: Ready::default(), ready: VecDeque::new(), sent: VecDeque::new() };
    lane.run(session, orders).await
}

/// Records on their way through a session.
struct Lane<'a> {
    link: &'a Link,
    config: &'a S2Config,
    taken: Taken,
    /// What is collected.
    batch: Ready,
    /// What is to be sent.
    ready: VecDeque<Ready>,
    sent: VecDeque<Sent>,
}

#[derive(Default)]
struct Ready {
    records: Vec<AppendRecord>,
    bytes: usize,
    last_seq: u64,
    /// When its first record came.
    begun: Option<Instant>,
}

struct Sent {
    ticket: BatchSubmitTicket,
    bytes: usize,
    last_seq: u64,
    until: tokio::time::Instant,
}

impl Lane<'_> {
    async fn run(
        mut self,
        session: s2_sdk::append_session::AppendSession,
        mut orders: UnboundedReceiver<Order>,
    ) -> Result<(), S2Error> {
        let target = &self.link.target;
        loop {
            let due = self.batch.begun.and_then(|begun| begun.checked_add(self.config.linger));
            let next_bytes = self.ready.front().map(|ready| ready.bytes);
            tokio::select! {
                acknowledged = first(&mut self.sent), if !self.sent.is_empty() => match acknowledged {
                    Ok(Ok(next_record)) => self.acknowledged(next_record),
                    Ok(Err(error)) => return Err(target.session(&error)),
                    Err(_) => return Err(target.no_answer("append to", "no acknowledgement came")),
                },
                permit = session.reserve(next_bytes.unwrap_or(0) as u32), if next_bytes.is_some() => {
                    let permit = permit.map_err(|error| target.session(&error))?;
                    if let Some(Ready { records, bytes, last_seq, .. }) = self.ready.pop_front() {
                        let count = records.len() as u64;
                        let batch = AppendRecordBatch::try_from_iter(records);
                        let batch = batch.map_err(|error| target.request("append to", &error.into()))?;
                        let input = AppendInput::new(batch)
                            .with_match_seq_num(self.taken.next_record)
                            .with_fencing_token(self.taken.token.clone());
                        self.taken.next_record += count;
                        let until = tokio::time::Instant::now() + 2 * self.config.request_timeout;
                        self.sent.push_back(Sent { ticket: permit.submit(input), bytes, last_seq, until });
                    }
                }
                order = orders.recv() => match order {
                    Some(Order::Append(records)) => records.into_iter().for_each(|record| self.collect(record)),
                    Some(Order::Flush) => self.flush(),
                    None => return Ok(()),
                },
                () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => self.flush(),
            }
        }
    }

    fn collect(&mut self, Record { record, seq, bytes }: Record) {
        if self.batch.bytes + bytes > MAX_BATCH_BYTES {
            self.flush();
        }
        self.batch.records.push(record);
        self.batch.bytes += bytes;
        self.batch.last_seq = seq;
        self.batch.begun.get_or_insert_with(Instant::now);
        if self.batch.records.len() == self.config.batch_records {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if !self.batch.records.is_empty() {
            self.ready.push_back(std::mem::take(&mut self.batch));
        }
    }

    fn acknowledged(&mut self, next_record: u64) {
        if let Some(Sent { bytes, last_seq, .. }) = self.sent.pop_front() {
            self.link.acknowledged.store(last_seq, Relaxed);
            self.link.change(|state| {
                state.unacknowledged -= bytes;
                state.since = Since::Record(next_record);
            });
        }
    }
}

/// Waits for the first acknowledgement, and for not too long: the SDK itself goes on for ever when a server says that it is about to stop.
/// Returns the number of the record behind what was acknowledged.
async fn first(
    sent: &mut VecDeque<Sent>,
) -> Result<Result<u64, s2_sdk::error::AppendSessionError>, tokio::time::error::Elapsed> {
    match sent.front_mut() {
        Some(Sent { ticket, until, .. }) => Ok(timeout_at(*until, ticket).await?.map(|ack| ack.end.seq_num)),
        None => std::future::pending().await,
    }
}
