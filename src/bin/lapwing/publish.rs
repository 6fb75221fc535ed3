//! Lines of inputs become events of the stream.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use lapwing::event::InvalidReason;
use lapwing::stream::{EventStream, Publish, PublishError};
use parking_lot::Mutex;
use serde::Deserialize;

use crate::input::{Block, MAX_LINE, Source};
use crate::pace::Pace;
use crate::stop::Stop;
use crate::tell;

/// How long publishers that wait for input are given to find that there is no need any more.
pub const GRACE: Duration = Duration::from_millis(100);

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

/// A stream and what goes into it.
pub struct Pipeline {
    pub stream: Arc<EventStream>,
    pub stop: Arc<Stop>,
    pub tally: Tally,
    pace: Arc<Pace>,
    /// Whether inputs are paused; if not told, it depends on their kind.
    pause: Option<bool>,
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

/// A file for lines that are no events.
pub struct Rejects {
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

impl Pipeline {
    /// So many times as fast as the events were recorded, or as fast as possible.
    pub fn new(
        stream: Arc<EventStream>,
        stop: Arc<Stop>,
        pace: Arc<Pace>,
        pause: Option<bool>,
        times: Option<f64>,
        rejects: Option<Rejects>,
    ) -> Self {
        Self {
            stream,
            stop,
            tally: Tally::default(),
            pace,
            pause,
            schedule: times.map(|times| Schedule { times, start: Mutex::new(None) }),
            rejects,
            seen: Mutex::default(),
            failures: Mutex::default(),
            busy: AtomicU64::new(0),
        }
    }

    /// Whether a publisher has lines in its hand.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Relaxed) > 0
    }

    /// What inputs could not give.
    pub fn take_failures(&self) -> Vec<String> {
        std::mem::take(&mut *self.failures.lock())
    }

    /// Ends the file for rejects, if there is one.
    pub fn finish_rejects(&self) -> Option<Result<(), String>> {
        self.rejects.as_ref().map(Rejects::finish)
    }

    /// Nobody waits for a sink any more.
    pub fn give_up(&self) {
        self.pace.give_up();
    }

    /// A publisher: one block of lines after another.
    pub fn publish(&self, input: &Input) {
        let pause = self.pause.unwrap_or(input.kind != Kind::Socket);
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
    pub fn create(path: PathBuf) -> Result<Self, String> {
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
