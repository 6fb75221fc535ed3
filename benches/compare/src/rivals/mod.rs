//! The contestants, each behind the same few traits: what publishes, what reads, and how to get both.
//!
//! Payloads are arrays of `N` words. A peer that takes bytes is told their length at run time only.

pub mod broadcast;
pub mod disruptor;
pub mod event;
pub mod go;
pub mod lapwing;
pub mod photon_ring;
pub mod queue;
pub mod waiting;

use std::hint::spin_loop;

use bytemuck::{bytes_of, bytes_of_mut};
use std::hint::black_box;

/// Slots of a ring: with its payloads it fits a second-level cache.
pub const fn capacity<const N: usize>() -> usize {
    match N {
        0..=32 => 1024,
        33..=128 => 256,
        _ => 64,
    }
}

/// Events of a batch.
pub const BATCH: usize = 16;

/// What a read found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Took {
    pub read: u64,
    pub lost: u64,
}

impl Took {
    pub const NOTHING: Self = Self { read: 0, lost: 0 };
    pub const ONE: Self = Self { read: 1, lost: 0 };

    pub fn read(read: u64) -> Self {
        Self { read, lost: 0 }
    }

    pub fn lost(lost: u64) -> Self {
        Self { read: 0, lost }
    }
}

/// What a reader does with an event.
pub trait Each {
    /// The reader has its own copy here.
    fn own(&mut self, bytes: &[u8]);
    /// The event lies in the peer's memory.
    fn in_place(&mut self, bytes: &[u8]);
    /// So it does, word by word.
    fn words(&mut self, words: impl Iterator<Item = [u8; 8]>);
}

/// The reader wants a copy of its own: what lies in the peer's memory is copied out.
pub struct Copied<const N: usize>(pub [u64; N]);

impl<const N: usize> Each for Copied<N> {
    #[inline(always)]
    fn own(&mut self, bytes: &[u8]) {
        black_box(bytes);
    }

    #[inline(always)]
    fn in_place(&mut self, bytes: &[u8]) {
        bytes_of_mut(&mut self.0).copy_from_slice(bytes);
        black_box(&self.0);
    }

    #[inline(always)]
    fn words(&mut self, words: impl Iterator<Item = [u8; 8]>) {
        for (to, word) in self.0.iter_mut().zip(words) {
            *to = u64::from_ne_bytes(word);
        }
        black_box(&self.0);
    }
}

/// Each word counts: it is read where it lies.
pub struct Folded;

impl Each for Folded {
    #[inline(always)]
    fn own(&mut self, bytes: &[u8]) {
        self.words(bytes.as_chunks().0.iter().copied());
    }

    #[inline(always)]
    fn in_place(&mut self, bytes: &[u8]) {
        self.own(bytes);
    }

    #[inline(always)]
    fn words(&mut self, words: impl Iterator<Item = [u8; 8]>) {
        black_box(words.fold(0, |all, word| all ^ u64::from_ne_bytes(word)));
    }
}

/// Hands the first word on: a time, or a number.
pub struct First(pub u64);

impl Each for First {
    #[inline(always)]
    fn own(&mut self, bytes: &[u8]) {
        black_box(bytes);
        self.0 = bytes.first_chunk().map_or(0, |word| u64::from_ne_bytes(*word));
    }

    #[inline(always)]
    fn in_place(&mut self, bytes: &[u8]) {
        self.own(bytes);
    }

    #[inline(always)]
    fn words(&mut self, mut words: impl Iterator<Item = [u8; 8]>) {
        self.0 = words.next().map_or(0, u64::from_ne_bytes);
        words.for_each(|word| _ = black_box(word));
    }
}

/// The publishing end.
pub trait Publish<const N: usize>: Send + 'static {
    /// `false` when the peer is full and its readers must read first.
    fn try_publish(&mut self, value: &[u64; N]) -> bool;

    /// Publishes, and waits for room as its documentation says, or looks again and again.
    #[inline(always)]
    fn publish(&mut self, value: &[u64; N]) {
        while !self.try_publish(value) {
            spin_loop();
        }
    }
}

/// A publishing end that takes several events by one call.
pub trait PublishBatch<const N: usize>: Publish<N> {
    fn publish_batch(&mut self, values: &[[u64; N]; BATCH]);
}

/// The reading end.
pub trait Read<const N: usize>: Send + 'static {
    /// Takes the next event, or all there are where the peer's interface knows nothing else. Never waits.
    fn take(&mut self, each: &mut impl Each) -> Took;

    /// Takes all there are, or the next one where the peer has no way to take several by one call. Never waits.
    #[inline(always)]
    fn take_all(&mut self, each: &mut impl Each) -> Took {
        self.take(each)
    }
}

/// A reading end that sleeps until there is an event.
pub trait Sleep<const N: usize>: Send + 'static {
    /// Takes the next event.
    fn wait(&mut self, each: &mut impl Each);
}

/// How a contestant counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The harness's own cost.
    Base,
    /// What the machine takes for the bare work.
    Floor,
    Ours,
    Rival,
}

pub trait Rival<const N: usize>: 'static {
    const NAME: &'static str;
    const KIND: Kind = Kind::Rival;
    /// A slow reader is overtaken. Otherwise the publisher waits for it.
    const LAPS: bool = false;
    /// Readers take events where they lie.
    const IN_PLACE: bool = false;
    type Publisher: Publish<N>;
    type Reader: Read<N>;
    /// One publisher, and so many readers that start with what comes next.
    fn open(readers: usize) -> (Self::Publisher, Vec<Self::Reader>);

    fn one() -> (Self::Publisher, Self::Reader) {
        let (publisher, mut readers) = Self::open(1);
        (publisher, readers.remove(0))
    }

    fn name() -> String {
        let mut name = String::from(Self::NAME);
        if Self::IN_PLACE {
            name += " (in place)";
        }
        name
    }
}

/// Does something with every contestant it is shown.
pub trait Visit<const N: usize> {
    fn visit<R: Rival<N>>(&mut self);
}

/// Everything that one publisher and one reader can use.
pub fn one_to_one<const N: usize>(to: &mut impl Visit<N>) {
    to.visit::<lapwing::Exclusive<false>>();
    to.visit::<lapwing::Exclusive<true>>();
    to.visit::<lapwing::Shared>();
    to.visit::<lapwing::Typed<true>>();
    to.visit::<lapwing::TypedShared>();
    to.visit::<lapwing::Look>();
    to.visit::<photon_ring::Lossy>();
    to.visit::<photon_ring::ManyPublishers>();
    to.visit::<photon_ring::Events>();
    to.visit::<disruptor::Single>();
    to.visit::<disruptor::Multi>();
    to.visit::<broadcast::Outcry>();
    to.visit::<broadcast::Tokio>();
    to.visit::<broadcast::TokioArc>();
    to.visit::<broadcast::AsyncBroadcast>();
    to.visit::<broadcast::Bus>();
    to.visit::<broadcast::MultiQueue>();
    to.visit::<queue::Rtrb>();
    to.visit::<queue::ThingBuf>();
    to.visit::<queue::Crossbeam>();
    to.visit::<queue::Flume>();
    to.visit::<queue::Kanal>();
}

/// Everything whose every reader sees every event.
pub fn one_to_many<const N: usize>(to: &mut impl Visit<N>) {
    to.visit::<lapwing::Exclusive<false>>();
    to.visit::<lapwing::Exclusive<true>>();
    to.visit::<lapwing::Shared>();
    to.visit::<lapwing::Typed<true>>();
    to.visit::<lapwing::Look>();
    to.visit::<photon_ring::Lossy>();
    to.visit::<photon_ring::Events>();
    to.visit::<disruptor::Fan>();
    to.visit::<broadcast::Outcry>();
    to.visit::<broadcast::Tokio>();
    to.visit::<broadcast::TokioArc>();
    to.visit::<broadcast::AsyncBroadcast>();
    to.visit::<broadcast::Bus>();
    to.visit::<broadcast::MultiQueue>();
}

/// Does something with every contestant whose publishing end can be cloned.
pub trait VisitShared<const N: usize> {
    fn visit<R: Rival<N, Publisher: Clone>>(&mut self);
    fn visit_batch<R: Rival<N, Publisher: Clone + PublishBatch<N>>>(&mut self);
}

/// Everything that several publishers can use.
pub fn many_to_one<const N: usize>(to: &mut impl VisitShared<N>) {
    to.visit::<lapwing::Shared>();
    to.visit::<lapwing::TypedShared>();
    to.visit_batch::<lapwing::Shared>();
    to.visit_batch::<lapwing::TypedShared>();
    to.visit::<photon_ring::ManyPublishers>();
    to.visit::<disruptor::Multi>();
    to.visit_batch::<disruptor::Multi>();
    to.visit::<broadcast::Tokio>();
    to.visit::<broadcast::TokioArc>();
    to.visit::<broadcast::AsyncBroadcast>();
    to.visit::<broadcast::MultiQueue>();
    to.visit::<queue::ThingBuf>();
    to.visit::<queue::Crossbeam>();
    to.visit::<queue::Flume>();
    to.visit::<queue::Kanal>();
}

/// The bytes of a value, whose length the compiler does not know.
#[inline(always)]
fn bytes<const N: usize>(value: &[u64; N]) -> &[u8] {
    black_box(bytes_of(value))
}
