//! What ends a relay before its input ends.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Told once, seen by everybody, and nobody sleeps through it.
#[derive(Default)]
pub struct Stop {
    at: OnceLock<Instant>,
    asleep: Mutex<()>,
    changed: Condvar,
}

impl Stop {
    /// No more input is to be taken.
    pub fn stop(&self) {
        // Under the lock, so that nobody goes to sleep in between.
        let _asleep = self.asleep.lock();
        self.at.get_or_init(Instant::now);
        self.changed.notify_all();
    }

    pub fn is_stopped(&self) -> bool {
        self.at.get().is_some()
    }

    pub fn stopped_at(&self) -> Option<Instant> {
        self.at.get().copied()
    }

    /// Sleeps for so long, or until it is told to stop.
    pub fn sleep(&self, time: Duration) {
        self.sleep_until(Instant::now() + time);
    }

    pub fn sleep_until(&self, until: Instant) {
        let mut asleep = self.asleep.lock();
        while !self.is_stopped() && !self.changed.wait_until(&mut asleep, until).timed_out() {}
    }
}
