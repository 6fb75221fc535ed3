//! Those whose readers can sleep until there is an event.

use super::{Publish, Rival, Sleep, broadcast, lapwing, queue};

/// Does something with each of them.
pub trait VisitSleepers<const N: usize> {
    fn visit<R: Rival<N, Reader: Sleep<N>>>(&mut self)
    where
        R::Publisher: Publish<N>;
}

pub fn sleepers<const N: usize>(to: &mut impl VisitSleepers<N>) {
    to.visit::<lapwing::Exclusive<false>>();
    to.visit::<lapwing::Shared>();
    to.visit::<broadcast::Tokio>();
    to.visit::<broadcast::AsyncBroadcast>();
    to.visit::<broadcast::Bus>();
    to.visit::<queue::Crossbeam>();
    to.visit::<queue::Flume>();
    to.visit::<queue::Kanal>();
}
