//! Text and markers of all kinds against the definition of a cut.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/truncate/checks.rs"]
mod checks;

fuzz_target!(|data: &[u8]| {
    let [max, split, rest @ ..] = data else { return };
    let (marker, text) = rest.split_at(rest.len().min(usize::from(split % 16)));
    let max = usize::from(*max) % (text.len() + 3);
    checks::utf8_bytes(text, max);
    checks::utf8(&String::from_utf8_lossy(text), max, &String::from_utf8_lossy(marker));
});
