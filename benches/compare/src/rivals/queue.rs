//! Queues, whose every event is for one reader: rtrb, thingbuf, crossbeam-channel, flume and kanal.

use std::sync::Arc;

use bytemuck::bytes_of;
use thingbuf::recycling::Recycle;

use super::{Each, Publish, Read, Rival, Sleep, Took, capacity};

/// rtrb: one producer, one consumer.
pub struct Rtrb;

impl<const N: usize> Rival<N> for Rtrb {
    const NAME: &'static str = "rtrb";
    const IN_PLACE: bool = true;
    type Publisher = rtrb::Producer<[u64; N]>;
    type Reader = rtrb::Consumer<[u64; N]>;

    fn open(readers: usize) -> (Self::Publisher, Vec<Self::Reader>) {
        assert_eq!(readers, 1);
        let (producer, consumer) = rtrb::RingBuffer::new(capacity::<N>());
        (producer, vec![consumer])
    }
}

impl<const N: usize> Publish<N> for rtrb::Producer<[u64; N]> {
    #[inline(always)]
    fn try_publish(&mut self, value: &[u64; N]) -> bool {
        self.push(*value).is_ok()
    }
}

impl<const N: usize> Read<N> for rtrb::Consumer<[u64; N]> {
    #[inline(always)]
    fn take(&mut self, each: &mut impl Each) -> Took {
        let there = self.slots();
        let Ok(chunk) = self.read_chunk(there) else { return Took::NOTHING };
        let (first, second) = chunk.as_slices();
        first.iter().chain(second).for_each(|value| each.in_place(bytes_of(value)));
        chunk.commit_all();
        Took::read(there as u64)
    }
}

/// thingbuf: many producers and consumers, slots filled and read in place.
pub struct ThingBuf;

/// Slots are overwritten whole: there is nothing to clear.
pub struct Keep;

impl<const N: usize> Recycle<[u64; N]> for Keep {
    fn new_element(&self) -> [u64; N] {
        [0; N]
    }

    #[inline(always)]
    fn recycle(&self, _: &mut [u64; N]) {}
}

type Things<const N: usize> = Arc<thingbuf::ThingBuf<[u64; N], Keep>>;

impl<const N: usize> Rival<N> for ThingBuf {
    const NAME: &'static str = "thingbuf";
    const IN_PLACE: bool = true;
    type Publisher = Things<N>;
    type Reader = Things<N>;

    fn open(readers: usize) -> (Self::Publisher, Vec<Self::Reader>) {
        assert_eq!(readers, 1);
        let queue = Arc::new(thingbuf::ThingBuf::with_recycle(capacity::<N>(), Keep));
        (Arc::clone(&queue), vec![queue])
    }
}

impl<const N: usize> Publish<N> for Things<N> {
    #[inline(always)]
    fn try_publish(&mut self, value: &[u64; N]) -> bool {
        self.push_with(|slot| *slot = *value).is_ok()
    }
}

impl<const N: usize> Read<N> for Things<N> {
    #[inline(always)]
    fn take(&mut self, each: &mut impl Each) -> Took {
        self.pop_with(|value| each.in_place(bytes_of(value))).map_or(Took::NOTHING, |()| Took::ONE)
    }
}

macro_rules! channel {
    ($name:ident, $is:literal, $crate_:ident, $sent:pat, $received:pat => $value:expr, $receiver:ident => $all:expr) => {
        #[doc = concat!($is, ", bounded.")]
        pub struct $name;

        impl<const N: usize> Rival<N> for $name {
            const NAME: &'static str = $is;
            type Publisher = $crate_::Sender<[u64; N]>;
            type Reader = $crate_::Receiver<[u64; N]>;

            fn open(readers: usize) -> (Self::Publisher, Vec<Self::Reader>) {
                assert_eq!(readers, 1);
                let (sender, receiver) = $crate_::bounded(capacity::<N>());
                (sender, vec![receiver])
            }
        }

        impl<const N: usize> Publish<N> for $crate_::Sender<[u64; N]> {
            #[inline(always)]
            fn try_publish(&mut self, value: &[u64; N]) -> bool {
                matches!(self.try_send(*value), $sent)
            }

            #[inline(always)]
            fn publish(&mut self, value: &[u64; N]) {
                self.send(*value).expect("the receiver is there");
            }
        }

        impl<const N: usize> Read<N> for $crate_::Receiver<[u64; N]> {
            #[inline(always)]
            fn take(&mut self, each: &mut impl Each) -> Took {
                let $received = self.try_recv() else { return Took::NOTHING };
                each.own(bytes_of(&$value));
                Took::ONE
            }

            #[inline(always)]
            fn take_all(&mut self, each: &mut impl Each) -> Took {
                let ($receiver, mut read) = (self, 0);
                for value in $all {
                    each.own(bytes_of(&value));
                    read += 1;
                }
                Took::read(read)
            }
        }

        impl<const N: usize> Sleep<N> for $crate_::Receiver<[u64; N]> {
            fn wait(&mut self, each: &mut impl Each) {
                if let Ok(value) = self.recv() {
                    each.own(bytes_of(&value));
                }
            }
        }
    };
}

channel!(Crossbeam, "crossbeam-channel", crossbeam_channel, Ok(()), Ok(value) => value, receiver => receiver.try_iter());
channel!(Flume, "flume", flume, Ok(()), Ok(value) => value, receiver => receiver.drain());
channel!(Kanal, "kanal", kanal, Ok(true), Ok(Some(value)) => value, receiver => {
    let mut all = Vec::new();
    _ = receiver.drain_into(&mut all).expect("the channel is open");
    all
});
