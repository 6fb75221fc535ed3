//! The tail cut: every scanner against the portable one, and against a list of all allowed cuts and
//! `serde_json`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/truncate/checks.rs"]
mod checks;

fuzz_target!(|data: &[u8]| {
    checks::fuzz_json(
        data,
        |json, max, _| checks::tail_of_valid(json, [max]),
        |json, max| drop(checks::tail_of_anything(json, max)),
    );
});
