//! What the storages cost, beside a bare copy on the same disk and another writer that does not block its callers.
//!
//! `cargo bench --features s2 --bench sinks`, and see the harness for how. Everybody writes lines of 300 bytes to a file in a directory of the
//! build's folder, into the page cache: nobody calls `fsync`. The clock runs from the first event until the last line is written;
//! files are made before and removed after that. What arrived is counted.

mod harness;
#[cfg(feature = "s2")]
#[path = "sinks/s2.rs"]
mod s2;

use std::fs::{self, File};
use std::hint::{black_box, spin_loop};
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use harness::{Body, Group, goal, publishing, speed_goal};
use lapwing::event::{Category, Event, Source, SourceKind};
use lapwing::storage::{Batch, Fsync, JsonLines, JsonLinesConfig, Storage, StorageError, StorageWriter};
use lapwing::stream::EventStream;
use tempfile::TempDir;
use tracing_appender::non_blocking::NonBlockingBuilder;

fn main() {
    #[cfg(feature = "s2")]
    if std::env::args().any(|arg| arg == "--test") {
        s2::once();
    }
    harness::run(vec![json_lines(), blocked_sink()], s2_goals);
}

fn s2_goals() -> Vec<String> {
    #[cfg(feature = "s2")]
    return s2::goals();
    #[cfg(not(feature = "s2"))]
    vec!["NOT RUN: the goals of S2, which need the feature `s2`".into()]
}

/// Bytes of a line, with its line break, where the seq has 6 digits.
const LINE: usize = 300;

/// The event of such a line.
fn event() -> Event<'static> {
    let source = Source::new(SourceKind::Cdp).event("Runtime.consoleAPICalled");
    let event = Event::new("console_log", Category::Console, source).ts(1_795_346_234_966_162);
    let data = |text: &str| format!(r#"{{"message":"{text}","level":"log"}}"#);
    let bare = event.clone().data_json(&data("")).unwrap().to_json().len();
    let text = "a message from the page, once more ".repeat(10);
    let data = data(&text[..LINE - bare - r#"{"seq":123456,"event":}"#.len() - 1]);
    event.data_json(&data).unwrap().into_owned()
}

fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// How many bytes there are in the files of a directory, which are removed.
fn remove_files(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let remove = |path| {
        let len = fs::metadata(&path).unwrap().len();
        fs::remove_file(path).unwrap();
        len
    };
    entries.map(remove).sum()
}

// ---- Lines on a disk.

fn json_lines() -> Group {
    Group {
        name: "write lines of 300 B",
        events: 100_000,
        bytes: Some(LINE),
        contestants: vec![
            ("bare writes of 1,024 lines", bare_writes()),
            ("cat", cat()),
            ("StorageWriter and JsonLines", storage(JsonLinesConfig::new())),
            ("the same, a file for each category", storage(JsonLinesConfig::new().per_category(true))),
            ("the same, with a publisher beside it", storage_beside_a_publisher(JsonLinesConfig::new())),
            ("tracing-appender, the line alone", appender_of_lines()),
            ("tracing-appender, as documented", appender_of_events()),
        ],
        goals: vec![
            speed_goal("bytes/s / cat", "StorageWriter and JsonLines", &["cat"], 0.8),
            speed_goal(
                "events/s / tracing-appender",
                "StorageWriter and JsonLines",
                &["tracing-appender, as documented"],
                10.0,
            ),
        ],
    }
}

/// `cat` of a file of so many lines into another one, its start included.
fn cat() -> Body {
    let dir = directory();
    Box::new(move |events| {
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let line = [vec![b'x'; LINE - 1], vec![b'\n']].concat();
        fs::write(&from, line.repeat(events as usize)).unwrap();
        let mut command = Command::new("cat");
        command.arg(&from).stdin(Stdio::null()).stdout(File::create(&to).unwrap());
        let start = Instant::now();
        let status = command.status().unwrap();
        let time = start.elapsed();
        assert!(status.success());
        assert_eq!(remove_files(dir.path()), 2 * events * LINE as u64);
        time
    })
}

/// The lines alone, as many at once as the storage's writer has in a batch.
fn bare_writes() -> Body {
    const BATCH: u64 = 1024;
    let (dir, lines) = (directory(), vec![b'x'; LINE * BATCH as usize]);
    Box::new(move |events| {
        let mut file = File::create(dir.path().join("lines")).unwrap();
        let start = Instant::now();
        for done in (0..events).step_by(BATCH as usize) {
            file.write_all(&lines[..LINE * BATCH.min(events - done) as usize]).unwrap();
        }
        let time = start.elapsed();
        assert_eq!(remove_files(dir.path()), events * LINE as u64);
        time
    })
}

/// The events of a stream into JSON Lines: three quarters of a ring are published, off the clock, and then drained, on it,
/// until all are done. It takes one thread, as `cat` does.
fn storage(config: JsonLinesConfig) -> Body {
    written(config, |stream, writer, events| {
        let (event, step, mut done) = (event(), stream.events() * 3 / 4, 0);
        let mut time = Duration::ZERO;
        while done < events {
            let some = step.min(events - done);
            (0..some).for_each(|_| _ = stream.publish(&event).unwrap());
            let start = Instant::now();
            writer.drain(start + Duration::from_secs(60)).unwrap();
            time += start.elapsed();
            done += some;
        }
        time
    })
}

/// The same with a thread that publishes as fast as it can, but stays within three quarters of the ring, and the writer's run
/// in another one.
fn storage_beside_a_publisher(config: JsonLinesConfig) -> Body {
    const STEP: u64 = 64;
    written(config, |stream, writer, events| {
        let (event, ahead) = (event(), stream.events() * 3 / 4);
        let (status, canceller) = (writer.status(), writer.canceller());
        thread::scope(|scope| {
            let run = scope.spawn(|| writer.run().unwrap());
            let start = Instant::now();
            for done in 0..events {
                if done.is_multiple_of(STEP) {
                    while status.get().lag > ahead {
                        thread::yield_now();
                    }
                }
                stream.publish(&event).unwrap();
            }
            while status.get().lag > 0 {
                thread::yield_now();
            }
            let time = start.elapsed();
            canceller.cancel();
            run.join().unwrap();
            time
        })
    })
}

/// What `write` makes of so many events, of a stream and the writer in front of its storage.
fn written(
    config: JsonLinesConfig,
    write: impl Fn(&EventStream, &mut StorageWriter<JsonLines>, u64) -> Duration + 'static,
) -> Body {
    let (stream, dir, config) = (EventStream::new().unwrap(), directory(), config.fsync(Fsync::Never));
    Box::new(move |events| {
        let (storage, _) = JsonLines::open(dir.path(), config.clone()).unwrap();
        let first = stream.seq();
        let mut writer = StorageWriter::after(&stream, storage, first).unwrap();
        let status = writer.status();
        let time = write(&stream, &mut writer, events);
        writer.close(Instant::now() + Duration::from_secs(60)).unwrap();
        assert_eq!((status.get().appended, status.get().dropped), (first + events, 0));
        let bytes = remove_files(dir.path());
        assert!((295..=303).contains(&(bytes / events)), "{bytes} bytes of {events} events");
        time
    })
}

/// A file that counts how many writes it has taken: one for each line, as the appender writes.
struct Counting {
    file: File,
    lines: Arc<AtomicU64>,
}

impl Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        assert_eq!(written, bytes.len());
        self.lines.store(self.lines.load(Acquire) + 1, Release);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// What `publish` writes so many times to a non-blocking writer of tracing-appender: to one that waits when its queue of
/// 128,000 lines is full, since one that drops them (its default) would not have to write them.
fn appender<P: FnMut()>(
    publisher: impl Fn(tracing_appender::non_blocking::NonBlocking) -> P + 'static,
) -> Body {
    let dir = directory();
    Box::new(move |events| {
        let lines = Arc::new(AtomicU64::new(0));
        let file = File::create(dir.path().join("lines")).unwrap();
        let (writer, guard) =
            NonBlockingBuilder::default().lossy(false).finish(Counting { file, lines: Arc::clone(&lines) });
        let mut publish = publisher(writer);
        let start = Instant::now();
        for _ in 0..events {
            publish();
        }
        while lines.load(Acquire) < events {
            thread::yield_now();
        }
        let time = start.elapsed();
        drop(guard);
        let bytes = remove_files(dir.path());
        assert_eq!(bytes / events, LINE as u64, "{bytes} bytes of {events} events");
        time
    })
}

/// A line that is there already.
fn appender_of_lines() -> Body {
    appender(|mut writer| {
        let line = [vec![b'x'; LINE - 1], vec![b'\n']].concat();
        move || writer.write_all(black_box(&line)).unwrap()
    })
}

/// An event of `tracing` by way of its subscriber's formatter.
fn appender_of_events() -> Body {
    appender(|writer| {
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
        let default = tracing::subscriber::set_default(subscriber);
        let text = "a message from the page, once more ".repeat(10);
        move || {
            let _until_dropped = &default;
            tracing::info!(source = "Runtime.consoleAPICalled", level = "log", "{}", black_box(&text[..212]));
        }
    })
}

// ---- A sink that does not come back.

struct Blocked(std::sync::mpsc::Receiver<()>);

impl Storage for Blocked {
    fn append(&mut self, _: &Batch) -> Result<(), StorageError> {
        _ = self.0.recv();
        Ok(())
    }
}

fn blocked_sink() -> Group {
    let blocked = || {
        let (stream, (hold, never)) = (EventStream::new().unwrap(), channel());
        let mut writer = StorageWriter::new(&stream, Blocked(never));
        stream.publish(&event()).unwrap();
        let reader = stream.handle().clone();
        thread::spawn(move || writer.run());
        while reader.readers()[0].position == 0 {
            spin_loop();
        }
        let event = event();
        (move || stream.publish(black_box(&event)).unwrap(), hold)
    };
    let alone = || {
        let (stream, event) = (EventStream::new().unwrap(), event());
        (move || stream.publish(black_box(&event)).unwrap(), ())
    };
    Group {
        name: "publish an event of 277 B",
        events: 20_000,
        bytes: None,
        contestants: vec![
            ("base", publishing((|| black_box(()), ()))),
            ("without a reader", publishing(alone())),
            ("beside a sink that blocks forever", publishing(blocked())),
        ],
        goals: vec![goal(
            "publish beside a blocked sink / without a reader",
            "beside a sink that blocks forever",
            &["without a reader"],
            1.05,
        )],
    }
}
