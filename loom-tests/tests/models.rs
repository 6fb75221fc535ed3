//! loom models of the real ring, and one mutant of every ordering in it.
//!
//! `cargo test --release` in this folder runs every model, which must hold, and then every mutant: the same
//! crate with one labelled ordering or fence taken away, under each model that is said to notice, which must
//! fail. The suite fails if a label has no such model, if a mutant survives, or if nothing was run.
//!
//! `cargo test --release -- --matrix` runs every mutant under every model and prints who notices whom, and
//! `cargo test --release -- [MODEL] --more N` the models alone, or one, with N preemptions more than their bounds.
//! `cargo test --release -- MODEL` runs one model, in this process (`LAPWING_MUTANT=label` in the environment
//! weakens one ordering).
//!
//! Every payload describes itself: its tag is a checksum of its bytes, and its bytes say who published it. Every
//! reader of a model gives an account at its end: what was delivered and dropped follows each other without a
//! hole or an overlap, from where it started to the last seq.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, ExitCode, Output};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use lapwing::event::{Category, Event, Source, SourceKind};
use lapwing::model_support::LABELS;
use lapwing::model_support::lanes::{self, Form, Laned, Run, Tally};
use lapwing::ring::{
    Bytes, Config, Handle, Payload, PublishError, Read, ReadError, Reader, Ring, RingOf, Step, TryReadError,
    TypedRing, Wait,
};
use lapwing::stream::{self, CategorySet, EventStream, Publish, ReadResult};
use loom::sync::atomic::AtomicBool;
use loom::thread;

/// The page whose table has a row for every label.
const DESIGN: &str = include_str!("../../src/design.md");

/// A model of the ring.
struct Model {
    name: &'static str,
    /// How often a thread may be stopped where it would not have to wait. Every mutant dies with 2; a
    /// bound is as high as keeps the model under about half a minute, and at least 2. (A reader that spins never
    /// sleeps, so that each of its looks is a point to stop at: that model is the one with 2.)
    preemptions: usize,
    run: fn(),
    /// The labels whose mutants it must notice.
    kills: &'static [&'static str],
}

const MODELS: &[Model] = &[
    Model {
        name: "publisher_against_reader",
        preemptions: 5,
        run: publisher_against_reader,
        kills: &["write:F", "commit:R", "read:A", "read:F"],
    },
    Model {
        name: "two_publishers_one_slot",
        preemptions: 4,
        run: two_publishers_one_slot,
        kills: &["claim:A"],
    },
    Model { name: "two_publishers_two_slots", preemptions: 3, run: two_publishers_two_slots, kills: &[] },
    Model { name: "reader_is_lapped", preemptions: 3, run: reader_is_lapped, kills: &["write:F", "read:F"] },
    Model { name: "reader_is_made", preemptions: 3, run: reader_is_made, kills: &[] },
    Model { name: "reader_from_now", preemptions: 3, run: reader_from_now, kills: &[] },
    Model { name: "batch_against_single", preemptions: 4, run: batch_against_single, kills: &[] },
    Model {
        name: "exclusive_publisher",
        preemptions: 5,
        run: exclusive_publisher,
        kills: &["write:F", "commit:R", "read:A", "read:F"],
    },
    Model {
        name: "typed_ring",
        preemptions: 6,
        run: typed_ring,
        kills: &["write:F", "commit:R", "read:A", "read:F"],
    },
    Model { name: "look_in_place", preemptions: 6, run: look_in_place, kills: &["write:F", "read:F"] },
    Model { name: "skip_by_tag", preemptions: 6, run: skip_by_tag, kills: &["read:F"] },
    Model { name: "stalled_publisher", preemptions: 4, run: stalled_publisher, kills: &[] },
    Model { name: "all_slots_stalled", preemptions: 5, run: all_slots_stalled, kills: &[] },
    Model {
        name: "park_against_publish",
        preemptions: 5,
        run: park_against_publish,
        kills: &["notify:F", "serve:F"],
    },
    Model {
        name: "park_against_exclusive",
        preemptions: 5,
        run: park_against_exclusive,
        kills: &["notify:F", "serve:F"],
    },
    Model { name: "park_against_given_up", preemptions: 5, run: park_against_given_up, kills: &[] },
    Model {
        name: "cancel_against_park",
        preemptions: 5,
        run: cancel_against_park,
        kills: &["cancel:R", "cancelled:A"],
    },
    Model {
        name: "close_against_park",
        preemptions: 5,
        run: close_against_park,
        kills: &["close:R", "closed:A", "request:F"],
    },
    Model { name: "close_against_publish", preemptions: 3, run: close_against_publish, kills: &[] },
    Model { name: "spin_against_publish", preemptions: 2, run: spin_against_publish, kills: &[] },
    Model {
        name: "task_against_publish",
        preemptions: 4,
        run: task_against_publish,
        kills: &["notify:F", "serve:F"],
    },
    Model { name: "dropped_future", preemptions: 4, run: dropped_future, kills: &[] },
    Model {
        name: "two_sleepers_against_close",
        preemptions: 3,
        run: two_sleepers_against_close,
        kills: &["request:F", "serve:F"],
    },
    Model {
        name: "two_sleepers_against_publish",
        preemptions: 3,
        run: two_sleepers_against_publish,
        kills: &[],
    },
    Model {
        name: "overtaken_in_chunks",
        preemptions: 7,
        run: overtaken_in_chunks,
        kills: &["write:F", "commit:R", "read:A", "read:F"],
    },
    Model {
        name: "overtaken_in_one_slot",
        preemptions: 4,
        run: overtaken_in_one_slot,
        kills: &["write:F", "commit:R", "read:A", "read:F"],
    },
    Model {
        name: "two_publishers_two_chunks",
        preemptions: 4,
        run: two_publishers_two_chunks,
        kills: &["claim:A", "write:F", "commit:R", "read:A", "read:F"],
    },
    Model {
        name: "two_publishers_three_chunks",
        preemptions: 3,
        run: two_publishers_three_chunks,
        kills: &[],
    },
    Model { name: "stopped_before_its_run", preemptions: 4, run: stopped_before_its_run, kills: &[] },
    Model {
        name: "stopped_in_its_first_chunk",
        preemptions: 7,
        run: stopped_in_its_first_chunk,
        kills: &["write:F", "read:F"],
    },
    Model {
        name: "stopped_in_its_second_chunk",
        preemptions: 8,
        run: stopped_in_its_second_chunk,
        kills: &[],
    },
    Model { name: "large_is_skipped", preemptions: 8, run: large_is_skipped, kills: &["write:F", "read:F"] },
    Model {
        name: "counters_of_one_slot",
        preemptions: 6,
        run: counters_of_one_slot,
        kills: &["claim:A", "commit:R"],
    },
    Model { name: "counters_of_two_slots", preemptions: 6, run: counters_of_two_slots, kills: &[] },
    Model { name: "readable_is_there", preemptions: 2, run: readable_is_there, kills: &[] },
    Model { name: "stream_from_now", preemptions: 3, run: stream_from_now, kills: &["commit:R", "read:A"] },
    Model {
        name: "stream_of_large_events",
        preemptions: 3,
        run: stream_of_large_events,
        kills: &["commit:R", "read:A"],
    },
    Model { name: "stream_gives_a_run_up", preemptions: 4, run: stream_gives_a_run_up, kills: &[] },
    Model { name: "stream_captures_less", preemptions: 8, run: stream_captures_less, kills: &[] },
];

/// What a model must come across in some of its states, or it shows less than it says.
const MUST_SEE: &[(&str, &[&str])] = &[
    ("overtaken_in_chunks", &["whole", "short"]),
    ("overtaken_in_one_slot", &["whole", "short", "dropped"]),
    ("two_publishers_two_chunks", &["whole", "short", "given up"]),
    ("two_publishers_three_chunks", &["whole", "short", "given up", "dropped"]),
    ("stopped_in_its_first_chunk", &["the stopped one whole", "short"]),
    ("large_is_skipped", &["skipped", "whole", "dropped"]),
    ("counters_of_one_slot", &["overrun", "refused", "all"]),
    ("counters_of_two_slots", &["all"]),
    ("readable_is_there", &["none", "some", "all"]),
    ("stream_from_now", &["none", "some", "all"]),
    ("stream_of_large_events", &["whole", "short"]),
    ("stream_gives_a_run_up", &["whole", "short", "given up"]),
    ("stream_captures_less", &["captured", "not captured"]),
];

static SEEN: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());

fn see(what: &'static str) {
    SEEN.lock().unwrap().insert(what);
}

// ---- Payloads that describe themselves, and readers that give an account.

fn checksum(payload: u64) -> u16 {
    let folded = payload.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (folded >> 48) as u16 | 1
}

/// Publisher and its own count.
fn payload(publisher: u64, count: u64) -> u64 {
    publisher << 32 | count
}

fn publish(ring: &Ring, payload: u64) -> u64 {
    ring.publish_tagged(checksum(payload), &payload.to_le_bytes()).expect("MODEL: publish failed")
}

fn ring(capacity: u64) -> Ring {
    Config::new(capacity).wait(Wait::Spin).bytes(8).unwrap()
}

fn parking_ring(capacity: u64) -> Ring {
    Config::new(capacity).wait(Wait::Park).bytes(8).unwrap()
}

/// An event that says by itself what was published.
trait Described: Payload {
    /// Seq and payload, after a check that nothing of the event is torn.
    fn payload(event: Self::Event<'_>) -> (u64, u64);
}

impl Described for Bytes {
    fn payload(event: Self::Event<'_>) -> (u64, u64) {
        let payload = u64::from_le_bytes(event.bytes.try_into().expect("MODEL: torn length"));
        assert_eq!(event.tag, checksum(payload), "MODEL: torn event {}", event.seq);
        (event.seq, payload)
    }
}

/// What one reader got, checked as it comes.
struct Account<P: Described = Bytes> {
    reader: Reader<P>,
    next: u64,
    delivered: BTreeMap<u64, u64>,
    dropped: u64,
}

impl<P: Described> Account<P> {
    fn of(reader: Reader<P>) -> Self {
        Self { next: reader.next_seq(), reader, delivered: BTreeMap::new(), dropped: 0 }
    }

    fn enter(&mut self, read: Read<(u64, u64)>) {
        match read {
            Read::Event((seq, payload)) => {
                assert_eq!(seq, self.next, "MODEL: out of order");
                self.delivered.insert(seq, payload);
                self.next += 1;
            }
            Read::Dropped(dropped) => {
                assert_eq!(dropped.from, self.next, "MODEL: a hole before a drop");
                assert!(dropped.to >= dropped.from, "MODEL: an empty drop");
                self.dropped += dropped.count();
                self.next = dropped.to + 1;
            }
        }
        assert_eq!(self.next, self.reader.next_seq(), "MODEL: position and account differ");
    }

    /// One attempt. False when there was nothing.
    fn try_once(&mut self) -> bool {
        let read = match self.reader.try_read() {
            Ok(Read::Event(event)) => Read::Event(P::payload(event)),
            Ok(Read::Dropped(dropped)) => Read::Dropped(dropped),
            Err(_) => return false,
        };
        self.enter(read);
        true
    }

    fn wait_once(&mut self) -> Result<(), ReadError> {
        let read = match self.reader.read()? {
            Read::Event(event) => Read::Event(P::payload(event)),
            Read::Dropped(dropped) => Read::Dropped(dropped),
        };
        self.enter(read);
        Ok(())
    }

    /// When nobody publishes any more: reads the rest, and checks the whole against what was published.
    fn close(mut self, last_seq: u64, published: &BTreeMap<u64, u64>) {
        while self.try_once() {}
        assert_eq!(self.next, last_seq + 1, "MODEL: delivered + dropped is not the last seq");
        for (seq, payload) in &self.delivered {
            assert_eq!(published.get(seq), Some(payload), "MODEL: event {seq} is not what was published");
        }
    }
}

/// Runs a reader that tries `tries` times on a thread of its own.
fn reading<P: Described>(reader: Reader<P>, tries: usize) -> thread::JoinHandle<Account<P>> {
    thread::spawn(move || {
        let mut account = Account::of(reader);
        for _ in 0..tries {
            account.try_once();
        }
        account
    })
}

/// Publishes `n` events on a thread of its own.
fn publishing(ring: &Arc<Ring>, publisher: u64, n: u64) -> thread::JoinHandle<Vec<(u64, u64)>> {
    let ring = Arc::clone(ring);
    thread::spawn(move || {
        let mut published = Vec::new();
        for count in 0..n {
            let payload = payload(publisher, count);
            match ring.publish_tagged(checksum(payload), &payload.to_le_bytes()) {
                Ok(seq) => published.push((seq, payload)),
                Err(PublishError::Stalled { .. }) => {}
                Err(error) => panic!("MODEL: {error}"),
            }
        }
        published
    })
}

// ---- The slot protocol.

/// One slot, so that the second event overwrites the first under the reader's eyes.
fn publisher_against_reader() {
    let ring = Arc::new(ring(1));
    let reading = reading(ring.reader_from_oldest(), 2);
    let published = publishing(&ring, 1, 2).join().unwrap();
    reading.join().unwrap().close(2, &published.into_iter().collect());
}

/// Two publishers, one lap apart, meet in the only slot.
fn two_publishers_one_slot() {
    let ring = Arc::new(ring(1));
    let reading = reading(ring.reader_from_oldest(), 1);
    let publishers = [publishing(&ring, 1, 1), publishing(&ring, 2, 1)];
    let published: BTreeMap<_, _> = publishers.into_iter().flat_map(|p| p.join().unwrap()).collect();
    reading.join().unwrap().close(ring.newest(), &published);
}

fn two_publishers_two_slots() {
    let ring = Arc::new(ring(2));
    let reading = reading(ring.reader_from_oldest(), 2);
    let publishers = [publishing(&ring, 1, 2), publishing(&ring, 2, 1)];
    let published: BTreeMap<_, _> = publishers.into_iter().flat_map(|p| p.join().unwrap()).collect();
    reading.join().unwrap().close(ring.newest(), &published);
}

fn reader_is_lapped() {
    let ring = Arc::new(ring(2));
    let reading = reading(ring.reader_from_oldest(), 2);
    let published = publishing(&ring, 1, 4).join().unwrap();
    reading.join().unwrap().close(4, &published.into_iter().collect());
}

/// Readers made while a publisher laps the ring, at every kind of position.
fn reader_is_made() {
    let ring = Arc::new(ring(1));
    let publisher = publishing(&ring, 1, 2);
    let handle = ring.handle();
    let made = thread::spawn(move || {
        let mut accounts =
            vec![Account::of(handle.reader_from_oldest()), Account::of(handle.reader_after(0).unwrap())];
        let newest = handle.newest();
        let beyond = handle.reader_after(newest + 3).map(|_| ());
        assert!(beyond.is_err(), "MODEL: a position beyond the newest");
        accounts.iter_mut().for_each(|account| _ = account.try_once());
        accounts
    });
    let published: BTreeMap<_, _> = publisher.join().unwrap().into_iter().collect();
    for account in made.join().unwrap() {
        account.close(2, &published);
    }
}

/// What a reader from now leaves out was readable when it was made.
fn reader_from_now() {
    let ring = Arc::new(ring(2));
    let publishers = [publishing(&ring, 1, 1), publishing(&ring, 2, 1)];
    let handle = ring.handle();
    let made = thread::spawn(move || {
        let from_now = handle.reader_from_now();
        let mut before = handle.reader_after(0).unwrap();
        while before.next_seq() < from_now.next_seq() {
            assert!(before.try_read().is_ok(), "MODEL: a reader from now leaves out what was not readable");
        }
        Account::of(from_now)
    });
    let published: BTreeMap<_, _> = publishers.into_iter().flat_map(|p| p.join().unwrap()).collect();
    made.join().unwrap().close(ring.newest(), &published);
}

fn batch_against_single() {
    let ring = Arc::new(ring(2));
    let reading = reading(ring.reader_from_oldest(), 1);
    let single = publishing(&ring, 1, 1);
    let batch = {
        let ring = Arc::clone(&ring);
        thread::spawn(move || {
            let payloads = [payload(2, 0), payload(2, 1)];
            let bytes = payloads.map(u64::to_le_bytes);
            let events = [(checksum(payloads[0]), &bytes[0][..]), (checksum(payloads[1]), &bytes[1][..])];
            match ring.publish_batch(&events) {
                Ok(seqs) if seqs.end - seqs.start == 2 => seqs.zip(payloads).collect::<Vec<_>>(),
                // A number was stepped over, or the rest refused: which is whose is told by the payloads.
                Ok(_) => Vec::new(),
                Err(error) => {
                    assert!(matches!(error.error, PublishError::Stalled { .. }), "MODEL: {error}");
                    Vec::new()
                }
            }
        })
    };
    let mut published: BTreeMap<_, _> = single.join().unwrap().into_iter().collect();
    let batch = batch.join().unwrap();
    let account = reading.join().unwrap();
    if batch.is_empty() {
        // Known by their payloads instead.
        let mut account = account;
        while account.try_once() {}
        published.extend(account.delivered.iter().filter(|(_, payload)| **payload >> 32 == 2));
        account.close(ring.newest(), &published);
    } else {
        published.extend(batch);
        account.close(ring.newest(), &published);
    }
}

fn exclusive_publisher() {
    let mut ring = ring(1).into_exclusive();
    let reading = reading(ring.reader_from_oldest(), 2);
    let publisher = thread::spawn(move || {
        let published: BTreeMap<_, _> = (0..2)
            .map(|count| payload(1, count))
            .map(|payload| (ring.publish_tagged(checksum(payload), &payload.to_le_bytes()).unwrap(), payload))
            .collect();
        (ring, published)
    });
    let (_ring, published) = publisher.join().unwrap();
    reading.join().unwrap().close(2, &published);
}

/// Two words a value, so that there is something to tear.
fn typed_ring() {
    let ring = Arc::new(Config::new(1).wait(Wait::Spin).typed::<[u64; 2]>().unwrap());
    let mut reader = ring.reader_from_oldest();
    let publisher = {
        let ring: Arc<TypedRing<[u64; 2]>> = Arc::clone(&ring);
        thread::spawn(move || (1..=2).for_each(|n: u64| assert_eq!(ring.publish(&[n, !n]), Ok(n))))
    };
    let mut next = 1;
    let mut read = |tries: usize| {
        for _ in 0..tries {
            match reader.try_read() {
                Ok(Read::Event(event)) => {
                    assert_eq!(event.seq, next, "MODEL: out of order");
                    assert_eq!(event.value, [event.seq, !event.seq], "MODEL: torn event");
                    next += 1;
                }
                Ok(Read::Dropped(dropped)) => {
                    assert_eq!(dropped.from, next, "MODEL: a hole before a drop");
                    next = dropped.to + 1;
                }
                Err(_) => {}
            }
        }
        next
    };
    read(2);
    publisher.join().unwrap();
    assert_eq!(read(2), 3, "MODEL: delivered + dropped is not the last seq");
}

fn look_in_place() {
    let ring = Arc::new(ring(1));
    let mut reader = ring.reader_from_oldest();
    let publisher = publishing(&ring, 1, 2);
    for _ in 0..2 {
        let look = reader.try_look(|event| {
            let mut bytes = [0; 8];
            (event.copy_to(&mut bytes), event.tag(), u64::from_le_bytes(bytes))
        });
        if let Ok(Read::Event((len, tag, payload))) = look {
            assert_eq!((len, tag), (8, checksum(payload)), "MODEL: torn event");
        }
    }
    let published = publisher.join().unwrap();
    Account::of(reader).close(2, &published.into_iter().collect());
}

/// The first event is wanted, the second is not: it must neither be delivered nor make the first one skipped.
fn skip_by_tag() {
    let ring = Arc::new(ring(1));
    let (wanted, unwanted) = (payload(1, 0), payload(1, 1));
    let mut reader = ring.reader_from_oldest();
    reader.set_filter(|tag| tag == checksum(wanted));
    let publisher = {
        let ring = Arc::clone(&ring);
        thread::spawn(move || (publish(&ring, wanted), publish(&ring, unwanted)))
    };
    let mut delivered = 0;
    let mut dropped = 0;
    let mut read = |reader: &mut Reader| {
        match reader.try_read() {
            Ok(Read::Event(event)) => {
                assert_eq!((event.seq, event.tag), (1, checksum(wanted)), "MODEL: an unwanted event");
                delivered += 1;
            }
            Ok(Read::Dropped(lost)) => dropped += lost.count(),
            Err(_) => {}
        }
        (delivered, dropped)
    };
    read(&mut reader);
    publisher.join().unwrap();
    read(&mut reader);
    let (delivered, dropped) = read(&mut reader);
    assert_eq!(delivered + dropped + reader.skipped(), 2, "MODEL: unaccounted");
    assert_eq!(delivered + dropped, 1, "MODEL: the wanted event was skipped");
}

// ---- Stalled publishers.

/// A publisher is stopped with its slot in writing; another one goes past it, and past it again.
fn stalled_publisher() {
    let ring = Arc::new(ring(2));
    let reading = reading(ring.reader_from_oldest(), 2);
    let other = Arc::clone(&ring);
    let publisher = thread::spawn(move || {
        let mut published = BTreeMap::new();
        let stalled = payload(1, 0);
        let seq = other
            .publish_stepped(checksum(stalled), &stalled.to_le_bytes(), |step, _| {
                if step == Step::Writing {
                    for count in 0..3 {
                        let passing = payload(2, count);
                        published.insert(publish(&other, passing), passing);
                    }
                }
            })
            .unwrap();
        published.insert(seq, stalled);
        published
    });
    let published = publisher.join().unwrap();
    assert_eq!(published.len(), 4, "MODEL: a publish was held up by a stalled one");
    reading.join().unwrap().close(ring.newest(), &published);
}

/// Every slot is held: publishing is refused, in bounded steps, and goes on when the slot is free again.
fn all_slots_stalled() {
    let ring = Arc::new(ring(1));
    let reading = reading(ring.reader_from_oldest(), 2);
    let other = Arc::clone(&ring);
    let publisher = thread::spawn(move || {
        let stalled = payload(1, 0);
        let seq = other
            .publish_stepped(checksum(stalled), &stalled.to_le_bytes(), |step, _| {
                if step == Step::Writing {
                    let refused = other.publish(&[0; 8]);
                    assert_eq!(refused, Err(PublishError::Stalled { tried: 1 }), "MODEL: not refused");
                }
            })
            .unwrap();
        let after = payload(1, 1);
        BTreeMap::from([(seq, stalled), (publish(&other, after), after)])
    });
    let published = publisher.join().unwrap();
    assert_eq!(published.keys().copied().collect::<Vec<_>>(), [1, 3]);
    reading.join().unwrap().close(3, &published);
}

// ---- Waiting.

fn sleeping(reader: Reader, reads: usize) -> thread::JoinHandle<Account> {
    thread::spawn(move || {
        let mut account = Account::of(reader);
        for _ in 0..reads {
            account.wait_once().unwrap();
        }
        account
    })
}

/// A lost wake-up is a deadlock, which loom reports.
fn park_against_publish() {
    let ring = Arc::new(parking_ring(1));
    let reading = sleeping(ring.reader_from_oldest(), 1);
    let published = publishing(&ring, 1, 1).join().unwrap();
    reading.join().unwrap().close(1, &published.into_iter().collect());
}

fn park_against_exclusive() {
    let mut ring = parking_ring(1).into_exclusive();
    let reading = sleeping(ring.reader_from_oldest(), 1);
    let payload = payload(1, 0);
    let seq = ring.publish_tagged(checksum(payload), &payload.to_le_bytes()).unwrap();
    reading.join().unwrap().close(1, &BTreeMap::from([(seq, payload)]));
}

/// A reader that waits for a number that is given up is woken to be told so.
fn park_against_given_up() {
    let ring = Arc::new(parking_ring(1));
    let stalled = payload(1, 0);
    let mut reading = None;
    ring.publish_stepped(checksum(stalled), &stalled.to_le_bytes(), |step, seq| {
        if step == Step::Writing {
            assert_eq!(seq, 1);
            reading = Some(sleeping(ring.reader_from_oldest(), 1));
            assert_eq!(ring.publish(&[0; 8]), Err(PublishError::Stalled { tried: 1 }));
            // The reader waits for 1, which is lapped now, or has been told.
            let account = reading.take().unwrap().join().unwrap();
            assert_eq!((account.dropped, account.next), (1, 2), "MODEL: not told of what it waits for");
            account.close(2, &BTreeMap::new());
        }
    })
    .unwrap();
}

fn cancel_against_park() {
    let ring = Arc::new(parking_ring(1));
    let mut reader = ring.reader_from_oldest();
    let canceller = reader.canceller();
    let done = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&done);
    let reading = thread::spawn(move || {
        assert_eq!(reader.read().map(|_| ()), Err(ReadError::Cancelled));
        assert!(
            seen.load(loom::sync::atomic::Ordering::Relaxed),
            "MODEL: cancelled before the canceller's past"
        );
    });
    done.store(true, loom::sync::atomic::Ordering::Relaxed);
    canceller.cancel();
    reading.join().unwrap();
}

fn close_against_park() {
    let ring = Arc::new(parking_ring(1));
    let mut reader = ring.reader_from_oldest();
    let done = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&done);
    let reading = thread::spawn(move || {
        assert_eq!(reader.read().map(|_| ()), Err(ReadError::Closed));
        assert!(seen.load(loom::sync::atomic::Ordering::Relaxed), "MODEL: closed before the closer's past");
    });
    done.store(true, loom::sync::atomic::Ordering::Relaxed);
    ring.close();
    reading.join().unwrap();
}

/// Every publish is before the end, and read, or after it, and refused.
fn close_against_publish() {
    let ring = Arc::new(parking_ring(2));
    let reader = ring.reader_from_oldest();
    let publisher = {
        let ring = Arc::clone(&ring);
        thread::spawn(move || {
            let payload = payload(1, 0);
            ring.publish_tagged(checksum(payload), &payload.to_le_bytes()).map(|seq| (seq, payload))
        })
    };
    let reading = thread::spawn(move || {
        let mut account = Account::of(reader);
        while account.wait_once().is_ok() {}
        assert_eq!(account.reader.try_read(), Err(TryReadError::Closed));
        account
    });
    assert!(ring.close());
    let published = publisher.join().unwrap();
    let account = reading.join().unwrap();
    assert_eq!(account.delivered.len(), usize::from(published.is_ok()), "MODEL: published and read differ");
    assert_eq!(ring.newest(), u64::from(published.is_ok()), "MODEL: the end is not the last event");
    account.close(ring.newest(), &published.into_iter().collect());
}

fn spin_against_publish() {
    let ring = Arc::new(ring(1));
    let reading = sleeping(ring.reader_from_oldest(), 1);
    let published = publishing(&ring, 1, 1).join().unwrap();
    reading.join().unwrap().close(1, &published.into_iter().collect());
}

fn task_against_publish() {
    let ring = Arc::new(parking_ring(1));
    let mut reader = ring.reader_from_oldest();
    let publisher = publishing(&ring, 1, 1);
    let read =
        loom::future::block_on(async { reader.read_async().await.map(|read| read.event().map(|e| e.seq)) });
    assert_eq!(read, Ok(Some(1)));
    publisher.join().unwrap();
}

/// A future is polled once and dropped while the event arrives: the event is still the next one.
fn dropped_future() {
    let ring = Arc::new(parking_ring(1));
    let mut reader = ring.reader_from_oldest();
    let publisher = publishing(&ring, 1, 1);
    let first = loom::future::block_on(async {
        let mut future = std::pin::pin!(reader.read_async());
        std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx).is_ready())).await
    });
    if !first {
        let read = loom::future::block_on(async {
            reader.read_async().await.map(|read| read.event().map(|e| e.seq))
        });
        assert_eq!(read, Ok(Some(1)), "MODEL: a dropped future took the event");
    }
    publisher.join().unwrap();
}

/// The closer may find the list locked by one reader, which then has to wake the other.
fn two_sleepers_against_close() {
    let ring = parking_ring(1);
    let readers = [ring.reader_from_oldest(), ring.reader_from_oldest()];
    let reading = readers.map(|mut reader| {
        thread::spawn(move || assert_eq!(reader.read().map(|_| ()), Err(ReadError::Closed)))
    });
    ring.close();
    for thread in reading {
        thread.join().unwrap();
    }
}

fn two_sleepers_against_publish() {
    let ring = Arc::new(parking_ring(1));
    let reading = [sleeping(ring.reader_from_oldest(), 1), sleeping(ring.reader_from_oldest(), 1)];
    let published: BTreeMap<_, _> = publishing(&ring, 1, 1).join().unwrap().into_iter().collect();
    for thread in reading {
        thread.join().unwrap().close(1, &published);
    }
}

// ---- Two lanes.

/// In the payload of a large event that is there in its short form.
const SHORT: u64 = 1 << 63;

impl Described for Laned {
    fn payload(event: Self::Event<'_>) -> (u64, u64) {
        let (words, rest) = event.bytes().as_chunks();
        let words: Vec<_> = words.iter().copied().map(u64::from_le_bytes).collect();
        assert!(rest.is_empty() && !words.is_empty(), "MODEL: torn length");
        let payload = words[0];
        assert_eq!(event.tag, checksum(payload & !SHORT), "MODEL: torn event {}", event.seq);
        if event.short {
            assert!(payload & SHORT != 0, "MODEL: a short form that is none");
        }
        match words[..] {
            [_] if payload & SHORT != 0 => see("short"),
            [_] => see("small"),
            [_, second] => {
                assert!(!event.short, "MODEL: a short form from chunks");
                assert_eq!(second, payload.rotate_left(32), "MODEL: torn chunks of event {}", event.seq);
                see("whole");
            }
            _ => panic!("MODEL: torn length"),
        }
        (event.seq, payload)
    }
}

fn laned(capacity: u64, chunks: u64) -> RingOf<Laned> {
    lanes::ring(Config::new(capacity).wait(Wait::Spin), 8, chunks, 16).unwrap()
}

/// The event of two chunks, in parts that do not end where chunks do.
fn write_large(ring: &Handle<Laned>, payload: u64, step: impl FnMut(Step, u64)) -> Option<Run> {
    let bytes = [payload, payload.rotate_left(32)].map(u64::to_le_bytes).concat();
    ring.write_run_stepped([&bytes[..3], &bytes[3..12], &bytes[12..]], step)
}

/// The slot of a large event.
fn publish_run(ring: &RingOf<Laned>, payload: u64, run: Option<Run>) -> Result<u64, PublishError> {
    let short = (payload | SHORT).to_le_bytes();
    let form = Form { tag: checksum(payload), run, bytes: &short, truncated: run.is_none() };
    ring.publish(|_| form)
}

/// A large event. Whether its run was given up, too.
fn publish_large(ring: &RingOf<Laned>, payload: u64) -> Result<(u64, bool), PublishError> {
    let run = write_large(ring, payload, |_, _| ());
    Ok((publish_run(ring, payload, run)?, run.is_none()))
}

fn publish_small(ring: &RingOf<Laned>, payload: u64) -> u64 {
    let form = Form { tag: checksum(payload), run: None, bytes: &payload.to_le_bytes(), truncated: false };
    ring.publish(|_| form).expect("MODEL: publish failed")
}

/// Publishes `n` large events on a thread of its own: each with its seq, its payload, and whether its run was
/// given up.
fn publishing_large(
    ring: &Arc<RingOf<Laned>>,
    publisher: u64,
    n: u64,
) -> thread::JoinHandle<Vec<(u64, u64, bool)>> {
    let ring = Arc::clone(ring);
    thread::spawn(move || {
        let mut published = Vec::new();
        for payload in (0..n).map(|count| payload(publisher, count)) {
            match publish_large(&ring, payload) {
                Ok((seq, given_up)) => published.push((seq, payload, given_up)),
                Err(PublishError::Stalled { .. }) => {}
                Err(error) => panic!("MODEL: {error}"),
            }
        }
        published
    })
}

impl Account<Laned> {
    /// As [`close`](Account::close), for large events. The last one came whole if its run is the last.
    fn close_large(mut self, last_seq: u64, published: &[(u64, u64, bool)]) -> BTreeMap<u64, u64> {
        for (seq, _, given_up) in published {
            while self.next <= *seq && self.try_once() {}
            if *given_up {
                see("given up");
                let got = self.delivered.get(seq).copied().unwrap_or(SHORT);
                assert!(got & SHORT != 0, "MODEL: event {seq} is whole, but its run was given up");
            }
        }
        while self.try_once() {}
        if self.dropped > 0 {
            see("dropped");
        }
        let forms = self.delivered.clone();
        self.delivered.values_mut().for_each(|payload| *payload &= !SHORT);
        self.close(last_seq, &published.iter().map(|(seq, payload, _)| (*seq, *payload)).collect());
        forms
    }
}

/// There is room for the chunks of one event, and for the slots of both: the reader of the first event is
/// overtaken in its chunks, and gets the short form.
fn overtaken_in_chunks() {
    let ring = Arc::new(laned(2, 2));
    let reading = reading(ring.reader_from_oldest(), 2);
    let published = publishing_large(&ring, 1, 2).join().unwrap();
    let forms = reading.join().unwrap().close_large(2, &published);
    assert_eq!(forms.len(), 2, "MODEL: an event with a short form was lost");
    assert_eq!(forms[&2] & SHORT, 0, "MODEL: what nobody overwrites is not whole");
}

/// The same, and its slot is overwritten as well.
fn overtaken_in_one_slot() {
    let ring = Arc::new(laned(1, 2));
    let reading = reading(ring.reader_from_oldest(), 2);
    let published = publishing_large(&ring, 1, 2).join().unwrap();
    let forms = reading.join().unwrap().close_large(2, &published);
    assert_eq!(forms[&2] & SHORT, 0, "MODEL: what nobody overwrites is not whole");
}

/// Two large events at once, of which the chunks have room for one, or for one and a half.
fn two_publishers_meet(capacity: u64, chunks: u64) {
    let ring = Arc::new(laned(capacity, chunks));
    let reading = reading(ring.reader_from_oldest(), 1);
    let publishers = [publishing_large(&ring, 1, 1), publishing_large(&ring, 2, 1)];
    let published: Vec<_> = publishers.into_iter().flat_map(|p| p.join().unwrap()).collect();
    reading.join().unwrap().close_large(ring.newest(), &published);
}

fn two_publishers_two_chunks() {
    two_publishers_meet(2, 2);
}

fn two_publishers_three_chunks() {
    two_publishers_meet(1, 3);
}

/// What becomes of two large events of which one's publisher is stopped while it writes its run.
struct Stopped {
    at: (Step, u64),
    /// Whether the run of the other one, which comes meanwhile, is given up.
    other_given_up: bool,
    /// Whether its own is, when it goes on.
    given_up: bool,
    whole: bool,
}

/// A publisher is stopped while it writes its run, which takes all the chunks: small events and others' large
/// ones go on.
fn stopped_in_its_run(stopped: Stopped) {
    let ring = Arc::new(laned(4, 2));
    let reading = reading(ring.reader_from_oldest(), 3);
    let other = Arc::clone(&ring);
    let publisher = thread::spawn(move || {
        let mut published = Vec::new();
        let mine = payload(1, 0);
        let run = write_large(&other, mine, |step, chunk| {
            if (step, chunk) == stopped.at {
                let small = payload(2, 0);
                published.push((publish_small(&other, small), small, false));
                let large = payload(2, 1);
                let (seq, given_up) = publish_large(&other, large).expect("MODEL: held up");
                assert_eq!(given_up, stopped.other_given_up, "MODEL: the other's run");
                published.push((seq, large, given_up));
            }
        });
        assert_eq!(run.is_none(), stopped.given_up, "MODEL: the stopped one's run");
        published.push((publish_run(&other, mine, run).expect("MODEL: held up"), mine, run.is_none()));
        let after = payload(1, 1);
        let (seq, given_up) = publish_large(&other, after).expect("MODEL: held up");
        assert!(!given_up, "MODEL: large events do not go on");
        published.push((seq, after, given_up));
        published
    });
    let published = publisher.join().unwrap();
    let forms = reading.join().unwrap().close_large(4, &published);
    assert_eq!(forms.len(), 4, "MODEL: an event with a short form was lost");
    if forms[&3] & SHORT == 0 {
        assert!(stopped.whole, "MODEL: whole without its chunks");
        see("the stopped one whole");
    }
    assert_eq!(forms[&4] & SHORT, 0, "MODEL: what nobody overwrites is not whole");
}

/// Before it has its first chunk: the other one takes it, and its own run is given up when it goes on.
fn stopped_before_its_run() {
    let at = (Step::Claimed, 1);
    stopped_in_its_run(Stopped { at, other_given_up: false, given_up: true, whole: false });
}

/// In its first chunk: the other one comes upon that and gives its run up.
fn stopped_in_its_first_chunk() {
    let at = (Step::Writing, 1);
    stopped_in_its_run(Stopped { at, other_given_up: true, given_up: false, whole: true });
}

/// In its second chunk: the other one overwrites the first, and gives its run up at the second. The stopped one
/// knows nothing of that, but who reads its run does.
fn stopped_in_its_second_chunk() {
    let at = (Step::Writing, 2);
    stopped_in_its_run(Stopped { at, other_given_up: true, given_up: false, whole: false });
}

/// The large event is not wanted: it is skipped by its slot alone, and not taken for the one that is.
fn large_is_skipped() {
    let ring = Arc::new(laned(1, 2));
    let (unwanted, wanted) = (payload(1, 0), payload(1, 1));
    let mut reader = ring.reader_from_oldest();
    reader.set_filter(|tag| tag == checksum(wanted));
    let reading = thread::spawn(move || {
        let mut got = Vec::new();
        let mut dropped = 0;
        let mut read = |reader: &mut Reader<Laned>| match reader.try_read() {
            Ok(Read::Event(event)) => got.push(Laned::payload(event)),
            Ok(Read::Dropped(lost)) => dropped += lost.count(),
            Err(_) => {}
        };
        read(&mut reader);
        (reader, got, dropped)
    });
    let publisher = {
        let ring = Arc::clone(&ring);
        thread::spawn(move || {
            assert_eq!(publish_large(&ring, unwanted), Ok((1, false)));
            assert_eq!(publish_large(&ring, wanted), Ok((2, false)));
        })
    };
    publisher.join().unwrap();
    let (mut reader, mut got, mut dropped) = reading.join().unwrap();
    loop {
        match reader.try_read() {
            Ok(Read::Event(event)) => got.push(Laned::payload(event)),
            Ok(Read::Dropped(lost)) => dropped += lost.count(),
            Err(_) => break,
        }
    }
    if reader.skipped() > 0 {
        see("skipped");
    }
    if dropped > 0 {
        see("dropped");
    }
    assert_eq!(got, [(2, wanted)], "MODEL: the wanted event was skipped, or an unwanted one not");
    assert_eq!(1 + dropped + reader.skipped(), 2, "MODEL: unaccounted");
}

/// Counting takes no locked instruction: what orders it is that only one publisher at a time holds the slot,
/// whose counters it writes and no others.
fn counters(capacity: u64) {
    let ring = Arc::new(laned(capacity, 2));
    let publishers = [1, 2].map(|publisher| {
        let ring = Arc::clone(&ring);
        thread::spawn(move || {
            let mut written = Tally::default();
            for len in [3 + publisher, 11 + publisher] {
                let run = ring.write_run([&[0; 16][..if len > 8 { len } else { 0 }], &[], &[]]);
                let bytes = &[0; 8][..len.min(8)];
                let len = if run.is_some() { len } else { bytes.len() } as u64;
                let form = Form { tag: publisher as u16, run, bytes, truncated: publisher == 2 };
                let mut is_written = false;
                let result = ring.publish_stepped(|_| form, |step, _| is_written |= step == Step::Written);
                if is_written {
                    written.events[publisher] += 1;
                    written.bytes += len;
                    written.largest = written.largest.max(len);
                    written.truncated += u64::from(form.truncated);
                } else {
                    see(if result.is_ok() { "overrun" } else { "refused" });
                }
            }
            written
        })
    });
    let [one, two] = publishers.map(|publisher| publisher.join().unwrap());
    let mut expected = Tally { events: one.events, ..Tally::default() };
    expected.events[2] = two.events[2];
    expected.bytes = one.bytes + two.bytes;
    expected.largest = one.largest.max(two.largest);
    expected.truncated = two.truncated;
    let written = expected.events[1] + expected.events[2];
    if written == 4 {
        see("all");
    }
    assert_eq!(ring.tally(), expected, "MODEL: what was counted is not what was published");
    assert_eq!(written + ring.overruns() + ring.abandoned(), ring.newest(), "MODEL: a seq is in no counter");
}

fn counters_of_one_slot() {
    counters(1);
}

fn counters_of_two_slots() {
    counters(2);
}

/// Everything up to `readable` is there for a reader that comes later, and it never falls back.
fn readable_is_there() {
    let ring = Arc::new(ring(2));
    let publishers = [publishing(&ring, 1, 1), publishing(&ring, 2, 1)];
    let handle = ring.handle();
    let looking = thread::spawn(move || {
        let mut before = Account::of(handle.reader_after(0).unwrap());
        let mut last = 0;
        for _ in 0..2 {
            let readable = handle.readable();
            assert!(readable >= last, "MODEL: what is readable falls back");
            last = readable;
        }
        while before.next <= last {
            assert!(before.try_once(), "MODEL: what is readable is not there");
        }
        see(["none", "some", "all"][last as usize]);
        before
    });
    let published: BTreeMap<_, _> = publishers.into_iter().flat_map(|p| p.join().unwrap()).collect();
    looking.join().unwrap().close(ring.newest(), &published);
    assert_eq!(ring.readable(), ring.newest(), "MODEL: nobody writes, and something is not readable");
}

// ---- The stream.

fn event_stream(events: u64) -> EventStream {
    stream::Config::new()
        .events(events)
        .inline_bytes(128)
        .large_bytes(0)
        .max_envelope_bytes(128)
        .wait(Wait::Spin)
        .build()
        .unwrap()
}

fn event(category: Category<'static>, ts: i64) -> Event<'static> {
    Event::new("e", category, Source::new(SourceKind::Cdp)).ts(ts)
}

/// The seqs and times of what a reader gets, until there is nothing.
fn drain(reader: &mut stream::Reader) -> Vec<(u64, i64)> {
    let mut got = Vec::new();
    while let Ok(read) = reader.try_read() {
        match read {
            ReadResult::Envelope(envelope) => {
                let event = envelope.event().expect("MODEL: torn JSON");
                got.push((envelope.seq(), event.ts));
            }
            ReadResult::Dropped { from, to } => panic!("MODEL: {from} to {to} dropped in a stream with room"),
        }
    }
    got
}

/// A reader from now misses nothing that becomes readable after it was made, whenever it was claimed.
fn stream_from_now() {
    let stream = Arc::new(event_stream(2));
    let publishers = [1, 2].map(|ts| {
        let stream = Arc::clone(&stream);
        thread::spawn(move || stream.publish(&event(Category::Page, ts)).unwrap().seq().map(|seq| (seq, ts)))
    });
    let readable = stream.readable();
    let mut from_now = stream.reader_from_now();
    let start = from_now.next_seq();
    assert!(start > readable, "MODEL: what is readable falls back");
    see(["none", "some", "all"][start as usize - 1]);
    let mut before = stream.reader_after(0).unwrap();
    while before.next_seq() < start {
        assert!(before.try_read().is_ok(), "MODEL: a reader from now leaves out what was not readable");
    }
    let mut got = drain(&mut from_now);
    let mut published = publishers.map(|publisher| publisher.join().unwrap().expect("MODEL: not captured"));
    published.sort();
    got.extend(drain(&mut from_now));
    assert_eq!(got, published[start as usize - 1..], "MODEL: a reader from now misses an event");
}

/// A stream whose chunks have room for one large event, and two such events.
fn large_stream() -> (Arc<EventStream>, [Event<'static>; 2]) {
    let config = stream::Config::new().events(2).inline_bytes(128).wait(Wait::Spin);
    let stream = config.large_bytes(136).max_envelope_bytes(200).build().unwrap();
    let data = format!(r#""{}""#, "x".repeat(65));
    let events = [1, 2].map(|ts| event(Category::Page, ts).data_json(&data).unwrap().into_owned());
    assert!(events.iter().all(|event| event.to_json().len() == 136), "17 chunks");
    (Arc::new(stream), events)
}

/// What a reader gets until there is nothing: each event's time, and whether it is truncated.
fn drain_large(reader: &mut stream::Reader, events: &[Event<'_>; 2]) -> Vec<(i64, bool)> {
    let mut got = Vec::new();
    while let Ok(read) = reader.try_read() {
        let envelope = read.envelope().expect("MODEL: dropped in a stream with room");
        let event = envelope.event().expect("MODEL: torn JSON");
        assert_eq!(event.truncated, envelope.truncated(), "MODEL: flags differ");
        if event.truncated {
            see("short");
        } else {
            see("whole");
            let json = events[event.ts as usize - 1].to_json();
            assert_eq!(envelope.event_json(), json, "MODEL: torn event");
        }
        got.push((event.ts, event.truncated));
    }
    got
}

/// A reader of large events is overtaken in the chunks: whole, or truncated.
fn stream_of_large_events() {
    let (stream, events) = large_stream();
    let publisher = {
        let (stream, events) = (Arc::clone(&stream), events.clone());
        thread::spawn(move || {
            for (event, seq) in events.iter().zip(1..) {
                assert_eq!(stream.publish(event), Ok(Publish::Published { seq, truncated: false }));
            }
        })
    };
    let mut reader = stream.reader_from_oldest();
    let mut got = drain_large(&mut reader, &events);
    publisher.join().unwrap();
    got.extend(drain_large(&mut reader, &events));
    assert!(matches!(got[..], [(1, _), (2, false)]), "MODEL: what nobody overwrites is not whole: {got:?}");
}

/// Two large events at once: a publisher that gives its run up says so, and so does its event.
fn stream_gives_a_run_up() {
    let (stream, events) = large_stream();
    let publishers = events.clone().map(|event| {
        let stream = Arc::clone(&stream);
        thread::spawn(move || match stream.publish(&event).unwrap() {
            Publish::Published { seq, truncated } => (seq, event.ts, truncated),
            Publish::NotCaptured => panic!("MODEL: not captured"),
        })
    });
    let mut published = publishers.map(|publisher| publisher.join().unwrap());
    published.sort();
    let got = drain_large(&mut stream.reader_from_oldest(), &events);
    assert_eq!(got.len(), 2, "MODEL: an event was lost");
    for ((_, ts, given_up), got) in published.into_iter().zip(got) {
        assert_eq!(got.0, ts, "MODEL: another event");
        if given_up {
            see("given up");
            assert!(got.1, "MODEL: whole without its chunks");
        }
    }
    let given_up = published.iter().filter(|(_, _, given_up)| *given_up).count();
    assert_eq!(stream.stats().truncated(), given_up as u64, "MODEL: uncounted");
}

/// A category ceases to be captured while events of it are published: each one is in the stream, or its
/// publisher is told that it is not, and none that comes after.
fn stream_captures_less() {
    let stream = Arc::new(event_stream(4));
    let publisher = {
        let stream = Arc::clone(&stream);
        thread::spawn(move || {
            let mut published = Vec::new();
            for (ts, category) in [(1, Category::Page), (2, Category::System), (3, Category::Page)] {
                let is_system = category == Category::System;
                match stream.publish(&event(category, ts)).unwrap() {
                    Publish::Published { seq, .. } => {
                        see("captured");
                        published.push((seq, ts));
                    }
                    Publish::NotCaptured => {
                        see("not captured");
                        assert!(!is_system, "MODEL: system is always captured");
                    }
                }
            }
            published
        })
    };
    let mut reader = stream.reader_from_oldest();
    stream.set_captured(CategorySet::ALL.without(&Category::Page));
    let mut got = drain(&mut reader);
    let mut published = publisher.join().unwrap();
    assert_eq!(stream.publish(&event(Category::Page, 4)), Ok(Publish::NotCaptured), "MODEL: still captured");
    let last = stream.publish(&event(Category::System, 5)).unwrap().seq();
    published.push((last.unwrap(), 5));
    got.extend(drain(&mut reader));
    assert_eq!(got, published, "MODEL: published and read differ");
    let seqs: Vec<_> = got.iter().map(|(seq, _)| *seq).collect();
    assert!(seqs.iter().copied().eq(1..=stream.seq()), "MODEL: a seq for an event that is not captured");
    assert_eq!(stream.stats().published(), stream.seq(), "MODEL: uncounted");
}

// ---- Running them.

/// How many preemptions to add to each model's bound.
static MORE: AtomicUsize = AtomicUsize::new(0);

fn run_here(model: &Model) {
    static STATES: AtomicUsize = AtomicUsize::new(0);
    let run = model.run;
    let mut builder = loom::model::Builder::new();
    let preemptions = model.preemptions + MORE.load(Relaxed);
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 100_000;
    builder.check(move || {
        STATES.fetch_add(1, Relaxed);
        run();
    });
    let seen = SEEN.lock().unwrap();
    let must_see = MUST_SEE.iter().filter(|(name, _)| *name == model.name).flat_map(|(_, must)| *must);
    for what in must_see {
        assert!(seen.contains(what), "no state of {} has this in it: {what}", model.name);
    }
    println!("states {}, at most {preemptions} preemptions", STATES.load(Relaxed));
}

fn run_child(model: &Model, mutant: Option<&str>) -> Output {
    let mut command = Command::new(std::env::current_exe().expect("this program's path"));
    command.args([model.name, "--more", &MORE.load(Relaxed).to_string()]).env_remove("LAPWING_MUTANT");
    if let Some(label) = mutant {
        command.env("LAPWING_MUTANT", label);
    }
    command.output().expect("running a model")
}

/// A model notices a mutant by an assertion of its own, or by a deadlock: a wake-up was lost. Anything else
/// (a limit of loom's, a crash) is not a verdict.
fn noticed(output: &Output) -> Option<String> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let by = stderr.lines().find(|line| line.contains("MODEL: ") || line.contains("deadlock"))?;
    (!output.status.success()).then(|| by.trim().to_owned())
}

/// Runs the jobs on as many threads as there are processors, and prints each one's line as it ends.
fn run_all(jobs: Vec<(&Model, Option<&'static str>)>, matrix: bool) -> usize {
    let failures = AtomicUsize::new(0);
    let jobs = Mutex::new(jobs.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some((model, mutant)) = { jobs.lock().unwrap().next() } {
                    let start = Instant::now();
                    let output = run_child(model, mutant);
                    let took = start.elapsed().as_secs_f64();
                    let (ok, verdict) = match mutant {
                        None => {
                            let stdout = String::from_utf8_lossy(&output.stdout);
                            let states =
                                stdout.lines().find(|line| line.starts_with("states ")).map(str::to_owned);
                            (output.status.success() && states.is_some(), states.unwrap_or_default())
                        }
                        Some(_) => match noticed(&output) {
                            Some(by) => (true, format!("dies: {by}")),
                            None => (matrix, "SURVIVES".to_owned()),
                        },
                    };
                    let name =
                        mutant.map_or(model.name.to_owned(), |label| format!("{label} in {}", model.name));
                    println!("{} {name}: {verdict} ({took:.1} s)", if ok { "ok  " } else { "FAIL" });
                    if !ok {
                        failures.fetch_add(1, Relaxed);
                        println!("{}", String::from_utf8_lossy(&output.stderr));
                    }
                }
            });
        }
    });
    failures.into_inner()
}

/// The rows of the design page's table of orderings: label, and the models that it names.
fn rows() -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    DESIGN.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.strip_suffix(" |")?.split(" | ");
        let label = cells.next()?.strip_suffix('`')?;
        let models = cells.nth(3)?.split(", ").collect();
        label.contains(':').then_some((label, models))
    })
}

/// That labels, rows, models and mutants are the same, told apart line by line: returns how many are not.
fn compare() -> usize {
    let kills =
        |model: &str, label: &str| MODELS.iter().any(|one| one.name == model && one.kills.contains(&label));
    let mut wrong = Vec::new();
    for label in LABELS {
        if !MODELS.iter().any(|model| model.kills.contains(label)) {
            wrong.push(format!("no model kills the mutant of {label}"));
        }
        if rows().filter(|(row, _)| row == label).count() != 1 {
            wrong.push(format!("the design page's table has not exactly one row for {label}"));
        }
    }
    for (label, models) in rows() {
        if !LABELS.contains(&label) {
            wrong.push(format!("the design page's table has a row for {label}, which there is not"));
        }
        for model in models.iter().filter(|model| !kills(model, label)) {
            wrong.push(format!("the design page says that {model} sees {label}, which it does not"));
        }
    }
    for model in MODELS {
        for label in model.kills.iter().filter(|label| !LABELS.contains(label)) {
            wrong.push(format!("{} names an ordering that there is not: {label}", model.name));
        }
    }
    for (name, _) in MUST_SEE.iter().filter(|(name, _)| !MODELS.iter().any(|model| model.name == *name)) {
        wrong.push(format!("there is no model {name} to see anything"));
    }
    wrong.iter().for_each(|wrong| println!("FAIL {wrong}"));
    wrong.len()
}

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| ["--matrix", "--more"].contains(&&**a) || !a.starts_with('-'))
        .collect();
    let more = arguments.iter().position(|argument| argument == "--more");
    if let Some(at) = more {
        let Some(Ok(n)) = arguments.get(at + 1).map(|n| n.parse()) else {
            eprintln!("--more N: how many preemptions?");
            return ExitCode::FAILURE;
        };
        MORE.store(n, Relaxed);
        arguments.drain(at..at + 2);
    }
    if let Some(model) = MODELS.iter().find(|model| arguments.iter().any(|name| name == model.name)) {
        run_here(model);
        return ExitCode::SUCCESS;
    }
    if arguments.iter().any(|argument| argument == "--matrix") {
        let pairs =
            LABELS.iter().flat_map(|label| MODELS.iter().map(move |model| (model, Some(*label)))).collect();
        run_all(pairs, true);
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = arguments.first() {
        eprintln!("there is no model {unknown}");
        return ExitCode::FAILURE;
    }

    let mut failures = compare();
    failures += run_all(MODELS.iter().map(|model| (model, None)).collect(), false);
    if more.is_some() {
        println!("{} models, no mutants, {failures} failures", MODELS.len());
        return if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let mutants: Vec<_> =
        MODELS.iter().flat_map(|model| model.kills.iter().map(move |label| (model, Some(*label)))).collect();
    let runs = mutants.len();
    failures += run_all(mutants, false);

    println!("{} models, {} mutants in {runs} runs, {failures} failures", MODELS.len(), LABELS.len());
    println!("{} passed, {failures} failed", (MODELS.len() + runs).saturating_sub(failures));
    if failures == 0 && !MODELS.is_empty() && !LABELS.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
