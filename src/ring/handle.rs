//! What publishers and readers of one ring share, and how a ring looks from outside.

use alloc::sync::Arc;
use core::fmt;
use core::ops::Range;
use core::sync::atomic::Ordering::Relaxed;

use super::error::{PositionError, PublishError};
use super::slots::{Claimed, Slots, Step, Written};
use super::{Bytes, Payload};
use crate::sync::{AtomicU64, CLAIM_TRIES};
#[cfg(feature = "std")]
use crate::wait::WaitList;

/// What readers do while there is nothing to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wait {
    /// Look for a few microseconds, then sleep until a publisher wakes them. A publisher pays one load to see
    /// that nobody sleeps (on Linux; elsewhere also a full fence), a few locked instructions once after somebody has
    /// waited, and the system calls that wake whoever sleeps.
    #[default]
    Park,
    /// Never sleep: a waiting reader looks again and again, at the cost of a whole core. A publisher pays nothing.
    Spin,
}

/// What publishers, readers and handles of one ring share.
pub(super) struct Shared<P: Payload> {
    pub(super) slots: Slots<P>,
    pub(super) lane: P::Lane,
    pub(super) slot_bytes: usize,
    #[cfg(feature = "std")]
    pub(super) waiters: Option<WaitList>,
    pub(super) wait: Wait,
    pub(super) overruns: AtomicU64,
    pub(super) abandoned: AtomicU64,
}

impl<P: Payload> Shared<P> {
    /// To be called when anything has changed for readers.
    #[inline(always)]
    pub(super) fn notify(&self) {
        #[cfg(feature = "std")]
        if let Some(waiters) = &self.waiters {
            waiters.notify();
        }
    }

    pub(super) fn close(&self) -> bool {
        let closed = self.slots.close();
        #[cfg(feature = "std")]
        if let (true, Some(waiters)) = (closed, &self.waiters) {
            waiters.wake_all();
        }
        closed
    }

    pub(super) fn check_len(&self, len: usize) -> Result<(), PublishError> {
        if len > self.slot_bytes {
            return Err(PublishError::TooLarge { len, slot_bytes: self.slot_bytes });
        }
        Ok(())
    }

    fn max_tries(&self) -> u64 {
        CLAIM_TRIES.min(self.slots.capacity())
    }

    #[inline(always)]
    fn write(&self, seq: u64, fill: impl FnOnce(Claimed<'_>), step: &mut impl FnMut(Step, u64)) -> bool {
        match self.slots.write(seq, self.slots.slot_of(seq), fill, step) {
            Written::Committed => return true,
            Written::Overrun => self.overruns.fetch_add(1, Relaxed),
            Written::Abandoned => return false,
        };
        true
    }

    #[inline(always)]
    pub(super) fn publish(
        &self,
        fill: impl Fn(Claimed<'_>),
        mut step: impl FnMut(Step, u64),
    ) -> Result<u64, PublishError> {
        let mut tried = 0;
        let result = loop {
            let Some(seq) = self.slots.claim(1) else { break Err(PublishError::Closed) };
            #[expect(clippy::redundant_closure)] // a reference to `fill` would be called, not inlined
            if self.write(seq, |claimed| fill(claimed), &mut step) {
                break Ok(seq);
            }
            tried += 1;
            if tried == self.max_tries() {
                break Err(PublishError::Stalled { tried });
            }
        };
        self.given_up(tried);
        self.notify();
        result
    }

    #[inline(always)]
    fn given_up(&self, seqs: u64) {
        if seqs != 0 {
            self.abandoned.fetch_add(seqs, Relaxed);
        }
    }

    /// Publishes `n` events, of which `fill` writes the one at an index. On an error, with how many before it.
    pub(super) fn publish_batch(
        &self,
        n: usize,
        fill: impl Fn(usize, Claimed<'_>),
    ) -> Result<Range<u64>, (usize, PublishError)> {
        let mut done = 0;
        let mut seqs = 0..0;
        let mut tried = 0; // since the last event that went in
        let mut result = Ok(());
        while done < n && result.is_ok() {
            let claimed = ((n - done) as u64).min(self.slots.capacity());
            let Some(first) = self.slots.claim(claimed) else {
                result = Err(PublishError::Closed);
                break;
            };
            let mut given_up = 0;
            for seq in first..first + claimed {
                if result.is_err() {
                    self.slots.abandon(seq);
                    given_up += 1;
                } else if self.write(seq, |claimed| fill(done, claimed), &mut |_, _| ()) {
                    if done == 0 {
                        seqs.start = seq;
                    }
                    seqs.end = seq + 1;
                    done += 1;
                    tried = 0;
                } else {
                    tried += 1;
                    given_up += 1;
                    if tried == self.max_tries() {
                        result = Err(PublishError::Stalled { tried });
                    }
                }
            }
            self.given_up(given_up);
            self.notify();
        }
        result.map(|()| seqs).map_err(|error| (done, error))
    }
}

/// A ring seen from outside, for those who do not publish: it makes readers and tells how things stand. It can
/// be cloned, and does not keep the ring from being closed.
pub struct Handle<P: Payload = Bytes> {
    pub(super) shared: Arc<Shared<P>>,
}

impl<P: Payload> Clone for Handle<P> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<P: Payload> Handle<P> {
    pub(super) fn position_after(&self, seq: u64) -> Result<u64, PositionError> {
        let newest = self.newest();
        if seq > newest { Err(PositionError { given: seq, newest }) } else { Ok(seq + 1) }
    }

    /// The last claimed seq; one before the first, if there is none. Its event may still be on its way.
    pub fn newest(&self) -> u64 {
        self.shared.slots.newest()
    }

    /// The oldest seq that can still be there.
    pub fn oldest(&self) -> u64 {
        self.shared.slots.oldest()
    }

    /// The last seq up to which a reader waits for none: each one is readable, or overwritten, or given up.
    /// Costs one look at every slot.
    pub fn readable(&self) -> u64 {
        self.shared.slots.readable()
    }

    /// How many events the ring holds.
    pub fn capacity(&self) -> u64 {
        self.shared.slots.capacity()
    }

    /// The most bytes a payload can have.
    pub fn slot_bytes(&self) -> usize {
        self.shared.slot_bytes
    }

    /// The bytes of memory that the slots take.
    pub fn memory(&self) -> usize {
        self.shared.slots.memory()
    }

    /// Whether the ring takes no more events. Readers still get what is there.
    pub fn is_closed(&self) -> bool {
        self.shared.slots.is_closed()
    }

    /// What readers do while there is nothing to read.
    pub fn wait(&self) -> Wait {
        self.shared.wait
    }

    /// How many events were overwritten before their publisher could write them: it was stopped for a whole lap.
    /// Readers count them as dropped.
    pub fn overruns(&self) -> u64 {
        self.shared.overruns.load(Relaxed)
    }

    /// How many numbers were given up because an earlier event was still being written to their slot. Readers
    /// count them as dropped: what was published, and this, is what was delivered, skipped and dropped.
    pub fn abandoned(&self) -> u64 {
        self.shared.abandoned.load(Relaxed)
    }
}

impl<P: Payload> fmt::Debug for Handle<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("capacity", &self.capacity())
            .field("slot_bytes", &self.slot_bytes())
            .field("newest", &self.newest())
            .finish_non_exhaustive()
    }
}
