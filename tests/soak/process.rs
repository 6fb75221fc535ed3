//! A process, seen from outside, and how much lies in a directory.

use std::fs;
use std::path::Path;

/// What a process holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    pub threads: Vec<String>,
    pub files: Vec<String>,
}

/// Of its memory what is in place, in KiB.
pub fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
}

/// Seconds on a processor.
pub fn busy(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // What comes behind the name, which may have anything in it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

impl Held {
    pub fn by(pid: u32) -> Self {
        let list = |folder: &str| {
            let entries = fs::read_dir(format!("/proc/{pid}/{folder}")).into_iter().flatten();
            entries.filter_map(|entry| Some(entry.ok()?.path())).collect::<Vec<_>>()
        };
        let mut threads: Vec<_> = list("task")
            .iter()
            .filter_map(|task| fs::read_to_string(task.join("comm")).ok())
            .map(|name| name.trim_end().to_owned())
            .collect();
        let mut files: Vec<_> = list("fd")
            .iter()
            .filter_map(|file| Some(fs::read_link(file).ok()?.to_string_lossy().into_owned()))
            .collect();
        threads.sort();
        files.sort();
        Self { threads, files }
    }

    pub fn count(&self) -> (usize, usize) {
        (self.threads.len(), self.files.len())
    }
}

/// Bytes of all files below.
pub fn size(folder: &Path) -> u64 {
    // What is gone meanwhile takes nothing.
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => size(&entry.path()),
            _ => entry.metadata().map_or(0, |file| file.len()),
        })
        .sum()
}
