//! `POST /events`.

use std::fmt;
use std::pin::Pin;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Shared, State, json, refusal};
use crate::event::validate::Reason;
use crate::event::{Envelope, Event, InvalidEvent};
use crate::stream::{self, EventStream, Publish, PublishError, ReadResult};

/// So many bytes a body may hold without asking.
const FREE: usize = 16 << 10;
/// So many all that ask may hold together; more only if a few of the largest events need more.
const ALL_BODIES: usize = 64 << 20;
const KIB: usize = 1 << 10;
/// So many rejected lines are told of.
const TOLD: usize = 100;

pub(super) async fn events(state: Shared, request: Request) -> Response {
    let content_type = request.headers().get(header::CONTENT_TYPE).map_or(&[][..], HeaderValue::as_bytes);
    let essence = content_type.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    let is_batch = essence.eq_ignore_ascii_case(b"application/x-ndjson");
    if !is_batch && !essence.eq_ignore_ascii_case(b"application/json") {
        let what = "the content type is none that is taken: `application/json` is allowed for one event, \
             `application/x-ndjson` for an event in each line";
        return refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, what);
    }
    if state.stream.is_closed() {
        return Refused::Publish(PublishError::Closed).into_response();
    }
    let timeout = state.limits.body_timeout;
    let published = async {
        if is_batch {
            batch(&state, request.into_body()).await
        } else {
            one(&state, request.into_body()).await
        }
    };
    match tokio::time::timeout(timeout, published).await {
        Ok(Ok(response)) => response,
        Ok(Err(refused)) => refused.into_response(),
        Err(_) => Refused::TooSlow.into_response(),
    }
}

/// Why nothing was published, or no more.
enum Refused {
    Publish(PublishError),
    Invalid(String),
    /// More bytes than these.
    TooLarge(u64),
    Broken,
    TooSlow,
    /// No memory for bodies is left.
    Busy,
}

impl Refused {
    fn status(&self) -> StatusCode {
        match self {
            Self::Publish(PublishError::Closed | PublishError::Stalled { .. }) | Self::Busy => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Publish(PublishError::FieldsTooLarge { .. }) | Self::TooLarge(_) => {
                StatusCode::PAYLOAD_TOO_LARGE
            }
            Self::Publish(_) | Self::Invalid(_) | Self::Broken => StatusCode::BAD_REQUEST,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publish(error) => error.fmt(f),
            Self::Invalid(what) => f.write_str(what),
            Self::TooLarge(max) => write!(f, "the body is too large: up to {max} bytes are allowed"),
            Self::Broken => f.write_str("the body ended before its end, or is not encoded as it says"),
            Self::TooSlow => f.write_str("the body took too long"),
            Self::Busy => f.write_str("too many large bodies at a time: try again later"),
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = refusal(self.status(), &self);
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

// ---- Bodies.

/// KiB that bodies may take together.
pub(super) fn bodies(max_event_bytes: usize) -> Semaphore {
    let bytes = ALL_BODIES.max(max_event_bytes.saturating_mul(4));
    Semaphore::new((bytes / KIB).min(Semaphore::MAX_PERMITS))
}

/// The next bytes of a body that has at most `max` in all, of which `len` were there.
async fn next(body: &mut Body, len: &mut u64, max: u64) -> Result<Option<Bytes>, Refused> {
    if body.size_hint().lower().saturating_add(*len) > max {
        return Err(Refused::TooLarge(max));
    }
    loop {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await;
        match frame {
            None => return Ok(None),
            Some(Err(_)) => return Err(Refused::Broken),
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data() {
                    *len += bytes.len() as u64;
                    return if *len > max { Err(Refused::TooLarge(max)) } else { Ok(Some(bytes)) };
                }
            }
        }
    }
}

/// What is held of a body, and the leave to hold so much.
struct Held<'a> {
    bytes: Vec<u8>,
    leave: Option<SemaphorePermit<'a>>,
    bodies: &'a Semaphore,
}

impl<'a> Held<'a> {
    fn new(bodies: &'a Semaphore) -> Self {
        Self { bytes: Vec::new(), leave: None, bodies }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let len = self.bytes.len() + bytes.len();
        if len > self.bytes.capacity() {
            let room = len.next_power_of_two().max(KIB);
            let held = self.leave.as_ref().map_or(0, SemaphorePermit::num_permits);
            if room > FREE && room / KIB > held {
                let kib = u32::try_from(room / KIB - held).map_err(|_| Refused::Busy)?;
                let more = self.bodies.try_acquire_many(kib).map_err(|_| Refused::Busy)?;
                match &mut self.leave {
                    Some(leave) => leave.merge(more),
                    None => self.leave = Some(more),
                }
            }
            self.bytes.reserve_exact(room - self.bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

// ---- One event.

async fn one(state: &State, mut body: Body) -> Result<Response, Refused> {
    let mut held = Held::new(&state.bodies);
    let (mut len, max) = (0, state.limits.max_event_bytes as u64);
    while let Some(bytes) = next(&mut body, &mut len, max).await? {
        held.push(&bytes)?;
    }
    let given = &held.bytes[..];
    let invalid = |error: InvalidEvent| {
        let (line, column) = place(given, error.at);
        Refused::Invalid(format!("line {line}, column {column}: {error}"))
    };
    let completed = stream::completed(given).map_err(invalid)?;
    let event = completed.as_deref().unwrap_or(given);
    match state.stream.publish_json(event) {
        Ok(Publish::NotCaptured) => Ok(StatusCode::NO_CONTENT.into_response()),
        Ok(Publish::Published { seq, truncated: false }) => {
            let mut envelope = Vec::with_capacity(event.len() + 40);
            envelope.extend_from_slice(format!("{{\"seq\":{seq},\"event\":").as_bytes());
            envelope.extend_from_slice(event);
            envelope.push(b'}');
            Ok(json(StatusCode::OK, envelope))
        }
        Ok(Publish::Published { seq, truncated: true }) => {
            Ok(json(StatusCode::OK, truncated(&state.stream, seq, event)))
        }
        Err(PublishError::Invalid(error)) => Err(invalid(error)),
        Err(error) => Err(Refused::Publish(error)),
    }
}

/// The envelope that the stream made of an event that was too large. If it is overwritten already, the event without its data.
fn truncated(stream: &EventStream, seq: u64, event: &[u8]) -> Vec<u8> {
    if let Ok(mut reader) = stream.reader_after(seq - 1)
        && let Ok(ReadResult::Envelope(mut envelope)) = reader.try_read()
        && envelope.seq() == seq
    {
        return envelope.json().to_vec();
    }
    // It was published; so it is an event.
    let Ok(mut event) = serde_json::from_slice::<Event<'_>>(event) else { return b"null".to_vec() };
    (event.data, event.truncated) = (None, true);
    Envelope { seq, event }.to_json()
}

/// Line and column of a byte, from 1 on, the column in characters.
fn place(text: &[u8], at: usize) -> (usize, usize) {
    let before = &text[..at.min(text.len())];
    let line = memchr::memchr_iter(b'\n', before).count() + 1;
    let start = memchr::memrchr(b'\n', before).map_or(0, |at| at + 1);
    let characters = before[start..].iter().filter(|&&byte| byte & 0xC0 != 0x80).count();
    (line, characters + 1)
}

// ---- A batch.

/// What became of the lines so far.
#[derive(Default, Serialize)]
struct Report {
    /// Why it ended early.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// All that were not blank.
    lines: u64,
    published: u64,
    not_captured: u64,
    rejected: Vec<Rejected>,
    #[serde(skip)]
    line: u64,
}

#[derive(Serialize)]
struct Rejected {
    line: u64,
    error: String,
}

impl Report {
    /// Publishes a line. An error when the stream takes no more.
    fn take(&mut self, stream: &EventStream, line: &[u8]) -> Result<(), PublishError> {
        self.line += 1;
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        self.lines += 1;
        match stream.publish_json(line) {
            Ok(Publish::Published { .. }) => self.published += 1,
            Ok(Publish::NotCaptured) => self.not_captured += 1,
            Err(error @ PublishError::Closed) => return Err(error),
            Err(PublishError::Invalid(error)) => self.reject(|| {
                let (_, column) = place(line, error.at);
                format!("column {column}: {}", Reason(&error))
            }),
            Err(error) => self.reject(|| error.to_string()),
        }
        Ok(())
    }

    /// A line of which only the beginning was held.
    fn take_oversized(&mut self, max: usize) {
        self.line += 1;
        self.lines += 1;
        self.reject(|| format!("the line is too large: up to {max} bytes are allowed"));
    }

    fn reject(&mut self, why: impl FnOnce() -> String) {
        if self.rejected.len() < TOLD {
            self.rejected.push(Rejected { line: self.line, error: why() });
        }
    }

    /// What was published stays published, also where the rest was refused.
    fn into_response(mut self, refused: Option<Refused>) -> Response {
        let mut response = match refused {
            Some(refused) => {
                self.error = Some(refused.to_string());
                refused.into_response()
            }
            None if self.lines > 0 && self.published + self.not_captured == 0 => {
                json(StatusCode::BAD_REQUEST, Body::empty())
            }
            None => json(StatusCode::OK, Body::empty()),
        };
        // There is nothing in it that has no form in JSON.
        *response.body_mut() = serde_json::to_vec(&self).unwrap_or_default().into();
        response
    }
}

async fn batch(state: &State, mut body: Body) -> Result<Response, Refused> {
    let mut lines = Lines {
        report: Report::default(),
        held: Held::new(&state.bodies),
        is_oversized: false,
        max: state.limits.max_event_bytes,
    };
    let refused = lines.take_all(state, &mut body).await.err();
    Ok(lines.report.into_response(refused))
}

/// The lines of a body. Each is published as soon as it is there, so that no more than one is held.
struct Lines<'a> {
    report: Report,
    /// The beginning of the line.
    held: Held<'a>,
    /// Whether what is there of the line is too large, and not held.
    is_oversized: bool,
    max: usize,
}

impl Lines<'_> {
    async fn take_all(&mut self, state: &State, body: &mut Body) -> Result<(), Refused> {
        let mut len = 0;
        while let Some(bytes) = next(body, &mut len, state.limits.max_batch_bytes).await? {
            let mut rest = &bytes[..];
            while let Some(end) = memchr::memchr(b'\n', rest) {
                self.end(&state.stream, &rest[..end])?;
                rest = &rest[end + 1..];
            }
            self.begin(rest)?;
        }
        if self.is_oversized || !self.held.bytes.is_empty() {
            self.end(&state.stream, &[])?;
        }
        Ok(())
    }

    fn is_too_large_with(&self, more: &[u8]) -> bool {
        self.is_oversized || self.held.bytes.len() + more.len() > self.max
    }

    fn begin(&mut self, part: &[u8]) -> Result<(), Refused> {
        self.is_oversized = self.is_too_large_with(part);
        if self.is_oversized {
            self.held.bytes.clear();
            return Ok(());
        }
        self.held.push(part)
    }

    fn end(&mut self, stream: &EventStream, part: &[u8]) -> Result<(), Refused> {
        let published = if self.is_too_large_with(part) {
            self.report.take_oversized(self.max);
            Ok(())
        } else if self.held.bytes.is_empty() {
            self.report.take(stream, part)
        } else {
            self.held.push(part)?;
            self.report.take(stream, &self.held.bytes)
        };
        self.is_oversized = false;
        self.held.bytes.clear();
        published.map_err(Refused::Publish)
    }
}
