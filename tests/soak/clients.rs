//! Clients of the server that compare every byte they get.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use memchr::memmem;
use serde_json::Value;

use crate::events::{Account, CATEGORIES, mix, write_envelope, write_number};
use crate::{PATIENCE, UNKNOWN};

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Habit {
    All,
    OneCategory,
    /// It takes so few bytes a second.
    Slow,
    /// It goes away in the middle of something, and comes back with the last id that it got.
    ComesAndGoes,
}

const SLOW: f64 = 200_000.0;

/// What became of a client.
pub struct Done {
    pub habit: Habit,
    pub account: Account,
    pub connections: u64,
    /// What the server said at the end, if it was heard.
    pub closed_at: Option<u64>,
}

pub struct Client<'a> {
    pub number: usize,
    pub habit: Habit,
    pub address: SocketAddr,
    /// That of the stream, as in ids.
    pub epoch: &'a str,
    /// The number of the last event, when there is one.
    pub total: &'a AtomicU64,
    /// How many events one that comes and goes takes at a time, at most.
    pub patience: u64,
    /// Whether it stays until the server closes.
    pub stays: bool,
}

impl Client<'_> {
    /// From the first event to the last.
    pub fn run(self) -> Result<Done, String> {
        let only = (self.habit == Habit::OneCategory).then_some(self.number % CATEGORIES.len());
        let mut account = Account::new(only);
        let mut connections = 0;
        let mut closed_at = None;
        while !account.is_complete(self.total.load(Relaxed)) {
            connections += 1;
            closed_at = self.connect(&mut account, connections).map_err(|why| {
                format!(
                    "client {} ({:?}) at {account:?}, connection {connections}: {why}",
                    self.number, self.habit
                )
            })?;
        }
        Ok(Done { habit: self.habit, account, connections, closed_at })
    }

    /// One connection, from the last event that is accounted for.
    fn connect(&self, account: &mut Account, connection: u64) -> Result<Option<u64>, String> {
        let failed = |error: std::io::Error| error.to_string();
        let mut socket = TcpStream::connect(self.address).map_err(failed)?;
        socket.set_read_timeout(Some(Duration::from_secs(1))).map_err(failed)?;
        let filter = match self.habit {
            Habit::OneCategory => format!("?category={}", CATEGORIES[self.number % CATEGORIES.len()]),
            _ => String::new(),
        };
        let head = format!(
            "GET /events{filter} HTTP/1.1\r\nhost: localhost\r\nlast-event-id: {}-{}\r\n\r\n",
            account.at, self.epoch
        );
        socket.write_all(head.as_bytes()).map_err(failed)?;

        let leaves_after = match self.habit {
            Habit::ComesAndGoes if !self.stays => {
                account.delivered + 1 + mix(connection << 32 | self.number as u64) % self.patience
            }
            _ => u64::MAX,
        };
        let mut body = Body::new();
        let mut expected = Vec::new();
        let (start, mut taken) = (Instant::now(), 0);
        let mut heard = Instant::now();
        let mut buffer = vec![0; if self.habit == Habit::Slow { 4 << 10 } else { 128 << 10 }];
        loop {
            let read = match socket.read(&mut buffer) {
                Ok(0) if body.has_ended && self.stays => return Err("it ended without a word".into()),
                Ok(0) => return Err("the server has hung up".into()),
                Ok(read) => read,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if !self.stays && account.is_complete(self.total.load(Relaxed)) {
                        return Ok(None);
                    }
                    if heard.elapsed() > PATIENCE {
                        return Err("nothing came any more".into());
                    }
                    continue;
                }
                Err(error) => return Err(error.to_string()),
            };
            heard = Instant::now();
            body.take(&buffer[..read])?;
            while let Some(frame) = self.frame(&mut body, account, &mut expected)? {
                match frame {
                    Frame::Closed(seq) => return Ok(Some(seq)),
                    Frame::Other if account.delivered >= leaves_after => return Ok(None),
                    Frame::Other => {}
                }
            }
            let total = self.total.load(Relaxed);
            if total != UNKNOWN && !self.stays && account.is_complete(total) {
                return Ok(None);
            }
            if self.habit == Habit::Slow && total == UNKNOWN {
                taken += read;
                let due = start + Duration::from_secs_f64(taken as f64 / SLOW);
                pause_until(due);
            }
        }
    }

    /// The next frame, of which everything is as it has to be.
    fn frame(
        &self,
        body: &mut Body,
        account: &mut Account,
        expected: &mut Vec<u8>,
    ) -> Result<Option<Frame>, String> {
        let rest = body.rest();
        let next = account.next();
        expected.clear();
        expected.extend_from_slice(b"id: ");
        write_number(next, expected);
        expected.push(b'-');
        expected.extend_from_slice(self.epoch.as_bytes());
        expected.extend_from_slice(b"\ndata: ");
        write_envelope(next, expected);
        expected.extend_from_slice(b"\n\n");
        if rest.starts_with(expected) {
            account.deliver();
            body.at += expected.len();
            return Ok(Some(Frame::Other));
        }
        let Some(end) = memmem::find(rest, b"\n\n") else { return Ok(None) };
        let text = String::from_utf8_lossy(&rest[..end]).into_owned();
        body.at += end + 2;
        if text == ":" {
            return Ok(Some(Frame::Other));
        }
        let data = || {
            let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or_default();
            serde_json::from_str::<Value>(data).map_err(|error| format!("{error}: {text}"))
        };
        let number =
            |data: &Value, name: &str| data[name].as_u64().ok_or_else(|| format!("no {name}: {text}"));
        if text.starts_with("event: dropped\n") {
            let data = data()?;
            let (from, to) = (number(&data, "from")?, number(&data, "to")?);
            let id = format!("id: {to}-{}", self.epoch);
            if number(&data, "count")? != to - from + 1 || !text.lines().any(|line| line == id) {
                return Err(format!("its numbers do not agree: {text}"));
            }
            account.lose(from, to)?;
            return Ok(Some(Frame::Other));
        }
        if text.starts_with("event: closed\n") {
            return Ok(Some(Frame::Closed(number(&data()?, "seq")?)));
        }
        Err(format!("{next} was to come, and this came: {text}"))
    }
}

enum Frame {
    Closed(u64),
    Other,
}

pub fn pause_until(due: Instant) {
    while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        thread::park_timeout(left);
    }
}

/// The body of an answer, out of its chunks.
struct Body {
    bytes: Vec<u8>,
    at: usize,
    /// A line that is not whole, of the head or of a chunk's length.
    line: Vec<u8>,
    state: State,
    has_ended: bool,
}

enum State {
    Head,
    Length,
    Chunk(usize),
    /// The end of line behind a chunk.
    Behind,
}

impl Body {
    fn new() -> Self {
        Self { bytes: Vec::new(), at: 0, line: Vec::new(), state: State::Head, has_ended: false }
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    fn take(&mut self, mut raw: &[u8]) -> Result<(), String> {
        self.bytes.drain(..self.at);
        self.at = 0;
        while !raw.is_empty() {
            if let State::Chunk(left) = &mut self.state {
                let len = raw.len().min(*left);
                self.bytes.extend_from_slice(&raw[..len]);
                raw = &raw[len..];
                *left -= len;
                if *left == 0 {
                    self.state = State::Behind;
                }
                continue;
            }
            let end = raw.iter().position(|&byte| byte == b'\n');
            self.line.extend_from_slice(&raw[..end.map_or(raw.len(), |end| end + 1)]);
            let Some(end) = end else { break };
            raw = &raw[end + 1..];
            let line = String::from_utf8_lossy(&self.line).trim_end().to_owned();
            self.line.clear();
            match self.state {
                State::Head if line.is_empty() => self.state = State::Length,
                State::Head if line.starts_with("HTTP/1.1 ") && line != "HTTP/1.1 200 OK" => {
                    return Err(line);
                }
                State::Head => {}
                State::Length => {
                    let len =
                        usize::from_str_radix(&line, 16).map_err(|error| format!("{error}: {line:?}"))?;
                    self.has_ended = len == 0;
                    self.state = if len == 0 { State::Behind } else { State::Chunk(len) };
                }
                State::Behind if line.is_empty() => self.state = State::Length,
                State::Behind | State::Chunk(_) => return Err(format!("{line:?} is behind a chunk")),
            }
        }
        Ok(())
    }
}
