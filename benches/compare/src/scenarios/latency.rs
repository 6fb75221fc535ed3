//! From one core to another: one way of a ping-pong, and at a fixed rate.

use std::hint::{black_box, spin_loop};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;

use super::{Scenario, size, value};
use crate::harness::{Against, Contestant, Events, Goal, Group, Sample, THERE, histogram, pin, streaming};
use crate::rivals::{First, Kind, Publish, Read, Rival, Visit, capacity, one_to_one};

/// The message that ends the other thread.
const STOP: u64 = u64::MAX;

pub fn ping_pong() -> Scenario {
    Scenario {
        name: "ping-pong",
        about: "A message goes to a reader on another core, which answers through a second one of its kind: half of each \
                round trip, one reading of the clock included. Everybody looks again and again. `hop` is a bare \
                atomic word each way.",
        groups: vec![Box::new(ping_pong_group::<1>), Box::new(ping_pong_group::<32>)],
    }
}

/// Half of each round trip of `events` numbered messages: `ping` sends one, `pong` gets its answer, and `echo` is
/// the other side.
fn round_trips(
    events: u64,
    mut ping: impl FnMut(u64),
    mut pong: impl FnMut() -> Option<u64>,
    echo: impl FnOnce() + Send,
) -> Sample {
    let mut latencies = histogram();
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(THERE);
            echo();
        });
        // The first one waits for the thread to start, which does so on this core.
        ping(0);
        while pong() != Some(0) {
            thread::yield_now();
        }
        let mut before = Instant::now();
        for number in 1..=events {
            ping(number);
            while pong() != Some(number) {}
            let now = Instant::now();
            latencies.saturating_record(((now - before).as_nanos() / 2) as u64);
            before = now;
        }
        ping(STOP);
    });
    Sample::latencies(latencies)
}

fn next<const N: usize>(reader: &mut impl Read<N>) -> Option<u64> {
    let mut first = First(0);
    (reader.take(&mut first).read > 0).then_some(first.0)
}

fn ping_pong_group<const N: usize>() -> Group {
    struct Contestants<const N: usize>(Vec<Contestant>);
    impl<const N: usize> Visit<N> for Contestants<N> {
        fn visit<R: Rival<N>>(&mut self) {
            let (mut to, mut at_other) = R::one();
            let (mut from_other, mut back) = R::one();
            let body = Box::new(move |events| {
                let (mut sent, mut answer) = (*value(), *value());
                let ping = |number| {
                    sent[0] = number;
                    to.publish(black_box(&sent));
                };
                let echo = || {
                    loop {
                        match next(&mut at_other) {
                            Some(STOP) => break,
                            Some(number) => {
                                answer[0] = number;
                                from_other.publish(black_box(&answer));
                            }
                            None => {}
                        }
                    }
                };
                round_trips(events, ping, || next(&mut back), echo)
            });
            self.0.push(Contestant::new(R::name(), R::KIND, "", body));
        }
    }
    let hop = Box::new(|events| {
        const NOTHING: u64 = u64::MAX - 1;
        let (there, back) =
            (CachePadded::new(AtomicU64::new(NOTHING)), CachePadded::new(AtomicU64::new(NOTHING)));
        let echo = || {
            let mut last = NOTHING;
            while last != STOP {
                let number = there.load(Acquire);
                if number != last {
                    back.store(number, Release);
                    last = number;
                }
            }
        };
        round_trips(events, |number| there.store(number, Release), || Some(back.load(Acquire)), echo)
    });
    let mut contestants = Contestants::<N>(vec![Contestant::new("hop", Kind::Floor, "", hop)]);
    one_to_one(&mut contestants);
    let size = size::<N>();
    let mut goals =
        vec![Goal::new(format!("latency p50 {size} / best rival"), "", Against::Rivals(&[""]), 1.0)];
    if N == 1 {
        goals.push(Goal::new("latency p50 u64 / bare hop", "", Against::Named("hop"), 1.5));
    }
    Group {
        scenario: "ping-pong",
        case: size,
        x: None,
        what: "ns, one way",
        events: Events::Fixed(3_000),
        contestants: contestants.0,
        goals,
    }
}

/// Between two events of the fixed rate.
const INTERVAL: Duration = Duration::from_micros(2);

pub fn fixed_rate() -> Scenario {
    Scenario {
        name: "fixed rate",
        about: "500,000 events a second, each at its time: how long after the time that it was due, not the time that it was \
                sent, the reader on another core has it. So coordinated omission is corrected: an event that had to \
                wait for an earlier one counts its wait.",
        groups: vec![Box::new(fixed_rate_group::<1>), Box::new(fixed_rate_group::<32>)],
    }
}

fn fixed_rate_group<const N: usize>() -> Group {
    struct Contestants<const N: usize>(Vec<Contestant>);
    impl<const N: usize> Visit<N> for Contestants<N> {
        fn visit<R: Rival<N>>(&mut self) {
            let (mut publisher, mut reader) = R::one();
            let body = Box::new(move |events| {
                let origin = Instant::now();
                let since = move || origin.elapsed().as_nanos() as u64;
                let mut latencies = histogram();
                let (mut sent, mut due, mut lost) = (*value(), None, 0);
                let publish = || {
                    let at = due.map_or_else(since, |due| due + INTERVAL.as_nanos() as u64);
                    due = Some(at);
                    while since() < at {
                        spin_loop();
                    }
                    sent[0] = at;
                    publisher.publish(black_box(&sent));
                };
                let read = || {
                    let mut first = First(0);
                    let took = reader.take(&mut first);
                    if took.read > 0 {
                        // Of several that were read at once, the last: the earlier ones were due before it.
                        let late = since().saturating_sub(first.0);
                        for earlier in 0..took.read {
                            latencies.saturating_record(late + earlier * INTERVAL.as_nanos() as u64);
                        }
                    }
                    lost += took.lost;
                    took.read + took.lost
                };
                streaming(events, capacity::<N>() as u64, false, publish, read);
                Sample::latencies(latencies).lost(lost, events)
            });
            self.0.push(Contestant::new(R::name(), R::KIND, "", body));
        }
    }
    let mut contestants = Contestants::<N>(Vec::new());
    one_to_one(&mut contestants);
    Group {
        scenario: "fixed rate",
        case: size::<N>(),
        x: None,
        what: "ns, one way",
        events: Events::Fixed(3_000),
        contestants: contestants.0,
        goals: Vec::new(),
    }
}
