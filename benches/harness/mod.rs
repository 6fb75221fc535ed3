//! What the benches have in common: contestants in turns, in one run, and goals that are held against their times.
//!
//! First comes criterion's figure for each contestant alone, in nanoseconds per event; its report, with plots of the
//! distributions, is `target/criterion/report/index.html`. Then the contestants of each group run in turns, many short
//! rounds of all of them, so that what disturbs the machine disturbs all alike. A ratio is the median of the rounds'
//! own ratios. The contestant `base` does the same without what is measured: it is the harness's own cost, which no
//! figure has been freed of.
#![allow(dead_code)] // Not every bench needs everything.

use std::hint::spin_loop;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, PlottingBackend};
use crossbeam_utils::CachePadded;

/// The slots of a ring, which so fits a second-level cache.
pub const CAPACITY: usize = 1024;

/// Handles so many events and says how long they took.
pub type Body = Box<dyn FnMut(u64) -> Duration>;

pub struct Group {
    pub name: &'static str,
    /// Events of a contestant in a round.
    pub events: u64,
    /// Those of an event, where the table shall have GB/s, too.
    pub bytes: Option<usize>,
    /// The table's ratios are to the second one.
    pub contestants: Vec<(&'static str, Body)>,
    pub goals: Vec<Goal>,
}

/// `ours` takes at most so many times as long as `against`, or is at least so many times as fast.
pub struct Goal {
    pub name: &'static str,
    pub ours: &'static str,
    pub against: Against,
    pub limit: Limit,
}

pub enum Against {
    FastestOf(&'static [&'static str]),
    SumOf(&'static [&'static str]),
}

/// `ours` takes at most `limit` times as long as the fastest of `against`.
pub fn goal(name: &'static str, ours: &'static str, against: &'static [&'static str], limit: f64) -> Goal {
    Goal { name, ours, against: Against::FastestOf(against), limit: Limit::AtMost(limit) }
}

/// `ours` is at least `limit` times as fast as `against`.
pub fn speed_goal(
    name: &'static str,
    ours: &'static str,
    against: &'static [&'static str],
    limit: f64,
) -> Goal {
    Goal { limit: Limit::AtLeast(limit), ..goal(name, ours, against, limit) }
}

/// Criterion, which leaves its report in `target/criterion`.
pub fn criterion() -> Criterion {
    // Plots of 100,000 resamples, as is the default, would take five seconds for each contestant. They are drawn alike
    // everywhere: where gnuplot is there, it would be the default.
    Criterion::default()
        .nresamples(10_000)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300))
        .sample_size(20)
        .plotting_backend(PlottingBackend::Plotters)
        .configure_from_args()
}

/// Measures each contestant alone, and then those of each group in turns. The last lines are one for each goal:
/// those of the groups, and those that `more` returns. As a test, runs each contestant once.
pub fn run(mut groups: Vec<Group>, more: impl FnOnce() -> Vec<String>) {
    let mut criterion = criterion();
    for group in &mut groups {
        let mut bench = criterion.benchmark_group(group.name);
        for (name, body) in &mut group.contestants {
            bench.bench_function(*name, |bencher| bencher.iter_custom(&mut *body));
        }
        bench.finish();
    }
    criterion.final_summary();

    // As criterion has it: without `--bench`, or with `--test`, this is a test run.
    let has = |wanted| std::env::args().any(|arg| arg == wanted);
    if has("--bench") && !has("--test") && !has("--list") {
        let mut verdicts: Vec<_> = groups.iter_mut().flat_map(compare).collect();
        verdicts.extend(more());
        println!();
        verdicts.iter().for_each(|verdict| println!("{verdict}"));
    }
}

/// Rounds of a group.
const ROUNDS: usize = 151;

/// Prints the table of a group, and returns the line for each of its goals.
fn compare(group: &mut Group) -> Vec<String> {
    let times = rounds(group);
    let speed = if group.bytes.is_some() { "GB/s" } else { "" };
    println!("\n{:<44}{:>9}{:>9}{speed:>9}", group.name, "ns/event", "ratio");
    for ((name, _), times_of_one) in group.contestants.iter().zip(&times) {
        let ns = median(times_of_one);
        let speed = group.bytes.map_or(String::new(), |bytes| format!("{:>9.2}", bytes as f64 / ns));
        println!("  {name:<42}{ns:>9.2}{:>9.2}{speed}", ratio(times_of_one, &times[1]));
    }
    let of = |name: &&str| {
        let at = group.contestants.iter().position(|(contestant, _)| contestant == name);
        &times[at.expect("a goal names contestants of its group")]
    };
    let verdict = |Goal { name, ours, against, limit }: &Goal| {
        let against = match against {
            Against::FastestOf(names) => {
                let fastest = names.iter().map(of).min_by(|a, b| median(a).total_cmp(&median(b)));
                fastest.expect("a goal is held against somebody").clone()
            }
            Against::SumOf(names) => {
                (0..ROUNDS).map(|round| names.iter().map(|name| of(name)[round]).sum()).collect()
            }
        };
        let figure = match limit {
            Limit::AtMost(_) => ratio(of(ours), &against),
            Limit::AtLeast(_) => ratio(&against, of(ours)),
        };
        verdict(name, figure, *limit, 2)
    };
    group.goals.iter().map(verdict).collect()
}

#[derive(Clone, Copy)]
pub enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

/// The line for a goal, its numbers with so many digits behind the point.
pub fn verdict(name: &str, figure: f64, limit: Limit, digits: usize) -> String {
    let (bound, limit, is_met) = match limit {
        Limit::AtMost(limit) => ("at most", limit, figure <= limit),
        Limit::AtLeast(limit) => ("at least", limit, figure >= limit),
    };
    let verdict = if is_met { "met" } else { "missed" };
    format!("goal {name}: {figure:.digits$}, {bound} {limit:.digits$}: {verdict}")
}

/// Nanoseconds per event, of each contestant in each round. Every other round goes backwards.
fn rounds(group: &mut Group) -> Vec<Vec<f64>> {
    let mut times = vec![Vec::with_capacity(ROUNDS); group.contestants.len()];
    for round in 0..ROUNDS {
        for turn in 0..times.len() {
            let at = if round % 2 == 0 { turn } else { times.len() - 1 - turn };
            let body = &mut group.contestants[at].1;
            // Off the clock: the others' turns have pushed this ring out of the cache.
            body(group.events.min(2 * CAPACITY as u64));
            let time = body(group.events);
            times[at].push(time.as_nanos() as f64 / group.events as f64);
        }
    }
    times
}

pub fn ratio(ours: &[f64], against: &[f64]) -> f64 {
    let ratios: Vec<f64> = ours.iter().zip(against).map(|(ours, against)| ours / against).collect();
    median(&ratios)
}

pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Calls `publish` for every event, with a reader attached.
pub fn publishing<R>((mut publish, reader): (impl FnMut() -> R + 'static, impl Sized + 'static)) -> Body {
    Box::new(move |events| {
        let _attached = &reader;
        let start = Instant::now();
        for _ in 0..events {
            publish();
        }
        start.elapsed()
    })
}

/// Calls `publish` and then `read` for `BURST` events, until all are done.
pub fn bursts<const BURST: usize>(
    mut publish: impl FnMut() + 'static,
    mut read: impl FnMut() + 'static,
) -> Body {
    Box::new(move |events| {
        let bursts = events.div_ceil(BURST as u64);
        let start = Instant::now();
        for _ in 0..bursts {
            publish();
            read();
        }
        start.elapsed().mul_f64(events as f64 / (bursts * BURST as u64) as f64)
    })
}

/// One publisher and one reader, each on its own thread, until the reader has read every event. `read` says how
/// many it has read.
///
/// A publisher that never waits could leave the reader behind. So it looks every 64 events how far the reader is, and
/// stays within three quarters of the ring. A loss would end the bench.
pub fn streaming<P>(
    publish: impl FnMut() -> P + 'static,
    read: impl FnMut() -> u64 + Send + 'static,
) -> Body {
    const STEP: u64 = 64;
    const AHEAD: u64 = CAPACITY as u64 * 3 / 4;
    const NOT_STARTED: u64 = u64::MAX;
    // What one thread owns must not share a cache line with what the other does.
    let (mut publish, mut read) = (CachePadded::new(publish), CachePadded::new(read));
    Box::new(move |events| {
        let progress = CachePadded::new(AtomicU64::new(NOT_STARTED));
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                progress.store(0, Release);
                let (mut done, mut told) = (0, 0);
                while done < events {
                    done += (*read)();
                    if done - told >= STEP {
                        progress.store(done, Release);
                        told = done;
                    }
                }
                Instant::now()
            });
            while progress.load(Acquire) == NOT_STARTED {
                spin_loop();
            }
            let start = Instant::now();
            for done in 0..events {
                if done.is_multiple_of(STEP) {
                    while done.saturating_sub(progress.load(Acquire)) > AHEAD {
                        spin_loop();
                    }
                }
                (*publish)();
            }
            reader.join().unwrap() - start
        })
    })
}

/// Two threads that publish at the same time, in bursts that together fit the ring. `drain` empties it between
/// them, off the clock: a third thread would have no core of its own. Each call of `left` and `right` publishes
/// `step` events.
pub fn racing<L, R, D>(
    step: u64,
    left: impl FnMut() -> L + 'static,
    right: impl FnMut() -> R + Send + 'static,
    mut drain: impl FnMut() -> D + 'static,
) -> Body {
    const BURST: u64 = 480;
    const NOT_STARTED: u64 = u64::MAX;
    assert!(2 * BURST <= CAPACITY as u64 && BURST.is_multiple_of(step));
    let (mut left, mut right) = (CachePadded::new(left), CachePadded::new(right));
    Box::new(move |events| {
        let bursts = events.div_ceil(2 * BURST);
        let started = CachePadded::new(AtomicU64::new(0));
        let ended = CachePadded::new(AtomicU64::new(NOT_STARTED));
        let mut time = Duration::ZERO;
        thread::scope(|scope| {
            scope.spawn(|| {
                ended.store(0, Release);
                for burst in 1..=bursts {
                    while started.load(Acquire) != burst {}
                    (0..BURST / step).for_each(|_| _ = (*right)());
                    ended.store(burst, Release);
                }
            });
            while ended.load(Acquire) == NOT_STARTED {}
            for burst in 1..=bursts {
                drain();
                let start = Instant::now();
                started.store(burst, Release);
                (0..BURST / step).for_each(|_| _ = (*left)());
                while ended.load(Acquire) != burst {}
                time += start.elapsed();
            }
        });
        time.mul_f64(events as f64 / (bursts * 2 * BURST) as f64)
    })
}
