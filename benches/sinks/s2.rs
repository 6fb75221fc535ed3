//! The S2 sink beside the bare SDK: the same records, in the same batches, to the same server, which is optimized, stores on the local disk, and
//! listens on the loopback address. The contestants run in turns, each round into a stream of its own.

#[allow(dead_code)] // each of its users uses a part
#[path = "../../tests/s2/server.rs"]
mod server;

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

use lapwing::event::{Category, Event, Source, SourceKind};
use lapwing::storage::{S2Config, S2StorageWriter};
use lapwing::stream::{Config, EventStream, Handle};
use s2_sdk::S2Stream;
use s2_sdk::append_session::AppendSessionConfig;
use s2_sdk::batching::{BatchLimits, BatchingConfig};
use s2_sdk::producer::ProducerConfig;
use s2_sdk::types::{AppendInput, AppendRecord, AppendRecordBatch, Header};
use server::{BASIN, Server, TOKEN, client, runtime};
use tokio::sync::mpsc::unbounded_channel;

use crate::harness::{Limit, median, ratio, verdict};

/// The default of both, in the writer's case; the SDK's own is given the same.
const BATCH: usize = 50;
const LINGER: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);

/// Measures, prints a table, and returns the line for each goal. Takes a minute and a half; where the server was not built before, ten more.
pub fn goals() -> Vec<String> {
    let mut bench = Bench { server: Server::release(), streams: 0 };
    println!("\n{:<58}{:>10}{:>10}{:>8}", "S2 on loopback", "lapwing", "bare SDK", "ratio");
    let mut goals = Vec::new();

    const RECORDS: usize = 100_000;
    let (ours, bare) = bench.in_turns(15, |bench| bench.ours(RECORDS), |bench| bench.bare(RECORDS));
    let rate = |times: &[f64]| RECORDS as f64 / median(times);
    let faster = ratio(&bare, &ours);
    row("records/s, of 300 bytes, 50 a batch", rate(&ours), rate(&bare), faster);
    goals.push(verdict("S2 / bare SDK, records/s", faster, Limit::AtLeast(0.95), 2));

    for (name, goal, linger, rounds) in [
        ("p50 of acknowledgement at 100 records/s, ms", "S2 / bare SDK, p50 at 100 records/s", LINGER, 6),
        ("the same, no record lingers", "S2 / bare SDK, p50, no linger", Duration::ZERO, 6),
    ] {
        let ours = |bench: &mut Bench| median(&bench.our_delays(300, linger));
        let (ours, bare) = bench.in_turns(rounds, ours, |bench| median(&bench.bare_delays(300, linger)));
        let slower = ratio(&ours, &bare);
        row(name, median(&ours) * 1e3, median(&bare) * 1e3, slower);
        goals.push(verdict(goal, slower, Limit::AtMost(1.1), 2));
    }
    goals
}

/// Each contestant once, and little of it, with the server of the tests.
pub fn once() {
    let mut bench = Bench { server: Server::start(), streams: 0 };
    bench.ours(500);
    bench.bare(500);
    bench.our_delays(5, LINGER);
    bench.bare_delays(5, LINGER);
}

fn row(name: &str, ours: f64, bare: f64, ratio: f64) {
    println!("  {name:<56}{ours:>10.1}{bare:>10.1}{ratio:>8.2}");
}

struct Bench {
    server: Server,
    streams: u32,
}

impl Bench {
    /// Runs both, again and again, every other time the other way round.
    fn in_turns(
        &mut self,
        rounds: usize,
        mut ours: impl FnMut(&mut Self) -> f64,
        mut bare: impl FnMut(&mut Self) -> f64,
    ) -> (Vec<f64>, Vec<f64>) {
        let (mut of_ours, mut of_bare) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            if round % 2 == 0 {
                of_ours.push(ours(self));
            }
            of_bare.push(bare(self));
            if round % 2 == 1 {
                of_ours.push(ours(self));
            }
        }
        (of_ours, of_bare)
    }

    fn new_stream(&mut self) -> String {
        self.streams += 1;
        let name = format!("stream-{}", self.streams);
        self.server.create_stream(&name);
        name
    }

    /// A started writer, which has had a batch acknowledged.
    fn writer(&mut self, stream: &Handle, linger: Duration) -> S2StorageWriter {
        let name = self.new_stream();
        let config = S2Config::new().endpoint(self.server.url()).linger(linger);
        let mut writer = S2StorageWriter::new(stream, BASIN, TOKEN, &name, config).unwrap();
        writer.start().unwrap();
        writer
    }

    /// The SDK's stream; to be called in a runtime.
    fn sdk_stream(&mut self) -> impl FnOnce() -> S2Stream + use<> {
        let (name, url) = (self.new_stream(), self.server.url());
        move || client(&url).basin(BASIN.parse().unwrap()).stream(name.parse().unwrap())
    }

    /// Seconds from when the first one is published until the last one is acknowledged.
    fn ours(&mut self, records: usize) -> f64 {
        let (stream, event) = (stream(), line());
        let mut writer = self.writer(&stream, LINGER);
        (0..BATCH).for_each(|_| _ = stream.publish_json(&event).unwrap());
        await_durable(&writer, BATCH as u64);
        let start = Instant::now();
        (0..records).for_each(|_| _ = stream.publish_json(&event).unwrap());
        writer.stop(Instant::now() + 60 * SECOND).unwrap();
        let time = start.elapsed();
        assert_eq!(writer.status().unwrap().get().errors, 0);
        time.as_secs_f64()
    }

    /// The same by the SDK's append session.
    fn bare(&mut self, records: usize) -> f64 {
        let stream = self.sdk_stream();
        let envelopes: Vec<_> = (1..=records as u64).map(envelope).collect();
        runtime().block_on(async {
            let session = stream().append_session(AppendSessionConfig::new());
            let input = |seqs: std::ops::Range<usize>| {
                let records = seqs.map(|seq| record(&envelopes[seq], seq as u64 + 1));
                AppendInput::new(AppendRecordBatch::try_from_iter(records).unwrap())
            };
            session.submit(input(0..BATCH)).await.unwrap().await.unwrap();
            let start = Instant::now();
            let mut tickets = VecDeque::new();
            for from in (0..records).step_by(BATCH) {
                tickets.push_back(session.submit(input(from..from + BATCH)).await.unwrap());
            }
            for ticket in tickets {
                ticket.await.unwrap();
            }
            let time = start.elapsed();
            session.close().await.unwrap();
            time.as_secs_f64()
        })
    }

    /// Seconds until each record is acknowledged, of which one comes every 10 ms.
    fn our_delays(&mut self, records: u64, linger: Duration) -> Vec<f64> {
        let (stream, event) = (stream(), line());
        let mut writer = self.writer(&stream, linger);
        stream.publish_json(&event).unwrap();
        await_durable(&writer, 1);
        let status = writer.status().unwrap();
        let (mut sent, mut delays) = (VecDeque::<Instant>::new(), Vec::new());
        let start = Instant::now();
        while delays.len() < records as usize {
            let now = Instant::now();
            let (published, done) = (stream.seq() - 1, status.get().durable - 1);
            while (delays.len() as u64) < done {
                delays.push((now - sent.pop_front().unwrap()).as_secs_f64());
            }
            if published < records && now >= start + published as u32 * SECOND / 100 {
                sent.push_back(Instant::now());
                stream.publish_json(&event).unwrap();
            }
            thread::park_timeout(Duration::from_micros(20));
        }
        writer.stop(Instant::now() + SECOND).unwrap();
        delays
    }

    /// The same by the SDK's producer.
    fn bare_delays(&mut self, records: u64, linger: Duration) -> Vec<f64> {
        let stream = self.sdk_stream();
        runtime().block_on(async {
            let limits = BatchLimits::new().with_max_batch_records(BATCH).unwrap();
            let batching = BatchingConfig::new().with_linger(linger).with_limits(limits);
            let producer = stream().producer(ProducerConfig::new().with_batching(batching));
            producer.submit(record(&envelope(1), 1)).await.unwrap().await.unwrap();
            let (sender, mut delays) = unbounded_channel();
            let start = tokio::time::Instant::now();
            for at in 0..records {
                tokio::time::sleep_until(start + at as u32 * SECOND / 100).await;
                let (envelope, sent, sender) = (envelope(at + 2), Instant::now(), sender.clone());
                let ticket = producer.submit(record(&envelope, at + 2)).await.unwrap();
                tokio::spawn(async move {
                    ticket.await.unwrap();
                    sender.send(sent.elapsed().as_secs_f64()).unwrap();
                });
            }
            drop(sender);
            let mut all = Vec::new();
            while let Some(delay) = delays.recv().await {
                all.push(delay);
            }
            assert_eq!(all.len(), records as usize);
            producer.close().await.unwrap();
            all
        })
    }
}

/// It holds all that is published in a round.
fn stream() -> EventStream {
    Config::new().events(1 << 17).inline_bytes(512).build().unwrap()
}

/// An event of 300 bytes.
fn line() -> Vec<u8> {
    let event = |text: &str| {
        let source = Source::new(SourceKind::Cdp).event("Runtime.consoleAPICalled");
        let event = Event::new("console_log", Category::Console, source).ts(1_795_346_234_966_162);
        event.data_json(&format!(r#"{{"message":"{text}"}}"#)).unwrap().to_json()
    };
    event(&"x".repeat(300 - event("").len()))
}

fn envelope(seq: u64) -> Vec<u8> {
    [format!(r#"{{"seq":{seq},"event":"#).as_bytes(), &line(), b"}"].concat()
}

fn record(envelope: &[u8], seq: u64) -> AppendRecord {
    let headers = [Header::new("epoch", "0123456789abcdef"), Header::new("seq", seq.to_string())];
    AppendRecord::new(envelope.to_vec()).unwrap().with_headers(headers).unwrap()
}

fn await_durable(writer: &S2StorageWriter, seq: u64) {
    let status = writer.status().unwrap();
    while status.get().durable < seq {
        thread::park_timeout(Duration::from_micros(100));
    }
}
