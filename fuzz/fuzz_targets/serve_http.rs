//! Any bytes, as a client sends them: each answer is a well-formed one, what is answered as published is what a reader
//! gets, and what is streamed is what was published.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use lapwing::event::{Category, Envelope, Event, Source, SourceKind};
use lapwing::serve::Server;
use lapwing::stream::{CategorySet, Config, EventStream, ReadResult, Reader, TryReadError};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// What the server allows, so that little is enough to go beyond it.
const MAX_EVENT: usize = 600;
const MAX_BATCH: u64 = 2000;
const MAX_HEAD: usize = 16 << 10;

// ---- What is sent.

/// Sends `bytes` so many at a time, and takes what comes; closes the stream after `patience`.
async fn talk(
    stream: Arc<EventStream>,
    mut server: DuplexStream,
    bytes: &[u8],
    step: usize,
    patience: Duration,
) -> Vec<u8> {
    let mut answers = Vec::new();
    let mut buffer = [0; 4096];
    let (mut input, mut output) = tokio::io::split(&mut server);
    let send = async {
        for part in bytes.chunks(step) {
            if output.write_all(part).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(patience).await;
        let _ = stream.publish(&event("late"));
        tokio::time::sleep(Duration::from_millis(20)).await;
        stream.close();
        tokio::time::sleep(Duration::from_millis(20)).await;
        let _ = output.shutdown().await;
    };
    let receive = async {
        while let Ok(read @ 1..) = input.read(&mut buffer).await {
            answers.extend_from_slice(&buffer[..read]);
        }
    };
    tokio::join!(send, receive);
    answers
}

fn event(r#type: &str) -> Event<'_> {
    Event::new(r#type, Category::Page, Source::new(SourceKind::Cdp)).ts(7)
}

// ---- What comes back.

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Whether the connection was closed in the middle of the body.
    is_cut: bool,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| &**value)
    }
}

fn line<'a>(rest: &mut &'a [u8]) -> &'a str {
    let end = rest.windows(2).position(|pair| pair == b"\r\n").expect("a line has an end");
    let line = std::str::from_utf8(&rest[..end]).expect("it is text");
    assert!(!line.contains(|char: char| char.is_control() && char != '\t'), "{line:?}");
    *rest = &rest[end + 2..];
    line
}

/// The first answer of several.
fn answer(rest: &mut &[u8]) -> Answer {
    let status = line(rest).strip_prefix("HTTP/1.").expect("a status line");
    let status = status[2..5].parse().expect("a status");
    let mut headers = Vec::new();
    loop {
        let line = line(rest);
        let Some((name, value)) = line.split_once(": ") else {
            assert_eq!(line, "", "a header has a value");
            break;
        };
        headers.push((name.to_owned(), value.to_owned()));
    }
    let mut answer = Answer { status, headers, body: Vec::new(), is_cut: false };
    if let Some(len) = answer.header("content-length") {
        let len = len.parse().expect("a length");
        (answer.body, *rest) = (rest[..len].to_vec(), &rest[len..]);
    } else if answer.header("transfer-encoding") == Some("chunked") {
        loop {
            if rest.is_empty() {
                answer.is_cut = true;
                break;
            }
            let len = usize::from_str_radix(line(rest), 16).expect("a length");
            answer.body.extend_from_slice(&rest[..len]);
            *rest = rest[len..].strip_prefix(b"\r\n").expect("the end of a chunk");
            if len == 0 {
                break;
            }
        }
    } else if !matches!(status, 100..200 | 204 | 304) {
        // As HTTP/1.0 has it: up to the end of the connection.
        (answer.body, *rest) = (rest.to_vec(), &[]);
    }
    answer
}

/// Takes the envelope with this seq, and what came before it.
fn read(reader: &mut Reader, seq: u64) -> Vec<u8> {
    loop {
        match reader.try_read().expect("it was published") {
            ReadResult::Envelope(mut envelope) if envelope.seq() == seq => return envelope.json().to_vec(),
            ReadResult::Envelope(_) => {}
            dropped => panic!("{dropped:?}"),
        }
    }
}

/// Frames of server-sent events.
fn check_frames(stream: &EventStream, answer: &Answer) {
    let text = std::str::from_utf8(&answer.body).expect("it is text");
    let handle = stream.handle();
    let mut last = 0;
    let mut frames = text.split_inclusive("\n\n").peekable();
    while let Some(frame) = frames.next() {
        let Some(frame) = frame.strip_suffix("\n\n") else {
            assert!(answer.is_cut, "{frame:?}");
            return;
        };
        let mut fields = frame.lines().map(|line| line.split_once(": ").unwrap_or((line, "")));
        match fields.next().expect("a field") {
            (":", "") => assert_eq!(frame, ":"),
            ("event", "closed") => {
                assert_eq!(frames.peek(), None, "nothing comes after the end");
                assert_eq!(frame, format!("event: closed\ndata: {{\"seq\":{}}}", handle.seq()));
                return;
            }
            ("event", "restarted") => {
                assert_eq!(last, 0, "it is told first");
                let (_, data) = frame.split_once("\ndata: ").expect("data");
                serde_json::from_str::<Value>(data).expect("JSON");
            }
            ("id", id) => {
                let (name, data) = fields.next().expect("a second field");
                assert_eq!((name, fields.next()), ("data", None));
                let Envelope { seq, .. } = serde_json::from_str(data).expect("an envelope");
                assert!(seq > last, "in their order, each once");
                last = seq;
                let with_epoch = format!("{seq}-{:016x}", handle.epoch());
                assert!(id == with_epoch || id == seq.to_string(), "{id}");
                let mut reader = handle.reader_after(seq - 1).expect("it is there");
                assert_eq!(data.as_bytes(), read(&mut reader, seq));
            }
            (name, value) => panic!("{name}: {value}"),
        }
    }
    assert!(answer.is_cut, "the end is told");
}

/// Answers to whatever was asked.
fn check(stream: &EventStream, mut rest: &[u8], events: u64) {
    let mut reader = stream.handle().reader_from_oldest();
    let mut published = 0;
    while !rest.is_empty() {
        let answer = answer(&mut rest);
        match answer.header("content-type") {
            Some("text/event-stream") => check_frames(stream, &answer),
            Some("application/json") => {
                let json: Value = serde_json::from_slice(&answer.body).expect("JSON");
                if let (200, Some(seq)) = (answer.status, json["event"].is_object().then(|| &json["seq"])) {
                    assert_eq!(answer.body, read(&mut reader, seq.as_u64().expect("a seq")));
                    published += 1;
                } else if let Some(lines) = json["lines"].as_u64() {
                    let rejected = json["rejected"].as_array().expect("a list").len() as u64;
                    let [some, none] =
                        [&json["published"], &json["not_captured"]].map(|n| n.as_u64().unwrap());
                    // A hundred are told, and the line at which the stream was closed is not.
                    let others = lines - some - none;
                    assert!((rejected..=rejected + 1).contains(&others) || rejected == 100, "{json}");
                    published += some;
                } else {
                    assert!(answer.status == 200 || json["error"].is_string(), "{json}");
                }
            }
            _ => assert!(answer.status != 500),
        }
        assert!(answer.status < 500 || answer.status == 503, "{}", answer.status);
    }
    // What clients have published, and nobody else.
    let clients = stream.handle().seq() - events;
    assert!(published <= clients, "{published} answered and {clients} published");
    loop {
        match reader.try_read() {
            Ok(ReadResult::Envelope(mut envelope)) => {
                serde_json::from_slice::<Envelope>(envelope.json()).expect("an envelope");
            }
            Ok(dropped) => panic!("{dropped:?}"),
            Err(error) => break assert_eq!(error, TryReadError::Closed),
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let [how, step, bytes @ ..] = data else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let config = Config::new().events(256).inline_bytes(256).max_envelope_bytes(1024);
    let stream = Arc::new(config.large_bytes(1 << 20).build().expect("it is allowed"));
    stream.publish(&event("early")).expect("it is open");
    if how & 4 != 0 {
        stream.handle().set_captured(CategorySet::ALL.without(&Category::Network));
    }
    let mut server = Server::new(Arc::clone(&stream)).max_event_bytes(MAX_EVENT).max_batch_bytes(MAX_BATCH);
    if how & 1 != 0 {
        server = server.token("abc".parse().expect("it is allowed"));
    }
    if how & 8 != 0 {
        server = server.heartbeat(Duration::MAX).body_timeout(Duration::MAX);
    }
    // So long that whoever sends too slowly is told so, or not.
    let patience = if how & 2 != 0 { Duration::from_secs(100) } else { Duration::from_millis(25) };
    let answers = runtime.expect("a runtime").block_on(async {
        // Room for every answer. hyper 1.12 puts the answer to a head that is none before what is left of an answer that the same
        // client has not taken yet, and asserts that there is none where assertions are on.
        let (client, io) = tokio::io::duplex(64 << 20);
        let service = TowerToHyperService::new(server.router());
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(10))
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(io), service);
        let talk = talk(Arc::clone(&stream), client, bytes, 1 + usize::from(*step) * 8, patience);
        let (_, answers) = tokio::join!(connection, talk);
        answers
    });
    // The page is the longest answer, and nothing shorter asks for it.
    let requests = 1 + bytes.len() / "GET / HTTP/1.1\n\n".len();
    assert!(answers.len() <= 90_000 * requests, "{} bytes for {}", answers.len(), bytes.len());
    // The answer to HEAD has no body, whatever it says.
    if !bytes.windows(4).any(|word| word == b"HEAD") {
        check(&stream, &answers, 2);
    }
});
