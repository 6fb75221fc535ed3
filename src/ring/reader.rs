//! Reading: positions, filters, and the ways to wait.

use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

use super::error::{PositionError, TryReadError};
use super::handle::{Handle, Shared};
use super::slots::{Absent, READER_AHEAD};
use super::{Bytes, Dropped, Payload, Read, Typed, copy};
use crate::sync::AtomicU64;

const FILTER_WORDS: usize = (u16::MAX as usize + 1) / 64;
/// One bit for every tag that is wanted.
type Filter = [u64; FILTER_WORDS];

/// A position in a ring, and a buffer that events are copied into.
///
/// ```
/// use lapwing::ring::{Read, Ring, TryReadError};
///
/// let ring = Ring::new(2, 16)?;
/// for word in ["one", "two", "three"] {
///     ring.publish(word.as_bytes())?;
/// }
/// let mut reader = ring.reader_after(0)?;
/// assert!(matches!(reader.try_read()?, Read::Dropped(dropped) if (dropped.from, dropped.to) == (1, 1)));
/// assert_eq!(reader.try_read()?.event().unwrap().bytes, b"two");
/// assert_eq!(reader.try_read()?.event().unwrap().bytes, b"three");
/// assert_eq!(reader.try_read(), Err(TryReadError::Empty));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Every reader sees every event. A clone starts at the same position, with the same filter. A reader keeps the
/// ring's memory, but does not keep it open.
///
/// Reads take no memory, but for the first time that a reader sleeps on a thread.
pub struct Reader<P: Payload = Bytes> {
    handle: Handle<P>,
    next: u64,
    /// The slot of `next`.
    slot: u64,
    /// `next` when it was not there the last time.
    missed: u64,
    buffer: P::Buffer,
    filter: Option<Arc<Filter>>,
    skipped: u64,
    /// Told the last seq that this reader is done with, whenever it found nothing.
    #[cfg(feature = "std")]
    pub(crate) position: Option<Arc<AtomicU64>>,
    #[cfg(feature = "std")]
    waiting: waiting::Waiting,
}

/// A reader of a [`TypedRing`](super::TypedRing).
pub type TypedReader<T> = Reader<Typed<T>>;

/// Why a look gave neither an event nor a loss.
enum Miss {
    /// There is none yet.
    Empty,
    /// There will be none.
    Closed,
    /// The filter has skipped so many that it is time to look around.
    Pause,
}

/// How many events a filter skips in one go: about a microsecond's worth.
const SKIP_STEP: u64 = 1024;

/// A seq, and what is known of the event in the buffer.
type Found<P> = (u64, <P as Payload>::Meta);

impl<P: Payload> Handle<P> {
    /// A reader that starts with the oldest event there is.
    pub fn reader_from_oldest(&self) -> Reader<P> {
        Reader::new(self, self.shared.slots.oldest())
    }

    /// A reader that starts after everything that is [`readable`](Self::readable) now: it gets what
    /// is still being written, and all that is published later. Costs one look at every slot.
    pub fn reader_from_now(&self) -> Reader<P> {
        Reader::new(self, self.readable() + 1)
    }

    /// A reader that starts after the event `seq`: 0 before the first one, the newest for what comes next. When
    /// what follows `seq` is overwritten already, the first read says so.
    ///
    /// # Errors
    ///
    /// When `seq` is beyond the newest event: such a position is not of this ring.
    pub fn reader_after(&self, seq: u64) -> Result<Reader<P>, PositionError> {
        Ok(Reader::new(self, self.position_after(seq)?))
    }

    /// What a reader reads into.
    #[cfg(feature = "serve")]
    pub(crate) fn new_buffer(&self) -> P::Buffer {
        P::buffer(self.shared.slot_bytes, &self.shared.lane)
    }
}

impl<P: Payload> Reader<P> {
    fn new(handle: &Handle<P>, next: u64) -> Self {
        let shared = &handle.shared;
        Self {
            next,
            slot: shared.slots.slot_of(next),
            missed: next,
            buffer: P::buffer(shared.slot_bytes, &shared.lane),
            filter: None,
            skipped: 0,
            #[cfg(feature = "std")]
            position: None,
            #[cfg(feature = "std")]
            waiting: waiting::Waiting::new(shared.waiters.as_ref()),
            handle: handle.clone(),
        }
    }

    fn shared(&self) -> &Shared<P> {
        &self.handle.shared
    }

    /// The ring.
    pub fn handle(&self) -> &Handle<P> {
        &self.handle
    }

    /// The seq that the next read looks for.
    pub fn next_seq(&self) -> u64 {
        self.next
    }

    /// How many events are claimed that this reader has not read, of which it has lost those beyond the ring's
    /// capacity.
    pub fn lag(&self) -> u64 {
        (self.shared().slots.newest() + 1).saturating_sub(self.next)
    }

    /// How many events the filter has skipped.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Moves to the oldest event there is.
    pub fn move_to_oldest(&mut self) {
        self.move_to(self.shared().slots.oldest());
    }

    /// Moves to what comes after everything that is readable now. See [`Handle::reader_from_now`].
    pub fn move_to_now(&mut self) {
        self.move_to(self.shared().slots.readable() + 1);
    }

    /// Moves to what comes after `seq`. See [`Handle::reader_after`].
    ///
    /// # Errors
    ///
    /// When `seq` is beyond the newest event. The reader stays where it is.
    pub fn move_after(&mut self, seq: u64) -> Result<(), PositionError> {
        self.move_to(self.handle.position_after(seq)?);
        Ok(())
    }

    fn move_to(&mut self, next: u64) {
        self.next = next;
        self.slot = self.shared().slots.slot_of(next);
    }

    /// The next event, or what was lost before it, without waiting.
    ///
    /// Costs a copy of the event's bytes. With a filter it goes on until it meets a wanted event, a loss, or the
    /// newest event; a skipped one costs two looks at its stamp and one at its tag.
    ///
    /// # Errors
    ///
    /// [`TryReadError::Empty`] when there is no event yet, [`TryReadError::Closed`] when there will be none.
    #[inline(always)]
    pub fn try_read(&mut self) -> Result<Read<P::Event<'_>>, TryReadError> {
        let found = self.poll()?;
        Ok(self.hand_out(found))
    }

    #[inline(always)]
    fn hand_out(&mut self, found: Read<Found<P>>) -> Read<P::Event<'_>> {
        found.map(|(seq, meta)| P::event(seq, meta, &mut self.buffer))
    }

    #[inline(always)]
    fn poll(&mut self) -> Result<Read<Found<P>>, TryReadError> {
        loop {
            match self.step() {
                Ok(found) => return Ok(found),
                Err(Miss::Empty) => return Err(TryReadError::Empty),
                Err(Miss::Closed) => return Err(TryReadError::Closed),
                Err(Miss::Pause) => {}
            }
        }
    }

    /// One look, or so many events skipped.
    #[inline(always)]
    fn step(&mut self) -> Result<Read<Found<P>>, Miss> {
        self.load().map(Read::Event).or_else(|stamp| self.miss(stamp).map(Read::Dropped))
    }

    /// Copies the next wanted event into the buffer.
    #[inline(always)]
    fn load(&mut self) -> Result<Found<P>, u64> {
        // Close behind a publisher, a prefetch would take from its hands what it is about to write.
        let is_close = self.next.wrapping_sub(self.missed) <= READER_AHEAD;
        if self.filter.is_some() {
            self.skip_unwanted()?;
        }
        let (seq, meta) =
            self.advance(|_, words, ahead, buffer| P::load(words, if is_close { 0 } else { ahead }, buffer))?;
        Ok((seq, P::settle(&self.handle.shared.lane, meta, &mut self.buffer)))
    }

    /// Takes the next event by `look`, whose result is discarded if a publisher came meanwhile. If it is not there,
    /// stays before it and returns the stamp of its slot.
    #[inline(always)]
    fn advance<R>(
        &mut self,
        look: impl FnOnce(u64, &[AtomicU64], usize, &mut P::Buffer) -> R,
    ) -> Result<(u64, R), u64> {
        let slots = self.handle.shared.slots.view();
        let (seq, slot) = (self.next, self.slot);
        let result = slots.read(seq, slot, |words, ahead| look(seq, words, ahead, &mut self.buffer))?;
        (self.next, self.slot) = (seq + 1, slots.after(slot));
        Ok((seq, result))
    }

    /// Goes on to the first event that the filter wants, or to a slot without the event that it should have,
    /// whose stamp is returned. After so many events, stops before the next one and returns that one's own stamp.
    #[inline(never)]
    fn skip_unwanted(&mut self) -> Result<(), u64> {
        let Some(filter) = self.filter.as_deref() else { return Ok(()) };
        let slots = self.handle.shared.slots.view();
        let (mut next, mut slot) = (self.next, self.slot);
        let seen = loop {
            if next - self.next == SKIP_STEP {
                break Err(next << 1);
            }
            match slots.read(next, slot, |words, _| wants(filter, P::tag(words))) {
                Ok(false) => {
                    next += 1;
                    slot = slots.after(slot);
                }
                Ok(true) => break Ok(()),
                Err(stamp) => break Err(stamp),
            }
        };
        self.skipped += next - self.next;
        (self.next, self.slot) = (next, slot);
        seen
    }

    /// The slot of the next event has another stamp than its own, or so many were skipped before it.
    #[cold]
    #[inline(never)]
    fn miss(&mut self, stamp: u64) -> Result<Dropped, Miss> {
        #[cfg(feature = "std")]
        if let Some(position) = &self.position {
            position.store(self.next - 1, Relaxed);
        }
        if stamp == self.next << 1 {
            return Err(Miss::Pause);
        }
        match self.shared().slots.absent(self.next, self.slot, stamp) {
            Absent::Dropped(to) => {
                let dropped = Dropped { from: self.next, to };
                self.move_to(to + 1);
                Ok(dropped)
            }
            Absent::Nothing => {
                self.missed = self.next;
                Err(Miss::Empty)
            }
            Absent::Closed => Err(Miss::Closed),
        }
    }

    /// Puts a buffer of the same ring in the place of the one that it reads into.
    #[cfg(feature = "serve")]
    pub(crate) fn swap_buffer(&mut self, buffer: &mut P::Buffer) {
        core::mem::swap(&mut self.buffer, buffer);
    }

    pub(crate) fn filter_by(&mut self, mut wanted: impl FnMut(u16) -> bool) {
        let mut filter: Filter = [0; FILTER_WORDS];
        for tag in 0..=u16::MAX {
            filter[usize::from(tag / 64)] |= u64::from(wanted(tag)) << (tag % 64);
        }
        self.filter = Some(Arc::new(filter));
    }

    #[cfg(feature = "std")]
    pub(crate) fn unfilter(&mut self) {
        self.filter = None;
    }

    /// Hands up to `max` events (at least 1) to `each`, one after the other in the reader's buffer, without
    /// waiting. Returns how many; fewer than `max` when there are no more, when a loss comes next, which the
    /// next read tells, or when the filter has skipped a thousand in a row, so that what was handed out waits
    /// no longer.
    ///
    /// # Errors
    ///
    /// Those of [`try_read`](Self::try_read), when there is not even one.
    pub fn try_read_batch(
        &mut self,
        max: usize,
        mut each: impl FnMut(P::Event<'_>),
    ) -> Result<Read<usize>, TryReadError> {
        let first = self.poll()?;
        Ok(self.rest_of_batch(first, max, &mut each))
    }

    /// Goes on after the first read of a batch.
    #[inline(always)]
    fn rest_of_batch(
        &mut self,
        first: Read<Found<P>>,
        max: usize,
        each: &mut impl FnMut(P::Event<'_>),
    ) -> Read<usize> {
        let (seq, meta) = match first {
            Read::Event(found) => found,
            Read::Dropped(dropped) => return Read::Dropped(dropped),
        };
        each(P::event(seq, meta, &mut self.buffer));
        let mut count = 1;
        while count < max
            && let Ok((seq, meta)) = self.load()
        {
            each(P::event(seq, meta, &mut self.buffer));
            count += 1;
        }
        Read::Event(count)
    }
}

#[inline(always)]
fn wants(filter: &Filter, tag: u16) -> bool {
    filter[usize::from(tag / 64)] >> (tag % 64) & 1 != 0
}

impl Reader<Bytes> {
    /// From now on this reader skips the events whose tag is not `wanted`, without touching their payload. Lost
    /// numbers are told as before, whatever their events' tags were.
    ///
    /// Calls `wanted` for each of the 65,536 tags, here and never again, and keeps the answers in 8 KiB.
    pub fn set_filter(&mut self, wanted: impl FnMut(u16) -> bool) {
        self.filter_by(wanted);
    }

    /// From now on this reader gets every event.
    pub fn clear_filter(&mut self) {
        self.filter = None;
    }

    /// Looks at the next event where it lies, without copying it out, and without waiting.
    ///
    /// ```
    /// use lapwing::ring::Ring;
    ///
    /// let ring = Ring::new(8, 64)?;
    /// ring.publish(b"look here")?;
    /// let mut reader = ring.reader_from_oldest();
    /// let len = reader.try_look(|event| event.len())?.event();
    /// assert_eq!(len, Some(9));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// A publisher may overwrite the slot while `look` runs: what it sees then can be a mixture of events. Its
    /// result is discarded in that case, and the event counts as dropped. So `look` should have no effects, and
    /// must take any bytes.
    ///
    /// # Errors
    ///
    /// Those of [`try_read`](Self::try_read).
    #[inline]
    pub fn try_look<R>(&mut self, look: impl FnOnce(&Look<'_>) -> R) -> Result<Read<R>, TryReadError> {
        let slot_bytes = self.shared().slot_bytes;
        let mut skipped = Ok(());
        while self.filter.is_some() {
            skipped = self.skip_unwanted();
            if skipped != Err(self.next << 1) {
                break;
            }
        }
        // What was not there for the filter is not there: it may come before the next line, wanted or not.
        let looked = skipped.and_then(|()| {
            self.advance(|seq, words, _, _| {
                let header = words[0].load(Relaxed);
                look(&Look {
                    seq,
                    tag: header as u16,
                    len: Bytes::len(header, slot_bytes),
                    words: &words[1..],
                })
            })
        });
        match looked {
            Ok((_, result)) => Ok(Read::Event(result)),
            Err(stamp) => match self.miss(stamp) {
                Ok(dropped) => Ok(Read::Dropped(dropped)),
                Err(Miss::Closed) => Err(TryReadError::Closed),
                Err(Miss::Empty | Miss::Pause) => Err(TryReadError::Empty),
            },
        }
    }
}

/// An event in its slot, which a publisher may overwrite at any time. See [`Reader::try_look`].
#[derive(Clone, Copy)]
pub struct Look<'a> {
    seq: u64,
    tag: u16,
    len: usize,
    words: &'a [AtomicU64],
}

impl Look<'_> {
    /// Its sequence number.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The publisher's tag.
    pub fn tag(&self) -> u16 {
        self.tag
    }

    /// The payload's length in bytes; at most the slot size.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the payload has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The payload as words of 8 bytes in memory order, the last one padded with zeros.
    #[inline]
    pub fn words(&self) -> impl Iterator<Item = [u8; 8]> {
        self.words[..self.len.div_ceil(8)].iter().map(|word| word.load(Relaxed).to_ne_bytes())
    }

    /// Copies the first bytes of the payload, as many as there are and `out` has room for; returns how many.
    #[inline]
    pub fn copy_to(&self, out: &mut [u8]) -> usize {
        let len = self.len.min(out.len());
        copy::load(self.words, &mut out[..len], 0);
        len
    }
}

impl fmt::Debug for Look<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Look")
            .field("seq", &self.seq)
            .field("tag", &self.tag)
            .field("len", &self.len)
            .finish()
    }
}

impl<P: Payload> Clone for Reader<P> {
    fn clone(&self) -> Self {
        let mut clone = Self::new(&self.handle, self.next);
        clone.filter.clone_from(&self.filter);
        clone.skipped = self.skipped;
        clone
    }
}

impl<P: Payload> fmt::Debug for Reader<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("next_seq", &self.next)
            .field("lag", &self.lag())
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "std")]
pub use waiting::Canceller;
#[cfg(feature = "futures")]
pub use waiting::Events;

#[cfg(feature = "std")]
mod waiting {
    use std::future::Future;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Wake, Waker};
    use std::time::{Duration, Instant};

    use super::super::error::ReadError;
    use super::super::handle::Shared;
    use super::super::{Payload, Read};
    use super::{Found, Miss, Reader};
    use crate::sync::{AtomicBool, CANCEL_R, CANCELLED_A, IS_MODEL, Sleeper, spin};
    use crate::wait::{Key, WaitList};

    /// What a reader needs to wait.
    pub(super) struct Waiting {
        cancelled: Arc<AtomicBool>,
        /// Its place in the list; none in a ring whose readers spin.
        key: Option<Key>,
        registered: bool,
        /// The thread that this reader slept on last, and its waker.
        sleeper: Option<(Arc<Sleeper>, Waker)>,
    }

    impl Waiting {
        pub(super) fn new(waiters: Option<&WaitList>) -> Self {
            Self {
                cancelled: Arc::new(AtomicBool::new(false)),
                key: waiters.map(WaitList::enter),
                registered: false,
                sleeper: None,
            }
        }

        fn is_cancelled(&self) -> bool {
            // cancelled:A, with cancel:R.
            self.cancelled.load(CANCELLED_A.order())
        }
    }

    impl Wake for Sleeper {
        fn wake(self: Arc<Self>) {
            self.unpark();
        }

        fn wake_by_ref(self: &Arc<Self>) {
            self.unpark();
        }
    }

    /// Ends the waiting of one reader, from any thread. Keeps the ring's memory, as a reader does.
    ///
    /// ```
    /// use lapwing::ring::{ReadError, Ring};
    ///
    /// let ring = Ring::new(8, 64)?;
    /// let mut reader = ring.reader_from_now();
    /// let canceller = reader.canceller();
    /// std::thread::scope(|scope| {
    ///     let blocked = scope.spawn(move || reader.read().map(|_| ()));
    ///     canceller.cancel();
    ///     assert_eq!(blocked.join().unwrap(), Err(ReadError::Cancelled));
    /// });
    /// # Ok::<(), lapwing::ring::ConfigError>(())
    /// ```
    #[derive(Clone)]
    pub struct Canceller {
        cancelled: Arc<AtomicBool>,
        waiters: Option<(Key, Arc<dyn Waiters>)>,
    }

    /// A ring, whatever it holds.
    trait Waiters: Send + Sync {
        fn wake_one(&self, key: Key);
    }

    impl<P: Payload> Waiters for Shared<P> {
        fn wake_one(&self, key: Key) {
            if let Some(waiters) = &self.waiters {
                waiters.wake_one(key);
            }
        }
    }

    impl Canceller {
        /// Cancels the reader: a read that waits, and every later one that would wait, ends with
        /// [`ReadError::Cancelled`] at once, before it takes an event. `try_read` still gives what is left.
        pub fn cancel(&self) {
            // cancel:R. Without it, a cancelled reader could miss what the canceller did before.
            self.cancelled.store(true, CANCEL_R.order());
            if let Some((key, shared)) = &self.waiters {
                shared.wake_one(*key);
            }
        }

        /// Whether it was triggered.
        pub fn is_cancelled(&self) -> bool {
            self.cancelled.load(CANCELLED_A.order())
        }
    }

    impl std::fmt::Debug for Canceller {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("Canceller").field("cancelled", &self.is_cancelled()).finish_non_exhaustive()
        }
    }

    /// How a reader with nothing to read spends its time before it sleeps: looks without a break first, then
    /// with longer and longer ones, so that it does not take the slot's cache line from the publisher's hands.
    struct Idle {
        looks: u32,
    }

    /// Looks without a break.
    const BARE_LOOKS: u32 = 64;
    /// Looks until a reader that can sleep does. None in a model: they would hide what it does when it sleeps.
    const AWAKE_LOOKS: u32 = if IS_MODEL { 0 } else { BARE_LOOKS + 64 };
    /// The longest break, in `spin_loop` hints.
    const MAX_PAUSE: u32 = 8;

    impl Idle {
        fn is_long(&self) -> bool {
            self.looks >= AWAKE_LOOKS
        }

        /// One break between two looks.
        fn pause(&mut self) {
            self.looks = self.looks.saturating_add(1);
            for _ in 0..self.looks.saturating_sub(BARE_LOOKS).min(MAX_PAUSE) {
                spin();
            }
        }
    }

    /// Why a read that waits did not get an event by one look.
    enum Stop {
        Empty,
        Pause,
        End(ReadError),
    }

    fn is_over(deadline: Option<Instant>) -> bool {
        deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    impl<P: Payload> Reader<P> {
        /// The next event, or what was lost before it; waits for it.
        ///
        /// # Errors
        ///
        /// When the ring is closed and everything was read, or when the reader was cancelled.
        #[inline]
        pub fn read(&mut self) -> Result<Read<P::Event<'_>>, ReadError> {
            let found = self.wait(None)?;
            Ok(self.hand_out(found))
        }

        /// As [`read`](Self::read), for at most `timeout`.
        ///
        /// # Errors
        ///
        /// Those of [`read`](Self::read), and [`ReadError::TimedOut`]. A time-out that reaches beyond the clock's
        /// range is none.
        #[inline]
        pub fn read_timeout(&mut self, timeout: Duration) -> Result<Read<P::Event<'_>>, ReadError> {
            let found = match self.once() {
                Ok(found) => found,
                Err(Stop::End(error)) => return Err(error),
                Err(Stop::Empty | Stop::Pause) => self.wait(Instant::now().checked_add(timeout))?,
            };
            Ok(self.hand_out(found))
        }

        /// As [`read`](Self::read), until `deadline`. With one in the past it looks, and does not
        /// sleep.
        ///
        /// # Errors
        ///
        /// Those of [`read`](Self::read), and [`ReadError::TimedOut`].
        #[inline]
        pub fn read_deadline(&mut self, deadline: Instant) -> Result<Read<P::Event<'_>>, ReadError> {
            let found = self.wait(Some(deadline))?;
            Ok(self.hand_out(found))
        }

        /// As [`try_read_batch`](Self::try_read_batch), but waits for the first event.
        ///
        /// # Errors
        ///
        /// Those of [`read`](Self::read).
        pub fn read_batch(
            &mut self,
            max: usize,
            mut each: impl FnMut(P::Event<'_>),
        ) -> Result<Read<usize>, ReadError> {
            let first = self.wait(None)?;
            Ok(self.rest_of_batch(first, max, &mut each))
        }

        /// The next event, or what was lost before it; for any executor.
        ///
        /// The future can be dropped at any time: an event that it has not returned is still the next one.
        /// In a ring whose readers spin ([`Wait::Spin`](super::super::Wait)) it asks to be polled again at once.
        ///
        /// # Errors
        ///
        /// Those of [`read`](Self::read).
        pub async fn read_async(&mut self) -> Result<Read<P::Event<'_>>, ReadError> {
            let found = Next { reader: self }.await?;
            Ok(self.hand_out(found))
        }

        /// What ends this reader's waiting from another thread.
        pub fn canceller(&self) -> Canceller {
            let shared: Arc<dyn Waiters> = Arc::<Shared<P>>::clone(&self.handle.shared);
            Canceller {
                cancelled: Arc::clone(&self.waiting.cancelled),
                waiters: self.waiting.key.map(|key| (key, shared)),
            }
        }

        /// One look, as a read that waits has it.
        #[inline(always)]
        fn once(&mut self) -> Result<Read<Found<P>>, Stop> {
            if self.waiting.is_cancelled() {
                return Err(Stop::End(ReadError::Cancelled));
            }
            self.step().map_err(|miss| match miss {
                Miss::Empty => Stop::Empty,
                Miss::Pause => Stop::Pause,
                Miss::Closed => Stop::End(ReadError::Closed),
            })
        }

        /// Looks until there is nothing, or the filter has skipped events for too long.
        #[inline(always)]
        fn poll_until(&mut self, deadline: Option<Instant>) -> Result<Option<Read<Found<P>>>, ReadError> {
            loop {
                match self.once() {
                    Ok(found) => return Ok(Some(found)),
                    Err(Stop::Empty) => return Ok(None),
                    Err(Stop::End(error)) => return Err(error),
                    Err(Stop::Pause) if is_over(deadline) => return Err(ReadError::TimedOut),
                    Err(Stop::Pause) => {}
                }
            }
        }

        #[inline(always)]
        fn wait(&mut self, deadline: Option<Instant>) -> Result<Read<Found<P>>, ReadError> {
            match self.poll_until(deadline)? {
                Some(found) => Ok(found),
                None => self.wait_slowly(deadline),
            }
        }

        #[cold]
        fn wait_slowly(&mut self, deadline: Option<Instant>) -> Result<Read<Found<P>>, ReadError> {
            let mut idle = Idle { looks: 0 };
            loop {
                if idle.is_long() {
                    if is_over(deadline) {
                        return Err(ReadError::TimedOut);
                    }
                    if self.waiting.key.is_some() {
                        if let Some(found) = self.park(deadline)? {
                            return Ok(found);
                        }
                    } else {
                        idle.pause();
                    }
                } else {
                    idle.pause();
                }
                if let Some(found) = self.poll_until(deadline)? {
                    return Ok(found);
                }
            }
        }

        /// Registers, looks once more, and sleeps once.
        fn park(&mut self, deadline: Option<Instant>) -> Result<Option<Read<Found<P>>>, ReadError> {
            let (sleeper, waker) =
                self.waiting.sleeper.take().filter(|(sleeper, _)| sleeper.is_this_thread()).unwrap_or_else(
                    || {
                        let sleeper = Arc::new(Sleeper::this_thread());
                        (Arc::clone(&sleeper), Waker::from(sleeper))
                    },
                );
            let certain = self.register(&waker);
            let found = self.poll_until(deadline);
            if matches!(found, Ok(None)) {
                // Uncertain of being woken, it looks again by itself.
                let soon = (!certain).then(|| Instant::now() + Duration::from_millis(1));
                sleeper.park(deadline.into_iter().chain(soon).min());
            }
            self.waiting.sleeper = Some((sleeper, waker));
            self.unregister();
            found
        }

        /// Gives up its place in the list. From now on a read that waits asks to be polled again at once.
        #[cfg(feature = "serve")]
        pub(crate) fn leave_waiting(&mut self) {
            if let (Some(waiters), Some(key)) = (&self.handle.shared.waiters, self.waiting.key.take()) {
                waiters.leave(key);
            }
        }

        fn register(&mut self, waker: &Waker) -> bool {
            self.waiting.registered = true;
            match (&self.handle.shared.waiters, self.waiting.key) {
                (Some(waiters), Some(key)) => waiters.register(key, waker),
                _ => false,
            }
        }

        fn unregister(&mut self) {
            if core::mem::take(&mut self.waiting.registered)
                && let (Some(waiters), Some(key)) = (&self.handle.shared.waiters, self.waiting.key)
            {
                waiters.unregister(key);
            }
        }

        fn poll_task(&mut self, cx: &mut Context<'_>) -> Poll<Result<Read<Found<P>>, ReadError>> {
            let mut found = self.once();
            let mut certain = true;
            if matches!(found, Err(Stop::Empty)) {
                certain = self.register(cx.waker());
                found = self.once();
            }
            let found = match found {
                Ok(found) => Ok(found),
                Err(Stop::End(error)) => Err(error),
                Err(Stop::Empty) if certain => return Poll::Pending,
                Err(Stop::Empty | Stop::Pause) => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            };
            self.unregister();
            Poll::Ready(found)
        }

        /// The next event, or what was lost before it, or a promise to wake the task.
        #[cfg(feature = "futures")]
        pub(crate) fn poll_read(
            &mut self,
            cx: &mut Context<'_>,
        ) -> Poll<Result<Read<P::Event<'_>>, ReadError>> {
            self.poll_task(cx).map_ok(|found| self.hand_out(found))
        }
    }

    /// Events with a buffer of their own, as a [`Stream`](futures_core::Stream) that ends when the ring is closed
    /// or the reader cancelled. Made by [`Reader::into_events`].
    #[cfg(feature = "futures")]
    #[derive(Debug)]
    pub struct Events<P: Payload = super::Bytes> {
        reader: Reader<P>,
    }

    #[cfg(feature = "futures")]
    impl<P: Payload> Reader<P> {
        /// The rest of the ring as a stream. Each event takes an allocation of its own, except typed ones.
        pub fn into_events(self) -> Events<P> {
            Events { reader: self }
        }
    }

    #[cfg(feature = "futures")]
    impl<P: Payload> Events<P> {
        /// The reader again, after the last event that the stream gave.
        pub fn into_reader(self) -> Reader<P> {
            self.reader
        }
    }

    #[cfg(feature = "futures")]
    impl<P: Payload> futures_core::Stream for Events<P> {
        type Item = Read<P::Owned>;

        fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            self.reader.poll_read(cx).map(|read| Some(read.ok()?.map(P::owned)))
        }
    }

    impl<P: Payload> Drop for Reader<P> {
        fn drop(&mut self) {
            if let (Some(waiters), Some(key)) = (&self.handle.shared.waiters, self.waiting.key) {
                waiters.leave(key);
            }
        }
    }

    /// Waits for the next event, which stays the next one until this is ready.
    struct Next<'a, P: Payload> {
        reader: &'a mut Reader<P>,
    }

    impl<P: Payload> Future for Next<'_, P> {
        type Output = Result<Read<Found<P>>, ReadError>;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
            self.reader.poll_task(cx)
        }
    }

    impl<P: Payload> Drop for Next<'_, P> {
        fn drop(&mut self) {
            self.reader.unregister();
        }
    }
}
