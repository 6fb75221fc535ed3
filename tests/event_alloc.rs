//! Writing an event into a buffer that is large enough takes no memory, and checking one does not: counted by an allocator.
#![cfg(feature = "std")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use lapwing::event::{Category, Envelope, Event, Source, SourceKind, validate};

thread_local! {
    /// What this thread took or gave back.
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

fn count() {
    CALLS.set(CALLS.get() + 1);
}

// SAFETY: every call goes to `System` as it came, which keeps the contract; the count is a cell of the thread that
// takes no memory itself, and needs no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count();
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn calls(f: impl FnOnce()) -> u64 {
    let before = CALLS.get();
    f();
    CALLS.get() - before
}

#[test]
fn the_allocator_counts() {
    assert_eq!(calls(|| drop(vec![1_u8; 100])), 2, "one taken, one given back");
}

#[test]
fn an_event_is_made_and_written_without_memory() {
    let mut out = Vec::with_capacity(4096);
    let long = format!("[{}0]", "1,\n".repeat(500));
    for (r#type, data) in [("tick", "[1]"), ("with \"escapes\"", "{\n}"), ("tick", &long)] {
        let made = || {
            let source = Source::new(SourceKind::Cdp).event("Runtime.consoleAPICalled");
            let event = Event::new(r#type, Category::Console, source).data_json(data).expect("it is JSON");
            Envelope { seq: 7, event }.write_json(&mut out);
        };
        assert_eq!(calls(made), 0);
        out.clear();
    }
}

#[test]
fn an_ordinary_event_is_checked_without_memory() {
    let data = format!("{}{}", "[".repeat(63), "]".repeat(63));
    let json = format!(
        r#"{{"type":"a\u0041\n","source":{{"kind":"cdp","event":"\ud83d\ude00","metadata":{{"k":"v"}}}},"data":{data},"category":"weather"}}"#
    );
    assert_eq!(calls(|| assert!(validate(json.as_bytes()).is_ok())), 0);
    assert_eq!(calls(|| assert!(validate(&json.as_bytes()[1..]).is_err())), 0);
}
