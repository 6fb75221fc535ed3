//! Broadcast channels: outcry, tokio's, async-broadcast, bus and multiqueue2.

use std::sync::Arc;

use bytemuck::{bytes_of, bytes_of_mut, cast_slice};
use multiqueue2::{BroadcastReceiver, BroadcastSender, BroadcastUniReceiver};
use tokio::sync::broadcast::{self, error::TryRecvError};

use super::{Each, Publish, Read, Rival, Sleep, Took, capacity};

/// outcry: frames of bytes in a ring of memory within the process.
pub struct Outcry;

pub struct OutcryReader<const N: usize> {
    consumer: outcry::Consumer,
    out: Box<[u64; N]>,
}

impl<const N: usize> Rival<N> for Outcry {
    const NAME: &'static str = "outcry";
    const LAPS: bool = true;
    type Publisher = outcry::Producer;
    type Reader = OutcryReader<N>;

    fn open(readers: usize) -> (outcry::Producer, Vec<OutcryReader<N>>) {
        let bytes = (capacity::<N>() * (N + 1) * 8).next_power_of_two().max(8192);
        let queue = outcry::Queue::anon(bytes as u64).expect("a power of two");
        let producer = queue.producer().expect("the first one");
        let reader = |_| OutcryReader { consumer: queue.consumer(), out: Box::new([0; N]) };
        (producer, (0..readers).map(reader).collect())
    }
}

impl<const N: usize> Publish<N> for outcry::Producer {
    #[inline(always)]
    fn try_publish(&mut self, value: &[u64; N]) -> bool {
        self.write(super::bytes(value)).expect("it fits");
        true
    }
}

impl<const N: usize> Read<N> for OutcryReader<N> {
    #[inline(always)]
    fn take(&mut self, each: &mut impl Each) -> Took {
        match self.consumer.try_read(bytes_of_mut(&mut *self.out)) {
            Ok(Some(len)) => {
                each.own(&cast_slice(&*self.out)[..len]);
                Took::ONE
            }
            Ok(None) => Took::NOTHING,
            // It tells bytes, and frames are of one size here.
            Err(outcry::Error::Overrun { .. }) => Took::lost(self.consumer.resync() / (N as u64 * 8 + 8)),
            Err(error) => panic!("{error}"),
        }
    }
}

/// tokio's, of values.
pub struct Tokio;

impl<const N: usize> Rival<N> for Tokio {
    const NAME: &'static str = "tokio";
    const LAPS: bool = true;
    type Publisher = broadcast::Sender<[u64; N]>;
    type Reader = broadcast::Receiver<[u64; N]>;

    fn open(readers: usize) -> (Self::Publisher, Vec<Self::Reader>) {
        let (sender, _) = broadcast::channel(capacity::<N>());
        let readers = (0..readers).map(|_| sender.subscribe()).collect();
        (sender, readers)
    }
}

impl<const N: usize> Publish<N> for broadcast::Sender<[u64; N]> {
    #[inline(always)]
    fn try_publish(&mut self, value: &[u64; N]) -> bool {
        self.send(*value).expect("a receiver is there");
        true
    }
}

impl<const N: usize> Read<N> for broadcast::Receiver<[u64; N]> {
    #[inline(always)]
    fn take(&mut self, each: &mut impl Each) -> Took {
        match self.try_recv() {
            Ok(value) => {
                each.own(bytes_of(&value));
                Took::ONE
            }
            Err(TryRecvError::Lagged(lost)) => Took::lost(lost),
            Err(TryRecvError::Empty | TryRecvError::Closed) => Took::NOTHING,
        }
    }
}

impl<const N: usize> Sleep<N> for broadcast::Receiver<[u64; N]> {
    fn wait(&mut self, each: &mut impl Each) {
        if let Ok(value) = self.blocking_recv() {
            each.own(bytes_of(&value));
        }
    }
}

/// tokio's, of a new `Arc` for each event.
pub struct TokioArc;

impl<const N: usize> Rival<N> for TokioArc {
    const NAME: &'static str = "tokio, new Arc<[u8]>";
    const LAPS: bool = true;
    const IN_PLACE: bool = true;
    type Publisher = broadcast::Sender<Arc<[u8]>>;
    type Reader = broadcast::Receiver<Arc<[u8]>>;

    fn open(readers: usize) -> (Self::Publisher, Vec<Self::Reader>) {
        let (sender, _) = broadcast::channel(capacity::<N>());
        let readers = (0..readers).map(|_| sender.subscribe()).collect();
        (sender, readers)
    }
}

impl<const N: usize> Publish<N> for broadcast::Sender<Arc<[u8]>> {
    #[inline(always)]
    fn try_publish(&mut self, value: &[u64; N]) -> bool {
        self.send(super::bytes(value).into()).expect("a receiver is there");
        true
    }
}

impl<const N: usize> Read<N> for broadcast::Receiver<Arc<[u8]>> {
    #[inline(always)]
    fn take(&mut self, each: &mut impl Each) -> Took {
        match self.try_recv() {
            // It is his, and nobody overwrites it.
            Ok(value) => {
                each.own(&value);
                Took::ONE
            }
            Err(TryRecvError::Lagged(lost)) => Took::lost(lost),
            Err(TryRecvError::Empty | TryRecvError::Closed) => Took::NOTHING,
        }
    }
}

/// async-broadcast, which waits for its readers.
pub struct AsyncBroadcast;

impl<const N: usize> Rival<N> for AsyncBroadcast {
    const NAME: &'static str = "async-broadcast";
    type Publisher = async_broadcast::Sender<[u64; N]>;
    type Reader = async_broadcast::Receiver<[u64; N]>;

    fn open(readers: usize) -> (Self::Publisher, Vec<Self::Reader>) {
        let (sender, receiver) = async_broadcast::broadcast(capacity::<N>());
        (sender, vec![receiver; readers])
    }
}

impl<const N: usize> Publish<N> for async_broadcast::Sender<[u64; N]> {
    #[inline(always)]
    fn try_publish(&mut self, value: &[u64; N]) -> bool {
        self.try_broadcast(*value).is_ok()
    }
}

impl<const N: usize> Read<N> for async_broadcast::Receiver<[u64; N]> {
    #[inline(always)]
    fn take(&mut self, each: &mut impl Each) -> Took {
        let Ok(value) = self.try_recv() else { return Took::NOTHING };
        each.own(bytes_of(&value));
        Took::ONE
    }
}

impl<const N: usize> Sleep<N> for async_broadcast::Receiver<[u64; N]> {
    fn wait(&mut self, each: &mut impl Each) {
        if let Ok(value) = self.recv_blocking() {
            each.own(bytes_of(&value));
        }
    }
}

/// bus, which waits for its readers.
pub struct Bus;

impl<const N: usize> Rival<N> for Bus {
    const NAME: &'static str = "bus";
    type Publisher = bus::Bus<[u64; N]>;
    type Reader = bus::BusReader<[u64; N]>;

    fn open(readers: usize) -> (Self::Publisher, Vec<Self::Reader>) {
        let mut bus = bus::Bus::new(capacity::<N>());
        let readers = (0..readers).map(|_| bus.add_rx()).collect();
        (bus, readers)
    }
}

impl<const N: usize> Publish<N> for bus::Bus<[u64; N]> {
    #[inline(always)]
    fn try_publish(&mut self, value: &[u64; N]) -> bool {
        self.try_broadcast(*value).is_ok()
    }

    #[inline(always)]
    fn publish(&mut self, value: &[u64; N]) {
        self.broadcast(*value);
    }
}

impl<const N: usize> Read<N> for bus::BusReader<[u64; N]> {
    #[inline(always)]
    fn take(&mut self, each: &mut impl Each) -> Took {
        let Ok(value) = self.try_recv() else { return Took::NOTHING };
        each.own(bytes_of(&value));
        Took::ONE
    }
}

impl<const N: usize> Sleep<N> for bus::BusReader<[u64; N]> {
    fn wait(&mut self, each: &mut impl Each) {
        if let Ok(value) = self.recv() {
            each.own(bytes_of(&value));
        }
    }
}

/// multiqueue2's broadcast, which waits for its readers, with the wait that it calls the fastest.
pub struct MultiQueue;

pub struct MultiQueueReader<const N: usize>(BroadcastUniReceiver<[u64; N]>);

impl<const N: usize> Rival<N> for MultiQueue {
    const NAME: &'static str = "multiqueue2";
    const IN_PLACE: bool = true;
    type Publisher = BroadcastSender<[u64; N]>;
    type Reader = MultiQueueReader<N>;

    fn open(readers: usize) -> (Self::Publisher, Vec<Self::Reader>) {
        let wait = multiqueue2::wait::BusyWait::new();
        let (sender, receiver) = multiqueue2::broadcast_queue_with(capacity::<N>() as u64, wait);
        let single = |receiver: BroadcastReceiver<_>| match receiver.into_single() {
            Ok(single) => MultiQueueReader(single),
            Err(_) => panic!("it is the only one of its stream"),
        };
        let mut singles: Vec<_> = (1..readers).map(|_| single(receiver.add_stream())).collect();
        singles.push(single(receiver));
        (sender, singles)
    }
}

impl<const N: usize> Publish<N> for BroadcastSender<[u64; N]> {
    #[inline(always)]
    fn try_publish(&mut self, value: &[u64; N]) -> bool {
        self.try_send(*value).is_ok()
    }
}

impl<const N: usize> Read<N> for MultiQueueReader<N> {
    #[inline(always)]
    fn take(&mut self, each: &mut impl Each) -> Took {
        match self.0.try_recv_view(|value| each.in_place(bytes_of(value))) {
            Ok(()) => Took::ONE,
            Err(_) => Took::NOTHING,
        }
    }
}
