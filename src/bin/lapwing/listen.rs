//! Lines from sockets.

use std::fmt;
use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
#[cfg(unix)]
use std::os::unix::fs::FileTypeExt;
#[cfg(unix)]
use std::os::unix::net::{UnixListener, UnixStream};
#[cfg(unix)]
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use parking_lot::Mutex;

use crate::input::Lines;
use crate::publish::{Input, Kind, Pipeline};
use crate::setup::spawn;
use crate::tell;

/// The most connections at a time.
const MAX_CONNECTIONS: usize = 1024;

/// Where to listen.
#[derive(Clone, Debug)]
pub enum Address {
    Tcp(SocketAddr),
    #[cfg(unix)]
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        #[cfg(unix)]
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        let address: SocketAddr = text
            .parse()
            .map_err(|_| "allowed are an IP address with a port, and `unix:` with a path".to_owned())?;
        if !address.ip().is_loopback() {
            return Err(format!(
                "{} is no loopback address, and only such are allowed: anybody could write there",
                address.ip()
            ));
        }
        Ok(Self::Tcp(address))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            #[cfg(unix)]
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

pub enum Listener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener, PathBuf),
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.remove_file();
    }
}

enum Connection {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Connection {
    fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
            #[cfg(unix)]
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
        }
    }

    /// Who reads there finds the end.
    fn shut_down(&self) {
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Read),
            #[cfg(unix)]
            Self::Unix(stream) => stream.shutdown(Shutdown::Read),
        };
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            #[cfg(unix)]
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

/// The connections there are, by their numbers.
type Connections = Arc<Mutex<Vec<(u64, Connection)>>>;

impl Listener {
    pub fn bind(address: &Address) -> Result<Self, String> {
        let failed = |error| format!("cannot listen at {address}: {error}");
        match address {
            Address::Tcp(address) => {
                let listener = TcpListener::bind(address).map_err(failed)?;
                if let Ok(address) = listener.local_addr() {
                    tell!("listening at {address}");
                }
                Ok(Self::Tcp(listener))
            }
            #[cfg(unix)]
            Address::Unix(path) => {
                // What an earlier run left, and nobody listens at, is in the way.
                let is_socket =
                    std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
                if is_socket
                    && UnixStream::connect(path)
                        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
                {
                    std::fs::remove_file(path).map_err(failed)?;
                }
                let listener = UnixListener::bind(path).map_err(failed)?;
                tell!("listening at {}", path.display());
                Ok(Self::Unix(listener, path.clone()))
            }
        }
    }

    fn accept(&self) -> io::Result<Connection> {
        // Elsewhere than on Linux a connection is like its listener in this.
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                Ok(Connection::Tcp(stream))
            }
            #[cfg(unix)]
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                Ok(Connection::Unix(stream))
            }
        }
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => listener.set_nonblocking(true),
            #[cfg(unix)]
            Self::Unix(listener, _) => listener.set_nonblocking(true),
        }
    }

    /// The file of a socket is of no use when nobody listens there.
    fn remove_file(&self) {
        #[cfg(unix)]
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Takes connections, and publishes the lines of each in a thread of its own.
    pub fn start(self, pipeline: &Arc<Pipeline>) -> Result<Listening, String> {
        let listening = Listening {
            listener: Arc::new(self),
            pipeline: Arc::clone(pipeline),
            connections: Arc::default(),
            taken: Arc::default(),
        };
        let theirs = listening.clone();
        spawn("listener", move || theirs.serve())?;
        Ok(listening)
    }
}

/// A listener at work.
#[derive(Clone)]
pub struct Listening {
    listener: Arc<Listener>,
    pipeline: Arc<Pipeline>,
    connections: Connections,
    /// How many there have been.
    taken: Arc<AtomicU64>,
}

impl Listening {
    /// Only what has arrived is read, also from those who have connected and were not taken yet. The pipeline is told to stop before.
    pub fn stop(&self) {
        if self.listener.set_nonblocking().is_ok() {
            self.serve();
        }
        self.listener.remove_file();
        self.connections.lock().iter().for_each(|(_, connection)| connection.shut_down());
    }

    /// Whether a connection is still read from.
    pub fn is_busy(&self) -> bool {
        !self.connections.lock().is_empty()
    }

    fn serve(&self) {
        loop {
            match self.listener.accept() {
                Ok(connection) => self.take(connection),
                Err(_) if self.pipeline.stop.is_stopped() => return,
                Err(error) => {
                    tell!("cannot take a connection: {error}");
                    // There may be too many files open. That passes.
                    self.pipeline.stop.sleep(Duration::from_millis(100));
                }
            }
        }
    }

    fn take(&self, connection: Connection) {
        let number = self.taken.fetch_add(1, Relaxed) + 1;
        let refused = |why: &dyn fmt::Display| tell!("connection {number} was refused: {why}");
        let other = match connection.try_clone() {
            Ok(_) if self.connections.lock().len() >= MAX_CONNECTIONS => {
                return refused(&format_args!("there are {MAX_CONNECTIONS} already"));
            }
            Ok(other) => other,
            Err(error) => return refused(&error),
        };
        if self.pipeline.stop.is_stopped() {
            connection.shut_down();
        }
        self.connections.lock().push((number, connection));
        let listening = self.clone();
        let spawned = spawn("connection", move || {
            let input =
                Input::new(format!("connection {number},"), Box::new(Lines::new(other)), Kind::Socket);
            listening.pipeline.publish(&input);
            listening.connections.lock().retain(|(other, _)| *other != number);
        });
        if let Err(error) = spawned {
            refused(&error);
            self.connections.lock().retain(|(other, _)| *other != number);
        }
    }
}
