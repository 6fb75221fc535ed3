//! What is accepted as an event: any bytes, and what is grown from them, against `serde_json`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/event/checks.rs"]
#[allow(dead_code)] // what only the other target needs
mod checks;

fuzz_target!(|data: &[u8]| {
    match data {
        [kind, rest @ ..] if kind % 2 == 0 => checks::validation(rest),
        _ => checks::validation(checks::grow(data).as_bytes()),
    };
});
