//! `GET /events`: one reader for each client, read when the client's socket takes more.

use std::borrow::Cow;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, Sleep};

use super::pulse::Seat;
use super::{Shared, State, of_the_moment, refusal};
use crate::event::Category;
use crate::stream::{
    Buffer, CategorySet, Handle, PositionError, RawEnvelope, ReadResult, Reader, TryReadError,
};
use crate::sync::Mutex;

/// A chunk is full when it has so many bytes; the last frame may go beyond.
const CHUNK: usize = 64 << 10;
/// After so many events of other types, other tasks have a turn.
const LOOKS: usize = 1024;

pub(super) async fn events(state: Shared, request: Request) -> Response {
    match Query::of(request.uri().query().unwrap_or_default(), request.headers()) {
        Ok(query) => {
            let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
            let name = peer.map_or("sse".into(), |ConnectInfo(peer)| format!("sse {peer}"));
            let client = Client::new(Arc::clone(&state), query, &name);
            (of_the_moment("text/event-stream"), Body::new(client)).into_response()
        }
        Err(what) => refusal(StatusCode::BAD_REQUEST, what),
    }
}

// ---- What is asked for.

#[derive(Debug, Default, PartialEq)]
struct Query {
    replay: bool,
    after: Option<Id>,
    /// Ids without the epoch.
    plain_ids: bool,
    categories: Option<Vec<Category<'static>>>,
    types: Vec<String>,
}

/// Where a client was.
#[derive(Debug, PartialEq)]
struct Id {
    seq: u64,
    epoch: Option<u64>,
    /// As it was given.
    text: String,
}

impl Query {
    fn of(query: &str, headers: &HeaderMap) -> Result<Self, String> {
        let mut asked = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match (&*name, &*value) {
                ("replay", "all") => asked.replay = true,
                ("replay", _) => {
                    return Err(
                        "`replay` is not known: `all` is allowed, or no `replay`, for events from now on"
                            .into(),
                    );
                }
                ("ids", "seq") => asked.plain_ids = true,
                ("ids", _) => {
                    return Err(
                        "`ids` is not known: `seq` is allowed, or no `ids`, for ids with the epoch".into()
                    );
                }
                ("category", list) => {
                    let names = names(list, "category")?.map(|name| Category::from(name.to_owned()));
                    asked.categories.get_or_insert_default().extend(names);
                }
                ("types", list) => asked.types.extend(names(list, "types")?.map(str::to_owned)),
                ("last_event_id", id) => asked.after = Some(id.parse()?),
                _ => {
                    let what = "a parameter is not known: `replay`, `last_event_id`, `category`, `types` and `ids` are allowed";
                    return Err(what.into());
                }
            }
        }
        // A browser that reconnects has its first query in the address still, and the newest id here.
        if let Some(id) = headers.get("last-event-id") {
            asked.after = Some(id.to_str().unwrap_or_default().parse()?);
        }
        Ok(asked)
    }
}

fn names<'a>(list: &'a str, parameter: &str) -> Result<std::str::Split<'a, char>, String> {
    let names = list.split(',');
    if names.clone().any(str::is_empty) {
        return Err(format!(
            "`{parameter}` has an empty name: one or more names with commas between them are allowed"
        ));
    }
    Ok(names)
}

impl std::str::FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (seq, epoch) = match text.split_once('-') {
            Some((seq, epoch)) => (seq, Some(epoch)),
            None => (text, None),
        };
        let hex = |epoch: &str| {
            let is_hex = epoch.len() == 16 && epoch.bytes().all(|digit| digit.is_ascii_hexdigit());
            is_hex.then(|| u64::from_str_radix(epoch, 16).ok()).flatten()
        };
        let is_number = !seq.is_empty() && seq.bytes().all(|digit| digit.is_ascii_digit());
        let seq = is_number.then(|| seq.parse().ok()).flatten();
        match (seq, epoch.map(hex)) {
            (Some(seq), None) => Ok(Self { seq, epoch: None, text: text.into() }),
            (Some(seq), Some(Some(epoch))) => Ok(Self { seq, epoch: Some(epoch), text: text.into() }),
            _ => Err("the last event's id cannot be read: a number is allowed, or a number, `-` and 16 hexadecimal digits".into()),
        }
    }
}

// ---- Who asks.

/// A client, and the body of the answer to it.
struct Client {
    state: Arc<State>,
    seat: Seat,
    reader: Reader,
    frames: Frames,
    /// What comes before the first event.
    first: Option<String>,
    /// Made before the last look.
    beat: Pin<Box<OwnedNotified>>,
    /// When there was a frame last, and the next look at that.
    last: Instant,
    silence: Pin<Box<Sleep>>,
    is_over: bool,
}

/// How events become frames, and which.
struct Frames {
    /// What an id has after its seq.
    id_tail: String,
    /// If others than the known ones are wanted by name.
    other_categories: Option<Vec<Category<'static>>>,
    /// Empty for all.
    types: Vec<String>,
}

/// How a look at the stream ended.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// There may be more.
    More,
    /// There is no more yet.
    Empty,
    /// There will be no more.
    Closed,
}

impl Client {
    fn new(state: Arc<State>, query: Query, name: &str) -> Self {
        let stream = &state.stream;
        let epoch = format!("{:016x}", stream.epoch());
        let id_tail = if query.plain_ids { String::new() } else { format!("-{epoch}") };
        let mut first = None;
        let reader = match query.after {
            None if query.replay => stream.reader_from_oldest(),
            None => stream.reader_from_now(),
            Some(Id { seq, epoch: of, text }) => {
                stream.resume(of.unwrap_or(stream.epoch()), seq).unwrap_or_else(|_: PositionError| {
                    let reader = stream.reader_from_oldest();
                    let oldest = reader.next_seq();
                    first = Some(format!(
                        "event: restarted\nid: {}{id_tail}\ndata: {{\"epoch\":\"{epoch}\",\"asked\":\"{text}\",\"oldest\":{oldest}}}\n\n",
                        oldest - 1,
                    ));
                    reader
                })
            }
        };
        let mut reader = reader.named(name);
        reader.give_up_waiting();
        let mut other_categories = None;
        if let Some(mut names) = query.categories {
            reader.set_categories(names.iter().cloned().collect::<CategorySet>());
            names.retain(|name| !Category::KNOWN.contains(name));
            other_categories = (!names.is_empty()).then_some(names);
        }
        let seat = state.pulse.enter();
        let last = Instant::now();
        Self {
            frames: Frames { id_tail, other_categories, types: query.types },
            first,
            beat: Box::pin(seat.next_beat()),
            last,
            silence: Box::pin(tokio::time::sleep_until(last + state.limits.heartbeat)),
            is_over: false,
            reader,
            seat,
            state,
        }
    }

    /// What there is for the client, as one chunk.
    fn look(&mut self) -> (Bytes, End) {
        let mut desk = self.state.desks.take(&self.state.stream);
        if let Some(first) = self.first.take() {
            desk.out.extend_from_slice(first.as_bytes());
        }
        let end = self.reader.lend(&mut desk.buffer, |reader| self.frames.look(reader, &mut desk.out));
        if end == End::Closed {
            let seq = self.state.stream.seq();
            desk.out.extend_from_slice(format!("event: closed\ndata: {{\"seq\":{seq}}}\n\n").as_bytes());
        }
        let chunk = Bytes::copy_from_slice(&desk.out);
        self.state.desks.give_back(desk);
        (chunk, end)
    }
}

impl HttpBody for Client {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let client = self.get_mut();
        let chunk = loop {
            if client.is_over {
                return Poll::Ready(None);
            }
            let is_stopping = client.state.is_stopping();
            let (chunk, end) = client.look();
            client.is_over = end == End::Closed || end == End::Empty && is_stopping;
            if !chunk.is_empty() {
                break chunk;
            }
            if client.is_over {
                continue;
            }
            if end == End::More {
                cx.waker().wake_by_ref();
            } else if client.beat.as_mut().poll(cx).is_ready() {
                client.beat.set(client.seat.next_beat());
                continue;
            }
            let heartbeat = client.state.limits.heartbeat;
            if client.silence.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let is_due = client.last.elapsed() >= heartbeat;
            let since = if is_due { Instant::now() } else { client.last };
            client.silence.as_mut().reset(since + heartbeat);
            if is_due {
                break Bytes::from_static(b":\n\n");
            }
        };
        client.last = Instant::now();
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }
}

impl Frames {
    /// Appends a frame for everything that there is, until `out` is full.
    fn look(&self, reader: &mut Reader, out: &mut Vec<u8>) -> End {
        for _ in 0..LOOKS {
            if out.len() >= CHUNK {
                break;
            }
            match reader.try_read() {
                Ok(ReadResult::Envelope(envelope)) => {
                    if self.wants(&envelope) {
                        self.push_id(envelope.seq(), out);
                        out.extend_from_slice(b"data: ");
                        envelope.write_json(out);
                        out.extend_from_slice(b"\n\n");
                    }
                }
                Ok(ReadResult::Dropped { from, to }) => {
                    out.extend_from_slice(b"event: dropped\n");
                    self.push_id(to, out);
                    let count = to - from + 1;
                    let data = format!("data: {{\"from\":{from},\"to\":{to},\"count\":{count}}}\n\n");
                    out.extend_from_slice(data.as_bytes());
                }
                Err(TryReadError::Empty) => return End::Empty,
                Err(TryReadError::Closed) => return End::Closed,
            }
        }
        End::More
    }

    fn push_id(&self, seq: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"id: ");
        out.extend_from_slice(itoa::Buffer::new().format(seq).as_bytes());
        out.extend_from_slice(self.id_tail.as_bytes());
        out.push(b'\n');
    }

    fn wants(&self, envelope: &RawEnvelope<'_>) -> bool {
        // The reader has stepped over all others of the known ones already.
        let is_other = usize::from(envelope.category_index()) == Category::KNOWN.len();
        let in_category = match &self.other_categories {
            Some(names) if is_other => names.contains(&envelope.category()),
            _ => true,
        };
        in_category && (self.types.is_empty() || has_type(envelope.event_json(), &self.types))
    }
}

/// Whether the event's type is one of these.
fn has_type(event: &[u8], types: &[String]) -> bool {
    #[derive(serde::Deserialize)]
    struct Only<'a> {
        #[serde(borrow)]
        r#type: Cow<'a, str>,
    }

    match plain_type(event) {
        Some(r#type) => types.iter().any(|wanted| wanted.as_bytes() == r#type),
        None => serde_json::from_slice(event)
            .is_ok_and(|Only { r#type }| types.iter().any(|wanted| *wanted == r#type)),
    }
}

/// The type of an event that begins as this crate writes events, if it has no escapes.
fn plain_type(event: &[u8]) -> Option<&[u8]> {
    let ts = event.strip_prefix(b"{\"ts\":")?;
    let digits = ts.iter().position(|byte| !matches!(byte, b'-' | b'0'..=b'9'))?;
    let r#type = ts[digits..].strip_prefix(b",\"type\":\"")?;
    let end = memchr::memchr2(b'"', b'\\', r#type)?;
    (r#type[end] == b'"').then(|| &r#type[..end])
}

// ---- What clients have in common.

/// What a look needs. A client has it for as long as the look takes; so there are as many as looks at a time.
struct Desk {
    buffer: Buffer,
    out: Vec<u8>,
}

/// The desks that nobody is at.
pub(super) struct Desks(Mutex<Vec<Desk>>);

impl Desks {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    fn take(&self, stream: &Handle) -> Desk {
        let free = self.0.lock().pop();
        let mut desk = free.unwrap_or_else(|| Desk { buffer: stream.buffer(), out: Vec::new() });
        desk.out.clear();
        desk
    }

    fn give_back(&self, desk: Desk) {
        self.0.lock().push(desk);
    }
}
