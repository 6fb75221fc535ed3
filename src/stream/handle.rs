//! A stream seen from outside: positions, captured categories, readers and counters.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use super::config::{CategorySet, Config};
use super::error::PublishError;
use crate::event::Category;
use crate::ring;
use crate::ring::lanes::{Laned, Tally};
use crate::sync::{AtomicU64, Mutex};

/// How large an event may be.
pub(super) struct Limits {
    /// In its slot.
    pub(super) inline_bytes: usize,
    pub(super) max_envelope_bytes: usize,
    /// With any seq.
    pub(super) always: usize,
    /// With any seq, and in its slot.
    pub(super) always_inline: usize,
}

/// What publishers, readers and handles of one stream share, beside its ring.
pub(super) struct Core {
    pub(super) limits: Limits,
    epoch: u64,
    #[cfg(feature = "s2")]
    made: std::time::Instant,
    captured: AtomicU64,
    refused: AtomicU64,
    readers: Mutex<Vec<Arc<Vitals>>>,
}

/// What a reader tells of itself. Only the reader writes it.
pub(super) struct Vitals {
    name: Mutex<Arc<str>>,
    /// The last seq that it is done with.
    pub(super) position: Arc<AtomicU64>,
    pub(super) delivered: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) shortened: AtomicU64,
}

impl Core {
    #[inline(always)]
    pub(super) fn captured(&self) -> CategorySet {
        // Relaxed: which categories are captured is all that there is to it.
        CategorySet::from_bits(self.captured.load(Relaxed))
    }

    /// Counts it.
    #[cold]
    pub(super) fn refused(&self, error: PublishError) -> PublishError {
        self.refused.fetch_add(1, Relaxed);
        error
    }
}

impl Vitals {
    pub(super) fn set_name(&self, name: &str) {
        *self.name.lock() = name.into();
    }
}

/// A stream seen from outside, for those who do not publish: it makes readers and tells how things stand. It
/// can be cloned, and does not keep the stream from being closed.
#[derive(Clone)]
pub struct Handle {
    pub(super) ring: ring::Handle<Laned>,
    pub(super) core: Arc<Core>,
}

impl Handle {
    pub(super) fn new(ring: ring::Handle<Laned>, config: &Config) -> Self {
        let core = Core {
            limits: Limits::new(ring.slot_bytes(), config.max_envelope_bytes),
            epoch: random(),
            #[cfg(feature = "s2")]
            made: std::time::Instant::now(),
            captured: AtomicU64::new(always_captured(config.captured).bits()),
            refused: AtomicU64::new(0),
            readers: Mutex::new(Vec::new()),
        };
        Self { ring, core: Arc::new(core) }
    }

    /// The last claimed seq: that of the last published event, or of one that is just being published. One
    /// before the first, if there is none.
    pub fn seq(&self) -> u64 {
        self.ring.newest()
    }

    /// The last seq up to which a reader waits for none: each one is readable, or overwritten, or given up.
    /// Costs one look at every slot.
    pub fn readable(&self) -> u64 {
        self.ring.readable()
    }

    /// The oldest seq that can still be there.
    pub fn oldest(&self) -> u64 {
        self.ring.oldest()
    }

    /// What tells this stream from every other one, those of earlier runs of the program included: 64 random bits.
    pub fn epoch(&self) -> u64 {
        self.core.epoch
    }

    /// Whether the stream takes no more events. Readers still get what is there.
    pub fn is_closed(&self) -> bool {
        self.ring.is_closed()
    }

    /// How long ago the stream was made: there is nothing of its epoch from before.
    #[cfg(feature = "s2")]
    pub(crate) fn age(&self) -> std::time::Duration {
        self.core.made.elapsed()
    }

    /// How many events the stream holds.
    pub fn events(&self) -> u64 {
        self.ring.capacity()
    }

    /// The most bytes of JSON that an event has in its slot.
    pub fn inline_bytes(&self) -> usize {
        self.core.limits.inline_bytes
    }

    /// The most bytes that an envelope has.
    pub fn max_envelope_bytes(&self) -> usize {
        self.core.limits.max_envelope_bytes
    }

    /// The bytes of memory that the stream takes. Each reader takes a buffer for one event more.
    pub fn memory(&self) -> usize {
        self.ring.laned_memory()
    }

    /// The categories that are captured at the moment; `system` always is.
    pub fn captured(&self) -> CategorySet {
        self.core.captured()
    }

    /// Changes which categories are captured, for everything that is published from now on. A publisher that is
    /// just at it may still go by what was before.
    pub fn set_captured(&self, captured: CategorySet) {
        self.core.captured.store(always_captured(captured).bits(), Relaxed);
    }

    /// A new reader's place in the list.
    pub(super) fn enlist(&self, position: u64) -> Arc<Vitals> {
        let vitals = Arc::new(Vitals {
            name: Mutex::new("".into()),
            position: Arc::new(AtomicU64::new(position)),
            delivered: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            shortened: AtomicU64::new(0),
        });
        self.core.readers.lock().push(Arc::clone(&vitals));
        vitals
    }

    pub(super) fn forget(&self, vitals: &Arc<Vitals>) {
        self.core.readers.lock().retain(|other| !Arc::ptr_eq(other, vitals));
    }

    /// Every reader that there is at the moment, the oldest first, so that none can be stuck unseen.
    ///
    /// ```
    /// use lapwing::event::{Category, Event, Source, SourceKind};
    /// use lapwing::stream::EventStream;
    ///
    /// let stream = EventStream::new()?;
    /// let reader = stream.reader_from_oldest().named("forwarder");
    /// stream.publish(&Event::new("tick", Category::System, Source::new(SourceKind::LocalProcess)))?;
    /// let status = &stream.readers()[0];
    /// assert_eq!((&*status.name, status.position, status.lag), ("forwarder", 0, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn readers(&self) -> Vec<ReaderStatus> {
        let status = |vitals: &Arc<Vitals>| {
            let position = vitals.position.load(Relaxed);
            ReaderStatus {
                name: Arc::clone(&vitals.name.lock()),
                position,
                lag: self.seq().saturating_sub(position),
                delivered: vitals.delivered.load(Relaxed),
                dropped: vitals.dropped.load(Relaxed),
                shortened: vitals.shortened.load(Relaxed),
            }
        };
        self.core.readers.lock().iter().map(status).collect()
    }

    /// What was published so far. Costs a look at every slot, and publishers nothing.
    pub fn stats(&self) -> Stats {
        Stats {
            tally: self.ring.tally(),
            refused: self.core.refused.load(Relaxed),
            overrun: self.ring.overruns(),
            abandoned: self.ring.abandoned(),
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("epoch", &format_args!("{:016x}", self.epoch()))
            .field("seq", &self.seq())
            .field("events", &self.events())
            .field("memory", &self.memory())
            .finish_non_exhaustive()
    }
}

/// How a reader is getting on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReaderStatus {
    /// The name it was given, or nothing.
    pub name: Arc<str>,
    /// The last seq that it is done with.
    pub position: u64,
    /// How many events are claimed after that.
    pub lag: u64,
    /// How many events it got.
    pub delivered: u64,
    /// How many it was told that it lost.
    pub dropped: u64,
    /// How many it got in truncated form, because it came too late for their chunks.
    pub shortened: u64,
}

/// What was published to a stream.
///
/// While publishers are at work, each number is some moment's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    tally: Tally,
    /// How many times publishing was refused with an error.
    pub refused: u64,
    /// How many events were overwritten before their publisher could write them, because it was stopped for a
    /// whole lap. They are counted here only.
    pub overrun: u64,
    /// How many numbers were given up because their slots were held by stalled publishers.
    pub abandoned: u64,
}

impl Stats {
    /// How many events were published.
    pub fn published(&self) -> u64 {
        self.tally.events.iter().sum()
    }

    /// How many events of a category were published; for one that is not [known](Category::KNOWN), how many of
    /// all such.
    pub fn published_in(&self, category: &Category<'_>) -> u64 {
        self.tally.events[usize::from(category.index())]
    }

    /// The bytes of all events, as JSON without the envelope.
    pub fn bytes(&self) -> u64 {
        self.tally.bytes
    }

    /// The bytes of the largest event.
    pub fn largest(&self) -> u64 {
        self.tally.largest
    }

    /// How many events were truncated when they were published.
    pub fn truncated(&self) -> u64 {
        self.tally.truncated
    }
}

fn always_captured(captured: CategorySet) -> CategorySet {
    captured.with(&Category::System)
}

/// 64 bits that no other process and no other call gets: the standard library keys its hashers at random.
pub(crate) fn random() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    if let Ok(now) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
        hasher.write_u128(now.as_nanos());
    }
    hasher.finish()
}
