//! The thread that the network is served by.

use std::future::Future;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::S2Error;

/// A runtime with a thread of its own, so that whoever calls needs none, and may be in one. Dropping it ends what is spawned, and waits for no
/// answer from the network.
#[derive(Debug)]
pub(super) struct Runtime {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Runtime {
    pub(super) fn start() -> Result<Self, S2Error> {
        let (stop, stopped) = oneshot::channel();
        let (started, start) = mpsc::channel();
        let serve = move || match Builder::new_current_thread().enable_io().enable_time().build() {
            Ok(runtime) => {
                let _ = started.send(Ok(runtime.handle().clone()));
                let _ = runtime.block_on(stopped); // until it is dropped
                runtime.shutdown_background();
            }
            Err(error) => _ = started.send(Err(error)),
        };
        let thread = thread::Builder::new().name("lapwing s2".into()).spawn(serve);
        let thread = thread.map_err(|error| S2Error::Thread(error.to_string()))?;
        match start.recv() {
            Ok(Ok(handle)) => Ok(Self { handle, stop: Some(stop), thread: Some(thread) }),
            Ok(Err(error)) => Err(S2Error::Thread(error.to_string())),
            Err(_) => Err(S2Error::Thread("it ended".into())),
        }
    }

    pub(super) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(future);
    }

    /// Waits for what the future gives, without being in the runtime.
    pub(super) fn call<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, S2Error> {
        let (done, result) = mpsc::channel();
        self.spawn(async move { _ = done.send(future.await) });
        result.recv().map_err(|_| S2Error::Thread("it ended".into()))
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
