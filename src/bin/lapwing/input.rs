//! Lines of input, in blocks: a publisher takes many lines at a time, so that several of them seldom meet.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::mem::take;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::stop::Stop;

/// Bytes that are read at a time.
const READ: usize = 256 << 10;
/// The most bytes of a line. What is longer is refused, and never held in memory as a whole.
pub const MAX_LINE: usize = 16 << 20;
/// The pause between two looks at a file that does not grow.
const FOLLOW_PAUSE: Duration = Duration::from_millis(50);

/// Whole lines.
#[derive(Default)]
pub struct Block {
    bytes: Vec<u8>,
    /// The number of the first line. The first one of an input has 1.
    first: u64,
    /// A line that was too long, before the others: how many bytes it has.
    too_long: Option<u64>,
}

impl Block {
    /// The lines, without their line feeds, and their numbers.
    pub fn lines(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let whole = self.bytes.strip_suffix(b"\n").unwrap_or(&self.bytes);
        let mut rest = (!self.bytes.is_empty()).then_some(whole);
        let first = self.first + u64::from(self.too_long.is_some());
        (first..).map_while(move |number| {
            let bytes = rest?;
            let end = memchr::memchr(b'\n', bytes);
            rest = end.map(|end| &bytes[end + 1..]);
            Some((number, &bytes[..end.unwrap_or(bytes.len())]))
        })
    }

    /// The number of a line that came before the others and is left out, since it has more than [`MAX_LINE`] bytes; and how many it has.
    pub fn too_long(&self) -> Option<(u64, u64)> {
        self.too_long.map(|bytes| (self.first, bytes))
    }

    fn count(&self) -> u64 {
        let ends = memchr::memchr_iter(b'\n', &self.bytes).count();
        let open = !self.bytes.is_empty() && !self.bytes.ends_with(b"\n");
        ends as u64 + u64::from(open) + u64::from(self.too_long.is_some())
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.too_long = None;
    }

    /// Puts a line behind the others.
    pub fn push(&mut self, number: u64, line: &[u8]) {
        if self.bytes.is_empty() {
            self.first = number;
        }
        self.bytes.extend_from_slice(line);
        self.bytes.push(b'\n');
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// Where publishers get their lines.
pub trait Source: Send {
    /// Takes the next lines. False when there are none, and there will not be any.
    ///
    /// # Errors
    ///
    /// Something was lost here, which the message says. What was read before has been taken, and there may be more.
    fn next(&mut self, block: &mut Block) -> Result<bool, String>;
}

/// The lines of a file, a pipe or a socket.
pub struct Lines<R> {
    input: R,
    /// The beginning of a line of which the end was not read yet.
    carry: Vec<u8>,
    /// The bytes of the line being read that were thrown away, since it is too long.
    skipped: u64,
    next_line: u64,
    ended: bool,
}

impl<R> Lines<R> {
    pub fn new(input: R) -> Self {
        Self { input, carry: Vec::new(), skipped: 0, next_line: 1, ended: false }
    }
}

impl<R: Read + Send> Source for Lines<R> {
    fn next(&mut self, block: &mut Block) -> Result<bool, String> {
        block.clear();
        block.bytes.append(&mut self.carry);
        while !self.ended {
            let known = block.bytes.len();
            block.bytes.resize(known + READ, 0);
            let read = self.input.read(&mut block.bytes[known..]);
            block.bytes.truncate(known + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => self.ended = true,
                Ok(_) => {
                    let Some(end) = memchr::memrchr(b'\n', &block.bytes[known..]) else {
                        if block.bytes.len() > MAX_LINE {
                            self.skipped += block.bytes.len() as u64;
                            block.bytes.clear();
                        }
                        continue;
                    };
                    self.carry.extend_from_slice(&block.bytes[known + end + 1..]);
                    block.bytes.truncate(known + end + 1);
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.ended = true;
                    let lost = take(&mut block.bytes).len() as u64 + take(&mut self.skipped);
                    let mut message = format!("line {} cannot be read: {error}", self.next_line);
                    if lost > 0 {
                        message += &format!(", after {lost} bytes, which were not published");
                    }
                    return Err(message);
                }
            }
        }
        // Only the first line can be too long, for a read brings less than that.
        let end = memchr::memchr(b'\n', &block.bytes);
        let len = take(&mut self.skipped) + end.unwrap_or(block.bytes.len()) as u64;
        if len > MAX_LINE as u64 {
            block.too_long = Some(len);
            block.bytes.drain(..end.map_or(block.bytes.len(), |end| end + 1));
        }
        block.first = self.next_line;
        let count = block.count();
        self.next_line += count;
        Ok(count > 0)
    }
}

/// A file that grows: at its end, more is waited for. One that was cut back is read from its beginning, and so is one that has taken
/// its place.
pub struct Follow {
    path: PathBuf,
    file: File,
    at: u64,
    stop: Arc<Stop>,
}

impl Follow {
    pub fn open(path: &Path, stop: Arc<Stop>) -> io::Result<Self> {
        Ok(Self { path: path.into(), file: File::open(path)?, at: 0, stop })
    }

    /// Whether there is another file at the path by now.
    fn replacement(&self) -> Option<File> {
        let file = File::open(&self.path).ok()?;
        let (new, old) =
            (same_file::Handle::from_file(file.try_clone().ok()?).ok()?, self.file.try_clone().ok()?);
        (new != same_file::Handle::from_file(old).ok()?).then_some(file)
    }
}

impl Read for Follow {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.file.read(buffer)?;
            self.at += read as u64;
            if read > 0 || self.stop.is_stopped() {
                return Ok(read);
            }
            if let Some(file) = self.replacement() {
                crate::tell!("{} is another file now, which is read from its beginning", self.path.display());
                (self.file, self.at) = (file, 0);
                continue;
            }
            if self.file.metadata()?.len() < self.at {
                crate::tell!("{} was cut back; it is read from its beginning", self.path.display());
                self.file.seek(SeekFrom::Start(0))?;
                self.at = 0;
                continue;
            }
            self.stop.sleep(FOLLOW_PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes so many at a time, each time after an interruption, and then ends, or fails.
    struct Slow<'a> {
        bytes: &'a [u8],
        at_a_time: usize,
        fails: bool,
        interrupted: bool,
    }

    impl Read for Slow<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            self.interrupted = !self.interrupted;
            if self.interrupted {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if self.bytes.is_empty() && self.fails {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            let (now, rest) = self.bytes.split_at(self.at_a_time.min(out.len()).min(self.bytes.len()));
            out[..now.len()].copy_from_slice(now);
            self.bytes = rest;
            Ok(now.len())
        }
    }

    type Found = (Vec<(u64, Vec<u8>)>, Vec<(u64, u64)>, Vec<String>);

    /// Every line with its number, those that are too long with their lengths, and what was told.
    fn lines_of(bytes: &[u8], at_a_time: usize, fails: bool) -> Found {
        let mut source = Lines::new(Slow { bytes, at_a_time, fails, interrupted: false });
        let (mut block, mut found) = (Block::default(), Found::default());
        loop {
            match source.next(&mut block) {
                Ok(true) => {
                    found.1.extend(block.too_long());
                    found.0.extend(block.lines().map(|(number, line)| (number, line.to_vec())));
                }
                Ok(false) => return found,
                Err(message) => found.2.push(message),
            }
        }
    }

    #[test]
    fn lines_and_their_numbers_do_not_depend_on_how_they_come() {
        let input = b"four\n\nfive5\nsixsix\r\n\n\nlongest\nend";
        for at_a_time in 1..=input.len() {
            let (lines, too_long, told) = lines_of(input, at_a_time, false);
            let expected: [&[u8]; 8] = [b"four", b"", b"five5", b"sixsix\r", b"", b"", b"longest", b"end"];
            assert!(
                lines.iter().map(|(number, line)| (*number, &line[..])).eq((1..).zip(expected)),
                "{at_a_time} at a time: {lines:?}"
            );
            assert!(too_long.is_empty() && told.is_empty());
        }
        assert_eq!(lines_of(b"", 1, false), Found::default());
        assert_eq!(lines_of(b"\n", 1, false).0, [(1, vec![])]);
    }

    #[test]
    fn a_line_too_long_is_left_out_and_measured() {
        let long = vec![b'x'; MAX_LINE + 5];
        for at_a_time in [1 << 16, 100_003, READ] {
            let (lines, too_long, told) =
                lines_of(&[b"one\n", &long[..], b"\nthree\n", &long[..]].concat(), at_a_time, false);
            let lens: Vec<_> = lines.iter().map(|(number, line)| (*number, line.len())).collect();
            assert_eq!(lens, [(1, 3), (3, 5)]);
            assert_eq!(too_long, [(2, long.len() as u64), (4, long.len() as u64)]);
            assert!(told.is_empty());
        }
    }

    #[test]
    fn a_failing_input_gives_its_whole_lines_and_tells_where_it_failed() {
        for at_a_time in 1..20 {
            let (lines, _, told) = lines_of(b"one\ntwo\nthr", at_a_time, true);
            assert_eq!(lines, [(1, b"one".to_vec()), (2, b"two".to_vec())]);
            let [message] = &told[..] else { panic!("{told:?}") };
            assert!(message.starts_with("line 3 cannot be read: "), "{message}");
            assert!(message.ends_with(", after 3 bytes, which were not published"), "{message}");
        }
    }
}
