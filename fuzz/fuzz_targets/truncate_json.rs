//! The choice between the two ways of truncation, with documents long enough for both, and any marker and protected
//! keys.
#![no_main]

use lapwing::truncate::{self, Error, Shape};
use libfuzzer_sys::fuzz_target;

#[path = "../../tests/truncate/checks.rs"]
mod checks;

fuzz_target!(|data: &[u8]| {
    let [low, high, times, kind, rest @ ..] = data else { return };
    let (names, rest) = rest.split_at(rest.len().min(usize::from(kind % 16)));
    let json = if kind & 16 == 0 {
        let one = checks::grow(rest);
        format!("[{}]", vec![one; 1 + usize::from(*times)].join(",")).into_bytes()
    } else {
        rest.repeat(1 + usize::from(*times))
    };
    if json.len() > 100_000 {
        return;
    }
    let max = usize::from(u16::from_le_bytes([*low, *high])) % (json.len() + 3);

    let mut out = b"before ".to_vec();
    let report = truncate::json(&json, max, &mut out);
    let mut expected = b"before ".to_vec();
    let same = if max < truncate::SHAPE_FROM {
        truncate::tail_into(&json, max, &mut expected)
    } else {
        truncate::shape(&json, max, &mut expected)
    };
    assert_eq!((&report, &out), (&same, &expected));
    if matches!(report, Ok(Some(_))) && checks::accepted(&json) {
        assert!(out.len() - 7 <= max && checks::accepted(&out[7..]));
    }

    let names = String::from_utf8_lossy(names);
    let mut names = names.split(',');
    let marker = names.next().unwrap_or_default();
    let protected: Vec<_> = names.collect();
    let cannot_stand = |char: char| matches!(char, '"' | '\\' | '\0'..' ');
    match (Shape::new().marker(marker), marker.find(cannot_stand)) {
        (Ok(shape), None) => drop(checks::shape_of_anything(&json, max, shape.protect(&protected))),
        (Err(error), Some(at)) => assert_eq!(error, Error::Marker { at }),
        (result, at) => panic!("{marker:?} cannot stand at {at:?}: {result:?}"),
    }
    // The slow twin is for what is small, and knows no pointers.
    if json.len() < 2000 && marker.find(cannot_stand).is_none() && checks::accepted(&json) {
        let keys: Vec<_> = protected.into_iter().filter(|name| !name.starts_with('/')).collect();
        checks::shape_of_valid(&json, [max], marker, &keys);
    }
});
