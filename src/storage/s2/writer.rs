//! A storage writer with a thread of its own, in front of a stream of S2.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::client::Target;
use super::storage::Link;
use super::{S2Config, S2Error, S2Storage};
use crate::storage::{RunError, StatusHandle, StorageWriter, WriterCanceller};
use crate::stream::Handle;

/// Forwards every envelope of a stream of events to a stream of S2, from the oldest one on, exactly once for as long as the ring holds them.
///
/// ```no_run
/// use lapwing::storage::{S2Config, S2StorageWriter};
/// use lapwing::stream::EventStream;
/// use std::time::{Duration, Instant};
///
/// let stream = EventStream::new()?;
/// let token = std::env::var("S2_ACCESS_TOKEN")?;
/// let mut writer = S2StorageWriter::new(&stream, "my-basin", &token, "my-stream", S2Config::new())?;
/// writer.start()?; // it has a thread of its own
/// stream.publish_json(br#"{"type":"tick","category":"system","source":{"kind":"local_process"}}"#)?;
/// writer.stop(Instant::now() + Duration::from_secs(5))?; // everything published before is acknowledged
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A record's body is the envelope as JSON; its headers are `epoch`, 16 hexadecimal digits, and `seq`, a decimal number. No async runtime is needed.
/// [`start`](Self::start) and [`stop`](Self::stop) wait for the server: in a runtime they belong into `spawn_blocking` or its like.
///
/// # What can be relied on
///
/// - **One writer at a time.** A writer that starts takes the stream: S2 takes nothing any more from the one that had it, which ends with
///   [`S2Error::Fenced`]. Their records never mix.
/// - **Exactly once, in order.** Each batch says which number its first record has to get. When no answer comes, or the wrong one, nobody knows
///   what has arrived: the writer takes the stream anew, so that nothing can arrive behind its back any more, looks what the stream holds of
///   its events, and goes on after that. What the ring has lost meanwhile is told by an event in its place, see [the module](crate::storage).
/// - **What passes is retried**: no answer, and the statuses 408, 429, 500, 502, 503 and 504, after longer and longer pauses of up to a second,
///   for as long as it takes. Any other answer, such as 401, 403 and 404, ends the writer. A start is tried once.
/// - **The token is never shown**, neither by `Debug` nor in an error nor in what is logged. (The SDK tells `tracing` at its level DEBUG what a
///   server says, word for word.)
pub struct S2StorageWriter {
    stream: Handle,
    target: Target,
    config: S2Config,
    started: Option<Started>,
}

struct Started {
    link: Arc<Link>,
    status: StatusHandle,
    canceller: WriterCanceller,
    /// Until it was stopped.
    thread: Option<Thread>,
}

struct Thread {
    /// What is to be forwarded yet, and until when.
    stop: Sender<(u64, Instant)>,
    handle: JoinHandle<Result<(), RunError>>,
}

/// Not everything was acknowledged. What comes after the last acknowledged seq may be in the stream, as far as it is without a gap.
#[derive(Debug)]
pub struct StopError {
    /// The last seq that the server has acknowledged.
    pub acknowledged: u64,
    /// The last seq that was published before the stop.
    pub wanted: u64,
    /// Why.
    pub error: RunError,
}

impl fmt::Display for StopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, wanted, error } = self;
        write!(f, "stopped with what is up to seq {acknowledged} of {wanted} acknowledged: {error}")
    }
}

impl Error for StopError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}

impl S2StorageWriter {
    /// A writer that was not started. Nothing is opened.
    ///
    /// # Errors
    ///
    /// When the basin, the token or the name is empty, or something is not as it has to be.
    pub fn new(
        stream: &Handle,
        basin: &str,
        token: &str,
        stream_name: &str,
        config: S2Config,
    ) -> Result<Self, S2Error> {
        let target = Target::new(basin, token, stream_name, &config)?;
        Ok(Self { stream: stream.clone(), target, config, started: None })
    }

    /// Looks whether the stream of S2 is there, takes it from whoever writes to it, and begins to forward: with the oldest event, or after the last one
    /// of this stream that is in there already.
    ///
    /// # Errors
    ///
    /// When it was started before, and what the server says. After that nothing runs, and it can be started again.
    pub fn start(&mut self) -> Result<(), S2Error> {
        if self.started.is_some() {
            return Err(S2Error::Started);
        }
        let (storage, last) = S2Storage::open_target(&self.stream, self.target.clone(), self.config.clone())?;
        let link = Arc::clone(storage.link());
        let mut writer = match last {
            Some(seq) => StorageWriter::after(&self.stream, storage, seq).map_err(|error| {
                S2Error::Invalid { what: "last seq in the stream", reason: error.to_string() }
            })?,
            None => StorageWriter::new(&self.stream, storage),
        }
        .named("s2");
        let (status, canceller) = (writer.status().with_durable(link.durable()), writer.canceller());
        let (stop, stopped) = channel();
        let forward = move || {
            writer.run()?;
            // Nobody wants to know how it ends if nobody stops it.
            let (wanted, deadline) = stopped.recv().unwrap_or_else(|_| (0, Instant::now()));
            let forwarded = writer.forward(wanted, deadline, None);
            let closed = writer.close(deadline);
            forwarded?;
            closed.map_err(|error| error.error)?;
            Ok(())
        };
        let handle = thread::Builder::new().name("lapwing s2 writer".into()).spawn(forward);
        let handle = handle.map_err(|error| S2Error::Thread(error.to_string()))?;
        self.started = Some(Started { link, status, canceller, thread: Some(Thread { stop, handle }) });
        Ok(())
    }

    /// Ends the reading, forwards what was published before the call, sends what lingers, and waits for every acknowledgement, until `deadline`. A
    /// writer that was not started, or was stopped before, has nothing to do.
    ///
    /// # Errors
    ///
    /// What was not acknowledged, and why: also when the writer had ended before, see [`is_running`](Self::is_running).
    pub fn stop(&mut self, deadline: Instant) -> Result<(), StopError> {
        let Some(started) = &mut self.started else { return Ok(()) };
        let Some(thread) = started.thread.take() else { return Ok(()) };
        let wanted = self.stream.seq();
        started.link.set_deadline(deadline);
        started.canceller.cancel();
        let _ = thread.stop.send((wanted, deadline)); // it may have ended
        let result = thread.handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let acknowledged = started.link.acknowledged();
        match result {
            // What is not may have been published after the call.
            Err(RunError::Deadline { .. }) if acknowledged >= wanted => Ok(()),
            result => result.map_err(|error| StopError { acknowledged, wanted, error }),
        }
    }

    /// How it is getting on, for any thread; nothing before it was started.
    pub fn status(&self) -> Option<StatusHandle> {
        self.started.as_ref().map(|started| started.status.clone())
    }

    /// Whether it was started and has not ended: it ends when it is stopped, or has failed for good. Then [`stop`](Self::stop) tells why.
    pub fn is_running(&self) -> bool {
        let thread = self.started.as_ref().and_then(|started| started.thread.as_ref());
        thread.is_some_and(|thread| !thread.handle.is_finished())
    }
}

/// Ends it at once: what is not acknowledged then may be lost.
impl Drop for S2StorageWriter {
    fn drop(&mut self) {
        let _ = self.stop(Instant::now());
    }
}

impl fmt::Debug for S2StorageWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S2StorageWriter")
            .field("stream", &format_args!("{}", self.target))
            .field("config", &self.config)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
