//! The S2 sink against a real server, which is a child process that stores on the local disk, and against stubs. Each test has a server
//! of its own. What is in a stream is read by the bare SDK, and compared byte for byte with what was published.

mod log;
mod proxy;
#[allow(dead_code)] // each of its users uses a part
mod server;
mod stub;

use std::error::Error;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::sync::LazyLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use lapwing::event::{Category, Event, Source, SourceKind};
use lapwing::storage::{
    RunError, S2Config, S2Error, S2Storage, S2StorageWriter, Status, StorageError, StorageWriter,
};
use lapwing::stream::{Config, EventStream, Reader};
use libtest_mimic::{Arguments, Trial, run};
use proxy::Proxy;
use s2_sdk::types::SequencedRecord;
use server::{BASIN, STARTED, STREAM, Server, TOKEN};
use stub::Stub;

macro_rules! trials {
    ($($name:ident),* $(,)?) => {
        vec![$(Trial::test(stringify!($name), || { $name(); Ok(()) })),*]
    };
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Most of the time they wait. The longest one comes first.
    arguments.test_threads.get_or_insert(4);
    let trials = trials![
        killed_and_stopped_under_load,
        round_trip_of_20_000_events,
        lost_acknowledgements,
        lost_acknowledgement_of_taking_the_stream,
        what_comes_late_is_not_taken,
        outage_longer_than_the_ring,
        of_two_writers_the_later_one_goes_on,
        who_was_away_does_not_take_the_stream_back,
        a_refused_start_can_be_tried_again,
        what_is_not_valid_is_told_by_new,
        a_start_is_refused_by_its_status,
        a_running_writer_is_refused,
        records_of_the_largest_size,
        stop_under_load,
        stop_tells_what_is_not_acknowledged,
        a_writer_of_ones_own,
        foreign_records,
        a_session_lost_before_the_first_event,
        a_stream_made_again,
        in_a_runtime,
        the_token_is_never_shown,
    ];
    let conclusion = run(&arguments, trials);
    println!("{} tests ran against a real S2 server.\n", STARTED.load(SeqCst));
    conclusion.exit_code()
}

// ---- What is published.

/// How far the publisher is ahead of what is acknowledged, at most: then the ring, and its memory for large events, hold it.
const AHEAD: u64 = 2000;

static RECORDING: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let recording = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/telemetry.ndjson")).unwrap();
    recording.trim_ascii().split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect()
});

/// A stream into which real events are published, and what their envelopes are.
struct Feed {
    stream: EventStream,
    reader: Reader,
    lines: Vec<&'static [u8]>,
    /// Of every envelope.
    digests: Vec<u64>,
}

impl Feed {
    fn new() -> Self {
        Self::of(Config::new().events(4 * AHEAD).large_bytes(32 << 20))
    }

    fn of(config: Config) -> Self {
        let stream = config.build().unwrap();
        let reader = stream.reader_from_oldest();
        Self { stream, reader, lines: RECORDING.iter().map(|line| &line[..]).collect(), digests: Vec::new() }
    }

    /// The lines of the recording that are not longer.
    fn up_to(mut self, bytes: usize) -> Self {
        self.lines.retain(|line| line.len() <= bytes);
        self
    }

    fn publish(&mut self, events: usize) {
        for _ in 0..events {
            self.stream.publish_json(self.lines[self.digests.len() % self.lines.len()]).unwrap();
            let mut envelope = self.reader.try_read().unwrap().envelope().unwrap();
            self.digests.push(digest(envelope.json()));
        }
    }

    /// Not faster than the writer.
    fn publish_paced(&mut self, events: usize, writer: &S2StorageWriter) {
        for _ in 0..events {
            until("the writer keeps up", || status(writer).durable + AHEAD > self.seq());
            self.publish(1);
        }
    }

    fn seq(&self) -> u64 {
        self.digests.len() as u64
    }

    /// Fails unless `records` are the envelopes with these seqs: each one once, in order, with its headers.
    fn check(&self, records: &[SequencedRecord], seqs: RangeInclusive<u64>) {
        let envelopes: Vec<_> = envelopes(records).collect();
        let given: Vec<_> = envelopes.iter().map(|record| seq(record)).collect();
        assert!(given.iter().copied().eq(seqs.clone()), "{seqs:?} are expected, not {given:?}");
        for record in envelopes {
            self.check_record(record);
        }
    }

    fn check_record(&self, record: &SequencedRecord) {
        let seq = seq(record);
        assert_eq!(header(record, b"epoch"), format!("{:016x}", self.stream.epoch()));
        assert_eq!(record.headers.len(), 2);
        assert!(record.body.starts_with(format!("{{\"seq\":{seq},").as_bytes()));
        assert_eq!(digest(&record.body), self.digests[seq as usize - 1], "seq {seq}");
    }
}

fn digest(json: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    json.hash(&mut hasher);
    hasher.finish()
}

fn header<'a>(record: &'a SequencedRecord, name: &[u8]) -> &'a str {
    let header = record.headers.iter().find(|header| &header.name[..] == name).unwrap();
    std::str::from_utf8(&header.value).unwrap()
}

fn seq(record: &SequencedRecord) -> u64 {
    header(record, b"seq").parse().unwrap()
}

/// All but what takes the stream for a writer.
fn envelopes(records: &[SequencedRecord]) -> impl Iterator<Item = &SequencedRecord> {
    records.iter().filter(|record| !record.is_command_record())
}

/// How many times the stream was taken.
fn fences(records: &[SequencedRecord]) -> usize {
    records.iter().filter(|record| record.is_command_record()).count()
}

// ---- Writers.

/// Impatient, so that what goes wrong is seen soon.
fn config(url: &str) -> S2Config {
    S2Config::new().endpoint(url).linger(Duration::from_millis(5)).request_timeout(Duration::from_secs(1))
}

fn writer(feed: &Feed, url: &str) -> S2StorageWriter {
    S2StorageWriter::new(&feed.stream, BASIN, TOKEN, STREAM, config(url)).unwrap()
}

fn started(feed: &Feed, url: &str) -> S2StorageWriter {
    let mut writer = writer(feed, url);
    until("it starts", || match writer.start() {
        Ok(()) => true,
        Err(error) if error.is_transient() => false, // a machine that is very busy
        Err(error) => panic!("{error}"),
    });
    writer
}

fn status(writer: &S2StorageWriter) -> Status {
    writer.status().expect("it was started").get()
}

fn within(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

/// Looks again and again whether something is so.
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = within(60);
    while !so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// Lets time pass for those who are to wait in vain. Nothing may depend on what comes to pass in it.
fn pass(time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        thread::park_timeout(left);
    }
}

/// The error that ended a writer.
fn fatal(error: &RunError) -> &S2Error {
    match error {
        RunError::Storage(StorageError::Fatal(error)) => error.downcast_ref().unwrap(),
        error => panic!("an error that ends a writer is expected, not {error}"),
    }
}

/// It, and what is behind it.
fn chain(error: &dyn Error) -> String {
    let source = error.source().map_or(String::new(), chain);
    format!("{error} {error:?} {error:#?} {source}")
}

// ---- The tests.

fn round_trip_of_20_000_events() {
    let server = Server::start();
    let mut feed = Feed::new();
    let config = S2Config::new().endpoint(server.url()).request_timeout(Duration::from_secs(20));
    let mut writer = S2StorageWriter::new(&feed.stream, BASIN, TOKEN, STREAM, config.clone()).unwrap();
    writer.start().unwrap();
    feed.publish_paced(20_000, &writer);
    writer.stop(within(30)).unwrap();
    let status = status(&writer);
    assert_eq!((status.appended, status.durable, status.lag), (20_000, 20_000, 0));
    assert_eq!((status.errors, status.retries, status.dropped, status.last_error), (0, 0, 0, None));

    let records = server.records();
    feed.check(&records, 1..=20_000);
    assert_eq!(fences(&records), 1);
    let mut lines = S2Storage::read(BASIN, TOKEN, STREAM, &config).unwrap();
    for record in envelopes(&records) {
        let line = lines.next().unwrap().unwrap();
        assert_eq!((line.epoch(), line.seq()), (feed.stream.epoch(), seq(record)));
        assert_eq!(line.json(), &record.body[..]);
        let event = &RECORDING[(line.seq() as usize - 1) % RECORDING.len()];
        assert!(event.len() > 900_000 || line.event_json() == event);
    }
    assert!(lines.next().is_none());
}

fn killed_and_stopped_under_load() {
    let mut server = Server::start();
    let mut feed = Feed::new();
    let mut writer = started(&feed, &server.url());
    let over = AtomicBool::new(false);
    let (status, started) = (writer.status().unwrap(), Instant::now());
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            while !over.load(SeqCst) {
                feed.publish_paced(1, &writer);
            }
        });
        let progress = |events: u64| {
            let goal = status.get().durable + events;
            until("the writer gets on", || status.get().durable >= goal || load.is_finished());
            assert!(!load.is_finished());
        };
        for round in 0..10 {
            progress(500);
            server.kill();
            if round % 2 == 0 {
                let errors = status.get().errors;
                until("the writer has noticed", || status.get().errors > errors);
            }
            server.restart();
            progress(500);
            server.stop();
            pass(Duration::from_secs(5));
            server.go_on();
        }
        progress(500);
        over.store(true, SeqCst);
    });
    writer.stop(within(30)).unwrap();
    assert!(started.elapsed() > Duration::from_secs(50));
    let status = status.get();
    assert_eq!((status.durable, status.dropped), (feed.seq(), 0));
    assert!(status.errors >= 10 && feed.seq() > 10_000, "{status:?}");
    let records = server.records();
    feed.check(&records, 1..=feed.seq());
    assert!(fences(&records) > 10);
}

/// What the server has taken, and the writer does not know of, is not sent again.
fn lost_acknowledgements() {
    let server = Server::start();
    let proxy = Proxy::to(server.port());
    // Small enough for what may be sent before an answer to that: HTTP/2 has 64 KiB.
    let mut feed = Feed::new().up_to(1000);
    let config = config(&proxy.url()).batch_records(10);
    let mut writer = S2StorageWriter::new(&feed.stream, BASIN, TOKEN, STREAM, config).unwrap();
    writer.start().unwrap();
    for _ in 0..10 {
        feed.publish(100);
        until("the writer gets on", || status(&writer).durable >= feed.seq());
        proxy.swallow();
        let tail = server.tail();
        feed.publish(200);
        until("the server has taken something", || server.tail() > tail);
        assert_eq!(status(&writer).durable, feed.seq() - 200);
        proxy.cut_and_lead_to(server.port());
    }
    let start = Instant::now();
    writer.stop(start + Duration::from_secs(30)).unwrap();
    assert!(start.elapsed() < Duration::from_secs(20), "nothing is waited for that was lost");
    let records = server.records();
    feed.check(&records, 1..=3000);
    assert!(fences(&records) > 10 && status(&writer).errors >= 10);
}

/// Who has taken a stream, and does not know it, finds himself there.
fn lost_acknowledgement_of_taking_the_stream() {
    let server = Server::start();
    let proxy = Proxy::to(server.port());
    let mut feed = Feed::new();
    let mut writer = started(&feed, &proxy.url());
    for _ in 0..3 {
        feed.publish(100);
        until("the writer gets on", || status(&writer).durable >= feed.seq());
        let before = fences(&server.records());
        proxy.cut_and_lead_to(server.port());
        proxy.swallow_once_sent(b"fence");
        feed.publish(100);
        until("it is taken", || fences(&server.records()) > before);
        proxy.cut_and_lead_to(server.port());
    }
    writer.stop(within(30)).unwrap();
    feed.check(&server.records(), 1..=600);
}

/// A batch that was on its way when the writer gave it up comes to the server after it was sent again.
fn what_comes_late_is_not_taken() {
    let server = Server::start();
    let proxy = Proxy::to(server.port());
    let mut feed = Feed::new().up_to(1000);
    let mut writer = started(&feed, &proxy.url());
    feed.publish(100);
    until("the writer gets on", || status(&writer).durable >= 100);
    proxy.hold_from(br#"{"seq":101,"#);
    feed.publish(1);
    until("the writer gets on", || status(&writer).durable >= 101);
    proxy.release();
    until("the server has answered", || proxy.late_answers() > 0);
    feed.publish(100);
    writer.stop(within(30)).unwrap();
    let records = server.records();
    feed.check(&records, 1..=201);
    assert_eq!(fences(&records), 2);
}

fn outage_longer_than_the_ring() {
    let mut server = Server::start();
    let mut feed = Feed::of(Config::new().events(64).large_bytes(4 << 20));
    let mut writer = started(&feed, &server.url());
    for _ in 0..3 {
        feed.publish(20);
        until("the writer gets on", || status(&writer).durable >= feed.seq());
        server.kill();
        feed.publish(500);
        let errors = status(&writer).errors;
        until("the writer has noticed", || status(&writer).errors > errors);
        server.restart();
        until("the writer gets on", || status(&writer).durable >= feed.seq());
    }
    writer.stop(within(30)).unwrap();
    let (records, epoch) = (server.records(), format!("{:016x}", feed.stream.epoch()));
    let (mut last, mut gaps, mut dropped) = (0, 0, 0);
    for record in envelopes(&records) {
        let (seq, json) = (seq(record), serde_json::from_slice::<serde_json::Value>(&record.body));
        if let Ok(json) = json
            && json["event"]["type"] == "events_dropped"
        {
            let data = &json["event"]["data"];
            let (from, to) = (data["from"].as_u64().unwrap(), data["to"].as_u64().unwrap());
            assert_eq!((from, to, data["count"].as_u64().unwrap()), (last + 1, seq, seq - last));
            assert_eq!((json["seq"].as_u64(), header(record, b"epoch")), (Some(seq), &*epoch));
            assert_eq!(json["event"]["category"], "system");
            gaps += 1;
            dropped += seq - last;
        } else {
            assert_eq!(seq, last + 1, "what is missing is told");
            feed.check_record(record);
        }
        last = seq;
    }
    assert_eq!(last, feed.seq());
    assert!(gaps >= 3 && dropped >= 3 * (500 - 64 - 64), "{gaps} gaps, {dropped} events");
    assert_eq!(status(&writer).dropped, dropped);
    assert_eq!(envelopes(&records).count() as u64, feed.seq() - dropped + gaps);
}

fn of_two_writers_the_later_one_goes_on() {
    let server = Server::start();
    let (mut feed, mut other_feed) = (Feed::new(), Feed::new());
    let mut writer = started(&feed, &server.url());
    feed.publish(500);
    until("the first one gets on", || status(&writer).durable > 0);
    let mut other = started(&other_feed, &server.url());
    let taken = server.records().iter().rposition(SequencedRecord::is_command_record).unwrap();
    feed.publish(500);
    other_feed.publish(500);
    until("the first one has noticed", || !writer.is_running());
    other_feed.publish(500);
    other.stop(within(10)).unwrap();

    let error = writer.stop(within(10)).unwrap_err();
    assert_eq!((error.acknowledged, error.wanted), (status(&writer).durable, 1000));
    let records = server.records();
    let fence = String::from_utf8(records[taken].body.to_vec()).unwrap();
    let stream = format!("{BASIN}/{STREAM}");
    assert_eq!(*fatal(&error.error), S2Error::Fenced { stream, by: fence.clone() });
    assert!(error.to_string().contains(&format!("another writer has taken {BASIN}/{STREAM}")), "{error}");
    assert!(error.to_string().contains(&fence) && fence.starts_with("lapwing-"), "{error}");
    let held = envelopes(&records[..taken]).count() as u64;
    assert!((1..1000).contains(&held) && held >= error.acknowledged);
    feed.check(&records[..taken], 1..=held);
    other_feed.check(&records[taken..], 1..=1000);

    // One that takes it back goes on where the first one had come to.
    let mut writer = started(&feed, &server.url());
    feed.publish(10);
    writer.stop(within(10)).unwrap();
    feed.check(&server.records()[records.len()..], held + 1..=1010);
    assert_eq!(status(&writer).errors, 0);
}

fn who_was_away_does_not_take_the_stream_back() {
    let server = Server::start();
    let proxy = Proxy::to(server.port());
    let (mut feed, mut other_feed) = (Feed::new(), Feed::new());
    let mut writer = started(&feed, &proxy.url());
    feed.publish(100);
    until("the first one gets on", || status(&writer).durable >= 100);
    let stub = Stub::answering(503, "unavailable", "away");
    proxy.cut_and_lead_to(stub.port);
    feed.publish(100);
    until("the first one has noticed", || stub.requests() > 0);
    let mut other = started(&other_feed, &server.url());
    other_feed.publish(100);
    until("the other one gets on", || status(&other).durable >= 100);
    proxy.cut_and_lead_to(server.port());
    until("the first one has noticed", || !writer.is_running());
    other_feed.publish(100);
    other.stop(within(10)).unwrap();
    let error = writer.stop(within(10)).unwrap_err();
    assert_eq!((error.acknowledged, error.wanted), (100, 200));
    assert!(matches!(fatal(&error.error), S2Error::Fenced { .. }), "{error}");
    let records = server.records();
    let taken = records.iter().rposition(SequencedRecord::is_command_record).unwrap();
    feed.check(&records[..taken], 1..=100);
    other_feed.check(&records[taken..], 1..=200);
}

fn a_refused_start_can_be_tried_again() {
    let server = Server::without_stream();
    let mut feed = Feed::new();
    let refused = |error: S2Error| match error {
        S2Error::Refused { doing: "find the end of", stream, status, code, .. } => (stream, status, code),
        error => panic!("{error}"),
    };
    let no_stream = (format!("{BASIN}/{STREAM}"), 404, "stream_not_found".into());
    let mut writer = writer(&feed, &server.url());
    assert!(writer.status().is_none() && !writer.is_running());
    writer.stop(within(0)).unwrap();
    for _ in 0..2 {
        let error = writer.start().unwrap_err();
        assert!(
            !error.is_transient() && error.to_string().contains(&format!("{BASIN}/{STREAM}: 404")),
            "{error}"
        );
        assert_eq!(refused(error), no_stream);
        assert!(writer.status().is_none() && !writer.is_running());
    }
    let mut wrong =
        S2StorageWriter::new(&feed.stream, "no-such-basin", TOKEN, STREAM, config(&server.url())).unwrap();
    let no_basin = (format!("no-such-basin/{STREAM}"), 404, "basin_not_found".into());
    assert_eq!(refused(wrong.start().unwrap_err()), no_basin);
    let read = S2Storage::read(BASIN, TOKEN, STREAM, &config(&server.url()));
    assert_eq!(refused(read.unwrap_err()), no_stream);

    assert!(
        feed.stream.readers().iter().all(|reader| &*reader.name != "s2"),
        "a refused start leaves nothing"
    );
    server.create_stream(STREAM);
    feed.publish(100);
    writer.start().unwrap();
    assert_eq!(writer.start().unwrap_err(), S2Error::Started);
    assert!(writer.is_running());
    writer.stop(within(10)).unwrap();
    writer.stop(within(0)).unwrap();
    assert!(!writer.is_running());
    assert_eq!(writer.start().unwrap_err(), S2Error::Started);
    feed.check(&server.records(), 1..=100);

    // Nobody listens there any more.
    let url = server.url();
    drop(server);
    let error = self::writer(&feed, &url).start().unwrap_err();
    assert!(matches!(error, S2Error::NoAnswer { .. }) && error.is_transient(), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

fn what_is_not_valid_is_told_by_new() {
    let stream = EventStream::new().unwrap();
    let new = |basin: &str, token: &str, name: &str, config: S2Config| {
        S2StorageWriter::new(&stream, basin, token, name, config).map(drop).unwrap_err()
    };
    let ok = S2Config::new;
    for (error, what) in [
        (new("", TOKEN, STREAM, ok()), "basin"),
        (new(BASIN, "", STREAM, ok()), "token"),
        (new(BASIN, TOKEN, "", ok()), "stream name"),
    ] {
        assert_eq!(error, S2Error::Empty { what });
        assert_eq!(error.to_string(), format!("the {what} is empty"));
    }
    for (error, wanted) in [
        (new("No Basin", TOKEN, STREAM, ok()), "basin"),
        (new(BASIN, "to\nken", STREAM, ok()), "token"),
        (new(BASIN, "tökén", STREAM, ok()), "token"),
        (new(BASIN, TOKEN, &"x".repeat(600), ok()), "stream name"),
        (new(BASIN, TOKEN, STREAM, ok().endpoint("localhost:80")), "endpoint"),
        (new(BASIN, TOKEN, STREAM, ok().endpoint("http://me:pass@localhost")), "endpoint"),
        (new(BASIN, TOKEN, STREAM, ok().batch_records(0)), "number of records a batch"),
        (new(BASIN, TOKEN, STREAM, ok().batch_records(1001)), "number of records a batch"),
        (new(BASIN, TOKEN, STREAM, ok().unacknowledged_bytes(1000)), "number of unacknowledged bytes"),
        (new(BASIN, TOKEN, STREAM, ok().request_timeout(Duration::ZERO)), "request timeout"),
        (new(BASIN, TOKEN, STREAM, ok().linger(Duration::MAX)), "linger"),
    ] {
        assert!(matches!(&error, S2Error::Invalid { what, .. } if *what == wanted), "{wanted}: {error}");
        assert!(!error.to_string().contains("to\nken") && !error.to_string().contains("tökén"), "{error}");
    }
    let large = Config::new().max_envelope_bytes(2 << 20).build().unwrap();
    let mut writer = S2StorageWriter::new(&large, BASIN, TOKEN, STREAM, ok()).unwrap();
    let error = writer.start().unwrap_err();
    assert!(matches!(error, S2Error::Invalid { what: "size of the stream's envelopes", .. }), "{error}");
}

/// Once, and with all that the server says.
fn a_start_is_refused_by_its_status() {
    let feed = Feed::new();
    for (status, code, is_transient) in [
        (401, "authn", false),
        (403, "permission_denied", false),
        (429, "rate_limited", true),
        (500, "other", true),
        (503, "unavailable", true),
        (503, "server_draining", true),
        (504, "none that S2 has", true),
        (501, "not_implemented", false),
    ] {
        let stub = Stub::answering(status, code, "as the stub has it");
        let error = writer(&feed, &stub.url()).start().unwrap_err();
        let expected = S2Error::Refused {
            doing: "find the end of",
            stream: format!("{BASIN}/{STREAM}"),
            status,
            code: code.into(),
            message: "as the stub has it".into(),
        };
        assert_eq!(error, expected);
        assert_eq!((error.is_transient(), stub.requests()), (is_transient, 1), "{error}");
        assert_eq!(
            error.to_string(),
            format!("cannot find the end of {BASIN}/{STREAM}: {status} {code}: as the stub has it")
        );
    }
}

/// After some statuses it goes on when the server does; after the others it ends.
fn a_running_writer_is_refused() {
    let server = Server::start();
    let mut feed = Feed::new();
    for (status_code, code, is_transient) in [
        (429, "rate_limited", true),
        (500, "other", true),
        (503, "unavailable", true),
        (503, "server_draining", true),
        (401, "authn", false),
        (403, "permission_denied", false),
    ] {
        let stub = Stub::answering(status_code, code, "as the stub has it");
        let proxy = Proxy::to(server.port());
        let mut writer = started(&feed, &proxy.url());
        feed.publish(100);
        until("the writer gets on", || status(&writer).durable >= feed.seq());
        proxy.cut_and_lead_to(stub.port);
        feed.publish(100);
        let told = format!("{status_code} {code}: as the stub has it");
        if is_transient {
            until("it is tried again", || stub.requests() >= 3);
            let status = status(&writer);
            assert!(status.errors >= 2 && status.retries >= 1, "{status:?}");
            assert!(status.last_error.is_some_and(|error| error.contains(&told)));
            proxy.cut_and_lead_to(server.port());
            writer.stop(within(10)).unwrap();
        } else {
            until("it ends", || !writer.is_running());
            assert_eq!(stub.requests(), 1);
            let error = writer.stop(within(10)).unwrap_err();
            assert_eq!((error.acknowledged, error.wanted), (feed.seq() - 100, feed.seq()));
            assert!(error.to_string().contains(&told), "{error}");
            assert!(matches!(fatal(&error.error), S2Error::Refused { status, .. } if *status == status_code));
            started(&feed, &server.url()).stop(within(10)).unwrap();
        }
        feed.check(&server.records(), 1..=feed.seq());
    }
}

fn records_of_the_largest_size() {
    let server = Server::start();
    let mut feed = Feed::of(Config::new().events(64).large_bytes(16 << 20));
    let mut writer = started(&feed, &server.url());
    let event = |len: usize| {
        let data = serde_json::to_string(&"x".repeat(len)).unwrap();
        let event = Event::new("large", Category::Screenshot, Source::new(SourceKind::Cdp)).ts(7);
        event.data_json(&data).unwrap().to_json()
    };
    let around = event(0).len() + r#"{"seq":1,"event":}"#.len();
    for len in [999_999, 1_000_000, 1_000_001, 1_500_000] {
        feed.stream.publish_json(&event(len - around)).unwrap();
        let mut envelope = feed.reader.try_read().unwrap().envelope().unwrap();
        feed.digests.push(digest(envelope.json()));
        assert_eq!(envelope.truncated(), len > 1_000_000);
        feed.publish(1);
        until("the writer gets on", || status(&writer).durable >= feed.seq());
    }
    writer.stop(within(10)).unwrap();
    let records = server.records();
    feed.check(&records, 1..=8);
    let lens: Vec<_> =
        envelopes(&records).map(|record| record.body.len()).filter(|len| *len > 99_999).collect();
    assert_eq!(lens[..2], [999_999, 1_000_000]);
    assert!(lens.len() == 4 && lens[2..].iter().all(|len| (900_000..=1_000_000).contains(len)), "{lens:?}");
    assert_eq!(status(&writer).errors, 0);
}

fn stop_under_load() {
    let server = Server::start();
    // With a linger for which nobody waits.
    let config = config(&server.url()).linger(Duration::from_secs(3000)).batch_records(1000);
    let stream = Config::new().events(1 << 16).build().unwrap();
    let mut writer = S2StorageWriter::new(&stream, BASIN, TOKEN, STREAM, config).unwrap();
    writer.start().unwrap();
    let (status, over) = (writer.status().unwrap(), AtomicBool::new(false));
    let wanted = thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    let keeps_up = || status.get().appended + 20_000 > stream.seq();
                    until("the writer keeps up", || keeps_up() || over.load(Relaxed));
                    stream.publish_json(&RECORDING[0]).unwrap();
                }
            });
        }
        until("there is load", || stream.seq() > 5000);
        let wanted = stream.seq();
        writer.stop(within(30)).unwrap();
        over.store(true, Relaxed);
        wanted
    });
    let seqs: Vec<_> = envelopes(&server.records()).map(seq).collect();
    assert!(seqs.iter().copied().eq(1..=seqs.len() as u64), "{seqs:?}");
    assert!(
        (wanted..=stream.seq()).contains(&(seqs.len() as u64)),
        "{wanted} are wanted, and {} came",
        seqs.len()
    );
}

fn stop_tells_what_is_not_acknowledged() {
    let server = Server::start();
    let mut feed = Feed::new();
    let config = config(&server.url()).request_timeout(Duration::from_secs(60)).unacknowledged_bytes(1 << 20);
    let mut writer = S2StorageWriter::new(&feed.stream, BASIN, TOKEN, STREAM, config).unwrap();
    writer.start().unwrap();
    feed.publish(300);
    until("the writer gets on", || status(&writer).durable >= 300);
    server.stop();
    feed.publish(1700); // 3 MB: the writer waits
    let start = Instant::now();
    let error = writer.stop(start + Duration::from_millis(500)).unwrap_err();
    assert!(
        (Duration::from_millis(500)..Duration::from_secs(3)).contains(&start.elapsed()),
        "{:?}",
        start.elapsed()
    );
    assert_eq!((error.acknowledged, error.wanted), (300, 2000));
    let text = error.to_string();
    assert!(text.contains("up to seq 300 of 2000 acknowledged") && text.contains("time was up"), "{text}");
    server.go_on();
    let records = server.records();
    let held = envelopes(&records).count() as u64;
    assert!(held >= 300);
    feed.check(&records, 1..=held);
    // What is missing can still be had from the ring.
    started(&feed, &server.url()).stop(within(10)).unwrap();
    feed.check(&server.records(), 1..=2000);
}

/// It begins with the oldest event, although the stream holds that.
fn a_writer_of_ones_own() {
    let server = Server::start();
    let mut feed = Feed::of(Config::new().events(64).large_bytes(4 << 20));
    let open = || S2Storage::open(&feed.stream, BASIN, TOKEN, STREAM, config(&server.url())).unwrap();
    let (storage, last) = open();
    assert_eq!(last, None);
    let mut writer = StorageWriter::new(&feed.stream, storage);
    feed.publish(40);
    assert_eq!(writer.drain(within(10)).unwrap(), 40);
    writer.close(within(10)).unwrap();

    let open = || S2Storage::open(&feed.stream, BASIN, TOKEN, STREAM, config(&server.url())).unwrap();
    let (storage, last) = open();
    assert_eq!(last, Some(40));
    let mut writer = StorageWriter::after(&feed.stream, storage, 10).unwrap();
    feed.publish(80); // 10 to 56 are overwritten, of which the stream of S2 holds 10 to 40
    assert_eq!(writer.drain(within(10)).unwrap(), 120);
    let status = writer.status();
    let storage = writer.close(within(10)).unwrap();
    assert_eq!(status.get().durable, 120);
    assert!(format!("{storage:?}").contains("acknowledged: 120"), "{storage:?}");
    let records = server.records();
    let seqs: Vec<_> = envelopes(&records).map(seq).collect();
    let oldest = *seqs.get(41).unwrap();
    assert!(seqs.iter().copied().eq((1..=40).chain([oldest - 1]).chain(oldest..=120)), "{seqs:?}");
    let gap = String::from_utf8(envelopes(&records).nth(40).unwrap().body.to_vec()).unwrap();
    assert!(gap.contains(&format!(r#""data":{{"from":41,"to":{},"#, oldest - 1)), "{gap}");
    assert_eq!(status.get().dropped, oldest - 41);
    // It goes on by itself, and nothing is taken from a writer of another stream.
    let stream = EventStream::new().unwrap();
    stream.publish_json(&RECORDING[0]).unwrap();
    let mut stranger = StorageWriter::new(&stream, storage);
    let error = stranger.drain(within(10)).unwrap_err();
    assert!(matches!(fatal(&error), S2Error::Epoch { given, .. } if *given == stream.epoch()), "{error}");
}

/// S2 takes them from anybody who names no fencing token.
fn foreign_records() {
    let server = Server::start();
    let mut feed = Feed::new();
    server.append_foreign();
    let mut writer = started(&feed, &server.url());
    feed.publish(100);
    until("the writer gets on", || status(&writer).durable >= 100);
    server.append_foreign();
    feed.publish(100);
    writer.stop(within(10)).unwrap();
    server.append_foreign();
    assert!(status(&writer).errors >= 1);
    let records = server.records();
    let (ours, foreign): (Vec<_>, Vec<_>) = records
        .into_iter()
        .filter(|record| !record.is_command_record())
        .partition(|record| !record.headers.is_empty());
    feed.check(&ours, 1..=200);
    assert_eq!((foreign.len(), foreign[0].seq_num), (3, 0));
    let lines: Vec<_> = S2Storage::read(BASIN, TOKEN, STREAM, &config(&server.url())).unwrap().collect();
    assert_eq!(lines[0], Err(S2Error::Foreign { record: 0 }));
    let seqs = lines.iter().filter_map(|line| line.as_ref().ok()).map(|line| line.seq());
    assert!(seqs.eq(1..=200));
    assert_eq!(lines.len(), 203);
}

/// Nothing can be missing then, and nothing is told to be, although the ring begins with a later event.
fn a_session_lost_before_the_first_event() {
    let server = Server::start();
    let proxy = Proxy::to(server.port());
    let stream = Config::new().first_seq(5000).build().unwrap();
    let mut writer = S2StorageWriter::new(&stream, BASIN, TOKEN, STREAM, config(&proxy.url())).unwrap();
    writer.start().unwrap();
    proxy.cut_and_lead_to(server.port());
    // The loss is seen when it is written to; until then what is published may go to the lost session.
    for _ in 0..2 {
        stream.publish_json(&RECORDING[0]).unwrap();
        until("the writer gets on", || status(&writer).durable == stream.seq());
    }
    writer.stop(within(10)).unwrap();
    let records = server.records();
    assert_eq!(envelopes(&records).map(seq).collect::<Vec<_>>(), [5000, 5001]);
    assert_eq!((fences(&records), status(&writer).dropped), (2, 0));
}

fn a_stream_made_again() {
    let server = Server::start();
    let mut feed = Feed::new();
    let proxy = Proxy::to(server.port());
    let mut writer = started(&feed, &proxy.url());
    feed.publish(100);
    until("the writer gets on", || status(&writer).durable >= 100);
    server.delete_stream(STREAM);
    proxy.cut_and_lead_to(server.port());
    feed.publish(100);
    until("it ends", || !writer.is_running());
    let error = writer.stop(within(10)).unwrap_err();
    assert_eq!((error.acknowledged, error.wanted), (100, 200));
    assert!(matches!(fatal(&error.error), S2Error::Refused { status: 404 | 409, .. }), "{error}");
}

/// Neither a start nor a stop minds one; nor does it need one.
fn in_a_runtime() {
    let server = Server::start();
    let mut feed = Feed::new();
    let runtime = server::runtime();
    runtime.block_on(async {
        let mut writer = started(&feed, &server.url());
        feed.publish(100);
        writer.stop(within(10)).unwrap();
        let lines = S2Storage::read(BASIN, TOKEN, STREAM, &config(&server.url())).unwrap();
        assert!(lines.map(|line| line.unwrap().seq()).eq(1..=100));
    });
    feed.check(&server.records(), 1..=100);
}

fn the_token_is_never_shown() {
    let mut shown = Vec::new();
    let server = Server::start();
    let proxy = Proxy::to(server.port());
    let mut feed = Feed::new();
    // What the SDK tells has the words of the server, so here that does not say what it was given.
    let heard = log::listen(|| {
        let mut writer = started(&feed, &proxy.url());
        feed.publish(100);
        until("the writer gets on", || status(&writer).durable >= 100);
        let stub = Stub::answering(401, "authn", "not welcome");
        proxy.cut_and_lead_to(stub.port);
        feed.publish(1);
        until("it ends", || !writer.is_running());
        shown.push(chain(&writer.stop(within(10)).unwrap_err()));
    });
    proxy.cut_and_lead_to(server.port());
    let mut writer = started(&feed, &proxy.url());
    shown.push(format!("{writer:?} {writer:#?}"));
    for (status_code, code) in [(503, "unavailable"), (401, "authn")] {
        let stub = Stub::answering(status_code, code, "{authorization} is not welcome");
        proxy.cut_and_lead_to(stub.port);
        feed.publish(1);
        let is_told =
            |error: String| error.contains(code) && error.contains("(token not shown) is not welcome");
        until("it is refused", || status(&writer).last_error.is_some_and(is_told));
        shown.push(format!("{:?}", status(&writer)));
        let error = self::writer(&feed, &stub.url()).start().unwrap_err();
        assert!(error.to_string().contains("(token not shown) is not welcome"), "{error}");
        shown.push(chain(&error));
        shown.push(chain(&S2Storage::read(BASIN, TOKEN, STREAM, &config(&stub.url())).unwrap_err()));
    }
    shown.push(chain(&writer.stop(within(10)).unwrap_err()));
    shown.push(format!("{writer:?}"));
    let (storage, _) = S2Storage::open(&feed.stream, BASIN, TOKEN, STREAM, config(&server.url())).unwrap();
    shown.push(format!("{storage:?} {storage:#?}"));
    let lines = S2Storage::read(BASIN, TOKEN, STREAM, &config(&server.url())).unwrap();
    shown.push(format!("{lines:?} {lines:#?}"));
    for text in &shown {
        assert!(!text.contains(TOKEN), "{text}");
    }
    assert!(heard.with_token.is_empty(), "{:#?}", heard.with_token);
    for target in ["h2::client", "hyper_util::client::legacy::pool", "s2_sdk::api"] {
        assert!(heard.targets.contains(target), "{target} is not in {:?}", heard.targets);
    }
    assert_eq!(heard.targets.contains("lapwing::storage"), cfg!(feature = "tracing"));
}
