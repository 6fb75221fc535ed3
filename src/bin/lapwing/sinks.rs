//! Where events go: a thread, a reader of the stream and a storage each.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use lapwing::storage::{
    Batch, Fsync, JsonLines, JsonLinesConfig, RunError, StatusHandle, Storage, StorageError, StorageWriter,
    WriterCanceller,
};
use lapwing::stream::EventStream;
use parking_lot::Mutex;

use crate::pace::{Pace, Watched};
use crate::setup::{is_standard, spawn};
use crate::tell;

/// A year, in seconds: what can be added to any time.
const MAX_DEADLINE: u64 = 365 * 24 * 3600;

/// The sinks.
#[derive(clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Sinks")]
pub struct Args {
    /// Append every envelope as a line to the files of a directory, which is made if need be. With `-`, write them to standard output.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Begin a new file before one has more bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20, requires = "out")]
    out_max_bytes: u64,
    /// Begin a new file when one is so old.
    #[arg(long, value_name = "SECONDS", requires = "out", value_parser = clap::value_parser!(u64).range(1..))]
    out_max_age: Option<u64>,
    /// When what was written is made durable: `never`, with every `batch`, or every so many milliseconds.
    #[arg(long, value_name = "never|batch|MS", default_value = "100", requires = "out", value_parser = fsync)]
    out_fsync: Fsync,
    /// Give each category files of its own.
    #[arg(long, requires = "out")]
    out_per_category: bool,
    /// Compress finished files with this level of zstd.
    #[arg(long, value_name = "LEVEL", requires = "out", value_parser = clap::value_parser!(i32).range(1..=22))]
    out_zstd: Option<i32>,
    #[cfg(feature = "s2")]
    #[command(flatten)]
    pub s2: crate::s2::Args,
    #[cfg(feature = "serve")]
    #[command(flatten)]
    pub server: crate::serve::Args,
    /// How long the sinks may take for what is left when the input has ended, or when it is told to stop.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 30,
        help_heading = "Sinks",
        value_parser = clap::value_parser!(u64).range(..=MAX_DEADLINE)
    )]
    deadline: u64,
}

pub fn fsync(text: &str) -> Result<Fsync, String> {
    match text {
        "never" => Ok(Fsync::Never),
        "batch" => Ok(Fsync::EveryBatch),
        number => match number.parse() {
            Ok(ms) => Ok(Fsync::Every(Duration::from_millis(ms))),
            Err(_) => Err("allowed are never, batch, or a number of milliseconds".into()),
        },
    }
}

impl Args {
    pub fn is_none(&self) -> bool {
        #[cfg(feature = "s2")]
        if self.s2.s2.is_some() {
            return false;
        }
        self.out.is_none() && !self.serves()
    }

    /// Whether there is a server, which does not end by itself.
    pub fn serves(&self) -> bool {
        #[cfg(feature = "serve")]
        return self.server.serve.is_some();
        #[cfg(not(feature = "serve"))]
        false
    }

    /// Whether events go to standard output.
    pub fn to_stdout(&self) -> bool {
        self.out.as_deref().is_some_and(is_standard)
    }

    pub fn deadline(&self) -> Duration {
        Duration::from_secs(self.deadline)
    }

    /// Opens every sink, and starts them when all of them are open.
    pub fn start(
        &self,
        stream: &EventStream,
        pace: &Arc<Pace>,
        notices: &Sender<Notice>,
    ) -> Result<Sinks, String> {
        let mut sinks = Opening { stream, notices, sinks: Sinks::default(), start: Vec::new() };
        if let Some(dir) = &self.out {
            if is_standard(dir) {
                sinks.add("out", pace.watch(Stdout, |_, appended| appended));
            } else {
                let (storage, found) =
                    JsonLines::open(dir, self.json_lines()).map_err(|error| error.to_string())?;
                for torn in &found.torn {
                    tell!(
                        "{}: its last {} bytes were no whole line, and were cut off",
                        torn.path.display(),
                        torn.bytes
                    );
                }
                sinks.add("out", pace.watch(storage, |_, appended| appended));
            }
        }
        #[cfg(feature = "s2")]
        if let Some(storage) = self.s2.open(stream)? {
            // What is not acknowledged may have to be read once more.
            sinks.add("s2", pace.watch(storage, |storage, _| storage.durable().unwrap_or(0)));
        }
        let Opening { sinks, start, .. } = sinks;
        start.into_iter().try_for_each(|start| start())?;
        Ok(sinks)
    }

    fn json_lines(&self) -> JsonLinesConfig {
        let mut config = JsonLinesConfig::new()
            .max_bytes(self.out_max_bytes)
            .fsync(self.out_fsync)
            .per_category(self.out_per_category);
        if let Some(seconds) = self.out_max_age {
            config = config.max_age(Duration::from_secs(seconds));
        }
        if let Some(level) = self.out_zstd {
            config = config.compression(level);
        }
        config
    }
}

/// What the thread in charge is told.
pub enum Notice {
    /// A publisher is done.
    Ended,
    SinkEnded(usize, Outcome),
    Signal,
}

/// The sinks of a relay.
#[derive(Default)]
pub struct Sinks {
    pub all: Vec<Sink>,
    until: Arc<Mutex<Option<Instant>>>,
}

/// A sink, seen from outside.
pub struct Sink {
    pub name: &'static str,
    pub status: StatusHandle,
    canceller: WriterCanceller,
    /// What became of it.
    pub outcome: Option<Outcome>,
}

/// What became of a sink.
pub struct Outcome {
    /// How many events it got in truncated form, since it was too late for them.
    pub shortened: u64,
    /// Why it is not complete.
    pub error: Option<String>,
}

impl Sinks {
    /// Their names, and how they are getting on.
    #[cfg(feature = "serve")]
    pub fn statuses(&self) -> impl Iterator<Item = (&'static str, StatusHandle)> {
        self.all.iter().map(|sink| (sink.name, sink.status.clone()))
    }

    /// From now on they have until then.
    pub fn finish(&self, until: Instant) {
        *self.until.lock() = Some(until);
    }

    /// They do not wait any longer for a storage that fails.
    pub fn cancel(&self) {
        self.all.iter().for_each(|sink| sink.canceller.cancel());
    }

    /// Whether there is nothing to wait for.
    pub fn have_ended(&self) -> bool {
        self.all.iter().all(|sink| sink.outcome.is_some())
    }
}

type Start = Box<dyn FnOnce() -> Result<(), String>>;

struct Opening<'a> {
    stream: &'a EventStream,
    notices: &'a Sender<Notice>,
    sinks: Sinks,
    start: Vec<Start>,
}

impl Opening<'_> {
    fn add<S: Storage + 'static>(&mut self, name: &'static str, storage: Watched<S>) {
        let mut writer = StorageWriter::new(self.stream, storage).named(name);
        let sink = Sink { name, status: writer.status(), canceller: writer.canceller(), outcome: None };
        let (index, until) = (self.sinks.all.len(), Arc::clone(&self.sinks.until));
        let (stream, notices) = (self.stream.handle(), self.notices.clone());
        self.sinks.all.push(sink);
        let work = move || {
            let result = writer.run();
            let until = until.lock().unwrap_or_else(Instant::now);
            let drained = result.and_then(|()| writer.drain(until));
            let shortened = stream
                .readers()
                .iter()
                .find(|reader| &*reader.name == name)
                .map_or(0, |reader| reader.shortened);
            let closed = writer.close(until);
            let error = match (drained, closed) {
                (Err(error @ RunError::Storage(_)), _) | (Err(error), Ok(_)) => Some(error.to_string()),
                (_, Err(error)) => Some(error.to_string()),
                (Ok(_), Ok(_)) => None,
            };
            let _ = notices.send(Notice::SinkEnded(index, Outcome { shortened, error }));
        };
        self.start.push(Box::new(move || spawn(name, work)));
    }
}

/// Standard output.
struct Stdout;

impl Storage for Stdout {
    fn append(&mut self, batch: &Batch) -> Result<(), StorageError> {
        let mut out = io::stdout().lock();
        // What was written in part cannot be taken back, so there is no second attempt.
        let written = out.write_all(batch.lines()).and_then(|()| out.flush());
        written
            .map_err(|error| StorageError::Fatal(format!("cannot write to standard output: {error}").into()))
    }
}
