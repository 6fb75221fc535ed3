//! What wakes the clients: one task waits in the stream for all of them.
//!
//! A publisher that finds a waiting reader makes the system calls that wake it. A thousand of them would cost it a millisecond; so there
//! is one at most, and that one is not waiting while events flow: it looks at the clock instead.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::task::AbortHandle;

use crate::stream::{Handle, Watch};
use crate::sync::Mutex;

/// How often it looks while events flow: the longest that an event waits, and small beside what a network takes.
const TICK: Duration = Duration::from_millis(10);
/// After so many looks without a new event it waits in the stream.
const QUIET_TICKS: u32 = 10;

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
            let (stream, beat) = (self.stream.clone(), Arc::clone(&self.beat));
            clients.pump = Some(tokio::spawn(pump(stream, beat)).abort_handle());
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
    let watch = stream.watch();
    let mut told = stream.seq();
    let mut quiet = QUIET_TICKS;
    loop {
        if quiet >= QUIET_TICKS {
            if wait(&watch, &beat).await {
                quiet = 0;
            }
            told = stream.seq();
            beat.notify_waiters();
        }
        tokio::time::sleep(TICK).await;
        // What is claimed may not be there yet, and comes without a beat of its own then: with the next event, or when it is quiet.
        let seq = stream.seq();
        if seq == told {
            quiet = quiet.saturating_add(1);
        } else {
            (told, quiet) = (seq, 0);
            beat.notify_waiters();
        }
    }
}

/// Waits in the stream. False when nobody there would wake it.
async fn wait(watch: &Watch, beat: &Notify) -> bool {
    let mut registered = false;
    poll_fn(|cx| {
        if registered {
            return Poll::Ready(true);
        }
        registered = true;
        if !watch.register(cx.waker()) {
            return Poll::Ready(false);
        }
        // All that came before the registration is found now, and all that comes after it wakes this task.
        beat.notify_waiters();
        Poll::Pending
    })
    .await
}
