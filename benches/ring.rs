//! What the ring costs, beside a bare copy and tokio, in one run on one machine; what it costs beside its rivals:
//! `benches/compare`.
//!
//! `cargo bench --bench ring` first gives criterion's figure for each contestant alone, in nanoseconds per event.
//! Then it runs the contestants of each group in turns, many short rounds of all of them, so that what disturbs
//! the machine disturbs all alike. A ratio is the median of the rounds' own ratios. The contestant `base` does
//! the same without a ring: it is the harness's own cost, which no figure has been freed of.
//!
//! What is the same for all: rings of 1,024 slots, which fit a second-level cache; payloads of 256 bytes unless a group
//! says `u64`, of which the byte rings are told the length at run time only and the others have it in their type; one
//! reader attached (tokio refuses to send without one). Where tokio can be set up in several ways, each of them is in the
//! table, and a goal is held against the fastest of this run.
//!
//! With one publisher the goals are [`Exclusive`]'s; what [`Ring`], for many publishers, costs there is in the table.

mod harness;

use std::fmt::Debug;
use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::time::Instant;

use bytemuck::bytes_of;
use harness::{Body, CAPACITY, Group, bursts, goal, publishing, racing, streaming};
use lapwing::ring::{Config, Look, Read, Reader, Ring, TryReadError, TypedRing, Wait};
use tokio::sync::broadcast;

/// 256 bytes.
type Payload = [u64; 32];
const PAYLOAD: Payload = [0x0123_4567_89ab_cdef; 32];

fn main() {
    let groups = vec![
        publish(),
        publish_and_read::<1>("publish and read u64 in turn"),
        publish_and_read::<64>("publish 64 u64 and read them"),
        attached(),
        read(),
        stream(),
        two_publishers_of_bytes(),
        two_publishers_of_u64(),
        nobody_waits(),
    ];
    harness::run(groups, Vec::new);
}

// ---- The contestants: what publishes one event, and a reader for it.

fn config(wait: Wait) -> Config {
    Config::new(CAPACITY as u64).wait(wait)
}

fn ring(wait: Wait) -> Ring {
    config(wait).bytes(size_of::<Payload>()).unwrap()
}

/// The payload as a slice whose length the compiler does not know.
#[inline(always)]
fn slice() -> &'static [u8] {
    static BYTES: Payload = PAYLOAD;
    black_box(bytes_of(&BYTES))
}

/// The payload as a value.
#[inline(always)]
fn value() -> Payload {
    *black_box(&PAYLOAD)
}

// Macros, so that each use is a closure of its own, which the compiler puts into the one loop that calls it.

macro_rules! exclusive {
    ($wait:expr) => {{
        let mut ring = ring($wait).into_exclusive();
        let reader = ring.reader_from_now();
        (move || ring.publish(slice()).unwrap(), reader)
    }};
}

macro_rules! shared {
    ($wait:expr) => {{
        let ring = ring($wait);
        let reader = ring.reader_from_now();
        (move || ring.publish(slice()).unwrap(), reader)
    }};
}

macro_rules! typed {
    ($wait:expr, $value:expr) => {{
        let mut ring = config($wait).typed().unwrap().into_exclusive();
        let reader = ring.reader_from_now();
        (move || ring.publish(black_box(&$value)).unwrap(), reader)
    }};
}

macro_rules! tokio {
    ($value:expr) => {{
        let (sender, receiver) = broadcast::channel(CAPACITY);
        (move || sender.send($value).unwrap(), receiver)
    }};
}

// ---- One thread.

/// Publishing 256 bytes.
fn publish() -> Group {
    // Laid out like the slots: 16 bytes before each payload, in whole cache lines.
    let mut slots = vec![[0u8; 320]; CAPACITY];
    let mut slot = 0;
    let copy = move || {
        let bytes = slice();
        black_box(&mut slots[slot])[16..16 + bytes.len()].copy_from_slice(bytes);
        slot = if slot + 1 == CAPACITY { 0 } else { slot + 1 };
    };

    Group {
        name: "publish 256 B",
        events: 20_000,
        bytes: None,
        contestants: vec![
            ("base", publishing((|| slice(), ()))),
            ("bare copy", publishing((copy, ()))),
            ("exclusive", publishing(exclusive!(Wait::Park))),
            ("shared", publishing(shared!(Wait::Park))),
            ("typed exclusive", publishing(typed!(Wait::Park, PAYLOAD))),
            ("tokio, by value", publishing(tokio!(value()))),
            ("tokio, new Arc", publishing(tokio!(Arc::<[u8]>::from(slice())))),
        ],
        goals: vec![
            goal("publish 256 B / bare copy", "exclusive", &["bare copy"], 1.4),
            goal("publish 256 B / tokio", "exclusive", &["tokio, by value", "tokio, new Arc"], 0.55),
        ],
    }
}

/// Publishing and reading a `u64`: `BURST` of them, and then as many reads. By calls for one event each, unless it says
/// batches.
fn publish_and_read<const BURST: usize>(name: &'static str) -> Group {
    fn exclusive<const BURST: usize>(wait: Wait) -> Body {
        let mut ring = config(wait).typed::<u64>().unwrap().into_exclusive();
        let mut reader = ring.reader_from_now();
        bursts::<BURST>(
            move || (0..BURST as u64).for_each(|value| _ = ring.publish(&black_box(value)).unwrap()),
            move || (0..BURST).for_each(|_| _ = black_box(reader.try_read().unwrap().event().unwrap().value)),
        )
    }

    let ring = TypedRing::<u64>::new(CAPACITY as u64).unwrap();
    let mut reader = ring.reader_from_now();
    let shared = bursts::<BURST>(
        move || (0..BURST as u64).for_each(|value| _ = ring.publish(&black_box(value)).unwrap()),
        move || (0..BURST).for_each(|_| _ = black_box(reader.try_read().unwrap().event().unwrap().value)),
    );

    let mut ring = TypedRing::<u64>::new(CAPACITY as u64).unwrap().into_exclusive();
    let mut reader = ring.reader_from_now();
    let batches = bursts::<BURST>(
        move || {
            _ = ring.publish_batch(&std::array::from_fn::<_, BURST, _>(|at| black_box(at as u64))).unwrap()
        },
        move || {
            let read = reader.try_read_batch(BURST, |event| _ = black_box(event.value));
            assert_eq!(read, Ok(Read::Event(BURST)));
        },
    );

    let base = bursts::<BURST>(
        || (0..BURST as u64).for_each(|value| _ = black_box(value)),
        || (0..BURST as u64).for_each(|value| _ = black_box(value)),
    );

    Group {
        name,
        events: 64_000,
        bytes: None,
        contestants: vec![
            ("base", base),
            ("exclusive", exclusive::<BURST>(Wait::Park)),
            ("exclusive, spinning", exclusive::<BURST>(Wait::Spin)),
            ("exclusive, batches", batches),
            ("shared", shared),
        ],
        goals: vec![],
    }
}

/// Publishing with readers attached.
fn attached() -> Group {
    fn with_readers(count: usize) -> Body {
        let (publish, reader) = exclusive!(Wait::Park);
        let readers = vec![reader; count];
        publishing((publish, readers))
    }

    Group {
        name: "publish 256 B, readers attached",
        events: 20_000,
        bytes: None,
        contestants: vec![
            ("base", publishing((|| slice(), ()))),
            ("none", with_readers(0)),
            ("64", with_readers(64)),
        ],
        goals: vec![goal("publish with 64 readers / none", "64", &["none"], 1.05)],
    }
}

/// Going through a full ring of 256-byte events.
fn read() -> Group {
    /// Goes through the ring as `pass` does, again and again.
    fn passes(filtered: bool, mut pass: impl FnMut(&mut Reader) + 'static) -> Body {
        let ring = ring(Wait::Park);
        (0..CAPACITY).for_each(|_| _ = ring.publish(slice()).unwrap());
        let mut reader = ring.reader_from_oldest();
        if filtered {
            reader.set_filter(|tag| tag != 0);
        }
        Box::new(move |events| {
            let _open = &ring;
            let passes = events.div_ceil(CAPACITY as u64);
            let start = Instant::now();
            for _ in 0..passes {
                reader.move_to_oldest();
                pass(&mut reader);
                assert_eq!(reader.next_seq(), CAPACITY as u64 + 1);
            }
            start.elapsed().mul_f64(events as f64 / (passes * CAPACITY as u64) as f64)
        })
    }

    let base = passes(false, |reader| reader.move_after(CAPACITY as u64).unwrap());
    let copy = passes(false, |reader| {
        while let Ok(read) = reader.try_read() {
            black_box(read.event().unwrap().bytes);
        }
    });
    let look = passes(false, |reader| {
        let fold = |look: &Look<'_>| look.words().fold(0, |all, word| all ^ u64::from_ne_bytes(word));
        while let Ok(read) = reader.try_look(fold) {
            black_box(read.event().unwrap());
        }
    });
    let skip = passes(true, |reader| assert_eq!(reader.try_read(), Err(TryReadError::Empty)));

    Group {
        name: "read 256 B",
        events: 20 * CAPACITY as u64,
        bytes: None,
        contestants: vec![
            ("base", base),
            ("copy", copy),
            ("look at every word", look),
            ("skip by tag", skip),
        ],
        goals: vec![goal("skip by tag / copying read", "skip by tag", &["copy"], 0.3)],
    }
}

/// Publishing where readers may sleep and none does, and where they never do.
fn nobody_waits() -> Group {
    Group {
        name: "publish, nobody waits",
        events: 20_000,
        bytes: None,
        contestants: vec![
            ("base", publishing((|| slice(), ()))),
            ("exclusive 256 B, spinning", publishing(exclusive!(Wait::Spin))),
            ("exclusive 256 B, parking", publishing(exclusive!(Wait::Park))),
            ("shared 256 B, spinning", publishing(shared!(Wait::Spin))),
            ("shared 256 B, parking", publishing(shared!(Wait::Park))),
            ("exclusive u64, spinning", publishing(typed!(Wait::Spin, 7u64))),
            ("exclusive u64, parking", publishing(typed!(Wait::Park, 7u64))),
        ],
        goals: vec![goal(
            "parking / spinning",
            "exclusive 256 B, parking",
            &["exclusive 256 B, spinning"],
            1.1,
        )],
    }
}

// ---- Two threads.

/// What a reader of a stream does with each event.
fn take(bytes: &[u8]) -> u64 {
    black_box(bytes.as_chunks().0.iter().fold(0, |all, word| all ^ u64::from_ne_bytes(*word)));
    1
}

/// 256 bytes from one thread to another, where each word counts.
fn stream() -> Group {
    fn ours((publish, mut reader): (impl FnMut() -> u64 + 'static, Reader)) -> Body {
        let read = move || match reader.read().unwrap() {
            Read::Event(event) => take(event.bytes),
            Read::Dropped(dropped) => panic!("the reader was left behind: {dropped:?}"),
        };
        streaming(publish, read)
    }

    let (publish, mut reader) = typed!(Wait::Spin, PAYLOAD);
    let read = move || match reader.read().unwrap() {
        Read::Event(event) => take(bytes_of(&event.value)),
        Read::Dropped(dropped) => panic!("the reader was left behind: {dropped:?}"),
    };
    let typed = streaming(publish, read);

    fn tokio_blocking<T>(
        make: impl Fn() -> T + Send + 'static,
        take: impl Fn(T) -> u64 + Send + 'static,
    ) -> Body
    where
        T: Clone + Debug + Send + 'static,
    {
        let (publish, mut receiver) = tokio!(make());
        streaming(publish, move || take(receiver.blocking_recv().unwrap()))
    }
    fn tokio_spinning<T>(
        make: impl Fn() -> T + Send + 'static,
        take: impl Fn(T) -> u64 + Send + 'static,
    ) -> Body
    where
        T: Clone + Debug + Send + 'static,
    {
        let (publish, mut receiver) = tokio!(make());
        let read = move || match receiver.try_recv() {
            Ok(event) => take(event),
            Err(broadcast::error::TryRecvError::Empty) => {
                spin_loop();
                0
            }
            Err(error) => panic!("{error}"),
        };
        streaming(publish, read)
    }
    let take_value = |value: Payload| take(bytes_of(&value));
    let new_arc = || Arc::<[u8]>::from(slice());
    let take_arc = |arc: Arc<[u8]>| take(&arc);

    Group {
        name: "stream 256 B",
        events: 20_000,
        bytes: None,
        contestants: vec![
            ("base", streaming(slice, || take(slice()))),
            ("exclusive, spinning", ours(exclusive!(Wait::Spin))),
            ("exclusive, parking", ours(exclusive!(Wait::Park))),
            ("shared, spinning", ours(shared!(Wait::Spin))),
            ("shared, parking", ours(shared!(Wait::Park))),
            ("typed exclusive, spinning", typed),
            ("tokio, by value, blocking", tokio_blocking(value, take_value)),
            ("tokio, by value, spinning", tokio_spinning(value, take_value)),
            ("tokio, new Arc, blocking", tokio_blocking(new_arc, take_arc)),
            ("tokio, new Arc, spinning", tokio_spinning(new_arc, take_arc)),
        ],
        goals: vec![goal(
            "stream 256 B / tokio",
            "exclusive, parking",
            &[
                "tokio, by value, blocking",
                "tokio, by value, spinning",
                "tokio, new Arc, blocking",
                "tokio, new Arc, spinning",
            ],
            0.3,
        )],
    }
}

/// tokio's single sends from two threads.
fn two_of_tokio<T: Clone + Debug + Send + 'static>(value: impl Fn() -> T + Copy + Send + 'static) -> Body {
    let (sender, receiver) = broadcast::channel(CAPACITY);
    let other = sender.clone();
    let send = move |sender: &broadcast::Sender<T>| sender.send(value()).unwrap();
    racing(1, move || send(&sender), move || send(&other), move || _ = &receiver)
}

const BATCH: usize = 16;

/// Two threads that publish 256 bytes.
fn two_publishers_of_bytes() -> Group {
    let ring = Arc::new(ring(Wait::Park));
    let reader = ring.reader_from_now();
    let (left, right) = (Arc::clone(&ring), Arc::clone(&ring));
    let publish = |ring: &Ring| ring.publish_batch(&[(0, slice()); BATCH]).unwrap();
    let batches = racing(BATCH as u64, move || publish(&left), move || publish(&right), move || _ = &reader);

    let reader = ring.reader_from_now();
    let (left, right) = (Arc::clone(&ring), ring);
    let publish = |ring: &Ring| ring.publish(slice()).unwrap();
    let single = racing(1, move || publish(&left), move || publish(&right), move || _ = &reader);

    Group {
        name: "two publishers, 256 B",
        events: 20_000,
        bytes: None,
        contestants: vec![
            ("base", racing(1, slice, slice, || ())),
            ("batches of 16", batches),
            ("single", single),
            ("tokio, by value", two_of_tokio(value)),
        ],
        goals: vec![],
    }
}

/// Two threads that publish a `u64`.
fn two_publishers_of_u64() -> Group {
    let ring = Arc::new(TypedRing::new(CAPACITY as u64).unwrap());
    let reader = ring.reader_from_now();
    let (left, right) = (Arc::clone(&ring), Arc::clone(&ring));
    let publish = |ring: &TypedRing<u64>| ring.publish_batch(&[black_box(7); BATCH]).unwrap();
    let batches = racing(BATCH as u64, move || publish(&left), move || publish(&right), move || _ = &reader);

    let reader = ring.reader_from_now();
    let (left, right) = (Arc::clone(&ring), ring);
    let publish = |ring: &TypedRing<u64>| ring.publish(&black_box(7)).unwrap();
    let single = racing(1, move || publish(&left), move || publish(&right), move || _ = &reader);

    Group {
        name: "two publishers, u64",
        events: 20_000,
        bytes: None,
        contestants: vec![
            ("base", racing(1, || black_box(7), || black_box(7), || ())),
            ("batches of 16", batches),
            ("single", single),
            ("tokio, by value", two_of_tokio(|| black_box(7u64))),
        ],
        goals: vec![],
    }
}
