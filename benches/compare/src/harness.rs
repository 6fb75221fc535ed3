//! Contestants in turns, in one run.
//!
//! Each group runs in rounds of all of its contestants, every other round backwards, so that what disturbs the
//! machine disturbs all alike. A contestant's figure is the median of its rounds, with the quartiles. A ratio is the
//! median of the rounds' own ratios; when its quartiles enclose 1, the two are a tie within noise.

use std::hint::spin_loop;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use hdrhistogram::Histogram;

use crate::rivals::Kind;

/// What the command line says of a run.
#[derive(Clone, Copy)]
pub struct Effort {
    pub rounds: usize,
    /// Of one contestant in one round, where it can be chosen.
    pub turn: Duration,
    /// Events of a round of latencies are divided by it.
    pub divide: u64,
}

impl Effort {
    pub const FULL: Self = Self { rounds: 61, turn: Duration::from_millis(2), divide: 1 };
    pub const QUICK: Self = Self { rounds: 5, turn: Duration::from_micros(300), divide: 4 };
    pub const TEST: Self = Self { rounds: 1, turn: Duration::ZERO, divide: 20 };
}

/// What a contestant did in one turn.
pub struct Sample {
    /// Nanoseconds per event, or the median latency.
    pub ns: f64,
    /// Events lost, of so many.
    pub lost: (u64, u64),
    /// Every single latency in nanoseconds.
    pub latencies: Option<Histogram<u64>>,
}

impl Sample {
    pub fn per_event(time: Duration, events: u64) -> Self {
        Self { ns: time.as_nanos() as f64 / events.max(1) as f64, lost: (0, 0), latencies: None }
    }

    pub fn latencies(latencies: Histogram<u64>) -> Self {
        Self { ns: latencies.value_at_quantile(0.5) as f64, lost: (0, 0), latencies: Some(latencies) }
    }

    pub fn lost(self, lost: u64, of: u64) -> Self {
        Self { lost: (lost, of), ..self }
    }
}

/// For latencies in nanoseconds, up to ten seconds, by three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 10_000_000_000, 3).expect("valid bounds")
}

/// Handles about so many events.
pub type Body = Box<dyn FnMut(u64) -> Sample>;

pub struct Contestant {
    pub name: String,
    pub kind: Kind,
    /// Only those of one class are held against each other.
    pub class: &'static str,
    pub body: Body,
}

impl Contestant {
    pub fn new(name: impl Into<String>, kind: Kind, class: &'static str, body: Body) -> Self {
        Self { name: name.into(), kind, class, body }
    }
}

/// How many events a contestant handles in a turn.
pub enum Events {
    /// As many as take the time of so many turns.
    Turns(u32),
    Fixed(u64),
}

pub struct Group {
    pub scenario: &'static str,
    /// Tells the groups of a scenario apart: the payload, the number of readers.
    pub case: String,
    /// The case as a number, for a plot against it.
    pub x: Option<u64>,
    pub what: &'static str,
    pub events: Events,
    pub contestants: Vec<Contestant>,
    pub goals: Vec<Goal>,
}

/// The best of `ours` takes at most `limit` times as long as that.
pub struct Goal {
    pub name: String,
    pub class: &'static str,
    pub against: Against,
    pub limit: f64,
}

pub enum Against {
    /// The best rival of these classes.
    Rivals(&'static [&'static str]),
    /// The contestant of the same class whose name begins so.
    Named(&'static str),
}

impl Goal {
    pub fn new(name: impl Into<String>, class: &'static str, against: Against, limit: f64) -> Self {
        Self { name: name.into(), class, against, limit }
    }
}

/// One contestant's rounds.
pub struct Row {
    pub name: String,
    pub kind: Kind,
    pub class: &'static str,
    pub rounds: Vec<f64>,
    pub lost: (u64, u64),
    pub latencies: Option<Histogram<u64>>,
}

pub struct Table {
    pub scenario: &'static str,
    pub case: String,
    pub x: Option<u64>,
    pub what: &'static str,
    pub rows: Vec<Row>,
    pub verdicts: Vec<Verdict>,
}

#[derive(Clone, Debug, serde::Serialize)]
pub struct Verdict {
    pub name: String,
    pub ours: String,
    pub against: String,
    pub ratio: f64,
    pub limit: f64,
    pub met: bool,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, ours, against, ratio, limit, met } = self;
        let verdict = if *met { "met" } else { "missed" };
        write!(f, "goal {name}: {ratio:.3}, at most {limit:.2}: {verdict} ({ours} / {against})")
    }
}

/// A median and its quartiles.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Spread {
    pub median: f64,
    pub q1: f64,
    pub q3: f64,
}

impl Spread {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |quarter: usize| values.get(values.len() * quarter / 4).or(values.last());
        let at = |quarter| at(quarter).copied().unwrap_or(f64::NAN);
        Self { median: at(2), q1: at(1), q3: at(3) }
    }

    pub fn encloses(&self, value: f64) -> bool {
        self.q1 <= value && value <= self.q3
    }
}

impl Row {
    pub fn spread(&self) -> Spread {
        Spread::of(self.rounds.iter().copied())
    }

    pub fn ratio(&self, to: &Self) -> Spread {
        Spread::of(self.rounds.iter().zip(&to.rounds).map(|(ours, theirs)| ours / theirs))
    }
}

impl Table {
    /// The fastest of a kind in one of these classes.
    pub fn best(&self, kind: Kind, classes: &[&str]) -> Option<&Row> {
        let of_them = self.rows.iter().filter(|row| row.kind == kind && classes.contains(&row.class));
        of_them.min_by(|a, b| a.spread().median.total_cmp(&b.spread().median))
    }

    fn verdict(&self, goal: &Goal) -> Option<Verdict> {
        let ours = self.best(Kind::Ours, &[goal.class])?;
        let against = match goal.against {
            Against::Rivals(classes) => self.best(Kind::Rival, classes)?,
            Against::Named(name) => {
                self.rows.iter().find(|row| row.class == goal.class && row.name.starts_with(name))?
            }
        };
        let ratio = ours.ratio(against).median;
        Some(Verdict {
            name: goal.name.clone(),
            ours: ours.name.clone(),
            against: against.name.clone(),
            ratio,
            limit: goal.limit,
            met: ratio <= goal.limit,
        })
    }
}

/// Runs a group.
pub fn run(group: Group, effort: Effort) -> Table {
    let Group { scenario, case, x, what, events, mut contestants, goals } = group;
    let counts: Vec<u64> =
        contestants.iter_mut().map(|contestant| count(&events, contestant, effort)).collect();
    let mut rows: Vec<Row> = contestants
        .iter()
        .map(|&Contestant { ref name, kind, class, .. }| Row {
            name: name.clone(),
            kind,
            class,
            rounds: Vec::with_capacity(effort.rounds),
            lost: (0, 0),
            latencies: None,
        })
        .collect();
    for round in 0..effort.rounds {
        for turn in 0..rows.len() {
            let at = if round % 2 == 0 { turn } else { rows.len() - 1 - turn };
            let (row, body) = (&mut rows[at], &mut contestants[at].body);
            // Off the clock: the others' turns have pushed this one out of the cache.
            body(counts[at] / 8);
            let Sample { ns, lost, latencies } = body(counts[at]);
            row.rounds.push(ns);
            row.lost = (row.lost.0 + lost.0, row.lost.1 + lost.1);
            if let Some(latencies) = latencies {
                row.latencies.get_or_insert_with(histogram).add(latencies).expect("the same bounds");
            }
        }
    }
    let mut table = Table { scenario, case, x, what, rows, verdicts: Vec::new() };
    table.verdicts = goals.iter().filter_map(|goal| table.verdict(goal)).collect();
    table
}

fn count(events: &Events, contestant: &mut Contestant, effort: Effort) -> u64 {
    const LEAST: u64 = 128;
    const MOST: u64 = 1_000_000;
    match *events {
        Events::Fixed(events) => (events / effort.divide).max(8),
        Events::Turns(turns) => {
            let turn = (effort.turn * turns).as_nanos() as f64;
            let mut events = LEAST;
            loop {
                let start = Instant::now();
                (contestant.body)(events);
                let time = start.elapsed().as_nanos() as f64;
                // By then it matters no more what the start of a thread takes.
                if time * 4.0 >= turn || events >= MOST {
                    return ((events as f64 * turn / time) as u64).clamp(LEAST, MOST);
                }
                events *= 4;
            }
        }
    }
}

/// Pins the calling thread to a core, by its number among those that the process may use; says so if it can't.
pub fn pin(number: usize) {
    use std::sync::{LazyLock, Once};
    static CORES: LazyLock<Vec<core_affinity::CoreId>> =
        LazyLock::new(|| core_affinity::get_core_ids().unwrap_or_default());
    static TOLD: Once = Once::new();
    let pinned =
        CORES.get(number % CORES.len().max(1)).is_some_and(|&core| core_affinity::set_for_current(core));
    if !pinned || CORES.len() < 2 {
        TOLD.call_once(|| eprintln!("threads could not be pinned to cores of their own"));
    }
}

/// The core of the thread that measures, and that of the other one.
pub const HERE: usize = 0;
pub const THERE: usize = 1;

const NOT_STARTED: u64 = u64::MAX;

/// A new thread is on this core until it pins itself to its own: it is let through.
fn until_started(progress: &AtomicU64) {
    while progress.load(Acquire) == NOT_STARTED {
        thread::yield_now();
    }
}

/// One publisher here and one reader there, until that one has read every event. `read` says how many it has read
/// or lost.
///
/// A publisher that never waits could leave the reader behind. So where it is `paced`, it looks every few events
/// how far the reader is, and stays within three quarters of the ring.
pub fn streaming(
    events: u64,
    capacity: u64,
    paced: bool,
    mut publish: impl FnMut(),
    mut read: impl FnMut() -> u64 + Send,
) -> Duration {
    let (step, ahead) = (capacity / 16, capacity * 3 / 4);
    let progress = CachePadded::new(AtomicU64::new(NOT_STARTED));
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            pin(THERE);
            progress.store(0, Release);
            let (mut done, mut told) = (0, 0);
            while done < events {
                match read() {
                    0 => spin_loop(),
                    more => done += more,
                }
                if paced && done - told >= step {
                    progress.store(done, Release);
                    told = done;
                }
            }
            Instant::now()
        });
        until_started(&progress);
        let start = Instant::now();
        for done in 0..events {
            if paced && done.is_multiple_of(step) {
                while done.saturating_sub(progress.load(Acquire)) > ahead {
                    spin_loop();
                }
            }
            publish();
        }
        reader.join().expect("a reader does not panic").saturating_duration_since(start)
    })
}

/// Two threads that publish at the same time, in bursts of `burst` each. `drain` empties what they publish to
/// between them, off the clock: a third thread would have no core of its own.
pub fn racing(
    bursts: u64,
    mut left: impl FnMut(),
    mut right: impl FnMut() + Send,
    mut drain: impl FnMut(),
) -> Duration {
    let started = CachePadded::new(AtomicU64::new(0));
    let ended = CachePadded::new(AtomicU64::new(NOT_STARTED));
    let mut time = Duration::ZERO;
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(THERE);
            ended.store(0, Release);
            for burst in 1..=bursts {
                while started.load(Acquire) != burst {}
                right();
                ended.store(burst, Release);
            }
        });
        until_started(&ended);
        for burst in 1..=bursts {
            let start = Instant::now();
            started.store(burst, Release);
            left();
            while ended.load(Acquire) != burst {}
            time += start.elapsed();
            drain();
        }
    });
    time
}

/// `here` publishes a burst, then `there` reads it on another thread: the time of each, summed up. They never run
/// at the same time.
pub fn alternating(
    bursts: u64,
    mut here: impl FnMut(),
    mut there: impl FnMut() + Send,
) -> (Duration, Duration) {
    let started = CachePadded::new(AtomicU64::new(0));
    let ended = CachePadded::new(AtomicU64::new(NOT_STARTED));
    let mut time = Duration::ZERO;
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            pin(THERE);
            ended.store(0, Release);
            let mut time = Duration::ZERO;
            for burst in 1..=bursts {
                while started.load(Acquire) != burst {
                    spin_loop();
                }
                let start = Instant::now();
                there();
                time += start.elapsed();
                ended.store(burst, Release);
            }
            time
        });
        until_started(&ended);
        for burst in 1..=bursts {
            let start = Instant::now();
            here();
            time += start.elapsed();
            started.store(burst, Release);
            while ended.load(Acquire) != burst {
                spin_loop();
            }
        }
        (time, other.join().expect("a reader does not panic"))
    })
}
