//! Everything that the crate has, at once, for as long as one likes: rings and streams are made, published to, read, stored, served, closed and dropped,
//! and every payload, every order and every number is checked.
//!
//! ```text
//! cargo run --release -- [--seconds N] [--parts bytes,typed,stream,storage,serve] [--min-events N] [--seed N] [--patience SECONDS]
//! cargo run --release -- --self-test race|overflow|leak
//! ```
//!
//! Publishers wait now and then until a reader has everything, to the last event: so a wake-up that is lost is found, as a round that does not end.
//!
//! # Under sanitizers
//!
//! `run` builds it with ThreadSanitizer or AddressSanitizer, and runs it under valgrind.
//!
//! **ThreadSanitizer finds** accesses to plain memory that no acquire and release order. In the crate such memory is: what a publisher or closer did
//! before, which a reader may see by commit:R and read:A, close:R and closed:A, cancel:R and cancelled:A; the wakers in the waiting list, the readers of a
//! stream, files and their threads, all under locks; buffers of readers that move between threads; and the callers' bytes on both sides of a copy.
//!
//! **It does not see fences.** It gets no order from them, and none is made up for it here. That could only make it report what is right, where memory
//! is handed over by a fence alone, and it reports nothing: so in this crate fences order atomic words only, as the design page has it. Whether they order
//! *those* as they must is not its question, for words that are all atomic cannot race: that is for the models in `loom-tests`, and for the checks of
//! every payload here.
//!
//! **The words that it looks at** are those of the portable copy, `cfg(lapwing_sanitized)`: no sanitizer looks into an assembly block. Valgrind does: it runs
//! the native program, and checks the block's own addresses.
//!
//! **The standard library is not instrumented**: what it does out of line (taking a lock that somebody has, waiting at a condition variable, the acquire fence
//! of `Arc`) is told to ThreadSanitizer by `shims.c`. Nothing is suppressed.
//!
//! Readers that are leaked on purpose lie in a list, so that LeakSanitizer tells of no other ones.

mod check;
mod event;
mod payload;
mod ring;
mod scene;
mod self_test;
mod serve;
mod stream;
#[allow(dead_code)] // what only tests of the crate need
#[path = "../../../tests/tasks/mod.rs"]
mod tasks;
mod violation;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use lapwing::ring::{Bytes, Typed};

use check::{TOTALS, fail, join_all, now_running};
use payload::Rng;
use stream::With;

const PARTS: [&str; 5] = ["bytes", "typed", "stream", "storage", "serve"];

struct Options {
    seconds: u64,
    parts: Vec<String>,
    min_events: u64,
    seed: u64,
    /// How long a round may take beyond its length, until something counts as stuck.
    patience: u64,
}

impl Options {
    fn has(&self, part: &str) -> bool {
        self.parts.iter().any(|given| given == part)
    }
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        seconds: 60,
        parts: PARTS.map(String::from).into(),
        min_events: 1,
        seed: RandomState::new().build_hasher().finish(),
        patience: 120,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        let number = || value.parse().map_err(|error| format!("{name} {value}: {error}"));
        match &*name {
            "--seconds" => options.seconds = number()?,
            "--min-events" => options.min_events = number()?,
            "--seed" => options.seed = number()?,
            "--patience" => options.patience = number()?,
            "--parts" => options.parts = value.split(',').map(str::to_owned).collect(),
            "--self-test" => self_test::run(&value)?,
            _ => return Err(format!("{name} is not known")),
        }
    }
    match options.parts.iter().find(|part| !PARTS.contains(&&***part)) {
        Some(part) => Err(format!("there is no part {part}: {PARTS:?} are there")),
        None => Ok(options),
    }
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(what) => {
            eprintln!("{what}");
            return ExitCode::from(2);
        }
    };
    std::panic::set_hook(Box::new(|panic| fail(format_args!("a panic: {panic}"))));
    eprintln!("seed {}", options.seed);
    event::prepare();
    let start = Instant::now();
    let due = start + Duration::from_secs(options.seconds);
    watch_over(start, options.patience);

    let mut rng = Rng::new(options.seed);
    let (mut rounds, mut told) = (0u64, start);
    while rounds == 0 || Instant::now() < due {
        let length =
            Duration::from_millis(500 + rng.below(2500)).min(due.saturating_duration_since(Instant::now()));
        now_running(format!("round {rounds} of seed {}", options.seed));
        round(&options, length, &mut rng);
        rounds += 1;
        BEATS.fetch_add(1, Relaxed);
        if told.elapsed() >= Duration::from_secs(30) {
            told = Instant::now();
            eprintln!("{} s, {rounds} rounds: {}", start.elapsed().as_secs(), figures());
        }
    }
    let published = TOTALS.published.load(Relaxed);
    let seconds = start.elapsed().as_secs();
    if published < options.min_events {
        eprintln!("only {published} events were published, not {}: {}", options.min_events, figures());
        return ExitCode::FAILURE;
    }
    println!("verified stress: {}, in {seconds} s: 0 torn, 0 reordered, 0 unaccounted", figures());
    ExitCode::SUCCESS
}

fn figures() -> String {
    let of = |total: &AtomicU64| total.load(Relaxed);
    format!(
        "{} events published, {} delivered, {} told as dropped, {} skipped by filters, {} readers leaked",
        of(&TOTALS.published),
        of(&TOTALS.delivered),
        of(&TOTALS.dropped),
        of(&TOTALS.skipped),
        of(&TOTALS.leaked)
    )
}

/// A ring of each kind and a stream, at the same time.
fn round(options: &Options, length: Duration, rng: &mut Rng) {
    thread::scope(|scope| {
        let mut threads = Vec::new();
        if options.has("bytes") {
            let rng = rng.fork();
            threads.push(scope.spawn(move || ring::run::<Bytes>(length, rng)));
        }
        if options.has("typed") {
            let run = rng.pick(&[
                ring::run::<Typed<[u64; 1]>>,
                ring::run::<Typed<[u64; 2]>>,
                ring::run::<Typed<[u64; 3]>>,
                ring::run::<Typed<[u64; 8]>>,
                ring::run::<Typed<[u64; 9]>>,
                ring::run::<Typed<[u64; 32]>>,
            ] as &[fn(Duration, Rng)]);
            let rng = rng.fork();
            threads.push(scope.spawn(move || run(length, rng)));
        }
        let storage = options.has("storage") && rng.once_in(3);
        let server = options.has("serve") && rng.once_in(3);
        if options.has("stream") || storage || server {
            let rng = rng.fork();
            threads.push(scope.spawn(move || stream::run(length, rng, With { storage, server })));
        }
        join_all(threads);
    });
}

/// Rounds that are over.
static BEATS: AtomicU64 = AtomicU64::new(0);

/// Ends the process when a round does not end: somebody waits for what never comes.
fn watch_over(start: Instant, patience: u64) {
    thread::spawn(move || {
        let (mut beats, mut since) = (0, start);
        loop {
            thread::park_timeout(Duration::from_secs(1));
            let now = BEATS.load(Relaxed);
            if now != beats {
                (beats, since) = (now, Instant::now());
            } else if since.elapsed() > Duration::from_secs(patience) {
                fail(format_args!("unaccounted: a round is stuck for {patience} s: {}", figures()));
            }
        }
    });
}
