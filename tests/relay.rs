//! `lapwing relay` as a user runs it: every line is in the output, or accounted for by number.

use std::fs;
use std::io::{Read, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

const RECORDING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/telemetry.ndjson");

fn relay(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapwing"));
    command.arg("relay").args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a run left behind.
struct Run {
    code: Option<i32>,
    out: Vec<u8>,
    err: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: output.stdout,
            err: String::from_utf8(output.stderr).expect("messages are UTF-8"),
        }
    }
}

impl Run {
    /// The numbers of a line of the summary, in order.
    fn numbers(&self, name: &str) -> Vec<u64> {
        let line = self.err.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let line = line.unwrap_or_else(|| panic!("no {name} in the summary:\n{}", self.err));
        line.split_whitespace().filter_map(|word| word.parse().ok()).collect()
    }

    /// Fails unless all `lines` were published, and each reader accounts for all of them. Returns the drops of
    /// the writer.
    fn account(&self, lines: usize) -> u64 {
        let lines = lines as u64;
        assert_eq!(self.numbers("input"), [lines], "{}", self.err);
        assert_eq!(self.numbers("published")[0], lines, "{}", self.err);
        assert_eq!(self.numbers("refused"), [0, 0], "{}", self.err);
        for reader in ["writer", "counter"] {
            let [delivered, dropped, _bytes] = self.numbers(reader)[..] else { panic!("{}", self.err) };
            assert_eq!(delivered + dropped, lines + self.numbers("given up")[0], "{reader}:\n{}", self.err);
        }
        assert_eq!(self.numbers("output"), [self.out.len() as u64], "{}", self.err);
        self.numbers("writer")[1]
    }

    /// The runs of events that the writer said to have dropped.
    fn dropped(&self) -> Vec<RangeInclusive<u64>> {
        let runs =
            self.err.lines().filter_map(|line| line.strip_prefix("lapwing: the writer dropped events "));
        runs.map(|run| {
            let (from, to) = run.split_once(" to ").expect("from and to");
            from.parse().unwrap()..=to.parse().unwrap()
        })
        .collect()
    }
}

/// Runs it with `input` as standard input, and its standard output as the output.
fn run(input: &[u8], args: &[&str]) -> Run {
    let mut child = relay(&[&["--out", "-"], args].concat()).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().unwrap().into()
    })
}

/// As `run`, with rings of 1 KiB events.
fn run_small(input: &[u8], args: &[&str]) -> Run {
    run(input, &[&["--slot-bytes", "1024"], args].concat())
}

/// A file of this test that is gone when it ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", std::process::id())))
    }

    fn with(name: &str, bytes: &[u8]) -> Self {
        let scratch = Self::new(name);
        fs::write(&scratch.0, bytes).unwrap();
        scratch
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.0).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Lines of 20 to 1,020 bytes that begin with their number.
fn numbered(lines: u64) -> Vec<u8> {
    let line = |number: u64| format!("{number:020}{}\n", "x".repeat((number * 37 % 1000) as usize));
    (1..=lines).map(line).collect::<String>().into_bytes()
}

/// The numbers of such lines. Fails if a line is not as it was made.
fn numbers_of(lines: &[u8]) -> Vec<u64> {
    let lines = std::str::from_utf8(lines).unwrap().lines();
    lines
        .map(|line| {
            let (number, rest) = line.split_at(20);
            let number: u64 = number.parse().unwrap();
            assert_eq!(rest, "x".repeat((number * 37 % 1000) as usize), "line {number} is torn");
            number
        })
        .collect()
}

fn sorted_lines(bytes: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<_> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    lines.sort();
    lines
}

#[test]
fn the_recording_passes_whole_under_the_defaults() {
    let recording = fs::read(RECORDING).unwrap();
    let out = Scratch::with("recording", &b"longer, and older\n".repeat(recording.len() / 16));
    let mut run = Run::from(relay(&[RECORDING, "--out", out.path()]).output().unwrap());

    assert_eq!(run.code, Some(0), "{}", run.err);
    assert!(out.bytes() == recording, "the output differs from the input");
    assert!(run.out.is_empty());
    run.out = out.bytes();
    assert_eq!(run.account(sorted_lines(&recording).len()), 0);
    let payload = recording.len() - sorted_lines(&recording).len();
    assert_eq!(run.numbers("published")[1], payload as u64);
    assert_eq!(run.numbers("writer")[2], payload as u64);
}

#[test]
fn several_publishers_keep_every_line() {
    let recording = fs::read(RECORDING).unwrap();
    let run = run(&recording, &["--publishers", "4"]);

    assert_eq!(run.code, Some(0), "{}", run.err);
    assert!(
        sorted_lines(&run.out) == sorted_lines(&recording),
        "the output is not a permutation of the input"
    );
    assert_eq!(run.account(sorted_lines(&recording).len()), 0);
}

#[test]
fn bytes_are_carried_as_they_are() {
    let inputs: [&[u8]; 10] = [
        b"",
        b"\n",
        b"\n\n\n",
        b"no line feed",
        b"one\ntwo",
        b"one\n\n\ntwo\n",
        b"\r\none\r\n\r\ntwo\r",
        b"\xff\xfe not UTF-8 \x80\n\xc3\n",
        b"nul \0 and tab\t\n\0\n",
        b"{\"lone surrogate\":\"\\ud83d\"}\n",
    ];
    for input in inputs {
        let run = run_small(input, &[]);
        assert_eq!(run.code, Some(0), "{}", run.err);
        assert_eq!(run.out, input, "{}", run.err);
        assert_eq!(run.account(sorted_lines(input).len()), 0);
    }
}

#[test]
fn pausing_loses_nothing_in_the_smallest_rings() {
    let input = numbered(5_000);
    for capacity in ["1", "2", "3", "5", "8"] {
        let run = run_small(&input, &["--capacity", capacity]);
        assert_eq!(run.code, Some(0), "{}", run.err);
        assert!(run.out == input, "capacity {capacity}: the output differs from the input");
        assert_eq!(run.account(5_000), 0);

        let run = run_small(&input, &["--capacity", capacity, "--publishers", "3"]);
        assert_eq!(run.code, Some(0), "{}", run.err);
        let mut numbers = numbers_of(&run.out);
        numbers.sort();
        assert!(numbers.into_iter().eq(1..=5_000), "capacity {capacity}: not a permutation");
        assert_eq!(run.account(5_000), 0);
    }
}

#[test]
fn a_last_line_without_line_feed_is_never_glued_to_another() {
    let mut input = numbered(300);
    input.pop();
    for _ in 0..20 {
        let run = run_small(&input, &["--publishers", "4", "--capacity", "9"]);
        let mut numbers = numbers_of(&run.out);
        let added = usize::from(numbers.last() != Some(&300));
        assert_eq!(run.out.len(), input.len() + added, "a line feed is there for what comes after, or not");
        numbers.sort();
        assert!(numbers.into_iter().eq(1..=300));
    }
}

/// Feeds a run that nobody reads the output of until all but a pipeful of the input is gone.
fn run_with_stuck_output(input: &[u8], args: &[&str]) -> Run {
    let args = [&["--out", "-", "--slot-bytes", "1024", "--capacity", "8"], args].concat();
    let mut child = relay(&args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    thread::scope(|scope| {
        let err = scope.spawn(move || {
            let mut err = String::new();
            stderr.read_to_string(&mut err).map(|_| err)
        });
        child.stdin.take().unwrap().write_all(input).unwrap();
        let run = Run::from(child.wait_with_output().unwrap());
        Run { err: err.join().unwrap().unwrap(), ..run }
    })
}

#[test]
fn with_on_lag_drop_every_lost_line_is_told_by_number() {
    // Pipes and buffers hold some 200 KB, the ring 8 KB; the rest of 5 MB must go somewhere.
    let input = numbered(10_000);
    let run = run_with_stuck_output(&input, &["--on-lag", "drop"]);
    assert_eq!(run.code, Some(0), "{}", run.err);
    let dropped = run.account(10_000);
    assert!(dropped > 5_000, "a writer that is stuck loses most:\n{}", run.err);
    assert_eq!(run.dropped().into_iter().flatten().count() as u64, dropped);

    // With one publisher and nothing refused, an event has the number of its line.
    let mut accounted: Vec<u64> = run.dropped().into_iter().flatten().chain(numbers_of(&run.out)).collect();
    accounted.sort();
    assert!(accounted.into_iter().eq(1..=10_000), "a line is neither in the output nor told as dropped");

    // With several, the counts must still add up, and nothing may come twice.
    let run = run_with_stuck_output(&input, &["--on-lag", "drop", "--publishers", "3"]);
    let [too_large, stalled] = run.numbers("refused")[..] else { panic!("{}", run.err) };
    assert_eq!(run.numbers("published")[0] + too_large + stalled, 10_000, "{}", run.err);
    assert_eq!((too_large, run.code), (0, Some(i32::from(stalled != 0))), "{}", run.err);
    let [delivered, dropped, _bytes] = run.numbers("writer")[..] else { panic!("{}", run.err) };
    assert_eq!(delivered + dropped, run.numbers("published")[0] + run.numbers("given up")[0], "{}", run.err);
    assert_eq!(run.dropped().into_iter().flatten().count() as u64, dropped);
    let mut numbers = numbers_of(&run.out);
    assert_eq!(numbers.len() as u64, delivered);
    numbers.sort();
    numbers.dedup();
    assert_eq!(numbers.len() as u64, delivered, "a line came twice");
}

#[test]
fn a_line_too_large_is_told_with_its_number_and_the_rest_goes_on() {
    let input = [&b"x".repeat(1025)[..], &b"y".repeat(1024), b"short", &b"z".repeat(300_000)].join(&b'\n');
    for publishers in ["1", "3"] {
        let run = run_small(&input, &["--publishers", publishers]);
        assert_eq!(run.code, Some(1), "{}", run.err);
        let whole = [&b"y".repeat(1024)[..], b"\n", b"short\n"].concat();
        if publishers == "1" {
            assert_eq!(run.out, whole);
        }
        assert_eq!(sorted_lines(&run.out), sorted_lines(&whole));
        for (line, len) in [(1, 1025), (4, 300_000)] {
            let told =
                format!("line {line} was not published: the payload has {len} bytes, a slot holds 1024\n");
            assert!(run.err.contains(&told), "{}", run.err);
        }
        assert_eq!(run.numbers("input"), [4]);
        assert_eq!(run.numbers("published"), [2, 1029]);
        assert_eq!(run.numbers("refused"), [2, 0]);
        assert!(
            run.err.ends_with("not every line of the input is in the output, see above\n"),
            "{}",
            run.err
        );
    }
}

#[test]
fn refused_lines_do_not_hold_the_input_back() {
    let long = b"z".repeat(1025);
    let input = [vec![&long[..]; 1000], vec![b"last"]].concat().join(&b'\n');
    let run = run_small(&input, &["--capacity", "2"]);
    assert_eq!((run.code, &run.out[..]), (Some(1), &b"last"[..]), "{}", run.err);
    assert_eq!(run.numbers("refused"), [1000, 0]);
}

#[test]
fn what_was_read_is_in_the_output_while_the_input_is_still_open() {
    let mut child = relay(&["--out", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    for line in [b"first\n", b"other\n"] {
        stdin.write_all(line).unwrap();
        let mut got = [0; 6];
        stdout.read_exact(&mut got).unwrap();
        assert_eq!(&got, line);
    }
    drop(stdin);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
}

/// The bytes and lines that a run says its failing output took.
fn taken_by_output(run: &Run) -> (usize, usize) {
    let message = run.err.lines().find_map(|line| line.strip_prefix("lapwing: cannot write the output: "));
    let message = message.unwrap_or_else(|| panic!("no failure is told:\n{}", run.err));
    let (_, taken) = message.split_once(", after ").unwrap();
    let mut numbers = taken.split(' ').filter_map(|word| word.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_with_what_was_written() {
    let input = Scratch::with("full", &numbered(5_000));
    for on_lag in ["pause", "drop"] {
        let run =
            Run::from(relay(&[input.path(), "--out", "/dev/full", "--on-lag", on_lag]).output().unwrap());
        assert_eq!(run.code, Some(1), "{}", run.err);
        assert!(run.err.contains("No space left on device"), "{}", run.err);
        assert_eq!(taken_by_output(&run), (0, 0));
        assert_eq!(run.numbers("output"), [0]);
    }
}

#[test]
fn a_closed_pipe_ends_the_relay_and_is_told_with_what_was_written() {
    let input = numbered(10_000);
    for publishers in ["1", "2"] {
        let args = ["--out", "-", "--slot-bytes", "1024", "--publishers", publishers];
        let mut child = relay(&args).stdin(Stdio::piped()).spawn().unwrap();
        let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut got = vec![0; 300_000];
        let fed = thread::scope(|scope| {
            let fed = scope.spawn({
                let input = &input;
                move || stdin.write_all(input)
            });
            stdout.read_exact(&mut got).unwrap();
            drop(stdout);
            fed.join().unwrap()
        });
        assert!(fed.is_err(), "the input was read to its end for nobody");
        let run = Run::from(child.wait_with_output().unwrap());
        assert_eq!(run.code, Some(1), "{}", run.err);
        let (bytes, lines) = taken_by_output(&run);
        assert!(bytes >= got.len());
        assert_eq!(run.numbers("output"), [bytes as u64]);
        if publishers == "1" {
            assert!(input.starts_with(&got));
            assert_eq!(lines, input[..bytes].iter().filter(|byte| **byte == b'\n').count());
        }
    }
}

#[test]
fn the_input_is_never_overwritten() {
    let bytes = numbered(3);
    let input = Scratch::with("same", &bytes);
    let link = Scratch::new("same-link");
    fs::hard_link(&input.0, &link.0).unwrap();
    for out in [input.path(), link.path()] {
        let run = Run::from(relay(&[input.path(), "--out", out]).output().unwrap());
        assert_eq!(run.code, Some(1), "{}", run.err);
        assert!(run.err.contains("is the input; nothing was relayed"), "{}", run.err);
        let stdin = fs::File::open(&input.0).unwrap();
        let run = Run::from(relay(&["--out", out]).stdin(stdin).output().unwrap());
        assert_eq!(run.code, Some(1), "{}", run.err);
        assert_eq!(input.bytes(), bytes);
    }
}

#[test]
fn set_up_errors_are_told_and_leave_the_output_alone() {
    let out = Scratch::with("set-up", b"precious");
    let missing = Scratch::new("missing");
    let cases: [(&[&str], i32, &str); 5] = [
        (&[missing.path()], 1, "cannot open the input"),
        (&["--capacity", "0"], 1, "a ring of 0 events cannot be made: 1 to "),
        (
            &["--capacity", "18446744073709551615"],
            1,
            "a ring of 18446744073709551615 events cannot be made: 1 to ",
        ),
        (&["--slot-bytes", "4294967296"], 1, "a slot of 4294967296 bytes cannot be made: 0 to 4294967295"),
        (&["--publishers", "0"], 2, "0 is not in 1..=256"),
    ];
    for (args, code, message) in cases {
        let run = Run::from(relay(&[args, &["--out", out.path()]].concat()).output().unwrap());
        assert_eq!(run.code, Some(code), "{}", run.err);
        assert!(run.err.contains(message), "{}", run.err);
        assert_eq!(out.bytes(), b"precious");
    }
    let run = Run::from(relay(&[RECORDING, "--out", env!("CARGO_TARGET_TMPDIR")]).output().unwrap());
    assert_eq!(run.code, Some(1), "{}", run.err);
    assert!(run.err.contains("cannot open the output"), "{}", run.err);
}

#[cfg(target_os = "linux")]
#[test]
fn an_input_that_cannot_be_read_is_told_with_the_line() {
    // A directory opens, and fails when it is read.
    let run = Run::from(relay(&[env!("CARGO_TARGET_TMPDIR"), "--out", "-"]).output().unwrap());
    assert_eq!(run.code, Some(1), "{}", run.err);
    assert!(run.err.contains("lapwing: cannot read the input: Is a directory"), "{}", run.err);
    assert!(run.err.contains(", at line 1, of which 0 bytes were read and not published\n"), "{}", run.err);
}
