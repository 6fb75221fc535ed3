//! One thread that publishes, or publishes and reads.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytemuck::{bytes_of, bytes_of_mut};

use super::{Scenario, each_payload, size, value};
use crate::harness::{Against, Contestant, Events, Goal, Group, Sample};
use crate::rivals::{Copied, Each, Folded, Kind, Publish, Read, Rival, Visit, capacity, one_to_one};

/// Publishing on and on, by those whose publisher waits for nobody.
const CONTINUOUS: &str = "continuous";
/// Half a ring's worth published on the clock, then read off it, for everybody.
const BURSTS: &str = "bursts";

pub fn publish() -> Scenario {
    Scenario {
        name: "publish",
        about: "One thread publishes; one reader is attached. `continuous` goes on and on, which only those can whose \
                publisher never waits for readers; `bursts` are half a ring's worth, which the reader takes off the \
                clock, for all.",
        groups: each_payload!(publish_group),
    }
}

fn publish_group<const N: usize>() -> Group {
    struct Contestants<const N: usize>(Vec<Contestant>);
    impl<const N: usize> Visit<N> for Contestants<N> {
        fn visit<R: Rival<N>>(&mut self) {
            if R::IN_PLACE && R::KIND == Kind::Ours {
                return; // Publishes as another one of ours does.
            }
            if R::LAPS {
                let (mut publisher, reader) = R::one();
                let publish = move || publisher.publish(black_box(value()));
                self.0.push(Contestant::new(R::NAME, R::KIND, CONTINUOUS, continuous(publish, reader)));
            }
            let (mut publisher, mut reader) = R::one();
            let publish = move || publisher.publish(black_box(value()));
            let read = move || reader.take(&mut Copied([0; N])).read;
            let body = bursts::<N>(publish, read);
            self.0.push(Contestant::new(R::NAME, R::KIND, BURSTS, body));
        }
    }
    let nothing = || _ = black_box(black_box(value::<N>()));
    let mut contestants = Contestants::<N>(vec![
        Contestant::new("base", Kind::Base, CONTINUOUS, continuous(nothing, ())),
        Contestant::new("memcpy", Kind::Floor, CONTINUOUS, continuous(memcpy::<N>(false), ())),
    ]);
    one_to_one(&mut contestants);
    let size = size::<N>();
    let rivals = |class| (class, Against::Rivals(if class == BURSTS { &[BURSTS] } else { &[CONTINUOUS] }));
    let mut goals: Vec<_> = [CONTINUOUS, BURSTS]
        .map(rivals)
        .into_iter()
        .map(|(class, against)| {
            Goal::new(format!("publish {size}, {class} / best rival"), class, against, 0.95)
        })
        .collect();
    if N == 32 {
        goals.push(Goal::new("publish 256 B / memcpy", CONTINUOUS, Against::Named("memcpy"), 1.3));
    }
    Group {
        scenario: "publish",
        case: size,
        x: Some(N as u64 * 8),
        what: "ns/event",
        events: Events::Turns(1),
        contestants: contestants.0,
        goals,
    }
}

/// Copies into slots that begin on a cache line each, as many as a ring has.
/// Copies them out again if they are wanted `back`.
fn memcpy<const N: usize>(back: bool) -> impl FnMut() {
    let stride = (N * 8).next_multiple_of(64);
    let mut memory = vec![0u8; stride * (capacity::<N>() + 1)];
    let first = memory.as_ptr().align_offset(64);
    let (mut slot, mut out) = (0, [0u64; N]);
    move || {
        let bytes = black_box(bytes_of(value::<N>()));
        let at = first + slot * stride;
        let stored = black_box(&mut memory[at..at + bytes.len()]);
        stored.copy_from_slice(bytes);
        if back {
            bytes_of_mut(&mut out).copy_from_slice(black_box(stored));
            black_box(&out);
        }
        slot = if slot + 1 == capacity::<N>() { 0 } else { slot + 1 };
    }
}

fn continuous(mut publish: impl FnMut() + 'static, reader: impl Sized + 'static) -> crate::harness::Body {
    Box::new(move |events| {
        let _attached = &reader;
        let start = Instant::now();
        for _ in 0..events {
            publish();
        }
        Sample::per_event(start.elapsed(), events)
    })
}

fn bursts<const N: usize>(
    mut publish: impl FnMut() + 'static,
    mut read: impl FnMut() -> u64 + 'static,
) -> crate::harness::Body {
    let burst = capacity::<N>() as u64 / 2;
    Box::new(move |events| {
        let bursts = events.div_ceil(burst);
        let mut time = Duration::ZERO;
        for _ in 0..bursts {
            let start = Instant::now();
            (0..burst).for_each(|_| publish());
            time += start.elapsed();
            drain(burst, &mut read);
        }
        Sample::per_event(time, bursts * burst)
    })
}

/// Reads so many events, which are there.
#[inline(always)]
fn drain(events: u64, read: &mut impl FnMut() -> u64) {
    let mut done = 0;
    while done < events {
        done += read();
    }
}

/// The reader has a copy of its own.
const COPIED: &str = "copied";
/// Each word counts, in place where the peer can.
const FOLDED: &str = "every word";

pub fn publish_and_read() -> Scenario {
    Scenario {
        name: "publish and read",
        about: "One thread publishes an event and reads it, in turn. `copied`: the reader ends with a copy of its own, \
                which in-place peers make; `every word`: it reads each word once, in place where the peer can.",
        groups: each_payload!(publish_and_read_group),
    }
}

fn publish_and_read_group<const N: usize>() -> Group {
    fn in_turn<const N: usize, R: Rival<N>>(mut each: impl Each + 'static) -> crate::harness::Body {
        let (mut publisher, mut reader) = R::one();
        Box::new(move |events| {
            let start = Instant::now();
            for _ in 0..events {
                publisher.publish(black_box(value()));
                drain(1, &mut || reader.take(&mut each).read);
            }
            Sample::per_event(start.elapsed(), events)
        })
    }
    struct Contestants<const N: usize>(Vec<Contestant>);
    impl<const N: usize> Visit<N> for Contestants<N> {
        fn visit<R: Rival<N>>(&mut self) {
            let mut add = |class, body| self.0.push(Contestant::new(R::name(), R::KIND, class, body));
            add(COPIED, in_turn::<N, R>(Copied([0; N])));
            add(FOLDED, in_turn::<N, R>(Folded));
        }
    }
    let base = || _ = black_box(black_box(value::<N>()));
    let mut contestants = Contestants::<N>(vec![
        Contestant::new("base", Kind::Base, COPIED, continuous(base, ())),
        Contestant::new("memcpy, there and back", Kind::Floor, COPIED, continuous(memcpy::<N>(true), ())),
    ]);
    one_to_one(&mut contestants);
    let size = size::<N>();
    let copied = format!("publish and read {size}, {COPIED} / best rival");
    let folded = format!("publish and read {size}, {FOLDED} / best rival");
    Group {
        scenario: "publish and read",
        case: size,
        x: Some(N as u64 * 8),
        what: "ns/event",
        events: Events::Turns(1),
        contestants: contestants.0,
        goals: vec![
            Goal::new(copied, COPIED, Against::Rivals(&[COPIED]), 0.95),
            Goal::new(folded, FOLDED, Against::Rivals(&[FOLDED]), 0.95),
        ],
    }
}

/// Events of a burst.
const BURST: u64 = 64;

pub fn bursts_read() -> Scenario {
    Scenario {
        name: "bursts, read",
        about: "One thread publishes 64 events and then reads them, by one call where the peer has one, both on the clock. \
                The reader reads each word once, in place where the peer can.",
        groups: vec![Box::new(bursts_read_group::<1>), Box::new(bursts_read_group::<32>)],
    }
}

fn bursts_read_group<const N: usize>() -> Group {
    struct Contestants<const N: usize>(Vec<Contestant>);
    impl<const N: usize> Visit<N> for Contestants<N> {
        fn visit<R: Rival<N>>(&mut self) {
            let (mut publisher, mut reader) = R::one();
            let body = Box::new(move |events: u64| {
                let bursts = events.div_ceil(BURST);
                let start = Instant::now();
                for _ in 0..bursts {
                    (0..BURST).for_each(|_| publisher.publish(black_box(value())));
                    drain(BURST, &mut || reader.take_all(&mut Folded).read);
                }
                Sample::per_event(start.elapsed(), bursts * BURST)
            });
            self.0.push(Contestant::new(R::name(), R::KIND, "", body));
        }
    }
    let base = || _ = black_box(black_box(value::<N>()));
    let mut contestants =
        Contestants::<N>(vec![Contestant::new("base", Kind::Base, "", continuous(base, ()))]);
    one_to_one(&mut contestants);
    Group {
        scenario: "bursts, read",
        case: size::<N>(),
        x: None,
        what: "ns/event",
        events: Events::Turns(1),
        contestants: contestants.0,
        goals: Vec::new(),
    }
}
