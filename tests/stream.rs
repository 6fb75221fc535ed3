//! The event stream as its users see it, on one thread where that suffices. What the reference does is in
//! `behaviour.rs`, what many threads do to it in `stream_stress.rs`.
#![cfg(feature = "std")]

#[allow(dead_code)] // each of its users uses a part
mod bus;

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use bus::tasks::{Count, block_on};
use bus::{
    assert_json, assert_truncated_form, assert_whole, is_empty, next, of, published, seqs, sized, take,
    truncated,
};
use lapwing::event::{Category, Event, InvalidReason, Source, SourceKind};
use lapwing::ring::MAX_SEQ;
use lapwing::stream::{
    BatchError, CategorySet, Config, ConfigError, EventStream, PositionError, Publish, PublishError,
    RawEnvelope, ReadError, ReadResult, Reader, TryReadError, Wait,
};

/// 8 events of up to 256 bytes inline, and memory for so many pages of large ones.
fn stream(pages: usize) -> EventStream {
    Config::new().events(8).inline_bytes(256).large_bytes(pages * 4096).build().unwrap()
}

/// What of an event a page holds.
const PAGE: usize = 4032;

// ---- Configuration.

#[test]
fn the_memory_is_as_the_configuration_says() {
    for events in [1, 2, 7, 64, 1000] {
        for inline in [128, 129, 1000, 1024, 5000] {
            for large in [0, 1, 4095, 4096, 4097, 1 << 20] {
                for (first, wait) in [(1, Wait::Park), (MAX_SEQ, Wait::Spin)] {
                    let config = Config::new()
                        .events(events)
                        .inline_bytes(inline)
                        .large_bytes(large)
                        .first_seq(first)
                        .wait(wait)
                        .max_envelope_bytes(128);
                    let memory = config.memory().unwrap();
                    let stream = config.build().unwrap();
                    assert_eq!(stream.memory(), memory, "{events} {inline} {large}");
                    assert!(memory >= events as usize * inline + large);
                    assert_eq!((stream.events(), stream.inline_bytes()), (events, inline));
                    assert_eq!((stream.seq(), stream.max_envelope_bytes()), (first - 1, 128));
                    assert_eq!(stream.into_exclusive().memory(), memory);
                }
            }
        }
    }
}

#[test]
fn a_number_out_of_range_is_an_error_that_says_so() {
    let config = Config::new;
    let errors = [
        (config().events(0), "a ring of 0 events cannot be made: 1 to "),
        (config().events(u64::MAX), "a ring of 18446744073709551615 events cannot be made: 1 to "),
        (config().inline_bytes(127), "127 bytes inline cannot be had: 128 to 4294967295 are allowed"),
        (
            config().inline_bytes(usize::MAX),
            "18446744073709551615 bytes inline cannot be had: 128 to 4294967295 are allowed",
        ),
        (
            config().max_envelope_bytes(0),
            "a largest envelope of 0 bytes is too small: 128 and more are allowed",
        ),
        (config().max_envelope_bytes(127), "a largest envelope of 127 bytes is too small: 128 and more"),
        (
            config().large_bytes(usize::MAX),
            "18446744073709551615 bytes for large events cannot be had: 0 to ",
        ),
        (config().first_seq(0), "a ring cannot start at seq 0: 1 to 4611686018427387903 are allowed"),
        (config().first_seq(MAX_SEQ + 1), "a ring cannot start at seq 4611686018427387904: 1 to "),
    ];
    for (config, text) in errors {
        let error = config.memory().unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(config.build().unwrap_err(), error);
    }
    // What only the allocator can say.
    let config = config().events(1 << 50);
    let bytes = config.memory().unwrap();
    let ConfigError::Ring(lapwing::ring::ConfigError::OutOfMemory { bytes: asked }) =
        config.build().unwrap_err()
    else {
        panic!("2^50 events")
    };
    assert!(asked <= bytes && asked > 1 << 50);
}

#[test]
fn the_smallest_stream_carries_events() {
    let config = Config::new().events(1).inline_bytes(128).large_bytes(0).max_envelope_bytes(128);
    let stream = config.first_seq(MAX_SEQ - 2).build().unwrap();
    let mut reader = stream.reader_from_oldest();
    let small = Event::new("", "".into(), Source::new("".into())).ts(i64::MIN);
    assert_eq!(stream.publish(&small), Ok(published(MAX_SEQ - 2)));
    let envelope = take(&mut reader);
    assert_eq!(envelope.event_json(), small.to_json());
    // The longest that is promised: any ts and any seq, with nothing else.
    let large = small.clone().data_json("[12345678901234567890123456789012345678901234567890]").unwrap();
    assert_eq!(stream.publish(&large), Ok(truncated(MAX_SEQ - 1)));
    let envelope = take(&mut reader);
    assert_truncated_form(&large.to_json(), envelope.event_json());
    assert!(envelope.json().len() <= 128);
    assert_eq!(stream.publish(&small), Ok(published(MAX_SEQ)));
    assert_eq!(stream.publish(&small), Err(PublishError::Closed), "there are no more numbers");
    assert_eq!(take(&mut reader).seq(), MAX_SEQ);
    assert_eq!(reader.try_read().map(|_| ()), Err(TryReadError::Closed));
}

// ---- Large events.

#[test]
fn a_large_event_is_whole_while_its_chunks_last() {
    let stream = stream(10);
    let mut quick = stream.reader_from_oldest().named("quick");
    let mut late = stream.reader_from_oldest().named("late");
    let events = (1..=8).map(|ts| sized(ts, 2 * PAGE - ts as usize)).collect::<Vec<_>>();
    for (event, seq) in events.iter().zip(1..) {
        assert_eq!(stream.publish(event), Ok(published(seq)));
        let read = take(&mut quick);
        assert_whole(&read, &event.to_json());
    }
    for (event, seq) in events.iter().zip(1..) {
        let read = take(&mut late);
        assert_eq!((read.seq(), read.category()), (seq, Category::Network));
        // Ten pages hold the last five.
        assert_eq!(read.truncated(), seq <= 3, "{seq}");
        if seq <= 3 {
            assert!(read.event_json().len() <= 256 && read.event_json().len() > 200, "as much as fits");
            assert_truncated_form(&event.to_json(), read.event_json());
            let parsed = read.event().unwrap();
            assert!(parsed.data.unwrap().get().ends_with(r#","end":true}"#), "the shape is kept");
            assert_eq!(parsed.source, event.source);
        } else {
            assert_json(&read, &event.to_json());
        }
    }
    let shortened = stream.readers().iter().map(|status| status.shortened).collect::<Vec<_>>();
    assert_eq!(shortened, [0, 3]);
    let stats = stream.stats();
    assert_eq!(
        (stats.truncated(), stats.largest()),
        (0, 2 * PAGE as u64 - 1),
        "none was when it was published"
    );
    assert_eq!(stats.bytes(), events.iter().map(|event| event.to_json().len() as u64).sum::<u64>());
}

/// Lengths around every border that there is.
#[test]
fn an_event_of_any_length_is_carried() {
    let stream = Config::new().events(4).inline_bytes(256).large_bytes(24 * 4096).build().unwrap();
    let mut exclusive = self::stream(24).into_exclusive();
    let (mut reader, mut other) = (stream.reader_from_oldest(), exclusive.reader_from_oldest());
    let around = |len: usize| len - 2..=len + 2;
    let lens = [200, 256, PAGE, 2 * PAGE, 3 * PAGE, 5 * PAGE + 64].map(around).into_iter().flatten();
    for (len, seq) in lens.zip(1..) {
        let event = sized(seq, len);
        let json = event.to_json();
        stream.publish(&event).unwrap();
        stream.publish_json(&json).unwrap();
        stream.publish_batch(&[event.clone(), event.clone()]).unwrap();
        exclusive.publish(&event).unwrap();
        exclusive.publish_json(&json).unwrap();
        exclusive.publish_batch(&[event.clone(), event]).unwrap();
        for reader in [&mut reader, &mut other] {
            for _ in 0..4 {
                let read = take(reader);
                assert_eq!((read.event_json().len(), read.truncated()), (len, false));
                assert_json(&read, json.as_ref());
            }
        }
    }
}

#[test]
fn what_lies_inline_outlasts_the_large_events() {
    let stream = Config::new().events(64).inline_bytes(256).large_bytes(3 * 4096).build().unwrap();
    let mut reader = stream.reader_from_oldest();
    let mut expected = Vec::new();
    for at in 0..32 {
        // As large as it may be inline, and every other one larger.
        for len in [256, 257 + 200 * at] {
            let event = sized(1 + at as i64, len);
            stream.publish(&event).unwrap();
            expected.push(event.to_json());
        }
    }
    let mut short = 0;
    for (json, at) in expected.iter().zip(0..) {
        let read = take(&mut reader);
        if at % 2 == 0 {
            assert_whole(&read, json);
        } else if read.truncated() {
            assert_truncated_form(json, read.event_json());
            short += 1;
        } else {
            assert_json(&read, json.as_ref());
        }
    }
    assert!(short > 28, "only {short} large events were displaced");
}

#[test]
fn a_small_memory_for_large_events_truncates_when_they_are_published() {
    for (pages, room) in [(0, 256), (1, PAGE), (3, 3 * PAGE)] {
        let stream = stream(pages);
        let mut reader = stream.reader_from_oldest();
        let fits = sized(1, room);
        let large = sized(2, room + 1);
        let huge = sized(3, 50_000);
        assert_eq!(stream.publish(&fits), Ok(published(1)));
        assert_whole(&take(&mut reader), &fits.to_json());
        assert_eq!(stream.publish_json(&fits.to_json()), Ok(published(2)));
        assert_whole(&take(&mut reader), &fits.to_json());
        for (event, seq) in [(&large, 3), (&huge, 5)] {
            assert_eq!(stream.publish(event), Ok(truncated(seq)));
            let read = take(&mut reader);
            let len = read.event_json().len();
            assert!(read.truncated() && len <= room && len > room - 50, "{len} of {room}");
            assert_truncated_form(&event.to_json(), read.event_json());
            assert_eq!(stream.publish_json(&event.to_json()), Ok(truncated(seq + 1)));
            assert_json(&take(&mut reader), read.event_json());
        }
        let stats = stream.stats();
        assert_eq!((stats.truncated(), stats.published()), (4, 6));
        assert_eq!(stream.readers()[0].shortened, 0, "it was not the reader's fault");
        // One that is as long as the memory, again and again: each one displaces all of the one before.
        for seq in 7..=14 {
            assert_eq!(stream.publish(&fits), Ok(published(seq)));
        }
        let shortened = (7..=14).filter(|_| take(&mut reader).truncated()).count();
        assert_eq!(shortened, if pages == 0 { 0 } else { 7 });
    }
}

/// The source loses its last entries of metadata, and no more than it has to.
#[test]
fn metadata_is_lost_last_first_when_it_is_too_large() {
    let long = |n: usize| format!("{n}{}", "\"\\é".repeat(20));
    let mut source = Source::new(SourceKind::Extension).event("an event");
    for n in 0..40 {
        source = source.metadata(format!("key {n}"), long(n));
    }
    let event = Event::new("type", Category::Page, source).ts(-5).data_json("{\"a\":[1,2]}").unwrap();
    let stream = Config::new().events(8).inline_bytes(600).large_bytes(0).build().unwrap();
    let mut reader = stream.reader_from_oldest();
    assert_eq!(stream.publish(&event), Ok(truncated(1)));
    // Also if it is spelled with spaces, and with a field that the schema does not have.
    let json = String::from_utf8(event.to_json()).unwrap();
    let spaced = json.replace(r#""source":{"#, r#""source" : { "more":[{}], "#).replace("\":\"", "\": \"");
    assert_eq!(stream.publish_json(spaced.as_bytes()), Ok(truncated(2)));
    for _ in 1..=2 {
        let read = take(&mut reader);
        let parsed = read.event().unwrap();
        assert_truncated_form(&event.to_json(), read.event_json());
        let kept = parsed.source.metadata.as_ref().unwrap();
        assert!(kept.len() >= 3, "{} entries", kept.len());
        assert!(kept.iter().zip(0..).all(|((key, value), n)| key == format!("key {n}") && value == long(n)));
        // The next entry would not have fitted.
        let mut fuller = parsed.clone();
        fuller.data = None;
        fuller.source.metadata.as_mut().unwrap().push(format!("key {}", kept.len()), long(kept.len()));
        assert!(fuller.to_json().len() > 600);
        assert!(read.event_json().len() <= 600);
    }
    // One entry that is too large by itself leaves none.
    let source = Source::new(SourceKind::Cdp).metadata("key", "x".repeat(600)).metadata("other", "y");
    stream.publish(&Event::new("type", Category::Page, source).ts(1)).unwrap();
    let json = br#"{"ts":1,"type":"type","category":"page","source":{"kind":"cdp"},"truncated":true}"#;
    assert_json(&take(&mut reader), json);
}

#[test]
fn fields_that_are_too_large_refuse_the_event() {
    let stream = Config::new().events(8).inline_bytes(256).large_bytes(1 << 16).build().unwrap();
    // Its truncated form without data and metadata has `len` bytes.
    let event = |len: usize| {
        let source = Source::new(SourceKind::Cdp).event("e").metadata("k", "v".repeat(300));
        let event = Event::new("t", Category::Page, source).ts(1).data_json("[1,2,3]").unwrap();
        let mut bare = Event { data: None, truncated: true, ..event.clone() };
        bare.source.metadata = None;
        Event { r#type: "t".repeat(1 + len - bare.to_json().len()).into(), ..event }
    };
    let mut reader = stream.reader_from_oldest();
    assert_eq!(stream.publish(&event(256)), Ok(published(1)), "whole, in chunks");
    assert_whole(&take(&mut reader), &event(256).to_json());

    let error = PublishError::FieldsTooLarge { len: 257, max: 256 };
    assert_eq!(stream.publish(&event(257)), Err(error));
    assert_eq!(stream.publish_json(&event(257).to_json()), Err(error));
    let text = error.to_string();
    assert!(text.contains("257") && text.contains("256") && text.contains("not published"), "{text}");
    let batch = [of("page"), event(200), event(1000), of("page"), event(300)];
    let error =
        BatchError { published: 0, index: 2, error: PublishError::FieldsTooLarge { len: 1000, max: 256 } };
    assert_eq!(stream.publish_batch(&batch), Err(error));
    assert_eq!((stream.seq(), stream.stats().refused, stream.stats().published()), (1, 3, 1));
    assert!(is_empty(&mut reader));
    // It is the first event that is not captured which is looked at last.
    stream.set_captured(CategorySet::NONE);
    assert_eq!(stream.publish(&event(257)), Ok(Publish::NotCaptured));
    assert_eq!(stream.publish_batch(&batch).unwrap().published, 0);
    assert_eq!(stream.stats().refused, 3);

    let mut stream = stream.into_exclusive();
    stream.set_captured(CategorySet::ALL);
    assert_eq!(stream.publish_batch(&batch), Err(error));
    assert_eq!(stream.publish(&event(257)).map_err(|error| error.to_string()), Err(text));
    assert_eq!((stream.seq(), stream.stats().refused), (1, 5));
    assert_eq!(stream.publish(&of("page")), Ok(published(2)), "it goes on");
    assert_eq!(take(&mut reader).seq(), 2);
}

/// An event that comes with the flag is not one that was truncated here.
#[test]
fn a_flag_that_an_event_has_already_is_kept() {
    let stream = stream(2);
    let mut reader = stream.reader_from_oldest();
    let small = Event { truncated: true, ..of("page") };
    let large = Event { truncated: true, ..sized(1, 3000) };
    for (event, seq) in [(small, 1), (large, 3)] {
        assert_eq!(stream.publish(&event), Ok(published(seq)));
        assert_eq!(stream.publish_json(&event.to_json()), Ok(published(seq + 1)));
        for _ in 1..=2 {
            let read = take(&mut reader);
            assert!(read.truncated() && read.event().unwrap().truncated);
            assert_json(&read, &event.to_json());
        }
    }
    assert_eq!(stream.stats().truncated(), 0);
    assert_eq!(stream.publish(&Event { truncated: true, ..sized(1, 9000) }), Ok(truncated(5)));
    assert_eq!(stream.publish_json(&Event { truncated: true, ..sized(1, 9000) }.to_json()), Ok(truncated(6)));
    for _ in 1..=2 {
        let read = take(&mut reader);
        assert_eq!(String::from_utf8_lossy(read.event_json()).matches("truncated").count(), 1, "{read:?}");
    }
    // An explicit `false` gives way to the flag.
    let json = sized(1, 9000).to_json();
    let spelled = [br#"{"truncated":false,"#, &json[1..]].concat();
    assert_eq!(stream.publish_json(&spelled), Ok(truncated(7)));
    assert_truncated_form(&json, take(&mut reader).event_json());
}

// ---- Batches.

#[test]
fn a_batch_is_published_without_what_is_not_captured() {
    let check =
        |publish: &mut dyn FnMut(&[Event<'_>]) -> Result<lapwing::stream::BatchPublished, BatchError>,
         reader: &mut Reader,
         first: u64| {
            let batch = [
                of("page"),
                of("api"),
                sized(1, 5000),
                of("weather"),
                of("system"),
                sized(2, 60_000),
                of("page"),
            ];
            let result = publish(&batch).unwrap();
            assert_eq!((result.seqs, result.published, result.truncated), (first..first + 5, 5, 1));
            for (index, seq) in [0, 2, 4, 5, 6].into_iter().zip(first..) {
                let read = take(reader);
                assert_eq!(read.seq(), seq);
                if index == 5 {
                    assert_truncated_form(&batch[index].to_json(), read.event_json());
                } else {
                    assert_whole(&read, &batch[index].to_json());
                }
            }
            for none in [&batch[1..2], &batch[..0]] {
                let result = publish(none).unwrap();
                assert_eq!((result.published, result.truncated, result.seqs.is_empty()), (0, 0, true));
            }
            assert!(is_empty(reader));
        };
    let config = Config::new().events(8).inline_bytes(256).large_bytes(1 << 16).max_envelope_bytes(10_000);
    let stream =
        config.captured(CategorySet::from_iter([Category::Page, Category::Network])).build().unwrap();
    let mut reader = stream.reader_from_oldest();
    check(&mut |batch| stream.publish_batch(batch), &mut reader, 1);
    let mut stream = stream.into_exclusive();
    check(&mut |batch| stream.publish_batch(batch), &mut reader, 6);
    let stats = stream.stats();
    assert_eq!((stats.published(), stats.truncated(), stats.refused), (10, 2, 0));
}

#[test]
fn a_batch_may_be_larger_than_the_stream() {
    let events = (1..=30).map(|ts| sized(ts, if ts % 3 == 0 { 3000 } else { 200 })).collect::<Vec<_>>();
    let check = |reader: &mut Reader, first: u64| {
        assert_eq!(next(reader).unwrap().dropped(), 22);
        for (event, seq) in events.iter().zip(first..).skip(22) {
            let read = take(reader);
            assert_eq!(read.seq(), seq);
            assert_json(&read, &event.to_json());
        }
        assert!(is_empty(reader));
    };
    let stream = stream(8);
    let mut reader = stream.reader_from_oldest();
    let result = stream.publish_batch(&events).unwrap();
    assert_eq!((result.seqs, result.published, result.truncated), (1..31, 30, 0));
    check(&mut reader, 1);
    let mut stream = stream.into_exclusive();
    assert_eq!(stream.publish_batch(&events).unwrap().seqs, 31..61);
    check(&mut reader, 31);
    assert_eq!(stream.stats().published(), 60);
}

#[test]
fn a_batch_that_comes_after_the_end_names_its_first_captured_event() {
    let stream = stream(2);
    stream.set_captured(CategorySet::NONE.with(&Category::Page));
    let batch = [of("api"), of("api"), of("page"), of("system")];
    let closed = BatchError { published: 0, index: 2, error: PublishError::Closed };
    stream.close();
    assert_eq!(stream.publish_batch(&batch), Err(closed));
    assert_eq!(
        closed.to_string(),
        "event 2 of the batch was not published: the stream is closed; 0 events before it are published"
    );
    assert_eq!(stream.publish_batch(&batch[..2]).unwrap().published, 0, "nothing to refuse");
    assert_eq!(stream.stats().refused, 1);
    let mut stream = stream.into_exclusive();
    assert_eq!(stream.publish_batch(&batch), Err(closed));
    assert_eq!(stream.publish_batch(&batch[..2]).unwrap().published, 0);

    // In the middle: two numbers are left, and then a whole lap is too much.
    let make = || Config::new().events(2).first_seq(MAX_SEQ - 1).build().unwrap();
    let batch = [of("page"), of("api"), of("page")];
    let stream = make();
    let error = BatchError { published: 2, index: 2, error: PublishError::Closed };
    assert_eq!(stream.publish_batch(&batch), Err(error));
    let mut reader = stream.reader_from_oldest();
    assert_eq!(seqs(&mut reader), [MAX_SEQ - 1, MAX_SEQ].map(ReadResult::Envelope));
    assert_eq!(reader.try_read().map(|_| ()), Err(TryReadError::Closed));
    let mut stream = make().into_exclusive();
    assert_eq!(
        stream.publish_batch(&batch),
        Err(BatchError { published: 0, index: 0, error: PublishError::Closed })
    );
    assert_eq!(stream.stats().published(), 0, "all of it, or nothing");
}

// ---- JSON.

/// `TS` stands for the time that is filled in.
#[test]
fn json_is_carried_as_it_is_spelled() {
    let stream = Config::new().events(8).inline_bytes(256).large_bytes(1 << 17).build().unwrap();
    let mut reader = stream.reader_from_oldest();
    let text = "x".repeat(20_000);
    let cases = [
        // Any order of keys, white space, escapes, keys of others.
        (
            r#"{"data":{"b":1,"a":[]},"source":{"metadata":null,"event":null,"kind":"cdp"},"category":"page","type":"t","ts":7}"#,
            None,
        ),
        ("\t{ \"ts\" : 7 , \"type\":\"t\",\"category\":\"page\",\"source\":{ \"kind\":\"cdp\" } }  ", None),
        (
            r#"{"\u0074s":7,"type":"\n\u00e9","category":"\u0070age","source":{"kind":"\ud83d\ude00"},"data":"\ud83d"}"#,
            None,
        ),
        (
            r#"{"ts":7,"type":"t","category":"page","source":{"kind":"cdp","x":{"kind":1}},"seq":9,"event":{"ts":0},"truncated":false}"#,
            None,
        ),
        (
            r#"{"ts":7,"type":"t","category":"page","source":{"kind":"cdp","metadata":{"k":"1","k":"2"}},"data":null}"#,
            None,
        ),
        // Line breaks between tokens.
        (
            "{\n\"ts\":7,\r\n\"type\":\"t\\n\",\"category\":\"page\",\"source\":{\"kind\":\"cdp\"},\"data\":[1,\n 2]}\r\n",
            Some(
                "{\"ts\":7,\"type\":\"t\\n\",\"category\":\"page\",\"source\":{\"kind\":\"cdp\"},\"data\":[1, 2]}",
            ),
        ),
        // The time.
        (
            r#"{"type":"t","category":"page","source":{"kind":"cdp"}}"#,
            Some(r#"{"ts":TS,"type":"t","category":"page","source":{"kind":"cdp"}}"#),
        ),
        (
            r#" { "type":"t","category":"page","source":{"kind":"cdp"},"ts": 0 }"#,
            Some(r#" { "type":"t","category":"page","source":{"kind":"cdp"},"ts": TS }"#),
        ),
        // Missing, with line breaks, and large.
        (
            "{\n\"type\":\"t\",\r\"data\":[\n\"LARGE\"\r\n],\"category\":\"page\",\"source\":{\"kind\":\"cdp\"}}\n",
            Some(r#"{"ts":TS,"type":"t","data":["LARGE"],"category":"page","source":{"kind":"cdp"}}"#),
        ),
        (
            "{\"data\":\"LARGE\",\"ts\":0,\"type\":\"t\",\r\"category\":\"page\",\"source\":{\"kind\":\"cdp\"}}",
            Some(r#"{"data":"LARGE","ts":TS,"type":"t","category":"page","source":{"kind":"cdp"}}"#),
        ),
    ];
    for exclusive in [false, true] {
        let mut sole = self::stream(40).into_exclusive();
        let mut its_reader = sole.reader_from_oldest();
        for (given, expected) in cases {
            let given = given.replace("LARGE", &text);
            let reader = if exclusive { &mut its_reader } else { &mut reader };
            if exclusive {
                sole.publish_json(given.as_bytes()).unwrap();
            } else {
                stream.publish_json(given.as_bytes()).unwrap();
            }
            let read = take(reader);
            let event = read.event().unwrap();
            let expected =
                expected.unwrap_or(&given).replace("TS", &event.ts.to_string()).replace("LARGE", &text);
            assert_eq!(String::from_utf8_lossy(read.event_json()), expected);
            assert!(event.ts == 7 || event.ts > 1_600_000_000_000_000);
            assert_eq!(read.category(), Category::Page);
            assert!(!read.truncated());
        }
    }
}

#[test]
fn json_of_any_spelling_has_its_truncated_form() {
    let stream = self::stream(1);
    let mut reader = stream.reader_from_oldest();
    let text = "x".repeat(9000);
    for (json, kept) in [
        (
            format!(
                "{{\n\"type\":\"\\u0074\",\"data\" : [\"{text}\"],\r\n\"category\":\"p\\u0061ge\",\"more\":1,\"source\": {{\"kind\" :\"cdp\"}} }}"
            ),
            "[",
        ),
        (
            format!(
                r#"{{"source":{{"kind":"cdp","more":"{text}"}},"ts":0,"type":"t","category":"page","data":[1]}}"#
            ),
            "[1]",
        ),
        (
            format!(
                r#"{{"ts":9,"more":"{text}","type":"t","category":"page","source":{{"kind":"cdp"}},"data":{{"a":null}}}}"#
            ),
            r#"{"a":null}"#,
        ),
    ] {
        let seq = stream.seq() + 1;
        assert_eq!(stream.publish_json(json.as_bytes()), Ok(truncated(seq)));
        let read = take(&mut reader);
        let event = read.event().unwrap();
        assert_eq!(
            (&*event.r#type, &event.category, event.source.kind.as_str()),
            ("t", &Category::Page, "cdp")
        );
        assert!(event.truncated && event.data.unwrap().get().starts_with(kept), "{read:?}");
        assert!(event.ts == 9 || event.ts > 1_600_000_000_000_000);
        assert!(!read.json().contains(&b'\n') && !read.json().contains(&b'\r'));
        assert_eq!(read.category(), Category::Page);
    }
}

#[test]
fn json_that_is_no_event_is_refused() {
    use InvalidReason::{ControlCharacter, Duplicate, Escape, Expected, LoneSurrogate, Missing, Ts, Utf8};
    let stream = self::stream(4);
    let mut reader = stream.reader_from_oldest();
    let rest = r#""category":"page","source":{"kind":"cdp"}"#;
    let large = format!(r#""data":"{}""#, "x".repeat(5000));
    type Is = fn(InvalidReason) -> bool;
    let cases: &[(&str, Is)] = &[
        ("", |reason| matches!(reason, Expected(_))),
        ("null", |reason| matches!(reason, Expected(_))),
        ("[]", |reason| matches!(reason, Expected(_))),
        ("{}", |reason| matches!(reason, Missing(_))),
        ("{REST}", |reason| matches!(reason, Missing("type"))),
        (r#"{"type":"t","category":"page"}"#, |reason| matches!(reason, Missing("source"))),
        (r#"{"type":"t","category":"page","source":{}}"#, |reason| matches!(reason, Missing("kind"))),
        (r#"{"type":"t",REST} {}"#, |reason| matches!(reason, Expected(_))),
        (r#"{"type":"t",REST"#, |reason| matches!(reason, Expected(_))),
        (r#"{"type":"t",REST,}"#, |reason| matches!(reason, Expected(_))),
        (r#"{"type":7,REST}"#, |reason| matches!(reason, Expected(_))),
        (r#"{"type":"t","type":"t",REST}"#, |reason| matches!(reason, Duplicate("type"))),
        (r#"{"ts":1,"type":"t","ts":1,REST}"#, |reason| matches!(reason, Duplicate("ts"))),
        (r#"{"ts":1.5,"type":"t",REST}"#, |reason| matches!(reason, Ts)),
        (r#"{"ts":"1","type":"t",REST}"#, |reason| matches!(reason, Ts)),
        (r#"{"ts":9223372036854775808,"type":"t",REST}"#, |reason| matches!(reason, Ts)),
        (r#"{"type":"\ud83d",REST}"#, |reason| matches!(reason, LoneSurrogate)),
        (r#"{"type":"\x",REST}"#, |reason| matches!(reason, Escape)),
        ("{\"type\":\"a\nb\",REST}", |reason| matches!(reason, ControlCharacter)),
        (r#"{"type":"t",LARGE,REST,"data":1}"#, |reason| matches!(reason, Duplicate("data"))),
        (r#"{"type":"t",LARGE,"truncated":1,REST}"#, |reason| matches!(reason, Expected(_))),
        (r#"{"type":"t","category":"console","source":{"kind":1}}"#, |reason| matches!(reason, Expected(_))),
    ];
    stream.set_captured(CategorySet::ALL.without(&Category::Console));
    for (json, expected) in cases {
        let json = json.replace("REST", rest).replace("LARGE", &large);
        match stream.publish_json(json.as_bytes()) {
            Err(PublishError::Invalid(error)) => {
                assert!(expected(error.reason) && error.at <= json.len(), "{json}: {error}");
                assert!(error.to_string().ends_with("Nothing was published"), "{error}");
            }
            other => panic!("{json}: {other:?}"),
        }
    }
    let bad = [&b"{\"type\":\"t\xff\","[..], rest.as_bytes(), b"}"].concat();
    assert!(
        matches!(stream.publish_json(&bad), Err(PublishError::Invalid(error)) if error.reason == Utf8 && error.at == 10)
    );
    assert_eq!((stream.seq(), stream.stats().refused), (0, cases.len() as u64 + 1));
    assert_eq!((stream.stats().published(), stream.stats().bytes(), stream.stats().largest()), (0, 0, 0));
    assert!(is_empty(&mut reader));
    let mut stream = stream.into_exclusive();
    assert!(matches!(stream.publish_json(b"{}"), Err(PublishError::Invalid(_))));
    assert_eq!(stream.stats().refused, cases.len() as u64 + 2);
}

// ---- Categories of a reader.

/// The seqs that a reader of `categories` gets, of events as they are in `stream`.
fn wanted(stream: &EventStream, categories: CategorySet) -> Vec<u64> {
    let mut reader = stream.reader_from_oldest();
    reader.set_categories(categories);
    seqs(&mut reader).into_iter().map(|read| read.envelope().unwrap()).collect()
}

#[test]
fn a_reader_gets_the_categories_that_it_wants() {
    let stream = Config::new().events(64).inline_bytes(256).large_bytes(1 << 16).build().unwrap();
    let names = Category::KNOWN.map(|category| category.as_str().to_owned());
    let names = names.iter().map(String::as_str).chain(["weather", "billing"]).collect::<Vec<_>>();
    // Small, flagged, large, and truncated ones of each.
    let kinds = 4;
    for name in &names {
        let category = || Category::from(*name);
        stream.publish(&of(name)).unwrap();
        stream.publish(&Event { truncated: true, ..of(name) }).unwrap();
        stream.publish(&Event { category: category(), ..sized(1, 3000) }).unwrap();
        let cut = stream.publish(&Event { category: category(), ..sized(1, 100_000) }).unwrap();
        assert!(matches!(cut, Publish::Published { truncated: true, .. }));
    }
    let of_index = |at: usize| (1..=kinds).map(move |seq| at as u64 * kinds + seq);
    for (at, name) in names.iter().enumerate().take(12) {
        let category = Category::from(*name);
        let expected = of_index(at).collect::<Vec<_>>();
        assert_eq!(wanted(&stream, CategorySet::NONE.with(&category)), expected, "{name}");
        let others = (0..names.len()).filter(|other| *other != at).flat_map(of_index).collect::<Vec<_>>();
        assert_eq!(wanted(&stream, CategorySet::ALL.without(&category)), others, "all but {name}");
    }
    // All names that are not known are one.
    let others = of_index(12).chain(of_index(13)).collect::<Vec<_>>();
    assert_eq!(wanted(&stream, CategorySet::NONE.with(&"any".into())), others);
    assert_eq!(wanted(&stream, CategorySet::ALL.without(&"any".into())), (1..=48).collect::<Vec<_>>());
    assert_eq!(wanted(&stream, CategorySet::NONE), [0; 0]);
    assert_eq!(wanted(&stream, CategorySet::ALL), (1..=56).collect::<Vec<_>>());
}

#[test]
fn sets_of_categories() {
    let (page, weather) = (Category::Page, Category::from("weather"));
    for (set, has_page, has_weather) in [
        (CategorySet::ALL, true, true),
        (CategorySet::NONE, false, false),
        (CategorySet::NONE.with(&page), true, false),
        (CategorySet::NONE.with(&weather), false, true),
        (CategorySet::ALL.without(&page), false, true),
        (CategorySet::ALL.without(&"any".into()), true, false),
        (CategorySet::NONE.with(&page).with(&page).without(&page), false, false),
        (CategorySet::NONE.with(&Category::Other("page".into())), true, false),
        (Category::KNOWN.into_iter().collect(), true, false),
        (Category::KNOWN.into_iter().chain([weather.clone()]).collect(), true, true),
    ] {
        assert_eq!((set.contains(&page), set.contains(&weather)), (has_page, has_weather), "{set:?}");
    }
    assert_eq!(Category::KNOWN.into_iter().chain([weather]).collect::<CategorySet>(), CategorySet::ALL);
}

#[test]
fn a_filter_hides_no_loss() {
    let stream = stream(2);
    let mut reader = stream.reader_from_oldest();
    reader.set_categories(CategorySet::NONE.with(&Category::Page));
    let publish = |names: &[&str]| names.iter().for_each(|name| assert!(stream.publish(&of(name)).is_ok()));
    publish(&["api"; 3]);
    publish(&["page"]);
    assert_eq!(seqs(&mut reader), [ReadResult::Envelope(4)]);
    publish(&["api"; 10]); // 5 and 6 are lost, whatever they were
    assert_eq!(seqs(&mut reader), [ReadResult::Dropped { from: 5, to: 6 }]);
    assert_eq!(reader.next_seq(), 15);
    // Changed in the middle, from the next read on.
    publish(&["api", "page", "api"]);
    reader.set_categories(CategorySet::ALL);
    assert_eq!(take(&mut reader).seq(), 15);
    reader.set_categories(CategorySet::NONE.with(&Category::Api));
    assert_eq!(seqs(&mut reader), [ReadResult::Envelope(17)]);
    stream.close();
    assert_eq!(reader.read().map(|_| ()), Err(ReadError::Closed));
}

/// A batch ends before it has skipped for long, and the next one goes on there.
#[test]
fn batches_end_before_many_unwanted_events() {
    let stream = Config::new().events(8000).inline_bytes(128).build().unwrap();
    let mut reader = stream.reader_from_oldest();
    reader.set_categories(CategorySet::NONE.with(&Category::Page));
    for _ in 0..3 {
        stream.publish_batch(&[of("page"), of("api"), of("page")]).unwrap();
        stream.publish_batch(&vec![of("api"); 2500]).unwrap();
    }
    for blocking in [false, true] {
        let mut batches = Vec::new();
        reader.move_after(0).unwrap();
        while batches.len() < 3 {
            let mut got = Vec::new();
            let each = |envelope: RawEnvelope<'_>| got.push(envelope.seq());
            let count = if blocking {
                reader.read_batch(10, each).unwrap()
            } else {
                reader.try_read_batch(10, each).unwrap()
            };
            assert_eq!(count, ReadResult::Envelope(got.len()));
            assert_eq!(stream.readers()[0].position, reader.next_seq() - 1, "with what was stepped over");
            batches.push(got);
        }
        assert_eq!(batches, [[1, 3], [2504, 2506], [5007, 5009]]);
        assert!(is_empty(&mut reader));
        assert_eq!((reader.next_seq(), stream.readers()[0].lag), (7510, 0));
    }
}

// ---- Envelopes.

#[test]
fn an_envelope_has_many_forms() {
    for (first_seq, name) in [(1, "page"), (9, "weather"), (123_456_789, "system"), (MAX_SEQ, "billing")] {
        for event in [of(name), Event { category: name.into(), ..sized(3, 5000) }] {
            let stream = Config::new().events(4).inline_bytes(256).first_seq(first_seq).build().unwrap();
            stream.publish(&event).unwrap();
            let event_json = event.to_json();
            let json = [format!("{{\"seq\":{first_seq},\"event\":").as_bytes(), &event_json, b"}"].concat();
            let mut reader = stream.reader_from_oldest();
            let ReadResult::Envelope(mut raw) = reader.try_read().unwrap() else { panic!() };
            for _ in 0..2 {
                assert_eq!((raw.seq(), raw.truncated(), raw.category().as_str()), (first_seq, false, name));
                assert_eq!(raw.event_json(), event_json);
                assert_eq!(raw.json(), json);
                let mut appended = b"before".to_vec();
                raw.write_json(&mut appended);
                assert_eq!(appended, [b"before", &json[..]].concat());
                assert_eq!(raw.event().unwrap(), event);
                let envelope = raw.envelope().unwrap();
                assert_eq!((envelope.seq, &envelope.event), (first_seq, &event));
                assert_eq!(envelope.to_json(), json);
            }
            let own = raw.to_owned();
            assert_eq!(own, own.clone());
            assert_eq!((own.seq(), own.truncated(), own.category().as_str()), (first_seq, false, name));
            assert_eq!((own.event_json(), own.json()), (&event_json[..], &json[..]));
            assert_eq!(own.event().unwrap(), event);
            assert!(format!("{own:?}").contains(name));
            assert!(format!("{raw:?}").contains(&first_seq.to_string()));
        }
    }
}

// ---- Seen from outside.

#[test]
fn every_reader_is_seen_until_it_is_gone() {
    let stream = stream(2);
    assert_eq!(stream.readers(), []);
    let status = || {
        let status = |s: &lapwing::stream::ReaderStatus| {
            (s.name.to_string(), s.position, s.lag, s.delivered, s.dropped, s.shortened)
        };
        stream.readers().iter().map(status).collect::<Vec<_>>()
    };
    let of_name = |name: &str, numbers: [u64; 5]| {
        let [position, lag, delivered, dropped, shortened] = numbers;
        (name.to_owned(), position, lag, delivered, dropped, shortened)
    };
    let mut one = stream.reader_from_oldest().named("one");
    (1..=3).for_each(|_| assert!(stream.publish(&of("page")).is_ok()));
    let two = stream.reader_from_now().named("two");
    let three = stream.reader_after(1).unwrap();
    assert_eq!(
        status(),
        [of_name("one", [0, 3, 0, 0, 0]), of_name("two", [3, 0, 0, 0, 0]), of_name("", [1, 2, 0, 0, 0])]
    );
    let three = three.named("three").named("three again");
    take(&mut one);
    assert_eq!(
        (status()[0].clone(), status()[2].0.as_str()),
        (of_name("one", [1, 2, 1, 0, 0]), "three again")
    );
    drop(two);
    assert_eq!(status().len(), 2);
    // A loss, and events in short form.
    (4..=12).for_each(|ts| assert!(stream.publish(&sized(ts, 3000)).is_ok()));
    assert_eq!(status()[0], of_name("one", [1, 11, 1, 0, 0]), "what it does not know yet");
    assert_eq!(next(&mut one).unwrap().dropped(), 3);
    assert_eq!(status()[0], of_name("one", [4, 8, 1, 3, 0]));
    let mut count = 0;
    assert_eq!(one.try_read_batch(5, |_| count += 1), Ok(ReadResult::Envelope(5)));
    assert_eq!((status()[0].clone(), count), (of_name("one", [9, 3, 6, 3, 5]), 5));
    assert_eq!(one.read_batch(50, |_| ()), Ok(ReadResult::Envelope(3)));
    assert_eq!(status()[0], of_name("one", [12, 0, 9, 3, 6]), "two pages hold the last two");
    // Back and forth.
    one.move_after(11).unwrap();
    assert_eq!((status()[0].1, status()[0].2, one.lag()), (11, 1, 1));
    // A thread that panics takes its reader with it.
    thread::spawn(move || {
        let _three = three;
        std::panic::resume_unwind(Box::new(()));
    })
    .join()
    .unwrap_err();
    assert_eq!(status().len(), 1);
    drop(one);
    assert_eq!(stream.handle().readers(), []);
}

/// Events that it does not want are no lag.
#[test]
fn a_reader_that_waits_is_seen_to_be_done_with_what_it_does_not_want() {
    let stream = stream(2);
    let mut reader = stream.reader_from_oldest();
    reader.set_categories(CategorySet::NONE.with(&Category::Page));
    let status = || {
        let status = &stream.readers()[0];
        (status.position, status.lag, status.delivered)
    };
    let (count, waker) = Count::new();
    let mut future = pin!(reader.read_async());
    assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    for seq in 1..=20 {
        stream.publish(&of("api")).unwrap();
        assert_eq!(status(), (seq - 1, 1, 0));
        assert_eq!(count.get() as u64, seq, "it is woken for each, and waits again");
        assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        assert_eq!(status(), (seq, 0, 0));
    }
    stream.publish(&of("page")).unwrap();
    assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
    assert_eq!(status(), (21, 0, 1));
}

/// The same for a thread.
#[test]
fn a_thread_that_waits_is_seen_to_be_done_with_what_it_does_not_want() {
    let stream = stream(2);
    let mut reader = stream.reader_from_oldest();
    reader.set_categories(CategorySet::NONE);
    let canceller = reader.canceller();
    thread::scope(|scope| {
        let thread = scope.spawn(move || reader.read().map(|_| ()));
        for seq in 1..=20 {
            stream.publish(&of("api")).unwrap();
            let deadline = Instant::now() + Duration::from_secs(60);
            while stream.readers()[0].position != seq {
                assert!(Instant::now() < deadline, "{:?} after {seq}", stream.readers());
                thread::yield_now();
            }
            assert_eq!((stream.readers()[0].lag, stream.readers()[0].delivered), (0, 0));
        }
        canceller.cancel();
        assert_eq!(thread.join().unwrap(), Err(ReadError::Cancelled));
    });
    assert_eq!(stream.readers(), []);
}

#[test]
fn the_counters_are_exact() {
    let stream = stream(4);
    assert_eq!(stream.stats().published(), 0);
    let events = [
        of("page"),
        of("api"),
        of("page"),
        of("weather"),
        of("billing"),
        sized(1, 256),
        sized(1, 257),
        sized(1, 4 * PAGE),
    ];
    let mut bytes = 0;
    for _ in 0..5 {
        for event in &events {
            stream.publish(event).unwrap();
            stream.publish_json(&event.to_json()).unwrap();
            bytes += 2 * event.to_json().len() as u64;
        }
        stream.publish_batch(&events).unwrap();
        bytes += events.iter().map(|event| event.to_json().len() as u64).sum::<u64>();
    }
    let mut stream = stream.into_exclusive();
    for event in &events {
        stream.publish(event).unwrap();
        bytes += event.to_json().len() as u64;
    }
    let stats = stream.stats();
    assert_eq!((stats.published(), stats.bytes(), stats.largest()), (16 * 8, bytes, 4 * PAGE as u64));
    let published_in = |name: &str| stats.published_in(&name.into());
    assert_eq!(["page", "api", "network", "console"].map(published_in), [32, 16, 48, 0]);
    assert_eq!(["weather", "any other"].map(published_in), [32, 32], "of all that are not known");
    assert_eq!((stats.truncated(), stats.refused, stats.overrun, stats.abandoned), (0, 0, 0, 0));
    // What is cut counts with what is left of it.
    let mut reader = stream.reader_from_now();
    stream.publish(&sized(1, 4 * PAGE + 1)).unwrap();
    let len = take(&mut reader).event_json().len() as u64;
    let stats = stream.stats();
    assert_eq!((stats.truncated(), stats.bytes(), stats.published()), (1, bytes + len, 16 * 8 + 1));
    // Nothing of what is not captured, and of what is refused.
    stream.set_captured(CategorySet::NONE);
    stream.publish(&of("page")).unwrap();
    stream.close();
    let before = stream.stats();
    assert_eq!(stream.publish(&of("system")), Err(PublishError::Closed));
    let after = stream.stats();
    assert_eq!((after.refused, after.published(), after.bytes()), (1, before.published(), before.bytes()));
}

// ---- The end.

#[test]
fn after_the_end_readers_get_what_is_left() {
    let stream = stream(2);
    let mut reader = stream.reader_from_oldest();
    let mut late = stream.reader_from_now();
    (1..=10).for_each(|_| assert!(stream.publish(&of("page")).is_ok()));
    assert!(stream.close());
    assert!(!stream.close());
    assert_eq!(stream.publish(&of("page")), Err(PublishError::Closed));
    assert_eq!(stream.publish_json(&of("page").to_json()), Err(PublishError::Closed));
    assert_eq!(stream.publish(&sized(1, 5000)), Err(PublishError::Closed));
    assert_eq!(PublishError::Closed.to_string(), "not published: the stream is closed");
    assert_eq!((stream.seq(), stream.stats().refused, stream.stats().published()), (10, 3, 10));
    assert_eq!(reader.read().unwrap().dropped(), 2);
    for seq in 3..=10 {
        assert_eq!(reader.read().unwrap().envelope().unwrap().seq(), seq);
    }
    assert_eq!(reader.read().map(|_| ()), Err(ReadError::Closed));
    assert_eq!(reader.read_timeout(Duration::ZERO).map(|_| ()), Err(ReadError::Closed));
    assert_eq!(reader.try_read().map(|_| ()), Err(TryReadError::Closed));
    assert_eq!(reader.try_read_batch(2, |_| ()), Err(TryReadError::Closed));
    assert_eq!(reader.read_batch(2, |_| ()), Err(ReadError::Closed));
    assert_eq!(block_on(reader.read_async()).map(|_| ()), Err(ReadError::Closed));
    // A reader can still go back, and readers can still be made.
    reader.move_after(9).unwrap();
    assert_eq!(seqs(&mut reader), [ReadResult::Envelope(10)]);
    assert_eq!(seqs(&mut stream.reader_after(8).unwrap()), [9, 10].map(ReadResult::Envelope));
    // The publisher goes; the readers stay.
    let handle = stream.handle();
    drop(stream);
    assert_eq!(handle.readers().len(), 2);
    late.move_after(5).unwrap();
    assert_eq!(seqs(&mut late).len(), 5);

    let stream = self::stream(2).into_exclusive();
    let (mut reader, handle) = (stream.reader_from_oldest(), stream.handle());
    drop(stream);
    assert_eq!(reader.read().map(|_| ()), Err(ReadError::Closed), "dropped is closed");
    assert_eq!(handle.seq(), 0);
}

#[test]
fn the_end_wakes_threads_and_tasks() {
    for exclusive in [false, true] {
        let stream = stream(2);
        let readers = [(); 3].map(|()| stream.reader_from_oldest());
        let mut task = stream.reader_from_oldest();
        let (count, waker) = Count::new();
        let mut future = pin!(task.read_async());
        assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        thread::scope(|scope| {
            let threads = readers.map(|mut reader| scope.spawn(move || reader.read().map(|_| ())));
            if exclusive {
                drop(stream.into_exclusive());
            } else {
                drop(stream);
            }
            for thread in threads {
                assert_eq!(thread.join().unwrap(), Err(ReadError::Closed));
            }
        });
        assert_eq!(count.get(), 1);
        let end = future.poll(&mut Context::from_waker(&waker)).map_ok(|_| ());
        assert_eq!(end, Poll::Ready(Err(ReadError::Closed)));
    }
}

// ---- Waiting.

#[test]
fn a_cancelled_reader_ends_its_waiting() {
    for wait in [Wait::Park, Wait::Spin] {
        let stream = Config::new().events(8).wait(wait).build().unwrap();
        let mut reader = stream.reader_from_oldest();
        let canceller = reader.canceller();
        thread::scope(|scope| {
            let thread = scope.spawn(|| reader.read().map(|_| ()));
            canceller.cancel();
            assert_eq!(thread.join().unwrap(), Err(ReadError::Cancelled));
        });
        stream.publish(&of("page")).unwrap();
        let hour = Duration::from_secs(3600);
        assert_eq!(reader.read().map(|_| ()), Err(ReadError::Cancelled));
        assert_eq!(reader.read_timeout(hour).map(|_| ()), Err(ReadError::Cancelled));
        assert_eq!(reader.read_batch(9, |_| panic!("an event")), Err(ReadError::Cancelled));
        assert_eq!(block_on(reader.read_async()).map(|_| ()), Err(ReadError::Cancelled));
        assert_eq!(stream.readers()[0].delivered, 0);
        assert_eq!(take(&mut reader).seq(), 1, "and takes no event");
    }
}

#[test]
fn a_time_out_takes_its_time_and_nothing_else() {
    for wait in [Wait::Park, Wait::Spin] {
        let stream = Config::new().events(8).wait(wait).build().unwrap();
        let mut reader = stream.reader_from_oldest();
        for ms in [0, 1, 20] {
            let (start, timeout) = (Instant::now(), Duration::from_millis(ms));
            assert_eq!(reader.read_timeout(timeout).map(|_| ()), Err(ReadError::TimedOut));
            assert!(start.elapsed() >= timeout);
            let deadline = Instant::now() + timeout;
            assert_eq!(reader.read_deadline(deadline).map(|_| ()), Err(ReadError::TimedOut));
            assert!(Instant::now() >= deadline);
        }
        let past = Instant::now();
        (1..=10).for_each(|_| assert!(stream.publish(&of("page")).is_ok()));
        assert_eq!(reader.read_deadline(past).unwrap().dropped(), 2, "with one in the past it looks");
        assert_eq!(reader.read_deadline(past).unwrap().envelope().unwrap().seq(), 3);
        assert_eq!(reader.read_timeout(Duration::MAX).unwrap().envelope().unwrap().seq(), 4);
        assert_eq!(stream.readers()[0].position, 4);
    }
}

#[test]
fn tasks_read_what_threads_publish() {
    for wait in [Wait::Park, Wait::Spin] {
        let stream =
            Config::new().events(8).inline_bytes(256).large_bytes(4 * 4096).wait(wait).build().unwrap();
        let readers = [(); 2].map(|()| stream.reader_from_oldest());
        thread::scope(|scope| {
            let tasks = readers.map(|mut reader| {
                scope.spawn(move || {
                    block_on(async {
                        let mut last = 0;
                        loop {
                            match reader.read_async().await {
                                Ok(ReadResult::Envelope(envelope)) => {
                                    assert_eq!(envelope.seq(), last + 1);
                                    assert_eq!(envelope.event().unwrap().ts, envelope.seq() as i64);
                                    last += 1;
                                }
                                Ok(ReadResult::Dropped { from, to }) => {
                                    assert_eq!(from, last + 1);
                                    last = to;
                                }
                                Err(error) => return (last, error),
                            }
                        }
                    })
                })
            });
            for ts in 1..=2000 {
                stream.publish(&if ts % 7 == 0 { sized(ts, 5000) } else { of("page").ts(ts) }).unwrap();
            }
            stream.close();
            for task in tasks {
                assert_eq!(task.join().unwrap(), (2000, ReadError::Closed));
            }
        });
    }
}

#[test]
fn a_future_that_is_dropped_takes_nothing() {
    let stream = stream(2);
    let mut reader = stream.reader_from_oldest();
    for seq in 1..=5 {
        let (count, waker) = Count::new();
        {
            let mut future = pin!(reader.read_async());
            assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            stream.publish(&of("page")).unwrap();
            assert_eq!(count.get(), 1);
        }
        {
            let _never_polled = reader.read_async();
        }
        assert_eq!((reader.next_seq(), stream.readers()[0].position), (seq, seq - 1));
        assert_eq!(take(&mut reader).seq(), seq);
    }
}

// ---- Positions.

#[test]
fn a_reader_moves_back_and_forth() {
    let stream = stream(8);
    let mut reader = stream.reader_from_oldest();
    let events = (1..=12).map(|ts| sized(ts, if ts % 2 == 0 { 200 } else { 3000 })).collect::<Vec<_>>();
    events.iter().for_each(|event| assert!(stream.publish(event).is_ok()));
    for (after, first) in
        [(12, None), (4, Some(5)), (11, Some(12)), (5, Some(6)), (8, Some(9)), (8, Some(9)), (12, None)]
    {
        reader.move_after(after).unwrap();
        assert_eq!((reader.next_seq(), reader.lag()), (after + 1, 12 - after));
        assert_eq!((stream.readers()[0].position, stream.readers()[0].lag), (after, 12 - after));
        match first {
            Some(seq) => {
                let read = take(&mut reader);
                assert_eq!(read.seq(), seq);
                assert_json(&read, &events[seq as usize - 1].to_json());
            }
            None => assert!(is_empty(&mut reader)),
        }
    }
    reader.move_after(1).unwrap();
    assert_eq!(next(&mut reader).unwrap().dropped(), 3, "2, 3 and 4 are overwritten");
    assert_eq!(take(&mut reader).seq(), 5);
    for given in [13, u64::MAX] {
        assert_eq!(reader.move_after(given), Err(PositionError::Future { given, newest: 12 }));
        assert_eq!((reader.next_seq(), stream.readers()[0].position), (6, 5));
    }
    // While it is waiting, it has no place in the way of the move.
    let (_, waker) = Count::new();
    reader.move_after(12).unwrap();
    {
        let mut future = pin!(reader.read_async());
        assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    reader.move_after(11).unwrap();
    assert_eq!(take(&mut reader).seq(), 12);
}

#[test]
fn a_stream_goes_on_with_the_numbers_of_an_earlier_run() {
    let stream = Config::new().events(4).first_seq(1000).build().unwrap();
    assert_eq!((stream.seq(), stream.readable(), stream.oldest()), (999, 999, 1000));
    let mut before = stream.reader_after(990).unwrap();
    let mut at = stream.reader_after(999).unwrap();
    assert!(is_empty(&mut at));
    assert_eq!(stream.readers()[1].position, 999);
    assert_eq!(stream.publish(&of("page")), Ok(published(1000)));
    assert_eq!(seqs(&mut before), [ReadResult::Dropped { from: 991, to: 999 }, ReadResult::Envelope(1000)]);
    assert_eq!(seqs(&mut at), [ReadResult::Envelope(1000)]);
    assert_eq!(stream.reader_after(1001).unwrap_err(), PositionError::Future { given: 1001, newest: 1000 });
}

// ---- Foreign code.

/// A waker that runs code of its own.
struct Foreign<F: Fn()>(F);

impl<F: Fn() + Send + Sync> Wake for Foreign<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

/// A waker is called in the middle of a publish, on its thread: what it publishes is no part of that one, nor
/// that one of it.
#[test]
fn a_waker_may_publish() {
    type Act = fn(&EventStream, &[Event<'_>]);
    let acts: [(Act, usize); 4] = [
        (|stream, batch| _ = stream.publish(&batch[0]).unwrap(), 1),
        (|stream, batch| _ = stream.publish_json(&batch[1].to_json()).unwrap(), 1),
        (|stream, batch| _ = stream.publish_batch(batch).unwrap(), 12),
        // With a `ts` to fill in: by way of the buffer.
        (|stream, _| _ = stream.publish_json(&Event { ts: 0, ..sized(1, 5000) }.to_json()).unwrap(), 1),
    ];
    let batch = (1..=12).map(|ts| sized(ts, if ts % 3 == 0 { 900 } else { 200 })).collect::<Vec<_>>();
    for (act, count) in acts {
        let stream =
            Arc::new(Config::new().events(4).inline_bytes(256).large_bytes(1 << 17).build().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = stream.reader_from_oldest();
        let waker = {
            let (stream, log) = (Arc::clone(&stream), Arc::clone(&log));
            let reader = Mutex::new(stream.reader_from_oldest());
            Waker::from(Arc::new(Foreign(move || {
                let mut reader = reader.lock().unwrap();
                let read =
                    |reader: &mut Reader| log.lock().unwrap().extend(std::iter::from_fn(|| next(reader)));
                read(&mut reader);
                stream.publish(&sized(100, 6000)).unwrap();
                stream.publish_json(&sized(101, 7000).to_json()).unwrap();
                stream.publish_batch(&[sized(102, 160), sized(103, 8000)]).unwrap();
                read(&mut reader);
            })))
        };
        let mut future = pin!(waiting.read_async());
        assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        act(&stream, &batch);
        // Woken behind the first lap of the batch, or behind the one event.
        let first = count.min(4);
        let logged =
            log.lock().unwrap().iter().map(|read| read.clone().envelope().unwrap()).collect::<Vec<_>>();
        assert_eq!(logged.len(), first + 4);
        for (read, seq) in logged.iter().zip(1..) {
            assert_eq!((read.seq(), read.truncated()), (seq, false));
            let ts = read.event().unwrap().ts;
            // The one whose time was filled in is the one that had none.
            let event = if ts > 1000 { sized(1, 5000) } else { sized(ts, read.event_json().len()) };
            assert_json(read, &Event { ts, ..event }.to_json());
        }
        let nested = logged[first..].iter().map(|read| (read.event().unwrap().ts, read.event_json().len()));
        assert_eq!(nested.collect::<Vec<_>>(), [(100, 6000), (101, 7000), (102, 160), (103, 8000)]);
        if count == 12 {
            let mut reader = stream.reader_after(12).unwrap();
            for (event, seq) in batch[8..].iter().zip(13..) {
                let read = take(&mut reader);
                assert_eq!(read.seq(), seq);
                assert_json(&read, &event.to_json());
            }
            let first = logged[..4].iter().map(|read| read.event_json().to_vec());
            assert!(first.eq(batch[..4].iter().map(Event::to_json)));
        }
        assert_eq!(stream.stats().published(), count as u64 + 4);
        // The waker holds the stream, and the reader its waker's place.
        drop(waker);
    }
}

// ---- Streams.

#[cfg(feature = "futures")]
mod envelopes {
    use std::pin::Pin;

    use futures_core::Stream;
    use lapwing::stream::{Envelopes, OwnedEnvelope};

    use super::*;

    fn poll(envelopes: &mut Envelopes, waker: &Waker) -> Poll<Option<ReadResult<OwnedEnvelope>>> {
        Pin::new(envelopes).poll_next(&mut Context::from_waker(waker))
    }

    fn seq(read: Poll<Option<ReadResult<OwnedEnvelope>>>) -> u64 {
        match read {
            Poll::Ready(Some(ReadResult::Envelope(envelope))) => envelope.seq(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_stream_gives_envelopes_and_losses_and_ends() {
        let stream = super::stream(2);
        let mut envelopes = stream.reader_from_oldest().named("stream").into_envelopes();
        let (count, waker) = Count::new();
        assert!(poll(&mut envelopes, &waker).is_pending());
        let event = sized(1, 5000);
        stream.publish(&event).unwrap();
        assert_eq!(count.get(), 1);
        let Poll::Ready(Some(ReadResult::Envelope(own))) = poll(&mut envelopes, &waker) else { panic!() };
        assert_eq!((own.seq(), own.event_json()), (1, &event.to_json()[..]));
        assert!(poll(&mut envelopes, &waker).is_pending());
        (2..=11).for_each(|_| assert!(stream.publish(&of("page")).is_ok()));
        let lost = poll(&mut envelopes, &waker);
        assert!(matches!(lost, Poll::Ready(Some(ReadResult::Dropped { from: 2, to: 3 }))), "{lost:?}");
        assert_eq!(seq(poll(&mut envelopes, &waker)), 4);
        let status = &stream.readers()[0];
        assert_eq!((&*status.name, status.position, status.delivered, status.dropped), ("stream", 4, 2, 2));
        // The reader goes on where the stream was, with its categories, and back.
        let mut reader = envelopes.into_reader();
        assert_eq!(take(&mut reader).seq(), 5);
        reader.set_categories(CategorySet::NONE);
        let mut envelopes = reader.into_envelopes();
        assert!(poll(&mut envelopes, &waker).is_pending());
        assert_eq!(stream.readers()[0].lag, 0);
        stream.close();
        assert!(matches!(poll(&mut envelopes, &waker), Poll::Ready(None)));
        assert!(matches!(poll(&mut envelopes, &waker), Poll::Ready(None)));
        drop(envelopes);
        assert_eq!(stream.readers(), []);
    }

    #[test]
    fn a_stream_ends_when_it_is_cancelled() {
        let stream = super::stream(2);
        let reader = stream.reader_from_oldest();
        let canceller = reader.canceller();
        let mut envelopes = reader.into_envelopes();
        let (count, waker) = Count::new();
        assert!(poll(&mut envelopes, &waker).is_pending());
        canceller.cancel();
        assert_eq!(count.get(), 1);
        stream.publish(&of("page")).unwrap();
        assert!(matches!(poll(&mut envelopes, &waker), Poll::Ready(None)));
        assert_eq!(take(&mut envelopes.into_reader()).seq(), 1);
    }
}
