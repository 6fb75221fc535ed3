//! A process that writes JSON Lines under load is killed, again and again: what it said to have appended is there, what is
//! unfinished is told to the byte, and the next run goes on.
#![cfg(all(feature = "std", unix))]

#[allow(dead_code)] // each of its users uses a part
mod bus;

use std::borrow::Cow;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bus::{numbered, published};
use lapwing::event::{Event, RawValue};
use lapwing::storage::{
    Batch, Fsync, JsonLines, JsonLinesConfig, Limits, ReadError, Storage, StorageError, StorageWriter, Torn,
};
use lapwing::stream::Config;

const ROUNDS: u64 = if cfg!(debug_assertions) { 40 } else { 200 };
/// Rounds in one directory.
const ROUNDS_OF_DIR: u64 = 20;
/// A child is killed when it has written so many bytes at most.
const MOST_BYTES: u64 = 8 << 20;

const MAX_FILE_BYTES: u64 = 2 << 20;

/// In its environment a child finds the directory that it works in, its round, and whether each category has its files.
const CHILD_DIR: &str = "LAPWING_TEST_CHILD_DIR";
const CHILD_ROUND: &str = "LAPWING_TEST_CHILD_ROUND";
const CHILD_PER_CATEGORY: &str = "LAPWING_TEST_CHILD_PER_CATEGORY";

fn config(round: u64, per_category: bool) -> JsonLinesConfig {
    let config = JsonLinesConfig::new().max_bytes(MAX_FILE_BYTES);
    let config = match round % 4 {
        0 => config.fsync(Fsync::Every(Duration::from_millis(2))),
        1 => config.fsync(Fsync::EveryBatch),
        _ => config.fsync(Fsync::Never),
    };
    #[cfg(feature = "zstd")]
    let config = if round % 8 < 4 { config.compression(1) } else { config };
    config.per_category(per_category)
}

/// Not a test, but the child of one: publishes until it is killed, and says how far its storage is.
#[test]
fn child_that_publishes_until_it_is_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let [round, per_category] = [CHILD_ROUND, CHILD_PER_CATEGORY].map(|name| std::env::var(name).unwrap());
    let config = config(round.parse().unwrap(), per_category == "true");
    let (storage, recovered) = JsonLines::open(dir, config).unwrap();
    assert_eq!(recovered.torn, [], "who has opened it before has cut off everything");
    let first = recovered.last.map_or(1, |last| last.seq + 1);
    let stream = Config::new().events(512).inline_bytes(LARGE + 1024).first_seq(first).large_bytes(0);
    let stream = stream.build().unwrap();
    let mut writer = StorageWriter::new(&stream, Reporting { storage, epoch: stream.epoch() });
    let status = writer.status();
    thread::spawn(move || writer.run());
    for seq in first.. {
        while status.get().lag >= 384 {
            thread::yield_now();
        }
        assert_eq!(stream.publish(&event(seq)), Ok(published(seq)));
    }
}

/// Says on the standard output how far a storage is, after each batch.
struct Reporting {
    storage: JsonLines,
    epoch: u64,
}

impl Storage for Reporting {
    fn append(&mut self, batch: &Batch) -> Result<(), StorageError> {
        if let Err(error) = self.storage.append(batch) {
            panic!("{error}");
        }
        let (appended, durable) = (batch.last_seq().unwrap(), self.storage.durable().unwrap_or(0));
        // In one write, or a kill could come between two.
        let report = format!("@ {} {appended} {durable}.\n", self.epoch);
        std::io::stdout().write_all(report.as_bytes()).unwrap();
        Ok(())
    }

    fn idle(&mut self) -> Result<Option<Instant>, StorageError> {
        self.storage.idle()
    }

    fn durable(&self) -> Option<u64> {
        self.storage.durable()
    }

    fn limits(&self) -> Limits {
        self.storage.limits()
    }
}

/// Bytes of large events' data.
const LARGE: usize = 16_000;

/// The event with this number. Every fourth one is large, so that much of a child's time is spent in writing.
fn event(seq: u64) -> Event<'static> {
    static DATA: LazyLock<Vec<Box<RawValue>>> = LazyLock::new(|| {
        let filler: String = (0..LARGE).map(|at| char::from(b'a' + (at % 26) as u8)).collect();
        (1..=8)
            .map(|part| RawValue::from_string(format!("\"{}\"", &filler[LARGE / part..])).unwrap())
            .collect()
    });
    match seq % 32 {
        at if at % 4 == 0 => numbered(seq).data(Cow::Borrowed(&DATA[at as usize / 4])),
        _ => numbered(seq),
    }
}

fn line_of(seq: u64) -> Vec<u8> {
    [format!("{{\"seq\":{seq},\"event\":").as_bytes(), &event(seq).to_json(), b"}"].concat()
}

/// Starts a child, and kills it when it has written so many bytes. Returns what it has said last: the epoch of its stream, and
/// the seqs up to which its events are appended and durable.
fn killed_after(bytes: u64, dir: &Path, round: u64, per_category: bool) -> [u64; 3] {
    let files_before = files(dir);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child_that_publishes_until_it_is_killed", "--exact", "--nocapture"])
        .env(CHILD_DIR, dir)
        .env(CHILD_ROUND, round.to_string())
        .env(CHILD_PER_CATEGORY, per_category.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = child.stdout.take().unwrap();
    thread::scope(|scope| {
        let listener = scope.spawn(|| {
            let mut said = [0; 3];
            for line in BufReader::new(out).lines() {
                let line = line.unwrap();
                // The harness of tests may have begun the line, and a kill may have ended it before its point.
                let report = line.split_once("@ ").and_then(|(_, report)| report.strip_suffix('.'));
                let Some(report) = report else { continue };
                let numbers: Vec<_> = report.split(' ').map(|number| number.parse().unwrap()).collect();
                said = numbers.try_into().unwrap();
            }
            said
        });
        let deadline = Instant::now() + Duration::from_secs(60);
        while written_after(files_before.last(), dir) < bytes {
            assert!(child.try_wait().unwrap().is_none(), "the child has ended by itself");
            assert!(Instant::now() < deadline, "the child does not write");
            thread::yield_now();
        }
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());
        listener.join().unwrap()
    })
}

/// The files of lines, in the order of their names.
fn files(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths.filter(|path| path.to_str().unwrap().contains(".ndjson")).collect();
    paths.sort();
    paths
}

/// How many bytes were written to the files behind `last`.
fn written_after(last: Option<&PathBuf>, dir: &Path) -> u64 {
    let new = files(dir).into_iter().filter(|path| last.is_none_or(|last| path > last));
    let bytes = |path: PathBuf| match path.extension()?.to_str()? {
        "ndjson" => Some(fs::metadata(path).ok()?.len()),
        "zst" => Some(MAX_FILE_BYTES),
        _ => None, // it is being compressed
    };
    new.filter_map(bytes).sum()
}

/// What a look at the bytes says about a file's end.
fn torn(path: PathBuf) -> Option<Torn> {
    let content = fs::read(&path).unwrap();
    let whole = content.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let bytes = (content.len() - whole) as u64;
    (bytes > 0).then_some(Torn { path, bytes })
}

#[test]
fn killed_anywhere_it_loses_nothing_that_it_had_said_to_have() {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = std::env::var("LAPWING_SEED").map_or(seed, |seed| seed.parse().unwrap());
    println!("LAPWING_SEED={seed}");
    let mut random = seed;
    let mut below = move |end: u64| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) % end
    };
    let (mut ends, mut torn_bytes, mut lines, mut holes) = (0, 0, 0, 0);
    for first_round in (0..ROUNDS).step_by(ROUNDS_OF_DIR as usize) {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let per_category = first_round / ROUNDS_OF_DIR % 5 == 4;
        let mut runs: Vec<Run> = Vec::new();
        for round in first_round..ROUNDS.min(first_round + ROUNDS_OF_DIR) {
            // Often near to the beginning, and now and then before anything is written.
            let bytes = if below(20) == 0 { 0 } else { 1 + (below(MOST_BYTES) >> below(16)) };
            let said = killed_after(bytes, dir, round, per_category);

            let is_compressed = |path: &PathBuf| path.with_extension("ndjson.zst").exists();
            let plain = files(dir).into_iter().filter(|path| path.extension().unwrap() == "ndjson");
            let expected: Vec<_> = plain.filter(|path| !is_compressed(path)).filter_map(torn).collect();
            ends += expected.len();
            torn_bytes += expected.iter().map(|torn| torn.bytes).sum::<u64>();
            let (_, recovered) = JsonLines::open(dir, config(round, per_category)).unwrap();
            assert_eq!(recovered.torn, expected, "round {round}");

            let before = runs.last().map_or(0, |run| run.last);
            let last = recovered.last.map_or(0, |last| last.seq);
            let [epoch, appended, durable] = said;
            assert!(last >= appended, "round {round}: {appended} were appended, and {last} are there");
            assert!(durable <= appended && last >= before);
            if last > before {
                let run = Run { epoch: recovered.last.unwrap().epoch, first: before + 1, last, appended };
                assert!(epoch == 0 || epoch == run.epoch);
                runs.push(run);
            }
        }
        let (read, missing) = check(dir, &runs, per_category);
        lines += read;
        holes += missing;
    }
    println!("{ROUNDS} kills, {lines} lines read, {ends} torn ends of {torn_bytes} bytes, {holes} holes");
    assert!(ends > 0 || cfg!(debug_assertions), "none of the kills has met a write");
}

/// What a child has written before it was killed.
struct Run {
    epoch: u64,
    first: u64,
    /// The last seq that is there.
    last: u64,
    /// What it had said to have appended.
    appended: u64,
}

/// Fails unless the lines of all runs are there, with all their bytes, once and in order. With a file for each category seqs
/// may be missing in the batch that the kill met, if that is told. Returns how many there are, and how many are missing.
fn check(dir: &Path, runs: &[Run], per_category: bool) -> (u64, u64) {
    let (mut count, mut missing) = (0, 0);
    let mut lines = JsonLines::read(dir).unwrap().peekable();
    for run in runs {
        let mut next = run.first;
        let mut hole = |next: &mut u64, to: u64| {
            assert!(per_category && *next > run.appended, "{next} to {to} are missing");
            missing += to + 1 - *next;
            *next = to + 1;
        };
        while next <= run.last {
            match lines.next() {
                Some(Ok(line)) => {
                    if line.seq() > next && next == run.first {
                        hole(&mut next, line.seq() - 1); // nothing comes before it that could tell
                    }
                    assert_eq!((line.epoch(), line.seq()), (run.epoch, next));
                    assert_eq!(line.json(), line_of(next), "{line:?}");
                    next += 1;
                    count += 1;
                }
                Some(Err(ReadError::Missing { epoch, from, to })) => {
                    assert_eq!((epoch, from), (run.epoch, next));
                    hole(&mut next, to);
                }
                other => panic!("{other:?} where {next} should be"),
            }
        }
    }
    assert!(lines.next().is_none());
    (count, missing)
}
