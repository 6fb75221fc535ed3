//! What can go wrong, with what was given, what is allowed, and what happened to the data.

use std::fmt;

use crate::event::InvalidEvent;
use crate::ring;

/// A stream could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// The number of events or the first seq is out of range, or the allocator refuses the memory.
    Ring(ring::ConfigError),
    /// The bytes inline are too few for any event, even a truncated one, or more than the length field of a
    /// slot can say.
    InlineBytes {
        /// The bytes inline that were asked for.
        given: usize,
        /// The smallest number.
        min: usize,
        /// The largest one.
        max: usize,
    },
    /// The memory for large events is more than can be addressed.
    LargeBytes {
        /// The bytes for large events that were asked for.
        given: usize,
        /// The largest number. The smallest is 0.
        max: usize,
    },
    /// The largest envelope is too small for any event, even a truncated one.
    MaxEnvelopeBytes {
        /// The largest envelope that was asked for, in bytes.
        given: usize,
        /// The smallest number.
        min: usize,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(error) => error.fmt(f),
            Self::InlineBytes { given, min, max } => {
                write!(f, "{given} bytes inline cannot be had: {min} to {max} are allowed")
            }
            Self::LargeBytes { given, max } => {
                write!(f, "{given} bytes for large events cannot be had: 0 to {max} are allowed")
            }
            Self::MaxEnvelopeBytes { given, min } => {
                write!(f, "a largest envelope of {given} bytes is too small: {min} and more are allowed")
            }
        }
    }
}

impl std::error::Error for ConfigError {}

impl From<ring::ConfigError> for ConfigError {
    fn from(error: ring::ConfigError) -> Self {
        Self::Ring(error)
    }
}

/// An event was not published. No reader gets any part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishError {
    /// The bytes are no event of the schema.
    Invalid(InvalidEvent),
    /// What a truncated event keeps in any case, its type, category, ts and the source without metadata, is too
    /// large.
    FieldsTooLarge {
        /// The bytes of an event that has nothing else.
        len: usize,
        /// The most bytes that a truncated event can have.
        max: usize,
    },
    /// The stream is closed.
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
            Self::Invalid(error) => error.fmt(f),
            Self::FieldsTooLarge { len, max } => write!(
                f,
                "not published: type, category and source take {len} bytes, and a truncated event has at most {max}"
            ),
            Self::Closed => f.write_str("not published: the stream is closed"),
            Self::Stalled { tried } => {
                write!(f, "not published: all {tried} slots tried are held by stalled publishers")
            }
        }
    }
}

impl std::error::Error for PublishError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Invalid(error) => Some(error),
            _ => None,
        }
    }
}

impl From<ring::PublishError> for PublishError {
    fn from(error: ring::PublishError) -> Self {
        match error {
            ring::PublishError::Stalled { tried } => Self::Stalled { tried },
            // What goes into a slot was made to fit it.
            ring::PublishError::TooLarge { len, slot_bytes } => Self::FieldsTooLarge { len, max: slot_bytes },
            ring::PublishError::Closed => Self::Closed,
        }
    }
}

/// A batch was published in part, or not at all. Its captured events before the one at `index` are in the stream as
/// far as `published` says; the others are not.
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

impl std::error::Error for BatchError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// A reader was asked to start at a position that this stream does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PositionError {
    /// The position is of another run: the seqs of one stream mean nothing in another.
    Epoch {
        /// The epoch of the position.
        given: u64,
        /// The epoch of the stream.
        current: u64,
    },
    /// The position lies in the future.
    Future {
        /// The seq asked for.
        given: u64,
        /// The newest seq of the stream. 0 up to this one are allowed.
        newest: u64,
    },
}

impl fmt::Display for PositionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Epoch { given, current } => {
                write!(
                    f,
                    "a position of epoch {given:016x} is not of this stream, whose epoch is {current:016x}"
                )
            }
            Self::Future { given, newest } => {
                write!(f, "no reader can be positioned after seq {given}: the newest is {newest}")
            }
        }
    }
}

impl std::error::Error for PositionError {}

impl From<ring::PositionError> for PositionError {
    fn from(ring::PositionError { given, newest }: ring::PositionError) -> Self {
        Self::Future { given, newest }
    }
}
