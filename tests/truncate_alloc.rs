//! Truncation in memory that is reused takes none after warm-up: counted by an allocator.

mod alloc;

use alloc::{calls, calls_so_far};
use lapwing::truncate::{self, Scratch, Shape, Stage};

struct Document {
    name: &'static str,
    json: String,
    max: usize,
    /// The stage that it must come to, and whether strings and arrays were shortened.
    stage: Stage,
    limits: [bool; 2],
}

fn documents() -> [Document; 6] {
    let list = |piece: &str, count| vec![piece; count].join(",");
    let body = "aGVsbG8=".repeat(1000);
    let deep = format!("{}0{}", r#"{"a":[1,["#.repeat(30), "]]}".repeat(30));
    let keys: Vec<_> = (0..200).map(|i| format!(r#""key {i}":{i}"#)).collect();
    let document = |name, json, max, stage, limits| Document { name, json, max, stage, limits };
    [
        document("a long string", format!(r#"{{"png":"{body}"}}"#), 4000, Stage::Strings, [true, false]),
        document(
            "many small strings",
            format!("[{}]", list(r#"{"text":"some words and a few more"}"#, 300)),
            7000,
            Stage::Strings,
            [true, false],
        ),
        document(
            "arrays",
            format!(r#"{{"rows":[{}]}}"#, list("[1,2,{}]", 500)),
            2000,
            Stage::Arrays,
            [false, true],
        ),
        document(
            "strings and arrays, both with nothing left",
            format!(r#"{{"rows":[{}],{}}}"#, list("1", 500), list(r#""key":"a word""#, 100)),
            1200,
            Stage::Arrays,
            [true, true],
        ),
        document("deep nesting", deep, 150, Stage::Arrays, [false, true]),
        document(
            "keys, of which some are too much",
            format!("{{{}}}", keys.join(",")),
            1000,
            Stage::Tail,
            [false, false],
        ),
    ]
}

#[test]
fn keeping_the_shape() {
    let (mut shared, mut out) = (Scratch::new(), Vec::new());
    let mut truncate = |scratch: &mut Scratch, Document { name, json, max, stage, limits }: &Document| {
        out.clear();
        let report = Shape::new().truncate_reusing(scratch, json.as_bytes(), *max, &mut out);
        let report = report.expect("the budget is enough").expect("it is too long");
        let shortened = [report.string_limit.is_some(), report.array_limit.is_some()];
        assert_eq!((report.stage, shortened), (*stage, *limits), "{name}");
    };
    let documents = documents();
    for document in &documents {
        assert_ne!(calls(|| truncate(&mut Scratch::new(), document)), 0, "{}", document.name);
        let mut scratch = Scratch::new();
        assert_eq!(calls(|| truncate(&mut scratch, document)), 0, "{}", document.name);
    }
    let all = || documents.iter().for_each(|document| truncate(&mut shared, document));
    assert_eq!(calls(all), 0, "one after the other");
}

#[test]
fn what_fits_or_cannot_be_done() {
    // Not even the first time.
    let before = calls_so_far();
    let (mut scratch, mut out) = (Scratch::new(), Vec::new());
    let shape = Shape::new();
    assert_eq!(shape.truncate_reusing(&mut scratch, b"[1,2]", 5, &mut out), Ok(None));
    assert!(shape.truncate_reusing(&mut scratch, b"[1,2]", 3, &mut out).is_err());
    assert_eq!(calls_so_far() - before, 0);
}

#[test]
fn cutting_the_end_off() {
    let mut out = Vec::new();
    for Document { name, json, max, .. } in documents() {
        let into = || {
            out.clear();
            assert!(truncate::tail_into(json.as_bytes(), max, &mut out).is_ok_and(|report| report.is_some()));
        };
        assert_eq!(calls(into), 0, "{name}");
        // Not even the first time.
        let mut in_place = json.into_bytes();
        let before = calls_so_far();
        assert!(truncate::tail_in_place(&mut in_place, max).is_ok_and(|report| report.is_some()));
        assert_eq!(calls_so_far() - before, 0, "{name}");
        assert_eq!(in_place, out, "{name}");
    }
}
