//! Rings of bytes and of values: publishers of every kind, readers of every kind, each for a part of the way or for all of it.

use std::future::poll_fn;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use bytemuck::Pod;
use futures_core::Stream;
use lapwing::ring::{
    BatchError, Bytes, Canceller, Config, Event, Exclusive, Handle, OwnedEvent, Payload, PublishError, Read,
    ReadError, Reader, RingOf, TryReadError, Typed, TypedEvent, Wait,
};

use crate::check::{Account, OrFail, TOTALS, fail, join_all};
use crate::payload::{Origin, PUBLISHERS, Rng, TAGS};
use crate::tasks::block_on;
use crate::violation::Violation;

/// The most events of a batch.
const BATCH: usize = 64;

/// What the kinds of ring do not have in common.
pub trait Subject: Payload {
    fn make(config: Config, max: usize) -> RingOf<Self>;
    fn publish(ring: &RingOf<Self>, origin: Origin, room: &mut [u8]) -> Result<u64, PublishError>;
    /// `n` events from `first` on.
    fn publish_batch(
        ring: &RingOf<Self>,
        first: Origin,
        n: usize,
        room: &mut [u8],
    ) -> Result<Range<u64>, BatchError>;
    fn publish_alone(
        ring: &mut Exclusive<Self>,
        origin: Origin,
        room: &mut [u8],
    ) -> Result<u64, PublishError>;
    fn publish_batch_alone(
        ring: &mut Exclusive<Self>,
        first: Origin,
        n: usize,
        room: &mut [u8],
    ) -> Result<Range<u64>, BatchError>;
    /// Seq and origin of an event, whose every byte must be right.
    fn check(event: Self::Event<'_>, max: usize) -> Result<(u64, Origin), Violation>;
    fn check_owned(event: Self::Owned, max: usize) -> Result<(u64, Origin), Violation>;
    /// Sets or clears the filter. False if there are none.
    fn filter(_reader: &mut Reader<Self>, _tags: Option<u16>) -> bool {
        false
    }
    /// Looks at an event in its slot.
    #[expect(clippy::type_complexity)]
    fn look(
        _reader: &mut Reader<Self>,
        _max: usize,
    ) -> Option<Result<Read<Result<(u64, Origin), Violation>>, TryReadError>> {
        None
    }
}

/// Calls `publish` with a batch of `n` events.
fn with_batch<R>(first: Origin, n: usize, room: &mut [u8], publish: impl FnOnce(&[(u16, &[u8])]) -> R) -> R {
    let mut batch = [(0, &[][..]); BATCH];
    let max = room.len() / BATCH;
    for ((at, event), room) in batch[..n].iter_mut().enumerate().zip(room.chunks_exact_mut(max)) {
        let origin = Origin { count: first.count + at as u64, ..first };
        *event = (origin.tag(), origin.fill(room));
    }
    publish(&batch[..n])
}

impl Subject for Bytes {
    fn make(config: Config, max: usize) -> RingOf<Self> {
        config.bytes(max).or_fail("a ring")
    }

    #[inline]
    fn publish(ring: &RingOf<Self>, origin: Origin, room: &mut [u8]) -> Result<u64, PublishError> {
        let max = room.len() / BATCH;
        let bytes = origin.fill(&mut room[..max]);
        if origin.tag() == 0 { ring.publish(bytes) } else { ring.publish_tagged(origin.tag(), bytes) }
    }

    fn publish_batch(
        ring: &RingOf<Self>,
        first: Origin,
        n: usize,
        room: &mut [u8],
    ) -> Result<Range<u64>, BatchError> {
        with_batch(first, n, room, |batch| ring.publish_batch(batch))
    }

    #[inline]
    fn publish_alone(
        ring: &mut Exclusive<Self>,
        origin: Origin,
        room: &mut [u8],
    ) -> Result<u64, PublishError> {
        let max = room.len() / BATCH;
        let bytes = origin.fill(&mut room[..max]);
        if origin.tag() == 0 { ring.publish(bytes) } else { ring.publish_tagged(origin.tag(), bytes) }
    }

    fn publish_batch_alone(
        ring: &mut Exclusive<Self>,
        first: Origin,
        n: usize,
        room: &mut [u8],
    ) -> Result<Range<u64>, BatchError> {
        with_batch(first, n, room, |batch| ring.publish_batch(batch))
    }

    #[inline]
    fn check(event: Event<'_>, max: usize) -> Result<(u64, Origin), Violation> {
        Ok((event.seq, Origin::of_bytes(event.bytes, event.tag, max)?))
    }

    fn check_owned(event: OwnedEvent, max: usize) -> Result<(u64, Origin), Violation> {
        Ok((event.seq, Origin::of_bytes(&event.bytes, event.tag, max)?))
    }

    fn filter(reader: &mut Reader<Self>, tags: Option<u16>) -> bool {
        match tags {
            Some(tags) => reader.set_filter(|tag| tag < TAGS && tags >> tag & 1 != 0),
            None => reader.clear_filter(),
        }
        true
    }

    fn look(
        reader: &mut Reader<Self>,
        max: usize,
    ) -> Option<Result<Read<Result<(u64, Origin), Violation>>, TryReadError>> {
        Some(reader.try_look(|event| {
            let bytes = event.words().flatten().take(event.len()).collect::<Vec<u8>>();
            let mut copy = vec![0; event.len()];
            event.copy_to(&mut copy);
            Origin::of_bytes(&bytes, event.tag(), max)?;
            Ok((event.seq(), Origin::of_bytes(&copy, event.tag(), max)?))
        }))
    }
}

impl<const N: usize> Subject for Typed<[u64; N]>
where
    [u64; N]: Pod,
{
    fn make(config: Config, _: usize) -> RingOf<Self> {
        config.typed().or_fail("a typed ring")
    }

    #[inline]
    fn publish(ring: &RingOf<Self>, origin: Origin, _: &mut [u8]) -> Result<u64, PublishError> {
        ring.publish(&origin.value())
    }

    fn publish_batch(
        ring: &RingOf<Self>,
        first: Origin,
        n: usize,
        _: &mut [u8],
    ) -> Result<Range<u64>, BatchError> {
        ring.publish_batch(&values(first)[..n])
    }

    #[inline]
    fn publish_alone(ring: &mut Exclusive<Self>, origin: Origin, _: &mut [u8]) -> Result<u64, PublishError> {
        ring.publish(&origin.value())
    }

    fn publish_batch_alone(
        ring: &mut Exclusive<Self>,
        first: Origin,
        n: usize,
        _: &mut [u8],
    ) -> Result<Range<u64>, BatchError> {
        ring.publish_batch(&values(first)[..n])
    }

    #[inline]
    fn check(event: TypedEvent<[u64; N]>, _: usize) -> Result<(u64, Origin), Violation> {
        Ok((event.seq, Origin::of_value(&event.value)?))
    }

    fn check_owned(event: TypedEvent<[u64; N]>, max: usize) -> Result<(u64, Origin), Violation> {
        Self::check(event, max)
    }
}

fn values<const N: usize>(first: Origin) -> [[u64; N]; BATCH] {
    std::array::from_fn(|at| Origin { count: first.count + at as u64, ..first }.value())
}

/// What the threads of one ring share.
struct Scene<S: Subject> {
    handle: Handle<S>,
    max: usize,
    /// Where the steady reader is, for publishers that go at its pace.
    at: AtomicU64,
    is_paced: bool,
    published: AtomicU64,
    cancellers: Mutex<Vec<Canceller>>,
    /// A reader on its way from one thread to another.
    passed_on: Mutex<Option<(Reader<S>, Account)>>,
    /// Readers that are neither read nor dropped any more, but can be reached: a leak checker is not to tell of them.
    leaked: &'static Mutex<Vec<Box<dyn Send>>>,
}

static LEAKED: Mutex<Vec<Box<dyn Send>>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Subject> Scene<S> {
    /// Leaks a reader of a small ring, whose memory is then held for good.
    fn leak(&self, reader: impl Send + 'static) {
        if self.handle.memory() < 64 << 10 {
            TOTALS.leaked.fetch_add(1, Relaxed);
            lock(self.leaked).push(Box::new(reader));
        }
    }

    /// What a publisher does now and then: nothing, a rest in which readers fall asleep, or it waits for the steady reader, to the last event: a wake-up
    /// that is lost stops it for good.
    fn rest(&self, last_seq: u64, rng: &mut Rng) {
        if rng.once_in(24) {
            thread::park_timeout(Duration::from_micros(rng.below(200)));
        }
        if !self.is_paced {
            return;
        }
        let ahead = if rng.once_in(8) { 0 } else { self.handle.capacity() / 2 };
        while last_seq > self.at.load(Relaxed).saturating_add(ahead) && !self.handle.is_closed() {
            thread::yield_now();
        }
    }
}

/// One of many publishers, until `until` or the end. Returns its next count.
fn publish<S: Subject>(
    ring: &RingOf<S>,
    scene: &Scene<S>,
    first: Origin,
    until: Instant,
    mut rng: Rng,
) -> u64 {
    let mut room = vec![0; scene.max * BATCH];
    let Origin { publisher, mut count } = first;
    let mut last_seq = 0;
    let start = count;
    'all: while Instant::now() < until {
        let of_batch = if rng.once_in(3) { 1 } else { 1 + rng.below(BATCH as u64) as usize };
        for _ in 0..rng.below(200) {
            let origin = Origin { publisher, count };
            let result = if of_batch == 1 {
                let one = S::publish(ring, origin, &mut room).map(|seq| seq..seq + 1);
                one.map_err(|error| BatchError { published: 0, index: 0, error })
            } else {
                S::publish_batch(ring, origin, of_batch, &mut room)
            };
            match result {
                Ok(seqs) => {
                    if seqs.start <= last_seq || seqs.end - seqs.start < of_batch as u64 {
                        fail(Violation::Reordered(format!(
                            "{of_batch} events got {seqs:?} after {last_seq}"
                        )));
                    }
                    last_seq = seqs.end - 1;
                    count += of_batch as u64;
                }
                Err(BatchError { published, error, .. }) => {
                    count += published as u64;
                    match error {
                        // Another one can be descheduled where this one would write.
                        PublishError::Stalled { .. } => {}
                        PublishError::Closed => break 'all,
                        error => fail(format_args!("{origin:?}: {error}")),
                    }
                }
            }
        }
        scene.rest(last_seq, &mut rng);
    }
    scene.published.fetch_add(count - start, Relaxed);
    count
}

/// The only publisher, until `until`. Returns its next count.
fn publish_alone<S: Subject>(
    ring: &mut Exclusive<S>,
    scene: &Scene<S>,
    first: Origin,
    until: Instant,
    mut rng: Rng,
) -> u64 {
    let mut room = vec![0; scene.max * BATCH];
    let Origin { publisher, mut count } = first;
    let start = count;
    while Instant::now() < until {
        let of_batch = if rng.once_in(3) { 1 } else { 1 + rng.below(BATCH as u64) as usize };
        let mut next = scene.handle.newest() + 1;
        for _ in 0..rng.below(200) {
            let origin = Origin { publisher, count };
            let seqs = if of_batch == 1 {
                S::publish_alone(ring, origin, &mut room).map(|seq| seq..seq + 1).or_fail("an only publisher")
            } else {
                S::publish_batch_alone(ring, origin, of_batch, &mut room).or_fail("an only publisher")
            };
            if seqs != (next..next + of_batch as u64) {
                fail(Violation::Reordered(format!(
                    "{of_batch} events of an only publisher got {seqs:?} at {next}"
                )));
            }
            next = seqs.end;
            count += of_batch as u64;
        }
        scene.rest(next - 1, &mut rng);
    }
    scene.published.fetch_add(count - start, Relaxed);
    count
}

/// How a reader reads.
#[derive(Clone, Copy, Debug)]
enum Way {
    Try,
    TryBatch,
    Look,
    Block,
    BlockBatch,
    Timed,
    Deadline,
    Task,
    /// Futures that are dropped while they wait.
    DroppedTask,
    Stream,
}

const WAYS: [Way; 10] = [
    Way::Try,
    Way::TryBatch,
    Way::Look,
    Way::Block,
    Way::BlockBatch,
    Way::Timed,
    Way::Deadline,
    Way::Task,
    Way::DroppedTask,
    Way::Stream,
];

/// What a reader found beside events.
#[derive(PartialEq)]
enum Found {
    Something,
    Nothing,
    Cancelled,
    Closed,
}

/// Takes what was read into the account.
#[inline(always)]
fn take<S: Subject>(account: &mut Account, read: Read<S::Event<'_>>, max: usize) {
    match read {
        Read::Event(event) => {
            let (seq, origin) = S::check(event, max).or_fail("read");
            account.event(seq, origin).or_fail("read");
        }
        Read::Dropped(dropped) => account.dropped(dropped.from, dropped.to).or_fail("read"),
    }
}

fn missed(error: TryReadError) -> Found {
    match error {
        TryReadError::Empty => Found::Nothing,
        TryReadError::Closed => Found::Closed,
    }
}

fn ended(error: ReadError) -> Found {
    match error {
        ReadError::Closed => Found::Closed,
        ReadError::TimedOut => Found::Nothing,
        ReadError::Cancelled => Found::Cancelled,
    }
}

/// One read.
fn read<S: Subject>(
    mut reader: Reader<S>,
    way: Way,
    account: &mut Account,
    max: usize,
    rng: &mut Rng,
) -> (Reader<S>, Found) {
    let some = Duration::from_micros(rng.below(400));
    let found = match way {
        Way::Try => reader.try_read().map(|read| take::<S>(account, read, max)).map_err(missed),
        Way::Look => match S::look(&mut reader, max) {
            None => return read(reader, Way::Try, account, max, rng),
            Some(Ok(Read::Event(event))) => {
                let (seq, origin) = event.or_fail("looked at");
                account.event(seq, origin).or_fail("looked at");
                Ok(())
            }
            Some(Ok(Read::Dropped(dropped))) => {
                account.dropped(dropped.from, dropped.to).or_fail("looked at");
                Ok(())
            }
            Some(Err(error)) => Err(missed(error)),
        },
        Way::Block => reader.read().map(|read| take::<S>(account, read, max)).map_err(ended),
        Way::Timed => reader.read_timeout(some).map(|read| take::<S>(account, read, max)).map_err(ended),
        Way::Deadline => {
            let deadline = Instant::now() + some;
            reader.read_deadline(deadline).map(|read| take::<S>(account, read, max)).map_err(ended)
        }
        Way::Task => block_on(reader.read_async()).map(|read| take::<S>(account, read, max)).map_err(ended),
        Way::DroppedTask => {
            let next = pin!(reader.read_async());
            match next.poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(read) => read.map(|read| take::<S>(account, read, max)).map_err(ended),
                Poll::Pending => Err(Found::Nothing),
            }
        }
        Way::TryBatch | Way::BlockBatch => {
            let before = account.delivered;
            let each = |event: S::Event<'_>| take::<S>(account, Read::Event(event), max);
            let n = 1 + rng.below(100) as usize;
            let batch = if let Way::TryBatch = way {
                reader.try_read_batch(n, each).map_err(missed)
            } else {
                reader.read_batch(n, each).map_err(ended)
            };
            batch.map(|read| match read {
                Read::Event(count) if account.delivered - before == count as u64 => {}
                Read::Event(count) => {
                    fail(Violation::Unaccounted(format!("a batch of {count}: {account:?}")))
                }
                Read::Dropped(dropped) => account.dropped(dropped.from, dropped.to).or_fail("a batch"),
            })
        }
        Way::Stream => {
            let mut events = reader.into_events();
            let mut result = Ok(());
            for _ in 0..rng.below(50) {
                match block_on(poll_fn(|cx| Pin::new(&mut events).poll_next(cx))) {
                    Some(Read::Event(event)) => {
                        let (seq, origin) = S::check_owned(event, max).or_fail("a stream");
                        account.event(seq, origin).or_fail("a stream");
                    }
                    Some(Read::Dropped(dropped)) => {
                        account.dropped(dropped.from, dropped.to).or_fail("a stream")
                    }
                    None => {
                        result = Err(Found::Cancelled);
                        break;
                    }
                }
            }
            reader = events.into_reader();
            // Whether it was the end, or a cancellation, a look tells.
            if result.is_err() {
                result = reader.try_read().map(|read| take::<S>(account, read, max)).map_err(missed);
                if let Err(Found::Nothing) = result {
                    result = Err(Found::Cancelled);
                }
            }
            result
        }
    };
    (reader, found.err().unwrap_or(Found::Something))
}

/// Reads from the first event to the last, in one way.
fn steady<S: Subject>(
    mut reader: Reader<S>,
    way: Way,
    scene: &Scene<S>,
    leads: bool,
    mut rng: Rng,
) -> Account {
    let mut account = Account::new(reader.next_seq());
    loop {
        let found;
        (reader, found) = read(reader, way, &mut account, scene.max, &mut rng);
        if leads {
            scene.at.store(account.last, Relaxed);
        }
        match found {
            Found::Something => {}
            Found::Nothing => thread::yield_now(),
            Found::Cancelled => fail("a reader is cancelled that nobody has cancelled"),
            Found::Closed => break,
        }
    }
    account.settle(reader.next_seq(), Some(reader.skipped())).or_fail(format_args!("{way:?}"));
    account.end(reader.handle().newest()).or_fail(format_args!("{way:?}"));
    account
}

/// Reads in every way, with everything that can become of a reader.
fn wander<S: Subject>(mut reader: Reader<S>, mut account: Account, scene: &Scene<S>, mut rng: Rng) {
    let max = scene.max;
    loop {
        let way = rng.pick(&WAYS);
        if rng.once_in(4) {
            let mut cancellers = lock(&scene.cancellers);
            cancellers.truncate(15);
            cancellers.push(reader.canceller());
        }
        let mut found = Found::Something;
        for _ in 0..rng.below(300) {
            (reader, found) = read(reader, way, &mut account, max, &mut rng);
            match found {
                Found::Something => {}
                Found::Nothing => thread::yield_now(),
                Found::Cancelled | Found::Closed => break,
            }
        }
        account.settle(reader.next_seq(), Some(reader.skipped())).or_fail(format_args!("{way:?}"));
        match found {
            Found::Closed => break account.end(reader.handle().newest()).or_fail(format_args!("{way:?}")),
            // It stays cancelled: its clone does not.
            Found::Cancelled => reader = reader.clone(),
            _ => {}
        }
        let handle = &scene.handle;
        match rng.below(32) {
            0 => {
                let clone = reader.clone();
                drop(std::mem::replace(&mut reader, clone));
            }
            1 => {
                let clone = reader.clone();
                scene.leak(std::mem::replace(&mut reader, clone));
            }
            2 => {
                // It waits in the list for good.
                let mut events = reader.clone().into_events();
                if Pin::new(&mut events).poll_next(&mut Context::from_waker(Waker::noop())).is_pending() {
                    scene.leak(events);
                }
            }
            3 => {
                reader.move_to_oldest();
                account.moved(reader.next_seq(), reader.skipped());
            }
            4 => {
                reader.move_to_now();
                account.moved(reader.next_seq(), reader.skipped());
            }
            5 => {
                let seq = handle.newest().saturating_sub(rng.below(2 * handle.capacity()));
                reader.move_after(seq).or_fail("a move to what was");
                account.moved(seq + 1, reader.skipped());
            }
            6 => {
                reader = match rng.below(3) {
                    0 => handle.reader_from_oldest(),
                    1 => handle.reader_from_now(),
                    _ => handle.reader_after(handle.newest()).or_fail("a reader after the newest"),
                };
                account.is_filtered = false;
                account.moved(reader.next_seq(), 0);
            }
            7 => {
                let tags = rng.next() as u16;
                if S::filter(&mut reader, Some(tags)) {
                    (account.is_filtered, account.tags) = (true, tags.into());
                }
            }
            8 | 9 => {
                S::filter(&mut reader, None);
                account.is_filtered = false;
            }
            10 => {
                let other = lock(&scene.passed_on).replace((reader, account));
                (reader, account) = other.unwrap_or_else(|| {
                    let reader = handle.reader_from_oldest();
                    let account = Account::new(reader.next_seq());
                    (reader, account)
                });
            }
            _ => {}
        }
    }
}

/// Tasks of one thread.
fn tasks<S: Subject>(scene: &Arc<Scene<S>>, n: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().or_fail("a runtime");
    let tasks = (0..n).map(|_| {
        let (mut reader, scene) = (scene.handle.reader_from_oldest(), Arc::clone(scene));
        runtime.spawn(async move {
            let mut account = Account::new(reader.next_seq());
            loop {
                match reader.read_async().await {
                    Ok(read) => take::<S>(&mut account, read, scene.max),
                    Err(error) => break assert_eq!(error, ReadError::Closed),
                }
                // Others have a turn also where there is always something.
                if account.delivered.is_multiple_of(64) {
                    tokio::task::yield_now().await;
                }
            }
            account.settle(reader.next_seq(), Some(0)).or_fail("a task");
            account.end(reader.handle().newest()).or_fail("a task");
        })
    });
    let tasks = tasks.collect::<Vec<_>>();
    runtime.block_on(async {
        for task in tasks {
            task.await.or_fail("a task");
        }
    });
}

/// Looks from outside, cancels, and makes readers that are gone at once.
fn disturb<S: Subject>(scene: &Scene<S>, mut rng: Rng) {
    let handle = &scene.handle;
    while !handle.is_closed() {
        thread::park_timeout(Duration::from_micros(rng.below(3000)));
        let (oldest, readable, newest) = (handle.oldest(), handle.readable(), handle.newest());
        if oldest > newest + 1 || readable > newest {
            fail(Violation::Other(format!("oldest {oldest}, readable {readable}, newest {newest}")));
        }
        let cancellers = std::mem::take(&mut *lock(&scene.cancellers));
        for canceller in cancellers {
            if rng.once_in(2) {
                canceller.cancel();
            }
        }
        let mut reader = handle.reader_from_oldest();
        let mut account = Account::new(reader.next_seq());
        for _ in 0..rng.below(5) {
            if let Ok(read) = reader.try_read() {
                take::<S>(&mut account, read, scene.max);
            }
        }
    }
}

/// A ring from its making to its end.
pub fn run<S: Subject>(length: Duration, mut rng: Rng) {
    let capacity = rng.pick(&[1, 2, 2, 3, 5, 16, 64, 100, 1000, 4096]);
    let max = rng.pick(&[8, 9, 24, 24, 64, 100, 200, 700]);
    let first_seq = if rng.once_in(2) { 1 } else { 1 + (rng.next() >> 4) };
    let wait = if rng.once_in(10) { Wait::Spin } else { Wait::Park };
    let ring = S::make(Config::new(capacity).wait(wait).first_seq(first_seq), max);
    let wanderers = if wait == Wait::Spin { 1 } else { 1 + rng.below(3) };
    let scene = Arc::new(Scene {
        handle: ring.handle(),
        max,
        at: AtomicU64::new(first_seq - 1),
        is_paced: wait == Wait::Park && !rng.once_in(4),
        published: AtomicU64::new(0),
        cancellers: Mutex::default(),
        passed_on: Mutex::new(None),
        leaked: &LEAKED,
    });
    let ways = if wait == Wait::Spin { vec![Way::Try] } else { vec![Way::BlockBatch, rng.pick(&WAYS)] };
    let with_tasks = wait == Wait::Park && rng.once_in(3);
    let (counts, accounts) = thread::scope(|scope| {
        let shared = &scene;
        let mut readers = Vec::new();
        for (at, way) in ways.into_iter().enumerate() {
            let (reader, rng) = (ring.reader_from_oldest(), rng.fork());
            readers.push(scope.spawn(move || steady(reader, way, shared, at == 0, rng)));
        }
        let wanderers = (0..wanderers).map(|_| {
            let (reader, rng) = (ring.reader_from_oldest(), rng.fork());
            let account = Account::new(reader.next_seq());
            scope.spawn(move || wander(reader, account, shared, rng))
        });
        let mut others = wanderers.collect::<Vec<_>>();
        if with_tasks {
            others.push(scope.spawn(move || tasks(shared, 4)));
        }
        let fork = rng.fork();
        others.push(scope.spawn(move || disturb(shared, fork)));

        let counts = publish_in_turns(ring, shared, length, &mut rng);
        let accounts =
            readers.into_iter().map(|reader| reader.join().map_err(|_| "panicked").or_fail("a reader"));
        let accounts = accounts.collect::<Vec<_>>();
        join_all(others);
        (counts, accounts)
    });
    // One that nobody has taken over.
    loop {
        let Some((reader, account)) = lock(&scene.passed_on).take() else { break };
        wander(reader, account, &scene, rng.fork());
    }
    let (published, abandoned) = (scene.published.load(Relaxed), scene.handle.abandoned());
    let newest = scene.handle.newest();
    if newest != first_seq - 1 + published + abandoned {
        let what = format!("{published} published, {abandoned} given up, from {first_seq} to {newest}");
        fail(Violation::Unaccounted(what));
    }
    for account in accounts {
        account.whole(&counts, abandoned).or_fail("from the first to the last");
    }
    TOTALS.published.fetch_add(published, Relaxed);
}

/// One publisher, many, and one again. Ends the ring while they are many, or at the end, by closing it or by dropping it.
fn publish_in_turns<S: Subject>(
    ring: RingOf<S>,
    scene: &Arc<Scene<S>>,
    length: Duration,
    rng: &mut Rng,
) -> [u64; PUBLISHERS] {
    let mut counts = [0; PUBLISHERS];
    let third = |rng: &mut Rng| Instant::now() + length.mul_f64(rng.below(1000) as f64 / 1500.);
    let mut ring = ring.into_exclusive();
    counts[0] = publish_alone(&mut ring, scene, Origin { publisher: 0, count: 0 }, third(rng), rng.fork());
    let ring = ring.into_shared();
    let (until, closes_early) = (third(rng), rng.once_in(3));
    let publishers = 1 + rng.below(4) as usize;
    thread::scope(|scope| {
        let (ring, counts) = (&ring, &mut counts[1..=publishers]);
        let mut threads = Vec::new();
        for publisher in 1..=publishers as u8 {
            let rng = rng.fork();
            let until = if closes_early { until + length } else { until };
            let first = Origin { publisher, count: 0 };
            threads.push(scope.spawn(move || publish(ring, scene, first, until, rng)));
        }
        if closes_early {
            while let Some(rest) = until.checked_duration_since(Instant::now()) {
                thread::park_timeout(rest);
            }
            ring.close();
        }
        for (count, thread) in counts.iter_mut().zip(threads) {
            *count = thread.join().map_err(|_| "panicked").or_fail("a publisher");
        }
    });
    if !closes_early {
        let mut ring = ring.into_exclusive();
        let first = Origin { publisher: 0, count: counts[0] };
        counts[0] = publish_alone(&mut ring, scene, first, third(rng), rng.fork());
        if rng.once_in(2) && !ring.close() {
            fail("a ring is closed that nobody has closed");
        }
    }
    counts
}
