//! The server as its clients see it: real connections, and what is sent over them byte for byte.

mod bounds;
mod http;
mod posts;
mod sse;
mod told;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use lapwing::serve::{ServeError, Server};
use lapwing::stream::{Config, EventStream};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

/// A server on a thread of its own, with a runtime of two more, until it is stopped.
pub struct Served {
    pub stream: Arc<EventStream>,
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<usize, ServeError>>>,
}

impl Served {
    /// 64 events, and 1 MiB of memory for large ones.
    pub fn start() -> Self {
        Self::with(Config::new().events(64).large_bytes(1 << 20), |server| server)
    }

    pub fn with(config: Config, configure: impl FnOnce(Server) -> Server) -> Self {
        let stream = Arc::new(config.build().unwrap());
        let runtime = runtime();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let server = configure(Server::new(Arc::clone(&stream)));
        let (stop, stopped) = oneshot::channel();
        let thread =
            std::thread::spawn(move || runtime.block_on(server.serve(listener, async { _ = stopped.await })));
        Self { stream, address, stop: Some(stop), thread: Some(thread) }
    }

    /// The epoch as ids have it.
    pub fn epoch(&self) -> String {
        format!("{:016x}", self.stream.epoch())
    }

    /// Tells the server to stop.
    pub fn stop(&mut self) {
        drop(self.stop.take());
    }

    /// Stops the server, and says how many clients it cut off.
    pub fn cut_off(mut self) -> usize {
        self.stop();
        self.thread.take().unwrap().join().unwrap().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let served = thread.join();
            assert!(std::thread::panicking() || served.unwrap().is_ok());
        }
    }
}

/// Set when this is dropped: also when a test fails, so that no thread goes on for ever.
pub struct SetAtEnd<'a>(pub &'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

pub fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// An event of this category and type, as it is published.
pub fn event(category: &str, r#type: &str) -> String {
    format!(
        r#"{{"ts":7,"type":"{type}","category":"{category}","source":{{"kind":"cdp"}},"data":{{"a":1}}}}"#
    )
}

/// Publishes as many events as are asked for; they all look like this.
pub fn publish(stream: &EventStream, count: usize) {
    let event = event("console", "console_log");
    (0..count).for_each(|_| _ = stream.publish_json(event.as_bytes()).unwrap());
}
