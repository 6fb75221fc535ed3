//! What wakes the clients: one task looks for all of them, by the clock.
//!
//! They do not wait in the stream, and nobody waits there for them. A publisher that finds a waiting reader makes the system call that wakes it,
//! and may lose its core to whoever was woken: with a thousand clients to be served then, for milliseconds.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::task::AbortHandle;

use crate::stream::Handle;
use crate::sync::Mutex;

/// How often it looks: the longest that an event waits. A look takes a microsecond, and a few nanoseconds for each new event.
const TICK: Duration = Duration::from_millis(10);

pub(super) struct Pulse {
    stream: Handle,
    beat: Arc<Notify>,
    clients: Mutex<Clients>,
}

#[derive(Default)]
struct Clients {
    count: usize,
    /// What wakes them, while there are any.
    pump: Option<AbortHandle>,
}

impl Pulse {
    pub(super) fn new(stream: Handle) -> Arc<Self> {
        Arc::new(Self { stream, beat: Arc::default(), clients: Mutex::new(Clients::default()) })
    }

    /// How many clients there are.
    pub(super) fn clients(&self) -> usize {
        self.clients.lock().count
    }

    /// Makes every client look.
    pub(super) fn beat(&self) {
        self.beat.notify_waiters();
    }

    /// One more client.
    pub(super) fn enter(self: &Arc<Self>) -> Seat {
        let mut clients = self.clients.lock();
        clients.count += 1;
        if clients.pump.is_none() {
            let pump = pump(self.stream.clone(), Arc::clone(&self.beat));
            clients.pump = Some(tokio::spawn(pump).abort_handle());
        }
        drop(clients);
        Seat { pulse: Arc::clone(self) }
    }
}

/// A client's, for as long as it is there.
pub(super) struct Seat {
    pulse: Arc<Pulse>,
}

impl Seat {
    /// Ready after the next beat. What was published before this call may have had its beat already: a client looks between this call and its waiting.
    pub(super) fn next_beat(&self) -> OwnedNotified {
        Arc::clone(&self.pulse.beat).notified_owned()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut clients = self.pulse.clients.lock();
        clients.count -= 1;
        if clients.count == 0
            && let Some(pump) = clients.pump.take()
        {
            pump.abort();
        }
    }
}

async fn pump(stream: Handle, beat: Arc<Notify>) {
    let mut probe = stream.probe();
    // What came before the probe, and after a client's first look.
    beat.notify_waiters();
    loop {
        tokio::time::sleep(TICK).await;
        if probe.has_news() {
            beat.notify_waiters();
        }
    }
}
