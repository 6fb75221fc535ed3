//! `StorageWriter` before storages that do as the tests say: what it promises, whatever a storage does. What the
//! reference does is quoted line by line in the first part.
#![cfg(feature = "std")]

#[allow(dead_code)] // each of its users uses a part
mod bus;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bus::{of, published, sized, take};
use lapwing::event::{Category, Envelope, Event, Source, SourceKind};
use lapwing::storage::{Batch, CloseError, Limits, RunError, Status, Storage, StorageError, StorageWriter};
use lapwing::stream::{Config, EventStream, PositionError};
use serde::Deserialize;

// ---- A storage that does as it is told.

type Outcome = Result<(), StorageError>;

/// A line that a storage holds, and its seq.
type Kept = (u64, String);

type Appending = dyn FnMut(&mut Vec<Kept>, &Batch) -> Outcome + Send;
type Closing = dyn FnMut(&mut Vec<Kept>, Instant) -> Outcome + Send;

struct Scripted {
    kept: Vec<Kept>,
    /// Asked before a batch is kept. What it does to what is kept stays, whatever it returns.
    append: Box<Appending>,
    idle: Box<dyn FnMut() -> Result<Option<Instant>, StorageError> + Send>,
    durable: Box<dyn Fn() -> Option<u64> + Send>,
    close: Box<Closing>,
    limits: Limits,
}

impl Scripted {
    fn new(append: impl FnMut(&mut Vec<Kept>, &Batch) -> Outcome + Send + 'static) -> Self {
        Self {
            kept: Vec::new(),
            append: Box::new(append),
            idle: Box::new(|| Ok(None)),
            durable: Box::new(|| None),
            close: Box::new(|_, _| Ok(())),
            limits: Limits::default(),
        }
    }

    /// One that takes everything.
    fn willing() -> Self {
        Self::new(|_, _| Ok(()))
    }

    fn on_idle(self, idle: impl FnMut() -> Result<Option<Instant>, StorageError> + Send + 'static) -> Self {
        Self { idle: Box::new(idle), ..self }
    }

    fn on_close(self, close: impl FnMut(&mut Vec<Kept>, Instant) -> Outcome + Send + 'static) -> Self {
        Self { close: Box::new(close), ..self }
    }

    fn durable_as(self, durable: &Arc<AtomicU64>) -> Self {
        let durable = Arc::clone(durable);
        Self { durable: Box::new(move || Some(durable.load(SeqCst))), ..self }
    }

    /// At most so many envelopes a batch.
    fn batches_of(self, envelopes: usize) -> Self {
        Self { limits: Limits { envelopes, ..self.limits }, ..self }
    }

    fn seqs(&self) -> Vec<u64> {
        self.kept.iter().map(|(seq, _)| *seq).collect()
    }
}

fn keep(kept: &mut Vec<Kept>, batch: &Batch) {
    let lines = batch.iter().map(|entry| (entry.seq, String::from_utf8(entry.json.to_vec()).unwrap()));
    kept.extend(lines);
}

impl Storage for Scripted {
    fn append(&mut self, batch: &Batch) -> Outcome {
        assert!(!batch.is_empty() && batch.len() == batch.iter().len());
        (self.append)(&mut self.kept, batch)?;
        keep(&mut self.kept, batch);
        Ok(())
    }

    fn idle(&mut self) -> Result<Option<Instant>, StorageError> {
        (self.idle)()
    }

    fn durable(&self) -> Option<u64> {
        (self.durable)()
    }

    fn close(&mut self, deadline: Instant) -> Outcome {
        (self.close)(&mut self.kept, deadline)
    }

    fn limits(&self) -> Limits {
        self.limits
    }
}

fn retry<T>(why: &str) -> Result<T, StorageError> {
    Err(StorageError::Retry(why.into()))
}

fn rewind<T>(after: u64) -> Result<T, StorageError> {
    Err(StorageError::Rewind { after, error: "it lost track".into() })
}

/// Fails so many times, and then never.
fn failing(mut times: usize) -> Scripted {
    Scripted::new(move |_, _| match times {
        0 => Ok(()),
        _ => {
            times -= 1;
            retry("no luck")
        }
    })
}

fn stream(events: u64) -> EventStream {
    Config::new().events(events).large_bytes(1 << 16).build().unwrap()
}

/// Publishes so many events, whose `ts` are their seqs, and returns the last one.
fn publish(stream: &EventStream, count: u64) -> u64 {
    for _ in 0..count {
        let seq = stream.seq() + 1;
        assert_eq!(stream.publish(&of("page").ts(seq as i64)), Ok(published(seq)));
    }
    stream.seq()
}

fn in_a_minute() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Returns when it is so.
#[track_caller]
fn until(so: impl Fn() -> bool) {
    let deadline = in_a_minute();
    while !so() {
        assert!(Instant::now() < deadline, "not after a minute");
        thread::yield_now();
    }
}

/// Checks that `kept` has everything after `after` up to `last`, in the order of the seqs: each event that [`publish`]
/// has published, or else a gap's record in its place. Returns the gaps.
#[track_caller]
fn account(kept: &[Kept], after: u64, last: u64) -> Vec<(u64, u64)> {
    #[derive(Deserialize)]
    struct Lost {
        from: u64,
        to: u64,
        count: u64,
    }
    let (mut done, mut gaps) = (after, Vec::new());
    for (seq, line) in kept {
        let Envelope { seq: in_line, event } = serde_json::from_str(line).unwrap();
        assert_eq!(in_line, *seq);
        assert!(*seq > done, "{seq} after {done}");
        if event.r#type == "events_dropped" {
            let Lost { from, to, count } = serde_json::from_str(event.data.unwrap().get()).unwrap();
            assert_eq!((from, to, count), (done + 1, *seq, seq - done), "after {done}");
            assert_eq!(event.category, Category::System);
            gaps.push((from, to));
        } else {
            assert_eq!(*seq, done + 1, "nothing tells of what is missing");
            assert_eq!(*line, line_of(*seq));
        }
        done = *seq;
    }
    assert_eq!(done, last);
    gaps
}

fn line_of(seq: u64) -> String {
    format!(
        r#"{{"seq":{seq},"event":{{"ts":{seq},"type":"note","category":"page","source":{{"kind":"local_process"}}}}}}"#
    )
}

fn lost(gaps: &[(u64, u64)]) -> u64 {
    gaps.iter().map(|(from, to)| to - from + 1).sum()
}

/// Runs a writer until everything is appended. Its stream is closed by that.
fn run_to_the_end(stream: &EventStream, writer: &mut StorageWriter<Scripted>) {
    stream.close();
    writer.run().unwrap();
    assert_eq!((writer.status().get().appended, writer.status().get().lag), (stream.seq(), 0));
}

// ---- What the reference does, and its sixth defect.

/// `StorageWriter` forwards every envelope from the oldest buffered event on.
#[test]
fn it_forwards_every_envelope_from_the_oldest_buffered_event_on() {
    let stream = stream(8);
    publish(&stream, 12);
    let mut writer = StorageWriter::new(&stream, Scripted::willing());
    assert_eq!((writer.status().get().appended, writer.status().get().lag), (4, 8));
    thread::scope(|scope| {
        let run = scope.spawn(|| {
            writer.run().unwrap();
            writer
        });
        for seq in 13..=1000 {
            let status = stream.readers();
            until(|| stream.seq() - stream.readers()[0].position < 8);
            assert_eq!((&*status[0].name, publish(&stream, 1)), ("storage", seq));
        }
        stream.close();
        let writer = run.join().unwrap();
        assert_eq!(account(&writer.storage().kept, 4, 1000), []);
        let Status { appended, durable, errors, retries, dropped, lag, last_error, .. } =
            writer.status().get();
        assert_eq!((appended, durable, errors, retries, dropped, lag), (1000, 0, 0, 0, 0, 0));
        assert_eq!(last_error, None);
    });
}

/// Single use (a second run is an error).
#[test]
fn a_second_run_is_an_error() {
    let stream = stream(8);
    let mut writer = StorageWriter::new(&stream, Scripted::willing());
    writer.canceller().cancel();
    writer.run().unwrap();
    publish(&stream, 3);
    let error = writer.run().unwrap_err();
    assert!(matches!(error, RunError::SecondRun), "{error:?}");
    assert_eq!(error.to_string(), "a storage writer runs once, and this one has run");
    assert_eq!(writer.drain(in_a_minute()).unwrap(), 3, "and nothing else has changed");
}

/// `run` ends with the cancellation.
#[test]
fn the_run_ends_with_the_cancellation() {
    let stream = stream(8);
    for ahead in [true, false] {
        let mut writer = StorageWriter::after(&stream, Scripted::willing(), stream.seq()).unwrap();
        let (status, canceller) = (writer.status(), writer.canceller());
        assert_eq!(format!("{canceller:?}"), "WriterCanceller { cancelled: false }");
        thread::scope(|scope| {
            if ahead {
                canceller.cancel();
            }
            let run = scope.spawn(|| writer.run());
            if !ahead {
                // It is in its run, and waits, or is about to.
                publish(&stream, 2);
                until(|| status.get().lag == 0);
                canceller.clone().cancel();
            }
            run.join().unwrap().unwrap();
        });
        assert_eq!(format!("{canceller:?}"), "WriterCanceller { cancelled: true }");
        let held = publish(&stream, 3);
        assert_eq!(writer.storage().kept.len(), if ahead { 0 } else { 2 }, "cancelled, it takes no more");
        assert_eq!(writer.drain(Instant::now()).unwrap(), held, "but what is left can be drained");
    }
}

/// `drain` reads what is left without waiting …
#[test]
fn drain_reads_what_is_left_without_waiting() {
    let stream = stream(64);
    let mut writer = StorageWriter::new(&stream, Scripted::willing().batches_of(10));
    assert_eq!(writer.drain(in_a_minute()).unwrap(), 0, "nothing");
    publish(&stream, 25);
    assert_eq!(writer.drain(in_a_minute()).unwrap(), 25);
    publish(&stream, 100);
    assert_eq!(writer.drain(in_a_minute()).unwrap(), 125);
    assert_eq!(account(&writer.storage().kept, 0, 125), [(26, 61)]);
    // A stream that is closed has nothing more, and that is no error.
    stream.close();
    assert_eq!(writer.drain(in_a_minute()).unwrap(), 125);
    assert_eq!(writer.status().get().dropped, 36);
}

/// … or until its deadline.
#[test]
fn drain_ends_at_its_deadline() {
    let stream = stream(64);
    // Too much for one look.
    let mut writer = StorageWriter::new(&stream, Scripted::willing().batches_of(10));
    publish(&stream, 25);
    let past = Instant::now();
    for appended in [10, 20] {
        let error = writer.drain(past).unwrap_err();
        assert!(
            matches!(error, RunError::Deadline { appended: a, wanted: 25, error: None } if a == appended),
            "{error:?}"
        );
        let text = format!("at the deadline what is up to seq {appended} of 25 was appended");
        assert_eq!(error.to_string(), text);
    }
    assert_eq!(writer.drain(past).unwrap(), 25);

    // A storage that does not recover.
    let attempts = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&attempts);
    let mut writer = StorageWriter::new(
        &stream,
        Scripted::new(move |_, _| match counted.fetch_add(1, SeqCst) {
            0..5 => retry("no luck"),
            _ => Ok(()),
        }),
    );
    let deadline = Instant::now() + Duration::from_millis(25);
    let error = writer.drain(deadline).unwrap_err();
    assert!(Instant::now() >= deadline);
    assert_eq!(
        error.to_string(),
        "at the deadline what is up to seq 0 of 25 was appended: the storage failed for now: no luck"
    );
    // At once, and if the machine is not slow just then, after 10 ms and at the deadline.
    assert!((1..=3).contains(&attempts.load(SeqCst)), "{attempts:?}");
    // What it had in hand is not lost.
    publish(&stream, 5);
    assert_eq!(writer.drain(in_a_minute()).unwrap(), 30);
    assert_eq!(account(&writer.storage().kept, 0, 30), []);
}

/// `close` flushes and releases.
#[test]
fn close_flushes_and_releases() {
    let stream = stream(64);
    let (durable, mut refusals) = (Arc::new(AtomicU64::new(0)), 3);
    let (flushed, deadline) = (Arc::clone(&durable), in_a_minute());
    let storage = Scripted::willing().durable_as(&durable).on_close(move |kept, given| {
        assert_eq!(given, deadline);
        if refusals > 0 {
            refusals -= 1;
            return retry("busy");
        }
        flushed.store(kept.last().unwrap().0, SeqCst);
        Ok(())
    });
    publish(&stream, 5);
    let mut writer = StorageWriter::new(&stream, storage);
    let status = writer.status();
    writer.drain(deadline).unwrap();
    assert_eq!((status.get().appended, status.get().durable), (5, 0));
    publish(&stream, 2);
    assert_eq!(stream.readers().len(), 1);
    let storage = writer.close(deadline).unwrap();
    assert_eq!(storage.seqs(), [1, 2, 3, 4, 5], "what was not drained is not flushed");
    assert_eq!(stream.readers().len(), 0, "its reader is gone");
    let Status { appended, durable, errors, retries, lag, .. } = status.get();
    assert_eq!((appended, durable, errors, retries, lag), (5, 5, 3, 3, 2), "its status is not");
}

#[test]
fn close_ends_at_its_deadline() {
    let stream = stream(64);
    publish(&stream, 5);
    let durable = Arc::new(AtomicU64::new(2));
    let fatal = |_: &mut Vec<Kept>, _| Err(StorageError::Fatal("it is gone".into()));
    let storages = [
        (Scripted::willing().on_close(|_, _| retry("busy")), "the storage failed for now: busy", 5),
        (Scripted::willing().on_close(fatal), "the storage failed for good: it is gone", 5),
        // It takes back everything, again and again …
        (
            Scripted::willing().on_close(|kept, _| {
                kept.truncate(2);
                rewind(2)
            }),
            "the storage holds what is up to seq 2: it lost track",
            5,
        ),
        // … or nothing, and fails.
        (Scripted::willing().on_close(|_, _| rewind(5)), "the storage holds what is up to seq 5: it lost", 5),
    ];
    for (storage, why, wanted) in storages {
        let mut writer = StorageWriter::new(&stream, storage.durable_as(&durable).batches_of(1));
        writer.drain(in_a_minute()).unwrap();
        let error = writer.close(Instant::now() + Duration::from_millis(30)).map(drop).unwrap_err();
        let CloseError { appended, durable, .. } = error;
        assert!((2..=wanted).contains(&appended) && durable == 2, "{error}");
        let text = format!("closed with everything up to seq {appended} appended, and up to 2 durable: ");
        assert!(error.to_string().starts_with(&text) && error.to_string().contains(why), "{error}");
        assert!(std::error::Error::source(&error).is_some());
    }
}

/// It takes back what it had not made durable, in the middle of its end.
#[test]
fn what_the_storage_takes_back_while_it_closes_is_appended_again() {
    let stream = stream(64);
    let durable = Arc::new(AtomicU64::new(3));
    let (flushed, mut calls, mut refusals) = (Arc::clone(&durable), 0, 1);
    let storage = Scripted::new(move |_, batch| {
        if batch.last_seq() == Some(25) && refusals > 0 {
            refusals -= 1;
            return retry("not yet");
        }
        Ok(())
    });
    let storage = storage.durable_as(&durable).on_close(move |kept, _| {
        calls += 1;
        if calls == 1 {
            kept.truncate(3);
            return rewind(3);
        }
        flushed.store(kept.last().unwrap().0, SeqCst);
        Ok(())
    });
    publish(&stream, 20);
    let mut writer = StorageWriter::new(&stream, storage.batches_of(5));
    writer.drain(in_a_minute()).unwrap();
    publish(&stream, 5);
    writer.drain(Instant::now()).unwrap_err(); // with 21 to 25 in its hand
    let status = writer.status();
    let storage = writer.close(in_a_minute()).unwrap();
    // All that was appended before, and what came into the last batch with it.
    assert_eq!(account(&storage.kept, 0, 23), []);
    assert_eq!((status.get().appended, status.get().durable, status.get().errors), (23, 23, 2));
}

/// Delivery is at least once; consumers dedupe by `seq`.
#[test]
fn delivery_is_at_least_once_and_consumers_dedupe_by_seq() {
    let stream = stream(64);
    let mut calls = 0;
    // It keeps what it gets, or a part, and says that it does not.
    let storage = Scripted::new(move |kept, batch| {
        calls += 1;
        if calls % 3 == 0 {
            return Ok(());
        }
        let before = kept.len();
        keep(kept, batch);
        kept.truncate(before + batch.len() * calls / 4);
        retry("the acknowledgement was lost")
    });
    let mut writer = StorageWriter::new(&stream, storage.batches_of(20));
    publish(&stream, 50);
    writer.drain(in_a_minute()).unwrap();
    let kept = &writer.storage().kept;
    assert!(kept.len() > 60, "{} lines", kept.len());
    let deduped = kept.iter().cloned().collect::<BTreeMap<_, _>>().into_iter().collect::<Vec<_>>();
    assert_eq!(account(&deduped, 0, 50), []);
}

/// A failing append is counted and reported and the writer goes on …
#[test]
fn a_failing_append_is_counted_and_reported_and_the_writer_goes_on() {
    for times in [1, 2, 5] {
        let stream = stream(64);
        let attempts = Arc::new(Mutex::new(Vec::new()));
        let (seen, mut left) = (Arc::clone(&attempts), times);
        let storage = Scripted::new(move |_, batch| {
            seen.lock().unwrap().push((batch.after(), batch.lines().to_vec(), Instant::now()));
            if left == 0 {
                return Ok(());
            }
            left -= 1;
            retry(&format!("{left} to go"))
        });
        publish(&stream, 7);
        let mut writer = StorageWriter::new(&stream, storage);
        run_to_the_end(&stream, &mut writer);
        assert_eq!(account(&writer.storage().kept, 0, 7), []);
        let Status { errors, retries, dropped, last_error, .. } = writer.status().get();
        assert_eq!((errors, retries, dropped), (times, times, 0));
        assert_eq!(last_error.unwrap(), "the storage failed for now: 0 to go");
        let attempts = attempts.lock().unwrap();
        assert_eq!(attempts.len() as u64, times + 1);
        let mut pause = Duration::from_millis(10);
        for pair in attempts.windows(2) {
            assert_eq!((pair[0].0, &pair[0].1), (pair[1].0, &pair[1].1), "the same batch, byte for byte");
            assert!(pair[1].2 - pair[0].2 >= pause, "too soon");
            pause *= 2;
        }
    }
}

/// … it never stops the bus.
#[test]
fn a_blocked_storage_never_stops_the_bus() {
    let stream = stream(16);
    let (release, blocked) = channel::<()>();
    let entered = Arc::new(AtomicBool::new(false));
    let is_in = Arc::clone(&entered);
    let storage = Scripted::new(move |_, _| {
        is_in.store(true, SeqCst);
        blocked.recv().unwrap();
        Ok(())
    });
    let mut writer = StorageWriter::new(&stream, storage);
    let status = writer.status();
    publish(&stream, 1);
    thread::scope(|scope| {
        let run = scope.spawn(|| writer.run());
        until(|| entered.load(SeqCst));
        // No publish waits for it: this would not come to its end.
        publish(&stream, 20_000);
        let Status { appended, errors, lag, .. } = status.get();
        assert_eq!((appended, errors, lag), (0, 0, 20_000 + 1));
        stream.close();
        (0..2).for_each(|_| release.send(()).unwrap());
        run.join().unwrap().unwrap();
    });
    // One in its hand, and what the ring held at last.
    assert_eq!(account(&writer.storage().kept, 0, 20_001), [(2, 19_985)]);
    assert_eq!(status.get().dropped, 19_984);
}

/// Defect 6: "cancels its acknowledgement waits before it flushes, so a clean stop can lose the last batch".
#[test]
fn a_clean_stop_waits_for_the_last_acknowledgement() {
    /// Acknowledges from a thread of its own, one after the other, when it is told to.
    struct Acknowledging {
        submitted: Sender<u64>,
        acknowledged: Receiver<u64>,
        durable: u64,
        appended: u64,
        flush: Arc<AtomicBool>,
    }
    impl Storage for Acknowledging {
        fn append(&mut self, batch: &Batch) -> Outcome {
            self.appended = batch.last_seq().unwrap();
            self.submitted.send(self.appended).unwrap();
            Ok(())
        }
        fn durable(&self) -> Option<u64> {
            Some(self.durable)
        }
        fn close(&mut self, deadline: Instant) -> Outcome {
            self.flush.store(true, SeqCst);
            while self.durable < self.appended {
                let time = deadline.saturating_duration_since(Instant::now());
                let Ok(seq) = self.acknowledged.recv_timeout(time) else { return retry("time is up") };
                self.durable = seq;
            }
            Ok(())
        }
    }
    let stream = stream(64);
    let (submitted, submissions) = channel();
    let (acknowledge, acknowledged) = channel();
    let flush = Arc::new(AtomicBool::new(false));
    let may = Arc::clone(&flush);
    let server = thread::spawn(move || {
        let mut acknowledgements = 0;
        // Nothing is acknowledged before the flush: the worst case.
        for seq in submissions {
            until(|| may.load(SeqCst));
            acknowledgements += u64::from(acknowledge.send(seq).is_ok());
        }
        acknowledgements
    });
    let storage = Acknowledging { submitted, acknowledged, durable: 0, appended: 0, flush };
    let mut writer = StorageWriter::new(&stream, storage);
    let (status, canceller) = (writer.status(), writer.canceller());
    thread::scope(|scope| {
        let run = scope.spawn(|| writer.run());
        for seq in 1..=5 {
            publish(&stream, 1);
            until(|| status.get().appended == seq);
        }
        canceller.cancel();
        run.join().unwrap().unwrap();
    });
    publish(&stream, 3);
    assert_eq!(writer.drain(in_a_minute()).unwrap(), 8);
    assert_eq!(status.get().durable, 0);
    drop(writer.close(in_a_minute()).unwrap());
    assert_eq!((status.get().appended, status.get().durable), (8, 8));
    assert_eq!(server.join().unwrap(), 6);
}

// ---- Batches.

#[test]
fn a_batch_has_what_a_storage_needs() {
    let stream = Config::new().events(4).first_seq(98).large_bytes(0).build().unwrap();
    let epoch = stream.epoch();
    let mut late = StorageWriter::new(&stream, Scripted::willing());
    let events = [of("page"), of("weather"), of("system"), of("console"), of("quo\"te")];
    events.iter().for_each(|event| _ = stream.publish(event).unwrap());
    let mut reader = stream.reader_from_oldest();
    let lines = [(); 4].map(|()| take(&mut reader).json().to_vec());
    let storage = Scripted::new(move |_, batch| {
        assert_eq!((batch.epoch(), batch.len(), batch.after()), (epoch, 4, 98));
        assert_eq!((batch.first_seq(), batch.last_seq()), (Some(99), Some(102)));
        assert_eq!(batch.lines(), [lines.join(&b'\n'), vec![b'\n']].concat());
        for (entry, (line, seq)) in batch.iter().zip(lines.iter().zip(99..)) {
            assert_eq!((entry.seq, entry.json), (seq, &line[..]));
            let digits = if seq < 100 { 2 } else { 3 };
            assert_eq!(entry.event_json, &line[16 + digits..line.len() - 1]);
        }
        let categories = batch.iter().map(|entry| entry.category().as_str().to_owned());
        assert_eq!(categories.collect::<Vec<_>>(), ["weather", "system", "console", "quo\"te"]);
        Ok(())
    });
    let mut writer = StorageWriter::new(&stream, storage);
    assert_eq!(writer.drain(in_a_minute()).unwrap(), 102);

    // With a gap in front, and with every digit there is of a seq.
    late.drain(in_a_minute()).unwrap();
    let (seq, gap) = &late.storage().kept[0];
    let Envelope { event, .. } = serde_json::from_str(gap).unwrap();
    let expected = format!(
        r#"{{"seq":98,"event":{{"ts":{},"type":"events_dropped","category":"system","source":{{"kind":"local_process","event":"lapwing.storage"}},"data":{{"from":98,"to":98,"count":1}}}}}}"#,
        event.ts
    );
    assert_eq!((*seq, gap), (98, &expected));
    assert!(event.ts > 1_700_000_000_000_000, "it has the time of its loss");
    assert_eq!(late.storage().seqs(), [98, 99, 100, 101, 102]);
}

#[test]
fn a_batch_is_within_its_limits() {
    let stream = stream(256);
    for (limits, most) in [
        (Limits { envelopes: 1, bytes: usize::MAX }, 1),
        (Limits { envelopes: 7, bytes: usize::MAX }, 7),
        (Limits { envelopes: usize::MAX, bytes: 1000 }, 5),
        (Limits { envelopes: usize::MAX, bytes: 0 }, 1),
        (Limits { envelopes: 0, bytes: 0 }, 1),
        (Limits::default(), 100),
    ] {
        let mut storage = Scripted::new(move |_, batch| {
            assert!(batch.len() <= most);
            assert!(batch.len() == most || batch.last_seq() == Some(100));
            let last = batch.iter().last().unwrap().json.len() + 1;
            assert!(batch.lines().len() - last < limits.bytes.max(1), "only the last one goes beyond");
            Ok(())
        });
        storage.limits = limits;
        let mut writer = StorageWriter::new(&stream, storage);
        while stream.seq() < 100 {
            // 199 to 201 bytes with the envelope and the line break.
            stream.publish(&sized(1, 200 - 18)).unwrap();
        }
        writer.drain(in_a_minute()).unwrap();
        assert_eq!(writer.storage().seqs(), (1..=100).collect::<Vec<_>>());
    }
    assert_eq!(Limits::default(), Limits { envelopes: 1024, bytes: 1 << 20 });
}

#[test]
fn a_writer_that_is_late_for_a_large_event_gets_its_truncated_form() {
    let stream = Config::new().events(8).inline_bytes(256).large_bytes(4 * 4096).build().unwrap();
    let mut writer = StorageWriter::new(&stream, Scripted::willing());
    (1..=3).for_each(|ts| _ = stream.publish(&sized(ts, 8000)).unwrap());
    writer.drain(in_a_minute()).unwrap();
    let flags = writer.storage().kept.iter().map(|(_, line)| {
        let Envelope { event, .. } = serde_json::from_str(line).unwrap();
        (event.ts, event.truncated)
    });
    assert_eq!(flags.collect::<Vec<_>>(), [(1, true), (2, false), (3, false)]);
    assert_eq!(writer.status().get().dropped, 0);
}

// ---- Where it begins.

#[test]
fn after_a_seq_it_goes_on_there() {
    let stream = stream(8);
    publish(&stream, 20);
    for (after, gaps) in [
        (20, vec![]),
        (19, vec![]),
        (12, vec![]),
        (11, vec![(12, 12)]),
        (3, vec![(4, 12)]),
        (0, vec![(1, 12)]),
    ] {
        let mut writer = StorageWriter::after(&stream, Scripted::willing(), after).unwrap().named("mine");
        assert_eq!((writer.status().get().appended, &*stream.readers()[0].name), (after, "mine"));
        writer.drain(in_a_minute()).unwrap();
        assert_eq!(account(&writer.storage().kept, after, 20), gaps);
        assert_eq!(writer.status().get().dropped, lost(&gaps));
    }
    // Defects 4 and 5: the future, at its edge too, is an error, and `after + 1` does not wrap.
    for given in [21, u64::MAX - 1, u64::MAX] {
        let error = StorageWriter::after(&stream, Scripted::willing(), given).map(|_| ()).unwrap_err();
        assert_eq!(error, PositionError::Future { given, newest: 20 });
    }
}

// ---- A storage that fails for longer than the ring lasts.

#[test]
fn what_is_lost_is_told_in_its_place() {
    let stream = Arc::new(stream(16));
    let (publisher, mut attempts) = (Arc::clone(&stream), 0);
    // While it fails, 100 events are published before each attempt.
    let storage = Scripted::new(move |_, batch| {
        attempts += 1;
        if attempts % 4 == 0 {
            return Ok(());
        }
        if publisher.seq() < 1000 {
            publish(&publisher, 100);
        }
        retry(&format!("not {}", batch.after()))
    });
    publish(&stream, 20);
    let mut writer = StorageWriter::after(&stream, storage, 2).unwrap();
    let status = writer.status();
    let mut appended = 0;
    while appended < stream.seq() {
        appended = writer.drain(in_a_minute()).unwrap();
    }
    let last = stream.seq();
    let gaps = account(&writer.storage().kept, 2, last);
    assert_eq!(gaps, [(3, 4), (21, 304), (321, 604), (621, 904), (921, 1004)]);
    assert_eq!((last, status.get().dropped), (1020, lost(&gaps)));
    assert_eq!(writer.storage().kept.len() as u64 + lost(&gaps) - gaps.len() as u64, last - 2);
}

#[test]
fn the_gap_while_it_fails_for_ever_is_told_in_the_end() {
    let stream = stream(16);
    let fails = Arc::new(AtomicBool::new(true));
    let is_down = Arc::clone(&fails);
    let storage =
        Scripted::new(move |_, _| if is_down.load(SeqCst) { retry("down") } else { Ok(()) }).batches_of(5);
    let mut writer = StorageWriter::new(&stream, storage);
    let status = writer.status();
    thread::scope(|scope| {
        let run = scope.spawn(|| writer.run());
        publish(&stream, 1);
        until(|| status.get().errors > 0);
        publish(&stream, 10_000);
        let errors = status.get().errors;
        until(|| status.get().errors > errors + 1);
        let Status { appended, lag, dropped, last_error, .. } = status.get();
        assert_eq!((appended, lag, dropped), (0, 10_001, 0), "it does not move on");
        assert_eq!(last_error.unwrap(), "the storage failed for now: down");
        fails.store(false, SeqCst);
        stream.close();
        run.join().unwrap().unwrap();
    });
    assert_eq!(account(&writer.storage().kept, 0, 10_001), [(2, 9985)]);
    let Status { dropped, errors, retries, .. } = status.get();
    assert_eq!((dropped, errors), (9984, retries));
}

// ---- Storages that go back, or forth.

#[test]
fn it_goes_back_to_what_the_storage_holds() {
    let stream = stream(64);
    let mut calls = 0;
    let durable = Arc::new(AtomicU64::new(3));
    let storage = Scripted::new(move |kept, batch| {
        calls += 1;
        match calls {
            4 => {
                assert_eq!((batch.after(), batch.first_seq()), (15, Some(16)));
                kept.truncate(3);
                rewind(3)
            }
            5 => {
                assert_eq!((batch.after(), batch.first_seq()), (3, Some(4)));
                Ok(())
            }
            _ => Ok(()),
        }
    });
    let mut writer = StorageWriter::new(&stream, storage.batches_of(5).durable_as(&durable));
    publish(&stream, 30);
    run_to_the_end(&stream, &mut writer);
    assert_eq!(account(&writer.storage().kept, 0, 30), []);
    let Status { errors, retries, dropped, durable, last_error, .. } = writer.status().get();
    assert_eq!((errors, retries, dropped, durable), (1, 0, 0, 3));
    assert_eq!(last_error.unwrap(), "the storage holds what is up to seq 3: it lost track");
}

#[test]
fn it_goes_forth_to_what_the_storage_holds() {
    let stream = stream(64);
    let mut calls = 0;
    // It took the batch, and did not know it.
    let storage = Scripted::new(move |kept, batch| {
        calls += 1;
        if calls % 2 == 1 {
            keep(kept, batch);
            return rewind(batch.last_seq().unwrap());
        }
        Ok(())
    });
    let mut writer = StorageWriter::new(&stream, storage.batches_of(5));
    publish(&stream, 32);
    run_to_the_end(&stream, &mut writer);
    assert_eq!(account(&writer.storage().kept, 0, 32), []);
}

#[test]
fn what_is_overwritten_where_it_goes_back_to_is_a_gap() {
    let stream = Arc::new(stream(16));
    let (publisher, mut calls) = (Arc::clone(&stream), 0);
    let durable = Arc::new(AtomicU64::new(4));
    let storage = Scripted::new(move |kept, _| {
        calls += 1;
        match calls {
            3 => {
                // It has 1 to 10, and 4 of them survive, where the ring has gone on to 21 to 36.
                publish(&publisher, 20);
                kept.truncate(4);
                rewind(4)
            }
            5 => {
                // The gap is taken back, and will be larger.
                publish(&publisher, 5);
                kept.truncate(4);
                rewind(4)
            }
            _ => Ok(()),
        }
    });
    let mut writer = StorageWriter::new(&stream, storage.batches_of(5).durable_as(&durable));
    publish(&stream, 16);
    let status = writer.status();
    while status.get().lag > 0 {
        writer.drain(in_a_minute()).unwrap();
    }
    assert_eq!(account(&writer.storage().kept, 0, 41), [(5, 25)]);
    assert_eq!((status.get().dropped, status.get().errors), (21, 2), "each one counts once");
}

#[test]
fn beyond_the_newest_event_there_is_nothing_to_go_to() {
    let stream = stream(64);
    publish(&stream, 3);
    for given in [4, u64::MAX] {
        let mut writer = StorageWriter::new(&stream, Scripted::new(move |_, _| rewind(given)));
        let error = writer.run().unwrap_err();
        assert!(matches!(error, RunError::Storage(StorageError::Fatal(_))), "{error:?}");
        let position = PositionError::Future { given, newest: 3 };
        assert_eq!(error.to_string(), format!("the storage failed for good: {position}"));
        assert_eq!(writer.status().get().appended, 0);
    }
}

/// Whatever the storage does, what is in it at last is everything, or a gap in its place; and what the status says is
/// that.
#[test]
fn whatever_the_storage_does_everything_is_there_or_told() {
    for seed in 1..=if cfg!(debug_assertions) { 100 } else { 600 } {
        let mut random = Random(seed);
        let events = [1, 2, 7, 16, 64][random.below(5) as usize];
        let stream = Arc::new(stream(events));
        let first = random.below(events);
        publish(&stream, first);
        let promises = random.below(2) == 0;
        let (durable, settled) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (publisher, promise, mut log) = (Arc::clone(&stream), Arc::clone(&settled), String::new());
        let batches = 1 + random.below(9) as usize;
        let mut bad_luck = 25;
        let append = move |kept: &mut Vec<Kept>, batch: &Batch| {
            if publisher.seq() < 300 {
                publish(&publisher, random.below(2 * events.min(20)));
            }
            let held = |kept: &[Kept]| kept.last().map_or(0, |kept| kept.0);
            write!(log, "{:?} after {} ", batch.last_seq(), held(kept)).unwrap();
            assert_eq!(batch.after(), held(kept), "{log}");
            if promises && random.below(3) == 0 {
                promise.store(held(kept), SeqCst);
            }
            let luck = random.below(10);
            if bad_luck == 0 || luck < 5 {
                return Ok(());
            }
            bad_luck -= 1;
            if luck == 9 {
                return retry("for now");
            }
            if luck >= 7 {
                keep(kept, batch); // it was taken, and then lost track of
            }
            if luck.is_multiple_of(2) && promises {
                // Back to anything that is not promised.
                let first = kept.partition_point(|kept| kept.0 <= promise.load(SeqCst));
                kept.truncate(first + random.below((kept.len() - first) as u64 + 1) as usize);
            }
            rewind(held(kept))
        };
        let mut storage = Scripted::new(append).batches_of(batches);
        if promises {
            let settled = Arc::clone(&settled);
            // The writer hears of it later than the storage knows it.
            storage.durable = Box::new(move || Some(durable.swap(settled.load(SeqCst), SeqCst)));
        }
        let mut writer = StorageWriter::after(&stream, storage, 0).unwrap();
        // Its pauses are the test's only time, so they end at once: each drain makes one attempt.
        let deadline = Instant::now();
        while writer.status().get().appended < stream.seq() {
            _ = writer.drain(deadline);
        }
        let gaps = account(&writer.storage().kept, 0, stream.seq());
        assert_eq!(writer.status().get().dropped, lost(&gaps), "seed {seed}: {gaps:?}");
    }
}

struct Random(u64);

impl Random {
    /// Less than `end`, or 0.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % end.max(1)
    }
}

#[test]
fn many_publishers_and_a_storage_that_fails_now_and_then() {
    const FAILURES: u64 = 20;
    let stream = stream(256);
    let mut random = Random(7);
    let storage = Scripted::new(move |kept, batch| match random.below(50) {
        0 => retry("for now"),
        1 => {
            keep(kept, batch);
            rewind(batch.last_seq().unwrap())
        }
        _ => Ok(()),
    });
    let mut writer = StorageWriter::new(&stream, storage);
    let status = writer.status();
    let published = thread::scope(|scope| {
        let run = scope.spawn(|| writer.run());
        let publishers = [(); 3].map(|()| {
            scope.spawn(|| {
                let (mut count, deadline) = (0, in_a_minute());
                while status.get().errors < FAILURES {
                    assert!(Instant::now() < deadline, "{status:?}");
                    (0..100).for_each(|_| _ = stream.publish(&of("page")).unwrap());
                    count += 100;
                }
                count
            })
        });
        let mut before = status.get();
        while !publishers.iter().all(|publisher| publisher.is_finished()) {
            let now = status.get();
            assert!(
                now.appended >= before.appended && now.errors >= before.errors && now.retries <= now.errors
            );
            before = now;
        }
        let published: u64 = publishers.map(|publisher| publisher.join().unwrap()).iter().sum();
        stream.close();
        run.join().unwrap().unwrap();
        published
    });
    let (mut done, mut lost, mut events) = (0, 0, 0);
    for (seq, line) in &writer.storage().kept {
        if line.contains("events_dropped") {
            let data = format!(r#""data":{{"from":{},"to":{seq},"count":{}}}"#, done + 1, seq - done);
            assert!(line.contains(&data), "{line}");
            lost += seq - done;
        } else {
            assert_eq!(*seq, done + 1);
            events += 1;
        }
        done = *seq;
    }
    assert_eq!((done, lost, status.get().lag), (stream.seq(), status.get().dropped, 0));
    assert!(events > FAILURES, "{events} of {published} arrived");
    // Numbers that a publisher has given up are lost, too.
    assert_eq!(events + lost, published + stream.stats().abandoned);
}

/// What was claimed before the call is drained, also when its publisher has not written it yet.
#[test]
fn drain_gets_what_is_being_published() {
    let stream = stream(4096);
    let mut writer = StorageWriter::new(&stream, Scripted::willing());
    thread::scope(|scope| {
        let publishers = [(); 2]
            .map(|()| scope.spawn(|| (0..20_000).for_each(|_| _ = stream.publish(&of("page")).unwrap())));
        while !publishers.iter().all(|publisher| publisher.is_finished()) {
            let claimed = stream.seq();
            assert!(writer.drain(in_a_minute()).unwrap() >= claimed);
        }
    });
    assert_eq!(writer.drain(in_a_minute()).unwrap(), stream.seq());
    assert!(stream.seq() >= 40_000);
}

// ---- A storage that fails for good.

#[test]
fn a_storage_that_fails_for_good_ends_the_run_and_not_the_bus() {
    let stream = stream(64);
    let mut dead = true;
    let storage = Scripted::new(move |_, batch| {
        if dead && batch.last_seq() > Some(10) {
            dead = false;
            return Err(StorageError::Fatal("the token is not valid".into()));
        }
        Ok(())
    });
    let mut writer = StorageWriter::new(&stream, storage.batches_of(10));
    publish(&stream, 25);
    let error = writer.run().unwrap_err();
    assert_eq!(error.to_string(), "the storage failed for good: the token is not valid");
    let storage_error = std::error::Error::source(&error).unwrap();
    assert_eq!(storage_error.source().unwrap().to_string(), "the token is not valid");
    let Status { appended, errors, retries, lag, last_error, .. } = writer.status().get();
    assert_eq!((appended, errors, retries, lag), (10, 1, 0, 15));
    assert_eq!(last_error.unwrap(), error.to_string());
    publish(&stream, 5);
    // What it had in hand is still there, if somebody has revived the storage.
    assert_eq!(writer.drain(in_a_minute()).unwrap(), 30);
    assert_eq!(account(&writer.storage().kept, 0, 30), []);
}

// ---- Idle.

#[test]
fn an_idle_storage_is_called_when_it_wants() {
    let stream = stream(64);
    let (called, calls) = channel();
    let (mut count, storage) = (0, Scripted::willing());
    let storage = storage.on_idle(move || {
        count += 1;
        called.send(Instant::now()).unwrap();
        match count {
            // Before the first event, and then after 20 ms.
            1 => Ok(Some(Instant::now() + Duration::from_millis(20))),
            2 => retry("not now"),
            // It lost nothing, and says so: it is asked again, for what it wanted is still due.
            3 => rewind(0),
            4 => Ok(Some(Instant::now() - Duration::from_millis(1))),
            _ => Ok(None),
        }
    });
    let mut writer = StorageWriter::new(&stream, storage);
    let (status, canceller) = (writer.status(), writer.canceller());
    thread::scope(|scope| {
        let run = scope.spawn(|| writer.run());
        let times = [(); 5].map(|()| calls.recv_timeout(Duration::from_secs(60)).unwrap());
        assert!(times[1] - times[0] >= Duration::from_millis(20));
        assert!(times[2] - times[1] >= Duration::from_millis(10), "a pause after a failure");
        assert!(times[3] - times[2] >= Duration::from_millis(10), "and after the next");
        assert_eq!((status.get().errors, status.get().retries), (2, 1));
        // And after each append.
        publish(&stream, 1);
        calls.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!(status.get().appended, 1);
        canceller.cancel();
        run.join().unwrap().unwrap();
    });
}

#[test]
fn a_steady_load_does_not_keep_idle_from_its_call() {
    let stream = stream(64);
    let (called, calls) = channel();
    let storage = Scripted::willing().on_idle(move || {
        called.send(()).unwrap();
        Ok(Some(Instant::now()))
    });
    let mut writer = StorageWriter::new(&stream, storage.batches_of(1));
    publish(&stream, 50);
    run_to_the_end(&stream, &mut writer);
    assert!(calls.try_iter().count() >= 50);
}

#[test]
fn a_storage_that_always_fails_when_idle_can_be_cancelled() {
    for outcome in [|| retry("no"), || rewind(0)] {
        let stream = stream(64);
        let mut writer = StorageWriter::new(&stream, Scripted::willing().on_idle(outcome));
        let (status, canceller) = (writer.status(), writer.canceller());
        thread::scope(|scope| {
            let run = scope.spawn(|| writer.run());
            until(|| status.get().errors >= 3);
            canceller.cancel();
            run.join().unwrap().unwrap();
        });
    }
}

// ---- Cancellation, other threads, other runtimes.

/// Wherever the cancellation meets it, what it had in hand can be drained.
#[test]
fn cancelled_between_two_attempts_it_ends_at_once() {
    // By luck the machine is slow just then; a writer that sleeps its pause out is never in time.
    let in_time = (0..5).any(|_| {
        let stream = stream(64);
        let (attempted, attempts) = channel();
        let fails = Arc::new(AtomicBool::new(true));
        let is_down = Arc::clone(&fails);
        let storage = Scripted::new(move |_, _| {
            attempted.send(()).unwrap();
            if is_down.load(SeqCst) { retry("down") } else { Ok(()) }
        });
        let mut writer = StorageWriter::new(&stream, storage);
        let (status, canceller) = (writer.status(), writer.canceller());
        publish(&stream, 5);
        let time = thread::scope(|scope| {
            let run = scope.spawn(|| writer.run());
            // Then it pauses for 320 ms.
            (0..6).for_each(|_| attempts.recv_timeout(Duration::from_secs(60)).unwrap());
            let start = Instant::now();
            canceller.cancel();
            run.join().unwrap().unwrap();
            start.elapsed()
        });
        assert!(attempts.try_iter().count() <= 1);
        assert_eq!((status.get().appended, status.get().lag), (0, 5));
        fails.store(false, SeqCst);
        publish(&stream, 60);
        assert_eq!(writer.drain(in_a_minute()).unwrap(), 65);
        assert_eq!(account(&writer.storage().kept, 0, 65), [], "5 in its hand, 60 in the ring");
        time < Duration::from_millis(160)
    });
    assert!(in_time);
}

#[test]
fn from_a_runtime_it_has_a_thread_of_its_own() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let stream = stream(64);
    let kept = runtime.block_on(async {
        let mut writer = StorageWriter::new(&stream, failing(2));
        let (status, canceller) = (writer.status(), writer.canceller());
        let run = tokio::task::spawn_blocking(move || writer.run().map(|()| writer));
        publish(&stream, 10);
        while status.get().appended < 10 {
            tokio::task::yield_now().await;
        }
        publish(&stream, 10);
        canceller.cancel();
        let mut writer = run.await.unwrap().unwrap();
        let close = move || {
            writer.drain(in_a_minute()).unwrap();
            writer.close(in_a_minute()).unwrap().kept
        };
        tokio::task::spawn_blocking(close).await.unwrap()
    });
    assert_eq!(account(&kept, 0, 20), []);
}

#[test]
fn the_status_is_there_for_any_thread() {
    let stream = stream(64);
    let durable = Arc::new(AtomicU64::new(0));
    let (go, gone) = channel::<Outcome>();
    let storage = Scripted::new(move |_, _| gone.recv().unwrap()).durable_as(&durable).batches_of(10);
    let mut writer = StorageWriter::new(&stream, storage);
    let status = writer.status();
    publish(&stream, 30);
    thread::scope(|scope| {
        let run = scope.spawn(|| writer.run());
        let watcher = scope.spawn(|| {
            let status = status.clone();
            go.send(Ok(())).unwrap();
            until(|| status.get().appended == 10);
            assert_eq!(status.get().lag, 20);
            durable.store(7, SeqCst);
            go.send(retry("once")).unwrap();
            until(|| status.get().errors == 1);
            go.send(Ok(())).unwrap();
            until(|| status.get().appended == 20);
            let Status { durable, retries, last_error, lag, .. } = status.get();
            assert_eq!((durable, retries, lag), (7, 1, 10));
            assert_eq!(last_error.unwrap(), "the storage failed for now: once");
            let debug = format!("{status:?}");
            assert!(
                debug.starts_with("Status { appended: 20, durable: 7, errors: 1, retries: 1,"),
                "{debug}"
            );
            go.send(Ok(())).unwrap();
            stream.close();
        });
        watcher.join().unwrap();
        run.join().unwrap().unwrap();
    });
    drop(writer);
    assert_eq!((status.get().appended, status.get().lag), (30, 0), "also after the writer's end");
}

#[test]
fn a_gap_is_an_event_for_whoever_reads_it() {
    let stream = stream(2);
    let mut writer = StorageWriter::new(&stream, Scripted::willing());
    publish(&stream, 5);
    writer.drain(in_a_minute()).unwrap();
    let Envelope { seq, event } = serde_json::from_str(&writer.storage().kept[0].1).unwrap();
    let source = Source::new(SourceKind::LocalProcess).event("lapwing.storage");
    let expected = Event::new("events_dropped", Category::System, source).ts(event.ts);
    assert_eq!((seq, event), (3, expected.data_json(r#"{"from":1,"to":3,"count":3}"#).unwrap()));
}

// ---- What is told to `tracing`.

#[cfg(feature = "tracing")]
mod told {
    use super::*;
    use std::cell::RefCell;
    use std::fmt::Debug;
    use std::sync::Once;
    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    thread_local! {
        /// What was told on this thread since it began to listen, a line each.
        static TOLD: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
    }

    /// One for all threads: whether somebody listens to a place in the code is remembered for all of them.
    struct Ears;

    struct Words(String);

    impl Visit for Words {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            match field.name() {
                "message" => write!(self.0, "{value:?}"),
                name => write!(self.0, " {name}={value:?}"),
            }
            .unwrap();
        }
    }

    impl Subscriber for Ears {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target() == "lapwing::storage"
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
        fn event(&self, event: &Event<'_>) {
            let mut words = Words(format!("{} ", event.metadata().level()));
            event.record(&mut words);
            TOLD.with_borrow_mut(|told| told.as_mut().map(|told| told.push(words.0)));
        }
    }

    /// What is told while `work` is done.
    fn told(work: impl FnOnce()) -> Vec<String> {
        static SET: Once = Once::new();
        SET.call_once(|| {
            tracing::subscriber::set_global_default(Ears).unwrap();
            tracing::callsite::rebuild_interest_cache();
        });
        TOLD.set(Some(Vec::new()));
        work();
        TOLD.take().unwrap()
    }

    #[test]
    fn failures_and_recoveries_and_losses() {
        let stream = Arc::new(stream(4));
        let (publisher, mut calls) = (Arc::clone(&stream), 0);
        let storage = Scripted::new(move |_, _| {
            calls += 1;
            match calls {
                1 => {
                    publish(&publisher, 10);
                    retry("down")
                }
                2 | 3 | 5 => retry("down"),
                _ => Ok(()),
            }
        });
        publish(&stream, 2);
        let mut writer = StorageWriter::new(&stream, storage);
        let failed = |appended, pause: u32| {
            format!(
                "WARN the storage has failed error=\"the storage failed for now: down\" appended={appended} pause_ms={pause}"
            )
        };
        let told = told(|| {
            writer.drain(in_a_minute()).unwrap();
            writer.drain(in_a_minute()).unwrap();
        });
        assert_eq!(
            told,
            [
                failed(0, 10),
                failed(0, 20),
                failed(0, 40),
                "INFO the storage has recovered retries=3".into(),
                "WARN events are lost: the ring has lapped the writer from=3 to=8 count=6".into(),
                failed(2, 10),
                "INFO the storage has recovered retries=1".into(),
            ]
        );
    }

    /// A storage that goes back again and again is failing, also where it takes something in between.
    #[test]
    fn pauses_grow_until_a_setback_is_made_good() {
        let stream = stream(64);
        let calls = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&calls);
        let storage = Scripted::new(move |kept, _| match count.fetch_add(1, SeqCst) + 1 {
            4 | 6 | 8 => {
                kept.clear();
                rewind(0)
            }
            12 => retry("once more"),
            _ => Ok(()),
        });
        let mut storage = storage.batches_of(5);
        // With the eleventh append it has come as far as before, and what is there is durable.
        storage.durable = Box::new(move || Some(if calls.load(SeqCst) >= 11 { 15 } else { 0 }));
        let mut writer = StorageWriter::new(&stream, storage);
        publish(&stream, 25);
        let told = told(|| _ = writer.drain(in_a_minute()).unwrap());
        let pauses = told.iter().filter_map(|line| line.split("pause_ms=").nth(1)).collect::<Vec<_>>();
        assert_eq!(pauses, ["10", "20", "40", "10"], "{told:#?}");
        assert_eq!(account(&writer.storage().kept, 0, 25), []);
    }

    #[test]
    fn the_longest_pause_is_a_second() {
        let stream = stream(64);
        publish(&stream, 1);
        let mut writer = StorageWriter::new(&stream, failing(9));
        // A drain whose time is up makes one attempt, and does not sleep.
        let told = told(|| (0..10).for_each(|_| _ = writer.drain(Instant::now())));
        let pauses = told.iter().filter_map(|line| line.split("pause_ms=").nth(1)).collect::<Vec<_>>();
        assert_eq!(pauses, ["10", "20", "40", "80", "160", "320", "640", "1000", "1000"]);
    }
}
