//! The event stream under many threads. Every event says who published it and as which of its events, and all
//! of its JSON follows from that: no tear can hide. Every reader gives an account, exact to the event, and its
//! events are compared with the numbers that their publishers were given.
#![cfg(feature = "std")]

#[allow(dead_code)] // each of its users uses a part
mod bus;

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;

use bus::assert_truncated_form;
use bus::tasks::block_on;
use lapwing::event::{Category, Event};
use lapwing::stream::{
    BatchError, CategorySet, Config, EventStream, Handle, PublishError, RawEnvelope, ReadError, ReadResult,
    Reader, TryReadError,
};

const PUBLISHERS: usize = 4;

/// Which of a publisher's events this is.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Origin {
    publisher: usize,
    count: u64,
}

impl Origin {
    /// The time of its event, which tells it.
    fn ts(self) -> u64 {
        (self.publisher as u64) << 40 | (self.count + 1)
    }

    fn of_ts(ts: u64) -> Self {
        Self { publisher: (ts >> 40) as usize, count: (ts & ((1 << 40) - 1)) - 1 }
    }

    /// Reads nothing but the time.
    fn of_json(json: &[u8]) -> Self {
        let digits = json.strip_prefix(b"{\"ts\":").expect("it begins with the time");
        let len = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let origin = Self::of_ts(std::str::from_utf8(&digits[..len]).unwrap().parse().unwrap());
        assert!(origin.publisher < PUBLISHERS, "a tear in {origin:?}");
        origin
    }

    /// Many bits that depend on all of it.
    fn mix(self) -> u64 {
        (self.ts() ^ 0x5bd1_e995).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
    }

    fn category(self) -> &'static str {
        ["console", "network", "page", "api", "system", "weather"][(self.mix() >> 30) as usize % 6]
    }

    /// Its JSON with `text` in the data.
    fn json(self, text: &[u8], out: &mut Vec<u8>) {
        out.clear();
        let (ts, category, Self { publisher, count }, mix) = (self.ts(), self.category(), self, self.mix());
        write!(
            out,
            r#"{{"ts":{ts},"type":"count","category":"{category}","source":{{"kind":"local_process"}},"#
        )
        .unwrap();
        write!(out, r#""data":{{"publisher":{publisher},"count":{count},"check":{mix},"text":""#).unwrap();
        out.extend_from_slice(text);
        write!(out, r#"","end":[{count},{mix}]}}}}"#).unwrap();
    }
}

/// What a reader has seen.
struct Account {
    /// The last seq that is accounted for.
    last: u64,
    delivered: u64,
    dropped: Vec<(u64, u64)>,
    /// By publisher: the count that comes next.
    next: [u64; PUBLISHERS],
    /// Seq and time of each event.
    events: Vec<(u64, u64)>,
    shortened: u64,
    /// Whether it gets all categories.
    is_filtered: bool,
}

impl Account {
    fn new(is_filtered: bool) -> Self {
        let (dropped, events) = (Vec::new(), Vec::new());
        Self { last: 0, delivered: 0, dropped, next: [0; PUBLISHERS], events, shortened: 0, is_filtered }
    }

    fn event(&mut self, seq: u64, origin: Origin) {
        if self.is_filtered {
            assert!(seq > self.last, "{seq} after {}", self.last);
        } else {
            assert_eq!(seq, self.last + 1, "a hole, or an overlap");
        }
        self.last = seq;
        self.delivered += 1;
        let next = &mut self.next[origin.publisher];
        assert!(origin.count >= *next, "{origin:?} came after {next}: not in its publisher's order");
        *next = origin.count + 1;
        self.events.push((seq, origin.ts()));
    }

    fn drop(&mut self, from: u64, to: u64) {
        if self.is_filtered {
            assert!(self.last < from && from <= to);
        } else {
            assert_eq!(from, self.last + 1, "a hole, or an overlap");
        }
        self.last = to;
        self.dropped.push((from, to));
    }

    fn lost(&self) -> u64 {
        self.dropped.iter().map(|(from, to)| to - from + 1).sum()
    }

    /// The end of a stream whose events, by their seq, had the times `by_seq`; 0 where that is not known, or
    /// where there is none.
    fn close(&self, name: &str, by_seq: &[u64], wanted: CategorySet) {
        let newest = by_seq.len() as u64 - 1;
        println!(
            "{name}: delivered {}, of which {} truncated, dropped {} in {} pieces",
            self.delivered,
            self.shortened,
            self.lost(),
            self.dropped.len()
        );
        for &(seq, ts) in &self.events {
            let published = by_seq[seq as usize];
            assert!(published == 0 || published == ts, "{name}: seq {seq} is another event");
        }
        if !self.is_filtered {
            assert_eq!(self.last, newest, "{name} stopped before the end");
            assert_eq!(self.delivered + self.lost(), newest, "{name}");
            return;
        }
        // What it neither got nor lost must be what it does not want.
        let mut is_told = vec![false; by_seq.len()];
        self.events.iter().for_each(|&(seq, _)| is_told[seq as usize] = true);
        self.dropped.iter().for_each(|&(from, to)| is_told[from as usize..=to as usize].fill(true));
        for (seq, (&ts, is_told)) in by_seq.iter().zip(is_told).enumerate().skip(1) {
            if ts != 0 {
                let is_wanted = wanted.contains(&Origin::of_ts(ts).category().into());
                assert!(is_told || !is_wanted, "{name} missed seq {seq}");
            }
        }
        let unwanted =
            self.events.iter().filter(|(_, ts)| !wanted.contains(&Origin::of_ts(*ts).category().into()));
        assert_eq!(unwanted.count(), 0, "{name}");
    }
}

/// How a reader reads.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Blocking,
    Polling,
    Batches,
    Task,
}

/// Reads to the end, with `check` for what each event is. `is_slow` waits now and then until it is lapped.
fn read_all(
    mut reader: Reader,
    way: Way,
    is_slow: bool,
    mut account: Account,
    shared: &Shared,
    check: impl Fn(&mut RawEnvelope<'_>) -> Origin,
) -> Account {
    let _at = Leave(&shared.at);
    let capacity = reader.handle().events();
    let mut reads = 0u64;
    let take = |account: &mut Account, read: ReadResult<RawEnvelope<'_>>| match read {
        ReadResult::Envelope(mut envelope) => {
            let origin = check(&mut envelope);
            assert_eq!(envelope.category().as_str(), origin.category());
            account.shortened += u64::from(envelope.truncated());
            account.event(envelope.seq(), origin);
        }
        ReadResult::Dropped { from, to } => account.drop(from, to),
    };
    loop {
        reads += 1;
        while is_slow
            && reads.is_multiple_of(100)
            && reader.lag() <= capacity
            && !shared.is_done.load(Acquire)
        {
            thread::yield_now();
        }
        let end = match way {
            Way::Blocking => reader.read().map(|read| take(&mut account, read)),
            Way::Task => block_on(reader.read_async()).map(|read| take(&mut account, read)),
            Way::Polling => match reader.try_read() {
                Ok(read) => {
                    take(&mut account, read);
                    Ok(())
                }
                Err(TryReadError::Empty) => {
                    thread::yield_now();
                    Ok(())
                }
                Err(TryReadError::Closed) => Err(ReadError::Closed),
            },
            Way::Batches => {
                let before = account.delivered;
                match reader.read_batch(32, |envelope| take(&mut account, ReadResult::Envelope(envelope))) {
                    Ok(ReadResult::Envelope(count)) => {
                        assert_eq!(account.delivered - before, count as u64);
                        Ok(())
                    }
                    Ok(ReadResult::Dropped { from, to }) => {
                        account.drop(from, to);
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
            }
        };
        if !is_slow && !account.is_filtered {
            shared.at.store(account.last, Relaxed);
        }
        match end {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error, ReadError::Closed);
                let all = reader.handle().readers();
                let of = |name: &str| all.iter().find(|status| &*status.name == name).cloned();
                let status = of(&format!("{way:?} {is_slow}")).expect("it is listed under its name");
                assert_eq!((status.delivered, status.dropped), (account.delivered, account.lost()));
                assert_eq!((status.position, status.lag), (reader.handle().seq(), 0));
                return account;
            }
        }
    }
}

struct Shared {
    /// Where the quick readers are, for publishers that go at their pace.
    at: AtomicU64,
    is_done: AtomicBool,
}

/// A reader that is gone holds no publisher up.
struct Leave<'a>(&'a AtomicU64);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.store(u64::MAX / 2, Relaxed);
    }
}

/// What a publisher has done.
#[derive(Default)]
struct Log {
    /// By count: the seq, or 0 if it is not known.
    seqs: Vec<u64>,
    bytes: u64,
    truncated: u64,
    refused: u64,
}

impl Log {
    /// The next event has this number, above those before.
    fn push(&mut self, seq: u64) {
        assert!(seq > self.seqs.iter().rev().copied().find(|&seq| seq != 0).unwrap_or(0));
        self.seqs.push(seq);
    }
}

fn parsed(json: &[u8]) -> Event<'_> {
    serde_json::from_slice(json).unwrap()
}

/// Publishes all the events of one publisher: as `Event` and as JSON in turns, and in batches if there are to
/// be any; flat out, and at the pace of a reader, in longer turns.
fn publish_all(
    stream: &EventStream,
    publisher: usize,
    events: u64,
    batches: bool,
    shared: &Shared,
    json: impl Fn(Origin, &mut Vec<u8>),
) -> Log {
    let mut log = Log::default();
    let mut jsons = [const { Vec::new() }; 8];
    while (log.seqs.len() as u64) < events {
        let count = log.seqs.len() as u64;
        while count >> 12 & 3 == 3 && stream.seq() > shared.at.load(Relaxed) + stream.events() / 2 {
            thread::yield_now();
        }
        if batches && count & 64 != 0 {
            let n = (1 + count % 8).min(events - count) as usize;
            for (at, out) in jsons[..n].iter_mut().enumerate() {
                json(Origin { publisher, count: count + at as u64 }, out);
            }
            let batch = jsons[..n].iter().map(|json| parsed(json)).collect::<Vec<_>>();
            match stream.publish_batch(&batch) {
                Ok(result) => {
                    assert_eq!(result.published, n);
                    log.truncated += result.truncated as u64;
                    log.bytes += jsons[..n].iter().map(|json| json.len() as u64).sum::<u64>();
                    // More claims than events, or more than one claim: whose number is whose is not told.
                    let is_known = result.seqs.clone().count() == n && n as u64 <= stream.events();
                    result.seqs.take(n).for_each(|seq| {
                        if is_known {
                            log.push(seq)
                        }
                    });
                    log.seqs.resize((count as usize) + n, 0);
                }
                Err(BatchError { published, error: PublishError::Stalled { .. }, .. }) => {
                    log.refused += 1;
                    log.bytes += jsons[..published].iter().map(|json| json.len() as u64).sum::<u64>();
                    log.seqs.resize(count as usize + published, 0);
                }
                Err(error) => panic!("{error}"),
            }
            continue;
        }
        let out = &mut jsons[0];
        json(Origin { publisher, count }, out);
        let result =
            if count.is_multiple_of(2) { stream.publish_json(out) } else { stream.publish(&parsed(out)) };
        match result {
            Ok(lapwing::stream::Publish::Published { seq, truncated }) => {
                log.push(seq);
                log.bytes += out.len() as u64;
                log.truncated += u64::from(truncated);
            }
            // Another publisher can be descheduled where this one would write, but not for ever.
            Err(PublishError::Stalled { .. }) => log.refused += 1,
            other => panic!("{other:?}"),
        }
    }
    log
}

/// Runs publishers and readers on threads of their own, and holds the accounts against each other.
fn stress(
    stream: EventStream,
    readers: &[(Way, bool, CategorySet)],
    events: u64,
    batches: bool,
    json: impl Fn(Origin, &mut Vec<u8>) + Sync,
    check: impl Fn(&mut RawEnvelope<'_>) -> Origin + Sync,
) -> Vec<Account> {
    let shared = Shared { at: AtomicU64::new(0), is_done: AtomicBool::new(false) };
    let name = |way: Way, is_slow: bool| format!("{way:?} {is_slow}");
    let (logs, accounts) = thread::scope(|scope| {
        let (stream, shared, json, check) = (&stream, &shared, &json, &check);
        let readers = readers.iter().map(|&(way, is_slow, categories)| {
            let mut reader = stream.reader_from_oldest().named(&name(way, is_slow));
            reader.set_categories(categories);
            let account = Account::new(categories != CategorySet::ALL);
            scope.spawn(move || read_all(reader, way, is_slow, account, shared, check))
        });
        let readers = readers.collect::<Vec<_>>();
        let publishers = [0, 1, 2, 3].map(|publisher| {
            scope.spawn(move || publish_all(stream, publisher, events, batches, shared, json))
        });
        // Closed before any of them is found to have panicked, so that the others come to their end.
        let logs = publishers.map(|publisher| publisher.join());
        shared.is_done.store(true, Release);
        assert!(stream.close());
        let logs = logs.map(Result::unwrap);
        (logs, readers.into_iter().map(|reader| reader.join().unwrap()).collect::<Vec<_>>())
    });

    let (stats, newest) = (stream.stats(), stream.seq());
    println!("newest {newest}, {stats:?}");
    let total = PUBLISHERS as u64 * events;
    assert_eq!(newest, total + stats.abandoned, "every seq is an event, or was given up");
    assert_eq!(stats.published() + stats.overrun, total);
    let sum = |of: fn(&Log) -> u64| logs.iter().map(of).sum::<u64>();
    assert_eq!(stats.refused, sum(|log| log.refused));
    let (truncated, overrun) = (sum(|log| log.truncated), stats.overrun);
    assert!((truncated.saturating_sub(overrun)..=truncated).contains(&stats.truncated()), "{truncated}");
    assert!(stats.bytes() <= sum(|log| log.bytes));
    if overrun == 0 {
        let mut by_category = std::collections::BTreeMap::new();
        for publisher in 0..PUBLISHERS {
            for count in 0..events {
                *by_category.entry(Origin { publisher, count }.category()).or_insert(0) += 1;
            }
        }
        for (category, count) in by_category {
            assert_eq!(stats.published_in(&category.into()), count, "{category}");
        }
        assert!(truncated > 0 || stats.bytes() == sum(|log| log.bytes));
    }

    let mut by_seq = vec![0; newest as usize + 1];
    for (publisher, log) in logs.iter().enumerate() {
        for (&seq, count) in log.seqs.iter().zip(0..).filter(|(seq, _)| **seq != 0) {
            assert_eq!(by_seq[seq as usize], 0, "{seq} was given twice");
            by_seq[seq as usize] = Origin { publisher, count }.ts();
        }
    }
    for (account, &(way, is_slow, categories)) in accounts.iter().zip(readers) {
        account.close(&name(way, is_slow), &by_seq, categories);
        assert!(!is_slow || account.lost() > 0, "the slow reader was lapped");
    }
    accounts
}

/// Small events, each in its slot.
#[test]
fn small_events() {
    let events = if cfg!(debug_assertions) { 20_000 } else { 1_000_000 };
    let stream = Config::new().events(1000).inline_bytes(256).large_bytes(0).build().unwrap();
    let json = |origin: Origin, out: &mut Vec<u8>| origin.json(&[], out);
    let check = |envelope: &mut RawEnvelope<'_>| {
        let origin = Origin::of_json(envelope.event_json());
        let mut expected = [0; 300];
        let mut out = Vec::from(&expected[..0]);
        origin.json(&[], &mut out);
        assert_eq!(envelope.event_json(), out, "a tear in {origin:?}");
        // The envelope around it, and the event still the same.
        let seq = envelope.seq();
        let len = {
            let mut head = &mut expected[..];
            write!(head, "{{\"seq\":{seq},\"event\":").unwrap();
            300 - head.len()
        };
        let json = envelope.json();
        assert!(json.starts_with(&expected[..len]) && json[len..].starts_with(&out) && json.ends_with(b"}}"));
        assert_eq!(json.len(), len + out.len() + 1);
        assert!(!envelope.truncated());
        origin
    };
    let readers = [
        (Way::Blocking, false, CategorySet::ALL),
        (Way::Batches, false, CategorySet::ALL),
        (Way::Polling, true, CategorySet::ALL),
    ];
    let accounts = stress(stream, &readers, events, false, json, check);
    assert!(accounts[0].delivered > events / 10, "it has seen much of it");
}

/// Small and large events in turns, some of them larger than an envelope may be.
fn mixed(slots: u64, pages: usize, events: u64) {
    const INLINE: usize = 256;
    const LIMIT: usize = 20_000;
    // Where two pieces of it begin, they differ.
    let letters = (0..60_000u64).map(|at| b'a' + ((at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % 26) as u8);
    let letters = letters.collect::<Vec<_>>();
    let json = |origin: Origin, out: &mut Vec<u8>| {
        let mix = origin.mix();
        let size = mix / 64 % 1000;
        let len = match mix % 64 {
            0 => 20_000 + 10 * size,
            1..4 => 10 * size,
            4..16 => 4 * size,
            _ => size % 60,
        };
        let from = (mix >> 10) as usize % 30_000;
        origin.json(&letters[from..from + len as usize], out);
    };
    let check = |envelope: &mut RawEnvelope<'_>| {
        let origin = Origin::of_json(envelope.event_json());
        let mut whole = Vec::new();
        json(origin, &mut whole);
        let form = envelope.event_json();
        if envelope.truncated() {
            assert!(whole.len() > INLINE, "a small event is truncated: {origin:?}");
            assert!(form.len() < whole.len() + 20);
            assert_truncated_form(&whole, form);
        } else {
            assert!(form == whole, "a tear in {origin:?}");
        }
        assert!(envelope.json().len() <= LIMIT);
        origin
    };
    let config = Config::new().events(slots).inline_bytes(INLINE).large_bytes(pages * 4096);
    let stream = config.max_envelope_bytes(LIMIT).build().unwrap();
    let some = CategorySet::NONE.with(&Category::Network).with(&Category::from("any other"));
    let readers = [
        (Way::Task, false, CategorySet::ALL),
        (Way::Blocking, false, CategorySet::ALL),
        (Way::Polling, true, CategorySet::ALL),
        (Way::Batches, false, some),
    ];
    let accounts = stress(stream, &readers, events, true, json, check);
    let [quick, .., filtered] = &accounts[..] else { panic!("four readers") };
    assert!(quick.shortened > 0 && quick.delivered > quick.shortened);
    assert!(filtered.delivered > 0);
}

#[test]
fn small_and_large_events() {
    mixed(64, 16, if cfg!(debug_assertions) { 5_000 } else { 150_000 });
}

/// So few slots and pages that publishers meet in them all the time.
#[test]
fn three_slots_and_five_pages() {
    mixed(3, 5, if cfg!(debug_assertions) { 5_000 } else { 100_000 });
}

/// Real events, from four threads to four readers, none of them lost and each byte the same.
#[test]
fn the_recording() {
    let path = match std::env::var_os("LAPWING_TELEMETRY") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/telemetry.ndjson"),
    };
    let recording =
        std::fs::read(&path).unwrap_or_else(|e| panic!("the recorded events in {}: {e}", path.display()));
    let lines = recording.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).collect::<Vec<_>>();
    assert!(lines.len() > 900, "only {} events in {}", lines.len(), path.display());
    // Exactly as much as they take, so that the next one would displace the first.
    let pages = lines.iter().filter(|line| line.len() > 1024).map(|line| line.len().div_ceil(4032));
    let largest = lines.iter().map(|line| line.len()).max().unwrap();
    let stream = Config::new()
        .events(lines.len() as u64)
        .large_bytes(4096 * pages.sum::<usize>())
        .max_envelope_bytes(largest + 40)
        .build()
        .unwrap();
    let handle: Handle = stream.handle();
    let (seqs, read) = thread::scope(|scope| {
        let readers = [Way::Blocking, Way::Polling, Way::Batches, Way::Task].map(|way| {
            let reader = handle.reader_from_oldest();
            let count = lines.len();
            scope.spawn(move || read_whole(reader, way, count))
        });
        let publishers = [0, 1, 2, 3].map(|thread| {
            let (stream, lines) = (&stream, &lines);
            scope.spawn(move || {
                // By one way and by the other.
                let publish = |(at, line): (usize, &&[u8])| {
                    let result = match at % 2 {
                        0 => stream.publish_json(line),
                        _ => stream.publish(&parsed(line)),
                    };
                    result.unwrap().seq().expect("all is captured")
                };
                lines.iter().skip(thread).step_by(4).enumerate().map(publish).collect::<Vec<_>>()
            })
        });
        (publishers.map(|thread| thread.join().unwrap()), readers.map(|thread| thread.join().unwrap()))
    });
    let mut by_seq = vec![None; lines.len() + 1];
    for (thread, seqs) in seqs.iter().enumerate() {
        assert!(seqs.is_sorted(), "a thread's events keep their order");
        for (&seq, &line) in seqs.iter().zip(lines.iter().skip(thread).step_by(4)) {
            assert_eq!(by_seq[seq as usize].replace(line), None, "{seq} was given twice");
        }
    }
    for read in &read {
        assert_eq!(read.len(), lines.len());
        for (json, seq) in read.iter().zip(1..) {
            let line = by_seq[seq].unwrap();
            assert!(json == line, "seq {seq} is not {}", String::from_utf8_lossy(line));
        }
    }
    let stats = stream.stats();
    let bytes = lines.iter().map(|line| line.len() as u64).sum::<u64>();
    assert_eq!(
        (stats.published(), stats.bytes(), stats.largest()),
        (lines.len() as u64, bytes, largest as u64)
    );
    println!("{} events, {bytes} bytes of {}", lines.len(), path.display());
}

/// So many events, of which none may be lost, or come in short form.
fn read_whole(mut reader: Reader, way: Way, count: usize) -> Vec<Vec<u8>> {
    let mut events = Vec::new();
    let take = |events: &mut Vec<Vec<u8>>, envelope: RawEnvelope<'_>| {
        events.push(envelope.event_json().to_vec());
        assert_eq!(envelope.seq(), events.len() as u64);
        assert_eq!(envelope.truncated(), envelope.event().unwrap().truncated);
    };
    const WHOLE: &str = "nothing is lost";
    while events.len() < count {
        match way {
            Way::Blocking => take(&mut events, reader.read().unwrap().envelope().expect(WHOLE)),
            Way::Task => take(&mut events, block_on(reader.read_async()).unwrap().envelope().expect(WHOLE)),
            Way::Polling => match reader.try_read() {
                Ok(read) => take(&mut events, read.envelope().expect(WHOLE)),
                Err(error) => {
                    assert_eq!(error, TryReadError::Empty);
                    thread::yield_now();
                }
            },
            Way::Batches => {
                let read = reader.read_batch(50, |envelope| take(&mut events, envelope)).unwrap();
                assert_eq!(read.dropped(), 0);
            }
        }
    }
    events
}
