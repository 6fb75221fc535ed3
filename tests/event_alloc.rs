//! Writing an event into a buffer that is large enough takes no memory, and checking one does not: counted by
//! an allocator.
#![cfg(feature = "std")]

mod alloc;

use lapwing::event::{Category, Envelope, Event, Source, SourceKind, validate};

/// How often the first and only run of `f` called the allocator.
fn calls(f: impl FnOnce()) -> u64 {
    let before = alloc::calls_so_far();
    f();
    alloc::calls_so_far() - before
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
