//! No publish and no read of a stream takes memory after warm-up: counted by an allocator, on the thread that
//! must not.
#![cfg(feature = "std")]

mod alloc;

use alloc::calls;
use lapwing::event::{Category, Event, Source, SourceKind};
use lapwing::stream::{Config, EventStream, Publish, PublishError, ReadResult, Reader};

/// More than a lap, so that every slot and chunk is overwritten.
const EVENTS: usize = 100;

fn config() -> Config {
    Config::new().events(16).inline_bytes(256).large_bytes(16 * 4096).max_envelope_bytes(30_000)
}

fn event(data: &str) -> Event<'_> {
    let source = Source::new(SourceKind::Cdp).event("Runtime.consoleAPICalled").metadata("target_id", "T1");
    Event::new("console_log", Category::Console, source).data_json(data).expect("it is JSON")
}

/// Data of every kind: in its slot, with a line break, in chunks, and truncated in each of the ways that there are.
fn data() -> [(String, bool); 7] {
    let long = |len: usize| format!(r#"{{"text":"{}","end":1}}"#, "x".repeat(len));
    let array = |len: usize| format!("[{}0]", r#"{"a":1,"b":"two"},"#.repeat(len));
    [
        (r#"{"message":"hello","level":"log"}"#.to_owned(), false),
        ("{\n\"message\": 1\r\n}".to_owned(), false),
        (long(1000), false),
        (array(100), false),
        (long(40_000), true),
        (array(4000), true),
        (format!("{}{}", "[".repeat(20_000), "]".repeat(20_000)), true),
    ]
}

fn truncated(publish: Publish) -> bool {
    matches!(publish, Publish::Published { truncated: true, .. })
}

fn published(publish: Result<Publish, PublishError>) {
    assert!(publish.is_ok(), "{publish:?}");
}

fn refused(publish: Result<Publish, PublishError>) {
    assert!(publish.is_err(), "{publish:?}");
}

#[test]
fn publishing_takes_no_memory() {
    for (data, is_truncated) in &data() {
        let event = event(data);
        let json = event.to_json();
        let stream = config().build().unwrap();
        let publish = || {
            (0..EVENTS).for_each(|_| assert_eq!(truncated(stream.publish(&event).unwrap()), *is_truncated))
        };
        assert_eq!(calls(publish), 0, "publish of {} bytes", data.len());
        let publish = || {
            (0..EVENTS)
                .for_each(|_| assert_eq!(truncated(stream.publish_json(&json).unwrap()), *is_truncated));
        };
        assert_eq!(calls(publish), 0, "publish_json of {} bytes", data.len());

        let mut stream = stream.into_exclusive();
        assert_eq!(calls(|| (0..EVENTS).for_each(|_| published(stream.publish(&event)))), 0);
        assert_eq!(calls(|| (0..EVENTS).for_each(|_| published(stream.publish_json(&json)))), 0);
    }
}

#[test]
fn publishing_a_batch_takes_no_memory() {
    let data = data();
    let events = [(); 5].map(|()| data.each_ref().map(|(data, _)| event(data))).concat();
    let stream = config().build().unwrap();
    assert_eq!(calls(|| assert_eq!(stream.publish_batch(&events).unwrap().published, events.len())), 0);
    let mut stream = stream.into_exclusive();
    assert_eq!(calls(|| assert_eq!(stream.publish_batch(&events).unwrap().published, events.len())), 0);
}

#[test]
fn json_that_has_to_be_completed_or_is_refused_takes_no_memory() {
    let stream = config().build().unwrap();
    let json = b"{\"type\":\"tick\",\n\"category\":\"system\",\"source\":{\"kind\":\"cdp\"}}";
    assert_eq!(calls(|| (0..EVENTS).for_each(|_| published(stream.publish_json(json)))), 0);
    assert_eq!(calls(|| (0..EVENTS).for_each(|_| refused(stream.publish_json(b"[]")))), 0);
    stream.close();
    let event = event("1");
    assert_eq!(calls(|| (0..EVENTS).for_each(|_| refused(stream.publish(&event)))), 0);
}

/// Publishes more than a lap and calls `read` for each event that is left.
fn reads(mut read: impl FnMut(&mut Reader) -> usize) {
    let data = data();
    let events = data.each_ref().map(|(data, _)| event(data));
    let stream: EventStream = config().build().unwrap();
    let mut reader = stream.reader_from_oldest();
    let count = || {
        for at in 0..EVENTS {
            stream.publish(&events[at % events.len()]).unwrap();
        }
        let mut count = 0;
        while reader.lag() != 0 {
            count += read(&mut reader);
        }
        assert_eq!(count, 16, "what the ring holds");
    };
    assert_eq!(calls(count), 0);
}

#[test]
fn reading_takes_no_memory() {
    let one = |read: ReadResult<usize>| read.envelope().unwrap_or(0);
    reads(|reader| match reader.try_read().unwrap() {
        ReadResult::Envelope(envelope) => usize::from(!envelope.event_json().is_empty()),
        ReadResult::Dropped { .. } => 0,
    });
    reads(|reader| match reader.read().unwrap() {
        ReadResult::Envelope(mut envelope) => usize::from(envelope.json().ends_with(b"}")),
        ReadResult::Dropped { .. } => 0,
    });
    reads(|reader| {
        one(reader.try_read_batch(5, |envelope| assert_eq!(envelope.category(), Category::Console)).unwrap())
    });
}
