//! The ring: a broadcast of byte slices or fixed-size values that never waits for anyone.
//!
//! ```
//! use lapwing::ring::{Read, Ring};
//!
//! let ring = Ring::new(1024, 256)?; // 1,024 events of up to 256 bytes
//! let mut reader = ring.reader_from_oldest();
//!
//! ring.publish(b"hello")?;
//! match reader.try_read()? {
//!     Read::Event(event) => assert_eq!((event.seq, event.bytes), (1, &b"hello"[..])),
//!     Read::Dropped(dropped) => println!("lost {} to {}", dropped.from, dropped.to),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Any number of publishers, any number of readers, every reader sees every event. The ring holds the newest
//! `capacity` events; older ones are overwritten whether they were read or not.
//!
//! - **Loss is data, not failure.** A reader that was overtaken gets [`Read::Dropped`] with exactly the numbers
//!   that it will never get, and goes on with the oldest event there is. For every reader, what was delivered,
//!   skipped by its filter and reported as dropped adds up to the last seq.
//! - **A publisher never blocks, allocates or waits**: not for readers, and not for a publisher that was
//!   descheduled in the middle of its copy. Its event is in the ring, or refused, after a bounded number of steps.
//!   Where readers sleep, it then makes the system calls that wake them.
//! - **A reader never slows a publisher**, nor another reader: it writes nothing that they read, until it sleeps.
//!
//! The protocol, and the pair of every ordering in it, is told in the [design page](crate::design).
//!
//! # Choosing
//!
//! [`Ring`] takes byte slices of any length up to the slot size, from many publishers. [`TypedRing`] takes plain
//! values of one size, and is the fastest for small ones. [`Exclusive`], made from either, publishes without a
//! locked instruction, from one place only. [`Config`] has the rest: what readers do while they wait
//! ([`Wait`]), and the first number.

mod copy;
mod error;
mod handle;
#[cfg(feature = "std")] // what is built on it wants it
pub(crate) mod lanes;
mod publish;
mod reader;
mod slots;
#[cfg(all(test, feature = "std"))]
mod tests;

use alloc::boxed::Box;
use alloc::vec;
use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::Ordering::Relaxed;

use bytemuck::Pod;

use crate::sync::AtomicU64;

#[cfg(feature = "std")]
pub use error::ReadError;
pub use error::{BatchError, ConfigError, PositionError, PublishError, TryReadError};
pub use handle::{Handle, Wait};
pub use publish::{Config, Exclusive, Ring, RingOf, TypedRing};
#[cfg(feature = "std")]
pub use reader::Canceller;
#[cfg(feature = "futures")]
pub use reader::Events;
pub use reader::{Look, Reader, TypedReader};
use slots::Claimed;
pub use slots::MAX_SEQ;
#[cfg(any(test, loom, shuttle))]
pub use slots::Step;

/// What a slot holds: [`Bytes`] or [`Typed`] values. No other type can implement it.
pub trait Payload: sealed::Sealed + Sized + 'static {
    /// An event as a read hands it out, which may borrow the reader's buffer.
    type Event<'a>: fmt::Debug;
    /// An event that borrows nothing.
    type Owned: fmt::Debug + Send + 'static;

    /// What lies beside the slots.
    #[doc(hidden)]
    type Lane: Send + Sync;
    /// What a reader copies payloads into.
    #[doc(hidden)]
    type Buffer: Send + Sync + Unpin;
    /// What a reader knows of a copied payload beside the buffer.
    #[doc(hidden)]
    type Meta: Copy + Send;
    #[doc(hidden)]
    fn buffer(slot_bytes: usize, lane: &Self::Lane) -> Self::Buffer;
    #[doc(hidden)]
    fn tag(words: &[AtomicU64]) -> u16;
    #[doc(hidden)]
    fn load(words: &[AtomicU64], ahead: usize, buffer: &mut Self::Buffer) -> Self::Meta;
    /// Completes a payload whose copy turned out to be whole with what lies beside the slots.
    #[doc(hidden)]
    #[inline(always)]
    fn settle(_lane: &Self::Lane, meta: Self::Meta, _buffer: &mut Self::Buffer) -> Self::Meta {
        meta
    }
    #[doc(hidden)]
    fn event(seq: u64, meta: Self::Meta, buffer: &mut Self::Buffer) -> Self::Event<'_>;
    #[doc(hidden)]
    fn owned(event: Self::Event<'_>) -> Self::Owned;
}

mod sealed {
    /// What slots can hold.
    pub trait Sealed {
        /// Words from slot to slot, where it is known at compile time.
        const STRIDE: Option<usize>;
    }

    impl Sealed for super::Bytes {
        const STRIDE: Option<usize> = None;
    }

    impl<T: bytemuck::Pod> Sealed for super::Typed<T> {
        const STRIDE: Option<usize> = Some(Self::WORDS);
    }
}

/// Slots of byte slices, each with a length and a tag.
#[derive(Debug)]
pub enum Bytes {}

/// Slots of one plain value each.
#[derive(Debug)]
pub struct Typed<T>(PhantomData<fn(T) -> T>);

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read<E> {
    /// The next event.
    Event(E),
    /// The reader was overtaken: it will never get these. The next read gives what came after.
    Dropped(Dropped),
}

impl<E> Read<E> {
    /// The event, or `None` for a drop.
    pub fn event(self) -> Option<E> {
        match self {
            Self::Event(event) => Some(event),
            Self::Dropped(_) => None,
        }
    }

    fn map<F>(self, f: impl FnOnce(E) -> F) -> Read<F> {
        match self {
            Self::Event(event) => Read::Event(f(event)),
            Self::Dropped(dropped) => Read::Dropped(dropped),
        }
    }
}

/// A run of sequence numbers that a reader lost, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The first lost seq.
    pub from: u64,
    /// The last lost seq; at least `from`.
    pub to: u64,
}

impl Dropped {
    /// How many events were lost; at least 1.
    pub fn count(&self) -> u64 {
        self.to - self.from + 1
    }
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dropped events {} to {}", self.from, self.to)
    }
}

/// An event of a [`Ring`], in the reader's buffer until its next read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Its sequence number; the first is 1.
    pub seq: u64,
    /// The publisher's tag.
    pub tag: u16,
    /// The payload.
    pub bytes: &'a [u8],
}

/// An event of a [`Ring`] with a buffer of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedEvent {
    /// Its sequence number; the first is 1.
    pub seq: u64,
    /// The publisher's tag.
    pub tag: u16,
    /// The payload.
    pub bytes: Box<[u8]>,
}

/// An event of a [`TypedRing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypedEvent<T> {
    /// Its sequence number; the first is 1.
    pub seq: u64,
    /// The value.
    pub value: T,
}

/// The header word of a slot of bytes: the length above the tag.
const TAG_BITS: u32 = 16;
/// The most bytes a slot of bytes can hold: its length field has 32 bits.
pub(crate) const MAX_SLOT_BYTES: usize = if usize::BITS > 32 { u32::MAX as usize } else { usize::MAX / 4 };

impl Bytes {
    /// Words of a slot: stamp, header, payload; in whole cache lines, or half a one.
    fn stride(slot_bytes: usize) -> usize {
        match 2 + slot_bytes.div_ceil(8) {
            0..=4 => 4,
            words => words.next_multiple_of(8),
        }
    }

    #[inline(always)]
    fn store(Claimed { words, ahead, .. }: Claimed<'_>, tag: u16, bytes: &[u8]) {
        words[0].store((bytes.len() as u64) << TAG_BITS | u64::from(tag), Relaxed);
        copy::store(&words[1..], bytes, ahead);
    }

    /// The header's length, which may be anything while the slot is being written.
    #[inline(always)]
    fn len(header: u64, slot_bytes: usize) -> usize {
        ((header >> TAG_BITS) as usize).min(slot_bytes)
    }
}

impl Payload for Bytes {
    type Event<'a> = Event<'a>;
    type Owned = OwnedEvent;
    type Lane = ();
    type Buffer = Box<[u8]>;
    type Meta = (usize, u16);

    fn buffer(slot_bytes: usize, (): &()) -> Box<[u8]> {
        vec![0; slot_bytes].into()
    }

    #[inline(always)]
    fn tag(words: &[AtomicU64]) -> u16 {
        words[0].load(Relaxed) as u16
    }

    #[inline(always)]
    fn load(words: &[AtomicU64], ahead: usize, buffer: &mut Box<[u8]>) -> (usize, u16) {
        let header = words[0].load(Relaxed);
        let len = Self::len(header, buffer.len());
        copy::load(&words[1..], &mut buffer[..len], ahead);
        (len, header as u16)
    }

    #[inline(always)]
    fn event(seq: u64, (len, tag): (usize, u16), buffer: &mut Box<[u8]>) -> Event<'_> {
        Event { seq, tag, bytes: &buffer[..len] }
    }

    fn owned(Event { seq, tag, bytes }: Event<'_>) -> OwnedEvent {
        OwnedEvent { seq, tag, bytes: bytes.into() }
    }
}

impl<T: Pod> Typed<T> {
    /// Words of a slot: stamp and value; a power of two within a cache line, then whole ones.
    const WORDS: usize = match 1 + size_of::<T>().div_ceil(8) {
        words @ 0..=8 => words.next_power_of_two(),
        words => words.next_multiple_of(8),
    };
    /// Words of a slot before its value, of which the stamp is the first: what is left of whole cache lines lies here,
    /// so that a larger value begins on a line if it can.
    const HEAD: usize = 1 << (Self::WORDS - size_of::<T>().div_ceil(8)).ilog2();
    /// So many bytes before a value a prefetch begins, for the stamp comes along.
    const BEFORE: usize = (Self::HEAD - 1) * 8;
    /// A value of less than a block passes through registers, a larger one through the reader's buffer: by its blocks.
    const IS_SMALL: bool = size_of::<T>() < copy::BLOCK;

    #[inline(always)]
    fn store(Claimed { words, ahead, .. }: Claimed<'_>, value: &T) {
        let bytes = bytemuck::bytes_of(value);
        if Self::IS_SMALL {
            copy::store_words(words, bytes);
        } else {
            copy::store(&words[Self::HEAD - 1..], bytes, ahead.wrapping_sub(Self::BEFORE));
        }
    }
}

impl<T: Pod + fmt::Debug + Send + Sync> Payload for Typed<T> {
    type Event<'a> = TypedEvent<T>;
    type Owned = TypedEvent<T>;
    type Lane = ();
    type Buffer = Box<T>;
    type Meta = Option<T>;

    fn buffer(_: usize, (): &()) -> Box<T> {
        Box::new(T::zeroed())
    }

    fn tag(_: &[AtomicU64]) -> u16 {
        0
    }

    #[inline(always)]
    fn load(words: &[AtomicU64], ahead: usize, buffer: &mut Box<T>) -> Option<T> {
        if Self::IS_SMALL {
            let mut value = T::zeroed();
            copy::load_words(words, bytemuck::bytes_of_mut(&mut value));
            Some(value)
        } else {
            copy::load(
                &words[Self::HEAD - 1..],
                bytemuck::bytes_of_mut(&mut **buffer),
                ahead.wrapping_sub(Self::BEFORE),
            );
            None
        }
    }

    #[inline(always)]
    fn event(seq: u64, small: Option<T>, buffer: &mut Box<T>) -> TypedEvent<T> {
        TypedEvent { seq, value: if Self::IS_SMALL { small.unwrap_or(**buffer) } else { **buffer } }
    }

    fn owned(event: TypedEvent<T>) -> TypedEvent<T> {
        event
    }
}
