//! The shape: every scanner against the portable one, and against its slow twin and `serde_json`.
#![no_main]

use lapwing::truncate::Shape;
use libfuzzer_sys::fuzz_target;

#[path = "../../tests/truncate/checks.rs"]
mod checks;

fuzz_target!(|data: &[u8]| {
    checks::fuzz_json(
        data,
        |json, max, kind| {
            let marker = ["", "…", "…[{}]", "{}"][usize::from(kind % 4)];
            let protected = [&[][..], &["a"], &["", "a", "😀"]][usize::from(kind / 4 % 3)];
            checks::shape_of_valid(json, [max], marker, protected);
        },
        |json, max| {
            checks::shape_of_anything(json, max, Shape::new());
            checks::shape_of_anything(json, max, Shape::new().protect(&["a", "/a/0", "/1"]));
        },
    );
});
