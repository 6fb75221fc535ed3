//! The programs. Sizes are small and rings smaller, so that every reader is lapped.

use std::ops::Range;
use std::sync::Arc;

use lapwing::event::Category;
use lapwing::model_support::lanes::{self, Form, Laned};
use lapwing::ring::{BatchError, Config, Handle, ReadError, Ring, RingOf, Step, TypedRing};
use lapwing::storage::{Batch, Storage, StorageError, StorageWriter};
use lapwing::stream::{self, CategorySet, EventStream, Publish};
use shuttle::future::block_on;
use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::{Condvar, Mutex};
use shuttle::thread::{self, JoinHandle};

use crate::account::{
    Account, Id, LARGE_BYTES, Ledger, Outcome, Progress, Refused, SLOT_BYTES, Source, Value,
};
use crate::see;

pub struct Program {
    pub name: &'static str,
    pub run: fn(),
    /// Its part of the schedules, in percent.
    pub share: usize,
    /// What some of its schedules must come across, or it shows less than it says.
    pub must_see: &'static [&'static str],
}

pub const PROGRAMS: &[Program] = &[
    Program {
        name: "everything",
        run: everything,
        share: 40,
        must_see: &[
            "lapped",
            "whole from chunks",
            "truncated",
            "not captured",
            "cancelled",
            "future dropped",
            "refused: closed",
            "refused: stalled",
            "given up",
            "overrun",
        ],
    },
    Program {
        name: "everything_on_the_ring",
        run: everything_on_the_ring,
        share: 20,
        must_see: &[
            "lapped",
            "whole from chunks",
            "short form",
            "run given up",
            "cancelled",
            "future dropped",
            "refused: closed",
            "refused: stalled",
            "given up",
            "overrun",
        ],
    },
    Program {
        name: "batches",
        run: batches,
        share: 5,
        must_see: &["lapped", "given up", "overrun", "refused: stalled", "batch in part"],
    },
    Program { name: "exclusive_publisher", run: exclusive_publisher, share: 5, must_see: &["lapped"] },
    Program { name: "typed_ring", run: typed_ring, share: 4, must_see: &["lapped", "given up"] },
    Program {
        name: "publish_against_close",
        run: publish_against_close,
        share: 4,
        must_see: &["refused: closed", "second close"],
    },
    Program { name: "two_cancellers", run: two_cancellers, share: 4, must_see: &["cancelled", "lapped"] },
    Program {
        name: "stalled_publishers",
        run: stalled_publishers,
        share: 5,
        must_see: &["lapped", "given up", "refused: stalled", "overrun"],
    },
    Program {
        name: "stopped_in_its_run",
        run: stopped_in_its_run,
        share: 4,
        must_see: &["short form", "whole from chunks", "run given up"],
    },
    Program { name: "many_sleepers", run: many_sleepers, share: 4, must_see: &["lapped"] },
    Program { name: "readers_come_and_go", run: readers_come_and_go, share: 3, must_see: &["lapped"] },
    Program { name: "storage_writer", run: storage_writer, share: 2, must_see: &["gap in the storage"] },
];

// ---- Threads.

fn reading<S: Source>(
    reader: S,
    by: impl FnOnce(&mut Account<S>) + Send + 'static,
) -> JoinHandle<Account<S>> {
    thread::spawn(move || {
        let mut account = Account::of(reader);
        by(&mut account);
        account
    })
}

/// The same for one that is waited for.
fn watched<S: Source>(
    reader: S,
    by: impl FnOnce(&mut Account<S>) -> ReadError + Send + 'static,
) -> (JoinHandle<Account<S>>, Progress) {
    let (mut account, progress) = Account::of_watched(reader);
    let reading = thread::spawn(move || {
        assert_eq!(by(&mut account), ReadError::Closed);
        account
    });
    (reading, progress)
}

fn parking<S: Source>(reader: S) -> JoinHandle<Account<S>> {
    reading(reader, |account| assert_eq!(account.parking(), ReadError::Closed))
}

fn as_task<S: Source>(reader: S) -> JoinHandle<Account<S>> {
    reading(reader, |account| assert_eq!(block_on(account.as_task()), ReadError::Closed))
}

fn in_batches<S: Source>(reader: S) -> JoinHandle<Account<S>> {
    reading(reader, |account| assert_eq!(account.in_batches(), ReadError::Closed))
}

fn looking<S: Source>(reader: S) -> JoinHandle<Account<S>> {
    reading(reader, Account::looking)
}

/// Sleeps on one thread, goes on on another one, which it also sleeps on, until it is cancelled or the end comes; then takes what is left.
fn moved<S: Source>(
    reader: S,
    from: usize,
    by: impl FnOnce(S) -> S + Send + 'static,
) -> JoinHandle<Account<S>> {
    thread::spawn(move || {
        let first =
            reading(reader, move |account| while account.delivered.len() < from && account.wait().is_ok() {});
        let mut account = first.join().unwrap().go_on(by);
        if account.parking() == ReadError::Cancelled {
            see("cancelled");
            account.looking();
        }
        account
    })
}

fn one(seq: u64) -> Range<u64> {
    seq..seq + 1
}

/// Publishes events `0..n`, each by `publish`, on a thread of its own.
fn publishing<R: Send + Sync + 'static>(
    ring: &Arc<R>,
    publisher: u64,
    n: u64,
    publish: impl Fn(&R, Id) -> Result<Range<u64>, Refused> + Send + 'static,
) -> JoinHandle<Vec<Outcome>> {
    let ring = Arc::clone(ring);
    thread::spawn(move || {
        (0..n).map(|count| Id { publisher, count }).map(|id| (id, publish(&ring, id))).collect()
    })
}

fn publish(ring: &Ring, id: Id) -> Result<Range<u64>, Refused> {
    Ok(one(ring.publish_tagged(id.tag(), &id.bytes())?))
}

fn publish_value(ring: &TypedRing<Value>, id: Id) -> Result<Range<u64>, Refused> {
    Ok(one(ring.publish(&id.value())?))
}

fn publish_event(stream: &EventStream, id: Id) -> Result<Range<u64>, Refused> {
    match stream.publish(&id.event())? {
        Publish::Published { seq, .. } => Ok(one(seq)),
        Publish::NotCaptured => Err(Refused::NotCaptured),
    }
}

fn publish_small(ring: &RingOf<Laned>, id: Id) -> Result<Range<u64>, Refused> {
    let bytes = id.bytes();
    Ok(one(ring.publish(|_| Form { tag: id.tag(), run: None, bytes: &bytes, truncated: false })?))
}

fn publish_large(ring: &RingOf<Laned>, id: Id) -> Result<Range<u64>, Refused> {
    publish_large_stepped(ring, id, |_, _| ())
}

fn publish_large_stepped(
    ring: &RingOf<Laned>,
    id: Id,
    step: impl FnMut(Step, u64),
) -> Result<Range<u64>, Refused> {
    let (large, short) = (id.large(), id.short());
    let run = ring.write_run_stepped([&large[..3], &large[3..20], &large[20..]], step);
    if run.is_none() {
        see("run given up");
    }
    Ok(one(ring.publish(|_| Form { tag: id.tag(), run, bytes: &short, truncated: run.is_none() })?))
}

/// What became of a batch, of which one part may be published and another refused.
fn of_batch(
    ids: &[Id],
    newest: u64,
    result: Result<Range<u64>, (usize, Refused)>,
) -> impl Iterator<Item = Outcome> {
    let (seqs, published, refused) = match result {
        Ok(seqs) => (seqs, ids.len(), None),
        Err((published, refused)) => (1..newest + 1, published, Some(refused)),
    };
    if published > 0 && (refused.is_some() || seqs.end - seqs.start != ids.len() as u64) {
        see("batch in part");
    }
    let is_dense = seqs.end - seqs.start == ids.len() as u64 && refused.is_none();
    ids.iter().enumerate().map(move |(at, id)| match refused {
        Some(refused) if at >= published => (*id, Err(refused)),
        _ if is_dense => (*id, Ok(one(seqs.start + at as u64))),
        _ => (*id, Ok(seqs.clone())),
    })
}

fn publish_batch(ring: &Ring, ids: &[Id]) -> Vec<Outcome> {
    let payloads: Vec<_> = ids.iter().map(|id| (id.tag(), id.bytes())).collect();
    let events: Vec<_> = payloads.iter().map(|(tag, bytes)| (*tag, &bytes[..])).collect();
    let result =
        ring.publish_batch(&events).map_err(|BatchError { published, error, .. }| (published, error.into()));
    of_batch(ids, ring.newest(), result).collect()
}

/// Lets others through, up to so many times.
fn delay(max: usize) {
    for _ in 0..thread_rng().gen_range(0..=max) {
        thread::yield_now();
    }
}

fn ids(publisher: u64, counts: Range<u64>) -> Vec<Id> {
    counts.map(|count| Id { publisher, count }).collect()
}

fn config(capacities: std::ops::RangeInclusive<u64>) -> Config {
    Config::new(thread_rng().gen_range(capacities))
}

/// Closes while the publishers are at it, or when they are done and these readers have come to the `newest` event by themselves.
fn end(
    close: impl Fn() -> bool,
    publishers: impl IntoIterator<Item = JoinHandle<Vec<Outcome>>>,
    readers: &[Progress],
    newest: impl Fn() -> u64,
) -> Ledger {
    let is_early = thread_rng().gen_range(0..3) == 0;
    let closed_early = is_early && close();
    let ledger = Ledger::of(publishers);
    if !is_early {
        readers.iter().for_each(|reader| reader.wait_for(newest() + 1));
    }
    assert!(closed_early || close(), "closed by nobody");
    ledger
}

/// Where a thread waits until another one lets it go on.
#[derive(Clone)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn new() -> Self {
        Self(Arc::new((Mutex::new(false), Condvar::new())))
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        drop(self.0.1.wait_while(self.0.0.lock().unwrap(), |open| !*open).unwrap());
    }
}

/// The first time that a publisher comes to this step it says so, and stops.
fn stop_at(at: Step, passed: u64, stopped: Gate, go_on: Gate) -> impl FnMut(Step, u64) {
    let mut to_come = Some(passed);
    move |step, _| {
        if step == at {
            match to_come {
                Some(0) => {
                    to_come = None;
                    stopped.open();
                    go_on.wait();
                }
                Some(n) => to_come = Some(n - 1),
                None => {}
            }
        }
    }
}

fn any_step() -> Step {
    [Step::Claimed, Step::Writing, Step::Written][thread_rng().gen_range(0..3)]
}

// ---- Everything at once.

/// On a stream. 4 publishers: two of small events, one of large ones whose category ceases to be captured, one of a batch of large
/// ones. 4 readers: one sleeps, one is a task whose futures are dropped, one looks again and again for some categories, one
/// moves to another thread, or is dropped and replaced, and is cancelled. One more thread takes the category out, cancels and closes.
fn everything() {
    let stream = stream::Config::new()
        .events(thread_rng().gen_range(2..=8))
        .inline_bytes(128)
        .large_bytes(16 * thread_rng().gen_range(11..=16))
        .max_envelope_bytes(200)
        .build()
        .unwrap();
    let stream = Arc::new(stream);
    let mut of_some = stream.reader_from_oldest();
    of_some.set_categories(CategorySet::NONE.with(&Category::Page).with(&Category::System));
    let other = stream.handle();
    let cancelled = stream.reader_from_oldest().named("cancelled");
    let (parked, task) = (stream.reader_from_oldest().named("parked"), stream.reader_from_oldest());
    let canceller = cancelled.canceller();

    let batch = Arc::clone(&stream);
    let publishers = vec![
        publishing(&stream, 0, 3, publish_event),
        publishing(&stream, 1, 3, publish_event),
        publishing(&stream, 2, 3, publish_event),
        thread::spawn(move || {
            let ids = ids(3, 0..2);
            let events: Vec<_> = ids.iter().map(|id| id.event()).collect();
            let result = batch.publish_batch(&events);
            let result =
                result.map(|batch| batch.seqs).map_err(|error| (error.published, error.error.into()));
            of_batch(&ids, batch.seq(), result).collect()
        }),
    ];
    let (parked, progress) = watched(parked, Account::parking);
    let (task, of_task) = watched(task, |account| block_on(account.as_task()));
    let progress = [progress, of_task];
    let readers = [
        parked,
        task,
        moved(cancelled, thread_rng().gen_range(0..3), {
            let stream = stream.handle();
            let is_replaced = thread_rng().r#gen();
            move |reader| {
                if is_replaced { stream.reader_after(reader.next_seq() - 1).unwrap() } else { reader }
            }
        }),
    ];
    let some = thread::spawn(move || {
        let mut account = Account::of_some(of_some, &[0, 2, 3]);
        account.looking();
        account
    });
    let ending = {
        let stream = Arc::clone(&stream);
        thread::spawn(move || {
            delay(60);
            stream.set_captured(CategorySet::ALL.without(&Category::Network));
            delay(60);
            canceller.cancel();
            delay(60);
            end(|| stream.close(), publishers, &progress, || stream.seq())
        })
    };

    let ledger = ending.join().unwrap();
    let accounts: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
    let some = some.join().unwrap();
    for status in other.readers().iter().filter(|status| !status.name.is_empty()) {
        let account = &accounts[if &*status.name == "parked" { 0 } else { 2 }];
        let counts = (account.delivered.len() as u64, account.dropped);
        assert_eq!((status.delivered, status.dropped), counts, "{} counts otherwise", status.name);
    }
    let (last, stats) = (stream.seq(), stream.stats());
    let mut last_lap = Account::of(stream.reader_from_oldest());
    last_lap.looking();
    if stats.overrun > 0 {
        see("overrun");
    }
    if stats.abandoned > 0 {
        see("given up");
    }
    ledger.check(last, stats.abandoned, stream.events(), &last_lap.delivered);
    assert_eq!(stats.published() + stats.overrun + stats.abandoned, last, "a seq is in no counter");
    let refused = |in_batch: bool| {
        let is_one = |(id, refused): &&(Id, Refused)| {
            *refused != Refused::NotCaptured && (id.publisher == 3) == in_batch
        };
        ledger.refused.iter().filter(is_one).count() as u64
    };
    assert_eq!(stats.refused, refused(false) + refused(true).min(1), "refusals are counted otherwise");
    for account in accounts.into_iter().chain([some, last_lap]) {
        account.close(last, stream.events(), &ledger);
    }
}

/// The same on the ring under the stream, whose readers can be cloned.
fn everything_on_the_ring() {
    let ring =
        Arc::new(lanes::ring(config(2..=5), SLOT_BYTES, thread_rng().gen_range(3..=6), LARGE_BYTES).unwrap());
    let mut of_some = ring.reader_from_oldest();
    of_some.set_filter(|tag| tag & 1 == 0);
    let cancelled = ring.reader_from_oldest();
    let (task, batches) = (ring.reader_from_oldest(), ring.reader_from_oldest());
    let canceller = cancelled.canceller();
    let publishers = [
        publishing(&ring, 0, 3, publish_small),
        publishing(&ring, 1, 2, publish_large),
        publishing(&ring, 2, 3, publish_large),
        publishing(&ring, 3, 3, publish_small),
    ];
    let (task, progress) = watched(task, |account| block_on(account.as_task()));
    let (batches, of_batches) = watched(batches, Account::in_batches);
    let (readers, progress) = ([task, batches], [progress, of_batches]);
    // The clone goes on, and what it was cloned from is dropped: so the canceller comes too early, or not at all.
    let cloned = moved(cancelled, thread_rng().gen_range(1..3), move |reader| {
        if thread_rng().r#gen() { reader.clone() } else { reader }
    });
    let some = thread::spawn(move || {
        let mut account = Account::of_some(of_some, &[0, 2]);
        account.looking();
        account
    });
    let ending = {
        let ring = Arc::clone(&ring);
        thread::spawn(move || {
            delay(60);
            canceller.cancel();
            delay(100);
            end(|| ring.close(), publishers, &progress, || ring.newest())
        })
    };
    let ledger = ending.join().unwrap();
    let tally = ring.tally();
    let counted = tally.events.iter().sum::<u64>();
    assert_eq!(counted + ring.overruns() + ring.abandoned(), ring.newest(), "a seq is in no counter");
    for account in readers.into_iter().chain([cloned, some]) {
        account.join().unwrap().close_ring(&ledger);
    }
}

// ---- The ring.

/// Two publishers of batches, some of which are larger than the ring, and a third one.
fn batches() {
    let ring = Arc::new(config(2..=4).bytes(SLOT_BYTES).unwrap());
    let readers = [
        in_batches(ring.reader_from_oldest()),
        in_batches(ring.reader_from_oldest()),
        looking(ring.reader_from_oldest()),
    ];
    let batches = [1, 2].map(|publisher| {
        let ring = Arc::clone(&ring);
        thread::spawn(move || {
            let (n, m) = (thread_rng().gen_range(1..=5), thread_rng().gen_range(1..=5));
            let first = publish_batch(&ring, &ids(publisher, 0..n));
            [first, publish_batch(&ring, &ids(publisher, n..n + m))].concat()
        })
    });
    let single = publishing(&ring, 3, 3, publish);
    let ledger = Ledger::of(batches.into_iter().chain([single]));
    ring.close();
    for reader in readers {
        reader.join().unwrap().close_ring(&ledger);
    }
}

/// Plain stores against readers that sleep; then the ring is shared again, by two.
fn exclusive_publisher() {
    let mut exclusive = config(1..=3).bytes(SLOT_BYTES).unwrap().into_exclusive();
    let readers = [
        parking(exclusive.reader_from_oldest()),
        as_task(exclusive.reader_from_oldest()),
        in_batches(exclusive.reader_from_oldest()),
    ];
    let mut outcomes = Vec::new();
    for id in ids(0, 0..3) {
        outcomes.push((id, Ok(one(exclusive.publish_tagged(id.tag(), &id.bytes()).unwrap()))));
    }
    let batch = ids(0, 3..6);
    let payloads: Vec<_> = batch.iter().map(|id| (id.tag(), id.bytes())).collect();
    let events: Vec<_> = payloads.iter().map(|(tag, bytes)| (*tag, &bytes[..])).collect();
    let seqs = exclusive.publish_batch(&events).unwrap();
    outcomes.extend(of_batch(&batch, exclusive.newest(), Ok(seqs)));
    let ring = Arc::new(exclusive.into_shared());
    let mut ledger = Ledger::of([publishing(&ring, 1, 2, publish), publishing(&ring, 2, 2, publish)]);
    ledger.add(outcomes);
    ring.close();
    for reader in readers {
        reader.join().unwrap().close_ring(&ledger);
    }
}

/// Three publishers of values of three words.
fn typed_ring() {
    let ring = Arc::new(config(1..=4).typed::<Value>().unwrap());
    let readers = [
        parking(ring.reader_from_oldest()),
        looking(ring.reader_from_oldest()),
        as_task(ring.reader_from_oldest()),
    ];
    let ledger = Ledger::of([1, 2, 3].map(|publisher| publishing(&ring, publisher, 3, publish_value)));
    ring.close();
    for reader in readers {
        reader.join().unwrap().close_ring(&ledger);
    }
}

/// Every publish is before the end, and read, or after it, and refused; and of two closers one has closed it.
fn publish_against_close() {
    let ring = Arc::new(config(2..=8).bytes(SLOT_BYTES).unwrap());
    let readers = [parking(ring.reader_from_oldest()), as_task(ring.reader_from_oldest())];
    let publishers = [1, 2, 3].map(|publisher| publishing(&ring, publisher, 3, publish));
    let closers = [0, 1].map(|_| {
        let ring = Arc::clone(&ring);
        thread::spawn(move || {
            delay(30);
            ring.close()
        })
    });
    let ledger = Ledger::of(publishers);
    let closed = closers.map(|closer| closer.join().unwrap());
    assert!(closed[0] != closed[1], "closed {closed:?}");
    if closed[1] {
        see("second close");
    }
    for reader in readers {
        reader.join().unwrap().close_ring(&ledger);
    }
}

/// Two readers, each with its cancellers, while events come; a cancelled reader has what is left, and other readers sleep on.
fn two_cancellers() {
    let ring = Arc::new(config(1..=3).bytes(SLOT_BYTES).unwrap());
    let cancelled = [ring.reader_from_oldest(), ring.reader_from_oldest()];
    let cancellers = cancelled.each_ref().map(|reader| {
        let canceller = reader.canceller();
        [canceller.clone(), canceller].map(|canceller| {
            thread::spawn(move || {
                delay(40);
                canceller.cancel();
            })
        })
    });
    let cancelled = cancelled.map(|reader| {
        reading(reader, |account| {
            assert_eq!(account.parking(), ReadError::Cancelled);
            see("cancelled");
            assert_eq!(account.wait(), Err(ReadError::Cancelled));
        })
    });
    let other = parking(ring.reader_from_oldest());
    let publisher = publishing(&ring, 1, 4, publish);
    // Nothing but a canceller ends those, and no event.
    let cancelled = cancelled.map(|reader| reader.join().unwrap());
    cancellers.into_iter().flatten().for_each(|canceller| canceller.join().unwrap());
    let ledger = Ledger::of([publisher]);
    ring.close();
    for account in cancelled.into_iter().chain([other.join().unwrap()]) {
        account.close_ring(&ledger);
    }
}

/// One or two publishers stop at some step of their publish. What two others publish is read to the end, or refused, while
/// they stand; then, or never before the end, they go on.
fn stalled_publishers() {
    let capacity = thread_rng().gen_range(1..=3);
    let ring = Arc::new(Config::new(capacity).bytes(SLOT_BYTES).unwrap());
    let go_on = Gate::new();
    let stalled: Vec<_> = (1..=thread_rng().gen_range(1..=2))
        .map(|publisher| {
            // Or refused: in a ring of one slot the second one may be.
            let stopped = Gate::new();
            let done = stopped.clone();
            let step = Mutex::new(stop_at(any_step(), 0, stopped.clone(), go_on.clone()));
            let thread = publishing(&ring, publisher, 1, move |ring, id| {
                let mut step = step.lock().unwrap();
                let result = ring.publish_stepped(id.tag(), &id.bytes(), &mut *step);
                done.open();
                Ok(one(result?))
            });
            stopped.wait();
            thread
        })
        .collect();
    let readers = [parking(ring.reader_from_oldest()), as_task(ring.reader_from_oldest())];
    let others = [3, 4].map(|publisher| publishing(&ring, publisher, 3, publish));
    let mut ledger = Ledger::of(others);
    let goes_on = thread_rng().r#gen();
    if goes_on {
        go_on.open();
    }
    ring.close();
    // What stands still is lapped, so that nobody waits for it.
    let accounts = readers.map(|reader| reader.join().unwrap());
    if !goes_on {
        go_on.open();
    }
    for publisher in stalled {
        ledger.add(publisher.join().unwrap());
    }
    for account in accounts {
        account.close_ring(&ledger);
    }
}

/// A publisher of large events stops at some step of some chunk. Others go on, with small and large ones; it does, too, or not before they are done.
fn stopped_in_its_run() {
    let ring = Arc::new(lanes::ring(Config::new(8), SLOT_BYTES, 3, LARGE_BYTES).unwrap());
    let (stopped, go_on) = (Gate::new(), Gate::new());
    let at = thread_rng().gen_range(0..3);
    let step = Mutex::new(stop_at(any_step(), at, stopped.clone(), go_on.clone()));
    let publisher = publishing(&ring, 1, 2, move |ring, id| {
        let mut step = step.lock().unwrap();
        publish_large_stepped(ring, id, &mut *step)
    });
    let readers = [
        parking(ring.reader_from_oldest()),
        looking(ring.reader_from_oldest()),
        as_task(ring.reader_from_oldest()),
    ];
    stopped.wait();
    let others = [publishing(&ring, 2, 2, publish_large), publishing(&ring, 3, 2, publish_small)];
    if thread_rng().r#gen() {
        go_on.open();
    }
    let mut ledger = Ledger::of(others);
    assert_eq!(ledger.refused, [], "held up by one that is stopped in its run");
    go_on.open();
    ledger.add(publisher.join().unwrap());
    ring.close();
    for reader in readers {
        let account = reader.join().unwrap();
        assert_eq!(account.dropped, 0, "lost in a ring with room");
        account.close_ring(&ledger);
    }
}

// ---- Waiting.

/// More sleepers than one walk wakes, and two publishers that both come upon them.
fn many_sleepers() {
    let ring = Arc::new(config(1..=2).bytes(SLOT_BYTES).unwrap());
    let watched = [0, 1, 2, 3, 4, 5].map(|n| match n {
        0 => watched(ring.reader_from_oldest(), |account| block_on(account.as_task())),
        _ => watched(ring.reader_from_oldest(), Account::parking),
    });
    let publishers = [1, 2].map(|publisher| {
        publishing(&ring, publisher, 2, |ring, id| {
            delay(20);
            publish(ring, id)
        })
    });
    let ledger = Ledger::of(publishers);
    watched.iter().for_each(|(_, progress)| progress.wait_for(ring.newest() + 1));
    ring.close();
    for (reader, _) in watched {
        reader.join().unwrap().close_ring(&ledger);
    }
}

/// Readers are made, cloned and dropped while others sleep: places in the list change hands in the middle of walks.
fn readers_come_and_go() {
    let ring = Arc::new(config(1..=3).bytes(SLOT_BYTES).unwrap());
    let sleepers = [0; 2].map(|_| parking(ring.reader_from_oldest()));
    let coming = [0; 2].map(|_| {
        let handle: Handle = ring.handle();
        thread::spawn(move || {
            let first = handle.reader_from_now();
            let second = first.clone();
            drop(first);
            let mut account = Account::of(second);
            if account.wait().is_ok() {
                account = account.go_on(|reader| reader.clone());
            }
            assert_eq!(account.parking(), ReadError::Closed);
            account
        })
    });
    let ledger = Ledger::of([1, 2].map(|publisher| publishing(&ring, publisher, 2, publish)));
    ring.close();
    for reader in sleepers.into_iter().chain(coming) {
        reader.join().unwrap().close_ring(&ledger);
    }
}

// ---- What reads for a storage.

/// What came to a storage.
#[derive(Default)]
struct Memory {
    delivered: Vec<(u64, Option<Id>)>,
}

impl Storage for Memory {
    fn append(&mut self, batch: &Batch) -> Result<(), StorageError> {
        thread::yield_now();
        for entry in batch.iter() {
            let is_gap = entry.event_json.windows(14).any(|part| part == b"events_dropped");
            let id = (!is_gap).then(|| Id::of_json(entry.event_json, entry.seq));
            if let Some(id) = id {
                assert_eq!(entry.event_json, id.event().to_json(), "torn: event {}", entry.seq);
            } else {
                see("gap in the storage");
            }
            self.delivered.push((entry.seq, id));
        }
        Ok(())
    }
}

fn storage_writer() {
    let config = stream::Config::new().events(thread_rng().gen_range(1..=3)).inline_bytes(128).large_bytes(0);
    let stream = Arc::new(config.max_envelope_bytes(200).build().unwrap());
    let mut writer = StorageWriter::new(&stream, Memory::default());
    let writing = thread::spawn(move || {
        writer.run().unwrap();
        let status = writer.status().get();
        (writer.close(std::time::Instant::now()).unwrap(), status)
    });
    let ledger = Ledger::of([0, 2].map(|publisher| publishing(&stream, publisher, 3, publish_event)));
    stream.close();
    let (memory, status) = writing.join().unwrap();
    let last = stream.seq();
    assert_eq!((status.appended, status.lag), (last, 0), "the writer ends before the end");
    assert!(memory.delivered.is_sorted_by(|a, b| a.0 < b.0), "the seqs in the storage do not rise");
    let mut before = 0;
    let mut dropped = 0;
    for (seq, id) in memory.delivered {
        match id {
            Some(id) => {
                assert_eq!(seq, before + 1, "a hole in the storage");
                assert_eq!(ledger.published.get(&id), Some(&one(seq)), "{id:?} was not published so");
            }
            None => dropped += seq - before,
        }
        before = seq;
    }
    assert_eq!((before, dropped), (last, status.dropped), "unaccounted in the storage");
}
