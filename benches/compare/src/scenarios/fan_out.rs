//! One publisher, many readers.

use std::hint::black_box;

use super::{Scenario, value};
use crate::harness::{Against, Contestant, Events, Goal, Group, Sample, alternating};
use crate::rivals::{Copied, Publish, Read, Rival, Visit, capacity, one_to_many};

/// 256 bytes.
const N: usize = 32;

pub fn publisher() -> Scenario {
    Scenario {
        name: "fan-out, publisher",
        about: "256 bytes to so many readers, which all live on one thread on another core. A burst of a quarter of a ring is \
                published, and then read by each of them: what publishing an event costs.",
        groups: vec![
            Box::new(|| group(1, true)),
            Box::new(|| group(4, true)),
            Box::new(|| group(16, true)),
            Box::new(|| group(64, true)),
        ],
    }
}

pub fn readers() -> Scenario {
    Scenario {
        name: "fan-out, per read",
        about: "256 bytes to so many readers, which all live on one thread on another core: what one read by one of them \
                costs, which ends with a copy of its own.",
        groups: vec![
            Box::new(|| group(1, false)),
            Box::new(|| group(4, false)),
            Box::new(|| group(16, false)),
            Box::new(|| group(64, false)),
        ],
    }
}

fn group(readers: usize, publishing: bool) -> Group {
    struct Contestants {
        readers: usize,
        publishing: bool,
        list: Vec<Contestant>,
    }
    impl Visit<N> for Contestants {
        fn visit<R: Rival<N>>(&mut self) {
            const BURST: u64 = capacity::<N>() as u64 / 4;
            let (mut publisher, mut readers) = R::open(self.readers);
            let publishing = self.publishing;
            let body = Box::new(move |events: u64| {
                // In the time of a turn fits what the readers do, too.
                let bursts = events.div_ceil(BURST);
                let publish = || (0..BURST).for_each(|_| publisher.publish(black_box(value())));
                let read = || {
                    for reader in &mut readers {
                        let mut done = 0;
                        while done < BURST {
                            done += reader.take_all(&mut Copied([0; N])).read;
                        }
                    }
                };
                let (published, read) = alternating(bursts, publish, read);
                if publishing {
                    Sample::per_event(published, bursts * BURST)
                } else {
                    Sample::per_event(read, bursts * BURST * readers.len() as u64)
                }
            });
            self.list.push(Contestant::new(R::name(), R::KIND, "", body));
        }
    }
    let mut contestants = Contestants { readers, publishing, list: Vec::new() };
    one_to_many(&mut contestants);
    let scenario = if publishing { "fan-out, publisher" } else { "fan-out, per read" };
    let goals = match (readers, publishing) {
        (64, true) => vec![Goal::new("fan-out 64, publisher / best rival", "", Against::Rivals(&[""]), 1.0)],
        (64, false) => vec![Goal::new("fan-out 64, per read / best rival", "", Against::Rivals(&[""]), 1.2)],
        _ => Vec::new(),
    };
    Group {
        scenario,
        case: if readers == 1 { String::from("1 reader") } else { format!("{readers} readers") },
        x: Some(readers as u64),
        what: if publishing { "ns/event" } else { "ns/read" },
        events: Events::Turns(4),
        contestants: contestants.list,
        goals,
    }
}
