//! Events as their users see them.
#![cfg(feature = "std")]

mod checks;
#[path = "../truncate/documents.rs"]
#[allow(dead_code)] // what only truncation needs
mod documents;

use lapwing::event::{
    Category, Envelope, Event, InvalidReason, Metadata, RawValue, Source, SourceKind, validate,
};
use proptest::prelude::*;
use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::LazyLock;

static TELEMETRY: LazyLock<Vec<u8>> = LazyLock::new(|| documents::telemetry().1);

/// The recorded events.
fn lines() -> impl Iterator<Item = &'static [u8]> {
    TELEMETRY.split(|&byte| byte == b'\n').filter(|line| !line.is_empty())
}

/// Those of at most 4 KiB.
static SHORT: LazyLock<Vec<&[u8]>> = LazyLock::new(|| lines().filter(|line| line.len() <= 4096).collect());

fn minimal() -> Event<'static> {
    Event::new("tick", Category::System, Source::new(SourceKind::LocalProcess))
}

const MINIMAL: &str = r#"{"ts":0,"type":"tick","category":"system","source":{"kind":"local_process"}}"#;

#[test]
fn every_recorded_event_is_written_as_it_was_read() {
    let mut count = 0;
    for line in lines() {
        let event: Event = serde_json::from_slice(line).expect("a recorded event is one of the schema");
        assert!(event.to_json() == line, "{}", String::from_utf8_lossy(line));
        assert!(matches!(event.r#type, Cow::Borrowed(_)) && matches!(event.data, Some(Cow::Borrowed(_))));
        assert!(Category::ALL.contains(&event.category));
        let valid = validate(line).expect("a recorded event is one of the schema");
        assert_eq!((valid.r#type(), valid.category()), (event.r#type, event.category));
        count += 1;
    }
    assert!(count > 900, "only {count} events");
}

#[test]
fn fields_are_written_in_the_order_of_the_schema() {
    let mut event = minimal().ts(-5).data_json(r#" {"b":1.0, "a":1e2} "#).unwrap();
    event.truncated = true;
    event.source = Source::new(SourceKind::KernelApi).event("e").metadata("z", "1").metadata("a", "2");
    let json = r#"{"ts":-5,"type":"tick","category":"system","source":{"kind":"kernel_api","event":"e","metadata":{"z":"1","a":"2"}},"data":{"b":1.0, "a":1e2},"truncated":true}"#;
    assert_eq!(String::from_utf8(event.to_json()).unwrap(), json);
    assert_eq!(serde_json::to_string(&event).unwrap(), json);
    let envelope = Envelope { seq: u64::MAX, event };
    let json = format!(r#"{{"seq":18446744073709551615,"event":{json}}}"#);
    assert_eq!(String::from_utf8(envelope.to_json()).unwrap(), json);
    assert_eq!(serde_json::from_str::<Envelope>(&json).unwrap(), envelope);
}

#[test]
fn what_is_absent_is_not_written() {
    assert_eq!(String::from_utf8(minimal().to_json()).unwrap(), MINIMAL);
    let read = r#"{"source":{"metadata":null,"event":null,"kind":"local_process"},"category":"system","type":"tick"}"#;
    assert_eq!(serde_json::from_str::<Event>(read).unwrap(), minimal());
    let empty = Source { metadata: Some(Metadata::new()), ..Source::new(SourceKind::Cdp) };
    assert_eq!(serde_json::to_string(&empty).unwrap(), r#"{"kind":"cdp","metadata":{}}"#);
    checks::writing(&Event::new("t", Category::Page, empty));
}

#[test]
fn a_null_in_data_stays_a_null() {
    let json = MINIMAL.replace("\"}}", "\"},\"data\":null}");
    let event: Event = serde_json::from_str(&json).unwrap();
    assert_eq!(event.data.as_deref().map(RawValue::get), Some("null"));
    assert_eq!(String::from_utf8(event.to_json()).unwrap(), json);
}

#[test]
fn data_is_carried_as_it_is_but_for_line_breaks() {
    let data = "{ \"b\" : 1.50,\r\n\"b\":\n\t\"\\ud83d\\u0041\\n\" }";
    let event = minimal().data_json(data).unwrap();
    let json = String::from_utf8(event.to_json()).unwrap();
    assert!(json.ends_with("\"data\":{ \"b\" : 1.50,\"b\":\t\"\\ud83d\\u0041\\n\" }}"), "{json}");
    checks::writing(&event);
}

#[test]
fn data_is_made_of_json_or_of_values() {
    assert!(minimal().data_json("{").is_err());
    assert!(minimal().data_json("1 2").is_err());
    let pairs = minimal().data_from(&[("a", 1)]).unwrap();
    assert_eq!(pairs.data.as_deref().map(RawValue::get), Some(r#"[["a",1]]"#));
    let raw = RawValue::from_string("[]".into()).unwrap();
    assert_eq!(minimal().data(Cow::Borrowed(&raw)), minimal().data_json("[]").unwrap());
    assert_ne!(minimal().data_json("[]").unwrap(), minimal().data_json("[ ]").unwrap());
    assert_ne!(minimal().data_json("null").unwrap(), minimal());
}

#[test]
fn an_unknown_name_is_carried_as_it_is() {
    let json = r#"{"ts":1,"type":"t","category":"weather \"now\"","source":{"kind":"satellite"}}"#;
    let event: Event = serde_json::from_str(json).unwrap();
    assert_eq!(event.category.as_str(), "weather \"now\"");
    assert_eq!(event.source.kind, SourceKind::from("satellite"));
    assert_eq!(String::from_utf8(event.to_json()).unwrap(), json);
    assert_eq!(validate(json.as_bytes()).unwrap().category(), event.category);
}

#[test]
fn a_name_is_the_same_in_whatever_way_it_is_made() {
    for (known, name) in Category::KNOWN.iter().zip([
        "console",
        "network",
        "page",
        "interaction",
        "api",
        "system",
        "control",
        "connection",
        "screenshot",
        "captcha",
        "monitor",
        "platform",
    ]) {
        let other = Category::Other(name.into());
        assert_eq!(known.as_str(), name);
        assert_eq!((known, known.to_string()), (&other, name.to_owned()));
        assert_eq!(
            HashSet::from([known.clone(), other, name.parse().unwrap(), name.to_owned().into()]).len(),
            1
        );
        assert!(!matches!(Category::from(name), Category::Other(_)));
        assert_eq!(known.clone().into_owned(), *known);
    }
    for (known, name) in SourceKind::KNOWN.iter().zip(["cdp", "kernel_api", "extension", "local_process"]) {
        assert_eq!((known.as_str(), known), (name, &SourceKind::Other(name.into())));
    }
    assert_eq!(Category::ALL[..], Category::KNOWN[..6]);
    assert!(Category::from("aaa") < Category::Api && Category::Page < Category::Other("pagf".into()));
    assert_eq!(format!("{:>6}|", Category::Api), "   api|");
}

#[test]
fn metadata_keeps_its_order_and_its_duplicates() {
    let json = r#"{"b":"1","a":"2","b":"3"}"#;
    let mut metadata: Metadata = serde_json::from_str(json).unwrap();
    assert_eq!(metadata.iter().collect::<Vec<_>>(), [("b", "1"), ("a", "2"), ("b", "3")]);
    assert_eq!(serde_json::to_string(&metadata).unwrap(), json);
    assert_eq!(metadata.pop(), Some(("b".into(), "3".into())));
    assert_eq!((metadata.len(), metadata.is_empty()), (2, false));
    assert_eq!(metadata, Metadata::from_iter([("b".to_owned(), "1"), ("a".to_owned(), "2")]));
    assert!(serde_json::from_str::<Metadata>(r#"{"a":1}"#).is_err());
}

#[test]
fn an_event_outlives_what_it_was_read_from_if_it_is_owned() {
    let json = MINIMAL.replace("\"}}", "\",\"event\":\"e\",\"metadata\":{\"k\":\"v\"}},\"data\":[1]}");
    let owned = serde_json::from_str::<Event>(&json).unwrap().into_owned();
    let same = owned.clone();
    drop(json);
    assert_eq!(owned, same);
    assert!(matches!(owned.data, Some(Cow::Owned(_))) && matches!(owned.r#type, Cow::Owned(_)));
}

#[test]
fn only_an_object_is_an_event() {
    for json in [
        r#"[0,"tick","system",{"kind":"cdp"},null,false]"#,
        r#"{"type":"t","category":"c","source":["cdp"]}"#,
    ] {
        assert!(serde_json::from_str::<Event>(json).is_err(), "{json}");
        assert!(!checks::validation(json.as_bytes()));
    }
    assert!(serde_json::from_str::<Envelope>(&format!("[1,{MINIMAL}]")).is_err());
}

#[test]
fn what_is_no_event_is_refused_with_the_place_and_the_reason() {
    use InvalidReason::*;
    let cases = [
        ("", 0, Expected("an event, an object,")),
        ("[]", 0, Expected("an event, an object,")),
        ("{}", 1, Missing("type")),
        (r#"{"type":"t","source":{"kind":"cdp"}}"#, 35, Missing("category")),
        (r#"{"type":"t","category":"c","source":{}}"#, 37, Missing("kind")),
        (r#"{"type":"t","category":"c","typ\u0065":"t"}"#, 27, Duplicate("type")),
        (r#"{"source":{"kind":"a","kind":"b"}}"#, 22, Duplicate("kind")),
        (r#"{"ts":1.5}"#, 6, Ts),
        (r#"{"ts":9223372036854775808}"#, 6, Ts),
        ("{\"type\":\"a\u{1}\"}", 10, ControlCharacter),
        (r#"{"data":"\q"}"#, 9, Escape),
        (r#"{"type":"\ud83d"}"#, 9, LoneSurrogate),
        (r#"{"type" "t"}"#, 8, Expected("a colon")),
        (r#"{"type":"t""#, 11, Expected("a comma or a closing brace")),
        (r#"{"type":"t"#, 10, Expected("the end of the string")),
    ];
    for (json, at, reason) in cases {
        let error = validate(json.as_bytes()).unwrap_err();
        assert_eq!((error.at, error.reason), (at, reason), "{json}");
        assert!(!checks::validation(json.as_bytes()));
    }
    let error = validate(b"{\"type\":\"\xFF\"}").unwrap_err();
    assert_eq!((error.at, error.reason), (9, Utf8));
    let error = validate(format!("{MINIMAL} x").as_bytes()).unwrap_err();
    assert_eq!(error.at, MINIMAL.len() + 1);
    assert_eq!(
        validate(b"{\"ts\":-0}").unwrap_err().to_string(),
        "no event: the `ts` at byte 6 is no integer from -9223372036854775808 to 9223372036854775807 \
         (microseconds since the Unix epoch). Nothing was published"
    );
}

#[test]
fn every_ts_is_read_as_serde_json_reads_it() {
    let powers = (0..64).map(|bit| 1_i128 << bit).chain((0..21).map(|zeros| 10_i128.pow(zeros)));
    for power in powers {
        for ts in [power - 1, power, power + 1, -power - 1, -power, 1 - power] {
            let json = MINIMAL.replace(":0", &format!(":{ts}"));
            assert_eq!(checks::validation(json.as_bytes()), i64::try_from(ts).is_ok(), "{ts}");
            if let Ok(ts) = i64::try_from(ts) {
                assert_eq!(String::from_utf8(minimal().ts(ts).to_json()).unwrap(), json);
            }
        }
    }
}

#[test]
fn every_character_and_every_length_is_escaped_as_serde_json_does() {
    for len in 0..70 {
        for special in
            (0..0x30).chain(0x5A..0x60).chain(0x7E..0x82).filter_map(char::from_u32).chain(['語', '😀'])
        {
            for at in [0, len / 2, len] {
                let mut text = "x".repeat(len);
                text.insert(at, special);
                let source = Source::new(SourceKind::Cdp).event(text.clone()).metadata(text.clone(), "v");
                checks::writing(&Event::new(text, Category::Page, source));
            }
        }
    }
}

#[test]
fn nesting_has_no_limit_in_data() {
    for depth in [1, 62, 63, 64, 65, 126, 127, 128, 129, 200, 1000, 100_000] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let data = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            let mixed = format!("{}[1,{data},{{}}]{}", "{\"b\":[".repeat(depth), "]}".repeat(depth));
            for data in [data, mixed] {
                let json = MINIMAL.replace("\"}}", &format!("\"}},\"data\":{data},\"x\":{data}}}"));
                assert!(checks::validation(json.as_bytes()), "{depth}");
                let wrong = json.replacen("1", "1]}", 1);
                assert!(!checks::validation(wrong.as_bytes()), "{depth}");
            }
        }
    }
}

#[test]
fn other_peoples_documents_are_accepted_as_serde_json_accepts_them() {
    let (mut accepted, mut refused) = (0, 0);
    for (_, document) in documents::corpora() {
        let around = |before: &str, after: &str| {
            let source = br#""type":"t","category":"c","source":{"kind":"cdp""#;
            [b"{", source.as_slice(), before.as_bytes(), &document, after.as_bytes(), b"}"].concat()
        };
        for json in [
            document.clone(),
            around("},\"data\":", ""),
            around("},\"unknown\":", ""),
            around("},\"ts\":", ""),
            around("},\"truncated\":", ""),
            around("},", ":1"),
            around(",\"event\":", "}"),
            around(",\"metadata\":", "}"),
            around(",\"unknown\":", "}"),
            around(",\"metadata\":{\"k\":", "}}"),
        ] {
            if checks::validation(&json) { accepted += 1 } else { refused += 1 }
        }
    }
    assert!(accepted > 300 && refused > 1000, "{accepted} accepted, {refused} refused");
}

/// What a mutation puts into an event.
fn piece() -> impl Strategy<Value = &'static [u8]> {
    prop::sample::select(vec![
        b"\"" as &[u8],
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b" ",
        b"\n",
        b"\r",
        b"\t",
        b"0",
        b"-",
        b".",
        b"e",
        b"+",
        b"null",
        b"true",
        b"\\ud83d",
        b"\\ude00",
        b"\\u0041",
        b"\\n",
        b"\x00",
        b"\x1F",
        b"\x7F",
        b"\x80",
        b"\xFF",
        "é".as_bytes(),
        b"",
        b"\"type\":\"x\",",
        b"\"source\":{\"kind\":\"x\"},",
        b"\"data\":0,",
        b"\"unknown\":[],",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn a_changed_event_is_accepted_if_serde_json_accepts_it(
        line: prop::sample::Index,
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0usize..4, piece(), any::<bool>()), 1..4),
    ) {
        let mut json = SHORT[line.index(SHORT.len())].to_vec();
        for (at, length, with, near_a_token) in changes {
            let mut at = at.index(json.len() + 1);
            if near_a_token {
                at = json[at..].iter().position(|b| b"\"{}[]:,".contains(b)).map_or(at, |next| at + next);
            }
            let to = json.len().min(at + length);
            json.splice(at..to, with.iter().copied());
        }
        checks::validation(&json);
    }

    #[test]
    fn what_looks_like_an_event_is_accepted_if_serde_json_accepts_it(bytes in prop::collection::vec(any::<u8>(), 0..24)) {
        checks::validation(checks::grow(&bytes).as_bytes());
    }

    #[test]
    fn events_are_written_as_serde_json_writes_them(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        checks::writing(&checks::event(&bytes));
    }
}

proptest! {
    #[test]
    fn any_document_is_data(data in documents::document()) {
        let event = minimal().data_json(&data).unwrap();
        checks::writing(&event);
        let json = MINIMAL.replace("\"}}", &format!("\"}}, \"data\" :{data}, \"x\":{data}}}"));
        prop_assert!(checks::validation(json.as_bytes()));
    }
}

#[test]
fn what_is_grown_is_often_an_event_and_often_not() {
    let mut accepted = 0;
    for seed in 0..2000_u32 {
        let bytes: Vec<u8> = (0..8).map(|i| (seed.wrapping_mul(0x9E37_79B9 + 2 * i) >> 13) as u8).collect();
        accepted += u32::from(checks::validation(checks::grow(&bytes).as_bytes()));
    }
    assert!((200..1800).contains(&accepted), "{accepted} of 2000");
}
