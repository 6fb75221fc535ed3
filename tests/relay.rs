//! `lapwing relay` and `lapwing replay` as a user runs them: every line is in every sink, or accounted for.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

const RECORDING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/telemetry.ndjson");
/// Nothing here takes that long.
const PATIENCE: Duration = Duration::from_secs(60);

fn lapwing(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapwing"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn relay(args: &[&str]) -> Command {
    lapwing(&[&["relay"], args].concat())
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
    fn of(mut command: Command) -> Self {
        command.output().unwrap().into()
    }

    fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.err);
        self
    }

    fn told(&self, text: &str) {
        assert!(self.err.contains(text), "{text:?} is not told:\n{}", self.err);
    }

    /// The summary of a run with `--json`.
    fn summary(&self) -> Value {
        let out = std::str::from_utf8(&self.out).unwrap();
        let last = out.lines().last().unwrap_or_else(|| panic!("no summary:\n{}", self.err));
        let summary: Value = serde_json::from_str(last).unwrap();
        assert_eq!(summary["type"], "summary");
        summary
    }
}

/// Runs it with `input` as standard input.
fn feed(input: &[u8], args: &[&str]) -> Run {
    let mut child = relay(args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    thread::scope(|scope| {
        // It may end before it has read everything.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap().into()
    })
}

/// A directory of this test that is gone when it ends.
fn scratch() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The lines of every file of a directory of JSON Lines.
fn lines_in(dir: &Path) -> Vec<Vec<u8>> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "ndjson"));
    files.sort();
    files.iter().flat_map(|file| lines(&fs::read(file).unwrap())).collect()
}

fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    lines.map(|line| line.strip_suffix(b"\n").expect("every line is whole").to_vec()).collect()
}

/// The seq and the event of an envelope.
fn opened(envelope: &[u8]) -> (u64, &[u8]) {
    let rest = envelope.strip_prefix(b"{\"seq\":").expect("an envelope");
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let event = rest[digits..].strip_prefix(b",\"event\":").unwrap().strip_suffix(b"}").unwrap();
    (std::str::from_utf8(&rest[..digits]).unwrap().parse().unwrap(), event)
}

/// The events of envelopes, whose seqs have to be 1, 2, 3 and so on.
fn events(envelopes: &[Vec<u8>]) -> Vec<&[u8]> {
    let opened = envelopes.iter().map(|envelope| opened(envelope));
    (1..).zip(opened).map(|(expected, (seq, event))| (assert_eq!(seq, expected), event).1).collect()
}

fn sorted<T: Ord>(values: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut values: Vec<T> = values.into_iter().collect();
    values.sort();
    values
}

/// An event that describes itself. Every tenth is too large for a slot.
fn event(number: u64) -> String {
    let pad = "x".repeat(if number.is_multiple_of(10) { 3000 } else { (number * 37 % 700) as usize });
    format!(
        r#"{{"ts":{number},"type":"numbered","category":"page","source":{{"kind":"local_process"}},"data":{{"pad":"{pad}"}}}}"#
    )
}

fn input(numbers: impl IntoIterator<Item = u64>) -> Vec<u8> {
    numbers.into_iter().map(|number| event(number) + "\n").collect::<String>().into_bytes()
}

/// The number of such an event. Fails if it is not as it was made.
fn number(json: &[u8]) -> u64 {
    let value: Value = serde_json::from_slice(json).unwrap();
    let number = value["ts"].as_u64().unwrap();
    assert_eq!(std::str::from_utf8(json).unwrap(), event(number));
    number
}

/// The numbers that the events of envelopes have, and the seqs that are told to be lost.
fn account(envelopes: &[Vec<u8>]) -> (Vec<u64>, u64) {
    let (mut numbers, mut lost, mut next) = (Vec::new(), 0, 1);
    for envelope in envelopes {
        let (seq, json) = opened(envelope);
        let value: Value = serde_json::from_slice(json).unwrap();
        if value["type"] == "events_dropped" {
            let data = &value["data"];
            assert_eq!((data["from"].as_u64(), data["to"].as_u64()), (Some(next), Some(seq)));
            assert_eq!(data["count"].as_u64(), Some(seq + 1 - next));
            lost += seq + 1 - next;
        } else {
            assert_eq!(seq, next, "a seq is neither there nor told to be lost");
            numbers.push(number(json));
        }
        next = seq + 1;
    }
    (numbers, lost)
}

fn send(child: &Child, signal: &str) {
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Waits until something is so.
fn until(what: &str, so: impl Fn() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < PATIENCE, "{what} does not come");
        thread::yield_now();
    }
}

// ---- Files and pipes.

#[test]
fn the_recording_arrives_byte_for_byte() {
    let recording = lines(&fs::read(RECORDING).unwrap());
    for args in [&["--max-envelope-bytes", "2000000"][..], &[]] {
        let dir = scratch();
        let out = dir.path().join("not/there/yet");
        let run = Run::of(relay(&[&[RECORDING, "--json", "--out", text(&out)], args].concat())).expect(0);
        let envelopes = lines_in(&out);
        let arrived = events(&envelopes);
        assert_eq!(arrived.len(), recording.len());
        for (was, is) in recording.iter().zip(&arrived) {
            if args.is_empty() && was.len() > 999_900 {
                let event: Value = serde_json::from_slice(is).unwrap();
                assert_eq!((&event["truncated"], is.len() > 900_000), (&Value::Bool(true), true));
            } else {
                assert!(was == is, "an event has changed");
            }
        }
        assert!(envelopes.iter().all(|envelope| envelope.len() <= 1_000_000 || !args.is_empty()));
        let summary = run.summary();
        let numbers =
            ["lines", "published", "rejected", "late", "not_captured"].map(|name| summary[name].as_u64());
        assert_eq!(numbers, [recording.len() as u64, recording.len() as u64, 0, 0, 0].map(Some));
        assert_eq!(summary["truncated"].as_u64(), Some(u64::from(args.is_empty())));
        assert_eq!(summary["complete"], true);
        let sink = &summary["sinks"][0];
        let numbers = ["appended", "durable", "lag", "dropped", "shortened"].map(|name| sink[name].as_u64());
        assert_eq!(numbers, [recording.len() as u64, recording.len() as u64, 0, 0, 0].map(Some));
    }
}

#[test]
fn several_publishers_keep_every_line() {
    let all = input(1..=3000);
    let run = feed(&all, &["--publishers", "4", "--out", "-"]).expect(0);
    let (numbers, lost) = account(&lines(&run.out));
    assert_eq!((sorted(numbers), lost), ((1..=3000).collect(), 0));
}

#[test]
fn pausing_loses_nothing_in_the_smallest_rings() {
    let all = input(1..=2000);
    for (events, publishers) in [("2", "1"), ("3", "2"), ("5", "3"), ("8", "4")] {
        // There is room for two of the large events.
        let args = ["--out", "-", "--events", events, "--publishers", publishers, "--large-bytes", "16384"];
        let args = [&args[..], &["--max-envelope-bytes", "4096"]].concat();
        let run = feed(&all, &args).expect(0);
        let (numbers, lost) = account(&lines(&run.out));
        assert_eq!((sorted(numbers), lost), ((1..=2000).collect(), 0));
    }
}

#[test]
fn a_deadline_that_no_clock_can_tell_is_refused() {
    let run = feed(b"", &["--out", "-", "--deadline", "18446744073709551615"]).expect(2);
    run.told("18446744073709551615 is not in 0..=31536000");
}

#[test]
fn a_ring_too_small_for_its_publishers_is_refused() {
    let run = feed(b"", &["--out", "-", "--events", "4", "--publishers", "4"]).expect(1);
    run.told("lapwing: 4 publishers need a ring of more events than 4; nothing was relayed\n");
}

#[test]
fn with_on_lag_drop_every_lost_event_is_told_in_its_place() {
    // Pipes and buffers hold some 200 KB, the ring 8 events; the rest of 4 MB must go somewhere.
    let small: Vec<u64> = (1..=11_000).filter(|number: &u64| !number.is_multiple_of(10)).collect();
    let all = input(small.iter().copied());
    for publishers in ["1", "3"] {
        let args = ["--out", "-", "--on-lag", "drop", "--events", "8", "--publishers", publishers];
        let mut child = relay(&args).stdin(Stdio::piped()).spawn().unwrap();
        // Nobody reads what it has to say before it has read everything.
        child.stdin.take().unwrap().write_all(&all).unwrap();
        let run = Run::from(child.wait_with_output().unwrap()).expect(1);
        let (numbers, lost) = account(&lines(&run.out));
        assert!(lost > 5_000, "a sink that is stuck loses most:\n{}", run.err);
        let (there, count) = (numbers.len() as u64, small.len() as u64);
        // Several publishers may meet in so small a ring, and give up numbers.
        assert!(there + lost == count || publishers != "1" && there + lost > count, "{}", run.err);
        let mut once = sorted(numbers);
        once.dedup();
        assert_eq!(once.len() as u64, there, "an event came twice");
        assert!(once.iter().all(|number| small.binary_search(number).is_ok()));
        run.told(&format!("out: up to seq {}, {lost} dropped", there + lost));
        run.told("lapwing: something was lost, see above\n");
    }
}

#[test]
fn lines_come_as_they_may() {
    let one = event(1);
    let events_of = |input: String| {
        let run = feed(input.as_bytes(), &["--out", "-"]).expect(0);
        lines(&run.out)
            .iter()
            .map(|line| String::from_utf8(opened(line).1.to_vec()).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(events_of(String::new()), [""; 0]);
    assert_eq!(events_of("\n \n\r\n\t\n".into()), [""; 0]);
    assert_eq!(events_of(one.clone()), [&*one]);
    assert_eq!(events_of(format!("\n{one}\n\n{one}")), [one.clone(), one.clone()]);
    assert_eq!(events_of(format!("{one}\r\n{one}\r\n")).len(), 2);
    let surrogate = r#"{"ts":1,"type":"t","category":"page","source":{"kind":"cdp"},"data":"\ud83d"}"#;
    assert_eq!(events_of(surrogate.into()), [surrogate]);
}

#[test]
fn lines_that_are_no_events_are_counted_kept_and_told_once_for_each_kind() {
    let (good, type_field) = (event(1), r#"{"type":1,"category":"page","source":{"kind":"cdp"}}"#);
    let long_type =
        format!(r#"{{"type":"{}","category":"page","source":{{"kind":"cdp"}}}}"#, "t".repeat(5000));
    let bad = [
        type_field,
        "nope",
        "nope again",
        r#"{"category":"page","source":{"kind":"cdp"}}"#,
        &long_type,
        "\u{1}",
    ];
    let all = [&[good.as_str()], &bad[..], &[good.as_str()]].concat().join("\n");

    let dir = scratch();
    let rejects = dir.path().join("rejects");
    let kept = feed(all.as_bytes(), &["--out", "-", "--rejects", text(&rejects)]).expect(0);
    assert_eq!(fs::read_to_string(&rejects).unwrap(), bad.join("\n") + "\n");
    let lost = feed(all.as_bytes(), &["--out", "-"]).expect(1);
    for run in [kept, lost] {
        assert_eq!(events(&lines(&run.out)), [good.as_bytes(); 2]);
        run.told("standard input, line 2, column 9: no event: a string is expected at byte 8");
        run.told("standard input, line 3, column 1: no event: ");
        run.told(
            "standard input, line 5, column 43: no event: the object that ends at byte 42 has no `type`",
        );
        run.told("standard input, line 6: not published: type, category and source take 5");
        assert!(!run.err.contains("line 4"), "the second one of a kind is only counted:\n{}", run.err);
        run.told("not published: 0 not captured, 6 rejected, 0 too late\n");
    }
}

#[test]
fn a_line_too_long_is_never_held_as_a_whole_and_the_rest_goes_on() {
    let long = vec![b'x'; 40 << 20];
    for (ends, count) in [(&b"\n"[..], 1), (b"", 0)] {
        let mut all = input(1..=1);
        all.extend_from_slice(&long);
        all.extend_from_slice(ends);
        all.extend(input(2..2 + count));
        let run = feed(&all, &["--out", "-"]).expect(1);
        assert_eq!(account(&lines(&run.out)).0, (1..=1 + count).collect::<Vec<_>>());
        run.told(&format!("standard input, line 2: it has {} bytes, and 16777216 are allowed", long.len()));
        run.told(&format!("input: {} lines", 2 + count));
    }
}

#[test]
fn what_was_read_is_in_the_sink_while_the_input_is_still_open() {
    let mut child = relay(&["--out", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut stdout = BufReader::new(stdout);
    for n in 1..=2 {
        stdin.write_all(&input(n..=n)).unwrap();
        let mut line = Vec::new();
        stdout.read_until(b'\n', &mut line).unwrap();
        let (seq, event) = opened(line.strip_suffix(b"\n").unwrap());
        assert_eq!((seq, number(event)), (n, n));
    }
    drop(stdin);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
}

#[test]
fn how_it_goes_is_told_while_the_input_is_open() {
    let begin = |args: &[&str]| {
        let dir = scratch();
        let out = dir.path().join("out");
        let args = [&["--out", text(&out)], args].concat();
        let mut child = relay(&args).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.as_mut().unwrap().write_all(&input(1..=20)).unwrap();
        (child, dir)
    };
    let end = |mut child: Child| {
        drop(child.stdin.take());
        assert_eq!(child.wait().unwrap().code(), Some(0));
    };
    // For machines, every second.
    let (mut child, _dir) = begin(&["--json"]);
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let report: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((report["type"].as_str(), report["published"].as_u64()), (Some("progress"), Some(20)));
    let sink = &report["sinks"][0];
    assert_eq!(
        (sink["name"].as_str(), sink["lag"].as_u64(), sink["dropped"].as_u64()),
        (Some("out"), Some(0), Some(0))
    );
    end(child);
    // Where it is no terminal, a line every ten.
    let (mut child, _dir) = begin(&[]);
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    let (before, after) = ("lapwing: 20 events, ", "/s | out: lag 0, dropped 0\n");
    assert!(line.starts_with(before) && line.ends_with(after), "{line}");
    end(child);
}

#[test]
fn only_what_is_captured_is_published() {
    let of = |category: &str| {
        format!(r#"{{"ts":1,"type":"t","category":"{category}","source":{{"kind":"cdp"}}}}"#) + "\n"
    };
    let all = ["page", "network", "system", "billing", "page"].map(of).concat();
    let categories = |args: &[&str]| {
        let run = feed(all.as_bytes(), &[&["--out", "-"], args].concat()).expect(0);
        let category = |line: &Vec<u8>| {
            let envelope: Value = serde_json::from_slice(line).unwrap();
            envelope["event"]["category"].as_str().unwrap().to_owned()
        };
        lines(&run.out).iter().map(category).collect::<Vec<_>>()
    };
    assert_eq!(categories(&["--capture", "page"]), ["page", "system", "page"]);
    assert_eq!(categories(&["--capture", "network,other"]), ["network", "system", "billing"]);
    assert_eq!(categories(&[]).len(), 5);
}

#[test]
fn events_come_at_the_speed_they_are_told() {
    let at = |ms: u64| {
        format!(
            r#"{{"ts":{},"type":"t","category":"page","source":{{"kind":"cdp"}}}}"#,
            1_000_000 + ms * 1000
        )
    };
    // The third one is older than the one before it, and comes at once.
    let all = [at(0), at(300), at(100), at(600)].join("\n");
    for (speed, least) in [("1", 600), ("2x", 300), ("flat", 0)] {
        let start = Instant::now();
        let run = feed(all.as_bytes(), &["--out", "-", "--speed", speed]).expect(0);
        assert!(start.elapsed() >= Duration::from_millis(least));
        assert_eq!(events(&lines(&run.out)).len(), 4);
    }
}

#[test]
fn a_file_is_followed_as_it_grows_is_cut_back_and_replaced() {
    let dir = scratch();
    let (path, other) = (dir.path().join("growing"), dir.path().join("other"));
    fs::write(&path, [&input(1..=2)[..], b"{\"ts\":3,"].concat()).unwrap();
    let mut child = relay(&[text(&path), "--follow", "--out", "-"]).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut expect = |numbers: &[u64]| {
        for expected in numbers {
            let mut line = Vec::new();
            stdout.read_until(b'\n', &mut line).unwrap();
            assert_eq!(number(opened(line.strip_suffix(b"\n").unwrap()).1), *expected);
        }
    };
    expect(&[1, 2]);
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(&input(3..=3)[b"{\"ts\":3,".len()..]).unwrap();
    expect(&[3]);
    file.set_len(0).unwrap();
    file.write_all(&input(4..=4)).unwrap();
    expect(&[4]);
    fs::write(&other, input(5..=6)).unwrap();
    fs::rename(&other, &path).unwrap();
    expect(&[5, 6]);
    send(&child, "-TERM");
    let run = Run::from(child.wait_with_output().unwrap()).expect(0);
    run.told("is another file now");
}

// ---- Sockets.

/// The address that it says to listen at. What else it says is given to whoever waits for it.
fn address(child: &mut Child) -> (String, thread::JoinHandle<String>) {
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    let address = line.trim_end().strip_prefix("lapwing: listening at ").unwrap_or_else(|| panic!("{line}"));
    let rest = thread::spawn(move || {
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).unwrap();
        rest
    });
    (address.to_owned(), rest)
}

fn tcp(address: &str) -> impl Read + Write + use<> {
    TcpStream::connect(address).unwrap()
}

#[cfg(unix)]
fn unix(address: &str) -> impl Read + Write + use<> {
    std::os::unix::net::UnixStream::connect(address).unwrap()
}

fn sockets<S: Write>(listen: &str, connect: impl Fn(&str) -> S + Sync) {
    let dir = scratch();
    let out = dir.path().join("out");
    let args =
        ["--listen", listen, "--out", text(&out), "--events", "20000", "--json", "--large-bytes", "16777216"];
    let mut child = relay(&args).spawn().unwrap();
    let (address, err) = address(&mut child);
    thread::scope(|scope| {
        for at in 0..4 {
            let (connect, address) = (&connect, &address);
            scope.spawn(move || {
                let mut socket = connect(address);
                socket.write_all(&input(at * 1000 + 1..=at * 1000 + 1000)).unwrap();
                socket.write_all(b"no event\n").unwrap();
            });
        }
    });
    // Everything was sent, and nothing need have been read.
    send(&child, "-TERM");
    let mut run = Run::from(child.wait_with_output().unwrap()).expect(1);
    run.err = err.join().unwrap();
    let (numbers, lost) = account(&lines_in(&out));
    assert_eq!((sorted(numbers), lost), ((1..=4000).collect(), 0), "{}", run.err);
    let summary = run.summary();
    assert_eq!((summary["published"].as_u64(), summary["rejected"].as_u64()), (Some(4000), Some(4)));
    assert_eq!(run.err.matches("line 1001, column 1: no event").count(), 1, "{}", run.err);
}

#[test]
fn whoever_connects_is_heard() {
    sockets("127.0.0.1:0", tcp);
}

#[cfg(unix)]
#[test]
fn whoever_connects_to_a_unix_socket_is_heard() {
    let dir = scratch();
    let path = dir.path().join("socket");
    let listen = format!("unix:{}", text(&path));
    // What is left over from a run that was killed is in nobody's way.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    sockets(&listen, unix);
    assert!(!path.exists(), "the socket is still there");
    // A file that is no socket is not touched.
    fs::write(&path, "precious").unwrap();
    Run::of(relay(&["--listen", &listen, "--out", "-"])).expect(1).told("cannot listen at");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn nobody_is_heard_from_outside() {
    for listen in ["0.0.0.0:7070", "[::]:7070", "192.0.2.1:7070"] {
        Run::of(relay(&["--listen", listen, "--out", "-"]))
            .expect(2)
            .told("is no loopback address, and only such are allowed");
    }
    Run::of(relay(&["--listen", "somewhere", "--out", "-"]))
        .expect(2)
        .told("allowed are an IP address with a port");
}

// ---- Ends.

#[test]
fn what_was_published_before_the_signal_is_in_the_sink() {
    for signal in ["-TERM", "-INT"] {
        let dir = scratch();
        let out = dir.path().join("out");
        let mut child = relay(&["--out", text(&out), "--out-fsync", "never", "--json"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let feeder = thread::spawn(move || {
            (1..).step_by(100).find(|from| stdin.write_all(&input(*from..from + 100)).is_err())
        });
        until("a full file", || {
            fs::read_dir(&out)
                .is_ok_and(|mut dir| dir.any(|entry| entry.unwrap().metadata().unwrap().len() > 10 << 20))
        });
        send(&child, signal);
        let run = Run::from(child.wait_with_output().unwrap()).expect(0);
        run.told("told to stop");
        let summary = run.summary();
        let published = summary["published"].as_u64().unwrap();
        let (numbers, lost) = account(&lines_in(&out));
        assert_eq!((numbers, lost), ((1..=published).collect(), 0));
        // The write that failed may have brought a part of its hundred.
        assert!(feeder.join().unwrap().unwrap() + 100 > published);
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut child = relay(&["--out", "-", "--deadline", "3600"]).stdin(Stdio::piped()).spawn().unwrap();
    // More than a pipe holds, and nobody reads.
    child.stdin.take().unwrap().write_all(&input(1..=500)).unwrap();
    let mut err = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    send(&child, "-TERM");
    err.read_line(&mut line).unwrap();
    assert!(line.contains("a second signal ends it at once"), "{line}");
    send(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(1));
    err.read_to_string(&mut line).unwrap();
    assert!(line.contains("told to stop for the second time: what is left is lost"), "{line}");
}

#[test]
fn a_sink_that_is_not_done_by_its_deadline_is_told() {
    let mut child = relay(&["--out", "-", "--deadline", "1"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&input(1..=500)).unwrap();
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(err.contains("events are not there: it did not come back in time"), "{err}");
}

#[test]
fn when_the_last_sink_is_gone_no_more_input_is_taken() {
    let mut child = relay(&["--out", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut got = vec![0; 100_000];
    let fed = thread::scope(|scope| {
        let fed = scope.spawn(move || {
            (1..=1000).map(|at| stdin.write_all(&input(at * 100..at * 100 + 100))).find(Result::is_err)
        });
        stdout.read_exact(&mut got).unwrap();
        drop(stdout);
        fed.join().unwrap()
    });
    assert!(fed.is_some(), "the input was read to its end for nobody");
    let run = Run::from(child.wait_with_output().unwrap()).expect(1);
    run.told("out: the storage failed for good: cannot write to standard output: Broken pipe");
    run.told("lapwing: no sink is left; no more input is taken\n");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let file = scratch();
    let path = file.path().join("in");
    fs::write(&path, input(1..=100)).unwrap();
    let run = Run::of({
        let mut command = relay(&[text(&path), "--out", "-"]);
        command.stdout(full);
        command
    });
    run.expect(1).told("cannot write to standard output: No space left on device");
}

#[test]
fn set_up_errors_are_told_and_nothing_is_touched() {
    let dir = scratch();
    let (out, rejects, missing) =
        (dir.path().join("out"), dir.path().join("rejects"), dir.path().join("missing"));
    fs::write(&rejects, "precious").unwrap();
    let cases: [(&[&str], i32, &str); 8] = [
        (&[text(&missing)], 1, "cannot open the input"),
        (&["--events", "0"], 1, "a ring of 0 events cannot be made: 1 to "),
        (&["--inline-bytes", "1"], 1, "1 bytes inline cannot be had: 128 to "),
        (&["--publishers", "0"], 2, "0 is not in 1..=256"),
        (&["--speed", "0"], 2, "allowed are flat, or a number above 0"),
        (&["--speed", "inf"], 2, "allowed are flat, or a number above 0"),
        (&["--out-fsync", "sometimes"], 2, "allowed are never, batch, or a number of milliseconds"),
        (&["--follow", "-"], 2, "only a file can be followed"),
    ];
    for (args, code, message) in cases {
        let run = Run::of(relay(&[args, &["--out", text(&out), "--rejects", text(&rejects)]].concat()));
        run.expect(code).told(message);
        assert!(!out.exists());
        assert_eq!(fs::read_to_string(&rejects).unwrap(), "precious");
    }
    Run::of(relay(&[RECORDING])).expect(2).told("there is no sink");
    Run::of(relay(&[RECORDING, "--out", "-", "--json"])).expect(1).told("both want standard output");
    // A file where the directory should be; a directory that another one writes to.
    Run::of(relay(&[RECORDING, "--out", text(&rejects)])).expect(1).told("nothing was relayed");
    assert_eq!(fs::read_to_string(&rejects).unwrap(), "precious");
    let mut child = relay(&["--out", text(&out)]).stdin(Stdio::piped()).spawn().unwrap();
    until("the lock", || out.join("lock").exists());
    child.stdin.as_mut().unwrap().write_all(&input(1..=1)).unwrap();
    until("an event", || fs::read_dir(&out).unwrap().count() == 2);
    Run::of(relay(&[RECORDING, "--out", text(&out)])).expect(1).told("is locked: another writer has it open");
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[cfg(target_os = "linux")]
#[test]
fn an_input_that_cannot_be_read_is_told_with_the_line() {
    // A directory opens, and fails when it is read.
    let run = Run::of(relay(&[env!("CARGO_TARGET_TMPDIR"), "--out", "-"])).expect(1);
    run.told(&format!("lapwing: {}, line 1 cannot be read: Is a directory", env!("CARGO_TARGET_TMPDIR")));
}

// ---- Replay.

#[test]
fn what_was_relayed_is_replayed() {
    let dir = scratch();
    let out = dir.path().join("out");
    let more = ["--out-per-category", "--out-zstd", "3", "--out-max-bytes", "200000"];
    Run::of(relay(&[&[RECORDING, "--out", text(&out)], &more[..]].concat())).expect(0);
    // Another run, into the same directory.
    Run::of(relay(&[RECORDING, "--out", text(&out)])).expect(0);
    assert!(fs::read_dir(&out).unwrap().count() > 10, "there are not as many files as there should be");
    let run = Run::of(lapwing(&["replay", text(&out)])).expect(0);
    let envelopes = lines(&run.out);
    let replayed = events(&envelopes);
    let recording = lines(&fs::read(RECORDING).unwrap());
    assert_eq!(replayed.len(), 2 * recording.len());
    for (was, is) in recording.iter().chain(&recording).zip(replayed) {
        assert!(was == is || was.len() > 999_900, "an event has changed");
    }
}

#[test]
fn what_is_wrong_in_a_directory_is_told_and_the_rest_replayed() {
    let dir = scratch();
    let out = dir.path().join("out");
    assert_eq!(feed(&input(1..=9), &["--out", text(&out)]).code, Some(0));
    let file = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path());
    let file = file.into_iter().find(|path| path.extension().is_some()).unwrap();
    let mut envelopes = lines(&fs::read(&file).unwrap());
    envelopes[4] = b"no envelope".to_vec();
    fs::write(&file, [&envelopes.join(&b'\n')[..], b"\n{\"seq\":10,\"ev"].concat()).unwrap();

    let run = Run::of(lapwing(&["replay", text(&out)])).expect(1);
    let numbers: Vec<_> = events(&lines(&run.out)).into_iter().map(number).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 6, 7, 8, 9]);
    run.told("is no envelope");
    run.told("seqs 5 to 5 of epoch");
    run.told("its last 13 bytes are no whole line");
    Run::of(lapwing(&["replay", text(&dir.path().join("nowhere"))])).expect(1).told("nothing was relayed");
}

// ---- For packagers.

#[test]
fn completions_and_manual_pages_are_generated() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let run = Run::of(lapwing(&["completions", shell])).expect(0);
        assert!(String::from_utf8(run.out).unwrap().contains("on-lag"));
    }
    let dir = scratch();
    Run::of(lapwing(&["man", text(dir.path())])).expect(0);
    let page = fs::read_to_string(dir.path().join("lapwing-relay.1")).unwrap();
    assert!(page.contains("EXAMPLES") || page.contains("Examples"), "{page}");
    Run::of(lapwing(&["man", text(&dir.path().join("nowhere"))])).expect(1).told("cannot write manual pages");
}
