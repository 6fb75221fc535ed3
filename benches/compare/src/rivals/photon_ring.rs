//! photon-ring: its lossy ring, with one publisher and with several, and its ring of events in place.

use bytemuck::bytes_of;
use photon_ring::{EventPublisher, EventSubscriber, MpPublisher, Publisher, Subscriber, TryRecvError};

use super::{Each, Publish, Read, Rival, Took, capacity};

/// `channel`.
pub struct Lossy;

impl<const N: usize> Rival<N> for Lossy {
    const NAME: &'static str = "photon-ring";
    const LAPS: bool = true;
    type Publisher = Publisher<[u64; N]>;
    type Reader = Subscriber<[u64; N]>;

    fn open(readers: usize) -> (Self::Publisher, Vec<Self::Reader>) {
        let (publisher, subscribable) = photon_ring::channel(capacity::<N>());
        (publisher, (0..readers).map(|_| subscribable.subscribe()).collect())
    }
}

impl<const N: usize> Publish<N> for Publisher<[u64; N]> {
    #[inline(always)]
    fn try_publish(&mut self, value: &[u64; N]) -> bool {
        Self::publish(self, *value);
        true
    }
}

impl<const N: usize> Read<N> for Subscriber<[u64; N]> {
    #[inline(always)]
    fn take(&mut self, each: &mut impl Each) -> Took {
        match self.try_recv() {
            Ok(value) => {
                each.own(bytes_of(&value));
                Took::ONE
            }
            Err(TryRecvError::Empty) => Took::NOTHING,
            Err(TryRecvError::Lagged { skipped }) => Took::lost(skipped),
        }
    }
}

/// `channel_mpmc`.
pub struct ManyPublishers;

impl<const N: usize> Rival<N> for ManyPublishers {
    const NAME: &'static str = "photon-ring mpmc";
    const LAPS: bool = true;
    type Publisher = MpPublisher<[u64; N]>;
    type Reader = Subscriber<[u64; N]>;

    fn open(readers: usize) -> (Self::Publisher, Vec<Self::Reader>) {
        let (publisher, subscribable) = photon_ring::channel_mpmc(capacity::<N>());
        (publisher, (0..readers).map(|_| subscribable.subscribe()).collect())
    }
}

impl<const N: usize> Publish<N> for MpPublisher<[u64; N]> {
    #[inline(always)]
    fn try_publish(&mut self, value: &[u64; N]) -> bool {
        Self::publish(self, *value);
        true
    }
}

/// `event_channel`.
pub struct Events;

impl<const N: usize> Rival<N> for Events {
    const NAME: &'static str = "photon-ring events";
    const IN_PLACE: bool = true;
    type Publisher = EventPublisher<[u64; N]>;
    type Reader = EventSubscriber<[u64; N]>;

    fn open(readers: usize) -> (Self::Publisher, Vec<Self::Reader>) {
        let (publisher, subscribable) = photon_ring::event_channel(capacity::<N>(), || [0; N]);
        (publisher, (0..readers).map(|_| subscribable.subscribe()).collect())
    }
}

impl<const N: usize> Publish<N> for EventPublisher<[u64; N]> {
    #[inline(always)]
    fn try_publish(&mut self, value: &[u64; N]) -> bool {
        Self::try_publish(self, |slot| *slot = *value)
    }
}

impl<const N: usize> Read<N> for EventSubscriber<[u64; N]> {
    #[inline(always)]
    fn take(&mut self, each: &mut impl Each) -> Took {
        self.process(|value| each.in_place(bytes_of(value))).map_or(Took::NOTHING, |()| Took::ONE)
    }
}
