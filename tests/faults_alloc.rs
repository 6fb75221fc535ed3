//! An allocator that fails. Each constructor is run with its first request refused, its second one, and so on until it succeeds: those that
//! take the memory of a bus tell it as the error that they document, with the bytes.
//!
//! Small requests (a reader's place in a list, its name, the `Arc` around a bus) go through the standard library's containers, for which an
//! allocator that has nothing left ends the process. Which ones those are is told here, by running each in a child.
//!
//! | what | when the allocator fails |
//! | --- | --- |
//! | `Ring::new`, `TypedRing::new`, `Config::build`: the slots, the chunks, the counters | `OutOfMemory`, with the bytes; nothing is kept |
//! | the same: what is shared beside the slots, some hundred bytes | the process ends |
//! | making or cloning a reader, a handle of a stream, `set_filter` | the process ends, nothing is told or lost before |
//! | `publish` and reads, after warm-up | nothing: they take no memory |
#![cfg(all(feature = "std", unix))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::process::Command;
use std::ptr::null_mut;

use lapwing::event::{Category, Event, Source, SourceKind};
use lapwing::ring::{self, ConfigError, Ring, TypedRing};
use lapwing::stream::{self, EventStream};

thread_local! {
    /// How many requests of this thread are granted until one is refused; below 0, all are.
    static GRANTED: Cell<i64> = const { Cell::new(-1) };
}

struct Failing;

impl Failing {
    fn refuses(&self) -> bool {
        let granted = GRANTED.get();
        GRANTED.set((granted - 1).max(-1));
        granted == 0
    }
}

// SAFETY: every call goes to `System` as it came, which keeps the contract, or gives null, which the contract allows. The count is a cell of
// the thread that takes no memory itself, and needs no destructor.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if self.refuses() {
            return null_mut();
        }
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Failing = Failing;

/// Runs `f` with the request refused that comes after so many.
fn after<R>(granted: i64, f: impl FnOnce() -> R) -> R {
    GRANTED.set(granted);
    let result = f();
    GRANTED.set(-1);
    result
}

#[test]
fn what_takes_the_memory_of_a_bus_tells_that_there_is_none() {
    let ring = after(0, || Ring::new(1000, 256));
    let Err(ConfigError::OutOfMemory { bytes }) = ring else { panic!("{ring:?}") };
    assert_eq!(bytes, Ring::new(1000, 256).unwrap().memory());
    let text = format!("no memory for a ring of {bytes} bytes");
    assert_eq!(ConfigError::OutOfMemory { bytes }.to_string(), text);
    assert!(matches!(after(0, || TypedRing::<u64>::new(1000)), Err(ConfigError::OutOfMemory { .. })));

    // Slots, chunks, and counters, in this order.
    let mut told = 0;
    for granted in 0..3 {
        let error = after(granted, || stream::Config::new().build()).unwrap_err();
        let stream::ConfigError::Ring(ConfigError::OutOfMemory { bytes }) = error else { panic!("{error}") };
        told += bytes;
    }
    assert_eq!(told, EventStream::new().unwrap().memory(), "each of the parts");
}

#[test]
fn absurd_sizes_are_refused_by_number_or_by_the_allocator() {
    let no_memory = |error: ConfigError| matches!(error, ConfigError::OutOfMemory { .. });
    let out_of_range =
        |error: ConfigError| matches!(error, ConfigError::Capacity { .. } | ConfigError::SlotBytes { .. });
    for capacity in [u64::MAX, u64::MAX / 2, 1 << 60] {
        assert!(Ring::new(capacity, 256).is_err_and(out_of_range), "{capacity}");
        assert!(TypedRing::<u64>::new(capacity).is_err_and(out_of_range), "{capacity}");
    }
    for slot_bytes in [usize::MAX, usize::MAX / 2] {
        assert!(Ring::new(8, slot_bytes).is_err_and(out_of_range), "{slot_bytes}");
    }
    // They can be addressed, and are more than any machine has.
    let max = match Ring::new(u64::MAX, 256) {
        Err(ConfigError::Capacity { max, .. }) => max,
        other => panic!("{other:?}"),
    };
    assert!(Ring::new(max, 256).is_err_and(no_memory));
    assert!(ring::Config::new(1 << 50).typed::<u64>().is_err_and(no_memory));
    for bytes in [usize::MAX, usize::MAX / 2, 1 << 55] {
        let error = stream::Config::new().large_bytes(bytes).build().unwrap_err();
        assert!(
            matches!(error, stream::ConfigError::LargeBytes { .. })
                || matches!(error, stream::ConfigError::Ring(error) if no_memory(error)),
            "{bytes}: {error}"
        );
        // An envelope as large as that is no matter: it is a bound.
        assert!(stream::Config::new().max_envelope_bytes(bytes).build().is_ok());
        assert!(stream::Config::new().inline_bytes(bytes).build().is_err());
    }
    assert!(stream::Config::new().events(u64::MAX).build().is_err());
}

// ---- What ends the process.

/// What is done in a child.
const OPERATIONS: &[(&str, fn())] = &[
    ("Ring::new", || _ = after(1, || Ring::new(8, 8))),
    ("Config::build", || _ = after(3, || stream::Config::new().build())),
    ("Handle::reader_from_oldest", || {
        let ring = Ring::new(8, 8).unwrap();
        after(0, || _ = ring.reader_from_oldest());
    }),
    ("Reader::clone", || {
        let reader = Ring::new(8, 8).unwrap().reader_from_oldest();
        after(0, || _ = reader.clone());
    }),
    ("Reader::set_filter", || {
        let mut reader = Ring::new(8, 8).unwrap().reader_from_oldest();
        after(0, || reader.set_filter(|_| true));
    }),
    ("stream::Handle::reader_from_oldest", || {
        let stream = EventStream::new().unwrap();
        after(0, || _ = stream.reader_from_oldest());
    }),
    ("stream::Reader::named", || {
        let reader = EventStream::new().unwrap().reader_from_oldest();
        after(0, || _ = reader.named("name"));
    }),
    ("the first publish of a thread into a stream", || {
        let stream = EventStream::new().unwrap();
        let event = Event::new("note", Category::Console, Source::new(SourceKind::Cdp));
        after(0, || stream.publish(&event)).unwrap();
    }),
];

/// Not a test, but the child of the one below.
#[test]
#[ignore = "the child of another test"]
fn child() {
    let Ok(name) = std::env::var("LAPWING_FAULT") else { return };
    let (_, operation) = OPERATIONS.iter().find(|(known, _)| *known == name).unwrap();
    operation();
    println!("it came back");
}

/// The standard library's way, which no caller can catch: so it is told what goes it. A change of this list is one of what users rely on.
#[test]
fn the_rest_ends_the_process_by_the_word_of_the_standard_library() {
    for (name, _) in OPERATIONS {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture"])
            .env("LAPWING_FAULT", name)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{name} came back");
        assert!(told.contains("memory allocation of ") && told.contains(" bytes failed"), "{name}: {told}");
    }
}

#[test]
fn what_was_warmed_up_needs_no_allocator() {
    let stream = EventStream::new().unwrap();
    let mut reader = stream.reader_from_oldest();
    let event = Event::new("note", Category::Console, Source::new(SourceKind::Cdp)).ts(1);
    stream.publish(&event).unwrap();
    let ring = Ring::new(8, 8).unwrap();
    // The first request would be refused, and end the process.
    after(0, || {
        for seq in 2..=5000 {
            assert_eq!(stream.publish(&event).unwrap().seq(), Some(seq));
            assert_eq!(ring.publish(&seq.to_le_bytes()), Ok(seq - 1));
        }
        while reader.try_read().is_ok() {}
        assert_eq!(GRANTED.get(), 0, "not one request");
    });
}
