//! lapwing's rings.

use std::sync::Arc;

use bytemuck::bytes_of;
use lapwing::ring::{self, Config, TryReadError, Wait};

use super::{BATCH, Each, Kind, Publish, PublishBatch, Read, Rival, Sleep, Took, bytes, capacity};

fn config<const N: usize>(spin: bool) -> Config {
    Config::new(capacity::<N>() as u64).wait(if spin { Wait::Spin } else { Wait::Park })
}

fn ring<const N: usize>(spin: bool) -> ring::Ring {
    config::<N>(spin).bytes(N * 8).expect("a valid configuration")
}

fn typed<const N: usize>(spin: bool) -> ring::TypedRing<[u64; N]> {
    config::<N>(spin).typed().expect("a valid configuration")
}

const TAKEN: &str = "an open ring takes it";

/// Bytes, by one publisher.
pub struct Exclusive<const SPIN: bool>;

impl<const N: usize, const SPIN: bool> Rival<N> for Exclusive<SPIN> {
    const NAME: &'static str = if SPIN { "lapwing exclusive, spin" } else { "lapwing exclusive" };
    const KIND: Kind = Kind::Ours;
    const LAPS: bool = true;
    type Publisher = ring::Exclusive;
    type Reader = ring::Reader;

    fn open(readers: usize) -> (ring::Exclusive, Vec<ring::Reader>) {
        let ring = ring::<N>(SPIN).into_exclusive();
        let readers = (0..readers).map(|_| ring.reader_from_now()).collect();
        (ring, readers)
    }
}

impl<const N: usize> Publish<N> for ring::Exclusive {
    #[inline(always)]
    fn try_publish(&mut self, value: &[u64; N]) -> bool {
        self.publish(bytes(value)).expect(TAKEN);
        true
    }
}

impl<const N: usize> Read<N> for ring::Reader {
    #[inline(always)]
    fn take(&mut self, each: &mut impl Each) -> Took {
        match self.try_read() {
            Ok(ring::Read::Event(event)) => {
                each.own(event.bytes);
                Took::ONE
            }
            Ok(ring::Read::Dropped(dropped)) => Took::lost(dropped.count()),
            Err(TryReadError::Empty | TryReadError::Closed) => Took::NOTHING,
        }
    }

    #[inline(always)]
    fn take_all(&mut self, each: &mut impl Each) -> Took {
        match self.try_read_batch(usize::MAX, |event| each.own(event.bytes)) {
            Ok(ring::Read::Event(read)) => Took::read(read as u64),
            Ok(ring::Read::Dropped(dropped)) => Took::lost(dropped.count()),
            Err(TryReadError::Empty | TryReadError::Closed) => Took::NOTHING,
        }
    }
}

impl<const N: usize> Sleep<N> for ring::Reader {
    fn wait(&mut self, each: &mut impl Each) {
        if let Ok(ring::Read::Event(event)) = self.read() {
            each.own(event.bytes);
        }
    }
}

/// Bytes, by any number of publishers.
pub struct Shared;

#[derive(Clone)]
pub struct SharedPublisher(Arc<ring::Ring>);

impl<const N: usize> Rival<N> for Shared {
    const NAME: &'static str = "lapwing shared";
    const KIND: Kind = Kind::Ours;
    const LAPS: bool = true;
    type Publisher = SharedPublisher;
    type Reader = ring::Reader;

    fn open(readers: usize) -> (SharedPublisher, Vec<ring::Reader>) {
        let ring = ring::<N>(false);
        let readers = (0..readers).map(|_| ring.reader_from_now()).collect();
        (SharedPublisher(Arc::new(ring)), readers)
    }
}

impl<const N: usize> Publish<N> for SharedPublisher {
    #[inline(always)]
    fn try_publish(&mut self, value: &[u64; N]) -> bool {
        self.0.publish(bytes(value)).expect(TAKEN);
        true
    }
}

impl<const N: usize> PublishBatch<N> for SharedPublisher {
    #[inline(always)]
    fn publish_batch(&mut self, values: &[[u64; N]; BATCH]) {
        self.0.publish_batch(&values.each_ref().map(|value| (0, bytes(value)))).expect(TAKEN);
    }
}

/// Values, by one publisher.
pub struct Typed<const SPIN: bool>;

impl<const N: usize, const SPIN: bool> Rival<N> for Typed<SPIN> {
    const NAME: &'static str = if SPIN { "lapwing typed exclusive, spin" } else { "lapwing typed exclusive" };
    const KIND: Kind = Kind::Ours;
    const LAPS: bool = true;
    type Publisher = ring::Exclusive<ring::Typed<[u64; N]>>;
    type Reader = ring::TypedReader<[u64; N]>;

    fn open(readers: usize) -> (Self::Publisher, Vec<Self::Reader>) {
        let ring = typed(SPIN).into_exclusive();
        let readers = (0..readers).map(|_| ring.reader_from_now()).collect();
        (ring, readers)
    }
}

impl<const N: usize> Publish<N> for ring::Exclusive<ring::Typed<[u64; N]>> {
    #[inline(always)]
    fn try_publish(&mut self, value: &[u64; N]) -> bool {
        self.publish(value).expect(TAKEN);
        true
    }
}

impl<const N: usize> Read<N> for ring::TypedReader<[u64; N]> {
    #[inline(always)]
    fn take(&mut self, each: &mut impl Each) -> Took {
        match self.try_read() {
            Ok(ring::Read::Event(event)) => {
                each.own(bytes_of(&event.value));
                Took::ONE
            }
            Ok(ring::Read::Dropped(dropped)) => Took::lost(dropped.count()),
            Err(TryReadError::Empty | TryReadError::Closed) => Took::NOTHING,
        }
    }

    #[inline(always)]
    fn take_all(&mut self, each: &mut impl Each) -> Took {
        match self.try_read_batch(usize::MAX, |event| each.own(bytes_of(&event.value))) {
            Ok(ring::Read::Event(read)) => Took::read(read as u64),
            Ok(ring::Read::Dropped(dropped)) => Took::lost(dropped.count()),
            Err(TryReadError::Empty | TryReadError::Closed) => Took::NOTHING,
        }
    }
}

/// Values, by any number of publishers.
pub struct TypedShared;

pub struct TypedPublisher<const N: usize>(Arc<ring::TypedRing<[u64; N]>>);

impl<const N: usize> Clone for TypedPublisher<N> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<const N: usize> Rival<N> for TypedShared {
    const NAME: &'static str = "lapwing typed shared";
    const KIND: Kind = Kind::Ours;
    const LAPS: bool = true;
    type Publisher = TypedPublisher<N>;
    type Reader = ring::TypedReader<[u64; N]>;

    fn open(readers: usize) -> (Self::Publisher, Vec<Self::Reader>) {
        let ring = typed(false);
        let readers = (0..readers).map(|_| ring.reader_from_now()).collect();
        (TypedPublisher(Arc::new(ring)), readers)
    }
}

impl<const N: usize> Publish<N> for TypedPublisher<N> {
    #[inline(always)]
    fn try_publish(&mut self, value: &[u64; N]) -> bool {
        self.0.publish(value).expect(TAKEN);
        true
    }
}

impl<const N: usize> PublishBatch<N> for TypedPublisher<N> {
    #[inline(always)]
    fn publish_batch(&mut self, values: &[[u64; N]; BATCH]) {
        self.0.publish_batch(values).expect(TAKEN);
    }
}

/// Bytes, by one publisher, looked at in their slots.
pub struct Look;

pub struct Looking(ring::Reader);

impl<const N: usize> Rival<N> for Look {
    const NAME: &'static str = "lapwing exclusive, look";
    const KIND: Kind = Kind::Ours;
    const LAPS: bool = true;
    const IN_PLACE: bool = true;
    type Publisher = ring::Exclusive;
    type Reader = Looking;

    fn open(readers: usize) -> (ring::Exclusive, Vec<Looking>) {
        let (ring, readers) = <Exclusive<true> as Rival<N>>::open(readers);
        (ring, readers.into_iter().map(Looking).collect())
    }
}

impl<const N: usize> Read<N> for Looking {
    #[inline(always)]
    fn take(&mut self, each: &mut impl Each) -> Took {
        match self.0.try_look(|event| each.words(event.words())) {
            Ok(ring::Read::Event(())) => Took::ONE,
            Ok(ring::Read::Dropped(dropped)) => Took::lost(dropped.count()),
            Err(TryReadError::Empty | TryReadError::Closed) => Took::NOTHING,
        }
    }
}
