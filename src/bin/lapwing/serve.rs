//! The server of a relay.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use lapwing::serve::{Server, Token, TokenError};
use lapwing::storage::StatusHandle;
use lapwing::stream::EventStream;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::setup::{self, spawn};
use crate::tell;

/// The server.
#[derive(clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Server")]
pub struct Args {
    /// Serve the events, and a page that shows them, at this address: an IP address with a port. It goes on after the input has ended,
    /// and takes events from whoever posts them.
    #[arg(long, value_name = "ADDRESS")]
    pub serve: Option<SocketAddr>,
    /// A file with the token that whoever wants something from the server has to know. Needed where other machines can reach it.
    #[arg(long, value_name = "FILE", requires = "serve")]
    token_file: Option<PathBuf>,
}

/// A server that has its address, and serves nobody yet.
pub struct Bound {
    listener: std::net::TcpListener,
    token: Option<Token>,
}

/// A server at work.
pub struct Serving {
    shutdown: oneshot::Sender<()>,
    /// How many clients were cut off at the end.
    ended: mpsc::Receiver<Result<usize, String>>,
}

impl Args {
    pub fn bind(&self) -> Result<Option<Bound>, String> {
        let Some(address) = self.serve else { return Ok(None) };
        let token = self.token_file.as_deref().map(setup::token).transpose()?;
        let token =
            token.map(|token| token.parse()).transpose().map_err(|error: TokenError| error.to_string())?;
        if token.is_none() && !address.ip().to_canonical().is_loopback() {
            return Err(format!(
                "{address} can be reached by other machines, so --token-file is needed; without it, loopback addresses are allowed"
            ));
        }
        let failed = |error| format!("cannot serve at {address}: {error}");
        let listener = std::net::TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        tell!("serving at http://{}/", listener.local_addr().map_err(failed)?);
        Ok(Some(Bound { listener, token }))
    }
}

impl Bound {
    /// Serves, in threads of its own, and tells about these sinks. Its clients have so long at the end.
    pub fn start(
        self,
        stream: &Arc<EventStream>,
        sinks: impl Iterator<Item = (&'static str, StatusHandle)>,
        grace: Duration,
    ) -> Result<Serving, String> {
        let mut server = Server::new(Arc::clone(stream)).grace(grace);
        if let Some(token) = self.token {
            server = server.token(token);
        }
        for (name, status) in sinks {
            server = server.sink(name, status);
        }
        let workers = thread::available_parallelism().map_or(1, usize::from);
        let runtime = try_threads(workers + 1)
            .and_then(|()| {
                tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()
            })
            .map_err(|error| format!("cannot start the threads of the server: {error}"))?;
        let (shutdown, shut_down) = oneshot::channel::<()>();
        let (end, ended) = mpsc::channel();
        let listener = self.listener;
        spawn("server", move || {
            let result = runtime.block_on(async {
                let listener = TcpListener::from_std(listener).map_err(|error| error.to_string())?;
                let shutdown = async { _ = shut_down.await };
                server.serve(listener, shutdown).await.map_err(|error| error.to_string())
            });
            let _ = end.send(result);
            runtime.shutdown_background();
        })?;
        Ok(Serving { shutdown, ended })
    }
}

/// Whether there are so many threads to be had. tokio's start panics, or does not return, where it gets a part of its workers only.
fn try_threads(count: usize) -> io::Result<()> {
    let gate = Mutex::new(());
    thread::scope(|scope| {
        let _closed = gate.lock();
        let started = |_| thread::Builder::new().spawn_scoped(scope, || drop(gate.lock())).map(drop);
        (0..count).try_for_each(started)
    })
}

impl Serving {
    /// Lets each client have what there is. The stream is closed before.
    pub fn shut_down(self) -> Ending {
        let _ = self.shutdown.send(());
        Ending(self.ended)
    }
}

/// A server that is about to end.
pub struct Ending(mpsc::Receiver<Result<usize, String>>);

impl Ending {
    /// Waits for it.
    pub fn wait(self, until: Instant) {
        match self.0.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Ok(0)) => {}
            Ok(Ok(clients)) => {
                tell!("{clients} clients of the server were too slow for what was left, and were cut off");
            }
            Ok(Err(error)) => tell!("the server: {error}"),
            Err(_) => tell!("the server did not end in time"),
        }
    }
}
