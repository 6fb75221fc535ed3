//! Random schedules of programs that are too large for loom, over the real ring, stream and storage writer.
//!
//! `cargo run --release -- --schedules 1000000` in this folder runs so many in all, on two threads, half of them chosen at random and
//! half by PCT, which stops threads at few points, but at any (Burckhardt et al., "A Randomized Scheduler with
//! Probabilistic Guarantees of Finding Bugs", 2010). `cargo test --release` runs 20,000. `--seed S` takes other ones, `--program NAME` one
//! program only, `--threads N` more threads.
//!
//! A failure names its program, its scheduler and the seed of its block of schedules; `--replay "NAME SCHEDULER SEED"` runs that
//! block again. What was found once stands in the file `seeds`, which comes first in every run.
//!
//! shuttle explores schedules, and no weak memory: every access is one step that all threads see at once, and fences are nothing. An ordering that
//! is too weak is loom's to find. Time does not pass, so that no timed wait ends by itself; nor does any sleep, so that a wake-up that is
//! lost is a deadlock. The words between control words are left out, a chunk has two words of payload, and a publisher looks once at a
//! slot in writing, and tries two: what is small is fought for, and each access costs a step.

mod account;
mod programs;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use programs::{PROGRAMS, Program};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{FailurePersistence, MaxSteps, Runner};

#[cfg(not(shuttle))]
compile_error!(
    "shuttle is not on: run `cargo test --release` in the folder proof/shuttle, without RUSTFLAGS"
);

/// Blocks that have failed once, each as `PROGRAM SCHEDULER SEED # what it was`.
const SEEDS: &str = include_str!("../seeds");
/// Schedules of one seed. PCT learns from the earlier ones of a block how long a schedule is.
const BLOCK: usize = 500;
/// How many points PCT stops a thread at, and one more.
const DEPTHS: [usize; 4] = [2, 3, 5, 10];
const QUICK: usize = 20_000;

#[derive(Clone, Copy)]
enum Scheduler {
    Random,
    Pct { depth: usize },
}

/// Schedules of one program by one scheduler from one seed.
#[derive(Clone, Copy)]
struct Block {
    program: &'static Program,
    scheduler: Scheduler,
    seed: u64,
    schedules: usize,
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.program.name)?;
        match self.scheduler {
            Scheduler::Random => f.write_str("random")?,
            Scheduler::Pct { depth } => write!(f, "pct{depth}")?,
        }
        write!(f, " {}", self.seed)
    }
}

impl Block {
    /// What `Display` writes, perhaps with a comment behind it.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split('#').next()?.split_whitespace();
        let name = words.next()?;
        let program = PROGRAMS.iter().find(|program| program.name == name)?;
        let scheduler = match words.next()? {
            "random" => Scheduler::Random,
            other => {
                Scheduler::Pct { depth: other.strip_prefix("pct")?.parse().ok().filter(|depth| *depth > 0)? }
            }
        };
        let seed = words.next()?.parse().ok()?;
        words.next().is_none().then_some(Self { program, scheduler, seed, schedules: BLOCK })
    }

    /// So many schedules of a program, half of them by each scheduler in turn.
    fn of(program: &'static Program, schedules: usize, seed: u64) -> impl Iterator<Item = Self> {
        (0..schedules.div_ceil(2)).step_by(BLOCK).enumerate().flat_map(move |(at, from)| {
            let pct = Scheduler::Pct { depth: DEPTHS[at % DEPTHS.len()] };
            [(Scheduler::Random, schedules.div_ceil(2)), (pct, schedules / 2)].map(|(scheduler, half)| Self {
                program,
                scheduler,
                seed: seed + at as u64,
                schedules: BLOCK.min(half - from),
            })
        })
    }

    /// Panics if a schedule fails.
    fn run(self) {
        let mut config = shuttle::Config::new();
        config.stack_size = 1 << 17;
        config.silence_warnings = true; // of what is told above
        config.max_steps = MaxSteps::FailAfter(200_000); // who looks again and again, in vain, is no deadlock
        config.failure_persistence = FailurePersistence::None; // the block is enough
        let run = move || {
            (self.program.run)();
            REPORTS.lock().unwrap().entry(self.program.name).or_default().schedules += 1;
        };
        match self.scheduler {
            Scheduler::Random => {
                Runner::new(RandomScheduler::new_from_seed(self.seed, self.schedules), config).run(run)
            }
            Scheduler::Pct { depth } => {
                Runner::new(PctScheduler::new_from_seed(self.seed, depth, self.schedules), config).run(run)
            }
        };
    }
}

/// What is known of a program's schedules.
#[derive(Default)]
struct Report {
    schedules: usize,
    seconds: f64,
    seen: BTreeMap<&'static str, usize>,
}

static REPORTS: Mutex<BTreeMap<&str, Report>> = Mutex::new(BTreeMap::new());
static FAILURES: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// What this thread runs, until it has failed.
    static RUNNING: Cell<Option<Block>> = const { Cell::new(None) };
}

/// A schedule has come across this.
pub fn see(what: &'static str) {
    if let Some(block) = RUNNING.get() {
        *REPORTS.lock().unwrap().entry(block.program.name).or_default().seen.entry(what).or_default() += 1;
    }
}

/// Names the block where a schedule fails: before anything unwinds.
fn tell_of_failures() {
    std::panic::set_hook(Box::new(|panic| {
        let Some(block) = RUNNING.take() else { return };
        FAILURES.fetch_add(1, Relaxed);
        let reports = REPORTS.lock().unwrap_or_else(PoisonError::into_inner);
        let of_program = reports.get(block.program.name).map_or(0, |report| report.schedules);
        let all: usize = reports.values().map(|report| report.schedules).sum();
        let panic = panic.to_string().replace('\n', " ");
        println!("FAIL {block}: after {of_program} schedules of the program, {all} in all: {panic}");
    }));
}

/// Runs blocks on so many threads, until one fails.
fn run_all(blocks: &[Block], threads: usize) {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !failed.load(Relaxed)
                    && let Some(block) = blocks.get(next.fetch_add(1, Relaxed))
                {
                    let start = Instant::now();
                    RUNNING.set(Some(*block));
                    if catch_unwind(AssertUnwindSafe(|| block.run())).is_err() {
                        failed.store(true, Relaxed);
                    }
                    RUNNING.set(None);
                    let mut reports = REPORTS.lock().unwrap();
                    reports.entry(block.program.name).or_default().seconds += start.elapsed().as_secs_f64();
                }
            });
        }
    });
}

struct Arguments {
    schedules: usize,
    seed: u64,
    threads: usize,
    program: Option<&'static Program>,
    replay: Option<Block>,
}

impl Arguments {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut parsed = Self { schedules: QUICK, seed: 1, threads: 2, program: None, replay: None };
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} has no value"))?;
            let wrong = || format!("{name} cannot be {value:?}");
            let number = || value.parse::<u64>().map_err(|_| wrong());
            match &*name {
                "--schedules" => parsed.schedules = number()? as usize,
                "--seed" => parsed.seed = number()?,
                "--threads" => parsed.threads = number()?.max(1) as usize,
                "--program" => {
                    let program = PROGRAMS.iter().find(|program| program.name == value);
                    parsed.program = Some(program.ok_or_else(wrong)?);
                }
                "--replay" => parsed.replay = Some(Block::parse(&value).ok_or_else(wrong)?),
                _ => return Err(format!("there is no {name}")),
            }
        }
        Ok(parsed)
    }

    /// All that is to be run: first what has failed once.
    fn blocks(&self) -> Result<Vec<Block>, String> {
        if let Some(block) = self.replay {
            return Ok(vec![block]);
        }
        let lines =
            SEEDS.lines().filter(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty());
        let seeds: Result<Vec<_>, _> =
            lines.map(|line| Block::parse(line).ok_or_else(|| format!("seeds: {line}"))).collect();
        let mut blocks = seeds?;
        if let Some(program) = self.program {
            blocks.retain(|block| block.program.name == program.name);
            blocks.extend(Block::of(program, self.schedules, self.seed));
            return Ok(blocks);
        }
        let [first, others @ ..] = PROGRAMS else { return Ok(blocks) };
        let part = |program: &Program| self.schedules * program.share / 100;
        let rest = self.schedules - others.iter().map(part).sum::<usize>();
        let parts = others.iter().map(|program| (program, part(program))).chain([(first, rest)]);
        // All of them at a time, so that each failure comes early.
        let mut new: Vec<_> = parts
            .flat_map(|(program, schedules)| {
                let blocks: Vec<_> = Block::of(program, schedules, self.seed).collect();
                let len = blocks.len();
                blocks.into_iter().enumerate().map(move |(at, block)| (at * 1_000_000 / len, block))
            })
            .collect();
        new.sort_by_key(|(when, _)| *when);
        blocks.extend(new.into_iter().map(|(_, block)| block));
        Ok(blocks)
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse(std::env::args().skip(1));
    let (arguments, blocks) = match arguments.and_then(|arguments| Ok((arguments.blocks()?, arguments))) {
        Ok((blocks, arguments)) => (arguments, blocks),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let start = Instant::now();
    tell_of_failures();
    run_all(&blocks, arguments.threads);

    let reports = REPORTS.lock().unwrap();
    let mut schedules = 0;
    for (name, report) in &*reports {
        schedules += report.schedules;
        let rate = report.schedules as f64 / report.seconds;
        println!("{name}: {} schedules, {rate:.0} a second, seen {:?}", report.schedules, report.seen);
    }
    if arguments.replay.is_none() && FAILURES.load(Relaxed) == 0 {
        for program in
            PROGRAMS.iter().filter(|program| arguments.program.is_none_or(|only| only.name == program.name))
        {
            for what in program.must_see {
                if reports.get(program.name).is_none_or(|report| !report.seen.contains_key(what)) {
                    println!("FAIL no schedule of {} has this in it: {what}", program.name);
                    FAILURES.fetch_add(1, Relaxed);
                }
            }
        }
    }
    if FAILURES.load(Relaxed) != 0 {
        return ExitCode::FAILURE;
    }
    if arguments.replay.is_none() && arguments.program.is_none() {
        println!(
            "verified shuttle: {schedules} schedules of {} programs (4 publishers x 4 readers with cancel, close and large events, and \
             smaller ones), random and PCT, 0 failures, {:.0} s",
            PROGRAMS.len(),
            start.elapsed().as_secs_f64()
        );
    }
    ExitCode::SUCCESS
}
