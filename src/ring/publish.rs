//! Making a ring, and publishing into it.

use alloc::sync::Arc;
use core::fmt;
use core::ops::{Deref, Range};

use bytemuck::Pod;

use super::error::{BatchError, ConfigError, PublishError};
use super::handle::{Handle, Shared, Wait};
use super::sealed::Sealed;
#[cfg(any(test, loom, shuttle))]
use super::slots::Step;
use super::slots::{Claimed, MAX_SEQ, Slots};
use super::{Bytes, MAX_SLOT_BYTES, Payload, Typed};
use crate::sync::AtomicU64;
#[cfg(feature = "std")]
use crate::wait::WaitList;

/// How a ring is made.
///
/// ```
/// use lapwing::ring::{Config, Wait};
///
/// let ring = Config::new(1000).wait(Wait::Spin).bytes(512)?;
/// let prices = Config::new(4096).typed::<[f64; 2]>()?;
/// # Ok::<(), lapwing::ring::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    pub(super) capacity: u64,
    wait: Wait,
    pub(super) first_seq: u64,
}

impl Config {
    /// A ring that holds `capacity` events: exactly, any number from 1 on.
    pub fn new(capacity: u64) -> Self {
        Self { capacity, wait: Wait::Park, first_seq: 1 }
    }

    /// What readers do while there is nothing to read. [`Wait::Park`] if not told.
    pub fn wait(mut self, wait: Wait) -> Self {
        self.wait = wait;
        self
    }

    /// The number of the first event: 1 if not told, at most [`MAX_SEQ`]. A stream that goes on where an earlier
    /// run ended keeps its numbers so; a reader positioned before it is told those numbers as dropped.
    pub fn first_seq(mut self, seq: u64) -> Self {
        self.first_seq = seq;
        self
    }

    /// A ring of byte slices of 0 to `slot_bytes` bytes. All its memory is taken and touched here: per event,
    /// 24 bytes and the slot size, rounded up to cache lines.
    ///
    /// # Errors
    ///
    /// When the capacity is 0 or too large for the address space, the slot size is beyond 32 bits, the first
    /// seq is out of range, or the allocator refuses the memory.
    pub fn bytes(self, slot_bytes: usize) -> Result<Ring, ConfigError> {
        Self::check_slot_bytes(slot_bytes)?;
        Ring::make(self, Bytes::stride(slot_bytes), slot_bytes, || Ok(()))
    }

    pub(super) fn check_slot_bytes(given: usize) -> Result<(), ConfigError> {
        if given > MAX_SLOT_BYTES {
            return Err(ConfigError::SlotBytes { given, max: MAX_SLOT_BYTES });
        }
        Ok(())
    }

    /// A ring of values of one plain type. All its memory is taken and touched here: per event, 16 bytes and the
    /// value's size, rounded up to a power of two, or to cache lines.
    ///
    /// # Errors
    ///
    /// As for [`bytes`](Self::bytes).
    pub fn typed<T: Pod + fmt::Debug + Send + Sync>(self) -> Result<TypedRing<T>, ConfigError> {
        TypedRing::make(self, Typed::<T>::STRIDE.unwrap_or(0), size_of::<T>(), || Ok(()))
    }
}

/// The right to publish: the ring closes when it is dropped.
struct Publisher<P: Payload>(Handle<P>);

impl<P: Payload> Drop for Publisher<P> {
    fn drop(&mut self) {
        self.0.shared.close();
    }
}

/// A ring that any number of threads publish into, through `&Ring` or an `Arc<Ring>`.
///
/// ```
/// use lapwing::ring::Ring;
///
/// let ring = Ring::new(64, 128)?;
/// let mut reader = ring.reader_from_oldest();
/// std::thread::scope(|scope| {
///     for name in ["left", "right"] {
///         let ring = &ring;
///         scope.spawn(move || ring.publish(name.as_bytes()));
///     }
/// });
/// ring.close();
/// while let Ok(read) = reader.try_read() {
///     println!("{read:?}");
/// }
/// # Ok::<(), lapwing::ring::ConfigError>(())
/// ```
///
/// It dereferences to a [`Handle`], which makes readers. Dropping it closes it.
pub type Ring = RingOf<Bytes>;

/// A ring of plain values of one size. It is to be had, and closed, as [`Ring`] is.
///
/// ```
/// use lapwing::ring::{Read, TypedRing};
///
/// let ring = TypedRing::new(1024)?;
/// let mut reader = ring.reader_from_oldest();
/// ring.publish(&7u64)?;
/// let event = reader.try_read()?.event().unwrap();
/// assert_eq!((event.seq, event.value), (1, 7));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type TypedRing<T> = RingOf<Typed<T>>;

/// What [`Ring`] and [`TypedRing`] have in common.
pub struct RingOf<P: Payload> {
    publisher: Publisher<P>,
}

impl<P: Payload> RingOf<P> {
    pub(super) fn make(
        config: Config,
        stride: usize,
        slot_bytes: usize,
        lane: impl FnOnce() -> Result<P::Lane, ConfigError>,
    ) -> Result<Self, ConfigError> {
        let Config { capacity, wait, first_seq } = config;
        let shared = Shared {
            slots: Slots::new(capacity, stride, first_seq)?,
            lane: lane()?,
            slot_bytes,
            #[cfg(feature = "std")]
            waiters: (wait == Wait::Park).then(WaitList::new),
            wait,
            overruns: AtomicU64::new(0),
            abandoned: AtomicU64::new(0),
        };
        Ok(Self { publisher: Publisher(Handle { shared: Arc::new(shared) }) })
    }

    /// Ends the ring: no event is published any more, readers get what is there and then are told. False when
    /// it was closed already.
    pub fn close(&self) -> bool {
        self.publisher.0.shared.close()
    }

    /// A handle that can be given to those who do not publish.
    pub fn handle(&self) -> Handle<P> {
        self.publisher.0.clone()
    }

    /// The same ring with one publisher only, which needs no locked instruction. There is no other one, since
    /// this takes the ring by value.
    pub fn into_exclusive(self) -> Exclusive<P> {
        let slots = &self.shared.slots;
        let next = slots.newest() + 1;
        let end = if slots.is_open() { MAX_SEQ + 1 } else { next };
        Exclusive { next, slot: slots.slot_of(next), end, publisher: self.publisher }
    }
}

impl<P: Payload> Deref for RingOf<P> {
    type Target = Handle<P>;

    #[inline(always)]
    fn deref(&self) -> &Handle<P> {
        &self.publisher.0
    }
}

impl<P: Payload> fmt::Debug for RingOf<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ring").field(&self.publisher.0).finish()
    }
}

impl Ring {
    /// A ring of `capacity` events of up to `slot_bytes` bytes, whose readers park. See [`Config`].
    ///
    /// # Errors
    ///
    /// Those of [`Config::bytes`].
    pub fn new(capacity: u64, slot_bytes: usize) -> Result<Self, ConfigError> {
        Config::new(capacity).bytes(slot_bytes)
    }

    /// Publishes an event with the tag 0 and returns its seq.
    ///
    /// Costs two locked instructions and the copy of the bytes.
    ///
    /// # Errors
    ///
    /// When the payload is longer than a slot, when the ring is closed, or when every slot that may be tried is
    /// held by a stalled publisher. Nothing is published then.
    #[inline]
    pub fn publish(&self, bytes: &[u8]) -> Result<u64, PublishError> {
        self.publish_tagged(0, bytes)
    }

    /// Publishes an event with a tag, by which readers can skip it. See [`publish`](Self::publish).
    ///
    /// # Errors
    ///
    /// Those of [`publish`](Self::publish).
    #[inline]
    pub fn publish_tagged(&self, tag: u16, bytes: &[u8]) -> Result<u64, PublishError> {
        let shared = &*self.shared;
        shared.check_len(bytes.len())?;
        shared.publish(|claimed| Bytes::store(claimed, tag, bytes), |_, _| ())
    }

    /// Publishes events, each a tag and a payload, with one claim for all of them (or for each `capacity`
    /// of them), and returns their numbers: as many as there are events, unless the slot of one was held by a
    /// stalled publisher and had to be stepped over. They keep their order.
    ///
    /// # Errors
    ///
    /// As for [`publish`](Self::publish). A payload that is too long is found before anything is published; the
    /// other errors can come in the middle, and tell how many events are published.
    pub fn publish_batch(&self, events: &[(u16, &[u8])]) -> Result<Range<u64>, BatchError> {
        check_batch(&self.shared, events)?;
        self.shared
            .publish_batch(events.len(), |at, claimed| Bytes::store(claimed, events[at].0, events[at].1))
            .map_err(|(published, error)| BatchError { published, index: published, error })
    }

    /// [`publish_tagged`](Self::publish_tagged), with a call at every [`Step`] of it: a test stops a publisher
    /// there, or lets something else happen first.
    #[cfg(any(test, loom, shuttle))]
    pub fn publish_stepped(
        &self,
        tag: u16,
        bytes: &[u8],
        step: impl FnMut(Step, u64),
    ) -> Result<u64, PublishError> {
        self.shared.check_len(bytes.len())?;
        self.shared.publish(|claimed| Bytes::store(claimed, tag, bytes), step)
    }
}

/// Finds a payload that is too long before anything is published.
fn check_batch(shared: &Shared<Bytes>, events: &[(u16, &[u8])]) -> Result<(), BatchError> {
    let too_large = |(index, (_, bytes)): (usize, &(u16, &[u8]))| {
        shared.check_len(bytes.len()).err().map(|error| BatchError { published: 0, index, error })
    };
    events.iter().enumerate().find_map(too_large).map_or(Ok(()), Err)
}

impl<T: Pod + fmt::Debug + Send + Sync> TypedRing<T> {
    /// A ring of `capacity` values, whose readers park. See [`Config`].
    ///
    /// # Errors
    ///
    /// Those of [`Config::typed`].
    pub fn new(capacity: u64) -> Result<Self, ConfigError> {
        Config::new(capacity).typed()
    }

    /// Publishes a value and returns its seq.
    ///
    /// # Errors
    ///
    /// When the ring is closed, or when every slot that may be tried is held by a stalled publisher.
    #[inline]
    pub fn publish(&self, value: &T) -> Result<u64, PublishError> {
        self.shared.publish(|claimed| Typed::store(claimed, value), |_, _| ())
    }

    /// Publishes values with one claim for all of them (or for each `capacity` of them), and returns their
    /// numbers. See [`Ring::publish_batch`].
    ///
    /// # Errors
    ///
    /// As for [`publish`](Self::publish), with the number of values that are published.
    pub fn publish_batch(&self, values: &[T]) -> Result<Range<u64>, BatchError> {
        self.shared
            .publish_batch(values.len(), |at, claimed| Typed::store(claimed, &values[at]))
            .map_err(|(published, error)| BatchError { published, index: published, error })
    }
}

/// The only publisher of a ring: publishing takes `&mut`, plain stores, and no locked instruction.
///
/// ```
/// use lapwing::ring::Ring;
///
/// let mut publisher = Ring::new(1024, 64)?.into_exclusive();
/// let mut reader = publisher.reader_from_now();
/// publisher.publish(b"tick")?;
/// assert_eq!(reader.try_read()?.event().unwrap().bytes, b"tick");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// It dereferences to a [`Handle`], which makes readers. Dropping it closes the ring.
pub struct Exclusive<P: Payload = Bytes> {
    publisher: Publisher<P>,
    next: u64,
    /// The slot of `next`.
    slot: u64,
    /// The first number that is not given any more: when the ring is closed, `next`.
    end: u64,
}

impl<P: Payload> Exclusive<P> {
    /// Ends the ring. See [`RingOf::close`].
    pub fn close(&mut self) -> bool {
        self.end = self.next;
        self.shared.close()
    }

    /// The ring for any number of publishers again.
    pub fn into_shared(self) -> RingOf<P> {
        RingOf { publisher: self.publisher }
    }

    /// A handle that can be given to those who do not publish.
    pub fn handle(&self) -> Handle<P> {
        self.publisher.0.clone()
    }

    /// The end is reached, of the ring or of the numbers.
    #[cold]
    #[inline(never)]
    fn refuse(&mut self) -> PublishError {
        self.close();
        PublishError::Closed
    }

    /// At most a lap.
    #[inline(always)]
    pub(super) fn write(
        &mut self,
        n: usize,
        fill: impl Fn(&P::Lane, usize, Claimed<'_>),
    ) -> Result<Range<u64>, PublishError> {
        let first = self.next;
        if n as u64 > self.end - first {
            return Err(self.refuse());
        }
        let end = first + n as u64;
        let shared = &*self.publisher.0.shared;
        let view = shared.slots.view();
        shared.slots.claim_exclusive(end - 1);
        let mut slot = self.slot;
        for at in 0..n {
            view.write_exclusive(first + at as u64, slot, |claimed| fill(&shared.lane, at, claimed));
            slot = view.after(slot);
        }
        (self.next, self.slot) = (end, slot);
        shared.notify();
        Ok(first..end)
    }

    /// All of `n`, or nothing. A lap at a time, so that readers neither miss what is not written yet, nor sleep
    /// while they are lapped.
    pub(super) fn write_batch(
        &mut self,
        n: usize,
        fill: impl Fn(&P::Lane, usize, Claimed<'_>),
    ) -> Result<Range<u64>, BatchError> {
        let first = self.next;
        let refused = |error| BatchError { published: 0, index: 0, error };
        if n != 0 && n as u64 > self.end - first {
            return Err(refused(self.refuse()));
        }
        let lap = usize::try_from(self.capacity()).unwrap_or(usize::MAX);
        for at in (0..n).step_by(lap) {
            self.write(lap.min(n - at), |lane, i, claimed| fill(lane, at + i, claimed)).map_err(refused)?;
        }
        Ok(first..self.next)
    }
}

impl Exclusive {
    /// Publishes an event with the tag 0 and returns its seq.
    ///
    /// # Errors
    ///
    /// When the payload is longer than a slot, or the ring is closed. Nothing is published then.
    #[inline(always)]
    pub fn publish(&mut self, bytes: &[u8]) -> Result<u64, PublishError> {
        self.publish_tagged(0, bytes)
    }

    /// Publishes an event with a tag, by which readers can skip it.
    ///
    /// # Errors
    ///
    /// Those of [`publish`](Self::publish).
    #[inline(always)]
    pub fn publish_tagged(&mut self, tag: u16, bytes: &[u8]) -> Result<u64, PublishError> {
        self.shared.check_len(bytes.len())?;
        self.write(1, |(), _, claimed| Bytes::store(claimed, tag, bytes)).map(|seqs| seqs.start)
    }

    /// Publishes events, each a tag and a payload, and returns their numbers.
    ///
    /// # Errors
    ///
    /// As for [`publish`](Self::publish); nothing is published then.
    pub fn publish_batch(&mut self, events: &[(u16, &[u8])]) -> Result<Range<u64>, BatchError> {
        check_batch(&self.shared, events)?;
        self.write_batch(events.len(), |(), at, claimed| Bytes::store(claimed, events[at].0, events[at].1))
    }
}

impl<T: Pod + fmt::Debug + Send + Sync> Exclusive<Typed<T>> {
    /// Publishes a value and returns its seq.
    ///
    /// # Errors
    ///
    /// When the ring is closed.
    #[inline(always)]
    pub fn publish(&mut self, value: &T) -> Result<u64, PublishError> {
        self.write(1, |(), _, claimed| Typed::store(claimed, value)).map(|seqs| seqs.start)
    }

    /// Publishes values and returns their numbers.
    ///
    /// # Errors
    ///
    /// When the ring is closed; nothing is published then.
    pub fn publish_batch(&mut self, values: &[T]) -> Result<Range<u64>, BatchError> {
        self.write_batch(values.len(), |(), at, claimed| Typed::store(claimed, &values[at]))
    }
}

impl<P: Payload> Deref for Exclusive<P> {
    type Target = Handle<P>;

    #[inline(always)]
    fn deref(&self) -> &Handle<P> {
        &self.publisher.0
    }
}

impl<P: Payload> fmt::Debug for Exclusive<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Exclusive").field(&self.publisher.0).finish()
    }
}
