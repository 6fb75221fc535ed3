//! Statistics, health, the page, and who is let in.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lapwing::serve::{ServeError, Server, Token, TokenError};
use lapwing::storage::{Batch, Storage, StorageError, StorageWriter};
use lapwing::stream::{Config, EventStream};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::http::{Connection, Events, get};
use crate::{Served, event, publish};

// ---- Statistics.

/// Takes two batches, and fails then.
struct Failing(u32);

impl Storage for Failing {
    fn append(&mut self, _: &Batch) -> Result<(), StorageError> {
        self.0 += 1;
        if self.0 > 2 { Err(StorageError::Fatal("the \"disk\"\nis full".into())) } else { Ok(()) }
    }

    fn limits(&self) -> lapwing::storage::Limits {
        lapwing::storage::Limits { envelopes: 1, bytes: 1 }
    }
}

/// A server with a sink that has failed, and a reader of which little is right but its name.
fn told() -> (Served, lapwing::stream::Reader) {
    let mut sink = None;
    let config = Config::new().events(8).large_bytes(0).inline_bytes(256);
    let served = Served::with(config, |server| {
        // Its stream is not the server's: a sink may be of any.
        let stream = EventStream::new().unwrap();
        publish(&stream, 5);
        let mut writer = StorageWriter::new(&stream, Failing(0));
        sink = Some(writer.status());
        assert!(writer.run().is_err());
        server.sink("disk", sink.clone().unwrap())
    });
    let mut odd = served.stream.reader_after(0).unwrap().named("a \"b\" \\ c\nd");
    for category in ["console", "console", "weather", "network"] {
        served.stream.publish_json(event(category, "x").as_bytes()).unwrap();
    }
    publish(&served.stream, 10);
    let long = format!(
        r#"{{"ts":1,"type":"x","category":"page","source":{{"kind":"x"}},"data":"{}"}}"#,
        "x".repeat(1000)
    );
    served.stream.publish_json(long.as_bytes()).unwrap();
    assert!(served.stream.publish_json(b"{}").is_err());
    assert_eq!(odd.try_read().unwrap().dropped(), 7);
    odd.try_read().unwrap().envelope().unwrap();
    (served, odd)
}

#[test]
fn stats_are_those_of_the_stream_its_readers_and_its_sinks() {
    let (served, _reader) = told();
    let _client = Events::new(served.address, "", "");
    let response = get(served.address, "/stats", "");
    assert_eq!((response.status, response.header("cache-control")), (200, Some("no-store")));
    let mut stats = response.json();
    let uptime = stats["uptime_seconds"].take().as_f64().unwrap();
    assert!(uptime > 0.0 && uptime < 600.0);
    let mut readers = stats["readers"].take();
    let client = readers.as_array_mut().unwrap().pop().unwrap();
    assert!(client["name"].as_str().unwrap().starts_with("sse 127.0.0.1:"), "{client}");
    assert_eq!(
        readers,
        json!([{"name": "a \"b\" \\ c\nd", "next_seq": 9, "lag": 7, "delivered": 1, "dropped": 7, "shortened": 0}])
    );
    let stream = &served.stream;
    let expected = json!({
        "epoch": served.epoch(), "seq": 15, "readable": 15, "oldest": 8, "capacity": 8, "memory": stream.memory(),
        "published": 15,
        "published_by_category": {"console": 12, "network": 1, "page": 1, "interaction": 0, "api": 0, "system": 0, "control": 0,
            "connection": 0, "screenshot": 0, "captcha": 0, "monitor": 0, "platform": 0, "other": 1},
        "bytes": stream.stats().bytes(), "truncated": 1, "largest": stream.stats().largest(), "refused": 1, "overrun": 0,
        "abandoned": 0, "uptime_seconds": null, "clients": 1, "readers": null,
        "sinks": [{"name": "disk", "appended": 2, "durable": 0, "lag": 3, "dropped": 0, "errors": 1, "retries": 0,
            "last_error": "the storage failed for good: the \"disk\"\nis full"}],
    });
    assert_eq!(stats, expected);
}

#[test]
fn metrics_are_open_metrics_with_the_same_numbers() {
    let (served, _reader) = told();
    let _same =
        (served.stream.reader_from_now().named("same"), served.stream.reader_from_now().named("same"));
    let stats = get(served.address, "/stats", "").json();
    let response = get(served.address, "/metrics", "");
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!((response.status, response.header("content-type")), (200, Some(content_type)));
    let metrics = parsed(response.text());
    let value = |name: &str| {
        *metrics
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
            .unwrap_or_else(|| panic!("no {name} in {metrics:#?}"))
    };
    for (name, field) in [
        ("lapwing_event_bytes_total", "bytes"),
        ("lapwing_events_truncated_total", "truncated"),
        ("lapwing_events_refused_total", "refused"),
        ("lapwing_events_overrun_total", "overrun"),
        ("lapwing_events_abandoned_total", "abandoned"),
        ("lapwing_largest_event_bytes", "largest"),
        ("lapwing_seq", "seq"),
        ("lapwing_readable_seq", "readable"),
        ("lapwing_oldest_seq", "oldest"),
        ("lapwing_capacity_events", "capacity"),
        ("lapwing_memory_bytes", "memory"),
        ("lapwing_clients", "clients"),
    ] {
        assert_eq!(Some(value(name)), stats[field].as_f64(), "{name}");
    }
    for (category, count) in stats["published_by_category"].as_object().unwrap() {
        assert_eq!(
            Some(value(&format!("lapwing_events_published_total{{category=\"{category}\"}}"))),
            count.as_f64()
        );
    }
    for field in ["next_seq", "lag"] {
        assert_eq!(
            Some(value(&format!("lapwing_reader_{field}{{reader=\"same\"}}"))),
            stats["readers"][1][field].as_f64()
        );
        assert_eq!(
            Some(value(&format!("lapwing_reader_{field}{{reader=\"same #2\"}}"))),
            stats["readers"][2][field].as_f64()
        );
    }
    let odd = r#"{reader="a \"b\" \\ c\nd"}"#;
    for (name, expected) in
        [("delivered_total", 1.0), ("dropped_total", 7.0), ("shortened_total", 0.0), ("lag", 7.0)]
    {
        assert_eq!(value(&format!("lapwing_reader_{name}{odd}")), expected, "{name}");
    }
    for (name, expected) in [
        ("appended_seq", 2.0),
        ("durable_seq", 0.0),
        ("lag", 3.0),
        ("dropped", 0.0),
        ("errors_total", 1.0),
        ("retries_total", 0.0),
    ] {
        assert_eq!(value(&format!("lapwing_sink_{name}{{sink=\"disk\"}}")), expected, "{name}");
    }
    assert_eq!(value(&format!("lapwing_epoch_info{{epoch=\"{}\"}}", served.epoch())), 1.0);
    assert!(value("lapwing_uptime_seconds") > 0.0);
}

/// The samples, after a check of the rules: each family is described once, before its samples, which stay together, have the suffix of
/// their kind and are not there twice; and the text has its end.
fn parsed(text: &str) -> Vec<(String, f64)> {
    let text = text.strip_suffix("# EOF\n").expect("the end");
    let mut families: Vec<(&str, &str)> = Vec::new();
    let mut samples: Vec<(String, f64)> = Vec::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let (keyword, rest) = comment.split_once(' ').unwrap();
            let (name, rest) = rest.split_once(' ').unwrap();
            match keyword {
                "TYPE" => {
                    assert!(families.iter().all(|(family, _)| *family != name), "{line}");
                    assert!(["counter", "gauge", "info"].contains(&rest), "{line}");
                    families.push((name, rest));
                }
                "UNIT" => assert!(
                    name.ends_with(&format!("_{rest}")) && families.last().unwrap().0 == name,
                    "{line}"
                ),
                "HELP" => assert_eq!(families.last().unwrap().0, name),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (key, value) = line.rsplit_once(' ').unwrap();
        let name = key.split('{').next().unwrap();
        let &(family, kind) = families.last().unwrap();
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        assert_eq!(name, format!("{family}{suffix}"), "{line}");
        assert!(samples.iter().all(|(other, _)| other != key), "twice: {line}");
        samples.push((key.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}"))));
    }
    samples
}

#[test]
fn health_is_that_of_the_stream() {
    let served = Served::start();
    let response = get(served.address, "/healthz", "");
    assert_eq!((response.status, response.text()), (200, "ok\n"));
    served.stream.close();
    assert_eq!(get(served.address, "/healthz", "").status, 503);
}

#[test]
fn the_page_is_allowed_nothing_but_itself() {
    let response = get(Served::start().address, "/", "");
    assert_eq!((response.status, response.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert_eq!(response.text(), include_str!("../../src/serve/page.html"));
    let policy = response.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; ") && policy.contains("connect-src 'self'"), "{policy}");
    assert!(!policy.contains("http") && !policy.contains('*'), "{policy}");
}

// ---- Who is let in.

const TOKEN: &str = "s3cr3t-0f-the-house";
const GUARDED: [&str; 3] = ["/events", "/stats", "/metrics"];

#[test]
fn with_a_token_only_who_has_it_is_let_in() {
    let served = Served::with(Config::new(), |server| server.token(TOKEN.parse().unwrap()));
    let address = served.address;
    for path in GUARDED {
        for authorization in [
            String::new(),
            format!("authorization: {TOKEN}\r\n"),
            format!("authorization: Basic {TOKEN}\r\n"),
            "authorization: Bearer\r\n".into(),
            "authorization: Bearer \r\n".into(),
            format!("authorization: Bearer {}\r\n", &TOKEN[1..]),
            format!("authorization: Bearer {}\r\n", &TOKEN[..TOKEN.len() - 1]),
            format!("authorization: Bearer {TOKEN}x\r\n"),
            format!("authorization: Bearer {}\r\n", TOKEN.to_uppercase()),
            "authorization: Bearer \u{e9}\r\n".into(),
        ] {
            let response = get(address, path, &authorization);
            assert_eq!(
                (response.status, response.header("www-authenticate")),
                (401, Some("Bearer")),
                "{path} {authorization}"
            );
            assert!(!format!("{response:?}").contains("s3cr3t"), "{response:?}");
            response.error();
        }
        for scheme in ["Bearer", "bearer"] {
            let mut connection = Connection::to(address);
            connection.get(path, &format!("authorization: {scheme} {TOKEN}\r\n"));
            assert_eq!(connection.head().status, 200, "{path}");
        }
        // A token does not travel in addresses, which are logged.
        assert_eq!(get(address, &format!("{path}?token={TOKEN}"), "").status, 401);
    }
    let mut connection = Connection::to(address);
    let event = event("page", "x");
    assert_eq!(connection.post("application/json", event.as_bytes()).status, 401);
    assert_eq!(served.stream.seq(), 0);
    for open in ["/", "/healthz"] {
        assert_eq!(get(address, open, "").status, 200);
    }
    // With a token, a name is no reason to refuse.
    let mut named = Connection::to(address);
    named.send(format!(
        "GET /stats HTTP/1.1\r\nhost: telemetry.example\r\nauthorization: Bearer {TOKEN}\r\n\r\n"
    ));
    assert_eq!(named.response().status, 200);
}

#[test]
fn a_token_is_not_shown() {
    let server = Server::new(EventStream::new().unwrap().into()).token(TOKEN.parse().unwrap());
    let shown = format!("{server:?} {:?}", TOKEN.parse::<Token>());
    assert!(!shown.contains("s3cr3t") && shown.contains("Token(..)"), "{shown}");
    assert_eq!("".parse::<Token>().unwrap_err(), TokenError::Empty);
    let error = "s3cr3t\n".parse::<Token>().unwrap_err();
    assert_eq!(error, TokenError::Character { at: 6 });
    assert!(!format!("{error} {error:?}").contains("s3cr3t"));
}

#[test]
fn other_machines_are_served_with_a_token_only() {
    let runtime = crate::runtime();
    let stream = Arc::new(EventStream::new().unwrap());
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))).unwrap();
    let address = listener.local_addr().unwrap();
    let refused = runtime.block_on(Server::new(Arc::clone(&stream)).serve(listener, std::future::pending()));
    let error = refused.unwrap_err();
    assert!(matches!(error, ServeError::NoToken { address: given } if given == address));
    let text = error.to_string();
    assert!(text.contains(&address.to_string()) && text.contains("127.0.0.0/8"), "{text}");
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))).unwrap();
    let server = Server::new(stream).token(TOKEN.parse().unwrap());
    assert_eq!(runtime.block_on(server.serve(listener, std::future::ready(()))).unwrap(), 0);
}

#[test]
fn without_a_token_no_name_leads_here() {
    let served = Served::start();
    let status = |host: &str| {
        let mut connection = Connection::to(served.address);
        connection.send(format!("GET /stats HTTP/1.1\r\nhost: {host}\r\n\r\n"));
        let response = connection.response();
        assert!(response.status == 200 || !response.error().contains(host), "{response:?}");
        response.status
    };
    for host in [
        "localhost",
        "LOCALHOST:80",
        "app.localhost:7070",
        "127.0.0.1",
        "127.0.0.1:7070",
        "[::1]:7070",
        "10.0.0.7",
    ] {
        assert_eq!(status(host), 200, "{host}");
    }
    for host in [
        "evil.example",
        "evil.example:7070",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "notlocalhost",
    ] {
        assert_eq!(status(host), 403, "{host}");
    }
    let mut absolute = Connection::to(served.address);
    absolute.send("GET http://evil.example/stats HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert_eq!(absolute.response().status, 403);
}

#[test]
fn no_error_tells_of_the_machine() {
    let served = Served::start();
    let here = served.address.to_string();
    for (request, status) in [
        ("GET /events?replay=x HTTP/1.1\r\nhost: localhost\r\n\r\n", 400),
        ("GET /../etc/passwd HTTP/1.1\r\nhost: localhost\r\n\r\n", 404),
        ("DELETE /events HTTP/1.1\r\nhost: localhost\r\n\r\n", 405),
        (
            "POST /events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
            400,
        ),
        ("nonsense\r\n\r\n", 400),
    ] {
        let mut connection = Connection::to(served.address);
        connection.send(request);
        let response = connection.response();
        assert_eq!(response.status, status, "{request}");
        let shown = format!("{response:?}");
        for secret in [&here, env!("CARGO_MANIFEST_DIR"), "src/", "passwd", "localhost"] {
            assert!(!shown.contains(secret), "{secret} in {shown}");
        }
    }
}

// ---- As a part of another server.

#[test]
fn the_router_is_mounted_into_others() {
    let stream = Arc::new(EventStream::new().unwrap());
    let mounted = Server::new(Arc::clone(&stream)).token(TOKEN.parse().unwrap()).router();
    let app =
        axum::Router::new().nest("/telemetry", mounted).route("/", axum::routing::get(|| async { "mine" }));
    let runtime = crate::runtime();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let service = app.into_make_service_with_connect_info::<std::net::SocketAddr>();
    let served = runtime.spawn(serve_one(listener, service, stopped));
    assert_eq!(get(address, "/telemetry/stats", "").status, 401);
    let authorization = format!("authorization: Bearer {TOKEN}\r\n");
    assert_eq!(get(address, "/telemetry/stats", &authorization).json()["seq"], Value::from(0));
    assert_eq!(get(address, "/", "").text(), "mine");
    assert_eq!(get(address, "/telemetry/healthz", "").status, 200);
    let mut connection = Connection::to(address);
    connection.get("/telemetry/events", &authorization);
    assert_eq!(connection.head().status, 200);
    let peer = connection.socket().local_addr().unwrap();
    assert_eq!(&*stream.readers()[0].name, format!("sse {peer}"));
    publish(&stream, 1);
    assert!(connection.chunk().is_some());
    stream.close();
    let rest: Vec<u8> = std::iter::from_fn(|| connection.chunk()).flatten().collect();
    assert_eq!(String::from_utf8(rest).unwrap(), "event: closed\ndata: {\"seq\":1}\n\n");
    drop((connection, stop));
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), served).await }).unwrap().unwrap();
}

/// A server as small as it can be.
async fn serve_one(
    listener: TcpListener,
    service: axum::extract::connect_info::IntoMakeServiceWithConnectInfo<axum::Router, std::net::SocketAddr>,
    stopped: tokio::sync::oneshot::Receiver<()>,
) {
    let _ = axum::serve(listener, service).with_graceful_shutdown(async { _ = stopped.await }).await;
}

#[test]
fn when_the_last_client_goes_nobody_waits_in_the_stream() {
    let served = Served::start();
    let client = Events::new(served.address, "", "");
    drop(client);
    let deadline = Instant::now() + Duration::from_secs(30);
    while get(served.address, "/stats", "").json()["clients"] != 0 {
        assert!(Instant::now() < deadline, "the client is still there");
    }
    // And the next one is woken all the same.
    let mut client = Events::new(served.address, "", "");
    publish(&served.stream, 1);
    assert_eq!(client.frame().unwrap().number("seq"), 1);
}
