//! disruptor, by its pollers, which take all there is.

use bytemuck::bytes_of;
use disruptor::{
    BusySpin, EventPoller, MultiConsumerBarrier, MultiProducer, MultiProducerBarrier, Producer,
    SingleConsumerBarrier, SingleProducer, SingleProducerBarrier,
};

use super::{BATCH, Each, Publish, PublishBatch, Read, Rival, Took, capacity};

/// One producer, one consumer.
pub struct Single;

impl<const N: usize> Rival<N> for Single {
    const NAME: &'static str = "disruptor";
    const IN_PLACE: bool = true;
    type Publisher = SingleProducer<[u64; N], SingleConsumerBarrier>;
    type Reader = EventPoller<[u64; N], SingleProducerBarrier>;

    fn open(readers: usize) -> (Self::Publisher, Vec<Self::Reader>) {
        assert_eq!(readers, 1);
        let builder = disruptor::build_single_producer(capacity::<N>(), || [0; N], BusySpin);
        let (poller, builder) = builder.new_event_poller();
        (builder.build(), vec![poller])
    }
}

/// Several producers, one consumer.
pub struct Multi;

impl<const N: usize> Rival<N> for Multi {
    const NAME: &'static str = "disruptor multi-producer";
    const IN_PLACE: bool = true;
    type Publisher = MultiProducer<[u64; N], SingleConsumerBarrier>;
    type Reader = EventPoller<[u64; N], MultiProducerBarrier>;

    fn open(readers: usize) -> (Self::Publisher, Vec<Self::Reader>) {
        assert_eq!(readers, 1);
        let builder = disruptor::build_multi_producer(capacity::<N>(), || [0; N], BusySpin);
        let (poller, builder) = builder.new_event_poller();
        (builder.build(), vec![poller])
    }
}

/// One producer, any number of consumers.
pub struct Fan;

impl<const N: usize> Rival<N> for Fan {
    const NAME: &'static str = "disruptor";
    const IN_PLACE: bool = true;
    type Publisher = SingleProducer<[u64; N], MultiConsumerBarrier>;
    type Reader = EventPoller<[u64; N], SingleProducerBarrier>;

    fn open(readers: usize) -> (Self::Publisher, Vec<Self::Reader>) {
        let builder = disruptor::build_single_producer(capacity::<N>(), || [0; N], BusySpin);
        let mut builder = builder.with_multi_consumer();
        let mut pollers = Vec::new();
        for _ in 0..readers {
            let (poller, next) = builder.new_event_poller();
            pollers.push(poller);
            builder = next;
        }
        (builder.build(), pollers)
    }
}

macro_rules! publisher {
    ($producer:ident, $barrier:ident) => {
        impl<const N: usize> Publish<N> for $producer<[u64; N], $barrier> {
            #[inline(always)]
            fn try_publish(&mut self, value: &[u64; N]) -> bool {
                Producer::try_publish(self, |slot| *slot = *value).is_ok()
            }

            #[inline(always)]
            fn publish(&mut self, value: &[u64; N]) {
                Producer::publish(self, |slot| *slot = *value);
            }
        }
    };
}

publisher!(SingleProducer, SingleConsumerBarrier);
publisher!(SingleProducer, MultiConsumerBarrier);
publisher!(MultiProducer, SingleConsumerBarrier);

impl<const N: usize> PublishBatch<N> for MultiProducer<[u64; N], SingleConsumerBarrier> {
    #[inline(always)]
    fn publish_batch(&mut self, values: &[[u64; N]; BATCH]) {
        self.batch_publish(BATCH, |slots| slots.zip(values).for_each(|(slot, value)| *slot = *value));
    }
}

macro_rules! reader {
    ($barrier:ident) => {
        impl<const N: usize> Read<N> for EventPoller<[u64; N], $barrier> {
            #[inline(always)]
            fn take(&mut self, each: &mut impl Each) -> Took {
                let Ok(mut events) = self.poll() else { return Took::NOTHING };
                let mut read = 0;
                for event in &mut events {
                    each.in_place(bytes_of(event));
                    read += 1;
                }
                Took::read(read)
            }
        }
    };
}

reader!(SingleProducerBarrier);
reader!(MultiProducerBarrier);
