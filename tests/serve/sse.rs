//! `GET /events`.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lapwing::stream::{Config, ReadResult};

use crate::http::{Connection, Events, get};
use crate::{Served, SetAtEnd, event, publish};

/// The frames of everything that the stream holds, with ids that end so.
fn frames(served: &Served, id_tail: &str) -> String {
    let mut reader = served.stream.reader_from_oldest();
    let mut frames = String::new();
    while let Ok(ReadResult::Envelope(mut envelope)) = reader.try_read() {
        let (seq, json) = (envelope.seq(), String::from_utf8_lossy(envelope.json()).into_owned());
        frames += &format!("id: {seq}{id_tail}\ndata: {json}\n\n");
    }
    frames
}

// ---- Framing.

#[test]
fn frames_are_the_references_byte_for_byte() {
    let served = Served::start();
    let literal =
        br#"{"ts":5,"type":"tick","category":"system","source":{"kind":"cdp"},"data":"\u00e9 \u2028 "}"#;
    served.stream.publish_json(literal).unwrap();
    served.stream.publish_json(event("console", "console_log").as_bytes()).unwrap();
    served
        .stream
        .publish_json(b"{\"type\":\"lines\",\n\"category\":\"page\",\r\n\"source\":{\"kind\":\"x\"}}")
        .unwrap();
    served
        .stream
        .publish_json(
            format!(
                r#"{{"ts":1,"type":"large","category":"screenshot","source":{{"kind":"cdp"}},"data":"{}"}}"#,
                "x".repeat(100_000)
            )
            .as_bytes(),
        )
        .unwrap();
    let expected = frames(&served, "") + "event: closed\ndata: {\"seq\":4}\n\n";
    served.stream.close();
    let mut events = Events::new(served.address, "?replay=all&ids=seq", "");
    let first = "id: 1\ndata: {\"seq\":1,\"event\":{\"ts\":5,\"type\":\"tick\",\"category\":\"system\",\"source\":{\"kind\":\"cdp\"},\"data\":\"\\u00e9 \\u2028 \"}}\n\n";
    let rest = events.rest();
    assert!(rest.starts_with(first), "{rest}");
    assert!(rest == expected, "{rest}\n{expected}");
}

#[test]
fn ids_have_the_epoch_unless_asked_for_without() {
    let served = Served::start();
    publish(&served.stream, 3);
    served.stream.close();
    let closed = "event: closed\ndata: {\"seq\":3}\n\n";
    let tail = format!("-{}", served.epoch());
    assert_eq!(tail.len(), 17);
    assert_eq!(Events::new(served.address, "?replay=all", "").rest(), frames(&served, &tail) + closed);
    assert_eq!(Events::new(served.address, "?replay=all&ids=seq", "").rest(), frames(&served, "") + closed);
}

#[test]
fn a_client_gets_what_comes_after_it_and_nothing_else() {
    let served = Served::start();
    publish(&served.stream, 3);
    let mut events = Events::new(served.address, "", "");
    for seq in 4..=40 {
        publish(&served.stream, 1);
        assert_eq!(events.frame().unwrap().number("seq"), seq);
    }
    served.stream.close();
    assert_eq!(events.text(), "event: closed\ndata: {\"seq\":40}\n\n");
    assert_eq!(events.frame(), None);
}

#[test]
fn the_first_event_after_a_silence_comes_too() {
    // The clients' task sleeps in the stream by then.
    let served = Served::with(Config::new().events(8), |server| server.heartbeat(Duration::from_millis(150)));
    let mut events = Events::new(served.address, "", "");
    for seq in 1..=5 {
        for _ in 0..2 {
            assert_eq!(events.text(), ":\n\n");
        }
        publish(&served.stream, 1);
        let frame = std::iter::from_fn(|| events.frame()).find(|frame| frame.text != ":\n\n").unwrap();
        assert_eq!(frame.number("seq"), seq);
    }
    // So does the end.
    served.stream.close();
    let frame = std::iter::from_fn(|| events.frame()).find(|frame| frame.text != ":\n\n").unwrap();
    assert_eq!(frame.event.as_deref(), Some("closed"));
}

#[test]
fn a_stream_whose_readers_spin_is_served_as_well() {
    let served = Served::with(Config::new().events(8).wait(lapwing::stream::Wait::Spin), |server| server);
    let mut events = Events::new(served.address, "", "");
    for seq in 1..=5 {
        publish(&served.stream, 1);
        assert_eq!(events.frame().unwrap().number("seq"), seq);
    }
    served.stream.close();
    assert!(events.seqs().is_empty());
}

#[test]
fn heartbeats_come_after_silence_only() {
    const SILENCE: Duration = Duration::from_millis(100);
    let served = Served::with(Config::new(), |server| server.heartbeat(SILENCE));
    let start = Instant::now();
    let mut events = Events::new(served.address, "?ids=seq", "");
    for beats in 1..=3 {
        assert_eq!(events.text(), ":\n\n");
        assert!(start.elapsed() >= SILENCE * beats, "too soon");
    }
    // Not when it would have been due without the events.
    let mut seq = 0;
    for _ in 0..3 {
        let start = Instant::now();
        let mut published = start;
        while start.elapsed() < SILENCE / 2 {
            published = Instant::now();
            publish(&served.stream, 1);
            seq += 1;
            let frame = std::iter::from_fn(|| events.frame()).find(|frame| frame.text != ":\n\n").unwrap();
            assert_eq!(frame.id.unwrap(), seq.to_string());
        }
        assert_eq!(events.text(), ":\n\n");
        assert!(published.elapsed() >= SILENCE, "too soon after an event");
    }
}

#[test]
fn times_that_no_clock_can_tell_do_no_harm() {
    let served = Served::with(Config::new(), |server| {
        server.heartbeat(Duration::MAX).header_timeout(Duration::MAX).body_timeout(Duration::MAX)
    });
    let mut events = Events::new(served.address, "", "");
    publish(&served.stream, 1);
    assert_eq!(events.frame().unwrap().number("seq"), 1);
}

#[test]
fn who_gets_nothing_sees_that_the_connection_stands() {
    let served = Served::with(Config::new(), |server| server.heartbeat(Duration::from_millis(50)));
    let mut nothing = Events::new(served.address, "?types=none-of-these", "");
    let mut all = Events::new(served.address, "", "");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // As fast as they are sent.
            while !is_over.load(Ordering::Acquire) {
                publish(&served.stream, 1);
                all.frame().unwrap();
            }
        });
        let _stop = SetAtEnd(&is_over);
        for _ in 0..3 {
            assert_eq!(nothing.text(), ":\n\n");
        }
    });
}

#[test]
fn the_heartbeat_is_that_of_the_contract_by_default() {
    // It cannot be waited for here.
    let server = lapwing::serve::Server::new(lapwing::stream::EventStream::new().unwrap().into());
    assert!(format!("{server:?}").contains("heartbeat: 15s"), "{server:?}");
}

// ---- Where a client starts.

#[test]
fn a_client_resumes_after_its_last_id() {
    let served = Served::start();
    publish(&served.stream, 10);
    served.stream.close();
    let epoch = served.epoch();
    let after = |seq: u64| (seq + 1..=10).collect::<Vec<_>>();
    for (query, headers, expected) in [
        ("", format!("last-event-id: 4-{epoch}\r\n"), after(4)),
        ("", format!("Last-Event-ID: 4-{}\r\n", epoch.to_uppercase()), after(4)),
        ("", "last-event-id: 4\r\n".into(), after(4)),
        ("", "last-event-id: 0\r\n".into(), after(0)),
        ("", format!("last-event-id: 10-{epoch}\r\n"), vec![]),
        // It wins over `replay`, and the header over the query.
        ("?replay=all", format!("last-event-id: 9-{epoch}\r\n"), after(9)),
        ("?last_event_id=6&replay=all", String::new(), after(6)),
        ("?last_event_id=2", "last-event-id: 8\r\n".into(), after(8)),
        ("?replay=all", String::new(), after(0)),
        ("", String::new(), vec![]),
    ] {
        assert_eq!(Events::new(served.address, query, &headers).seqs(), expected, "{query} {headers}");
    }
    let query = format!("?last_event_id=7-{epoch}");
    assert_eq!(Events::new(served.address, &query, "").seqs(), after(7));
}

#[test]
fn an_id_that_is_not_of_this_run_restarts_and_says_so() {
    let served = Served::with(Config::new().events(8), |server| server);
    publish(&served.stream, 20);
    served.stream.close();
    let epoch = served.epoch();
    let other = format!("{:016x}", served.stream.epoch() ^ 1);
    let max = u64::MAX;
    for asked in [
        format!("5-{other}"),
        format!("15-{other}"),
        format!("21-{epoch}"),
        "21".into(),
        format!("{max}"),
        format!("{max}-{epoch}"),
    ] {
        let mut events = Events::new(served.address, "", &format!("last-event-id: {asked}\r\n"));
        let restarted = format!(
            "event: restarted\nid: 12-{epoch}\ndata: {{\"epoch\":\"{epoch}\",\"asked\":\"{asked}\",\"oldest\":13}}\n\n"
        );
        assert_eq!(events.text(), restarted);
        assert_eq!(events.seqs(), (13..=20).collect::<Vec<_>>(), "{asked}");
    }
    let mut events = Events::new(served.address, "?ids=seq&last_event_id=21", "");
    let restarted = format!(
        "event: restarted\nid: 12\ndata: {{\"epoch\":\"{epoch}\",\"asked\":\"21\",\"oldest\":13}}\n\n"
    );
    assert_eq!(events.text(), restarted);
}

#[test]
fn a_stream_without_events_restarts_from_its_first() {
    let served = Served::start();
    let epoch = served.epoch();
    let mut events = Events::new(served.address, "", "last-event-id: 3\r\n");
    let restarted = format!(
        "event: restarted\nid: 0-{epoch}\ndata: {{\"epoch\":\"{epoch}\",\"asked\":\"3\",\"oldest\":1}}\n\n"
    );
    assert_eq!(events.text(), restarted);
    // The id that it was given brings it back to the same place.
    publish(&served.stream, 1);
    served.stream.close();
    assert_eq!(events.seqs(), [1]);
    assert_eq!(Events::new(served.address, "", &format!("last-event-id: 0-{epoch}\r\n")).seqs(), [1]);
}

#[test]
fn what_is_overwritten_is_told_at_the_start() {
    let served = Served::with(Config::new().events(8), |server| server);
    publish(&served.stream, 20);
    served.stream.close();
    let epoch = served.epoch();
    let mut events = Events::new(served.address, "", &format!("last-event-id: 5-{epoch}\r\n"));
    let dropped = format!("event: dropped\nid: 12-{epoch}\ndata: {{\"from\":6,\"to\":12,\"count\":7}}\n\n");
    assert_eq!(events.text(), dropped);
    assert_eq!(events.seqs(), (13..=20).collect::<Vec<_>>());
    // Who resumes after that frame misses nothing more.
    let mut events = Events::new(served.address, "", &format!("last-event-id: 12-{epoch}\r\n"));
    assert_eq!(events.seqs(), (13..=20).collect::<Vec<_>>());
}

#[test]
fn what_is_asked_for_wrongly_is_told_with_what_is_allowed() {
    let served = Served::start();
    let epoch = served.epoch();
    for (query, allowed) in [
        ("?replay=", "`all`"),
        ("?replay=some", "`all`"),
        ("?replay", "`all`"),
        ("?ids=", "`seq`"),
        ("?ids=epoch", "`seq`"),
        ("?category=", "one or more names"),
        ("?category=network,", "one or more names"),
        ("?category=network&category=", "one or more names"),
        ("?types=,a", "one or more names"),
        ("?types=", "one or more names"),
        ("?last_event_id=", "a number"),
        ("?last_event_id=-1", "a number"),
        ("?type=a", "`types`"),
        ("?replay=all&nonsense=1", "`types`"),
    ] {
        let response = get(served.address, &format!("/events{query}"), "");
        assert_eq!(response.status, 400, "{query}");
        let error = response.error();
        assert!(error.contains(allowed) && error.contains("allowed"), "{query}: {error}");
    }
    let max = u128::from(u64::MAX) + 1;
    for id in [
        "x",
        "-",
        "1-",
        "-1",
        "+1",
        "1 2",
        "1.5",
        "0x1",
        "１",
        "1-123",
        "1-xyzxyzxyzxyzxyzx",
        "1-+123456789abcdef",
        &format!("1-{epoch}0"),
        &format!("1-{epoch}-1"),
        &format!("{max}"),
        &"9".repeat(1000),
        "\u{e9}",
        "\" onload=",
    ] {
        let mut connection = Connection::to(served.address);
        connection.get("/events", &format!("last-event-id: {id}\r\n"));
        let response = connection.response();
        assert_eq!(response.status, 400, "{id}");
        assert!(response.error().contains("a number is allowed"), "{id}");
    }
    // None of them has become a reader.
    assert_eq!(served.stream.readers().len(), 0);
}

// ---- What a client chooses.

#[test]
fn categories_are_chosen_by_name() {
    let served = Served::start();
    for (at, category) in
        ["network", "console", "billing", "system", "shipping", "network"].iter().enumerate()
    {
        let event = event(category, &format!("t{at}"));
        served.stream.publish_json(event.as_bytes()).unwrap();
    }
    // As it may be spelled, too.
    let escaped = br#"{"ts":1,"category":"bill\u0069ng","type":"t6","source":{"kind":"x"}}"#;
    served.stream.publish_json(escaped).unwrap();
    served.stream.close();
    for (query, expected) in [
        ("?category=network", &[1, 6][..]),
        ("?category=network&category=console", &[1, 2, 6]),
        ("?category=network,console", &[1, 2, 6]),
        ("?category=network%2Cconsole", &[1, 2, 6]),
        ("?category=billing", &[3, 7]),
        ("?category=billing,shipping", &[3, 5, 7]),
        ("?category=shipping,system", &[4, 5]),
        ("?category=unheard-of", &[]),
        ("?category=network&types=t0,t6", &[1]),
    ] {
        assert_eq!(
            Events::new(served.address, &format!("{query}&replay=all"), "").seqs(),
            expected,
            "{query}"
        );
    }
}

#[test]
fn types_are_compared_as_what_they_mean() {
    let served = Served::start();
    let spelled = |json: &str| served.stream.publish_json(json.as_bytes()).unwrap().seq().unwrap();
    let plain = spelled(&event("page", "load"));
    let _longer = spelled(&event("page", "loaded"));
    let _in_data =
        spelled(r#"{"ts":1,"type":"x","category":"page","source":{"kind":"x"},"data":{"type":"load"}}"#);
    let escaped = spelled(r#"{"ts":1,"type":"l\u006fad","category":"page","source":{"kind":"x"}}"#);
    let turned =
        spelled(r#"{"data":{"type":"x"},"source":{"kind":"x"},"category":"page","type":"load","ts":-1}"#);
    let spaced = spelled(r#"{ "ts" : 1, "type" : "load", "category":"page","source":{"kind":"x"}}"#);
    let lone = spelled(r#"{"category":"page","type":"load","source":{"kind":"x"},"data":"\ud800"}"#);
    let untimed = spelled(r#"{"type":"load","category":"page","source":{"kind":"x"}}"#);
    let quoted = spelled(r#"{"ts":1,"type":"a\"b\\","category":"page","source":{"kind":"x"}}"#);
    let umlaut = spelled(r#"{"ts":1,"type":"grün","category":"page","source":{"kind":"x"}}"#);
    served.stream.close();
    for (query, expected) in [
        ("?types=load", &[plain, escaped, turned, spaced, lone, untimed][..]),
        ("?types=a%22b%5C", &[quoted]),
        ("?types=gr%C3%BCn", &[umlaut]),
        ("?types=gr%C3%BCn,a%22b%5C", &[quoted, umlaut]),
        ("?types=gr%C3%BCn&types=a%22b%5C", &[quoted, umlaut]),
        ("?types=loa", &[]),
        ("?types=LOAD", &[]),
    ] {
        assert_eq!(
            Events::new(served.address, &format!("{query}&replay=all"), "").seqs(),
            expected,
            "{query}"
        );
    }
}

#[test]
fn what_nobody_wants_holds_up_nobody() {
    // Ten thousand events of another type, which take several looks.
    let served = Served::with(Config::new().events(16_384).inline_bytes(256).large_bytes(0), |server| server);
    publish(&served.stream, 10_000);
    served.stream.publish_json(event("page", "load").as_bytes()).unwrap();
    let mut events = Events::new(served.address, "?replay=all&types=load", "");
    assert_eq!(events.frame().unwrap().number("seq"), 10_001);
}

// ---- Clients that are slow, that go, and that are many.

#[test]
fn a_slow_client_is_lapped_and_told_exactly() {
    const EVENTS: u64 = 60_000;
    let served = Served::with(Config::new().events(64), |server| server);
    let mut slow = Events::new(served.address, "", "");
    let event = format!(
        r#"{{"ts":1,"type":"x","category":"page","source":{{"kind":"cdp"}},"data":"{}"}}"#,
        "x".repeat(900)
    );
    // 60 MB, of which its socket takes a few while it does not read.
    for _ in 0..EVENTS {
        served.stream.publish_json(event.as_bytes()).unwrap();
    }
    served.stream.close();
    let (mut next, mut delivered, mut dropped) = (1, 0, 0);
    loop {
        let frame = slow.frame().unwrap();
        match frame.event.as_deref() {
            None => {
                assert_eq!(frame.number("seq"), next);
                (next, delivered) = (next + 1, delivered + 1);
            }
            Some("dropped") => {
                let (from, to) = (frame.number("from"), frame.number("to"));
                assert_eq!((from, frame.number("count")), (next, to - from + 1));
                assert_eq!(frame.id.unwrap(), format!("{to}-{}", served.epoch()));
                (next, dropped) = (to + 1, dropped + (to - from + 1));
            }
            Some("closed") => break assert_eq!(frame.number("seq"), EVENTS),
            Some(_) => panic!("{frame:?}"),
        }
    }
    assert_eq!(slow.frame(), None);
    assert_eq!(delivered + dropped, EVENTS);
    assert!(dropped > 0, "it was not slow");
}

#[test]
fn a_client_is_a_reader_with_its_address_until_it_goes() {
    let served = Served::start();
    let events = Connection::to(served.address);
    let peer = events.socket().local_addr().unwrap();
    let mut events = {
        let mut events = events;
        events.get("/events", "");
        assert_eq!(events.head().status, 200);
        events
    };
    let readers = served.stream.readers();
    assert_eq!(readers.len(), 1);
    assert_eq!(&*readers[0].name, format!("sse {peer}"));
    publish(&served.stream, 1);
    assert!(events.chunk().is_some());
    drop(events);
    // The server sees it go: no more than that is waited for.
    let deadline = Instant::now() + Duration::from_secs(30);
    while !served.stream.readers().is_empty() {
        assert!(Instant::now() < deadline, "its reader is still there");
        std::thread::yield_now();
    }
}

#[test]
fn many_clients_get_the_same() {
    let served = Served::with(Config::new().events(2048), |server| server);
    let mut clients: Vec<_> = (0..50).map(|_| Events::new(served.address, "", "")).collect();
    publish(&served.stream, 1000);
    served.stream.close();
    let all: Vec<_> = (1..=1000).collect();
    for client in &mut clients {
        assert_eq!(client.seqs(), all);
    }
    assert_eq!(served.cut_off(), 0);
}

// ---- The end.

#[test]
fn at_shutdown_a_client_gets_what_there_is() {
    let mut served = Served::start();
    let mut events = Events::new(served.address, "?ids=seq", "");
    publish(&served.stream, 5);
    served.stop();
    // The stream is open, so no frame says that it is closed; the client will be back.
    let ids: Vec<_> = std::iter::from_fn(|| events.frame()).map(|frame| frame.id.unwrap()).collect();
    assert_eq!(ids, ["1", "2", "3", "4", "5"]);
    assert_eq!(served.cut_off(), 0);
}

#[test]
fn a_client_that_does_not_take_its_rest_is_cut_off_and_counted() {
    let served = Served::with(Config::new().events(4096), |server| server.grace(Duration::from_millis(100)));
    let slow = Events::new(served.address, "?replay=all", "");
    let event = format!(
        r#"{{"ts":1,"type":"x","category":"page","source":{{"kind":"cdp"}},"data":"{}"}}"#,
        "x".repeat(900)
    );
    for _ in 0..60_000 {
        served.stream.publish_json(event.as_bytes()).unwrap();
    }
    served.stream.close();
    assert_eq!(served.cut_off(), 1);
    drop(slow);
}

// ---- Other people's clients.

#[test]
fn curl_reads_it() {
    let served = Served::start();
    publish(&served.stream, 5);
    served.stream.close();
    let url = format!("http://{}/events?replay=all&ids=seq", served.address);
    let Ok(output) = Command::new("curl").args(["-sSN", "--max-time", "30", &url]).output() else {
        return eprintln!("not tested: there is no curl");
    };
    assert!(output.status.success(), "{output:?}");
    let expected = frames(&served, "") + "event: closed\ndata: {\"seq\":5}\n\n";
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}
