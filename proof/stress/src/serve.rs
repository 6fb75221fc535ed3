//! The server: clients that account for every number, also over a reconnection, and publishing over HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use lapwing::serve::Server;
use lapwing::stream::EventStream;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::check::{Account, OrFail, fail, join_all};
use crate::payload::{Origin, Rng};
use crate::scene::Scene;
use crate::violation::Violation;

/// No answer takes so long.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Publishers over HTTP, beside those in the process.
const HTTP_PUBLISHERS: [u8; 2] = [5, 6];

/// Serves `stream` while `publish` runs, which closes it.
pub fn run(stream: &Arc<EventStream>, scene: &Scene, mut rng: Rng, publish: impl FnOnce()) {
    let (told_address, address) = std::sync::mpsc::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let served = Arc::clone(stream);
    let server = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().or_fail("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.or_fail("a listener");
            let _ = told_address.send(listener.local_addr().or_fail("a listener"));
            let server = Server::new(served).heartbeat(Duration::from_millis(20));
            let cut_off = server.serve(listener, async { drop(stopped.await) }).await.or_fail("a server");
            if cut_off != 0 {
                fail(format_args!("{cut_off} clients were cut off"));
            }
        });
    });
    let address = address.recv().or_fail("a server");
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut watchers = Vec::new();
        for _ in 0..3 {
            let rng = rng.fork();
            let first = Connection::events(address, "?replay=all&ids=seq");
            let account = Account::new(stream.oldest());
            watchers.push(scope.spawn(move || watch(address, first, account, rng)));
        }
        let posts = HTTP_PUBLISHERS.map(|publisher| {
            let (rng, is_over) = (rng.fork(), &is_over);
            scope.spawn(move || post(address, publisher, scene, is_over, rng))
        });
        // They are done before the stream is closed by `publish`; so the last answers come from an open one, or from one that is closed.
        publish();
        is_over.store(true, Relaxed);
        join_all(posts.into());
        join_all(watchers);
    });
    let _ = stop.send(());
    server.join().map_err(|_| "panicked").or_fail("a server");
}

struct Connection {
    reader: BufReader<TcpStream>,
    pending: Vec<u8>,
    /// What of it was looked through.
    done: usize,
}

impl Connection {
    fn to(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).or_fail("a connection");
        socket.set_read_timeout(Some(TIMEOUT)).or_fail("a connection");
        Self { reader: BufReader::new(socket), pending: Vec::new(), done: 0 }
    }

    /// A client of the stream, whose reader is there.
    fn events(address: SocketAddr, query: &str) -> Self {
        let mut connection = Self::to(address);
        connection.send(format!("GET /events{query} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes());
        let (status, _) = connection.head();
        if status != 200 {
            fail(format_args!("{query} is answered with {status}"));
        }
        connection
    }

    fn send(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).or_fail("a request");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).or_fail("an answer");
        line.truncate(line.trim_end().len());
        line
    }

    /// Status and length of the next answer.
    fn head(&mut self) -> (u16, usize) {
        let line = self.line();
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let mut len = 0;
        loop {
            let line = self.line().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                len = value.trim().parse().or_fail("a length");
            }
        }
        (status.unwrap_or_else(|| fail(format_args!("no status line: {line}"))), len)
    }

    /// Calls `each` with every frame of the next chunk.
    fn chunk(&mut self, mut each: impl FnMut(&[u8])) {
        let len = usize::from_str_radix(&self.line(), 16).or_fail("a chunk's length");
        if len == 0 {
            fail(Violation::Unaccounted("a client's stream ended without an end".into()));
        }
        let start = self.pending.len();
        self.pending.resize(start + len, 0);
        self.reader.read_exact(&mut self.pending[start..]).or_fail("a chunk");
        self.line();
        let mut from = 0;
        while let Some(at) = self.pending[self.done..].windows(2).position(|two| two == b"\n\n") {
            let end = self.done + at;
            each(&self.pending[from..end]);
            (from, self.done) = (end + 2, end + 2);
        }
        self.pending.drain(..from);
        self.done = self.pending.len().saturating_sub(1);
    }
}

/// Accounts for every number up to the end.
fn watch(address: SocketAddr, mut connection: Connection, mut account: Account, mut rng: Rng) {
    let mut scratch = Vec::new();
    let mut end = None;
    while end.is_none() {
        connection.chunk(|frame| {
            if let Some(last) = take(frame, &mut account, &mut scratch) {
                end = Some(last);
            }
        });
        // A slow client is lapped.
        if rng.once_in(50) {
            thread::park_timeout(Duration::from_millis(rng.below(30)));
        }
        // What of an event is not taken yet comes again.
        if end.is_none() && rng.once_in(100) {
            connection = Connection::events(address, &format!("?ids=seq&last_event_id={}", account.last));
        }
    }
    account.settle(account.last + 1, None).or_fail("a client");
    account.end(end.unwrap_or_default()).or_fail("a client");
}

/// Takes a frame. The last seq of a stream that is closed.
fn take(frame: &[u8], account: &mut Account, scratch: &mut Vec<u8>) -> Option<u64> {
    if frame == b":" {
        return None;
    }
    let text = str::from_utf8(frame).or_fail("a frame");
    let (mut name, mut id, mut data) = (None, None, None);
    for line in text.lines() {
        match line.split_once(": ") {
            Some(("event", value)) => name = Some(value),
            Some(("id", value)) => id = value.parse::<u64>().ok(),
            Some(("data", value)) => data = Some(value),
            _ => fail(Violation::Torn(format!("a frame: {text}"))),
        }
    }
    let data = data.unwrap_or_else(|| fail(Violation::Torn(format!("a frame: {text}"))));
    let number = |field: &str| {
        let value: Value = serde_json::from_str(data).or_fail("a frame's data");
        value[field].as_u64().unwrap_or_else(|| fail(Violation::Torn(format!("a frame: {text}"))))
    };
    match name {
        None => {
            let seq = id.unwrap_or_else(|| fail(Violation::Torn(format!("a frame: {text}"))));
            let head = format!("{{\"seq\":{seq},\"event\":");
            let event = data.strip_prefix(&*head).and_then(|rest| rest.strip_suffix('}'));
            let event = event.unwrap_or_else(|| fail(Violation::Torn(format!("a frame: {text}")))).as_bytes();
            let truncated = event.ends_with(b",\"truncated\":true}");
            let origin = Origin::of_json(event, truncated, scratch).or_fail("a client");
            account.event(seq, origin).or_fail("a client");
        }
        Some("dropped") => account.dropped(number("from"), number("to")).or_fail("a client"),
        Some("closed") => return Some(number("seq")),
        Some(_) => fail(format_args!("a frame that must not come: {text}")),
    }
    None
}

/// Publishes over HTTP until it is over.
fn post(address: SocketAddr, publisher: u8, scene: &Scene, is_over: &AtomicBool, mut rng: Rng) {
    let mut connection = Connection::to(address);
    let mut count = 0;
    let mut body = Vec::new();
    while !is_over.load(Relaxed) {
        body.clear();
        let n = 1 + rng.below(100);
        for _ in 0..n {
            Origin { publisher, count }.write_json(&mut body);
            body.push(b'\n');
            count += 1;
        }
        let len = body.len();
        let head = format!(
            "POST /events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\ncontent-length: {len}\r\n\r\n"
        );
        connection.send(&[head.as_bytes(), &body].concat());
        let (status, len) = connection.head();
        let mut answer = vec![0; len];
        connection.reader.read_exact(&mut answer).or_fail("an answer");
        let answer: Value = serde_json::from_slice(&answer).or_fail("an answer");
        // One that is closed before the first line says so, and nothing else.
        let number = |name: &str| answer[name].as_u64().unwrap_or(0);
        scene.published.fetch_add(number("published"), Relaxed);
        let rejected = answer["rejected"].as_array().map_or(0, Vec::len) as u64;
        let taken = number("published") + number("not_captured") + rejected;
        match status {
            200 | 400 if taken == n => {}
            503 if scene.handle.is_closed() => break,
            _ => fail(format_args!("{n} events are answered with {status}: {answer}")),
        }
    }
}
