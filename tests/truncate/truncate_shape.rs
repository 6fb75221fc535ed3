use crate::{checks, documents};
use lapwing::truncate::{self, Error, Shape, Stage, Truncation};
use proptest::prelude::*;

/// `json` in `max` bytes, and what was done to it.
fn cut_with(shape: Shape, json: &str, max: usize) -> (String, Truncation) {
    let mut out = Vec::new();
    let report = shape
        .truncate(json.as_bytes(), max, &mut out)
        .expect("the budget holds null")
        .expect("it is too long");
    (String::from_utf8(out).expect("valid UTF-8 in, valid UTF-8 out"), report)
}

fn cut(json: &str, max: usize) -> (String, Stage, Option<usize>, Option<usize>) {
    let (out, report) = cut_with(Shape::new(), json, max);
    assert_eq!(report.original_len, json.len());
    (out, report.stage, report.string_limit, report.array_limit)
}

#[test]
fn what_fits_is_left_alone() {
    let json = br#"{"a": [1, "two"]} "#;
    let mut out = b"kept".to_vec();
    assert_eq!(truncate::shape(json, json.len(), &mut out), Ok(None));
    assert_eq!(out, b"kept");
    assert_eq!(truncate::shape(json, 3, &mut out), Err(Error::BudgetTooSmall { max: 3 }));
    assert_eq!(out, b"kept");
}

#[test]
fn the_longest_strings_are_shortened_first() {
    let json = r#"{"a":"1234567890","b":"12345","c":"1234567"}"#;
    let expect = |text: &str, limit| (text.to_string(), Stage::Strings, Some(limit), None);
    assert_eq!(cut(json, json.len() - 1), expect(r#"{"a":"123456789","b":"12345","c":"1234567"}"#, 9));
    assert_eq!(cut(json, json.len() - 4), expect(r#"{"a":"123456","b":"12345","c":"123456"}"#, 6));
    assert_eq!(cut(json, json.len() - 10), expect(r#"{"a":"1234","b":"1234","c":"1234"}"#, 4));
    assert_eq!(cut(json, json.len() - 22), expect(r#"{"a":"","b":"","c":""}"#, 0));
    assert_eq!(cut(json, json.len() - 23).1, Stage::Tail);
}

#[test]
fn then_arrays_are_capped_and_strings_get_what_is_left() {
    let numbers = r#"{"n":[1,2,3,4,5,6,7,8,9],"m":[[1,2,3],[4,5,6]],"k":0}"#;
    let expect = |text: &str, cap| (text.to_string(), Stage::Arrays, None, Some(cap));
    assert_eq!(cut(numbers, 50), expect(r#"{"n":[1,2,3,4,5,6,7],"m":[[1,2,3],[4,5,6]],"k":0}"#, 7));
    assert_eq!(cut(numbers, 40), expect(r#"{"n":[1,2],"m":[[1,2],[4,5]],"k":0}"#, 2));
    assert_eq!(cut(numbers, 25), expect(r#"{"n":[1],"m":[[1]],"k":0}"#, 1));
    assert_eq!(cut(numbers, 24), expect(r#"{"n":[],"m":[],"k":0}"#, 0));
    assert_eq!(cut(numbers, 20).1, Stage::Tail);

    let text = "x".repeat(100);
    let json = format!(r#"[{{"t":"{text}","n":1}},{{"t":"{text}","n":2}},{}]"#, vec!["77"; 1000].join(","));
    let (out, stage, strings, arrays) = cut(&json, 600);
    assert_eq!((stage, strings), (Stage::Arrays, Some(64)));
    assert!(
        out.len() > 597 && arrays > Some(100),
        "one more element of 3 bytes would fit: {} {arrays:?}",
        out.len()
    );
    let json = json.replace("77", r#"{"a":1}"#);
    let (out, _, strings, arrays) = cut(&json, 163);
    assert_eq!(out, format!(r#"[{{"t":"{0}","n":1}},{{"t":"{0}","n":2}}]"#, "x".repeat(66)));
    assert_eq!((strings, arrays), (Some(66), Some(2)));
}

#[test]
fn keys_and_numbers_are_never_shortened() {
    let key = "k".repeat(200);
    let json = format!(r#"{{"{key}":12345678901234567890,"s" : "123456789"}}"#);
    let (out, stage, ..) = cut(&json, json.len() - 5);
    assert_eq!((out, stage), (json.replace("56789\"}", "\"}"), Stage::Strings));
    assert_eq!(cut(&json, json.len() - 10).0, format!(r#"{{"{key}":12345678901234567890}}"#), "the tail cut");
}

#[test]
fn duplicate_keys_and_spelling_are_kept() {
    let json = r#"{ "a" : 1.0e+2 , "a" : "\u0041bcdefghij" , "a" : -0 }"#;
    assert_eq!(cut(json, json.len() - 3).0, r#"{ "a" : 1.0e+2 , "a" : "\u0041bcdefg" , "a" : -0 }"#);
    assert_eq!(
        cut(json, json.len() - 10).0,
        r#"{ "a" : 1.0e+2 , "a" : "" , "a" : -0 }"#,
        "the escape stays whole"
    );
}

#[test]
fn the_marker_counts_and_says_how_much_is_gone() {
    let json = format!(r#"{{"a":"{}","b":1}}"#, "0123456789".repeat(30));
    let shape = Shape::new().marker("…[{} bytes]").unwrap();
    let (out, report) = cut_with(shape, &json, 60);
    assert_eq!(out.len(), 60);
    assert_eq!(report.string_limit, Some(46));
    assert_eq!(out, r#"{"a":"01234567890123456789012345678901…[268 bytes]","b":1}"#);
    let plain = Shape::new().marker("…").unwrap();
    assert_eq!(cut_with(plain, &json, 17).0, r#"{"a":"…","b":1}"#);
    assert_eq!(cut_with(plain, &json, 16).0, r#"{"a":"","b":1}"#, "no prefix of the marker has two bytes");
}

#[test]
fn a_marker_that_would_break_the_string_is_refused() {
    for (marker, at) in [("\"", 0), ("a\\", 1), ("..\n", 2), ("…\u{1f}", 3)] {
        assert_eq!(Shape::new().marker(marker).unwrap_err(), Error::Marker { at }, "{marker:?}");
    }
    assert!(Shape::new().marker("… {} \u{7f}").is_ok());
}

#[test]
fn protected_values_are_shortened_last() {
    let json =
        r#"{"log":"0123456789","data":{"log":"abcdefghij","list":["klmnopqrst",1,2]},"x":["0123456789"]}"#;
    let with = |names, max| cut_with(Shape::new().protect(names), json, max).0;
    assert_eq!(
        with(&["data"], json.len() - 10),
        r#"{"log":"01234","data":{"log":"abcdefghij","list":["klmnopqrst",1,2]},"x":["01234"]}"#
    );
    assert_eq!(
        with(&["/data/log", "/x"], json.len() - 10),
        r#"{"log":"01234","data":{"log":"abcdefghij","list":["klmno",1,2]},"x":["0123456789"]}"#
    );
    assert_eq!(
        with(&["/data/list/0", "log"], json.len() - 10),
        r#"{"log":"0123456789","data":{"log":"abcdefghij","list":["klmnopqrst",1,2]},"x":[""]}"#
    );
    assert_eq!(
        with(&["/data"], json.len() - 22),
        r#"{"log":"","data":{"log":"abcdefghij","list":["klmnopqrst",1,2]},"x":[]}"#,
        "arrays that are not protected go before protected strings"
    );
    assert_eq!(
        with(&["data"], json.len() - 32),
        r#"{"log":"","data":{"log":"abcde","list":["klmno",1,2]},"x":[]}"#
    );
}

#[test]
fn a_pointer_is_unescaped_and_a_name_is_not() {
    let json = r#"{"a/b":"0123456789","~":"0123456789","/x":"0123456789","x":"0123456789"}"#;
    let with = |names| cut_with(Shape::new().protect(names), json, json.len() - 20).0;
    assert_eq!(with(&["/a~1b", "/~0"]), r#"{"a/b":"0123456789","~":"0123456789","/x":"","x":""}"#);
    assert_eq!(with(&["/x"]), r#"{"a/b":"012","~":"012","/x":"012","x":"0123456789"}"#);
}

#[test]
fn strings_and_arrays_are_shortened_at_any_depth() {
    let deep = |inner: &str| "[".repeat(1000) + inner + &"]".repeat(1000);
    let json = deep("1,2,3");
    assert_eq!(cut(&json, json.len() - 2), (deep("1,2"), Stage::Arrays, None, Some(2)));
    let json = deep("\"0123456789\"");
    assert_eq!(cut(&json, json.len() - 2).0, deep("\"01234567\""));
    assert_eq!(cut(&json.replace('[', "{\"\":").replace(']', "}"), 500).1, Stage::Tail);
}

/// Found by fuzzing: the search for a string limit began above its end. It takes overflow checks to see it
/// fail.
#[test]
fn arrays_without_strings_in_a_small_budget() {
    assert_eq!(cut("[[],[],[]]", 5), ("[[]]".into(), Stage::Arrays, None, Some(1)));
}

/// More bytes are in strings than there are bytes. It takes overflow checks to see it fail.
#[test]
fn a_string_that_is_not_closed() {
    assert!(checks::shape_of_anything(b"\"abcdef", 5, Shape::new()).is_some());
}

#[test]
fn the_budget_decides_between_shape_and_tail() {
    let json = format!(r#"{{"a":"{}","b":1}}"#, "x".repeat(5000));
    let stage = |max| truncate::json(json.as_bytes(), max, &mut Vec::new()).unwrap().unwrap().stage;
    assert_eq!((stage(truncate::SHAPE_FROM - 1), stage(truncate::SHAPE_FROM)), (Stage::Tail, Stage::Strings));
}

#[test]
#[cfg(target_pointer_width = "64")]
fn four_gib_are_refused() {
    let huge = vec![0; 1 << 32];
    let mut out = Vec::new();
    assert_eq!(truncate::shape(&huge, 100, &mut out), Err(Error::InputTooLarge { len: 1 << 32 }));
    assert!(out.is_empty());
}

#[test]
fn strings_of_every_length() {
    for length in (0..200).step_by(1) {
        for piece in ["a", "\\\\", "語"] {
            let json = format!(r#"{{"k":"{0}","l":["{0}",1],"{0}":2}}"#, piece.repeat(length));
            checks::shape_of_valid(json.as_bytes(), (4..json.len()).rev().step_by(13), "", &[]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 16 } else { 300 }))]

    #[test]
    fn documents(json in documents::document(), offset in 0usize..37, marker in prop::sample::select(vec!["", "", "…", "…[{}]", "{} of {}"])) {
        checks::shape_of_valid(json.as_bytes(), (offset..=json.len()).step_by(37), marker, &[]);
    }

    #[test]
    fn documents_with_protected_keys(json in documents::document(), offset in 0usize..37) {
        checks::shape_of_valid(json.as_bytes(), (offset..=json.len()).step_by(37), "…", &["a", "id", "deep"]);
        checks::shape_of_valid(json.as_bytes(), (offset..=json.len()).step_by(37), "", &["b", ""]);
    }

    #[test]
    fn anything_at_all(bytes in prop::collection::vec(prop::sample::select(&b"\\\\\"\"{}[],: aud8D\n\xc3\xa9\xff1"[..]), 0..300)) {
        for max in (0..=bytes.len()).step_by(7) {
            checks::shape_of_anything(&bytes, max, Shape::new());
            checks::shape_of_anything(&bytes, max, Shape::new().marker("…{}").unwrap().protect(&["a", "/0", "/a/1"]));
        }
    }
}

#[test]
fn corpora() {
    let (mut valid, mut invalid) = (0, 0);
    for (name, json) in documents::corpora() {
        eprintln!("{name}");
        let budgets = documents::budgets(json.len(), 100);
        if checks::accepted(&json) {
            valid += 1;
            let few = json.len() / 10_000 + 1;
            checks::shape_of_valid(&json, budgets.step_by(few), "", &[]);
        } else {
            invalid += 1;
            budgets.for_each(|max| drop(checks::shape_of_anything(&json, max, Shape::new())));
        }
    }
    println!("{valid} accepted and {invalid} rejected files");
    assert!(valid > 100 && invalid > 180, "{valid} accepted and {invalid} rejected files");
}

#[test]
fn recorded_events() {
    documents::for_recorded_events(|event, budgets| {
        checks::shape_of_valid(event, budgets, "…[{} bytes]", &[])
    });
}
