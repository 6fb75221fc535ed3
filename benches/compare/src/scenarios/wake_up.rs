//! How long until a reader that sleeps has its event.

use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::thread;
use std::time::{Duration, Instant};

use super::{Scenario, value};
use crate::harness::{Contestant, Events, Group, Sample, THERE, histogram, pin};
use crate::rivals::go::Go;
use crate::rivals::waiting::{VisitSleepers, sleepers};
use crate::rivals::{First, Kind, Publish, Rival, Sleep};

pub fn wake_up(go: Option<&Go>) -> Scenario {
    let go = go.map(Arc::clone);
    Scenario {
        name: "wake-up",
        about: "A reader on another core waits in its blocking call, and 200 µs later an event of 8 bytes is published: from just \
                before that until the reader has it. Go's threads are not pinned, and its event is the reference's.",
        groups: vec![Box::new(|| group(go))],
    }
}

/// Long enough for the reader to sleep.
const REST: Duration = Duration::from_micros(200);

fn group(go: Option<Go>) -> Group {
    struct Contestants(Vec<Contestant>);
    impl VisitSleepers<1> for Contestants {
        fn visit<R: Rival<1, Reader: Sleep<1>>>(&mut self) {
            let (mut publisher, mut reader) = R::one();
            let body = Box::new(move |events| {
                let origin = Instant::now();
                let since = move || origin.elapsed().as_nanos() as u64;
                let seen = AtomicU64::new(0);
                let latencies = thread::scope(|scope| {
                    let reading = scope.spawn(|| {
                        pin(THERE);
                        let mut latencies = histogram();
                        for number in 1..=events {
                            let mut first = First(0);
                            reader.wait(&mut first);
                            latencies.saturating_record(since().saturating_sub(first.0));
                            seen.store(number, Release);
                        }
                        latencies
                    });
                    for number in 1..=events {
                        let rest = Instant::now();
                        while rest.elapsed() < REST {
                            spin_loop();
                        }
                        let mut sent = *value();
                        sent[0] = since();
                        publisher.publish(black_box(&sent));
                        while seen.load(Acquire) != number {
                            spin_loop();
                        }
                    }
                    reading.join().expect("a reader does not panic")
                });
                Sample::latencies(latencies)
            });
            self.0.push(Contestant::new(R::NAME, R::KIND, "", body));
        }
    }
    let mut contestants = Contestants(Vec::new());
    sleepers(&mut contestants);
    if let Some(go) = go {
        let body = Box::new(move |events: u64| {
            let mut latencies = histogram();
            let answer = go.lock().expect("nobody panicked").ask("wake", events.max(1));
            answer.iter().for_each(|ns| latencies.saturating_record(*ns as u64));
            Sample::latencies(latencies)
        });
        contestants.0.push(Contestant::new("Go program", Kind::Rival, "", body));
    }
    Group {
        scenario: "wake-up",
        case: String::from("u64"),
        x: None,
        what: "ns",
        events: Events::Fixed(100),
        contestants: contestants.0,
        goals: Vec::new(),
    }
}
