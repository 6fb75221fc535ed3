//! Two publishers and four readers of different speed on threads of their own. Every payload says who published it,
//! as which of its events, and every word of it follows from those: no tear can hide. Every reader gives an account,
//! exact to the event.
#![cfg(feature = "std")]

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;

use lapwing::ring::{
    BatchError, Bytes, Event, Payload, PublishError, Read, ReadError, Reader, Ring, RingOf, TryReadError,
    Typed, TypedEvent, TypedRing,
};

const PUBLISHERS: u64 = 2;
/// Over both publishers, in a ring of each kind.
const EVENTS: u64 = if cfg!(debug_assertions) { 400_000 } else { 20_000_000 };
const CAPACITY: u64 = 1000;
/// The longest payload, in words: more than the wide copy's block, and not a multiple of it.
const MAX_WORDS: u64 = 13;

/// Which of a publisher's events this is.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Origin {
    publisher: u64,
    count: u64,
}

impl Origin {
    /// Word `at` of its payload. The first two say the origin, each following one depends on all of it.
    fn word(self, at: u64) -> u64 {
        let Self { publisher, count } = self;
        match at {
            0 => publisher,
            1 => count,
            _ => (count ^ publisher << 60 ^ at << 50).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        }
    }

    /// Words of the payload: two at least.
    fn words(self) -> u64 {
        2 + (self.count ^ self.publisher) % (MAX_WORDS - 1)
    }

    /// The tag, of few bits, so that a filter can choose.
    fn tag(self) -> u16 {
        (self.count % 5) as u16
    }

    /// Reads the first two words, and checks all the others.
    fn check(words: impl Iterator<Item = u64>) -> (Self, u64) {
        let mut len = 0;
        let mut origin = Self { publisher: 0, count: 0 };
        for word in words {
            match len {
                0 => origin.publisher = word,
                1 => origin.count = word,
                _ => assert_eq!(word, origin.word(len), "a tear in {origin:?}, word {len}"),
            }
            len += 1;
        }
        assert!(origin.publisher < PUBLISHERS, "a tear in {origin:?}");
        (origin, len)
    }
}

/// What the two kinds of ring do not have in common.
trait Subject: Payload {
    fn publish(ring: &RingOf<Self>, origin: Origin) -> Result<u64, PublishError>;
    /// `n` events from `first` on.
    fn publish_batch(ring: &RingOf<Self>, first: Origin, n: u64) -> Result<u64, BatchError>;
    /// Checks an event, and returns its seq and origin.
    fn check(event: Self::Event<'_>) -> (u64, Origin);
    fn set_filter(_reader: &mut Reader<Self>) {}
}

impl Subject for Bytes {
    fn publish(ring: &Ring, origin: Origin) -> Result<u64, PublishError> {
        let mut bytes = [0; MAX_WORDS as usize * 8];
        ring.publish_tagged(origin.tag(), fill(&mut bytes, origin))
    }

    fn publish_batch(ring: &Ring, first: Origin, n: u64) -> Result<u64, BatchError> {
        let mut bytes = [[0; MAX_WORDS as usize * 8]; 16];
        let origins = (0..n).map(|at| Origin { count: first.count + at, ..first });
        let events = bytes.iter_mut().zip(origins).map(|(bytes, origin)| (origin.tag(), fill(bytes, origin)));
        let mut batch = [(0, &[][..]); 16];
        batch.iter_mut().zip(events).for_each(|(place, (tag, bytes))| *place = (tag, bytes));
        ring.publish_batch(&batch[..n as usize]).map(|seqs| seqs.start)
    }

    fn check(event: Event<'_>) -> (u64, Origin) {
        let (words, rest) = event.bytes.as_chunks();
        let (origin, len) = Origin::check(words.iter().map(|word| u64::from_le_bytes(*word)));
        assert!(rest.is_empty() && len == origin.words() && event.tag == origin.tag(), "a tear in {event:?}");
        (event.seq, origin)
    }

    fn set_filter(reader: &mut Reader<Bytes>) {
        reader.set_filter(|tag| tag < 2);
    }
}

fn fill(bytes: &mut [u8; MAX_WORDS as usize * 8], origin: Origin) -> &[u8] {
    let (words, _) = bytes.as_chunks_mut();
    for (word, at) in words.iter_mut().zip(0..origin.words()) {
        *word = origin.word(at).to_le_bytes();
    }
    &bytes[..origin.words() as usize * 8]
}

/// As long as no whole number of cache lines, with the stamp.
type Value = [u64; 9];

fn value(origin: Origin) -> Value {
    std::array::from_fn(|at| origin.word(at as u64))
}

impl Subject for Typed<Value> {
    fn publish(ring: &TypedRing<Value>, origin: Origin) -> Result<u64, PublishError> {
        ring.publish(&value(origin))
    }

    fn publish_batch(ring: &TypedRing<Value>, first: Origin, n: u64) -> Result<u64, BatchError> {
        let values: [_; 16] =
            std::array::from_fn(|at| value(Origin { count: first.count + at as u64, ..first }));
        ring.publish_batch(&values[..n as usize]).map(|seqs| seqs.start)
    }

    fn check(event: TypedEvent<Value>) -> (u64, Origin) {
        (event.seq, Origin::check(event.value.into_iter()).0)
    }
}

/// What a reader has seen.
#[derive(Debug, Default)]
struct Account {
    /// The last seq that is accounted for.
    last: u64,
    delivered: u64,
    dropped: u64,
    skipped: u64,
    /// By publisher: the count that comes next.
    next: [u64; PUBLISHERS as usize],
    /// Counts that were passed over.
    missing: u64,
}

impl Account {
    /// `skipped` is how many the reader's filter has skipped since it was made.
    fn take(&mut self, read: Read<(u64, Origin)>, skipped: u64) {
        self.skip(skipped);
        match read {
            Read::Event((seq, origin)) => {
                assert_eq!(seq, self.last + 1, "a hole, or an overlap");
                self.last = seq;
                self.delivered += 1;
                let next = &mut self.next[origin.publisher as usize];
                assert!(origin.count >= *next, "{origin:?} came after {next}: not in its publisher's order");
                self.missing += origin.count - *next;
                *next = origin.count + 1;
                assert!(self.missing <= self.dropped + self.skipped, "{origin:?} came after an untold loss");
            }
            Read::Dropped(dropped) => {
                assert_eq!(dropped.from, self.last + 1, "a hole, or an overlap");
                self.last = dropped.to;
                self.dropped += dropped.count();
            }
        }
    }

    fn skip(&mut self, skipped: u64) {
        self.last += skipped - self.skipped;
        self.skipped = skipped;
    }

    /// The end of a ring whose last seq is `newest`, `abandoned` of which were given up.
    fn close(&self, name: &str, newest: u64, abandoned: u64) {
        println!("{name}: {self:?}");
        assert_eq!(self.last, newest, "{name} stopped before the end");
        assert_eq!(self.delivered + self.dropped + self.skipped, newest, "{name}");
        let rest = self.next.iter().map(|next| EVENTS / PUBLISHERS - next).sum::<u64>();
        assert_eq!(self.dropped + self.skipped, self.missing + rest + abandoned, "{name}");
    }
}

fn checked<S: Subject>(read: Read<S::Event<'_>>) -> Read<(u64, Origin)> {
    match read {
        Read::Event(event) => Read::Event(S::check(event)),
        Read::Dropped(dropped) => Read::Dropped(dropped),
    }
}

/// Publishes all the events of one publisher: single ones and batches of up to 16 in turns; flat out, and at the pace
/// of the reader that is `at`, in longer turns.
fn publish_all<S: Subject>(ring: &RingOf<S>, publisher: u64, at: &AtomicU64) {
    let mut last_seq = 0;
    let mut count = 0;
    while count < EVENTS / PUBLISHERS {
        while count >> 15 & 3 == 3 && ring.newest() > at.load(Relaxed) + ring.capacity() / 2 {
            thread::yield_now();
        }
        let origin = Origin { publisher, count };
        let n = (1 + count % 16).min(EVENTS / PUBLISHERS - count);
        let result = if count & 64 == 0 || n == 1 {
            let result = S::publish(ring, origin).map(|seq| (seq, 1));
            result.map_err(|error| BatchError { published: 0, index: 0, error })
        } else {
            S::publish_batch(ring, origin, n).map(|seq| (seq, n))
        };
        match result {
            Ok((seq, n)) => {
                assert!(seq > last_seq);
                last_seq = seq;
                count += n;
            }
            // The other publisher can be descheduled where this one would write, but not for ever.
            Err(BatchError { published, error: PublishError::Stalled { .. }, .. }) => {
                count += published as u64
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// One read after the other, by `read`, until it says `None`.
fn read_all<S: Subject>(
    mut reader: Reader<S>,
    mut read: impl FnMut(&mut Reader<S>) -> Option<Read<(u64, Origin)>>,
) -> Account {
    let mut account = Account::default();
    while let Some(read) = read(&mut reader) {
        account.take(read, reader.skipped());
    }
    account.skip(reader.skipped());
    account
}

/// Polls until there is something, or the end.
fn poll<S: Subject>(reader: &mut Reader<S>) -> Option<Read<(u64, Origin)>> {
    loop {
        match reader.try_read() {
            Ok(read) => return Some(checked::<S>(read)),
            // There are more threads than processors, perhaps.
            Err(TryReadError::Empty) => thread::yield_now(),
            Err(TryReadError::Closed) => return None,
        }
    }
}

/// Where a reader is, for publishers that go at its pace; beyond all events when it is gone.
struct At<'a>(&'a AtomicU64);

impl Drop for At<'_> {
    fn drop(&mut self) {
        self.0.store(u64::MAX / 2, Relaxed);
    }
}

/// Blocks for batches, and says where it is.
fn block<S: Subject>(mut reader: Reader<S>, at: &AtomicU64) -> Account {
    let mut account = Account::default();
    let at = At(at);
    loop {
        let before = account.delivered;
        match reader.read_batch(32, |event| account.take(Read::Event(S::check(event)), 0)) {
            Ok(Read::Event(n)) => assert_eq!(account.delivered - before, n as u64),
            Ok(Read::Dropped(dropped)) => account.take(Read::Dropped(dropped), 0),
            Err(error) => {
                assert_eq!(error, ReadError::Closed);
                return account;
            }
        }
        at.0.store(account.last, Relaxed);
    }
}

fn stress<S: Subject>(ring: RingOf<S>) {
    let (done, at) = (AtomicBool::new(false), AtomicU64::new(0));
    let blocking = ring.reader_from_oldest();
    let polling = ring.reader_from_oldest();
    let slow = ring.reader_from_oldest();
    let mut filtered = ring.reader_from_oldest();
    S::set_filter(&mut filtered);
    let accounts = thread::scope(|scope| {
        let (ring, done, at) = (&ring, &done, &at);
        let publishers = [0, 1].map(|publisher| scope.spawn(move || publish_all(ring, publisher, at)));
        let readers = [
            ("blocking", scope.spawn(|| block(blocking, at))),
            ("polling", scope.spawn(|| read_all(polling, poll))),
            (
                "slow",
                scope.spawn(move || {
                    let mut reads = 0;
                    read_all(slow, move |reader| {
                        // Now and then it waits until it is lapped.
                        while reads % 100 == 0 && reader.lag() <= CAPACITY && !done.load(Acquire) {
                            thread::yield_now();
                        }
                        reads += 1;
                        poll(reader)
                    })
                }),
            ),
            ("filtered", scope.spawn(|| read_all(filtered, poll))),
        ];
        // Closed before any of them is found to have panicked, so that the others come to their end.
        let published = publishers.map(|publisher| publisher.join());
        done.store(true, Release);
        assert!(ring.close());
        published.into_iter().for_each(Result::unwrap);
        readers.map(|(name, reader)| (name, reader.join().unwrap()))
    });
    let (newest, abandoned) = (ring.newest(), ring.abandoned());
    println!("newest {newest}, abandoned {abandoned}, overruns {}", ring.overruns());
    assert_eq!(newest, EVENTS + abandoned, "every seq is an event, or was given up");
    for (name, account) in &accounts {
        account.close(name, newest, abandoned);
    }
    assert!(accounts[2].1.dropped > 0, "the slow reader was lapped");
}

#[test]
fn bytes() {
    stress(Ring::new(CAPACITY, MAX_WORDS as usize * 8).unwrap());
}

#[test]
fn values() {
    stress(TypedRing::<Value>::new(CAPACITY).unwrap());
}

/// So small that publishers meet in a slot all the time.
#[test]
fn three_slots() {
    stress(Ring::new(3, MAX_WORDS as usize * 8).unwrap());
}

/// An event that comes between the look of the filter and the look at the event is not looked at unfiltered.
#[test]
fn a_look_gives_nothing_that_the_filter_does_not_want() {
    let ring = Ring::new(4, 8).unwrap();
    let mut reader = ring.reader_from_oldest();
    reader.set_filter(|tag| tag == 1);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..EVENTS / 4 {
                ring.publish_tagged(0, b"unwanted").unwrap();
            }
            ring.close();
        });
        loop {
            match reader.try_look(|event| (event.seq(), event.tag())) {
                Ok(Read::Event(event)) => panic!("{event:?} is not wanted"),
                Ok(Read::Dropped(_)) | Err(TryReadError::Empty) => {}
                Err(TryReadError::Closed) => break,
            }
        }
    });
}
