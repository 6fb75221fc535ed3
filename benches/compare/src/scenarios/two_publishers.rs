//! Two publishers on two cores.

use std::hint::black_box;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::{Scenario, size, value};
use crate::harness::{Against, Body, Contestant, Events, Goal, Group, Sample, racing};
use crate::rivals::{
    BATCH, Copied, Kind, Publish, PublishBatch, Read, Rival, VisitShared, capacity, many_to_one,
};

const SINGLE: &str = "single";
const BATCHES: &str = "batches of 16";

pub fn two_publishers() -> Scenario {
    Scenario {
        name: "two publishers",
        about: "Two threads publish at the same time, in bursts of nearly half a ring each, which one reader takes off \
                the clock (a third thread would have no core of its own). Nanoseconds for each event of the two.",
        groups: vec![Box::new(group::<1>), Box::new(group::<32>)],
    }
}

/// Events of one publisher in a burst.
const fn burst<const N: usize>() -> u64 {
    let burst = capacity::<N>() * 15 / 32;
    (burst - burst % BATCH) as u64
}

fn race(
    step: u64,
    burst: u64,
    left: impl FnMut(),
    right: impl FnMut() + Send,
    drain: impl FnMut(),
    events: u64,
) -> Sample {
    let bursts = events.div_ceil(2 * burst);
    let (mut left, mut right) = (left, right);
    let left = || (0..burst / step).for_each(|_| left());
    let right = || (0..burst / step).for_each(|_| right());
    Sample::per_event(racing(bursts, left, right, drain), bursts * 2 * burst)
}

fn group<const N: usize>() -> Group {
    fn body<const N: usize, R: Rival<N, Publisher: Clone>>(
        step: usize,
        publish: impl Fn(&mut R::Publisher) + Copy + Send + Sync + 'static,
    ) -> Body {
        let (publisher, mut reader) = R::one();
        let (mut left, mut right) = (publisher.clone(), publisher);
        Box::new(move |events| {
            let drain = || {
                let mut done = 0;
                while done < 2 * burst::<N>() {
                    done += reader.take(&mut Copied([0; N])).read;
                }
            };
            race(step as u64, burst::<N>(), || publish(&mut left), || publish(&mut right), drain, events)
        })
    }
    struct Contestants<const N: usize>(Vec<Contestant>);
    impl<const N: usize> VisitShared<N> for Contestants<N> {
        fn visit<R: Rival<N, Publisher: Clone>>(&mut self) {
            let body = body::<N, R>(1, |publisher| publisher.publish(black_box(value())));
            self.0.push(Contestant::new(R::NAME, R::KIND, SINGLE, body));
        }

        fn visit_batch<R: Rival<N, Publisher: Clone + PublishBatch<N>>>(&mut self) {
            let body = body::<N, R>(BATCH, |publisher| {
                publisher.publish_batch(black_box(const { &[*value(); BATCH] }))
            });
            self.0.push(Contestant::new(R::NAME, R::KIND, BATCHES, body));
        }
    }
    let nothing = || _ = black_box(black_box(value::<N>()));
    let base = Box::new(move |events| race(1, burst::<N>(), nothing, nothing, || (), events));
    let floor = Box::new(|events| {
        let shared = AtomicU64::new(0);
        let add = || _ = shared.fetch_add(1, Relaxed);
        race(1, burst::<N>(), add, add, || (), events)
    });
    let mut contestants = Contestants::<N>(vec![
        Contestant::new("base", Kind::Base, SINGLE, base),
        Contestant::new("fetch_add", Kind::Floor, SINGLE, floor),
    ]);
    many_to_one(&mut contestants);
    let size = size::<N>();
    let everybody = || Against::Rivals(&[SINGLE, BATCHES]);
    Group {
        scenario: "two publishers",
        x: None,
        what: "ns/event",
        events: Events::Turns(4),
        contestants: contestants.0,
        goals: vec![
            Goal::new(
                format!("two publishers {size}, single / best rival"),
                SINGLE,
                Against::Rivals(&[SINGLE]),
                1.0,
            ),
            Goal::new(format!("two publishers {size}, batched / best rival"), BATCHES, everybody(), 0.7),
        ],
        case: size,
    }
}
