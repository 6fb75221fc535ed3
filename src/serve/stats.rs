//! `GET /stats` and `GET /metrics`: the same numbers, for people and for collectors.

use std::collections::HashSet;
use std::fmt::{self, Display, Write};

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Serialize, Serializer};

use super::{Shared, State, of_the_moment};
use crate::event::Category;

/// All that is told.
#[derive(Serialize)]
struct Snapshot {
    epoch: String,
    seq: u64,
    readable: u64,
    oldest: u64,
    capacity: u64,
    memory: usize,
    published: u64,
    #[serde(serialize_with = "as_map")]
    published_by_category: Vec<(&'static str, u64)>,
    bytes: u64,
    truncated: u64,
    largest: u64,
    refused: u64,
    overrun: u64,
    abandoned: u64,
    uptime_seconds: f64,
    clients: usize,
    readers: Vec<Reader>,
    sinks: Vec<Sink>,
}

#[derive(Serialize)]
struct Reader {
    name: String,
    next_seq: u64,
    lag: u64,
    delivered: u64,
    dropped: u64,
    shortened: u64,
}

#[derive(Serialize)]
struct Sink {
    name: String,
    appended: u64,
    durable: u64,
    lag: u64,
    dropped: u64,
    errors: u64,
    retries: u64,
    last_error: Option<String>,
}

fn as_map<S: Serializer>(pairs: &[(&'static str, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().copied())
}

impl Snapshot {
    fn of(state: &State) -> Self {
        const KNOWN: &[Category<'static>] = &Category::KNOWN;
        let stream = &state.stream;
        let stats = stream.stats();
        let known = KNOWN.iter().map(|category| (category.as_str(), stats.published_in(category)));
        // All other names are counted as one.
        let other = ("other", stats.published_in(&Category::from("")));
        let reader = |status: crate::stream::ReaderStatus| Reader {
            name: status.name.to_string(),
            next_seq: status.position + 1,
            lag: status.lag,
            delivered: status.delivered,
            dropped: status.dropped,
            shortened: status.shortened,
        };
        let sink = |(name, status): &(String, crate::storage::StatusHandle)| {
            let status = status.get();
            Sink {
                name: name.clone(),
                appended: status.appended,
                durable: status.durable,
                lag: status.lag,
                dropped: status.dropped,
                errors: status.errors,
                retries: status.retries,
                last_error: status.last_error,
            }
        };
        Self {
            epoch: format!("{:016x}", stream.epoch()),
            published_by_category: known.chain([other]).collect(),
            readers: stream.readers().into_iter().map(reader).collect(),
            sinks: state.sinks.iter().map(sink).collect(),
            oldest: stream.oldest(),
            readable: stream.readable(),
            seq: stream.seq(),
            capacity: stream.events(),
            memory: stream.memory(),
            published: stats.published(),
            bytes: stats.bytes(),
            truncated: stats.truncated(),
            largest: stats.largest(),
            refused: stats.refused,
            overrun: stats.overrun,
            abandoned: stats.abandoned,
            uptime_seconds: state.since.elapsed().as_secs_f64(),
            clients: state.pulse.clients(),
        }
    }
}

pub(super) async fn json(state: Shared) -> Response {
    // There is nothing in it that has no form in JSON.
    let stats = serde_json::to_vec(&Snapshot::of(&state)).unwrap_or_default();
    super::json(StatusCode::OK, stats)
}

pub(super) async fn open_metrics(state: Shared) -> Response {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    (of_the_moment(content_type), Snapshot::of(&state).open_metrics()).into_response()
}

impl Snapshot {
    fn open_metrics(&self) -> String {
        let mut text = Text::default();
        let by_category = self.published_by_category.iter().map(|&(name, count)| (name, count));
        text.counter_by("events_published", "category", "Events published.", by_category);
        text.counter("event_bytes", "Bytes of all events, as JSON.", self.bytes);
        text.counter("events_truncated", "Events truncated when they were published.", self.truncated);
        text.counter("events_refused", "Times that publishing was refused.", self.refused);
        text.counter("events_overrun", "Events overwritten before they could be written.", self.overrun);
        text.counter("events_abandoned", "Numbers given up for stalled publishers.", self.abandoned);
        text.gauge("largest_event_bytes", "Bytes of the largest event.", self.largest);
        text.gauge("seq", "The last claimed seq.", self.seq);
        text.gauge("readable_seq", "The last seq up to which a reader waits for none.", self.readable);
        text.gauge("oldest_seq", "The oldest seq that can still be there.", self.oldest);
        text.gauge("capacity_events", "Events that the stream holds.", self.capacity);
        text.gauge("memory_bytes", "Bytes that the stream takes.", self.memory);
        text.gauge("uptime_seconds", "Since the server was made.", self.uptime_seconds);
        text.gauge("clients", "Clients that get server-sent events.", self.clients);
        text.family("epoch", "info", "What tells this stream from every other one.");
        text.sample("epoch_info", &[("epoch", &self.epoch)], 1);

        let names = unique(self.readers.iter().map(|reader| &*reader.name));
        let readers =
            |of: fn(&Reader) -> u64| names.iter().map(String::as_str).zip(self.readers.iter().map(of));
        text.gauge_by("reader_next_seq", "reader", "The seq that it looks for.", readers(|r| r.next_seq));
        text.gauge_by("reader_lag", "reader", "Events claimed that it is not done with.", readers(|r| r.lag));
        text.counter_by("reader_delivered", "reader", "Events that it got.", readers(|r| r.delivered));
        text.counter_by(
            "reader_dropped",
            "reader",
            "Events that it was told it lost.",
            readers(|r| r.dropped),
        );
        let help = "Events that it got in truncated form, because it came too late.";
        text.counter_by("reader_shortened", "reader", help, readers(|r| r.shortened));

        let names = unique(self.sinks.iter().map(|sink| &*sink.name));
        let sinks = |of: fn(&Sink) -> u64| names.iter().map(String::as_str).zip(self.sinks.iter().map(of));
        text.gauge_by("sink_appended_seq", "sink", "The last seq that it has taken.", sinks(|s| s.appended));
        text.gauge_by(
            "sink_durable_seq",
            "sink",
            "The last seq that survives a crash.",
            sinks(|s| s.durable),
        );
        text.gauge_by("sink_lag", "sink", "Events claimed that it has not taken.", sinks(|s| s.lag));
        // No counter: a storage that goes back gets what was lost once more, and it is counted anew.
        text.gauge_by("sink_dropped", "sink", "Events lost to it.", sinks(|s| s.dropped));
        text.counter_by("sink_errors", "sink", "Times that it failed.", sinks(|s| s.errors));
        text.counter_by("sink_retries", "sink", "Times that it was tried again.", sinks(|s| s.retries));
        text.out.push_str("# EOF\n");
        text.out
    }
}

/// Names as labels, each of which may be there once.
fn unique<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut taken = HashSet::new();
    let mut label = |name: &str| {
        let mut label = name.to_owned();
        let mut number = 1u64;
        while !taken.insert(label.clone()) {
            number += 1;
            label = format!("{name} #{number}");
        }
        label
    };
    names.map(&mut label).collect()
}

/// Metrics as OpenMetrics spells them.
#[derive(Default)]
struct Text {
    out: String,
}

impl Text {
    fn write(&mut self, line: fmt::Arguments<'_>) {
        // A string takes everything.
        let _ = self.out.write_fmt(line);
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.write(format_args!("# TYPE lapwing_{name} {kind}\n"));
        for unit in ["bytes", "seconds"] {
            if name.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_')) {
                self.write(format_args!("# UNIT lapwing_{name} {unit}\n"));
            }
        }
        self.write(format_args!("# HELP lapwing_{name} {help}\n"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.write(format_args!("lapwing_{name}"));
        for (at, (label, text)) in labels.iter().enumerate() {
            self.write(format_args!("{}{label}=\"{}\"", if at == 0 { '{' } else { ',' }, Escaped(text)));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        self.write(format_args!("{end} {value}\n"));
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.sample(&format!("{name}_total"), &[], value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn counter_by<'a>(
        &mut self,
        name: &str,
        label: &str,
        help: &str,
        values: impl Iterator<Item = (&'a str, u64)>,
    ) {
        self.family(name, "counter", help);
        let sample = format!("{name}_total");
        values.for_each(|(of, value)| self.sample(&sample, &[(label, of)], value));
    }

    fn gauge_by<'a>(
        &mut self,
        name: &str,
        label: &str,
        help: &str,
        values: impl Iterator<Item = (&'a str, u64)>,
    ) {
        self.family(name, "gauge", help);
        values.for_each(|(of, value)| self.sample(name, &[(label, of)], value));
    }
}

/// The value of a label.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| match char {
            '\\' => f.write_str("\\\\"),
            '"' => f.write_str("\\\""),
            '\n' => f.write_str("\\n"),
            char => f.write_char(char),
        })
    }
}
