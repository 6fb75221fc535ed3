//! The input of `lapwing relay`: every line is there once, with its number, however the bytes come and where they fail.
#![no_main]

use std::io::{self, Read};

use libfuzzer_sys::fuzz_target;

#[path = "../../src/bin/lapwing/main.rs"]
#[allow(dead_code, unused_imports)] // all but one part
mod command;
use command::*; // its parts name each other from the root

use input::{Block, Lines, Source};

/// Gives its bytes so many at a time, each time after an interruption, and then ends, or fails.
struct Slow<'a> {
    bytes: &'a [u8],
    steps: std::iter::Cycle<std::slice::Iter<'a, u8>>,
    fails: bool,
}

impl Read for Slow<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let step = usize::from(*self.steps.next().expect("they do not end"));
        if step == 0 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if self.bytes.is_empty() && self.fails {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        self.bytes.read(&mut out[..step])
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((steps, bytes)) = data.split_at_checked(4) else { return };
    let fails = steps[0] % 2 == 1;
    let steps = if steps.iter().all(|step| *step == 0) { &[1] } else { steps };
    let mut source = Lines::new(Slow { bytes, steps: steps.iter().cycle(), fails });
    let (mut block, mut lines, mut told) = (Block::default(), Vec::new(), Vec::new());
    loop {
        match source.next(&mut block) {
            Ok(true) => lines.extend(block.lines().map(|(number, line)| (number, line.to_vec()))),
            Ok(false) => break,
            Err(message) => told.push(message),
        }
    }
    let mut expected: Vec<_> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    // The line behind the last line feed: none, or one that did not come to its end.
    let last = expected.pop().expect("there is one");
    let lost = if fails { last.len() } else { 0 };
    expected.extend((!fails && !last.is_empty()).then_some(last));
    assert!(lines.into_iter().eq((1..).zip(expected)));
    assert_eq!(told.len(), usize::from(fails));
    assert!(
        lost == 0 || told[0].ends_with(&format!("after {lost} bytes, which were not published")),
        "{told:?}"
    );
});
