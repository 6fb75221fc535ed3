use crate::{checks, documents};
use lapwing::truncate::{Error, MAX_DEPTH, Stage, tail, tail_in_place, tail_into};
use proptest::prelude::*;

/// `json` cut to `max` bytes.
fn cut(json: &str, max: usize) -> String {
    let mut bytes = json.as_bytes().to_vec();
    tail_in_place(&mut bytes, max).expect("the budget holds null");
    String::from_utf8(bytes).expect("valid UTF-8 in, valid UTF-8 out")
}

/// The result at every budget from the whole down to `null`, without repetitions.
fn ladder(json: &str) -> Vec<String> {
    let mut steps: Vec<String> = (4..=json.len()).rev().map(|max| cut(json, max)).collect();
    steps.dedup();
    steps
}

#[test]
fn what_fits_is_left_alone() {
    let json = r#"{"a": [1, 2]} "#;
    assert_eq!(cut(json, json.len()), json);
    assert_eq!(cut(json, json.len() - 1), r#"{"a": [1, 2]}"#);
    assert_eq!(tail(json.as_bytes(), json.len()), Ok(None));
    let mut out = b"kept".to_vec();
    assert_eq!(tail_into(json.as_bytes(), json.len(), &mut out), Ok(None));
    assert_eq!(out, b"kept");
}

#[test]
fn a_key_goes_with_its_value() {
    assert_eq!(ladder(r#"{"a":1,"bc":22}"#), [r#"{"a":1,"bc":22}"#, r#"{"a":1}"#, "{}"]);
    assert_eq!(
        ladder(r#"{"a" : [ ] , "b" : "x" }"#),
        [
            r#"{"a" : [ ] , "b" : "x" }"#,
            r#"{"a" : [ ] , "b" : "x"}"#,
            r#"{"a" : [ ] , "b" : ""}"#,
            r#"{"a" : [ ]}"#,
            r#"{"a" : []}"#,
            "{}"
        ]
    );
}

#[test]
fn numbers_and_literals_are_not_shortened() {
    assert_eq!(ladder("[123,-4.5e6,true]"), ["[123,-4.5e6,true]", "[123,-4.5e6]", "[123]", "[]"]);
    assert_eq!(ladder("1234567"), ["1234567", "null"]);
    assert_eq!(ladder("1234567   "), ["1234567   ", "1234567", "null"]);
    assert_eq!(ladder("   false"), ["   false", "null"]);
}

#[test]
fn no_comma_dangles_and_nothing_is_lost_before_it() {
    assert_eq!(ladder("[[],[],[]]"), ["[[],[],[]]", "[[],[]]", "[[]]"]);
    assert_eq!(cut("[1,2 , 3]", 8), "[1,2]");
}

#[test]
fn escapes_and_surrogate_pairs_are_not_split() {
    assert_eq!(
        ladder(r#""a\n\\\"b""#),
        [r#""a\n\\\"b""#, r#""a\n\\\"""#, r#""a\n\\""#, r#""a\n""#, r#""a""#]
    );
    assert_eq!(ladder(r#"["\ud83d\ude00"]"#), [r#"["\ud83d\ude00"]"#, r#"[""]"#]);
    assert_eq!(ladder(r#"["\uD83D\uDE00"]"#), [r#"["\uD83D\uDE00"]"#, r#"[""]"#]);
    assert_eq!(ladder(r#"["😀"]"#), [r#"["😀"]"#, r#"[""]"#]);
}

#[test]
fn an_unpaired_surrogate_is_carried_as_it_is() {
    assert_eq!(ladder(r#"["\ud83d\ud83d"]"#), [r#"["\ud83d\ud83d"]"#, r#"["\ud83d"]"#, r#"[""]"#]);
    assert_eq!(ladder(r#"["\ude00\ud83d"]"#), [r#"["\ude00\ud83d"]"#, r#"["\ude00"]"#, r#"[""]"#]);
    // The first backslash escapes the second: the pair's first half is plain text.
    assert_eq!(cut(r#"["\\ud83d\ude00"]"#, 16), r#"["\\ud83d"]"#);
}

#[test]
fn brackets_in_strings_are_text() {
    assert_eq!(cut(r#"["[{\"}]","b"]"#, 13), r#"["[{\"}]",""]"#);
}

#[test]
fn nesting_is_cut_at_the_limit() {
    let deep = |depth: usize, inner: &str| "[".repeat(depth) + inner + &"]".repeat(depth);
    assert_eq!(cut(&(deep(MAX_DEPTH, "1") + " "), 2 * MAX_DEPTH + 1), deep(MAX_DEPTH, "1"));
    assert_eq!(cut(&deep(MAX_DEPTH + 1, "1"), 2 * MAX_DEPTH + 2), deep(MAX_DEPTH, ""));
    assert_eq!(cut(&deep(100_000, "1"), 100_000), deep(MAX_DEPTH, ""));
    let mut siblings = deep(MAX_DEPTH - 1, "7,[1],[[]],8");
    siblings.push(' ');
    assert_eq!(cut(&siblings, siblings.len() - 1), deep(MAX_DEPTH - 1, "7,[1],[]"));
}

#[test]
fn errors_say_what_was_given_and_touch_nothing() {
    let mut json = b"[1,2]".to_vec();
    for max in 0..4 {
        assert_eq!(tail_in_place(&mut json, max), Err(Error::BudgetTooSmall { max }));
        assert_eq!(json, b"[1,2]");
    }
    assert!(Error::BudgetTooSmall { max: 3 }.to_string().contains("3 bytes"));
    let mut small = b"12".to_vec();
    assert_eq!(tail_in_place(&mut small, 2), Ok(None), "a small budget is enough for what fits");
}

#[test]
#[cfg(target_pointer_width = "64")]
fn four_gib_are_refused() {
    // Zeroed memory that is never touched takes none.
    let huge = vec![0; 1 << 32];
    assert_eq!(tail(&huge, 100), Err(Error::InputTooLarge { len: 1 << 32 }));
    assert_eq!(tail(&huge, usize::MAX), Err(Error::InputTooLarge { len: 1 << 32 }));
    assert!(tail(&huge[1..], 100).is_ok());
}

#[test]
fn the_report_names_the_stage() {
    let mut out = Vec::new();
    let report = tail_into(b"[1,2,3]", 5, &mut out).unwrap().unwrap();
    assert_eq!((out.as_slice(), report.stage, report.original_len), (&b"[1,2]"[..], Stage::Tail, 7));
    let report = tail_into(b"1234567", 5, &mut out).unwrap().unwrap();
    assert_eq!((out.as_slice(), report.stage), (&b"[1,2]null"[..], Stage::Null));
}

#[test]
fn strings_of_every_length_at_every_budget() {
    for length in 0..260 {
        for piece in ["a", "\\\\", "語"] {
            let json = format!(r#"{{"k":"{}","after":[1]}}"#, piece.repeat(length));
            checks::tail_of_valid(json.as_bytes(), json.len().saturating_sub(80)..json.len());
            checks::tail_of_valid(json.as_bytes(), 4..json.len().min(80));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 32 } else { 400 }))]

    #[test]
    fn documents_at_every_budget(json in documents::document()) {
        prop_assert!(checks::accepted(json.as_bytes()));
        checks::tail_of_valid(json.as_bytes(), 0..=json.len());
        let kept = |max| tail(json.as_bytes(), max).unwrap().map_or(json.len(), |cut| cut.keep());
        for max in 4..json.len() {
            prop_assert!(kept(max) <= kept(max + 1), "{} keeps more than {}", max, max + 1);
        }
    }

    #[test]
    fn anything_at_all(bytes in prop::collection::vec(prop::sample::select(&b"\\\\\"\"{}[],: aud8D\n\xc3\xa9\xff1"[..]), 0..300)) {
        for max in 0..=bytes.len() {
            checks::tail_of_anything(&bytes, max);
        }
    }
}

/// Found by fuzzing: a depth below 0 was taken off the budget. It takes overflow checks to see it fail.
#[test]
fn more_brackets_closed_than_opened() {
    for brackets in ["}", "]]", "[]]]"] {
        let json = brackets.to_string() + &"a".repeat(200);
        for max in 4..200 {
            checks::tail_of_anything(json.as_bytes(), max);
        }
    }
}

/// What the fuzz targets grow is valid, and reaches every kind of token.
#[test]
fn grown_documents() {
    proptest!(|(bytes in prop::collection::vec(any::<u8>(), 0..60))| {
        let json = checks::grow(&bytes);
        prop_assert!(checks::accepted(json.as_bytes()), "{}", json);
    });
    assert_eq!(checks::grow(&[1, 0x41, 0, 5, 2, 7, 7, 0, 0]), r#"{"a":{"":0,"":[0,0]}}"#);
}

#[test]
fn corpora() {
    let (mut valid, mut invalid) = (0, 0);
    for (name, json) in documents::corpora() {
        eprintln!("{name}");
        let budgets = documents::budgets(json.len(), 100);
        if checks::accepted(&json) {
            valid += 1;
            checks::tail_of_valid(&json, budgets);
        } else {
            invalid += 1;
            budgets.for_each(|max| drop(checks::tail_of_anything(&json, max)));
        }
    }
    println!("{valid} accepted and {invalid} rejected files");
    assert!(valid > 100 && invalid > 180, "{valid} accepted and {invalid} rejected files");
}

#[test]
fn recorded_events() {
    documents::for_recorded_events(checks::tail_of_valid);
}
