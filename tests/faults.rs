//! What others observe of a fault that is not theirs: a reader that is dropped in the middle or leaked, foreign code that panics in a
//! call of this crate, a clock that is anywhere.
//!
//! | fault | what the others observe |
//! | --- | --- |
//! | a reader is dropped in the middle of the ring | nothing |
//! | a reader is leaked | `readers()` lists it, with a lag that grows, for as long as the stream lives; publishers and readers nothing |
//! | a callback of a reader panics | nothing; the reader goes on, and its account adds up |
//! | a storage panics | nothing; the writer keeps its batch, and `drain` appends it |
//! | the clock goes back, or stands before 1970 | numbers, order and file names are the same: none of them is made of time |
#![cfg(feature = "std")]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use lapwing::event::{Category, Event, Source, SourceKind};
use lapwing::ring::{self, Read, Ring, TypedRing};
use lapwing::storage::{
    Batch, Fsync, JsonLines, JsonLinesConfig, RunError, Storage, StorageError, StorageWriter,
};
use lapwing::stream::{self, CategorySet, EventStream, Publish, ReadResult, TryReadError};

/// What foreign code panics with here.
struct Fault;

/// Runs `f`, which must panic with a fault, without a message.
#[track_caller]
fn faulty<R>(f: impl FnOnce() -> R) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(f)) else { panic!("it came back") };
    assert!(panic.is::<Fault>(), "another panic");
}

fn fault() -> ! {
    resume_unwind(Box::new(Fault))
}

fn event(ts: i64) -> Event<'static> {
    Event::new("note", Category::Console, Source::new(SourceKind::LocalProcess)).ts(ts)
}

fn stream(events: u64) -> EventStream {
    stream::Config::new().events(events).inline_bytes(256).large_bytes(0).build().unwrap()
}

// ---- Readers.

/// What a reader of a ring gets until there is nothing more: delivered, and dropped.
fn drain(reader: &mut ring::Reader) -> (u64, u64) {
    let (mut delivered, mut dropped) = (0, 0);
    while let Ok(read) = reader.try_read() {
        match read {
            Read::Event(event) => {
                assert_eq!(event.bytes, event.seq.to_le_bytes());
                delivered += 1;
            }
            Read::Dropped(lost) => dropped += lost.count(),
        }
    }
    (delivered, dropped)
}

fn publish(ring: &Ring, seqs: std::ops::RangeInclusive<u64>) {
    for seq in seqs {
        assert_eq!(ring.publish_tagged((seq % 3) as u16, &seq.to_le_bytes()), Ok(seq));
    }
}

#[test]
fn a_reader_that_is_dropped_or_leaked_is_nothing_to_others() {
    let stream = stream(8);
    let [mut dropped, mut leaked, mut other] =
        ["dropped", "leaked", "other"].map(|name| stream.reader_from_oldest().named(name));
    for ts in 1..=5 {
        stream.publish(&event(ts)).unwrap();
    }
    for reader in [&mut dropped, &mut leaked] {
        assert_eq!(reader.try_read().unwrap().envelope().unwrap().seq(), 1);
    }
    drop(dropped);
    std::mem::forget(leaked);
    while other.try_read().is_ok() {}
    let memory = stream.memory();
    for ts in 6..=100 {
        assert_eq!(stream.publish(&event(ts)), Ok(Publish::Published { seq: ts as u64, truncated: false }));
        if ts % 8 == 5 {
            while other.try_read().is_ok() {}
        }
    }
    while other.try_read().is_ok() {}
    let readers = stream.readers();
    let status: Vec<_> = readers.iter().map(|reader| (&*reader.name, reader.position, reader.lag)).collect();
    // It is listed for as long as the stream lives; that is what the list is for.
    assert_eq!(status, [("leaked", 1, 99), ("other", 100, 0)]);
    assert_eq!((readers[1].delivered, readers[1].dropped), (100, 0));
    assert_eq!(stream.memory(), memory);
    // Readers that come and go leave no trace.
    for _ in 0..1000 {
        drop(stream.reader_from_now());
    }
    assert_eq!(stream.readers().len(), 2);
    assert!(stream.close());
    assert!(matches!(other.try_read(), Err(TryReadError::Closed)));
}

/// Each callback is given the chance to panic before, in, and after the event that others go on with.
#[test]
fn a_callback_that_panics_costs_its_reader_nothing_but_the_call() {
    let ring = Ring::new(8, 8).unwrap();
    let [mut reader, mut other] = [(); 2].map(|()| ring.reader_from_oldest());
    publish(&ring, 1..=6);

    // A look: its event stays the next one.
    faulty(|| reader.try_look(|_| fault()));
    assert_eq!(reader.next_seq(), 1);
    assert_eq!(reader.try_look(|event| event.seq()), Ok(Read::Event(1)));

    // A batch: what was handed out was handed out.
    faulty(|| {
        reader.try_read_batch(5, |event| {
            if event.seq == 3 {
                fault()
            }
        })
    });
    assert_eq!(reader.next_seq(), 4);
    faulty(|| reader.read_batch(5, |_| fault()));
    assert_eq!(reader.next_seq(), 5);

    // A filter that is not made: the one before stays.
    reader.set_filter(|tag| tag != 0);
    faulty(|| reader.set_filter(|tag| if tag == 1000 { fault() } else { false }));
    publish(&ring, 7..=13);
    let (delivered, dropped) = drain(&mut reader);
    // The ring holds 6 to 13; of these 6, 9 and 12 are skipped.
    assert_eq!((delivered, dropped, reader.skipped()), (5, 1, 3));
    assert_eq!(4 + delivered + dropped + reader.skipped(), ring.newest());
    assert_eq!(drain(&mut other), (8, 5), "another reader has its own account");

    let values = TypedRing::<u64>::new(4).unwrap();
    let mut reader = values.reader_from_oldest();
    values.publish_batch(&[1, 2, 3]).unwrap();
    faulty(|| {
        reader.try_read_batch(3, |event| {
            if event.value == 2 {
                fault()
            }
        })
    });
    assert_eq!(reader.try_read().unwrap().event().unwrap().value, 3);
}

#[test]
fn a_callback_of_a_stream_that_panics() {
    let stream = stream(8);
    let [mut reader, mut other] = [(); 2].map(|()| stream.reader_from_oldest());
    for ts in 1..=6 {
        stream.publish(&event(ts)).unwrap();
    }
    let at_three = |envelope: stream::RawEnvelope<'_>| {
        if envelope.seq() == 3 {
            fault()
        }
    };
    faulty(|| reader.try_read_batch(6, at_three));
    assert_eq!(stream.readers()[0].delivered, 3, "what was handed out was handed out");
    faulty(|| reader.read_batch(2, |_| fault()));
    reader.set_categories(CategorySet::NONE.with(&Category::Console));
    assert_eq!(reader.try_read_batch(9, |_| ()).unwrap(), ReadResult::Envelope(2));
    let status = &stream.readers()[0];
    assert_eq!((status.position, status.delivered, status.dropped), (6, 6, 0));
    assert_eq!(other.try_read_batch(9, |_| ()).unwrap(), ReadResult::Envelope(6));
    assert_eq!(stream.publish(&event(7)).unwrap().seq(), Some(7));
}

// ---- Storages.

/// Panics in one of its methods, once.
#[derive(Default)]
struct Panicking {
    within: &'static str,
    kept: Vec<u64>,
}

impl Panicking {
    fn pass(&mut self, method: &str) {
        if self.within == method {
            self.within = "";
            fault()
        }
    }
}

impl Storage for Panicking {
    fn append(&mut self, batch: &Batch) -> Result<(), StorageError> {
        self.pass("append");
        self.kept.extend(batch.iter().map(|entry| entry.seq));
        Ok(())
    }

    fn idle(&mut self) -> Result<Option<Instant>, StorageError> {
        self.pass("idle");
        Ok(None)
    }

    fn close(&mut self, _: Instant) -> Result<(), StorageError> {
        self.pass("close");
        Ok(())
    }
}

/// What a storage was given when it panicked is not lost: the writer has it in hand, as after any other failure.
#[test]
fn a_storage_that_panics_gets_its_batch_again() {
    for within in ["append", "idle"] {
        let stream = stream(16);
        let mut other = stream.reader_from_oldest();
        let mut writer = StorageWriter::new(&stream, Panicking { within, ..Panicking::default() });
        for ts in 1..=5 {
            stream.publish(&event(ts)).unwrap();
        }
        faulty(|| writer.run());
        for ts in 6..=9 {
            stream.publish(&event(ts)).unwrap();
        }
        assert!(matches!(writer.run(), Err(RunError::SecondRun)), "it says so");
        let deadline = Instant::now() + Duration::from_secs(60);
        assert_eq!(writer.drain(deadline).unwrap(), 9, "{within}");
        let status = writer.status().get();
        assert_eq!((status.appended, status.dropped), (9, 0), "{within}");
        let storage = writer.close(deadline).unwrap();
        assert_eq!(storage.kept, [1, 2, 3, 4, 5, 6, 7, 8, 9], "{within}");
        assert_eq!(other.try_read_batch(20, |_| ()).unwrap(), ReadResult::Envelope(9));
    }
    // One that panics while it drains, and while it closes.
    let stream = stream(16);
    let mut writer = StorageWriter::new(&stream, Panicking { within: "append", ..Panicking::default() });
    stream.publish(&event(1)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    faulty(|| writer.drain(deadline));
    assert_eq!(writer.drain(deadline).unwrap(), 1);
    assert_eq!(writer.storage().kept, [1]);
    let writer = StorageWriter::new(&stream, Panicking { within: "close", ..Panicking::default() });
    faulty(|| writer.close(deadline));
    assert_eq!(stream.readers().len(), 1, "what it read by is gone with it, the first one's is there");
    assert_eq!(stream.publish(&event(2)).unwrap().seq(), Some(2));
}

// ---- The clock.

/// Seqs order events, and nothing is made of their time: a clock that goes back is nothing to anybody.
#[test]
fn any_time_is_taken_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let stream = stream(16);
    let config = || JsonLinesConfig::new().max_bytes(1).fsync(Fsync::Never);
    let (files, _) = JsonLines::open(dir.path(), config()).unwrap();
    let mut writer = StorageWriter::new(&stream, files);
    // Far future, back, before 1970, and the least and the most there is.
    let times = [4_102_444_800_000_000, 1_000_000, -1, i64::MIN, i64::MAX, 1];
    let deadline = || Instant::now() + Duration::from_secs(60);
    for (ts, seq) in times.into_iter().zip(1..) {
        let json = event(ts).to_json();
        let publish = if seq % 2 == 0 { stream.publish_json(&json) } else { stream.publish(&event(ts)) };
        assert_eq!(publish.unwrap().seq(), Some(seq), "ts {ts}");
        writer.drain(deadline()).unwrap();
    }
    writer.close(deadline()).unwrap();
    // A file for each, in the order of the seqs: a name has a number, the epoch and a seq.
    let mut names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| name.ends_with(".ndjson"))
        .collect();
    names.sort();
    let lines = names.iter().map(|name| std::fs::read_to_string(dir.path().join(name)).unwrap());
    let got: Vec<_> = lines.filter(|lines| !lines.is_empty()).collect();
    let expected = times.into_iter().zip(1..).map(|(ts, seq)| {
        let event = event(ts).to_json();
        format!("{{\"seq\":{seq},\"event\":{}}}\n", String::from_utf8(event).unwrap())
    });
    assert_eq!(got, expected.collect::<Vec<_>>());
}
