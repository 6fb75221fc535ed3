//! What can go wrong, with what was given, what is allowed, and what happened to the data.

use core::fmt;

/// A ring could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// The capacity is 0, or more than can be addressed with slots of this size.
    Capacity {
        /// The capacity asked for, in events.
        given: u64,
        /// The largest one for this slot size. The smallest is 1.
        max: u64,
    },
    /// The slot size is more than the length field of a slot can say.
    SlotBytes {
        /// The slot size asked for, in bytes.
        given: usize,
        /// The largest one.
        max: usize,
    },
    /// The first seq is 0, or beyond the last seq that a ring gives.
    FirstSeq {
        /// The first seq asked for.
        given: u64,
        /// The largest one. The smallest is 1.
        max: u64,
    },
    /// The allocator refused the memory.
    OutOfMemory {
        /// The bytes asked for.
        bytes: usize,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capacity { given, max } => {
                write!(f, "a ring of {given} events cannot be made: 1 to {max} are allowed at this slot size")
            }
            Self::SlotBytes { given, max } => {
                write!(f, "a slot of {given} bytes cannot be made: 0 to {max} are allowed")
            }
            Self::FirstSeq { given, max } => {
                write!(f, "a ring cannot start at seq {given}: 1 to {max} are allowed")
            }
            Self::OutOfMemory { bytes } => write!(f, "no memory for a ring of {bytes} bytes"),
        }
    }
}

impl core::error::Error for ConfigError {}

/// An event was not published. The caller still has it, untouched, and no reader gets any part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishError {
    /// The payload is longer than a slot.
    TooLarge {
        /// The payload's bytes.
        len: usize,
        /// The bytes a slot holds.
        slot_bytes: usize,
    },
    /// The ring is closed.
    Closed,
    /// Every slot that was tried is held by a publisher that was stopped while it wrote there. Trying again is
    /// reasonable: a slot is free as soon as its publisher goes on.
    Stalled {
        /// How many slots were tried. Readers count each one's seq as dropped.
        tried: u64,
    },
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { len, slot_bytes } => {
                write!(f, "not published: the payload has {len} bytes, a slot holds {slot_bytes}")
            }
            Self::Closed => f.write_str("not published: the ring is closed"),
            Self::Stalled { tried } => {
                write!(f, "not published: all {tried} slots tried are held by stalled publishers")
            }
        }
    }
}

impl core::error::Error for PublishError {}

/// A batch was published in part, or not at all. Its first `published` events are in the ring, in order; the
/// others are not, and the caller still has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchError {
    /// How many events of the batch are published.
    pub published: usize,
    /// Index of the event that was refused.
    pub index: usize,
    /// Why it was refused.
    pub error: PublishError,
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { published, index, error } = self;
        write!(f, "event {index} of the batch was {error}; {published} events before it are published")
    }
}

impl core::error::Error for BatchError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// A reader was asked to start after an event that has not been published: a position of another ring, perhaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PositionError {
    /// The seq asked for.
    pub given: u64,
    /// The newest seq of the ring. 0 up to this one are allowed.
    pub newest: u64,
}

impl fmt::Display for PositionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no reader can be positioned after seq {}: the newest is {}", self.given, self.newest)
    }
}

impl core::error::Error for PositionError {}

/// A `try_read` has nothing to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryReadError {
    /// The next event has not been published yet.
    Empty,
    /// The ring is closed, and everything was read.
    Closed,
}

impl fmt::Display for TryReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "no event yet",
            Self::Closed => "the ring is closed, and every event was read",
        })
    }
}

impl core::error::Error for TryReadError {}

/// A read that waits ended without an event. The reader's position is unchanged.
#[cfg(feature = "std")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// The ring is closed, and everything was read.
    Closed,
    /// The time-out or deadline passed.
    TimedOut,
    /// The reader's [`Canceller`](super::Canceller) was triggered.
    Cancelled,
}

#[cfg(feature = "std")]
impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the ring is closed, and every event was read",
            Self::TimedOut => "no event before the deadline",
            Self::Cancelled => "the reader was cancelled",
        })
    }
}

#[cfg(feature = "std")]
impl core::error::Error for ReadError {}
