//! `lapwing relay` with every kind of sink at once, as a user runs it: from a file, from standard input and from a socket into JSON Lines, a real
//! server of S2, and three clients of its own server. Every event is accounted for at each of them.

#[allow(dead_code)] // each of its users uses a part
#[path = "serve/http.rs"]
mod http;
#[allow(dead_code)]
#[path = "s2/server.rs"]
mod s2;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use http::{Events, get};
use s2::{BASIN, STREAM, Server};
use serde_json::Value;

/// The recording, but for its largest event, which would be truncated, and so often.
const TIMES: usize = 10;
/// Nothing here takes that long.
const PATIENCE: Duration = Duration::from_secs(120);

fn input() -> Vec<Vec<u8>> {
    let recording = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/telemetry.ndjson")).unwrap();
    let lines =
        recording.split(|byte| *byte == b'\n').filter(|line| !line.is_empty() && line.len() < 900_000);
    let lines: Vec<_> = lines.map(<[u8]>::to_vec).collect();
    lines.iter().cycle().take(lines.len() * TIMES).cloned().collect()
}

/// A relay that runs.
struct Relay {
    child: Child,
    /// What it says, a line each, and what of that nobody has asked for.
    said: Receiver<String>,
    unasked: Vec<String>,
}

impl Relay {
    fn start(args: &[&str], stdin: Stdio) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_lapwing"))
            .arg("relay")
            .args(args)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (say, said) = channel();
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| say.send(line)));
        Self { child, said, unasked: Vec::new() }
    }

    /// What comes after these words in what it says.
    fn says(&mut self, words: &str) -> String {
        loop {
            if let Some(rest) = self.unasked.iter().find_map(|line| line.strip_prefix(words)) {
                return rest.to_owned();
            }
            let line = self.said.recv_timeout(PATIENCE);
            self.unasked.push(line.unwrap_or_else(|_| panic!("{words:?} is not said")));
        }
    }

    fn address(&mut self) -> SocketAddr {
        self.says("lapwing: serving at http://").trim_end_matches('/').parse().unwrap()
    }

    fn stop(&self) {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// What it wrote to standard output, after it has ended well.
    fn end(mut self) -> Vec<u8> {
        let mut written = Vec::new();
        self.child.stdout.take().unwrap().read_to_end(&mut written).unwrap();
        let code = self.child.wait().unwrap().code();
        assert_eq!(code, Some(0), "{:#?}", self.said.iter().collect::<Vec<_>>());
        written
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

/// What a client got: how many envelopes, each of them as it was, and how many it was told that it lost.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Account {
    delivered: u64,
    dropped: u64,
    is_closed: bool,
}

/// Reads until so many frames were read, or the end, and goes on where an account ends.
fn read(events: &mut Events, input: &[Vec<u8>], account: &mut Account, frames: u64) -> Option<String> {
    let mut last_id = None;
    for _ in 0..frames {
        let Some(frame) = events.frame() else { break };
        let next = account.delivered + account.dropped + 1;
        match frame.event.as_deref() {
            None => {
                let event = std::str::from_utf8(&input[next as usize - 1]).unwrap();
                let expected = format!("{{\"seq\":{next},\"event\":{event}}}");
                let data = frame.data.as_deref().unwrap();
                // One whose reader came too late for its memory is flagged, and still has its seq.
                let shortened = data.ends_with("\"truncated\":true}}") && frame.seq() == next;
                assert!(data == expected || shortened, "seq {next} is not as it was: {data}");
                account.delivered += 1;
            }
            Some("dropped") => {
                assert_eq!(frame.number("from"), next);
                assert_eq!(frame.number("count"), frame.number("to") + 1 - next);
                account.dropped += frame.number("count");
            }
            Some("closed") => {
                assert_eq!(frame.number("seq"), account.delivered + account.dropped);
                account.is_closed = true;
            }
            Some(other) => panic!("{other}: {frame:?}"),
        }
        last_id = frame.id.or(last_id);
    }
    last_id
}

const NOTHING: Account = Account { delivered: 0, dropped: 0, is_closed: false };

/// What the server says to be readable.
fn readable(address: SocketAddr) -> u64 {
    get(address, "/stats", "").json()["readable"].as_u64().unwrap()
}

fn everything_is_accounted_for(feed: impl FnOnce(&mut Relay, &Path, &[u8]) + Send, args: &[&str]) {
    let input = input();
    let total = input.len() as u64;
    let bytes = [input.join(&b'\n'), b"\n".to_vec()].concat();
    let server = Server::start();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (out, file) = (dir.path().join("out"), dir.path().join("in"));
    fs::write(&file, b"").unwrap();

    let (name, url) = (format!("{BASIN}/{STREAM}"), server.url());
    let common = ["--out", out.to_str().unwrap(), "--s2", &name, "--s2-endpoint", &url, "--s2-linger", "5"];
    let more = ["--serve", "127.0.0.1:0", "--json", "--events", "2048"];
    let args: Vec<&str> =
        args.iter().map(|arg| if *arg == "FILE" { file.to_str().unwrap() } else { *arg }).collect();
    let mut relay = Relay::start(&[&common[..], &more, &args].concat(), Stdio::piped());
    let address = relay.address();

    // The clients are there before the first event.
    let mut fast = Events::new(address, "?replay=all", "");
    let mut slow = Events::new(address, "?replay=all", "");
    let mut fickle = Events::new(address, "?replay=all", "");
    let (fast, fickle) = thread::scope(|scope| {
        let input = &input;
        let fast = scope.spawn(move || {
            let mut account = NOTHING;
            read(&mut fast, input, &mut account, u64::MAX);
            account
        });
        let fickle = scope.spawn(move || {
            let mut account = NOTHING;
            while !account.is_closed {
                let Some(id) = read(&mut fickle, input, &mut account, 500) else { continue };
                if account.delivered + account.dropped < total {
                    fickle = Events::new(address, "", &format!("last-event-id: {id}\r\n"));
                }
            }
            account
        });
        feed(&mut relay, &file, &bytes);
        let start = Instant::now();
        while readable(address) < total || server.tail() < total {
            assert!(start.elapsed() < PATIENCE, "{} of {total} are readable", readable(address));
        }
        relay.stop();
        (fast.join().unwrap(), fickle.join().unwrap())
    });
    // It reads the first one when everything is over for all the others.
    let mut account = NOTHING;
    read(&mut slow, &input, &mut account, u64::MAX);
    let summary = relay.end();
    let summary = summary.split(|byte| *byte == b'\n').nth_back(1).unwrap();
    let summary: Value = serde_json::from_slice(summary).unwrap();

    for account in [fast, fickle, account] {
        assert_eq!((account.delivered + account.dropped, account.is_closed), (total, true), "{account:?}");
    }
    assert_eq!(
        (summary["complete"].as_bool(), summary["published"].as_u64()),
        (Some(true), Some(total)),
        "{summary}"
    );
    for sink in summary["sinks"].as_array().unwrap() {
        let numbers = ["appended", "durable", "dropped", "shortened"].map(|name| sink[name].as_u64());
        assert_eq!(numbers, [Some(total), Some(total), Some(0), Some(0)], "{sink}");
    }
    let expected =
        |seq: usize| [format!("{{\"seq\":{seq},\"event\":").as_bytes(), &input[seq - 1], b"}"].concat();
    let mut files: Vec<_> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "ndjson"));
    files.sort();
    let written: Vec<u8> = files.iter().flat_map(|file| fs::read(file).unwrap()).collect();
    let mut lines = written.split_inclusive(|byte| *byte == b'\n');
    for seq in 1..=input.len() {
        assert!(
            lines.next().unwrap().strip_suffix(b"\n") == Some(&expected(seq)),
            "line {seq} is not as it was"
        );
    }
    assert_eq!(lines.next(), None);
    let records = server.records();
    let records: Vec<_> = records.iter().filter(|record| !record.is_command_record()).collect();
    assert_eq!(records.len() as u64, total);
    for (at, record) in records.iter().enumerate() {
        assert!(record.body[..] == expected(at + 1), "record {at} is not as it was");
    }

    // And back again, from both.
    for source in [out.to_str().unwrap(), &format!("s2://{name}")] {
        let replayed = Command::new(env!("CARGO_BIN_EXE_lapwing"))
            .args(["replay", source, "--s2-endpoint", &url])
            .output()
            .unwrap();
        assert_eq!(replayed.status.code(), Some(0), "{}", String::from_utf8_lossy(&replayed.stderr));
        assert!(replayed.stdout == written, "what is replayed from {source} is not what was relayed");
    }
    eprintln!("fast {fast:?}, coming and going {fickle:?}, slow {account:?}");
}

#[test]
fn from_a_file_that_grows() {
    let feed = |_: &mut Relay, file: &Path, bytes: &[u8]| {
        let mut file = fs::OpenOptions::new().append(true).open(file).unwrap();
        bytes.chunks(100_000).for_each(|chunk| file.write_all(chunk).unwrap());
    };
    everything_is_accounted_for(feed, &["FILE", "--follow"]);
}

#[test]
fn from_standard_input() {
    let feed = |relay: &mut Relay, _: &Path, bytes: &[u8]| {
        relay.child.stdin.take().unwrap().write_all(bytes).unwrap();
    };
    everything_is_accounted_for(feed, &[]);
}

#[test]
fn from_a_socket() {
    let feed = |relay: &mut Relay, _: &Path, bytes: &[u8]| {
        let mut socket = TcpStream::connect(relay.says("lapwing: listening at ")).unwrap();
        socket.write_all(bytes).unwrap();
    };
    // Told to pause as for a pipe, so that the sinks lose nothing, however slow their server is.
    everything_is_accounted_for(feed, &["--listen", "127.0.0.1:0", "--on-lag", "pause"]);
}

#[test]
fn tail_prints_what_the_server_streams_through_a_restart() {
    let start = |address: &str| {
        let mut relay = Relay::start(&["--serve", address], Stdio::piped());
        let address = relay.address();
        (relay, address)
    };
    let post = |address: SocketAddr, n: u64| {
        let event = format!(r#"{{"ts":{n},"type":"t","category":"page","source":{{"kind":"cdp"}}}}"#);
        assert_eq!(http::post(address, "application/json", event).status, 200);
    };
    let (first, address) = start("127.0.0.1:0");
    (1..=3).for_each(|n| post(address, n));
    let mut tail = Command::new(env!("CARGO_BIN_EXE_lapwing"))
        .args(["tail", &address.to_string(), "--replay", "--json", "--category", "page"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let mut expect = |seqs: std::ops::RangeInclusive<u64>| {
        for seq in seqs {
            let line = lines.next().unwrap().unwrap();
            assert!(line.starts_with(&format!("{{\"seq\":{seq},")), "{line}");
        }
    };
    expect(1..=3);
    post(address, 4);
    expect(4..=4);
    // Another run, at the same address: everything that it has.
    first.stop();
    first.end();
    let (second, again) = start(&address.to_string());
    assert_eq!(again, address);
    (5..=6).for_each(|n| post(address, n));
    expect(1..=2);
    tail.kill().unwrap();
    let mut said = String::new();
    tail.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let _ = tail.wait();
    assert!(said.contains("the server has closed the stream; trying again"), "{said}");
    assert!(said.contains("the server is another run"), "{said}");
    second.stop();
    second.end();

    let refused = Command::new(env!("CARGO_BIN_EXE_lapwing")).args(["tail", "127.0.0.1:1"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("cannot connect to http://127.0.0.1:1/events"));
}
