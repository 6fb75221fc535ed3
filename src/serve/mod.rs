//! A stream over HTTP: server-sent events for whoever watches, publishing for whoever is not Rust, statistics.
//!
//! ```
//! use lapwing::serve::Server;
//! use lapwing::stream::EventStream;
//! use std::sync::Arc;
//! use tokio::net::TcpListener;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let stream = Arc::new(EventStream::new()?);
//! let listener = TcpListener::bind("127.0.0.1:0").await?;
//! println!("http://{}/", listener.local_addr()?);
//! let shutdown = async { /* a signal, as a rule */ };
//! let cut_off = Server::new(stream).serve(listener, shutdown).await?;
//! assert_eq!(cut_off, 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /events` | the stream as server-sent events: from now, with `replay=all` from the oldest, or after `Last-Event-ID`; `category=` and `types=` choose |
//! | `POST /events` | publishes one event (`application/json`) or a line each (`application/x-ndjson`) |
//! | `GET /stats` | how things stand, as JSON |
//! | `GET /metrics` | the same as OpenMetrics text |
//! | `GET /healthz` | 200 while the stream is open, 503 after |
//! | `GET /` | a page that shows it live |
//!
//! # Server-sent events
//!
//! An envelope is one frame, `id: <id>`, `data: <envelope>` and an empty line, and the envelope is the very bytes that every other sink gets. An id
//! is `<seq>-<epoch>`, the epoch as 16 hexadecimal digits, so that one of another run is known; with `ids=seq` it is `<seq>`. Everything
//! else that can happen has a name:
//!
//! | `event:` | `data:` | when |
//! | --- | --- | --- |
//! | `dropped` | `{"from":3,"to":17,"count":15}` | the ring has lapped this client, or what it asked for is overwritten |
//! | `restarted` | `{"epoch":"…","asked":"…","oldest":1}` | its id is of another run, or of the future: it gets all that there is |
//! | `closed` | `{"seq":17}` | the stream is closed, and this was all of it |
//!
//! After 15 seconds without a frame comes a comment, `:`.
//!
//! **A client is one [`Reader`](crate::stream::Reader)**, which is read only when its socket takes more. So a slow client is lapped and told, as
//! any slow reader; it holds what its socket has not taken, a chunk of 64 KiB and one event at most, and nothing that grows.
//!
//! **A publisher pays nothing for clients**, be they one or a thousand. None of them waits in the stream: one task looks every ten milliseconds,
//! while there is a client, and wakes them all. So that is the longest that an event waits here, and what comes meanwhile is sent at once.
//!
//! # What it defends itself against
//!
//! Without a [token](Server::token) only loopback addresses are served, and only under a name that cannot be rebound to one (an address, or
//! `localhost`). A body's type has to be said, so that no page of another origin can publish. Heads of requests, bodies, the time for
//! each, connections, and the memory of all bodies together are bounded. An error says what is wrong with the request, and nothing of the machine.

mod accept;
mod auth;
mod publish;
mod pulse;
mod sse;
mod stats;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

pub use auth::{Token, TokenError};
use pulse::Pulse;
use sse::Desks;

use crate::storage::StatusHandle;
use crate::stream::EventStream;

/// What the page may do: nothing but what is in it, and ask its own server.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What can be added to any time of a clock: longer ones are as long.
const A_YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// A server of one stream. See [the module](self).
///
/// It does not close the stream, but keeps it from being closed by being dropped: [`close`](EventStream::close) it, and each client gets
/// what is left, and is told.
pub struct Server {
    stream: Arc<EventStream>,
    token: Option<Token>,
    sinks: Vec<(String, StatusHandle)>,
    limits: Limits,
}

#[derive(Clone, Debug)]
struct Limits {
    heartbeat: Duration,
    max_event_bytes: usize,
    max_batch_bytes: u64,
    max_connections: usize,
    header_timeout: Duration,
    body_timeout: Duration,
    grace: Duration,
}

impl Server {
    /// A server without a token.
    pub fn new(stream: Arc<EventStream>) -> Self {
        let limits = Limits {
            heartbeat: Duration::from_secs(15),
            max_event_bytes: 2 << 20,
            max_batch_bytes: 16 << 20,
            max_connections: 10_240,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(5),
        };
        Self { stream, token: None, sinks: Vec::new(), limits }
    }

    /// From now on whoever wants more than the page and `/healthz` has to send `Authorization: Bearer` and this token.
    pub fn token(mut self, token: Token) -> Self {
        self.token = Some(token);
        self
    }

    /// Names a sink, which `/stats` and `/metrics` tell about.
    pub fn sink(mut self, name: impl Into<String>, status: StatusHandle) -> Self {
        self.sinks.push((name.into(), status));
        self
    }

    /// After how long a silence a client gets a comment, by which it sees that the connection stands: 15 seconds if not told, at least a
    /// millisecond.
    pub fn heartbeat(mut self, silence: Duration) -> Self {
        self.limits.heartbeat = silence.clamp(Duration::from_millis(1), A_YEAR);
        self
    }

    /// The most bytes of one event that is published, and of one line of a batch: 2 MiB if not told.
    pub fn max_event_bytes(mut self, bytes: usize) -> Self {
        self.limits.max_event_bytes = bytes;
        self
    }

    /// The most bytes of a batch: 16 MiB if not told. No more than one line of it is held.
    pub fn max_batch_bytes(mut self, bytes: u64) -> Self {
        self.limits.max_batch_bytes = bytes;
        self
    }

    /// The most connections at a time: 10,240 if not told. One more is answered with 503, and closed. Each takes a file descriptor.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.limits.max_connections = connections;
        self
    }

    /// How long the head of a request may take, from the connection or the end of the last request on: 10 seconds if not told. Then the
    /// connection is closed.
    pub fn header_timeout(mut self, timeout: Duration) -> Self {
        self.limits.header_timeout = timeout.min(A_YEAR);
        self
    }

    /// How long the body of a request may take: 30 seconds if not told. Then the answer is 408.
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.limits.body_timeout = timeout;
        self
    }

    /// How long [`serve`](Self::serve) waits for its clients at the end: 5 seconds if not told.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.limits.grace = grace;
        self
    }

    /// The requests that it answers, to be mounted into another router, whose server is in charge of heads, connections and who may reach it.
    ///
    /// Readers are named by their clients' addresses if the requests have [`ConnectInfo`](axum::extract::ConnectInfo) of a `SocketAddr`. It needs
    /// a tokio runtime with time.
    pub fn router(self) -> Router {
        self.into_state(false).router()
    }

    /// Serves until `shutdown` is ready. Then each client gets what the stream has for it, and its stream ends; those that have not taken all within the
    /// [grace](Self::grace) are cut off. Returns how many.
    ///
    /// # Errors
    ///
    /// When `listener` is bound to something other than loopback and there is no [token](Self::token). Nothing is served then.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<usize, ServeError> {
        let address = listener.local_addr().map_err(ServeError::Listener)?;
        if self.token.is_none() && !address.ip().to_canonical().is_loopback() {
            return Err(ServeError::NoToken { address });
        }
        Ok(accept::run(self.into_state(true), listener, shutdown).await)
    }

    fn into_state(self, by_itself: bool) -> Arc<State> {
        let Self { stream, token, sinks, limits } = self;
        Arc::new(State {
            pulse: Pulse::new(stream.handle()),
            bodies: publish::bodies(limits.max_event_bytes),
            desks: Desks::new(),
            since: Instant::now(),
            stopping: watch::Sender::new(false),
            by_itself,
            stream,
            token,
            sinks,
            limits,
        })
    }
}

/// The token is not shown.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("stream", &self.stream)
            .field("token", &self.token)
            .field("sinks", &self.sinks)
            .field("limits", &self.limits)
            .finish()
    }
}

/// Why nothing was served.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServeError {
    /// The server can be reached from other machines, and everybody would be let in.
    NoToken {
        /// What the listener is bound to. Without a token, 127.0.0.0/8 and `::1` are allowed.
        address: SocketAddr,
    },
    /// The listener does not say what it is bound to.
    Listener(std::io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoToken { address } => write!(
                f,
                "not served: {address} is reached from other machines, for which a token is needed; without one, \
                 127.0.0.0/8 and ::1 are allowed"
            ),
            Self::Listener(error) => {
                write!(f, "not served: the listener does not say what it is bound to: {error}")
            }
        }
    }
}

impl std::error::Error for ServeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoToken { .. } => None,
            Self::Listener(error) => Some(error),
        }
    }
}

/// What all requests share.
struct State {
    stream: Arc<EventStream>,
    token: Option<Token>,
    sinks: Vec<(String, StatusHandle)>,
    limits: Limits,
    /// Whether this crate accepts the connections.
    by_itself: bool,
    since: Instant,
    pulse: Arc<Pulse>,
    desks: Desks,
    /// KiB that bodies may still take.
    bodies: Semaphore,
    stopping: watch::Sender<bool>,
}

impl State {
    fn router(self: Arc<Self>) -> Router {
        let guard = axum::middleware::from_fn_with_state(Arc::clone(&self), auth::guard);
        Router::new()
            .route("/events", get(sse::events).post(publish::events))
            .route("/stats", get(stats::json))
            .route("/metrics", get(stats::open_metrics))
            .route_layer(guard)
            .route("/healthz", get(healthz))
            .route("/", get(page))
            .with_state(self)
    }

    /// Lets each client have what is there, and ends its stream.
    fn stop(&self) {
        self.stopping.send_replace(true);
        self.pulse.beat();
    }

    fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }
}

type Shared = axum::extract::State<Arc<State>>;

async fn healthz(state: Shared) -> Response {
    if state.stream.is_closed() {
        (StatusCode::SERVICE_UNAVAILABLE, "closed\n").into_response()
    } else {
        "ok\n".into_response()
    }
}

async fn page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, include_str!("page.html")).into_response()
}

/// JSON that is true at this moment only.
fn json(status: StatusCode, body: impl Into<axum::body::Body>) -> Response {
    (status, of_the_moment("application/json"), body.into()).into_response()
}

fn of_the_moment(content_type: &'static str) -> [(HeaderName, &'static str); 2] {
    [(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-store")]
}

/// The answer to a request that something is wrong with.
fn refusal(status: StatusCode, what: impl fmt::Display) -> Response {
    json(status, serde_json::json!({ "error": what.to_string() }).to_string())
}
