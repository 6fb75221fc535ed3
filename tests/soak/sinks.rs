//! What is in the sinks, read while they are written, and removed once it is checked.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::events::{Account, write_envelope};
use crate::s2::Server;
use crate::{PATIENCE, UNKNOWN};

/// How long until the next look where there was nothing.
const PAUSE: Duration = Duration::from_millis(50);

/// An envelope that a sink has: the next one, or the one that stands for what was lost.
fn take(line: &[u8], account: &mut Account, expected: &mut Vec<u8>) -> Result<(), String> {
    expected.clear();
    write_envelope(account.next(), expected);
    if line == expected {
        account.deliver();
        return Ok(());
    }
    let text = || String::from_utf8_lossy(line).into_owned();
    let envelope: Value = serde_json::from_slice(line).map_err(|error| format!("{error}: {}", text()))?;
    let (event, data) = (&envelope["event"], &envelope["event"]["data"]);
    match (data["from"].as_u64(), data["to"].as_u64(), data["count"].as_u64()) {
        (Some(from), Some(to), Some(count))
            if event["type"] == "events_dropped" && count == to - from + 1 && envelope["seq"] == to =>
        {
            account.lose(from, to)
        }
        _ => Err(format!("{} was to come, and this came: {}", account.next(), text())),
    }
}

/// The files of a directory, in their order. Returns how many there were as well.
pub fn files(dir: &Path, is_over: &AtomicBool) -> Result<(Account, u64), String> {
    let (mut account, mut count, mut expected, mut line) = (Account::new(None), 0, Vec::new(), Vec::new());
    loop {
        // In this order: what is there once it is over is all.
        let is_last = is_over.load(Relaxed);
        for path in list(dir, is_last)? {
            let failed = |error| format!("{}: {error}", path.display());
            let file = File::open(&path).map_err(failed)?;
            let plain: Box<dyn Read> = match path.extension() {
                Some(end) if end == "zst" => Box::new(zstd::Decoder::new(file).map_err(failed)?),
                _ => Box::new(file),
            };
            let mut lines = BufReader::with_capacity(256 << 10, plain);
            loop {
                line.clear();
                if lines.read_until(b'\n', &mut line).map_err(failed)? == 0 {
                    break;
                }
                let whole = line.strip_suffix(b"\n").ok_or_else(|| format!("{} is torn", path.display()))?;
                take(whole, &mut account, &mut expected)
                    .map_err(|why| format!("{}, {account:?}: {why}", path.display()))?;
            }
            fs::remove_file(&path).map_err(failed)?;
            count += 1;
        }
        if is_last {
            return Ok((account, count));
        }
        thread::park_timeout(PAUSE * 10);
    }
}

/// The files that do not change any more, in the order of their numbers.
fn list(dir: &Path, all: bool) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let mut found: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.retain(|path| match path.extension().and_then(|end| end.to_str()) {
        // Until it is removed, what was compressed is there twice.
        Some("zst") => !path.with_extension("").exists(),
        Some("ndjson") => all,
        _ => false,
    });
    found.sort();
    Ok(found)
}

/// The records of a stream. Returns how many there were in all.
pub fn records(server: &Server, total: &AtomicU64, is_over: &AtomicBool) -> Result<(Account, u64), String> {
    let (mut account, mut next, mut expected) = (Account::new(None), 0, Vec::new());
    let mut heard = Instant::now();
    loop {
        let is_last = is_over.load(Relaxed);
        let records = server.records_from(next);
        if records.is_empty() {
            let total = total.load(Relaxed);
            if total != UNKNOWN && is_last {
                return Ok((account, next));
            }
            if heard.elapsed() > PATIENCE {
                return Err(format!("S2: nothing came any more after {account:?}"));
            }
            thread::park_timeout(PAUSE);
            continue;
        }
        heard = Instant::now();
        for record in records {
            if record.seq_num != next {
                return Err(format!("S2: record {next} was to come, and {} came", record.seq_num));
            }
            next += 1;
            if !record.is_command_record() {
                take(&record.body, &mut account, &mut expected)
                    .map_err(|why| format!("S2, record {}, {account:?}: {why}", record.seq_num))?;
            }
        }
    }
}
