//! The slot protocol: both sides of it, and the end of a ring.
//!
//! One allocation of words, without a pointer in it:
//!
//! ```text
//! | head | end | slot 0 | slot 1 | ... | abandoned 0 | abandoned 1 | ... |
//! slot: | stamp | words of the payload |
//! ```
//!
//! - `head`: the last claimed seq, times two, plus one when the ring is closed;
//! - `end`: the last seq of a closed ring; `OPEN` before;
//! - `stamp`: a seq times two, plus one while it is being written; 0 when the slot was never written;
//! - `abandoned`: the highest seq of that slot whose publisher found it in writing and gave the seq up.

use alloc::vec::Vec;
use core::hint::black_box;
use core::marker::PhantomData;
use core::sync::atomic::Ordering::Relaxed;

use super::error::ConfigError;
use super::sealed::Sealed;
use crate::sync::{
    AtomicU64, CLAIM_A, CLAIM_SPINS, CLOSE_R, CLOSED_A, COMMIT_R, IS_MODEL, LINE_WORDS, READ_A, READ_F,
    WRITE_F, spin,
};

/// The last seq that a ring gives: a ring that is asked for another one closes itself.
///
/// At a billion events a second that takes 146 years. Above it lies room for the claims of publishers that have
/// not noticed yet, so that no number ever wraps.
pub const MAX_SEQ: u64 = (1 << 62) - 1;

const CLOSED: u64 = 1;
const WRITING: u64 = 1;
const OPEN: u64 = u64::MAX;

/// How many slots ahead a publisher prefetches.
const PUBLISHER_AHEAD: u64 = 2;
/// How many slots ahead a reader prefetches, once it has read more than so many since it found nothing.
pub(super) const READER_AHEAD: u64 = 3;

const HEAD: usize = 0;
const END: usize = LINE_WORDS;
const SLOTS: usize = 2 * LINE_WORDS;

/// Where a publisher stands between its claim and its commit. The tests stop one there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// It has a seq, and has not looked at the slot.
    Claimed,
    /// The slot's stamp says that it is being written.
    Writing,
    /// The payload is in the slot, the stamp not yet.
    Written,
}

/// A slot in the hands of the publisher that claimed it, to be filled.
pub(crate) struct Claimed<'a> {
    #[cfg_attr(not(feature = "std"), allow(dead_code))] // for what is built on the ring
    pub(crate) seq: u64,
    #[cfg_attr(not(feature = "std"), allow(dead_code))]
    pub(crate) slot: u64,
    /// The payload's words.
    pub(crate) words: &'a [AtomicU64],
    /// How many bytes further on the slot lies that is worth a prefetch.
    pub(crate) ahead: usize,
}

/// What a publisher found at the slot of a seq that it claimed.
#[derive(Debug, PartialEq)]
pub(crate) enum Written {
    /// The event is there.
    Committed,
    /// A later event already was: this one counts as published, and overwritten.
    Overrun,
    /// An earlier event is still being written: the seq is given up.
    Abandoned,
}

/// What a reader found at its position instead of an event.
pub(crate) enum Absent {
    /// Everything from the position up to and with this seq is lost to this reader.
    Dropped(u64),
    /// Nothing yet.
    Nothing,
    /// Nothing any more.
    Closed,
}

/// Allocation and protocol of a ring, for one kind of payload.
pub(crate) struct Slots<P> {
    /// At least `base + SLOTS + capacity * (stride + 1)` of them, with `capacity` and `stride` at least 1.
    words: Vec<AtomicU64>,
    /// Index of the head: the first word aligned to a pair of cache lines.
    base: usize,
    capacity: u64,
    stride: usize,
    first_seq: u64,
    /// `2^(63 + shift) / capacity`, rounded up, for a remainder without a division.
    reciprocal: u64,
    shift: u32,
    payload: PhantomData<fn(P) -> P>,
}

/// The slots by themselves. A copy of it stays in registers, where what [`Slots`] holds is loaded again after every
/// access to an atomic word.
#[derive(Clone, Copy)]
pub(crate) struct View<'a, P> {
    /// `capacity * stride` of them.
    words: &'a [AtomicU64],
    capacity: u64,
    stride: usize,
    payload: PhantomData<fn(P) -> P>,
}

/// So many words of 0, all of them touched.
pub(super) fn words(len: usize) -> Result<Vec<AtomicU64>, ConfigError> {
    let mut words = Vec::new();
    let bytes = len.saturating_mul(size_of::<AtomicU64>());
    words.try_reserve_exact(len).map_err(|_| ConfigError::OutOfMemory { bytes })?;
    words.resize_with(len, || AtomicU64::new(0));
    Ok(words)
}

impl<'a, P: Sealed> View<'a, P> {
    /// The slot after `slot`.
    #[inline(always)]
    pub(crate) fn after(&self, slot: u64) -> u64 {
        // The black box keeps this a branch, which is predicted: the next event would wait for a conditional move.
        if slot + 1 == self.capacity { black_box(0) } else { slot + 1 }
    }

    /// Stamp and payload of a slot.
    #[inline(always)]
    fn slot(&self, slot: u64) -> (&'a AtomicU64, &'a [AtomicU64]) {
        assert!(slot < self.capacity);
        let at = slot as usize * self.stride;
        // SAFETY: there are `stride` words, and at least one, for each slot below `capacity`.
        unsafe { (self.words.get_unchecked(at), self.words.get_unchecked(at + 1..at + self.stride)) }
    }

    /// How many bytes further than `slot` the slot lies that comes `n` later: what to prefetch.
    #[inline(always)]
    fn ahead(&self, slot: u64, n: u64) -> usize {
        let soon = if slot + n < self.capacity { slot + n } else { 0 };
        (soon.wrapping_sub(slot) as usize).wrapping_mul(self.stride * size_of::<AtomicU64>())
    }

    /// Writes the event of the only publisher there is.
    #[inline(always)]
    pub(crate) fn write_exclusive(&self, seq: u64, slot: u64, fill: impl FnOnce(Claimed<'_>)) {
        let (stamp, _) = self.slot(slot);
        stamp.store(seq << 1 | WRITING, Relaxed);
        self.fill(seq, slot, fill, &mut |_, _| ());
    }

    /// The rest of a publish, once the stamp says that this seq is being written.
    #[inline(always)]
    fn fill(&self, seq: u64, slot: u64, fill: impl FnOnce(Claimed<'_>), step: &mut impl FnMut(Step, u64)) {
        let (stamp, words) = self.slot(slot);
        // write:F, with read:F. Without it, a reader could see our words under the stamp of the event before.
        WRITE_F.fence();
        fill(Claimed { seq, slot, words, ahead: self.ahead(slot, PUBLISHER_AHEAD) });
        step(Step::Written, seq);
        // commit:R, with read:A and claim:A. Without it, a reader could see our stamp before our words.
        stamp.store(seq << 1, COMMIT_R.order());
    }

    /// Looks at the event of `next`, whose slot is `slot`. What `read` saw is thrown away if a publisher came
    /// meanwhile: the slot's stamp is returned then, or when the event is not there, for [`absent`](Slots::absent).
    /// `read` also gets how far ahead to prefetch.
    #[inline(always)]
    pub(crate) fn read<R>(
        &self,
        next: u64,
        slot: u64,
        read: impl FnOnce(&[AtomicU64], usize) -> R,
    ) -> Result<R, u64> {
        let (stamp, words) = self.slot(slot);
        // read:A, with commit:R.
        let seen = stamp.load(READ_A.order());
        if seen != next << 1 {
            return Err(seen);
        }
        let result = read(words, self.ahead(slot, READER_AHEAD));
        // read:F, with write:F. Without it, the second look at the stamp could come before the words.
        READ_F.fence();
        let seen = stamp.load(Relaxed);
        if seen != next << 1 {
            return Err(seen);
        }
        Ok(result)
    }
}

impl<P: Sealed> Slots<P> {
    /// `stride` is in words, and at least 1. All the memory of the ring is taken and touched here.
    pub(crate) fn new(capacity: u64, stride: usize, first_seq: u64) -> Result<Self, ConfigError> {
        let words = words(Self::len(capacity, stride, first_seq)?)?;
        let align = LINE_WORDS * size_of::<u64>();
        let base = if IS_MODEL { 0 } else { words.as_ptr().align_offset(align) };
        assert!(base < LINE_WORDS, "so much room was left for it");

        let shift = capacity.next_power_of_two().trailing_zeros();
        let reciprocal = (1u128 << (63 + shift)).div_ceil(u128::from(capacity)) as u64;
        let slots =
            Self { words, base, capacity, stride, first_seq, reciprocal, shift, payload: PhantomData };
        slots.head().store((first_seq - 1) << 1, Relaxed);
        slots.end().store(OPEN, Relaxed);
        Ok(slots)
    }

    /// How many words a ring takes.
    pub(crate) fn len(capacity: u64, stride: usize, first_seq: u64) -> Result<usize, ConfigError> {
        if first_seq == 0 || first_seq > MAX_SEQ {
            return Err(ConfigError::FirstSeq { given: first_seq, max: MAX_SEQ });
        }
        let max = Self::max_capacity(stride);
        if capacity == 0 || capacity > max {
            return Err(ConfigError::Capacity { given: capacity, max });
        }
        Ok(LINE_WORDS + SLOTS + capacity as usize * (stride + 1))
    }

    /// How many slots can be addressed.
    pub(crate) const fn max_capacity(stride: usize) -> u64 {
        const MAX_WORDS: usize = isize::MAX as usize / size_of::<u64>();
        ((MAX_WORDS - SLOTS - LINE_WORDS) / (stride + 1)) as u64
    }

    #[inline(always)]
    fn head(&self) -> &AtomicU64 {
        // SAFETY: `words` is as long as its comment says, so that it has the word at `base`.
        unsafe { self.words.get_unchecked(self.base + HEAD) }
    }

    fn end(&self) -> &AtomicU64 {
        &self.words[self.base + END]
    }

    fn abandoned(&self, slot: u64) -> &AtomicU64 {
        &self.words[self.base + SLOTS + self.capacity as usize * self.stride() + slot as usize]
    }

    #[inline(always)]
    fn stride(&self) -> usize {
        P::STRIDE.unwrap_or(self.stride)
    }

    #[inline(always)]
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    pub(crate) fn memory(&self) -> usize {
        size_of_val(&*self.words)
    }

    /// `seq % capacity`, by Granlund and Montgomery's multiplication ("Division by Invariant Integers using
    /// Multiplication", 1994, theorem 4.2, for 63-bit dividends: so the factor fits 64 bits).
    #[inline(always)]
    pub(crate) fn slot_of(&self, seq: u64) -> u64 {
        let quotient = ((u128::from(seq << 1) * u128::from(self.reciprocal)) >> 64) as u64 >> self.shift;
        seq - quotient * self.capacity
    }

    /// The slots, to go through many of them.
    #[inline(always)]
    pub(crate) fn view(&self) -> View<'_, P> {
        let at = self.base + SLOTS;
        // SAFETY: `words` is as long as its comment says, so that from `at` on it has so many.
        let words = unsafe { self.words.get_unchecked(at..at + self.capacity as usize * self.stride()) };
        View { words, capacity: self.capacity, stride: self.stride(), payload: PhantomData }
    }

    /// Stamp and payload of a slot.
    #[inline(always)]
    pub(super) fn slot(&self, slot: u64) -> (&AtomicU64, &[AtomicU64]) {
        self.view().slot(slot)
    }

    // ---- Publishing.

    /// Claims `n` numbers and returns the first; `None` when the ring is closed.
    #[inline(always)]
    pub(crate) fn claim(&self, n: u64) -> Option<u64> {
        // Relaxed: only the numbers are shared out here; what is published goes through the slots' stamps.
        let old = self.head().fetch_add(n << 1, Relaxed);
        if old & CLOSED != 0 {
            return None;
        }
        let first = (old >> 1) + 1;
        if first + (n - 1) > MAX_SEQ {
            self.exhausted(first);
            return None;
        }
        Some(first)
    }

    /// Claims the next number for the only publisher there is.
    #[inline(always)]
    pub(crate) fn claim_exclusive(&self, seq: u64) {
        self.head().store(seq << 1, Relaxed);
    }

    /// Of all claims beyond `MAX_SEQ`, the first one sets the end.
    #[cold]
    fn exhausted(&self, first: u64) {
        if first <= MAX_SEQ + 1 {
            self.head().fetch_or(CLOSED, Relaxed);
            self.set_end(first - 1);
        }
    }

    /// Whether no number is given any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.head().load(Relaxed) & CLOSED != 0
    }

    /// Ends the numbers. False when the ring was closed already.
    pub(crate) fn close(&self) -> bool {
        let last = self.refuse_claims();
        if let Some(last) = last {
            self.set_end(last);
        }
        last.is_some()
    }

    fn set_end(&self, last: u64) {
        // close:R, with closed:A. Without it, a reader that was told "closed" could miss what the closer did before.
        self.end().store(last, CLOSE_R.order());
    }

    /// From now on no number is given. Returns the last one to whoever has to set the end.
    pub(crate) fn refuse_claims(&self) -> Option<u64> {
        let old = self.head().fetch_or(CLOSED, Relaxed);
        Self::last_given(old)
    }

    /// Whether numbers are still given.
    pub(crate) fn is_open(&self) -> bool {
        Self::last_given(self.head().load(Relaxed)).is_some()
    }

    /// The last claimed seq by a head that still gives numbers. Refused claims count a head up too, so that any
    /// other says nothing.
    fn last_given(head: u64) -> Option<u64> {
        (head & CLOSED == 0 && head >> 1 <= MAX_SEQ).then_some(head >> 1)
    }

    /// Writes the event of a claimed seq. Bounded: the slot is never waited for beyond a short spin.
    #[inline(always)]
    pub(crate) fn write(
        &self,
        seq: u64,
        slot: u64,
        fill: impl FnOnce(Claimed<'_>),
        step: &mut impl FnMut(Step, u64),
    ) -> Written {
        let view = self.view();
        let (stamp, _) = view.slot(slot);
        step(Step::Claimed, seq);
        // What a lap without incident leaves there; a stamp of 0 when this is the slot's first event.
        let mut seen = if seq >= self.first_seq + self.capacity { (seq - self.capacity) << 1 } else { 0 };
        let mut spins = 0;
        loop {
            if seen & WRITING == 0 {
                // claim:A, with the earlier publisher's commit:R. Without it, words of that publisher could
                // still land on top of ours.
                match stamp.compare_exchange(seen, seq << 1 | WRITING, CLAIM_A.order(), Relaxed) {
                    Ok(_) => break,
                    Err(now) => seen = now,
                }
            } else {
                spin();
                seen = stamp.load(Relaxed);
            }
            if seen >> 1 > seq {
                return Written::Overrun;
            }
            if spins == CLAIM_SPINS {
                self.abandoned(slot).fetch_max(seq, Relaxed);
                return Written::Abandoned;
            }
            spins += 1;
        }
        step(Step::Writing, seq);
        view.fill(seq, slot, fill, step);
        Written::Committed
    }

    /// Gives a claimed seq up without a look at its slot.
    pub(crate) fn abandon(&self, seq: u64) {
        self.abandoned(self.slot_of(seq)).fetch_max(seq, Relaxed);
    }

    // ---- Reading.

    /// What it means that the slot of `next` has this stamp.
    pub(crate) fn absent(&self, next: u64, slot: u64, stamp: u64) -> Absent {
        if stamp >> 1 > next {
            return self.lapped(stamp >> 1);
        }
        let abandoned = self.abandoned(slot).load(Relaxed);
        if abandoned > next {
            return self.lapped(abandoned);
        }
        if abandoned == next {
            return Absent::Dropped(next);
        }
        if next < self.first_seq {
            return Absent::Dropped(self.first_seq - 1);
        }
        // closed:A, with close:R.
        if next > self.end().load(CLOSED_A.order()) {
            return Absent::Closed;
        }
        Absent::Nothing
    }

    /// A seq at least one lap ahead was seen: all but the last lap is lost.
    fn lapped(&self, seen: u64) -> Absent {
        let to = self.newest_since(seen) - self.capacity;
        Absent::Dropped(to.max(self.first_seq - 1))
    }

    /// The last claimed seq; `first_seq - 1` before the first.
    pub(crate) fn newest(&self) -> u64 {
        self.newest_since(self.first_seq - 1)
    }

    /// The same by a caller that has seen the claim of `floor`, which the head may not show it yet.
    fn newest_since(&self, floor: u64) -> u64 {
        if let Some(last) = Self::last_given(self.head().load(Relaxed)) {
            return floor.max(last);
        }
        match self.end().load(Relaxed) {
            // The closer is about to say. Until then the slots tell of every publish that has returned.
            OPEN => (0..self.capacity).map(|slot| self.newest_of(slot).0).fold(floor, u64::max),
            end => floor.max(end),
        }
    }

    /// The oldest seq that a reader could still find.
    pub(crate) fn oldest(&self) -> u64 {
        self.first_seq.max((self.newest() + 1).saturating_sub(self.capacity))
    }

    /// The last seq up to which each one is readable, or overwritten, or given up. Looks at every slot.
    pub(crate) fn readable(&self) -> u64 {
        let newest = self.newest();
        let unsettled = (0..self.capacity).map(|slot| self.first_unsettled(slot)).min();
        unsettled.map_or(newest, |seq| newest.min(seq - 1))
    }

    /// The newest seq that has come to a slot, and the stamp there.
    fn newest_of(&self, slot: u64) -> (u64, u64) {
        let stamp = self.slot(slot).0.load(Relaxed);
        ((stamp >> 1).max(self.abandoned(slot).load(Relaxed)), stamp)
    }

    /// The first seq of a slot that a reader would have to wait for.
    fn first_unsettled(&self, slot: u64) -> u64 {
        let (settled, stamp) = self.newest_of(slot);
        if stamp & WRITING != 0 && settled == stamp >> 1 {
            settled
        } else if settled == 0 {
            let first = self.slot_of(self.first_seq);
            self.first_seq + if slot >= first { slot - first } else { slot + self.capacity - first }
        } else {
            settled + self.capacity
        }
    }
}
