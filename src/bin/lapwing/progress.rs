//! What is told of a pipeline while it runs, and at its end.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write as _};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use lapwing::storage::Status;
use serde::Serialize;

use crate::publish::{Pipeline, Tally};
use crate::sinks::Sinks;
use crate::tell;

/// Between two updates of the line that a person watches.
const WATCHED: Duration = Duration::from_millis(200);
/// Between two lines where nobody does, and between two objects of JSON.
const PLAIN: Duration = Duration::from_secs(10);
const JSON: Duration = Duration::from_secs(1);

/// Tells how it goes.
pub struct Progress {
    start: Instant,
    last: Instant,
    last_seq: u64,
    json: bool,
    bar: Option<ProgressBar>,
    /// What was told of each sink: its last error, and its drops.
    told: Vec<(Option<String>, u64)>,
}

/// One object of JSON.
#[derive(Serialize)]
struct Report<'a> {
    r#type: &'static str,
    seconds: f64,
    lines: u64,
    blank: u64,
    rejected: u64,
    not_captured: u64,
    late: u64,
    published: u64,
    truncated: u64,
    bytes: u64,
    /// Of all events, those that came over HTTP included.
    seq: u64,
    clients: Clients,
    sinks: Vec<SinkReport<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    complete: Option<bool>,
}

#[derive(Serialize)]
struct SinkReport<'a> {
    name: &'a str,
    appended: u64,
    durable: u64,
    lag: u64,
    dropped: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    shortened: Option<u64>,
    errors: u64,
    retries: u64,
    error: Option<String>,
}

impl Progress {
    pub fn new(json: bool) -> Self {
        let now = Instant::now();
        let bar = (!json && io::stderr().is_terminal()).then(|| {
            let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
            let bar = all.add(ProgressBar::new_spinner().with_style(ProgressStyle::default_spinner()));
            *tell::LINE.lock() = Some(all);
            bar
        });
        Self { start: now, last: now, last_seq: 0, json, bar, told: Vec::new() }
    }

    /// How long until it wants to tell something again, at most.
    pub fn pause(&self) -> Duration {
        // Failures of sinks are to be told soon.
        self.period().saturating_sub(self.last.elapsed()).clamp(Duration::from_millis(1), WATCHED)
    }

    fn period(&self) -> Duration {
        match (&self.bar, self.json) {
            (Some(_), _) => WATCHED,
            (None, true) => JSON,
            (None, false) => PLAIN,
        }
    }

    /// Tells how it goes, if it is time.
    pub fn tick(&mut self, pipeline: &Pipeline, sinks: &Sinks) {
        self.tell_troubles(sinks);
        let passed = self.last.elapsed();
        if passed < self.period() {
            return;
        }
        let seq = pipeline.stream.seq();
        let rate = (seq - self.last_seq) as f64 / passed.as_secs_f64();
        (self.last, self.last_seq) = (Instant::now(), seq);
        if self.json {
            self.write_json(pipeline, sinks, "progress", None);
            return;
        }
        let mut line = format!("{seq} events, {rate:.0}/s");
        let rejected = pipeline.tally.rejected.load(Relaxed);
        if rejected > 0 {
            let _ = write!(line, ", {rejected} lines rejected");
        }
        for sink in &sinks.all {
            let Status { lag, dropped, .. } = sink.status.get();
            let _ = write!(line, " | {}: lag {lag}, dropped {dropped}", sink.name);
        }
        let clients = Clients::of(pipeline);
        if clients.count > 0 {
            let Clients { count, lag, dropped } = clients;
            let _ = write!(line, " | {count} clients: lag {lag} at most, dropped {dropped}");
        }
        match &self.bar {
            Some(bar) => {
                bar.set_message(line);
                bar.tick();
            }
            None => tell!("{line}"),
        }
    }

    /// Every new error of a sink, and every new loss.
    fn tell_troubles(&mut self, sinks: &Sinks) {
        self.told.resize_with(sinks.all.len(), Default::default);
        for (sink, (error, drops)) in sinks.all.iter().zip(&mut self.told) {
            let Status { last_error, dropped, .. } = sink.status.get();
            if last_error != *error {
                if let Some(text) = &last_error {
                    tell!("{}: {text}", sink.name);
                }
                *error = last_error;
            }
            if dropped > *drops {
                tell!(
                    "{}: {} events were overwritten before it got them, {dropped} in all",
                    sink.name,
                    dropped - *drops
                );
            }
            *drops = dropped;
        }
    }

    /// The account at the end. Returns whether nothing was lost.
    pub fn summary(
        mut self,
        pipeline: &Pipeline,
        sinks: &Sinks,
        failures: &[String],
        rejects_kept: bool,
    ) -> bool {
        self.tell_troubles(sinks);
        *tell::LINE.lock() = None;
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let tally = &pipeline.tally;
        let rejected = tally.rejected.load(Relaxed);
        let complete = failures.is_empty()
            && tally.late.load(Relaxed) == 0
            && (rejected == 0 || rejects_kept)
            && sinks.all.iter().all(|sink| {
                sink.status.get().dropped == 0
                    && sink
                        .outcome
                        .as_ref()
                        .is_some_and(|outcome| outcome.error.is_none() && outcome.shortened == 0)
            });
        if self.json {
            self.write_json(pipeline, sinks, "summary", Some(complete));
        } else {
            tell::line(format_args!(
                "{}",
                Summary { pipeline, sinks, seconds: self.start.elapsed().as_secs_f64() }
            ));
        }
        if !complete {
            tell!("something was lost, see above");
        }
        complete
    }

    fn write_json(&self, pipeline: &Pipeline, sinks: &Sinks, r#type: &'static str, complete: Option<bool>) {
        let Tally { lines, blank, bytes, published, truncated, not_captured, rejected, late } =
            &pipeline.tally;
        let get = |count: &AtomicU64| count.load(Relaxed);
        let sinks = sinks.all.iter().map(|sink| {
            let Status { appended, durable, lag, dropped, errors, retries, last_error, .. } =
                sink.status.get();
            let (shortened, error) = match &sink.outcome {
                Some(outcome) => (Some(outcome.shortened), outcome.error.clone()),
                None => (None, last_error),
            };
            SinkReport { name: sink.name, appended, durable, lag, dropped, shortened, errors, retries, error }
        });
        let report = Report {
            r#type,
            seconds: self.start.elapsed().as_secs_f64(),
            lines: get(lines),
            blank: get(blank),
            rejected: get(rejected),
            not_captured: get(not_captured),
            late: get(late),
            published: get(published),
            truncated: get(truncated),
            bytes: get(bytes),
            seq: pipeline.stream.seq(),
            clients: Clients::of(pipeline),
            sinks: sinks.collect(),
            complete,
        };
        if let Ok(line) = serde_json::to_string(&report) {
            let _ = writeln!(io::stdout(), "{line}");
        }
    }
}

/// The readers of the server's clients.
#[derive(Default, Serialize)]
struct Clients {
    count: u64,
    /// Of the one that is furthest behind.
    lag: u64,
    dropped: u64,
}

impl Clients {
    fn of(pipeline: &Pipeline) -> Self {
        let mut clients = Self::default();
        for reader in pipeline.stream.readers().iter().filter(|reader| reader.name.starts_with("sse")) {
            clients.count += 1;
            clients.lag = clients.lag.max(reader.lag);
            clients.dropped += reader.dropped;
        }
        clients
    }
}

struct Summary<'a> {
    pipeline: &'a Pipeline,
    sinks: &'a Sinks,
    seconds: f64,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { lines, blank, bytes, published, truncated, not_captured, rejected, late } =
            &self.pipeline.tally;
        let get = |count: &AtomicU64| count.load(Relaxed);
        write!(f, "input: {} lines, {} of them blank", get(lines), get(blank))?;
        write!(
            f,
            "\npublished: {} events, {} bytes, {} truncated",
            get(published),
            get(bytes),
            get(truncated)
        )?;
        write!(
            f,
            "\nnot published: {} not captured, {} rejected, {} too late",
            get(not_captured),
            get(rejected),
            get(late)
        )?;
        let posted = self.pipeline.stream.stats().published().saturating_sub(get(published));
        if posted > 0 {
            write!(f, "\nposted: {posted} events")?;
        }
        for sink in &self.sinks.all {
            let Status { appended, durable, dropped, errors, lag, .. } = sink.status.get();
            write!(f, "\n{}: up to seq {appended}, {dropped} dropped, {errors} failures", sink.name)?;
            if durable > 0 {
                write!(f, ", durable up to {durable}")?;
            }
            match &sink.outcome {
                Some(outcome) => {
                    if outcome.shortened > 0 {
                        write!(f, ", {} truncated since it was too late for them", outcome.shortened)?;
                    }
                    if let Some(error) = &outcome.error {
                        write!(f, "; {lag} events are not there: {error}")?;
                    }
                }
                None => write!(f, "; {lag} events are not there: it did not come back in time")?,
            }
        }
        write!(f, "\ntime: {:.3} s", self.seconds)
    }
}
