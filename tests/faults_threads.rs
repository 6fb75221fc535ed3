//! A system that has no more threads to give: whoever needs one says so in an error, with a name, and does not panic.
//!
//! | who | when no thread can be had |
//! | --- | --- |
//! | `JsonLines::open` with compression | an error that names the directory; the directory is free again |
//! | `lapwing relay`, with any number of threads that is too small | one line that says what could not be started, and status 1 |
//!
//! The limit is the system's, `RLIMIT_NPROC`. It does not bind root, so that a child of root first becomes a user who owns nothing.
#![cfg(all(target_os = "linux", feature = "zstd"))]

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use lapwing::storage::{JsonLines, JsonLinesConfig};

/// A user of whom nothing runs.
const NOBODY: libc::uid_t = 64_399;

/// From now on this process and what it starts have at most so many threads.
fn limit_threads(most: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: each reads its arguments only, and may be called between fork and exec.
    let failed = unsafe {
        libc::setrlimit(libc::RLIMIT_NPROC, &limit) != 0
            || (libc::geteuid() == 0 && (libc::setgid(NOBODY) != 0 || libc::setuid(NOBODY) != 0))
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A directory that everybody may write to.
fn open_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    dir
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs an ignored test of this file in a process without another thread to be had.
fn in_child(name: &str, dir: &Path) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"])
        .env("LAPWING_FAULT_DIR", dir);
    let output = child.output().unwrap();
    let text = text(&output);
    assert!(output.status.success() && text.contains("NO THREAD"), "{text}");
    text
}

/// In such a child: the limit is in force, or it is of no use.
fn without_threads() -> Option<std::path::PathBuf> {
    let dir = std::env::var_os("LAPWING_FAULT_DIR")?;
    limit_threads(0).unwrap();
    let refused = std::thread::Builder::new().spawn(|| ());
    assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::WouldBlock, "the limit does not bind");
    Some(dir.into())
}

#[test]
fn compression_without_a_thread() {
    let dir = open_dir();
    let told = in_child("child_compresses", dir.path());
    assert!(told.contains("start a thread for") && told.contains(dir.path().to_str().unwrap()), "{told}");
}

#[test]
#[ignore = "the child of another test"]
fn child_compresses() {
    let Some(dir) = without_threads() else { return };
    let error = JsonLines::open(&dir, JsonLinesConfig::new().compression(3)).unwrap_err();
    println!("NO THREAD: {error}");
    // It is not locked, and what needs no thread works.
    JsonLines::open(&dir, JsonLinesConfig::new()).unwrap();
}

/// With more and more threads to be had, until they are enough.
#[cfg(all(feature = "cli", feature = "serve"))]
#[test]
fn the_command_without_enough_threads() {
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::CommandExt;
    use std::process::Stdio;

    let dir = open_dir();
    // Where they are, that user may not read them.
    let (command, input) = (dir.path().join("lapwing"), dir.path().join("input"));
    std::fs::copy(env!("CARGO_BIN_EXE_lapwing"), &command).unwrap();
    std::fs::copy("examples/telemetry.ndjson", &input).unwrap();
    let relay = |threads: u64| {
        let mut relay = Command::new(&command);
        relay.arg("relay").arg(&input).arg("--out").arg(dir.path().join("out"));
        relay.args(["--out-zstd", "3", "--serve", "127.0.0.1:0", "--deadline", "5"]).stderr(Stdio::piped());
        // SAFETY: what it calls may be called between fork and exec.
        unsafe { relay.pre_exec(move || limit_threads(threads)) };
        relay.spawn()
    };
    let mut refused = 0;
    let enough = (1..200).find(|&threads| {
        let mut relay = match relay(threads) {
            Ok(relay) => relay,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false, // not even the process
            Err(error) => panic!("{error}"),
        };
        let mut told = String::new();
        for line in BufReader::new(relay.stderr.take().unwrap()).lines() {
            told += &line.unwrap();
            if told.ends_with('/') && told.contains("serving at") {
                // SAFETY: it takes two integers. The process is a child that was not waited for.
                unsafe { libc::kill(relay.id() as libc::pid_t, libc::SIGTERM) };
            }
        }
        let status = relay.wait().unwrap();
        if told.contains("published: ") {
            assert!(status.success(), "{threads} threads: {status}: {told}");
            return true;
        }
        assert_eq!(status.code(), Some(1), "{threads} threads: {told}");
        // Signals are waited for by a thread, too.
        assert!(told.contains("thread") || told.contains("signals"), "{threads} threads: {told}");
        assert!(!told.contains("panicked"), "{threads} threads: {told}");
        refused += 1;
        false
    });
    assert!(enough.is_some() && refused > 0, "{enough:?}, {refused} refused");
}
