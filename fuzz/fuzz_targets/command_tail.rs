//! What a server streams to `lapwing tail`: any bytes, however they come. Nothing of it controls the terminal.
#![no_main]

use std::io::Read;

use libfuzzer_sys::fuzz_target;

#[path = "../../src/bin/lapwing/main.rs"]
#[allow(dead_code, unused_imports)] // all but one part
mod command;
use command::*; // its parts name each other from the root

/// Gives so many bytes at a time.
struct Slow<'a>(&'a [u8], usize);

impl Read for Slow<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let len = self.1.min(out.len());
        self.0.read(&mut out[..len])
    }
}

/// Every frame, and whether the rest cannot be read.
fn frames(input: impl Read) -> (Vec<tail::Frame>, bool) {
    let mut stream = tail::Stream::new(input);
    let mut frames = Vec::new();
    loop {
        match stream.next() {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, false),
            Err(error) => {
                assert!(!error.to_string().is_empty());
                return (frames, true);
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let [step, bytes @ ..] = data else { return };
    let (read, failed) = frames(bytes);
    assert_eq!(frames(Slow(bytes, 1 + usize::from(*step))), (frames(bytes).0, failed));
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    assert_eq!(failed, std::str::from_utf8(&bytes[..whole]).is_err());
    for frame in read {
        // Written out, it is the same once more.
        let mut text = format!("event: {}\r\n", frame.event);
        text.extend(frame.id.as_ref().map(|id| format!("id: {id}\r\n")));
        frame.data.split('\n').for_each(|line| text += &format!("data: {line}\r\n"));
        let mut line = String::new();
        let described = tail::describe(&frame.data, &mut line);
        assert!(!line.contains(char::is_control), "{line:?}");
        match described {
            Ok(()) => assert!(serde_json::from_str::<lapwing::event::Envelope>(&frame.data).is_ok()),
            Err(error) => assert!(!error.contains(char::is_control), "{error:?}"),
        }
        assert_eq!(frames((text + "\r\n").as_bytes()), (vec![frame], false));
    }
});
