//! An input that can wait is held back while a durable sink is far behind, so that the sink loses nothing.

use std::sync::Arc;
use std::time::Instant;

use lapwing::storage::{Batch, Limits, Storage, StorageError};
use lapwing::stream::EventStream;
use parking_lot::{Condvar, Mutex};

/// The memory for large events is held in pages, of which each holds a little less.
const PAGE: u64 = 4096;
const PAGE_HOLDS: u64 = 4032;

/// How far the durable sinks are, and how far ahead of them the input may be.
pub struct Pace {
    /// How many seqs ahead, so that no publisher overwrites what a sink has not got.
    ahead: u64,
    /// How many bytes of large events may come between two of which the second waits for the sinks to have everything up to the first.
    large: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What each durable sink has got; [`u64::MAX`] when it will not take any more.
    settled: Vec<u64>,
    given_up: bool,
    /// Bytes of large events since they were last waited for, and the seq up to which they are waited for next time.
    large: u64,
    wanted: u64,
}

impl State {
    fn settled(&self) -> u64 {
        self.settled.iter().copied().min().unwrap_or(u64::MAX)
    }
}

impl Pace {
    /// For so many publishers.
    pub fn new(stream: &EventStream, large_bytes: usize, publishers: u64) -> Self {
        let events = stream.events();
        let largest = pages(stream.max_envelope_bytes());
        Self {
            // Each publisher may be one event further than it knows.
            ahead: (events / 2).min(events.saturating_sub(publishers)).max(1),
            large: (large_bytes as u64 / 2).saturating_sub(publishers * largest),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Waits until an event may be published after the seq `last`. Returns the seq up to which there is no need to ask again, or nothing
    /// when there is no use in waiting any more.
    pub fn admit(&self, last: u64) -> Option<u64> {
        let mut state = self.state.lock();
        loop {
            if state.given_up {
                return None;
            }
            let allowed = state.settled().saturating_add(self.ahead);
            if last < allowed {
                return Some(allowed);
            }
            self.changed.wait(&mut state);
        }
    }

    /// Waits until an event of so many bytes, which are too many for a slot, may be published. `newest` is the newest seq.
    pub fn admit_large(&self, bytes: usize, newest: impl Fn() -> u64) {
        let bytes = pages(bytes);
        let mut state = self.state.lock();
        if state.large + bytes > self.large {
            let wanted = state.wanted;
            self.changed.wait_while(&mut state, |state| !state.given_up && state.settled() < wanted);
            (state.large, state.wanted) = (0, newest());
        }
        state.large += bytes;
    }

    /// Nobody has to wait any more.
    pub fn give_up(&self) {
        self.change(|state| state.given_up = true);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.changed.notify_all();
    }

    /// A durable sink, whose storage this is.
    pub fn watch<S: Storage>(self: &Arc<Self>, storage: S, settled: fn(&S, u64) -> u64) -> Watched<S> {
        let mut state = self.state.lock();
        state.settled.push(0);
        Watched { storage, settled, pace: Arc::clone(self), index: state.settled.len() - 1, appended: 0 }
    }
}

fn pages(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(PAGE_HOLDS) * PAGE
}

/// A storage that tells the pace how far it is.
pub struct Watched<S> {
    storage: S,
    /// What it has got for good, by the last seq that was appended.
    settled: fn(&S, u64) -> u64,
    pace: Arc<Pace>,
    index: usize,
    appended: u64,
}

impl<S: Storage> Watched<S> {
    fn told<R>(&mut self, result: Result<R, StorageError>) -> Result<R, StorageError> {
        match result {
            Err(StorageError::Rewind { after, .. }) => self.appended = after,
            // A sink that takes nothing any more holds nobody back.
            Err(StorageError::Fatal(_)) => self.appended = u64::MAX,
            _ => {}
        }
        let settled =
            if self.appended == u64::MAX { u64::MAX } else { (self.settled)(&self.storage, self.appended) };
        self.pace.change(|state| state.settled[self.index] = settled);
        result
    }
}

impl<S: Storage> Storage for Watched<S> {
    fn append(&mut self, batch: &Batch) -> Result<(), StorageError> {
        let result = self.storage.append(batch);
        if result.is_ok() {
            self.appended = batch.last_seq().unwrap_or(self.appended);
        }
        self.told(result)
    }

    fn idle(&mut self) -> Result<Option<Instant>, StorageError> {
        let result = self.storage.idle();
        self.told(result)
    }

    fn durable(&self) -> Option<u64> {
        self.storage.durable()
    }

    fn close(&mut self, deadline: Instant) -> Result<(), StorageError> {
        let result = self.storage.close(deadline);
        self.told(result)
    }

    fn limits(&self) -> Limits {
        self.storage.limits()
    }
}

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        self.pace.change(|state| state.settled[self.index] = u64::MAX);
    }
}
