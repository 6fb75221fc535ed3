//! A small client of HTTP/1.1.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// No test waits so long; one that does has failed.
const TIMEOUT: Duration = Duration::from_secs(60);

pub struct Connection {
    reader: BufReader<TcpStream>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The text of an error, which has nothing else in its body.
    pub fn error(&self) -> String {
        let json = self.json();
        assert_eq!(json.as_object().unwrap().len(), 1, "{json}");
        json["error"].as_str().unwrap().to_owned()
    }
}

impl Connection {
    pub fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TIMEOUT)).unwrap();
        Self { reader: BufReader::new(stream) }
    }

    pub fn socket(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.reader.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// Whether all was taken. The server may have closed.
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.reader.get_mut().write_all(bytes).is_ok()
    }

    pub fn get(&mut self, path: &str, headers: &str) {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n"));
    }

    pub fn post(&mut self, content_type: &str, body: &[u8]) -> Response {
        let len = body.len();
        let head = format!(
            "POST /events HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\ncontent-length: {len}\r\n\r\n"
        );
        self.send([head.as_bytes(), body].concat());
        self.response()
    }

    /// The status line and the headers of the next response.
    pub fn head(&mut self) -> Response {
        let line = self.line();
        let (version, rest) = line.split_once(' ').unwrap_or_else(|| panic!("no status line: {line:?}"));
        assert!(version.starts_with("HTTP/1."), "{line}");
        let status = rest[..3].parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            let Some((key, value)) = line.split_once(':') else { break };
            headers.push((key.to_owned(), value.trim().to_owned()));
        }
        Response { status, headers, body: Vec::new() }
    }

    pub fn response(&mut self) -> Response {
        let mut response = self.head();
        if let Some(len) = response.header("content-length") {
            response.body = vec![0; len.parse().unwrap()];
            self.reader.read_exact(&mut response.body).unwrap();
        } else if response.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk() {
                response.body.extend(chunk);
            }
        }
        response
    }

    /// The next chunk of a body; none at its end.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let len = usize::from_str_radix(&self.line(), 16).unwrap();
        let mut chunk = vec![0; len];
        self.reader.read_exact(&mut chunk).unwrap();
        assert_eq!(self.line(), "");
        (len > 0).then_some(chunk)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line.trim_end_matches(['\r', '\n']).to_owned()
    }

    /// Whether something is there to be read.
    pub fn has_answer(&self) -> bool {
        self.socket().set_nonblocking(true).unwrap();
        let is_there = self.socket().peek(&mut [0]).is_ok();
        self.socket().set_nonblocking(false).unwrap();
        is_there
    }

    /// Waits until the server closes, and returns what it sent until then.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => rest,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => rest,
            Err(error) => panic!("the server has not closed: {error}"),
        }
    }
}

/// One request on a connection of its own.
pub fn get(address: SocketAddr, path: &str, headers: &str) -> Response {
    let mut connection = Connection::to(address);
    connection.get(path, headers);
    connection.response()
}

pub fn post(address: SocketAddr, content_type: &str, body: impl AsRef<[u8]>) -> Response {
    Connection::to(address).post(content_type, body.as_ref())
}

/// A client of `GET /events`.
pub struct Events {
    connection: Connection,
    pending: Vec<u8>,
}

/// One frame, and its fields where it has them.
#[derive(Debug, PartialEq)]
pub struct Frame {
    pub text: String,
    pub event: Option<String>,
    pub id: Option<String>,
    pub data: Option<String>,
}

impl Frame {
    /// That of the envelope, which need not be JSON that `serde_json` takes.
    pub fn seq(&self) -> u64 {
        let seq = self.data.as_deref().unwrap().strip_prefix("{\"seq\":").unwrap();
        seq.split(',').next().unwrap().parse().unwrap()
    }

    /// The field of the data, a number.
    pub fn number(&self, field: &str) -> u64 {
        let data: serde_json::Value = serde_json::from_str(self.data.as_deref().unwrap()).unwrap();
        data[field].as_u64().unwrap_or_else(|| panic!("no {field} in {data}"))
    }
}

impl Events {
    /// A client that the server knows: it has its reader.
    pub fn new(address: SocketAddr, query: &str, headers: &str) -> Self {
        let mut connection = Connection::to(address);
        connection.get(&format!("/events{query}"), headers);
        let head = connection.head();
        assert_eq!(head.status, 200, "{head:?}");
        assert_eq!(head.header("content-type"), Some("text/event-stream"));
        assert_eq!(head.header("cache-control"), Some("no-store"));
        Self { connection, pending: Vec::new() }
    }

    /// The next frame; none at the end of the body.
    pub fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(end) = self.pending.windows(2).position(|two| two == b"\n\n") {
                let text: Vec<u8> = self.pending.drain(..end + 2).collect();
                return Some(frame(String::from_utf8(text).unwrap()));
            }
            match self.connection.chunk() {
                Some(chunk) => self.pending.extend(chunk),
                None => {
                    assert!(self.pending.is_empty(), "half a frame at the end");
                    return None;
                }
            }
        }
    }

    /// The next frame's bytes.
    pub fn text(&mut self) -> String {
        self.frame().expect("there is one more frame").text
    }

    /// The rest of the body.
    pub fn rest(&mut self) -> String {
        let mut rest = std::mem::take(&mut self.pending);
        while let Some(chunk) = self.connection.chunk() {
            rest.extend(chunk);
        }
        String::from_utf8(rest).unwrap()
    }

    /// The seqs of the envelopes up to the `closed` frame.
    pub fn seqs(&mut self) -> Vec<u64> {
        let mut seqs = Vec::new();
        loop {
            let frame = self.frame().expect("the stream ends with a frame");
            match frame.event.as_deref() {
                None => seqs.push(frame.seq()),
                Some("closed") => return seqs,
                Some(_) => panic!("{frame:?}"),
            }
        }
    }
}

fn frame(text: String) -> Frame {
    let field = |name: &str| {
        let mut values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let value = values.next().map(str::to_owned);
        assert_eq!(values.next(), None, "a field that is there twice: {text}");
        value
    };
    Frame { event: field("event"), id: field("id"), data: field("data"), text }
}
