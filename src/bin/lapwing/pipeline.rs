//! From inputs through the bus to sinks: what `relay` and `replay` have in common.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use lapwing::event::{Category, InvalidReason};
use lapwing::stream::{CategorySet, Config, EventStream, Publish, PublishError};
use parking_lot::Mutex;
use serde::Deserialize;

use crate::input::{Block, MAX_LINE, Source};
use crate::listen::{Listener, Listening};
use crate::pace::Pace;
use crate::progress::Progress;
#[cfg(feature = "serve")]
use crate::serve::Serving;
use crate::sinks::{self, Outcome, Sinks};
use crate::stop::Stop;
use crate::tell;

/// How long publishers that wait for input are given to find that there is no need any more.
const GRACE: Duration = Duration::from_millis(100);
/// How long sinks are waited for after their time is up: one may be stuck in a system call.
const PATIENCE: Duration = Duration::from_secs(2);

/// What every pipeline can be told.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub sinks: sinks::Args,
    /// How fast: `flat` out, or so many times as fast as the events were recorded, by their `ts`.
    #[arg(long, value_name = "flat|TIMES", default_value = "flat", value_parser = speed)]
    speed: Speed,
    /// What to do while a durable sink is far behind: pause the input, so that the sink loses nothing, or go on and let it drop what it
    /// is too slow for. A file or a pipe is paused if not told otherwise, sockets are not.
    #[arg(long, value_enum)]
    on_lag: Option<OnLag>,
    /// The categories to capture, with commas between them; `other` for all that have no name of their own. `system` always is.
    #[arg(long, value_name = "CATEGORIES", value_delimiter = ',')]
    capture: Option<Vec<String>>,
    /// Write lines that are no events to this file, as they are. It is overwritten.
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Tell progress and summary as lines of JSON, on standard output.
    #[arg(long)]
    json: bool,
    /// How many events the ring holds.
    #[arg(long, value_name = "N", default_value_t = 4096, help_heading = "Ring")]
    events: u64,
    /// The most bytes of an event that lies in its slot. Larger ones have memory of their own.
    #[arg(long, value_name = "BYTES", default_value_t = 1024, help_heading = "Ring")]
    inline_bytes: usize,
    /// The memory for larger events.
    #[arg(long, value_name = "BYTES", default_value_t = 8 << 20, help_heading = "Ring")]
    large_bytes: usize,
    /// The most bytes of an envelope. Larger events are truncated, so that they are still valid JSON.
    #[arg(long, value_name = "BYTES", default_value_t = 1_000_000, help_heading = "Ring")]
    max_envelope_bytes: usize,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum OnLag {
    Pause,
    Drop,
}

/// How many times as fast as recorded; nothing for as fast as possible.
#[derive(Clone, Copy)]
struct Speed(Option<f64>);

fn speed(text: &str) -> Result<Speed, String> {
    if text == "flat" {
        return Ok(Speed(None));
    }
    match text.strip_suffix('x').unwrap_or(text).parse() {
        Ok(times) if times > 0.0 && f64::is_finite(times) => Ok(Speed(Some(times))),
        _ => Err("allowed are flat, or a number above 0".into()),
    }
}

/// An input.
pub struct Input {
    source: Mutex<Box<dyn Source>>,
    /// What comes before `line 3` in messages.
    name: String,
    kind: Kind,
}

/// What kind of input there is.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    /// What is not read stays there.
    File,
    /// What was read is gone from there. Who writes there waits while nothing is read.
    Pipe,
    /// Others have sent what arrived, and believe it to be here. They are not made to wait.
    Socket,
}

impl Input {
    pub fn new(name: impl Into<String>, source: Box<dyn Source>, kind: Kind) -> Self {
        Self { source: Mutex::new(source), name: name.into(), kind }
    }
}

/// What the thread in charge is told.
pub enum Notice {
    /// A publisher is done.
    Ended,
    SinkEnded(usize, Outcome),
    Signal,
}

/// A stream and what goes into it.
pub struct Pipeline {
    pub stream: Arc<EventStream>,
    pub stop: Arc<Stop>,
    pub tally: Tally,
    pace: Arc<Pace>,
    on_lag: Option<OnLag>,
    schedule: Option<Schedule>,
    rejects: Option<Rejects>,
    seen: Mutex<Vec<Reason>>,
    failures: Mutex<Vec<String>>,
    /// How many publishers have lines in their hands.
    busy: AtomicU64,
}

/// What became of lines.
#[derive(Default)]
pub struct Tally {
    pub lines: AtomicU64,
    pub blank: AtomicU64,
    pub bytes: AtomicU64,
    pub published: AtomicU64,
    pub truncated: AtomicU64,
    pub not_captured: AtomicU64,
    /// No events, or too large to be published even in part.
    pub rejected: AtomicU64,
    /// Read, and not published before time was up.
    pub late: AtomicU64,
}

/// Events by the clock, as they were recorded.
struct Schedule {
    times: f64,
    start: Mutex<Option<(Instant, i64)>>,
}

struct Rejects {
    path: PathBuf,
    file: Mutex<(BufWriter<File>, Option<io::Error>)>,
}

/// Why a line was not published.
#[derive(Clone, Copy, PartialEq)]
enum Reason {
    Invalid(InvalidReason),
    FieldsTooLarge,
    TooLong,
}

/// Where lines come from.
#[derive(Default)]
pub struct Inputs {
    pub inputs: Vec<Input>,
    /// A socket that goes on giving new ones.
    pub listener: Option<Listener>,
}

/// Runs a pipeline to its end, with everything it has to say on standard error.
pub fn run(
    args: &Args,
    publishers: u16,
    open: impl FnOnce(&Arc<Stop>) -> Result<Inputs, String>,
) -> ExitCode {
    match try_run(args, publishers, open) {
        Ok(complete) => ExitCode::from(u8::from(!complete)),
        Err(error) => {
            tell!("{error}; nothing was relayed");
            ExitCode::FAILURE
        }
    }
}

fn try_run(
    args: &Args,
    publishers: u16,
    open: impl FnOnce(&Arc<Stop>) -> Result<Inputs, String>,
) -> Result<bool, String> {
    if args.json && args.sinks.to_stdout() {
        return Err("--json and the sink --out - both want standard output".into());
    }
    let config = Config::new()
        .events(args.events)
        .inline_bytes(args.inline_bytes)
        .large_bytes(args.large_bytes)
        .max_envelope_bytes(args.max_envelope_bytes)
        .captured(args.captured());
    let stream = Arc::new(config.build().map_err(|error| error.to_string())?);
    if stream.events() <= u64::from(publishers) {
        return Err(format!("{publishers} publishers need a ring of more events than {}", stream.events()));
    }
    let stop = Arc::new(Stop::default());
    let (notices, noticed) = mpsc::channel();
    // The signals come before anything that one could want to interrupt.
    on_signals(notices.clone())?;
    // The outputs come after the inputs: nothing is made or overwritten before those are found in order.
    let inputs = open(&stop)?;
    let rejects = args.rejects.clone().map(Rejects::create).transpose()?;
    #[cfg(feature = "serve")]
    let server = args.sinks.server.bind()?;
    let pace = Arc::new(Pace::new(&stream, args.large_bytes, publishers.into()));
    let mut sinks = args.sinks.start(&stream, &pace, &notices)?;
    #[cfg(feature = "serve")]
    let server = server.map(|server| server.start(&stream, &sinks, args.sinks.deadline())).transpose()?;
    let pipeline = Arc::new(Pipeline {
        stream,
        stop,
        tally: Tally::default(),
        pace,
        on_lag: args.on_lag,
        schedule: args.speed.0.map(|times| Schedule { times, start: Mutex::new(None) }),
        rejects,
        seen: Mutex::default(),
        failures: Mutex::default(),
        busy: AtomicU64::new(0),
    });

    let mut progress = Progress::new(args.json);
    let mut stopped = false;
    let tell_stop = || {
        let seconds = args.sinks.deadline().as_secs();
        tell!("told to stop: the sinks have {seconds} s for what is left; a second signal ends it at once");
    };
    let open_ended = inputs.listener.is_some() || args.sinks.serves();
    let mut publishing = 0u64;
    for input in inputs.inputs {
        let input = Arc::new(input);
        for _ in 0..publishers {
            let (pipeline, input, notices) = (Arc::clone(&pipeline), Arc::clone(&input), notices.clone());
            spawn("publisher", move || {
                pipeline.publish(&input);
                let _ = notices.send(Notice::Ended);
            })?;
            publishing += 1;
        }
    }
    let listener = inputs.listener.map(|listener| listener.start(&pipeline)).transpose()?;

    // Until the input ends, or is to end, or there is nobody left for it.
    while publishing > 0 || open_ended {
        match noticed.recv_timeout(progress.pause()) {
            Ok(Notice::Ended) => publishing -= 1,
            Ok(Notice::SinkEnded(index, outcome)) => {
                sinks.all[index].outcome = Some(outcome);
                if sinks.have_ended() && !args.sinks.serves() {
                    tell!("no sink is left; no more input is taken");
                    break;
                }
            }
            Ok(Notice::Signal) => {
                tell_stop();
                stopped = true;
                break;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        progress.tick(&pipeline, &sinks);
    }
    let until = Instant::now() + args.sinks.deadline();
    pipeline.stop.stop();
    if let Some(listener) = &listener {
        listener.stop();
    }
    let mut handle = |notice, publishing: &mut u64, sinks: &mut Sinks| match notice {
        Notice::Ended => *publishing = publishing.saturating_sub(1),
        Notice::SinkEnded(index, outcome) => sinks.all[index].outcome = Some(outcome),
        Notice::Signal if std::mem::replace(&mut stopped, true) => {
            tell!("told to stop for the second time: what is left is lost");
            std::process::exit(1);
        }
        Notice::Signal => tell_stop(),
    };
    // What was read is published; who waits for more is left alone.
    let socket_is_busy = || listener.as_ref().is_some_and(Listening::is_busy);
    while publishing > 0 || socket_is_busy() {
        let pause = GRACE.min(until.saturating_duration_since(Instant::now()));
        match noticed.recv_timeout(pause) {
            Ok(notice) => handle(notice, &mut publishing, &mut sinks),
            Err(_) if Instant::now() >= until => break,
            Err(_) if pipeline.busy.load(Relaxed) == 0 && !socket_is_busy() => break,
            Err(_) => progress.tick(&pipeline, &sinks),
        }
    }
    sinks.finish(until);
    pipeline.stream.close();
    #[cfg(feature = "serve")]
    let server = server.map(Serving::shut_down);
    while !sinks.have_ended() {
        let now = Instant::now();
        if now >= until {
            pipeline.pace.give_up();
            sinks.cancel();
        }
        if now >= until + PATIENCE {
            break;
        }
        match noticed.recv_timeout(progress.pause()) {
            Ok(notice) => handle(notice, &mut publishing, &mut sinks),
            Err(_) => progress.tick(&pipeline, &sinks),
        }
    }
    #[cfg(feature = "serve")]
    if let Some(server) = server {
        server.wait(until + PATIENCE);
    }
    let rejects = pipeline.rejects.as_ref().map(Rejects::finish);
    if let Some(Err(error)) = &rejects {
        tell!("{error}");
    }
    let failures = std::mem::take(&mut *pipeline.failures.lock());
    let kept = matches!(rejects, Some(Ok(())));
    Ok(progress.summary(&pipeline, &sinks, &failures, kept))
}

pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let spawned = thread::Builder::new().name(name.into()).spawn(work);
    spawned.map(drop).map_err(|error| format!("cannot start a thread: {error}"))
}

fn on_signals(notices: Sender<Notice>) -> Result<(), String> {
    let handler = move || _ = notices.send(Notice::Signal);
    ctrlc::set_handler(handler).map_err(|error| format!("cannot wait for signals: {error}"))
}

impl Args {
    fn captured(&self) -> CategorySet {
        match &self.capture {
            None => CategorySet::ALL,
            Some(names) => names.iter().map(|name| Category::from(name.as_str())).collect(),
        }
    }
}

impl Pipeline {
    /// A publisher: one block of lines after another.
    pub fn publish(&self, input: &Input) {
        let pause = match self.on_lag {
            Some(on_lag) => on_lag == OnLag::Pause,
            None => input.kind != Kind::Socket,
        };
        let mut publisher = Publisher { pipeline: self, input, pause, allowed: 0, last: 0 };
        let mut block = Block::default();
        loop {
            let mut source = input.source.lock();
            if !self.goes_on(input) {
                return;
            }
            match source.next(&mut block) {
                Ok(true) => {}
                Ok(false) => return,
                Err(message) => {
                    let message = format!("{} {message}", input.name);
                    tell!("{message}");
                    self.failures.lock().push(message);
                    continue;
                }
            }
            self.busy.fetch_add(1, Relaxed);
            drop(source);
            publisher.publish(&block);
            self.busy.fetch_sub(1, Relaxed);
        }
    }

    /// Whether there is still time to read from an input. From a socket, what has arrived is read even when no more is to be taken, as long
    /// as that does not go on and on.
    fn goes_on(&self, input: &Input) -> bool {
        match self.stop.stopped_at() {
            None => true,
            Some(at) => input.kind == Kind::Socket && at.elapsed() < GRACE,
        }
    }

    /// Keeps a line that is no event, and tells of the first one of its kind.
    fn reject(
        &self,
        input: &Input,
        number: u64,
        line: &[u8],
        reason: Reason,
        at: Option<usize>,
        why: &dyn fmt::Display,
    ) {
        self.tally.rejected.fetch_add(1, Relaxed);
        if let Some(rejects) = &self.rejects {
            rejects.write(line);
        }
        let mut seen = self.seen.lock();
        if !seen.contains(&reason) {
            seen.push(reason);
            drop(seen);
            let column = at.map_or_else(String::new, |at| format!(", column {}", at + 1));
            tell!("{} line {number}{column}: {why} (more of this kind are only counted)", input.name);
        }
    }
}

struct Publisher<'a> {
    pipeline: &'a Pipeline,
    input: &'a Input,
    pause: bool,
    /// The seq up to which it need not ask.
    allowed: u64,
    /// The last one it knows of.
    last: u64,
}

impl Publisher<'_> {
    fn publish(&mut self, block: &Block) {
        let Pipeline { tally, stop, .. } = self.pipeline;
        if let Some((number, bytes)) = block.too_long() {
            tally.lines.fetch_add(1, Relaxed);
            let why = format!("it has {bytes} bytes, and {MAX_LINE} are allowed; it was not kept");
            self.pipeline.reject(self.input, number, b"", Reason::TooLong, None, &why);
        }
        let (mut lines, mut bytes, mut blank, mut published) = (0, 0, 0, 0);
        for (number, line) in block.lines() {
            if self.input.kind == Kind::File && stop.is_stopped() {
                break;
            }
            lines += 1;
            if line.trim_ascii().is_empty() {
                blank += 1;
                continue;
            }
            match self.publish_line(line) {
                Ok(Publish::Published { seq, truncated }) => {
                    self.last = seq;
                    published += 1;
                    bytes += line.len() as u64;
                    if truncated {
                        tally.truncated.fetch_add(1, Relaxed);
                    }
                }
                Ok(Publish::NotCaptured) => _ = tally.not_captured.fetch_add(1, Relaxed),
                Err(error) => {
                    let (reason, at) = match error {
                        PublishError::Invalid(invalid) => (Reason::Invalid(invalid.reason), Some(invalid.at)),
                        PublishError::FieldsTooLarge { .. } => (Reason::FieldsTooLarge, None),
                        _ => {
                            tally.late.fetch_add(1, Relaxed);
                            continue;
                        }
                    };
                    self.pipeline.reject(self.input, number, line, reason, at, &error);
                }
            }
        }
        tally.lines.fetch_add(lines, Relaxed);
        tally.blank.fetch_add(blank, Relaxed);
        tally.published.fetch_add(published, Relaxed);
        tally.bytes.fetch_add(bytes, Relaxed);
    }

    fn publish_line(&mut self, line: &[u8]) -> Result<Publish, PublishError> {
        let Pipeline { stream, pace, schedule, stop, .. } = self.pipeline;
        if let Some(schedule) = schedule
            && let Some(due) = schedule.due(line)
        {
            stop.sleep_until(due);
        }
        if self.pause {
            if line.len() > stream.inline_bytes() {
                pace.admit_large(line.len().min(stream.max_envelope_bytes()), || stream.seq());
            }
            if self.last >= self.allowed {
                self.last = stream.seq();
                match pace.admit(self.last) {
                    Some(allowed) => self.allowed = allowed,
                    None => return Err(PublishError::Closed),
                }
            }
        }
        loop {
            match stream.publish_json(line) {
                // Another publisher is in the middle of its copy; here all of them go on sooner or later.
                Err(PublishError::Stalled { .. }) => thread::yield_now(),
                result => return result,
            }
        }
    }
}

impl Schedule {
    /// When a line is due; nothing if it is no event.
    fn due(&self, line: &[u8]) -> Option<Instant> {
        #[derive(Deserialize)]
        struct Event {
            ts: i64,
        }
        let Event { ts } = serde_json::from_slice(line).ok()?;
        let (start, first) = *self.start.lock().get_or_insert_with(|| (Instant::now(), ts));
        let after = Duration::from_micros(u64::try_from(ts.saturating_sub(first)).unwrap_or(0));
        start.checked_add(Duration::try_from_secs_f64(after.as_secs_f64() / self.times).ok()?)
    }
}

impl Rejects {
    fn create(path: PathBuf) -> Result<Self, String> {
        match File::create(&path) {
            Ok(file) => Ok(Self { path, file: Mutex::new((BufWriter::new(file), None)) }),
            Err(error) => Err(format!("cannot create the file for rejects {}: {error}", path.display())),
        }
    }

    fn write(&self, line: &[u8]) {
        let (file, failed) = &mut *self.file.lock();
        if failed.is_none() {
            *failed = file.write_all(line).and_then(|()| file.write_all(b"\n")).err();
        }
    }

    fn finish(&self) -> Result<(), String> {
        let (file, failed) = &mut *self.file.lock();
        let result = failed.take().map_or_else(|| file.flush(), Err);
        result.map_err(|error| format!("cannot write the rejects to {}: {error}", self.path.display()))
    }
}
