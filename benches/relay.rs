//! The command as a whole, flat out from a file to files, beside `cat` on the same disk and beside what one would write with tokio's
//! broadcast and `serde_json`: an ordinary pipeline, which parses each line, and writes it once more.
//!
//! `cargo bench --features cli --bench relay`. Whole processes run in turns, and each reads the recording so many times over that it takes a
//! while; the pipeline runs in this one, which spares it the start. All of them write into the page cache, to a directory in the build's folder.
//! What arrived is counted. Set LAPWING_TELEMETRY to measure with another recording.

mod harness;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::{Limit, median, ratio, verdict};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// Bytes that everybody reads, at least.
const BYTES: usize = 200 << 20;
const ROUNDS: usize = 11;

fn main() {
    let is_test =
        !std::env::args().any(|arg| arg == "--bench") || std::env::args().any(|arg| arg == "--test");
    let bench = Bench::new(if is_test { 1 } else { BYTES });
    type Contestant = (&'static str, fn(&Bench) -> Duration);
    let contestants: [Contestant; 4] = [
        ("cat", |bench| bench.cat()),
        ("lapwing relay --out", |bench| bench.relay(&["--out-fsync", "never"])),
        ("the same, made durable every 100 ms", |bench| bench.relay(&[])),
        ("tokio broadcast and serde_json", |bench| bench.pipeline()),
    ];
    let rounds = if is_test { 1 } else { ROUNDS };
    let mut times = [const { Vec::new() }; 4];
    for _ in 0..rounds {
        for ((_, run), times) in contestants.iter().zip(&mut times) {
            times.push(run(&bench).as_secs_f64());
        }
    }
    if is_test {
        return;
    }
    println!("{} lines, {} bytes", bench.lines, bench.bytes);
    println!("{:<44}{:>9}{:>9}{:>9}", "from a file to files", "s", "MB/s", "ratio");
    for ((name, _), times_of_one) in contestants.iter().zip(&times) {
        let time = median(times_of_one);
        println!(
            "  {name:<42}{time:>9.3}{:>9.0}{:>9.2}",
            bench.bytes as f64 / time / 1e6,
            ratio(times_of_one, &times[0])
        );
    }
    println!();
    let goals = [
        ("relay MB/s / cat", ratio(&times[0], &times[1]), 0.5),
        ("relay MB/s / tokio broadcast and serde_json", ratio(&times[3], &times[1]), 20.0),
    ];
    for (name, figure, limit) in goals {
        println!("{}", verdict(name, figure, Limit::AtLeast(limit), 2));
    }
}

struct Bench {
    dir: TempDir,
    input: PathBuf,
    lines: usize,
    bytes: usize,
}

impl Bench {
    fn new(bytes: usize) -> Self {
        let recording = std::env::var_os("LAPWING_TELEMETRY").map_or_else(
            || concat!(env!("CARGO_MANIFEST_DIR"), "/examples/telemetry.ndjson").into(),
            PathBuf::from,
        );
        let recording = fs::read(recording).unwrap();
        let times = bytes.div_ceil(recording.len());
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let input = dir.path().join("input");
        fs::write(&input, recording.repeat(times)).unwrap();
        let lines = recording.iter().filter(|byte| **byte == b'\n').count();
        Self { dir, input, lines: lines * times, bytes: recording.len() * times }
    }

    fn cat(&self) -> Duration {
        let output = self.dir.path().join("cat");
        let start = Instant::now();
        let file = File::create(&output).unwrap();
        assert!(Command::new("cat").arg(&self.input).stdout(file).status().unwrap().success());
        let time = start.elapsed();
        assert_eq!(fs::metadata(&output).unwrap().len(), self.bytes as u64);
        fs::remove_file(output).unwrap();
        time
    }

    fn relay(&self, more: &[&str]) -> Duration {
        let output = self.dir.path().join("relay");
        let start = Instant::now();
        let mut command = Command::new(env!("CARGO_BIN_EXE_lapwing"));
        command.arg("relay").arg(&self.input).arg("--out").arg(&output).args(more).stderr(Stdio::null());
        assert!(command.status().unwrap().success());
        let time = start.elapsed();
        assert_eq!(count_lines(&output), self.lines);
        fs::remove_dir_all(output).unwrap();
        time
    }

    fn pipeline(&self) -> Duration {
        let output = self.dir.path().join("pipeline");
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let start = Instant::now();
        runtime.block_on(pipeline(&self.input, &output));
        let time = start.elapsed();
        assert_eq!(newlines(&fs::read(&output).unwrap()), self.lines);
        fs::remove_file(output).unwrap();
        time
    }
}

fn count_lines(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().map(|entry| newlines(&fs::read(entry.unwrap().path()).unwrap())).sum()
}

fn newlines(bytes: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', bytes).count()
}

// ---- The ordinary pipeline.

#[derive(Deserialize, Serialize)]
struct Event {
    ts: i64,
    r#type: String,
    category: String,
    source: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

#[derive(Serialize)]
struct Envelope {
    seq: u64,
    event: Event,
}

async fn pipeline(input: &Path, output: &Path) {
    const CAPACITY: usize = 4096;
    let (sender, mut receiver) = broadcast::channel::<Arc<Envelope>>(CAPACITY);
    let mut out = BufWriter::with_capacity(64 << 10, File::create(output).unwrap());
    let writer = tokio::spawn(async move {
        loop {
            match receiver.recv().await {
                Ok(envelope) => {
                    serde_json::to_writer(&mut out, &*envelope).unwrap();
                    out.write_all(b"\n").unwrap();
                }
                Err(RecvError::Lagged(lost)) => panic!("{lost} are lost"),
                Err(RecvError::Closed) => return out.flush().unwrap(),
            }
        }
    });
    let input = tokio::fs::File::open(input).await.unwrap();
    let mut input = BufReader::with_capacity(256 << 10, input);
    let (mut line, mut seq) = (Vec::new(), 0);
    while input.read_until(b'\n', &mut line).await.unwrap() > 0 {
        // The recording has lone surrogates, which it cannot take: they are replaced, so that everybody has as many lines.
        let text = String::from_utf8_lossy(&line);
        let event = match serde_json::from_str(&text) {
            Ok(event) => event,
            Err(_) => serde_json::from_str(&text.replace("\\ud", "\\uf").replace("\\uD", "\\uF")).unwrap(),
        };
        seq += 1;
        // Nothing is to be lost here.
        while sender.len() >= CAPACITY / 2 {
            tokio::task::yield_now().await;
        }
        sender.send(Arc::new(Envelope { seq, event })).ok().unwrap();
        line.clear();
    }
    drop(sender);
    writer.await.unwrap();
}
