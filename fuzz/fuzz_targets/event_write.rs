//! Events of all kinds, written as `serde_json` writes them, and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/event/checks.rs"]
#[allow(dead_code)] // what only the other target needs
mod checks;

fuzz_target!(|data: &[u8]| checks::writing(&checks::event(data)));
