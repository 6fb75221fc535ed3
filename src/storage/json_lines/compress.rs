//! Finished files are compressed, by a thread of its own.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use super::FileError;
use super::files::{UNFINISHED, sync_dir};
use super::recover::Lock;

#[derive(Debug)]
pub(super) struct Compressor {
    /// None when nothing more is to be compressed.
    queue: Option<Sender<PathBuf>>,
    /// Ends when the thread has nothing more to do.
    done: Receiver<()>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Compressor {
    /// Begins with `first`. The directory stays locked for as long as the thread is at work.
    pub(super) fn start(dir: PathBuf, level: i32, lock: Arc<Lock>, first: Vec<PathBuf>) -> io::Result<Self> {
        let (queue, files) = channel();
        let (end, done) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let work = move || {
            let (_lock, _end) = (lock, end);
            for path in first.into_iter().chain(files) {
                if stopped.load(Relaxed) {
                    return;
                }
                // It stays as it is, and the next one who opens the directory tries again.
                if let Err(error) = compress(&dir, &path, level, &stopped) {
                    tell!(WARN, "a finished file was not compressed", error = error.to_string().as_str());
                }
            }
        };
        let thread = std::thread::Builder::new().name("lapwing-zstd".into()).spawn(work)?;
        Ok(Self { queue: Some(queue), done, stop, thread: Some(thread) })
    }

    pub(super) fn compress(&self, path: PathBuf) {
        if let Some(queue) = &self.queue {
            let _ = queue.send(path);
        }
    }

    /// Until all is compressed, or until the deadline. Nothing is compressed after that.
    pub(super) fn wait(&mut self, deadline: Instant) {
        self.queue = None;
        let _ = self.done.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        self.end();
    }

    fn end(&mut self) {
        self.queue = None;
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Compressor {
    fn drop(&mut self) {
        self.end();
    }
}

/// Compresses a file, unless it is stopped. At any moment what is in it is there once: as it was, or compressed and durable.
fn compress(dir: &Path, path: &Path, level: i32, stop: &AtomicBool) -> Result<(), FileError> {
    let compressed = path.with_extension("ndjson.zst");
    let unfinished = path.with_extension(format!("ndjson.zst{UNFINISHED}"));
    let done = write(path, &unfinished, level, stop).and_then(|done| {
        if done {
            std::fs::rename(&unfinished, &compressed)?;
        }
        Ok(done)
    });
    if !matches!(done, Ok(true)) {
        let _ = std::fs::remove_file(&unfinished);
        return done.map(drop).map_err(FileError::new("compress", path));
    }
    sync_dir(dir)?;
    std::fs::remove_file(path).map_err(FileError::new("remove", path))
}

/// Writes the compressed form, and makes it durable. False if it was stopped.
fn write(path: &Path, compressed: &Path, level: i32, stop: &AtomicBool) -> io::Result<bool> {
    let mut input = File::open(path)?;
    let mut encoder = zstd::Encoder::new(File::create(compressed)?, level)?;
    encoder.include_checksum(true)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        encoder.write_all(&buffer[..read])?;
        if stop.load(Relaxed) {
            return Ok(false);
        }
    }
    encoder.finish()?.sync_all()?;
    Ok(true)
}
