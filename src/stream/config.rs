//! How a stream is made.

use super::error::ConfigError;
use crate::event::Category;
use crate::ring::lanes::{self, CHUNK_BYTES, Laned};
use crate::ring::{self, MAX_SLOT_BYTES, RingOf, Wait};

/// Bytes of `{"seq":`, `,"event":` and `}` around an event.
pub(super) const ENVELOPE_BYTES: usize = 17;
/// The digits of the largest seq.
pub(super) const MAX_SEQ_DIGITS: usize = 19;
/// The least that is allowed for bytes inline and for the largest envelope.
const MIN_BYTES: usize = 128;
/// What a chunk takes.
const PAGE: usize = CHUNK_BYTES.next_power_of_two();

/// How a stream is made, and the memory that it takes: all of it at the start.
///
/// ```
/// use lapwing::event::Category;
/// use lapwing::stream::{CategorySet, Config};
///
/// let config = Config::new().events(10_000).inline_bytes(512).large_bytes(16 << 20);
/// let memory = config.memory()?;
/// let stream = config.captured(CategorySet::ALL.without(&Category::Network)).build()?;
/// assert_eq!(stream.memory(), memory);
/// # Ok::<(), lapwing::stream::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    events: u64,
    inline_bytes: usize,
    large_bytes: usize,
    pub(super) max_envelope_bytes: usize,
    pub(super) captured: CategorySet,
    wait: Wait,
    first_seq: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

impl Config {
    /// 4,096 events of up to 1,024 bytes inline, 8 MiB for larger ones, envelopes of up to 1,000,000 bytes, and
    /// every category captured.
    pub fn new() -> Self {
        Self {
            events: 4096,
            inline_bytes: 1024,
            large_bytes: 8 << 20,
            max_envelope_bytes: 1_000_000,
            captured: CategorySet::ALL,
            wait: Wait::Park,
            first_seq: 1,
        }
    }

    /// How many events the stream holds: exactly, any number from 1 on.
    pub fn events(mut self, events: u64) -> Self {
        self.events = events;
        self
    }

    /// The most bytes of JSON that an event may have to lie in its slot; 128 and more. Larger ones lie in the
    /// memory for large events, and their truncated form, of so many bytes at most, in the slot.
    pub fn inline_bytes(mut self, bytes: usize) -> Self {
        self.inline_bytes = bytes;
        self
    }

    /// The memory for large events, in bytes, rounded up to pages of 4 KiB, each of which holds 4,032 bytes of
    /// one event. Events that do not fit it are truncated when they are published; with 0, to what is inline.
    pub fn large_bytes(mut self, bytes: usize) -> Self {
        self.large_bytes = bytes;
        self
    }

    /// The most bytes that an envelope may have, seq and all; 128 and more. A larger event is truncated when it
    /// is published.
    pub fn max_envelope_bytes(mut self, bytes: usize) -> Self {
        self.max_envelope_bytes = bytes;
        self
    }

    /// The categories that are captured at first. `system` always is.
    pub fn captured(mut self, captured: CategorySet) -> Self {
        self.captured = captured;
        self
    }

    /// What readers do while there is nothing to read. [`Wait::Park`] if not told.
    pub fn wait(mut self, wait: Wait) -> Self {
        self.wait = wait;
        self
    }

    /// The number of the first event: 1 if not told, at most [`MAX_SEQ`](ring::MAX_SEQ). A stream that goes on
    /// where an earlier run ended keeps its numbers so.
    pub fn first_seq(mut self, seq: u64) -> Self {
        self.first_seq = seq;
        self
    }

    /// The bytes of memory that the stream will take: slots, memory for large events, and counters. Each reader
    /// takes a buffer for one event more.
    ///
    /// # Errors
    ///
    /// As for [`build`](Self::build), but for those of the allocator.
    pub fn memory(&self) -> Result<usize, ConfigError> {
        self.check()?;
        Ok(lanes::memory(&self.ring(), self.inline_bytes, self.chunks())?)
    }

    /// The ring of the stream.
    pub(super) fn make_ring(&self) -> Result<RingOf<Laned>, ConfigError> {
        self.check()?;
        let max_event = self.max_envelope_bytes - ENVELOPE_BYTES - 1;
        Ok(lanes::ring(self.ring(), self.inline_bytes, self.chunks(), max_event)?)
    }

    fn ring(&self) -> ring::Config {
        ring::Config::new(self.events).wait(self.wait).first_seq(self.first_seq)
    }

    fn chunks(&self) -> u64 {
        self.large_bytes.div_ceil(PAGE) as u64
    }

    fn check(&self) -> Result<(), ConfigError> {
        let (min, max) = (MIN_BYTES, MAX_SLOT_BYTES);
        if !(min..=max).contains(&self.inline_bytes) {
            return Err(ConfigError::InlineBytes { given: self.inline_bytes, min, max });
        }
        if self.chunks() > lanes::max_chunks() {
            let max = lanes::max_chunks() as usize * PAGE;
            return Err(ConfigError::LargeBytes { given: self.large_bytes, max });
        }
        if self.max_envelope_bytes < min {
            return Err(ConfigError::MaxEnvelopeBytes { given: self.max_envelope_bytes, min });
        }
        Ok(())
    }
}

/// A set of categories. Each of the [known ones](Category::KNOWN) is a member of its own; all other names
/// together are one.
///
/// ```
/// use lapwing::event::Category;
/// use lapwing::stream::CategorySet;
///
/// let set = CategorySet::from_iter([Category::Console, Category::from("billing")]);
/// assert!(set.contains(&Category::Console) && !set.contains(&Category::Network));
/// assert!(set.contains(&Category::from("shipping"))); // as any other name
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CategorySet(u16);

impl CategorySet {
    /// Every category, known or not.
    pub const ALL: Self = Self((1 << (Category::KNOWN.len() + 1)) - 1);
    /// None.
    pub const NONE: Self = Self(0);

    /// This set and `category`.
    pub fn with(self, category: &Category<'_>) -> Self {
        Self(self.0 | 1 << category.index())
    }

    /// This set without `category`.
    pub fn without(self, category: &Category<'_>) -> Self {
        Self(self.0 & !(1 << category.index()))
    }

    /// Whether `category` is in it.
    pub fn contains(self, category: &Category<'_>) -> bool {
        self.has(category.index())
    }

    #[inline(always)]
    pub(super) fn has(self, index: u8) -> bool {
        self.0 >> index & 1 != 0
    }

    pub(super) fn bits(self) -> u64 {
        u64::from(self.0)
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        Self(bits as u16)
    }
}

impl<'a> FromIterator<Category<'a>> for CategorySet {
    fn from_iter<I: IntoIterator<Item = Category<'a>>>(categories: I) -> Self {
        categories.into_iter().fold(Self::NONE, |set, category| set.with(&category))
    }
}
