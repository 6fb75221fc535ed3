//! What the event stream costs, beside the ring that it is made of, serialization by `serde_json`, and bare copies.
//!
//! `cargo bench --bench stream`, and see the harness for how. Streams of small events have 1,024 slots of 512 bytes,
//! which fit a second-level cache, and one reader attached. The event is that of [`event`] unless a row says more;
//! `try_read` reads its bytes. Last come the calls of the allocator, counted after warm-up.

#[path = "../tests/alloc/mod.rs"]
mod alloc;
mod harness;

use std::hint::black_box;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use harness::{Against, Body, CAPACITY, Goal, Group, Limit, bursts, goal, publishing, racing, verdict};
use lapwing::event::{Category, Envelope, Event, Source, SourceKind, validate};
use lapwing::ring::Ring;
use lapwing::stream::{CategorySet, Config, EventStream, RawEnvelope, ReadResult, Reader};

fn main() {
    let groups = vec![
        publish(),
        publish_json(),
        publish_recorded(),
        publish_and_read::<1>("publish and read in turn", "publish and read in turn / publish"),
        publish_and_read::<64>("publish 64 and read them", "publish 64 and read them / publish"),
        filter(),
        two_publishers(),
        publish_large(),
        read_large(),
    ];
    harness::run(groups, allocations);
}

// ---- What is published, and where to.

/// 157 bytes of JSON.
fn event() -> Event<'static> {
    let source = Source::new(SourceKind::Cdp).event("Runtime.consoleAPICalled");
    let event = Event::new("console_log", Category::Console, source).ts(1_795_346_234_966_162);
    event.data_json(r#"{"message":"hello","level":"log"}"#).unwrap()
}

/// The event of a screenshot with so many bytes of base64.
fn screenshot(len: usize) -> Event<'static> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let png: String = (0..len).map(|at| char::from(ALPHABET[at * 29 % 64])).collect();
    let event = Event::new("screenshot", Category::Screenshot, Source::new(SourceKind::Cdp));
    event.ts(1_795_346_234_966_162).data_from(&[png]).unwrap()
}

/// The event as a line of 256 bytes.
fn line() -> Vec<u8> {
    let mut line = event().to_json();
    let end = line.len() - r#"","level":"log"}}"#.len();
    let text = " from the page, once more".repeat(10).into_bytes();
    line.splice(end..end, text.into_iter().take(256 - line.len()));
    assert_eq!(line.len(), 256);
    line
}

/// The recorded event of median length.
fn recorded() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/telemetry.ndjson");
    let recording = std::fs::read(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let mut lines: Vec<_> = recording.trim_ascii().split(|&byte| byte == b'\n').collect();
    lines.sort_by_key(|line| line.len());
    lines[lines.len() / 2].to_vec()
}

fn stream() -> EventStream {
    Config::new().events(CAPACITY as u64).inline_bytes(512).large_bytes(1 << 20).build().unwrap()
}

/// Its memory for large events holds nine of 900 KB.
fn large_stream() -> EventStream {
    Config::new().events(64).large_bytes(8 << 20).build().unwrap()
}

// Macros, so that each use is a closure of its own, which the compiler puts into the one loop that calls it.

/// Publishes what it is given by the method that it is given, with a reader attached.
macro_rules! to {
    ($stream:expr, $publish:ident, $what:expr) => {{
        #[allow(unused_mut)] // An exclusive publisher has to be.
        let (mut stream, what) = ($stream, $what);
        let reader = stream.reader_from_now();
        (move || stream.$publish(black_box(&what)).unwrap(), reader)
    }};
}

/// Reads the next event: its bytes.
fn read_bytes(reader: &mut Reader) {
    black_box(next(reader).event_json());
}

/// Reads the next event: its envelope as a line.
fn read_line(reader: &mut Reader) {
    black_box(next(reader).json());
}

#[inline(always)]
fn next(reader: &mut Reader) -> RawEnvelope<'_> {
    match reader.try_read().unwrap() {
        ReadResult::Envelope(envelope) => envelope,
        ReadResult::Dropped { from, to } => panic!("the reader was left behind: {from} to {to}"),
    }
}

/// Goes through a stream that has so many events, as `pass` does, again and again.
fn passes(stream: EventStream, mut reader: Reader, mut pass: impl FnMut(&mut Reader) + 'static) -> Body {
    Box::new(move |events| {
        let newest = stream.seq();
        let passes = events.div_ceil(newest);
        let start = Instant::now();
        for _ in 0..passes {
            reader.move_after(0).unwrap();
            pass(&mut reader);
            assert_eq!(reader.next_seq(), newest + 1);
        }
        start.elapsed().mul_f64(events as f64 / (passes * newest) as f64)
    })
}

/// Calls `write` with an empty buffer, always the same one.
fn writing(mut write: impl FnMut(&mut Vec<u8>) + 'static) -> Body {
    let mut out = Vec::new();
    let written = move || {
        out.clear();
        write(&mut out);
        black_box(&out);
    };
    publishing((written, ()))
}

// ---- One thread.

fn publish() -> Group {
    let written = event();
    let mut envelope = Envelope { seq: 0, event: event() };
    let by_serde_json = move |out: &mut Vec<u8>| {
        envelope.seq += 1;
        serde_json::to_writer(out, black_box(&envelope)).unwrap();
    };
    let batch = vec![event(); BATCH];
    let (publish, reader) = to!(stream(), publish_batch, batch);
    let batches = bursts::<BATCH>(move || _ = publish(), move || _ = &reader);

    Group {
        name: "publish an event",
        events: 20_000,
        bytes: None,
        contestants: vec![
            ("base", publishing((|| black_box(()), ()))),
            ("serde_json alone, envelope", writing(by_serde_json)),
            ("write_json alone", writing(move |out| black_box(&written).write_json(out))),
            ("shared", publishing(to!(stream(), publish, event()))),
            ("shared, ts from the clock", publishing(to!(stream(), publish, event().ts(0)))),
            ("shared, batches of 16", batches),
            ("exclusive", publishing(to!(stream().into_exclusive(), publish, event()))),
        ],
        goals: vec![goal("publish / serde_json alone", "shared", &["serde_json alone, envelope"], 0.6)],
    }
}

/// Events of which each line is checked.
fn lines(name: &'static str, line: &[u8], goals: Vec<Goal>) -> Group {
    let (line, len) = (line.to_vec(), line.len());
    // Both with slots of its length.
    let ring = Ring::new(CAPACITY as u64, len).unwrap();
    let stream = || Config::new().events(CAPACITY as u64).inline_bytes(len).build().unwrap();
    let checked = line.clone();
    let ring_after_check = Ring::new(CAPACITY as u64, len).unwrap();
    let both = {
        let (line, reader) = (line.clone(), ring_after_check.reader_from_now());
        let both = move || {
            assert!(validate(black_box(&line)).is_ok());
            ring_after_check.publish(black_box(&line)).unwrap()
        };
        (both, reader)
    };
    Group {
        name,
        events: 20_000,
        bytes: Some(len),
        contestants: vec![
            ("base", publishing((|| black_box(()), ()))),
            ("Ring::publish alone", publishing(to!(ring, publish, line.clone()))),
            ("validate alone", publishing((move || black_box(validate(black_box(&checked)).is_ok()), ()))),
            ("validate, then Ring::publish", publishing(both)),
            ("shared", publishing(to!(stream(), publish_json, line.clone()))),
            ("exclusive", publishing(to!(stream().into_exclusive(), publish_json, line))),
        ],
        goals,
    }
}

fn publish_json() -> Group {
    let goal = Goal {
        name: "publish_json / Ring::publish + validate",
        ours: "shared",
        against: Against::SumOf(&["Ring::publish alone", "validate alone"]),
        limit: Limit::AtMost(1.0),
    };
    lines("publish a line of 256 B", &line(), vec![goal])
}

fn publish_recorded() -> Group {
    lines("publish the recorded line of median length", &recorded(), vec![])
}

/// `BURST` events, and then as many reads.
fn publish_and_read<const BURST: usize>(name: &'static str, goal_name: &'static str) -> Group {
    fn reading<const BURST: usize, R>(
        (mut publish, mut reader): (impl FnMut() -> R + 'static, Reader),
        read: impl Fn(&mut Reader) + 'static,
    ) -> Body {
        bursts::<BURST>(
            move || (0..BURST).for_each(|_| _ = publish()),
            move || (0..BURST).for_each(|_| read(&mut reader)),
        )
    }
    let exclusive = || to!(stream().into_exclusive(), publish, event());
    Group {
        name,
        events: 64_000,
        bytes: None,
        contestants: vec![
            ("base", reading::<BURST, _>((|| black_box(()), stream().reader_from_now()), |_| ())),
            ("publish alone", reading::<BURST, _>(to!(stream(), publish, event()), |_| ())),
            ("shared, try_read", reading::<BURST, _>(to!(stream(), publish, event()), read_bytes)),
            ("shared, try_read and json", reading::<BURST, _>(to!(stream(), publish, event()), read_line)),
            ("exclusive alone", reading::<BURST, _>(exclusive(), |_| ())),
            ("exclusive, try_read", reading::<BURST, _>(exclusive(), read_bytes)),
        ],
        goals: vec![goal(goal_name, "shared, try_read", &["publish alone"], 1.3)],
    }
}

/// Going through a stream of which one event in a hundred is of the category that is looked for.
fn filter() -> Group {
    fn through(categories: CategorySet, wanted: usize, read: impl Fn(&mut Reader) + 'static) -> Body {
        let stream = stream();
        for at in 1..=1000 {
            let mut event = event();
            if at % 100 == 0 {
                event.category = Category::Network;
            }
            stream.publish(&event).unwrap();
        }
        let mut reader = stream.reader_from_oldest();
        reader.set_categories(categories);
        passes(stream, reader, move |reader| {
            (0..wanted).for_each(|_| read(reader));
        })
    }
    let all = CategorySet::ALL;
    Group {
        name: "go through 1,000 events",
        events: 20_000,
        bytes: None,
        contestants: vec![
            ("base", through(all, 1, |reader| reader.move_after(1000).unwrap())),
            ("try_read", through(all, 1000, read_bytes)),
            ("try_read and json", through(all, 1000, read_line)),
            ("try_read, 1 % wanted", through(CategorySet::NONE.with(&Category::Network), 10, read_bytes)),
        ],
        goals: vec![goal("read 1 % / read all", "try_read, 1 % wanted", &["try_read"], 0.25)],
    }
}

// ---- Two threads.

const BATCH: usize = 16;

fn two_publishers() -> Group {
    fn racing_on<S, R>(step: usize, to: S, publish: impl Fn(&S) -> R + Copy + Send + 'static) -> Body
    where
        S: Send + Sync + 'static,
    {
        let left = Arc::new(to);
        let right = Arc::clone(&left);
        racing(step as u64, move || publish(&left), move || publish(&right), || ())
    }
    static EVENT: LazyLock<Event<'static>> = LazyLock::new(event);
    static EVENTS: LazyLock<Vec<Event<'static>>> = LazyLock::new(|| vec![event(); BATCH]);
    let bytes = &*event().to_json().leak();
    let ring = Ring::new(CAPACITY as u64, bytes.len()).unwrap();
    Group {
        name: "two publishers",
        events: 20_000,
        bytes: None,
        contestants: vec![
            ("base", racing_on(1, (), |()| black_box(()))),
            ("Ring::publish alone", racing_on(1, ring, move |ring| ring.publish(black_box(bytes)).unwrap())),
            ("publish", racing_on(1, stream(), |stream| stream.publish(black_box(&EVENT)).unwrap())),
            (
                "publish_batch of 16",
                racing_on(BATCH, stream(), |stream| stream.publish_batch(black_box(&EVENTS)).unwrap()),
            ),
        ],
        goals: vec![],
    }
}

// ---- Large events.

const LARGE: usize = 900_000;

/// Bytes into or out of a buffer of 8 MiB, at one place after the other.
fn rotating(mut copy: impl FnMut(&mut [u8]) + 'static) -> Body {
    let mut buffer = vec![1; 8 << 20];
    let mut at = 0;
    let copied = move || {
        at = if at + 2 * LARGE > buffer.len() { 0 } else { at + LARGE };
        copy(black_box(&mut buffer[at..at + LARGE]));
    };
    publishing((copied, ()))
}

fn large() -> Event<'static> {
    let event = screenshot(LARGE - screenshot(0).to_json().len());
    assert_eq!(event.to_json().len(), LARGE);
    event
}

fn publish_large() -> Group {
    let bytes = large().to_json();
    let copied = bytes.clone();
    Group {
        name: "publish an event of 900 KB",
        events: 16,
        bytes: Some(LARGE),
        contestants: vec![
            ("base", publishing((|| black_box(()), ()))),
            ("bare copy", rotating(move |to| to.copy_from_slice(black_box(&copied)))),
            ("shared", publishing(to!(large_stream(), publish, large()))),
            ("exclusive", publishing(to!(large_stream().into_exclusive(), publish, large()))),
            ("shared, publish_json", publishing(to!(large_stream(), publish_json, bytes))),
        ],
        goals: vec![goal("publish 900 KB / bare copy", "shared", &["bare copy"], 2.0)],
    }
}

fn read_large() -> Group {
    const EVENTS: u64 = 8;
    let through = |each: fn(&mut Reader)| {
        let (stream, event) = (large_stream(), large());
        (0..EVENTS).for_each(|_| _ = stream.publish(&event).unwrap());
        let reader = stream.reader_from_oldest();
        passes(stream, reader, each)
    };
    let mut out = vec![0; LARGE];
    Group {
        name: "read an event of 900 KB",
        events: 2 * EVENTS,
        bytes: Some(LARGE),
        contestants: vec![
            ("base", through(|reader| reader.move_after(EVENTS).unwrap())),
            ("bare copy", rotating(move |from| black_box(&mut out).copy_from_slice(from))),
            ("try_read", through(|reader| (0..EVENTS).for_each(|_| read_bytes(reader)))),
        ],
        goals: vec![],
    }
}

// ---- The allocator.

/// Prints how often it is called for one event, and returns the goals' lines.
fn allocations() -> Vec<String> {
    const EVENTS: u64 = 100;
    println!("\n{:<44}{:>9}", "calls of the allocator", "an event");
    let print = |name: &str, calls: u64| {
        // Rounded up: one in a hundred events is not none.
        let calls = calls.div_ceil(EVENTS);
        println!("  {name:<42}{calls:>9}");
        calls
    };

    fn counted<R>((mut publish, _attached): (impl FnMut() -> R, Reader)) -> u64 {
        alloc::calls(|| (0..EVENTS).for_each(|_| _ = publish()))
    }
    let small = || Config::new().events(64).inline_bytes(512).large_bytes(0).build().unwrap();
    let no_ts = br#"{"type":"tick","category":"system","source":{"kind":"cdp"}}"#.to_vec();
    let published = [
        print("publish", counted(to!(stream(), publish, event()))),
        print("publish, exclusive", counted(to!(stream().into_exclusive(), publish, event()))),
        print("publish_json", counted(to!(stream(), publish_json, line()))),
        print("publish_json without a ts", counted(to!(stream(), publish_json, no_ts))),
        print("publish_batch of 16", counted(to!(stream(), publish_batch, vec![event(); BATCH]))),
        print("publish 900 KB", counted(to!(large_stream(), publish, large()))),
        print("publish_json 900 KB", counted(to!(large_stream(), publish_json, large().to_json()))),
        print("publish 900 KB, truncated to 512 B", counted(to!(small(), publish, large()))),
        print(
            "publish_json 900 KB, truncated to 512 B",
            counted(to!(small(), publish_json, large().to_json())),
        ),
    ];

    let reading = |name, stream: EventStream, event: Event<'_>| {
        let mut reader = stream.reader_from_now();
        let mut read = || {
            stream.publish(&event).unwrap();
            let before = alloc::calls_so_far();
            read_bytes(&mut reader);
            alloc::calls_so_far() - before
        };
        read();
        print(name, (0..EVENTS).map(|_| read()).sum())
    };
    let read = [
        reading("try_read", stream(), event()),
        reading("try_read of 900 KB", large_stream(), large()),
        reading("try_read, truncated to 512 B", small(), large()),
    ];

    let goal = |name, calls: &[u64]| {
        let most = calls.iter().max().expect("some were counted");
        verdict(name, *most as f64, Limit::AtMost(0.0), 0)
    };
    vec![goal("allocations per publish", &published), goal("allocations per read of bytes", &read)]
}
