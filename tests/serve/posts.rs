//! `POST /events`.

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use lapwing::event::Category;
use lapwing::stream::{CategorySet, Config, ReadResult, Reader};
use serde_json::{Value, json};

use crate::http::{Connection, get, post};
use crate::{Served, event};

const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";

/// The next envelope's bytes.
fn next(reader: &mut Reader) -> String {
    match reader.try_read().unwrap() {
        ReadResult::Envelope(mut envelope) => String::from_utf8(envelope.json().to_vec()).unwrap(),
        dropped => panic!("{dropped:?}"),
    }
}

fn is_empty(reader: &mut Reader) -> bool {
    reader.try_read().is_err()
}

// ---- One event.

#[test]
fn an_event_is_published_and_its_envelope_returned() {
    let served = Served::start();
    let mut reader = served.stream.reader_from_oldest();
    let mut connection = Connection::to(served.address);
    let large = "x".repeat(200_000);
    for json in [
        event("console", "console_log"),
        r#"{"type":"no_ts","category":"page","source":{"kind":"x"}}"#.into(),
        r#"{"ts":0,"type":"ts_0","category":"page","source":{"kind":"x"}}"#.into(),
        "\n{\"type\":\"lines\",\r\n\t\"category\":\"page\",\n\"source\":{\"kind\":\"x\"}}\n".into(),
        r#"  {"ts":1,"type":"grün","category":"page","source":{"kind":"x"},"data":"\ud800"} "#.into(),
        format!(
            r#"{{"ts":1,"type":"large","category":"screenshot","source":{{"kind":"x"}},"data":"{large}"}}"#
        ),
    ] {
        let response = connection.post(JSON, json.as_bytes());
        assert_eq!(response.status, 200, "{response:?}");
        assert_eq!(response.header("cache-control"), Some("no-store"));
        assert_eq!(response.text(), next(&mut reader), "what every reader gets");
        assert!(!response.text().contains(['\n', '\r']) && !response.text().contains("\"ts\":0,"));
    }
    assert!(is_empty(&mut reader));
    let parameters = post(served.address, "Application/JSON; charset=utf-8", event("page", "x"));
    assert_eq!((parameters.status, parameters.json()["seq"].as_u64()), (200, Some(7)));
}

#[test]
fn an_event_that_is_truncated_is_returned_as_it_is_then() {
    let config = Config::new().events(8).inline_bytes(512).max_envelope_bytes(2000);
    let served = Served::with(config, |server| server);
    let mut reader = served.stream.reader_from_oldest();
    let long = "y".repeat(5000);
    let event = format!(r#"{{"ts":1,"type":"x","category":"page","source":{{"kind":"x"}},"data":"{long}"}}"#);
    let response = post(served.address, JSON, event);
    assert_eq!((response.status, &response.json()["event"]["truncated"]), (200, &Value::Bool(true)));
    assert_eq!(response.text(), next(&mut reader));
    assert_eq!(served.stream.readers().len(), 1, "its own reader is gone");
}

#[test]
fn what_is_not_captured_has_no_content() {
    let config = Config::new().captured(CategorySet::ALL.without(&Category::Network));
    let served = Served::with(config, |server| server);
    let response = post(served.address, JSON, event("network", "request"));
    assert_eq!((response.status, &response.body[..]), (204, &b""[..]));
    assert_eq!(post(served.address, JSON, event("console", "x")).json()["seq"], 1);
}

#[test]
fn what_is_no_event_is_told_with_its_place() {
    let served = Served::start();
    for (json, place, what) in [
        (r#"{"ts":1,"category":"page","source":{"kind":"x"}}"#, "line 1, column 48", "`type`"),
        (r#"{"ts":1,"type":"x","source":{"kind":"x"}}"#, "line 1, column 41", "`category`"),
        (r#"{"type":"x","category":"page"}"#, "line 1, column 30", "`source`"),
        ("", "line 1, column 1", "expected"),
        ("[]", "line 1, column 1", "expected"),
        ("{\n  \"type\": \"grün\", oops}", "line 2, column 19", "expected"),
        ("{\n\n\"ts\":1.5}", "line 3, column 6", "`ts`"),
    ] {
        let response = post(served.address, JSON, json);
        let error = response.error();
        assert_eq!(response.status, 400, "{json}: {error}");
        assert!(error.starts_with(&format!("{place}: ")) && error.contains(what), "{json}: {error}");
    }
    assert_eq!(served.stream.seq(), 0);
}

#[test]
fn other_types_of_content_are_refused() {
    // Among them all that a page of another origin can send without asking first.
    let served = Served::start();
    for content_type in
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "application/jsonx"]
    {
        let response = post(served.address, content_type, event("page", "x"));
        assert_eq!(response.status, 415, "{content_type}");
        let error = response.error();
        assert!(error.contains(JSON) && error.contains(LINES), "{error}");
    }
    let mut connection = Connection::to(served.address);
    connection.send("POST /events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{}");
    assert_eq!(connection.response().status, 415);
    assert_eq!(served.stream.seq(), 0);
}

fn chunked(content_type: &str, chunks: &[&str]) -> String {
    let mut request = format!(
        "POST /events HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    for chunk in chunks {
        request += &format!("{:x}\r\n{chunk}\r\n", chunk.len());
    }
    request + "0\r\n\r\n"
}

#[test]
fn a_body_may_come_in_chunks() {
    let served = Served::start();
    let event = event("page", "x");
    let mut connection = Connection::to(served.address);
    let (start, end) = event.split_at(20);
    connection.send(chunked(JSON, &[start, end]));
    assert_eq!(connection.response().json()["seq"], 1);
    // The next request on the same connection finds its beginning.
    connection.send(chunked(JSON, &event.split("").filter(|part| !part.is_empty()).collect::<Vec<_>>()));
    assert_eq!(connection.response().json()["seq"], 2);
}

#[test]
fn an_event_has_as_many_bytes_as_are_allowed_and_no_more() {
    let event = event("page", "x");
    let len = event.len();
    let served = Served::with(Config::new(), |server| server.max_event_bytes(len));
    assert_eq!(post(served.address, JSON, &event).status, 200);
    let mut chunks = Connection::to(served.address);
    chunks.send(chunked(JSON, &[&event]));
    assert_eq!(chunks.response().status, 200);

    let longer = event.clone() + " ";
    let response = post(served.address, JSON, &longer);
    assert_eq!(
        (response.status, response.error()),
        (413, format!("the body is too large: up to {len} bytes are allowed"))
    );
    let mut chunks = Connection::to(served.address);
    chunks.send(chunked(JSON, &[&event, " "]));
    assert_eq!(chunks.response().status, 413);
    // Said to be too large, it is not waited for.
    let mut told = Connection::to(served.address);
    told.send(format!(
        "POST /events HTTP/1.1\r\nhost: localhost\r\ncontent-type: {JSON}\r\ncontent-length: {}\r\n\r\n",
        1u64 << 60
    ));
    assert_eq!(told.response().status, 413);
    assert_eq!(served.stream.seq(), 2);
}

#[test]
fn the_limits_are_those_of_the_contract_by_default() {
    let served = Served::start();
    for (content_type, max) in [(JSON, 2 << 20), (LINES, 16 << 20)] {
        for (len, status) in [(max, 0), (max + 1, 413)] {
            let mut connection = Connection::to(served.address);
            connection.send(format!(
                "POST /events HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\ncontent-length: {len}\r\nexpect: 100-continue\r\n\r\n"
            ));
            let head = connection.head();
            assert_eq!(head.status, if status == 0 { 100 } else { status }, "{content_type} {len}");
        }
    }
}

#[test]
fn an_event_that_is_too_large_without_its_data_is_too_large() {
    let config = Config::new().events(8).inline_bytes(256).max_envelope_bytes(400);
    let served = Served::with(config, |server| server);
    let response = post(served.address, JSON, event("page", &"t".repeat(1000)));
    assert_eq!(response.status, 413);
    assert!(response.error().contains("at most"), "{response:?}");
    assert_eq!(served.stream.seq(), 0);
}

#[test]
fn a_body_that_is_broken_publishes_nothing() {
    let served = Served::start();
    let mut connection = Connection::to(served.address);
    let head = format!(
        "POST /events HTTP/1.1\r\nhost: localhost\r\ncontent-type: {JSON}\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    connection.send(head + "5\r\n{\"ts\"\r\nnonsense\r\n");
    let response = connection.response();
    assert_eq!(response.status, 400);
    assert!(response.error().contains("encoded"), "{response:?}");

    let mut half = Connection::to(served.address);
    half.send(format!(
        "POST /events HTTP/1.1\r\nhost: localhost\r\ncontent-type: {JSON}\r\ncontent-length: 100\r\n\r\n{{"
    ));
    half.socket().shutdown(std::net::Shutdown::Write).unwrap();
    half.rest();
    assert_eq!(served.stream.seq(), 0);
}

#[test]
fn a_body_that_takes_too_long_is_given_up() {
    let served = Served::with(Config::new(), |server| server.body_timeout(Duration::from_millis(50)));
    for content_type in [JSON, LINES] {
        let mut connection = Connection::to(served.address);
        connection.send(format!(
            "POST /events HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\ncontent-length: 100\r\n\r\n{{"
        ));
        let response = connection.response();
        assert_eq!(
            (response.status, response.json()["error"].as_str().unwrap()),
            (408, "the body took too long")
        );
        assert_eq!(connection.rest(), b"", "the connection is of no use any more");
    }
}

#[test]
fn a_closed_stream_is_not_available() {
    let served = Served::start();
    served.stream.close();
    for content_type in [JSON, LINES] {
        let response = post(served.address, content_type, event("page", "x"));
        assert_eq!((response.status, response.header("retry-after")), (503, Some("1")));
        assert!(response.error().contains("closed"), "{response:?}");
    }
}

// ---- Batches.

#[test]
fn a_batch_is_published_line_by_line() {
    let config = Config::new().captured(CategorySet::ALL.without(&Category::Network));
    let served = Served::with(config, |server| server);
    let mut reader = served.stream.reader_from_oldest();
    let lines = [
        event("page", "first"),
        String::new(),
        event("network", "x"),
        r#"{"ts":1,"category":"page","source":{"kind":"x"}}"#.into(),
        event("page", "second") + "\r",
        "  ".into(),
        "nonsense".into(),
        event("page", "last"), // without a line break
    ];
    let response = post(served.address, LINES, lines.join("\n"));
    assert_eq!(response.status, 200);
    let report = response.json();
    assert_eq!(report["rejected"][0]["line"], 4);
    assert_eq!(report["rejected"][1]["line"], 7);
    let error = |at: usize| report["rejected"][at]["error"].as_str().unwrap();
    assert!(error(0).starts_with("column 48: ") && error(0).contains("`type`"), "{report}");
    assert!(error(1).starts_with("column 1: ") && !error(1).contains("othing was published"), "{report}");
    let counts = json!({"lines": 6, "published": 3, "not_captured": 1, "rejected": report["rejected"]});
    assert_eq!(report, counts);
    for r#type in ["first", "second", "last"] {
        assert!(next(&mut reader).contains(r#type));
    }
    assert!(is_empty(&mut reader));
}

#[test]
fn a_batch_may_come_in_any_chunks() {
    let batch =
        [event("page", "a"), event("page", "grün"), String::new(), event("page", "c")].join("\n") + "\n";
    for size in [1, 2, 7, 64, 100, 1000] {
        let served = Served::start();
        let mut request = format!(
            "POST /events HTTP/1.1\r\nhost: localhost\r\ncontent-type: {LINES}\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        .into_bytes();
        for chunk in batch.as_bytes().chunks(size) {
            request.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            request.extend(chunk);
            request.extend(b"\r\n");
        }
        let mut connection = Connection::to(served.address);
        connection.send(request);
        connection.send("0\r\n\r\n");
        let report = connection.response().json();
        assert_eq!(report, json!({"lines": 3, "published": 3, "not_captured": 0, "rejected": []}), "{size}");
        let mut reader = served.stream.reader_from_oldest();
        for r#type in ["a", "grün", "c"] {
            assert!(next(&mut reader).contains(&format!("\"type\":\"{type}\"")));
        }
    }
}

#[test]
fn a_batch_of_which_nothing_is_taken_is_wrong() {
    let served = Served::start();
    let response = post(served.address, LINES, "nonsense\n".repeat(250));
    let report = response.json();
    assert_eq!((response.status, &report["lines"], &report["published"]), (400, &json!(250), &json!(0)));
    let rejected = report["rejected"].as_array().unwrap();
    assert_eq!(rejected.len(), 100, "the first hundred");
    assert_eq!((&rejected[0]["line"], &rejected[99]["line"]), (&json!(1), &json!(100)));
    // One that has no lines asks for nothing.
    for empty in ["", "\n\n"] {
        let response = post(served.address, LINES, empty);
        assert_eq!((response.status, &response.json()["lines"]), (200, &json!(0)));
    }
    // One good line among them makes it right.
    let response = post(served.address, LINES, "nonsense\n".repeat(3) + &event("page", "x"));
    assert_eq!((response.status, &response.json()["published"]), (200, &json!(1)));
}

#[test]
fn a_line_that_is_too_large_is_passed_over() {
    let event = event("page", "x");
    let len = event.len();
    let served = Served::with(Config::new(), |server| server.max_event_bytes(len));
    let long = "y".repeat(100_000);
    let lines = [&event[..], &format!("{event} "), &long, &event, &long];
    let report = post(served.address, LINES, lines.join("\n")).json();
    assert_eq!((&report["lines"], &report["published"]), (&json!(5), &json!(2)));
    let rejected: Vec<_> =
        report["rejected"].as_array().unwrap().iter().map(|line| line["line"].as_u64().unwrap()).collect();
    assert_eq!(rejected, [2, 3, 5]);
    let error = report["rejected"][1]["error"].as_str().unwrap();
    assert_eq!(error, format!("the line is too large: up to {len} bytes are allowed"));
}

#[test]
fn a_batch_that_is_too_large_is_told_what_was_published() {
    let line = event("page", "x") + "\n";
    let max = line.len() as u64 * 3;
    let served = Served::with(Config::new(), |server| server.max_batch_bytes(max));
    assert_eq!(post(served.address, LINES, line.repeat(3)).json()["published"], 3);
    // Where it is said before, nothing is published.
    let response = post(served.address, LINES, line.repeat(4));
    assert_eq!((response.status, &response.json()["published"]), (413, &json!(0)));
    assert_eq!(served.stream.seq(), 3);
    let mut connection = Connection::to(served.address);
    connection.send(chunked(LINES, &[&line, &line, &line, &line]));
    let response = connection.response();
    let published = response.json()["published"].as_u64().unwrap();
    assert_eq!((response.status, published), (413, served.stream.seq() - 3));
    assert!(response.json()["error"].as_str().unwrap().contains(&max.to_string()), "{response:?}");
}

#[test]
fn a_batch_is_cut_short_where_the_stream_is_closed() {
    let served = Served::start();
    let mut connection = Connection::to(served.address);
    let line = event("page", "x") + "\n";
    connection.send(format!(
        "POST /events HTTP/1.1\r\nhost: localhost\r\ncontent-type: {LINES}\r\ncontent-length: {}\r\n\r\n",
        2 * line.len()
    ));
    connection.send(&line);
    assert!(next_waiting(&served).contains("\"type\":\"x\""), "it is not held back until the batch is there");
    served.stream.close();
    connection.send(&line);
    let response = connection.response();
    assert_eq!((response.status, &response.json()["published"]), (503, &json!(1)));
    assert!(response.json()["error"].as_str().unwrap().contains("closed"));
}

fn next_waiting(served: &Served) -> String {
    let mut reader = served.stream.reader_from_oldest();
    let read = reader.read_timeout(Duration::from_secs(30)).unwrap();
    String::from_utf8_lossy(read.envelope().unwrap().json()).into_owned()
}

// ---- Other people's clients.

#[test]
fn curl_publishes() {
    let served = Served::start();
    let url = format!("http://{}/events", served.address);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    // More than a mebibyte: it asks whether it may send it.
    let large = format!(
        r#"{{"ts":1,"type":"x","category":"page","source":{{"kind":"x"}},"data":"{}"}}"#,
        "x".repeat(3 << 20)
    );
    for (body, expected) in [(event("page", "x"), "200"), (large, "413")] {
        file.as_file_mut().set_len(0).unwrap();
        std::io::Seek::rewind(file.as_file_mut()).unwrap();
        file.write_all(body.as_bytes()).unwrap();
        let data = format!("@{}", file.path().display());
        let args = [
            "-sS",
            "--max-time",
            "30",
            "-o",
            "-",
            "-w",
            "\n%{http_code}",
            "-H",
            "content-type: application/json",
            "--data-binary",
        ];
        let Ok(output) = Command::new("curl").args(args).args([&data, &url]).output() else {
            return eprintln!("not tested: there is no curl");
        };
        let out = String::from_utf8(output.stdout).unwrap();
        let (_, status) = out.rsplit_once('\n').unwrap();
        assert_eq!(status, expected, "{out}");
    }
    assert_eq!(get(served.address, "/stats", "").json()["published"], 1);
}
