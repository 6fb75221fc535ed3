//! `lapwing relay`: lines in, ring, lines out.
//!
//! Publisher threads take turns at the input, a line at a time. The writer reads the ring and appends to the
//! output; the counter reads the same ring and only counts. The ring waits for neither of them; [`Pace`] holds
//! the input back for the writer.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::mem::take;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use lapwing::ring::{ConfigError, PublishError, Read, Reader, Ring, TryReadError};
use parking_lot::{Condvar, Mutex};
use same_file::Handle;

/// Relay JSON Lines through a ring, and account for every line.
///
/// Every line of the input is published as one event, by one or more publisher threads. One reader writes what
/// it gets to the output, another one only counts. A summary on standard error says what was published and
/// refused, and what each reader got and lost.
///
/// Bytes are carried as they are: blank lines, carriage returns and invalid UTF-8 pass, and nothing is parsed.
/// With one publisher the output has the bytes of the input. With several, the lines come in any order; a last
/// line without a line feed gets one if another line comes after it.
///
/// Takes CAPACITY times SLOT_BYTES of memory at the start: 70 MB if neither is told. Each of the two readers takes
/// another SLOT_BYTES, each publisher what its longest line needs.
///
/// Exits with 0 when every line is in the output, or was dropped as `--on-lag drop` allows; with 1 when a line
/// was refused, or the input or the output failed; with 2 when the arguments are wrong.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Where to read lines: a file, or `-` for standard input.
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Where to write them: a file, which is overwritten, or `-` for standard output.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// How many threads publish.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    publishers: u16,
    /// How many events the ring holds.
    #[arg(long, default_value_t = 64)]
    capacity: u64,
    /// The longest line that the ring takes, without its line feed.
    #[arg(long, default_value_t = 1_100_000)]
    slot_bytes: usize,
    /// What to do while the writer is more than half a ring behind: pause the input, so that the writer loses
    /// nothing, or go on and let it drop what it is too slow for.
    #[arg(long, value_enum, default_value_t = OnLag::Pause)]
    on_lag: OnLag,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum OnLag {
    Pause,
    Drop,
}

/// Runs the command, with everything it has to say on standard error.
pub fn main(args: &Args) -> ExitCode {
    match relay(args) {
        Ok(summary) => {
            tell(&summary);
            if summary.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            tell(&format_args!("lapwing: {error}; nothing was relayed"));
            ExitCode::FAILURE
        }
    }
}

/// A line on standard error. Whether it arrives is nobody's concern: there is nowhere else to say so.
pub fn tell(message: &dyn fmt::Display) {
    let _ = writeln!(io::stderr(), "{message}");
}

/// Why nothing was relayed.
enum SetUpError {
    Input(PathBuf, io::Error),
    Output(PathBuf, io::Error),
    /// The output is the input, which would be overwritten before it is read.
    SameFile(PathBuf),
    Ring(ConfigError),
}

impl fmt::Display for SetUpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(file, error) => write!(f, "cannot open the input {}: {error}", file.display()),
            Self::Output(file, error) => write!(f, "cannot open the output {}: {error}", file.display()),
            Self::SameFile(file) => write!(f, "the output {} is the input", file.display()),
            Self::Ring(error) => error.fmt(f),
        }
    }
}

fn relay(args: &Args) -> Result<Summary, SetUpError> {
    // The output comes last: it is not overwritten before everything else is found in order.
    let (input, input_handle) =
        open_input(&args.file).map_err(|error| SetUpError::Input(args.file.clone(), error))?;
    let ring = Ring::new(args.capacity, args.slot_bytes).map_err(SetUpError::Ring)?;
    let output = open_output(&args.out, &input_handle)
        .map_err(|error| SetUpError::Output(args.out.clone(), error))?
        .ok_or_else(|| SetUpError::SameFile(args.out.clone()))?;

    let start = Instant::now();
    let lines = Mutex::new(Lines::new(BufReader::with_capacity(IO_BUFFER, input), args.slot_bytes));
    let pace = Pace::new(match args.on_lag {
        OnLag::Pause => args.capacity / 2,
        OnLag::Drop => u64::MAX,
    });
    let mut writer = ring.reader_from_oldest();
    let mut counter = ring.reader_from_oldest();
    let (published, written, counted) = thread::scope(|scope| {
        let written = scope.spawn(|| write(&mut writer, output, &pace));
        let counted = scope.spawn(|| count(&mut counter));
        let publishers: Vec<_> =
            (0..args.publishers).map(|_| scope.spawn(|| publish(&ring, &lines, &pace))).collect();
        let published = publishers.into_iter().map(join).fold(Published::default(), Published::plus);
        ring.close();
        (published, join(written), join(counted))
    });
    let lines = lines.into_inner();
    Ok(Summary {
        taken: lines.taken,
        published,
        input_failure: lines.failure,
        abandoned: ring.abandoned(),
        written,
        counted,
        may_drop: args.on_lag == OnLag::Drop,
        ring_bytes: ring.memory(),
        time: start.elapsed(),
    })
}

/// The result of a thread, or its panic.
fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Bytes that are read or written at a time.
const IO_BUFFER: usize = 64 * 1024;

fn is_standard(file: &Path) -> bool {
    file.as_os_str() == "-"
}

fn open_input(file: &Path) -> io::Result<(File, Handle)> {
    let handle = if is_standard(file) { Handle::stdin()? } else { Handle::from_file(File::open(file)?)? };
    Ok((handle.as_file().try_clone()?, handle))
}

/// Opens the output and empties it, unless it is the input.
fn open_output(file: &Path, input: &Handle) -> io::Result<Option<File>> {
    let standard = is_standard(file);
    let handle = if standard {
        Handle::stdout()?
    } else {
        Handle::from_file(OpenOptions::new().write(true).create(true).truncate(false).open(file)?)?
    };
    let output = handle.as_file().try_clone()?;
    // A terminal or a null device may well be both.
    if output.metadata()?.is_file() {
        if handle == *input {
            return Ok(None);
        }
        if !standard {
            output.set_len(0)?;
        }
    }
    Ok(Some(output))
}

// ---- The input.

/// The tag of an event whose line ended with a line feed.
const TERMINATED: u16 = 0;
/// The tag of a last line that did not.
const UNTERMINATED: u16 = 1;

/// The lines of the input, handed out one at a time.
struct Lines<R> {
    input: R,
    slot_bytes: usize,
    /// How many were handed out.
    taken: u64,
    ended: bool,
    failure: Option<InputFailure>,
}

/// What a line was, apart from its bytes.
#[derive(Debug, PartialEq)]
struct Line {
    /// The first one has the number 1.
    number: u64,
    /// Its bytes, without the line feed.
    len: usize,
    tag: u16,
}

/// The input could not be read to its end.
struct InputFailure {
    line: u64,
    /// How many bytes of that line had been read.
    lost: usize,
    error: io::Error,
}

impl<R: BufRead> Lines<R> {
    fn new(input: R, slot_bytes: usize) -> Self {
        Self { input, slot_bytes, taken: 0, ended: false, failure: None }
    }

    /// Reads the next line into `bytes`: as much of it as a slot holds, so that no line can take all memory.
    fn next(&mut self, bytes: &mut Vec<u8>) -> Option<Line> {
        bytes.clear();
        if self.ended {
            return None;
        }
        let number = self.taken + 1;
        let mut len = 0;
        let tag = loop {
            let buffer = match self.input.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.ended = true;
                    self.failure = Some(InputFailure { line: number, lost: len, error });
                    return None;
                }
            };
            if buffer.is_empty() {
                self.ended = true;
                break UNTERMINATED;
            }
            let line_feed = memchr::memchr(b'\n', buffer);
            let part = &buffer[..line_feed.unwrap_or(buffer.len())];
            bytes.extend_from_slice(&part[..part.len().min(self.slot_bytes - bytes.len())]);
            len += part.len();
            let used = part.len() + usize::from(line_feed.is_some());
            self.input.consume(used);
            if line_feed.is_some() {
                break TERMINATED;
            }
        };
        if len == 0 && tag == UNTERMINATED {
            return None;
        }
        self.taken = number;
        Some(Line { number, len, tag })
    }
}

/// Holds the input back while the writer is behind.
///
/// A line is under way from when it is taken from the input until it is settled: refused, or read or lost by
/// the writer. While no more than half a ring of lines is under way when another one is taken, there are never
/// more than a whole ring of them, so the writer loses nothing, and no publisher meets another one in a slot.
struct Pace {
    /// How many lines may be under way when another one is taken.
    allowed: u64,
    state: Mutex<PaceState>,
    changed: Condvar,
}

#[derive(Default)]
struct PaceState {
    settled: u64,
    writer_gone: bool,
}

impl Pace {
    fn new(allowed: u64) -> Self {
        Self { allowed, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Waits until another line may be taken. False when there is no use in it, since the writer is gone.
    fn admit(&self, taken: u64) -> bool {
        let mut state = self.state.lock();
        self.changed.wait_while(&mut state, |state| {
            !state.writer_gone && taken.saturating_sub(state.settled) > self.allowed
        });
        !state.writer_gone
    }

    fn settle(&self, lines: u64) {
        self.change(|state| state.settled += lines);
    }

    fn change(&self, change: impl FnOnce(&mut PaceState)) {
        change(&mut self.state.lock());
        // One is enough: whoever waits here has the input, and the others wait for that.
        self.changed.notify_one();
    }
}

/// Tells the publishers that the writer is gone, also when it panics.
struct GoneOnDrop<'a>(&'a Pace);

impl Drop for GoneOnDrop<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.writer_gone = true);
    }
}

/// What publishers did.
#[derive(Clone, Copy, Default)]
struct Published {
    lines: u64,
    bytes: u64,
    too_large: u64,
    stalled: u64,
}

impl Published {
    fn plus(self, other: Self) -> Self {
        Self {
            lines: self.lines + other.lines,
            bytes: self.bytes + other.bytes,
            too_large: self.too_large + other.too_large,
            stalled: self.stalled + other.stalled,
        }
    }

    fn refused(&self) -> u64 {
        self.too_large + self.stalled
    }
}

/// A publisher: one line after another, for as long as there are any and the writer is there.
fn publish<R: BufRead>(ring: &Ring, lines: &Mutex<Lines<R>>, pace: &Pace) -> Published {
    let mut published = Published::default();
    let mut bytes = Vec::new();
    loop {
        let line = {
            let mut lines = lines.lock();
            if !pace.admit(lines.taken) {
                return published;
            }
            match lines.next(&mut bytes) {
                Some(line) => line,
                None => return published,
            }
        };
        let result = if line.len > bytes.len() {
            Err(PublishError::TooLarge { len: line.len, slot_bytes: ring.slot_bytes() })
        } else {
            ring.publish_tagged(line.tag, &bytes)
        };
        match result {
            Ok(_) => {
                published.lines += 1;
                published.bytes += bytes.len() as u64;
                continue;
            }
            Err(PublishError::TooLarge { .. }) => published.too_large += 1,
            // The ring is not closed while there are publishers, so this is a stall.
            Err(_) => published.stalled += 1,
        }
        if let Err(error) = result {
            tell(&format_args!("lapwing: line {} was {error}", line.number));
        }
        pace.settle(1);
    }
}

// ---- The readers.

/// What a reader got and lost.
#[derive(Default)]
struct Tally {
    delivered: u64,
    dropped: u64,
    /// The bytes of the delivered lines, without line feeds.
    bytes: u64,
}

/// The reader that only counts.
fn count(reader: &mut Reader) -> Tally {
    let mut tally = Tally::default();
    loop {
        match reader.read() {
            Ok(Read::Event(event)) => {
                tally.delivered += 1;
                tally.bytes += event.bytes.len() as u64;
            }
            Ok(Read::Dropped(dropped)) => tally.dropped += dropped.count(),
            Err(_) => return tally, // closed: it has no canceller, and no deadline
        }
    }
}

/// What the writer did.
struct Written {
    tally: Tally,
    /// The bytes that the output took.
    bytes: u64,
    failed: bool,
}

/// The reader that writes, until the ring is closed or the output fails.
fn write(reader: &mut Reader, output: impl Write, pace: &Pace) -> Written {
    let _gone = GoneOnDrop(pace);
    let mut tally = Tally::default();
    let mut output = BufWriter::with_capacity(IO_BUFFER, Counted { output, bytes: 0, line_feeds: 0 });
    let result = write_lines(reader, &mut output, pace, &mut tally);
    // Not dropped: that would try to write once more what has just failed.
    let (Counted { bytes, line_feeds, .. }, _unwritten) = output.into_parts();
    if let Err(error) = &result {
        // Now, and not at the end: the input may take its time.
        tell(&format_args!(
            "lapwing: cannot write the output: {error}, after {bytes} bytes with {line_feeds} whole lines; \
             no more lines are taken from the input"
        ));
    }
    Written { tally, bytes, failed: result.is_err() }
}

fn write_lines(
    reader: &mut Reader,
    output: &mut impl Write,
    pace: &Pace,
    tally: &mut Tally,
) -> io::Result<()> {
    // The input is told of progress in steps, or it would go to sleep and be woken for every single line. A step
    // is never more than half a ring: what is left of one when the ring is empty holds nobody back.
    let step = (reader.handle().capacity() / 8).max(1);
    let mut settled = 0;
    let mut last = TERMINATED;
    loop {
        let read = match reader.try_read() {
            Ok(read) => read,
            Err(TryReadError::Closed) => return output.flush(),
            Err(TryReadError::Empty) => {
                output.flush()?;
                match reader.read() {
                    Ok(read) => read,
                    Err(_) => return Ok(()), // closed: it has no canceller, and no deadline
                }
            }
        };
        match read {
            Read::Event(event) => {
                settled += 1;
                tally.delivered += 1;
                tally.bytes += event.bytes.len() as u64;
                if last == UNTERMINATED {
                    output.write_all(b"\n")?;
                }
                output.write_all(event.bytes)?;
                if event.tag == TERMINATED {
                    output.write_all(b"\n")?;
                }
                last = event.tag;
            }
            Read::Dropped(dropped) => {
                settled += dropped.count();
                tally.dropped += dropped.count();
                tell(&format_args!("lapwing: the writer {dropped}"));
            }
        }
        if settled >= step {
            pace.settle(take(&mut settled));
        }
    }
}

/// Counts what the output takes, so that a failure can tell.
struct Counted<W> {
    output: W,
    bytes: u64,
    line_feeds: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.output.write(bytes)?;
        self.bytes += taken as u64;
        self.line_feeds += memchr::memchr_iter(b'\n', &bytes[..taken]).count() as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

// ---- The end.

/// What became of the lines.
struct Summary {
    taken: u64,
    published: Published,
    input_failure: Option<InputFailure>,
    /// Numbers that publishers gave up; readers count them as dropped.
    abandoned: u64,
    written: Written,
    counted: Tally,
    may_drop: bool,
    ring_bytes: usize,
    time: Duration,
}

impl Summary {
    fn is_complete(&self) -> bool {
        self.input_failure.is_none()
            && self.published.refused() == 0
            && !self.written.failed
            && (self.may_drop || self.written.tally.dropped == 0)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { taken, published, input_failure, abandoned, written, counted, .. } = self;
        writeln!(f, "input: {taken} lines")?;
        writeln!(f, "published: {} lines, {} bytes", published.lines, published.bytes)?;
        writeln!(f, "refused: {} too large, {} stalled", published.too_large, published.stalled)?;
        writeln!(f, "given up: {abandoned} numbers, which readers count as dropped")?;
        for (name, tally) in [("writer", &written.tally), ("counter", counted)] {
            let Tally { delivered, dropped, bytes } = tally;
            writeln!(f, "{name}: {delivered} delivered, {dropped} dropped, {bytes} bytes")?;
        }
        writeln!(f, "output: {} bytes", written.bytes)?;
        writeln!(f, "ring: {} bytes of memory", self.ring_bytes)?;
        write!(f, "time: {:.3} s", self.time.as_secs_f64())?;
        if let Some(InputFailure { line, lost, error }) = input_failure {
            write!(f, "\nlapwing: cannot read the input: {error}, at line {line}, ")?;
            write!(f, "of which {lost} bytes were read and not published")?;
        }
        if !self.is_complete() {
            write!(f, "\nlapwing: not every line of the input is in the output, see above")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every line of `input`, by way of a buffer of `buffer` bytes.
    fn lines_of(
        input: impl io::Read,
        buffer: usize,
        slot_bytes: usize,
    ) -> (Vec<(Line, Vec<u8>)>, Option<InputFailure>) {
        let mut lines = Lines::new(BufReader::with_capacity(buffer, input), slot_bytes);
        let mut found = Vec::new();
        let mut bytes = Vec::new();
        while let Some(line) = lines.next(&mut bytes) {
            found.push((line, bytes.clone()));
        }
        (found, lines.failure)
    }

    #[test]
    fn a_line_is_kept_up_to_the_slot_and_measured_to_its_end() {
        let input = b"four\n\nfive5\nsixsix\r\nlongest";
        let line = |number, len, tag, kept: &[u8]| (Line { number, len, tag }, kept.to_vec());
        for buffer in 1..=input.len() {
            let (found, failure) = lines_of(&input[..], buffer, 5);
            let expected = [
                line(1, 4, TERMINATED, b"four"),
                line(2, 0, TERMINATED, b""),
                line(3, 5, TERMINATED, b"five5"),
                line(4, 7, TERMINATED, b"sixsi"),
                line(5, 7, UNTERMINATED, b"longe"),
            ];
            assert_eq!(found, expected, "with a buffer of {buffer}");
            assert!(failure.is_none());
        }
    }

    /// Gives its bytes one at a time, each after an interruption, and then fails.
    struct Failing<'a> {
        bytes: &'a [u8],
        interrupted: bool,
    }

    impl io::Read for Failing<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            self.interrupted = !self.interrupted;
            if self.interrupted {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let Some((first, rest)) = self.bytes.split_first() else {
                return Err(io::ErrorKind::ConnectionReset.into());
            };
            self.bytes = rest;
            out[0] = *first;
            Ok(1)
        }
    }

    #[test]
    fn a_failing_input_gives_its_whole_lines_and_tells_where_it_failed() {
        let (found, failure) = lines_of(Failing { bytes: b"one\ntwo\nthr", interrupted: false }, 64, 100);
        assert_eq!(found.len(), 2);
        let failure = failure.expect("the failure is kept");
        assert_eq!((failure.line, failure.lost), (3, 3));
        assert_eq!(failure.error.kind(), io::ErrorKind::ConnectionReset);
    }
}
