//! The event stream: published in every way, read in every way, stored, and served.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use futures_core::Stream;
use lapwing::event::Event;
use lapwing::storage::{Fsync, JsonLines, JsonLinesConfig, StorageWriter};
use lapwing::stream::{
    BatchError, CategorySet, Config, EventStream, Exclusive, Handle, Publish, PublishError, RawEnvelope,
    ReadError, ReadResult, Reader, TryReadError,
};
use serde_json::Value;

use crate::check::{Account, OrFail, TOTALS, fail, join_all};
use crate::event::{CATEGORIES, ENVELOPE_BYTES, INLINE_BYTES};
use crate::payload::{Origin, Rng};
use crate::scene::Scene;
use crate::serve;
use crate::tasks::block_on;
use crate::violation::Violation;

/// What is at work beside publishers and readers.
#[derive(Clone, Copy)]
pub struct With {
    pub storage: bool,
    pub server: bool,
}

/// One event, or a batch, by one of two kinds of publisher.
trait Publisher {
    fn publish(&mut self, event: &Event<'_>) -> Result<Publish, PublishError>;
    fn publish_json(&mut self, json: &[u8]) -> Result<Publish, PublishError>;
    /// How many are published.
    fn publish_batch(&mut self, events: &[Event<'_>]) -> Result<usize, BatchError>;
}

impl Publisher for &EventStream {
    fn publish(&mut self, event: &Event<'_>) -> Result<Publish, PublishError> {
        EventStream::publish(self, event)
    }

    fn publish_json(&mut self, json: &[u8]) -> Result<Publish, PublishError> {
        EventStream::publish_json(self, json)
    }

    fn publish_batch(&mut self, events: &[Event<'_>]) -> Result<usize, BatchError> {
        EventStream::publish_batch(self, events).map(|batch| batch.published)
    }
}

impl Publisher for &mut Exclusive {
    fn publish(&mut self, event: &Event<'_>) -> Result<Publish, PublishError> {
        Exclusive::publish(self, event)
    }

    fn publish_json(&mut self, json: &[u8]) -> Result<Publish, PublishError> {
        Exclusive::publish_json(self, json)
    }

    fn publish_batch(&mut self, events: &[Event<'_>]) -> Result<usize, BatchError> {
        Exclusive::publish_batch(self, events).map(|batch| batch.published)
    }
}

fn parsed(json: &[u8]) -> Event<'_> {
    serde_json::from_slice(json).or_fail("an event of ours")
}

/// Publishes until `until` or the end. Returns the next count.
fn publish(mut to: impl Publisher, scene: &Scene, first: Origin, until: Instant, mut rng: Rng) -> u64 {
    let Origin { publisher, mut count } = first;
    let (mut last_seq, mut published) = (0, 0);
    let mut jsons = [const { Vec::new() }; 16];
    'all: while Instant::now() < until {
        let way = rng.below(3);
        for _ in 0..rng.below(100) {
            let n = if way == 2 { 1 + rng.below(16) } else { 1 };
            for (json, at) in jsons.iter_mut().zip(0..n) {
                json.clear();
                Origin { publisher, count: count + at }.write_json(json);
            }
            let one = match way {
                0 => to.publish_json(&jsons[0]),
                1 => to.publish(&parsed(&jsons[0])),
                _ => {
                    let events = jsons[..n as usize].iter().map(|json| parsed(json)).collect::<Vec<_>>();
                    match to.publish_batch(&events) {
                        Ok(part) => published += part as u64,
                        Err(BatchError { published: part, error, .. }) => {
                            published += part as u64;
                            if refused(error, scene) {
                                break 'all;
                            }
                        }
                    }
                    // Those that were refused are not tried again.
                    count += n;
                    continue;
                }
            };
            match one {
                Ok(Publish::Published { seq, .. }) => {
                    if seq <= last_seq {
                        fail(Violation::Reordered(format!("an event got {seq} after {last_seq}")));
                    }
                    last_seq = seq;
                    published += 1;
                }
                Ok(Publish::NotCaptured) => {}
                Err(error) if refused(error, scene) => break 'all,
                Err(_) => {}
            }
            count += 1;
        }
        if rng.once_in(8) {
            thread::park_timeout(Duration::from_micros(rng.below(500)));
        }
        if scene.is_paced {
            let ahead = if rng.once_in(4) { 0 } else { scene.handle.events() / 2 };
            while last_seq > scene.at.load(Relaxed).saturating_add(ahead) && !scene.handle.is_closed() {
                thread::yield_now();
            }
        }
    }
    scene.published.fetch_add(published, Relaxed);
    count
}

/// Whether it is the end.
fn refused(error: PublishError, scene: &Scene) -> bool {
    match error {
        PublishError::Closed => {}
        PublishError::Stalled { .. } => {}
        error => fail(format_args!("an event is refused: {error}")),
    }
    scene.refused.fetch_add(1, Relaxed);
    error == PublishError::Closed
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Try,
    TryBatch,
    Block,
    BlockBatch,
    Timed,
    Task,
    DroppedTask,
    Stream,
}

const WAYS: [Way; 8] = [
    Way::Try,
    Way::TryBatch,
    Way::Block,
    Way::BlockBatch,
    Way::Timed,
    Way::Task,
    Way::DroppedTask,
    Way::Stream,
];

/// What a reader keeps beside its position.
struct Book {
    account: Account,
    wanted: CategorySet,
    scratch: Vec<u8>,
}

impl Book {
    fn new(next_seq: u64) -> Self {
        Self { account: Account::new(next_seq), wanted: CategorySet::ALL, scratch: Vec::new() }
    }

    fn event(&mut self, seq: u64, json: &[u8], truncated: bool) {
        let origin = Origin::of_json(json, truncated, &mut self.scratch).or_fail(format_args!("seq {seq}"));
        self.account.event(seq, origin).or_fail("an event");
        if !self.wanted.contains(&CATEGORIES[origin.category()].into()) {
            fail(format_args!("seq {seq} is of a category that is not wanted"));
        }
    }

    fn envelope(&mut self, envelope: &mut RawEnvelope<'_>) {
        let (seq, truncated) = (envelope.seq(), envelope.truncated());
        self.event(seq, envelope.event_json(), truncated);
        let (json, event_len) = (envelope.json(), self.scratch.len());
        let is_wrapped = json.starts_with(b"{\"seq\":") && json.ends_with(b"}}");
        if !is_wrapped || json.len() > ENVELOPE_BYTES || !truncated && json.len() < event_len + 17 {
            fail(Violation::Torn(String::from_utf8_lossy(json).into_owned()));
        }
    }

    fn take(&mut self, read: ReadResult<RawEnvelope<'_>>) {
        match read {
            ReadResult::Envelope(mut envelope) => self.envelope(&mut envelope),
            ReadResult::Dropped { from, to } => self.account.dropped(from, to).or_fail("an event"),
        }
    }
}

/// One read. The error of one that gave nothing.
fn read(mut reader: Reader, way: Way, book: &mut Book, rng: &mut Rng) -> (Reader, Result<(), ReadError>) {
    let missed = |error| match error {
        TryReadError::Empty => ReadError::TimedOut,
        TryReadError::Closed => ReadError::Closed,
    };
    let result = match way {
        Way::Try => reader.try_read().map(|read| book.take(read)).map_err(missed),
        Way::Block => reader.read().map(|read| book.take(read)),
        Way::Timed => reader.read_timeout(Duration::from_micros(rng.below(400))).map(|read| book.take(read)),
        Way::Task => block_on(reader.read_async()).map(|read| book.take(read)),
        Way::DroppedTask => {
            let next = pin!(reader.read_async());
            match next.poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(read) => read.map(|read| book.take(read)),
                Poll::Pending => Err(ReadError::TimedOut),
            }
        }
        Way::TryBatch | Way::BlockBatch => {
            let before = book.account.delivered;
            let n = 1 + rng.below(50) as usize;
            let each = |mut envelope: RawEnvelope<'_>| book.envelope(&mut envelope);
            let batch = if let Way::TryBatch = way {
                reader.try_read_batch(n, each).map_err(missed)
            } else {
                reader.read_batch(n, each)
            };
            batch.map(|read| match read {
                ReadResult::Envelope(count) if book.account.delivered - before == count as u64 => {}
                ReadResult::Envelope(count) => {
                    fail(Violation::Unaccounted(format!("a batch of {count}: {:?}", book.account)))
                }
                ReadResult::Dropped { from, to } => book.account.dropped(from, to).or_fail("a batch"),
            })
        }
        Way::Stream => {
            let mut envelopes = reader.into_envelopes();
            let mut result = Ok(());
            for _ in 0..rng.below(30) {
                match block_on(poll_fn(|cx| Pin::new(&mut envelopes).poll_next(cx))) {
                    Some(ReadResult::Envelope(envelope)) => {
                        book.event(envelope.seq(), envelope.event_json(), envelope.truncated());
                    }
                    Some(ReadResult::Dropped { from, to }) => {
                        book.account.dropped(from, to).or_fail("a stream")
                    }
                    None => {
                        result = Err(ReadError::Cancelled);
                        break;
                    }
                }
            }
            reader = envelopes.into_reader();
            if result.is_err() {
                result = match reader.try_read().map(|read| book.take(read)) {
                    Ok(()) => Ok(()),
                    Err(TryReadError::Empty) => Err(ReadError::Cancelled),
                    Err(TryReadError::Closed) => Err(ReadError::Closed),
                }
            }
            result
        }
    };
    (reader, result)
}

/// Settles a reader that has come to the end.
fn end(reader: &Reader, book: &mut Book) {
    book.account.settle(reader.next_seq(), None).or_fail("the end of a stream");
    book.account.end(reader.handle().seq()).or_fail("the end of a stream");
}

/// Reads from the first event to the last.
fn steady(mut reader: Reader, way: Way, leads: bool, scene: &Scene, mut rng: Rng) {
    let mut book = Book::new(reader.next_seq());
    loop {
        let result;
        (reader, result) = read(reader, way, &mut book, &mut rng);
        if leads {
            scene.at.store(book.account.last, Relaxed);
        }
        match result {
            Ok(()) => {}
            Err(ReadError::TimedOut) => thread::yield_now(),
            Err(ReadError::Closed) => break,
            Err(error) => fail(format_args!("a reader that nobody has cancelled: {error}")),
        }
    }
    end(&reader, &mut book);
    let name = format!("steady {leads}");
    let status = scene.handle.readers().into_iter().find(|status| *status.name == *name);
    let status = status.unwrap_or_else(|| fail(format_args!("no {name} is listed")));
    let told = (status.delivered, status.dropped, status.position, status.lag);
    if told != (book.account.delivered, book.account.dropped, book.account.last, 0) {
        fail(Violation::Unaccounted(format!("{status:?} of {:?}", book.account)));
    }
}

/// Reads in every way, with everything that can become of a reader.
fn wander(mut reader: Reader, scene: &Scene, mut rng: Rng) {
    let mut book = Book::new(reader.next_seq());
    loop {
        let way = rng.pick(&WAYS);
        if rng.once_in(4) {
            let mut cancellers = scene.cancellers.lock().unwrap_or_else(PoisonError::into_inner);
            cancellers.truncate(15);
            cancellers.push(reader.canceller());
        }
        let mut result = Ok(());
        for _ in 0..rng.below(200) {
            (reader, result) = read(reader, way, &mut book, &mut rng);
            match result {
                Ok(()) => {}
                Err(ReadError::TimedOut) => thread::yield_now(),
                Err(_) => break,
            }
        }
        book.account.settle(reader.next_seq(), None).or_fail(format_args!("{way:?}"));
        let handle = &scene.handle;
        match result {
            Err(ReadError::Closed) => return end(&reader, &mut book),
            Err(ReadError::Cancelled) => {
                // What is not read yet is there for another one, also when the filter had stepped over some.
                reader = handle.resume(handle.epoch(), book.account.last).or_fail("a reader that goes on");
                reader.set_categories(book.wanted);
            }
            _ => {}
        }
        match rng.below(16) {
            0 => {
                let seq = handle.seq().saturating_sub(rng.below(2 * handle.events()));
                reader.move_after(seq).or_fail("a move to what was");
                book.account.moved(seq + 1, 0);
            }
            1 => {
                reader = match rng.below(3) {
                    0 => handle.reader_from_oldest(),
                    1 => handle.reader_from_now(),
                    _ => handle.reader_after(handle.seq()).or_fail("a reader after the newest"),
                };
                book.account.moved(reader.next_seq(), 0);
                reader.set_categories(book.wanted);
            }
            2 | 3 => {
                book.wanted = some_categories(&mut rng);
                book.account.is_filtered = true;
                reader.set_categories(book.wanted);
            }
            4 | 5 => {
                book.wanted = CategorySet::ALL;
                book.account.is_filtered = false;
                reader.set_categories(book.wanted);
            }
            _ => {}
        }
    }
}

fn some_categories(rng: &mut Rng) -> CategorySet {
    let some = rng.next();
    let chosen = CATEGORIES.iter().enumerate().filter(|(at, _)| some >> at & 1 != 0);
    chosen.map(|(_, &name)| name.into()).collect()
}

/// Changes what is captured, looks from outside, and cancels.
fn disturb(scene: &Scene, mut rng: Rng) {
    let handle = &scene.handle;
    while !handle.is_closed() {
        thread::park_timeout(Duration::from_micros(rng.below(5000)));
        let captured = if rng.once_in(2) { CategorySet::ALL } else { some_categories(&mut rng) };
        handle.set_captured(captured);
        let stats = handle.stats();
        let (published, readable, seq) = (stats.published(), handle.readable(), handle.seq());
        if published > seq || readable > seq {
            fail(format_args!(
                "{published} are published, {readable} readable, and the last seq is {seq}: {stats:?}"
            ));
        }
        for status in handle.readers() {
            if status.position > handle.seq() {
                fail(format_args!("a reader is beyond {seq}: {status:?}"));
            }
        }
        for canceller in std::mem::take(&mut *scene.cancellers.lock().unwrap_or_else(PoisonError::into_inner))
        {
            if rng.once_in(2) {
                canceller.cancel();
            }
        }
    }
    // So that the last events come through.
    handle.set_captured(CategorySet::ALL);
}

/// A writer to a directory of JSON Lines, from the first event to the last, and then the lines.
fn store(handle: &Handle, first_seq: u64, mut rng: Rng) {
    let dir = tempfile::tempdir().or_fail("a directory");
    let fsync = if rng.once_in(4) { Fsync::Every(Duration::from_millis(50)) } else { Fsync::Never };
    let mut config = JsonLinesConfig::new()
        .max_bytes(rng.pick(&[10_000, 300_000, 5_000_000]))
        .per_category(rng.once_in(3))
        .fsync(fsync);
    if rng.once_in(2) {
        config = config.compression(1);
    }
    let (storage, recovered) = JsonLines::open(dir.path(), config).or_fail("an empty directory");
    if recovered.last.is_some() {
        fail("an empty directory holds something");
    }
    let mut writer = StorageWriter::after(handle, storage, first_seq - 1).or_fail("a writer");
    let mut book = Book::new(first_seq);
    writer.run().or_fail("a storage");
    let storage = writer.close(Instant::now() + Duration::from_secs(60)).or_fail("the end of a storage");
    drop(storage);
    for line in JsonLines::read(dir.path()).or_fail("what was stored") {
        let line = line.or_fail("a stored line");
        let event = line.event_json();
        if event.starts_with(b"{\"ts\":") && find(event, b"\"events_dropped\"") {
            let gap: Value = serde_json::from_slice(event).or_fail("a stored gap");
            let number =
                |name: &str| gap["data"][name].as_u64().unwrap_or_else(|| fail(format_args!("a gap {gap}")));
            if number("to") != line.seq() {
                fail(Violation::Unaccounted(format!("seq {} is {gap}", line.seq())));
            }
            book.account.dropped(number("from"), number("to")).or_fail("a stored gap");
        } else {
            book.event(line.seq(), event, event.ends_with(b",\"truncated\":true}"));
        }
    }
    book.account.end(handle.seq()).or_fail("what was stored");
}

pub fn find(in_bytes: &[u8], what: &[u8]) -> bool {
    in_bytes.windows(what.len()).take(100).any(|window| window == what)
}

/// A stream from its making to its end.
pub fn run(length: Duration, mut rng: Rng, with: With) {
    let events = rng.pick(&[1, 2, 3, 8, 64, 500, 4096]);
    let pages = rng.pick(&[0, 1, 5, 16, 200]);
    let first_seq = if rng.once_in(2) { 1 } else { 1 + (rng.next() >> 12) };
    let stream = Config::new()
        .events(events)
        .inline_bytes(INLINE_BYTES)
        .large_bytes(pages * 4096)
        .max_envelope_bytes(ENVELOPE_BYTES)
        .first_seq(first_seq)
        .build()
        .or_fail("a stream");
    let scene = Scene {
        handle: stream.handle(),
        at: AtomicU64::new(first_seq - 1),
        is_paced: rng.once_in(2),
        published: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        cancellers: Mutex::default(),
    };
    thread::scope(|scope| {
        let (scene, mut threads) = (&scene, Vec::new());
        for (leads, way) in [(true, Way::BlockBatch), (false, rng.pick(&WAYS))] {
            let (reader, rng) = (stream.reader_from_oldest().named(&format!("steady {leads}")), rng.fork());
            threads.push(scope.spawn(move || steady(reader, way, leads, scene, rng)));
        }
        for _ in 0..1 + rng.below(2) {
            let (reader, rng) = (stream.reader_from_oldest(), rng.fork());
            threads.push(scope.spawn(move || wander(reader, scene, rng)));
        }
        if with.storage {
            let rng = rng.fork();
            threads.push(scope.spawn(move || store(&scene.handle, first_seq, rng)));
        }
        let fork = rng.fork();
        threads.push(scope.spawn(move || disturb(scene, fork)));
        let server = with.server;
        publish_in_turns(stream, scene, length, &mut rng, server);
        join_all(threads);
    });
    let (published, stats) = (scene.published.load(Relaxed), scene.handle.stats());
    let (seq, abandoned) = (scene.handle.seq(), stats.abandoned);
    if seq != first_seq - 1 + published + abandoned || stats.published() + stats.overrun != published {
        let what = format!("{published} published, from {first_seq} to {seq}: {stats:?}");
        fail(Violation::Unaccounted(what));
    }
    TOTALS.published.fetch_add(published, Relaxed);
}

/// One publisher, many, and one again; with a server, many all the time.
fn publish_in_turns(stream: EventStream, scene: &Scene, length: Duration, rng: &mut Rng, with_server: bool) {
    let part = |rng: &mut Rng| Instant::now() + length.mul_f64(rng.below(1000) as f64 / 1500.);
    let many = |stream: &EventStream, first: [u64; 3], rng: &mut Rng| {
        let until = part(rng);
        thread::scope(|scope| {
            let publishers = (0..).zip(first).take(1 + rng.below(3) as usize).map(|(publisher, count)| {
                let rng = rng.fork();
                scope.spawn(move || _ = publish(stream, scene, Origin { publisher, count }, until, rng))
            });
            join_all(publishers.collect());
        });
    };
    if with_server {
        let stream = Arc::new(stream);
        let fork = rng.fork();
        serve::run(&stream, scene, fork, || {
            many(&stream, [0; 3], rng);
            stream.close();
        });
        return;
    }
    let mut stream = stream.into_exclusive();
    let first = Origin { publisher: 0, count: 0 };
    let count = publish(&mut stream, scene, first, part(rng), rng.fork());
    let stream = stream.into_shared();
    many(&stream, [count, 0, 0], rng);
    let mut stream = stream.into_exclusive();
    publish(&mut stream, scene, Origin { publisher: 4, count: 0 }, part(rng), rng.fork());
    if rng.once_in(2) {
        stream.close();
    }
}
