//! One publisher and one reader, each on a core of its own.

use std::hint::black_box;

use super::{Scenario, each_payload, size, value};
use crate::harness::{Against, Contestant, Events, Goal, Group, Sample, streaming};
use crate::rivals::{Each, Folded, Kind, Publish, Read, Rival, Visit, capacity, one_to_one};

pub fn streamed() -> Scenario {
    Scenario {
        name: "streamed",
        about: "One publisher to one reader on another core, which reads each word of every event. Peers that would \
                overtake the reader are paced: the publisher looks every sixteenth of a ring how far the reader is.",
        groups: each_payload!(streamed_group),
    }
}

fn streamed_group<const N: usize>() -> Group {
    struct Contestants<const N: usize>(Vec<Contestant>);
    impl<const N: usize> Visit<N> for Contestants<N> {
        fn visit<R: Rival<N>>(&mut self) {
            let (mut publisher, mut reader) = R::one();
            let body = Box::new(move |events| {
                let mut lost = 0;
                let publish = || publisher.publish(black_box(value()));
                let read = || {
                    let took = reader.take_all(&mut Folded);
                    lost += took.lost;
                    took.read + took.lost
                };
                let time = streaming(events, capacity::<N>() as u64, R::LAPS, publish, read);
                Sample::per_event(time, events).lost(lost, events)
            });
            self.0.push(Contestant::new(R::name(), R::KIND, "", body));
        }
    }
    let base = Box::new(|events| {
        let publish = || _ = black_box(black_box(value::<N>()));
        let read = || {
            Folded.own(bytemuck::bytes_of(black_box(value::<N>())));
            1
        };
        Sample::per_event(streaming(events, capacity::<N>() as u64, true, publish, read), events)
    });
    let mut contestants = Contestants::<N>(vec![Contestant::new("base", Kind::Base, "", base)]);
    one_to_one(&mut contestants);
    let size = size::<N>();
    Group {
        scenario: "streamed",
        x: Some(N as u64 * 8),
        what: "ns/event",
        events: Events::Turns(4),
        contestants: contestants.0,
        goals: vec![Goal::new(format!("streamed {size} / best rival"), "", Against::Rivals(&[""]), 1.0)],
        case: size,
    }
}

pub fn free_running() -> Scenario {
    Scenario {
        name: "free running",
        about: "One publisher to one reader on another core without pacing, by those whose publisher waits for nobody: \
                nanoseconds for each event published, and how many of them the reader lost, if any.",
        groups: vec![Box::new(free_group::<1>), Box::new(free_group::<32>)],
    }
}

fn free_group<const N: usize>() -> Group {
    struct Contestants<const N: usize>(Vec<Contestant>);
    impl<const N: usize> Visit<N> for Contestants<N> {
        fn visit<R: Rival<N>>(&mut self) {
            if !R::LAPS {
                return;
            }
            let (mut publisher, mut reader) = R::one();
            let body = Box::new(move |events| {
                let mut seen = 0;
                let mut lost = 0;
                let publish = || publisher.publish(black_box(value()));
                let read = || {
                    let took = reader.take_all(&mut Folded);
                    seen += took.read + took.lost;
                    lost += took.lost;
                    took.read + took.lost
                };
                let time = streaming(events, capacity::<N>() as u64, false, publish, read);
                Sample::per_event(time, events).lost(lost, seen)
            });
            self.0.push(Contestant::new(R::name(), R::KIND, "", body));
        }
    }
    let mut contestants = Contestants::<N>(Vec::new());
    one_to_one(&mut contestants);
    Group {
        scenario: "free running",
        case: size::<N>(),
        x: None,
        what: "ns/event",
        events: Events::Turns(4),
        contestants: contestants.0,
        goals: Vec::new(),
    }
}
