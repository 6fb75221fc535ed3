//! How many instructions the hot paths take, held against those of the last blessed commit.
//!
//! `cargo bench --bench instructions` counts every case, prints a table, and fails if a count is more than 3 % above its
//! line in `benches/instructions.txt`. A change that is worth its instructions says so by a new line there, in the same
//! commit: `cargo bench --bench instructions -- --bless` writes the file.
//!
//! A time differs from run to run by more than most regressions; a count does not, on a busy machine either. It is no time:
//! cache misses, mispredicted branches and locked instructions are not in it. The other benches have those.
//!
//! # How
//!
//! A case is a function that sets up, always the same, and then does an operation so many times. It runs twice under
//! Valgrind's callgrind, each time in a process of its own, [`OPS`] times and twice as often, and the difference of
//! the two totals is that of the second half: the process's start, the set-up, the first operations and the end are in both.
//! This needs no more of callgrind than its total. Switching the count on and off at a function, as it also can, would need
//! symbols that are never inlined around what has to be inlined, and would count the first operations with the others; and a
//! crate that does all this comes with a program that must be installed apart, in the same version.
//!
//! The few instructions of the loop around an operation are in its count, and so are those of the C library's copies, whose
//! path may depend on where the stack begins: that is a thousandth. Where the profiles of the two runs are is said at the end;
//! `callgrind_annotate` shows the functions in one.
//!
//! # When counts can be compared
//!
//! Valgrind knows AVX2 and no AVX-512, and tells the program so. So it is the AVX2 form of truncation that is counted, here and
//! in `memchr`, and the C library's, and a machine without AVX2 would count others. (The ring's own copy is in SSE2
//! everywhere.) Another compiler gives other counts, too, which is no commit's doing; the first line of the file says which one
//! made it. In both cases, and without Valgrind, nothing fails, and a line says `NOT RUN` and why, which `.ci/run` repeats at its end.
//! Features, flags and the C library are not looked at: the counts are those of the default features and flags.

mod harness;

use std::ffi::OsStr;
use std::fmt::Write;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs, thread};

use bytemuck::bytes_of;
use harness::{Limit, verdict};
use lapwing::event::{Category, Event, Source, SourceKind};
use lapwing::ring::{Config, Read, Reader, Ring, TypedRing};
use lapwing::stream::{CategorySet, Config as StreamConfig, EventStream, ReadResult, Reader as StreamReader};
use lapwing::truncate::{Scratch, Shape, tail_into, utf8};

/// The operations of a case's first run. The second run has twice as many, and the second half counts.
const OPS: u64 = 1024;
/// How many times as many instructions as in the baseline an operation may take.
const LIMIT: f64 = 1.03;
const BASELINES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");
const BLESS: &str = "cargo bench --bench instructions -- --bless";

/// Slots of what is published to: the second half of the operations goes round a whole number of times.
const SLOTS: u64 = 64;
const BATCH: usize = 16;
/// Of so many events, a reader with a filter wants the last one.
const STEP: u64 = 16;

/// A name, and what does the operation so many times.
type Case = (&'static str, fn(u64));

const CASES: &[Case] = &[
    ("publish 256 B, shared", |ops| {
        let ring = ring();
        repeat(ops, || ring.publish(bytes()).unwrap());
    }),
    ("publish 256 B, exclusive", |ops| {
        let mut ring = ring().into_exclusive();
        repeat(ops, || ring.publish(bytes()).unwrap());
    }),
    ("publish u64, shared", |ops| {
        let ring = TypedRing::<u64>::new(SLOTS).unwrap();
        repeat(ops, || ring.publish(&black_box(7)).unwrap());
    }),
    ("publish u64, exclusive", |ops| {
        let mut ring = TypedRing::<u64>::new(SLOTS).unwrap().into_exclusive();
        repeat(ops, || ring.publish(&black_box(7)).unwrap());
    }),
    ("publish_batch of 16 times 256 B, shared", |ops| {
        let ring = ring();
        repeat(ops, || ring.publish_batch(&[(0, bytes()); BATCH]).unwrap());
    }),
    ("publish_batch of 16 times 256 B, exclusive", |ops| {
        let mut ring = ring().into_exclusive();
        repeat(ops, || ring.publish_batch(&[(0, bytes()); BATCH]).unwrap());
    }),
    ("publish_batch of 16 u64, shared", |ops| {
        let ring = TypedRing::<u64>::new(SLOTS).unwrap();
        repeat(ops, || ring.publish_batch(&[black_box(7); BATCH]).unwrap());
    }),
    ("read 256 B", |ops| {
        let mut reader = full_ring(1);
        repeat(ops, || _ = black_box(reader.try_read().unwrap().event().unwrap().bytes));
    }),
    ("read u64", |ops| {
        let ring = TypedRing::<u64>::new(2 * OPS).unwrap();
        (0..2 * OPS).for_each(|value| _ = ring.publish(&value).unwrap());
        let mut reader = ring.reader_from_oldest();
        repeat(ops, || reader.try_read().unwrap().event().unwrap().value);
    }),
    ("look at every word of 256 B", |ops| {
        let mut reader = full_ring(1);
        repeat(ops, || {
            let look =
                reader.try_look(|look| look.words().fold(0, |all, word| all ^ u64::from_ne_bytes(word)));
            look.unwrap().event().unwrap()
        });
    }),
    ("read a loss", |ops| {
        let ring = ring();
        let mut lapped = vec![ring.reader_from_now(); 2 * OPS as usize];
        (0..=SLOTS).for_each(|_| _ = ring.publish(bytes()).unwrap());
        let mut lapped = lapped.iter_mut();
        repeat(ops, || {
            let read = lapped.next().expect("there is one for each operation").try_read();
            assert!(matches!(read, Ok(Read::Dropped(lost)) if (lost.from, lost.to) == (1, 1)));
        });
    }),
    ("skip 15 by tag and read 256 B", |ops| {
        let mut reader = full_ring(STEP);
        reader.set_filter(|tag| tag != 0);
        repeat(ops, || _ = black_box(reader.try_read().unwrap().event().unwrap().bytes));
    }),
    ("cut text", |ops| {
        let text = "…".repeat(1000);
        repeat(ops, || utf8(black_box(&text), 1001).len());
    }),
    ("cut the tail of a recorded event", |ops| {
        let (event, mut out) = (recorded(), Vec::new());
        repeat(ops, || {
            out.clear();
            tail_into(black_box(&event), 4096, &mut out).unwrap().expect("it is too long")
        });
    }),
    ("shorten the strings of a recorded event", |ops| {
        let (event, mut out, mut scratch) = (recorded(), Vec::new(), Scratch::default());
        repeat(ops, || {
            out.clear();
            let shape = Shape::default().truncate_reusing(&mut scratch, black_box(&event), 4096, &mut out);
            shape.unwrap().expect("it is too long")
        });
    }),
    ("stream, publish an event, shared", |ops| {
        let (stream, event) = (stream(SLOTS), event());
        repeat(ops, || stream.publish(black_box(&event)).unwrap());
    }),
    ("stream, publish an event, exclusive", |ops| {
        let (mut stream, event) = (stream(SLOTS).into_exclusive(), event());
        repeat(ops, || stream.publish(black_box(&event)).unwrap());
    }),
    ("stream, publish_json, shared", |ops| {
        let (stream, line) = (stream(SLOTS), event().to_json());
        repeat(ops, || stream.publish_json(black_box(&line)).unwrap());
    }),
    ("stream, read an event", |ops| {
        let mut reader = full_stream(1);
        repeat(ops, || match reader.try_read().unwrap() {
            ReadResult::Envelope(envelope) => _ = black_box(envelope.event_json()),
            ReadResult::Dropped { .. } => unreachable!("nothing was overwritten"),
        });
    }),
    ("stream, read an envelope as a line", |ops| {
        let mut reader = full_stream(1);
        repeat(ops, || match reader.try_read().unwrap() {
            ReadResult::Envelope(mut envelope) => _ = black_box(envelope.json()),
            ReadResult::Dropped { .. } => unreachable!("nothing was overwritten"),
        });
    }),
    ("stream, skip 15 by category and read an event", |ops| {
        let mut reader = full_stream(STEP);
        reader.set_categories(CategorySet::NONE.with(&Category::Network));
        repeat(ops, || match reader.try_read().unwrap() {
            ReadResult::Envelope(envelope) => _ = black_box(envelope.event_json()),
            ReadResult::Dropped { .. } => unreachable!("nothing was overwritten"),
        });
    }),
];

#[inline(always)]
fn repeat<R>(ops: u64, mut operation: impl FnMut() -> R) {
    for _ in 0..ops {
        black_box(operation());
    }
}

// ---- What the cases work on. None of it depends on the number of operations.

/// 256 bytes, as a slice whose length the compiler does not know.
#[inline(always)]
fn bytes() -> &'static [u8] {
    static BYTES: [u64; 32] = [0x0123_4567_89ab_cdef; 32];
    black_box(bytes_of(&BYTES))
}

fn ring() -> Ring {
    Ring::new(SLOTS, 256).unwrap()
}

/// The reader of a ring with `step` events for each operation of the longer run, the last of each `step` tagged.
fn full_ring(step: u64) -> Reader {
    let ring = Config::new(2 * OPS * step).bytes(256).unwrap();
    for at in 1..=2 * OPS * step {
        ring.publish_tagged(at.is_multiple_of(step).into(), bytes()).unwrap();
    }
    ring.reader_from_oldest()
}

/// 157 bytes of JSON.
fn event() -> Event<'static> {
    let source = Source::new(SourceKind::Cdp).event("Runtime.consoleAPICalled");
    let event = Event::new("console_log", Category::Console, source).ts(1_795_346_234_966_162);
    event.data_json(r#"{"message":"hello","level":"log"}"#).unwrap()
}

fn stream(events: u64) -> EventStream {
    StreamConfig::new().events(events).inline_bytes(256).large_bytes(0).build().unwrap()
}

/// As [`full_ring`]; the last of each `step` is of another category.
fn full_stream(step: u64) -> StreamReader {
    let (stream, mut event) = (stream(2 * OPS * step), event());
    for at in 1..=2 * OPS * step {
        event.category = if at.is_multiple_of(step) { Category::Network } else { Category::Console };
        stream.publish(&event).unwrap();
    }
    stream.reader_from_oldest()
}

/// The first recorded event of 8 to 16 KiB: a response with its headers.
fn recorded() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/telemetry.ndjson");
    let recording = fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let event = recording.lines().find(|line| (8 << 10..16 << 10).contains(&line.len()));
    event.expect("there is one").into()
}

// ---- Counting.

/// What a process of its own is told, before the number of the case and that of the operations.
const RUN: &str = "--run-case";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    if let [flag, case, ops] = &args[..]
        && flag == RUN
    {
        let [case, ops] = [case, ops].map(|number| number.parse::<u64>().expect("it is one of ours"));
        CASES[case as usize].1(ops);
        return ExitCode::SUCCESS;
    }
    let has = |wanted| args.iter().any(|arg| arg == wanted);
    // As criterion has it: without `--bench`, or with `--test`, this is a test run.
    if !has("--bench") || has("--test") {
        CASES.iter().for_each(|(_, run)| run(1));
        return ExitCode::SUCCESS;
    }
    if has("--list") {
        return ExitCode::SUCCESS;
    }
    match compare(has("--bless")) {
        Ok(is_met) => ExitCode::from(u8::from(!is_met)),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Counts all cases. Writes the baselines if `bless`, and says otherwise whether they are met.
fn compare(bless: bool) -> Result<bool, String> {
    if let Some(obstacle) = obstacle() {
        println!("NOT RUN: instructions of the hot paths: {obstacle}");
        return if bless { Err("Nothing was blessed.".into()) } else { Ok(true) };
    }
    let rustc = output(Command::new("rustc").arg("-V"))?.trim().to_owned();
    let baselines = match bless {
        true => Baselines { rustc: rustc.clone(), counts: vec![] },
        false => Baselines::read()?,
    };

    println!("{:<48}{:>12}{:>12}{:>9}", "instructions an operation", "count", "baseline", "ratio");
    let (mut blessed, mut verdicts) = (format!("{rustc}\n"), vec![]);
    let (mut is_met, mut has_fallen) = (true, false);
    for (at, (name, _)) in CASES.iter().enumerate() {
        let [half, whole] = thread::scope(|scope| {
            let runs = [OPS, 2 * OPS].map(|ops| scope.spawn(move || count(at, ops)));
            runs.map(|run| run.join().expect("counting does not panic"))
        });
        let count = (whole? - half?) as f64 / OPS as f64;
        writeln!(blessed, "{name:<48}{count:>12.3}").expect("a string takes it");
        let Some(baseline) = baselines.of(name) else {
            println!("{name:<48}{count:>12.3}{:>12}{:>9}", "-", "-");
            verdicts.push(format!("{name}: no baseline, see {BLESS}"));
            is_met = false;
            continue;
        };
        let ratio = count / baseline;
        println!("{name:<48}{count:>12.3}{baseline:>12.3}{ratio:>9.3}");
        verdicts.push(verdict(&format!("instructions {name}"), ratio, Limit::AtMost(LIMIT), 3));
        is_met &= ratio <= LIMIT;
        has_fallen |= ratio * LIMIT < 1.0;
    }
    println!(
        "\nThe profiles, by the row from 0 and the operations: {}\n",
        profile("ROW", "OPERATIONS").display()
    );
    if bless {
        fs::write(BASELINES, blessed).map_err(|error| format!("{BASELINES}: {error}"))?;
        println!("{BASELINES} is what was counted.");
        return Ok(true);
    }
    if rustc != baselines.rustc {
        println!(
            "NOT RUN: instructions of the hot paths: the baselines are of {}, and these counts of {rustc}, so that \
             they cannot be compared. To have baselines of this one: {BLESS}",
            baselines.rustc
        );
        return Ok(true);
    }
    verdicts.iter().for_each(|verdict| println!("{verdict}"));
    if has_fallen {
        println!("Some have fallen so far that they could rise again unseen. To keep what was won: {BLESS}");
    }
    if !is_met {
        println!("If the change is worth it, its commit says so by new baselines: {BLESS}");
    }
    Ok(is_met)
}

/// Why nothing can be counted here.
fn obstacle() -> Option<String> {
    #[cfg(target_arch = "x86_64")]
    let has_avx2 = is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    let has_avx2 = false;
    if !has_avx2 {
        return Some("the baselines are of x86-64 with AVX2, and this machine has none".into());
    }
    output(Command::new("valgrind").arg("--version"))
        .err()
        .map(|error| format!("this needs Valgrind: {error}"))
}

/// The instructions of a process that does so many operations of a case.
fn count(case: usize, ops: u64) -> Result<u64, String> {
    let (case, ops) = (case.to_string(), ops.to_string());
    let profile = profile(&case, &ops);
    _ = fs::remove_file(&profile); // Callgrind keeps an earlier one under another name.
    let mut out_file = OsStr::new("--callgrind-out-file=").to_owned();
    out_file.push(&profile);
    let program = env::current_exe().map_err(|error| error.to_string())?;
    output(
        Command::new("valgrind")
            .args(["--tool=callgrind", "--quiet"])
            .arg(out_file)
            .arg(program)
            .args([RUN, &case, &ops]),
    )?;
    let text = fs::read_to_string(&profile).map_err(|error| format!("{}: {error}", profile.display()))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok());
    total.ok_or_else(|| format!("{}: no total of one kind of event in it", profile.display()))
}

fn profile(case: &str, ops: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("callgrind.out.{case}-{ops}"))
}

/// What a command writes.
fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?}: {}\n{told}", output.status));
    }
    String::from_utf8(output.stdout).map_err(|error| format!("{command:?}: {error}"))
}

/// What is in the file: the compiler, and then a line for each case, its name and its count.
struct Baselines {
    rustc: String,
    counts: Vec<(String, f64)>,
}

impl Baselines {
    fn read() -> Result<Self, String> {
        let text = fs::read_to_string(BASELINES)
            .map_err(|error| format!("{BASELINES}: {error}. To write it: {BLESS}"))?;
        let mut lines = text.lines();
        let rustc = lines.next().unwrap_or_default().to_owned();
        let count = |line: &str| {
            let (name, count) = line.rsplit_once(' ')?;
            Some((name.trim_end().to_owned(), count.parse().ok()?))
        };
        let counts = lines.map(|line| count(line).ok_or_else(|| format!("{BASELINES}: no count in: {line}")));
        Ok(Self { rustc, counts: counts.collect::<Result<_, _>>()? })
    }

    fn of(&self, case: &str) -> Option<f64> {
        self.counts.iter().find_map(|(name, count)| (name == case).then_some(*count))
    }
}
