//! What holds for every event and for all bytes; for property tests and for fuzz targets.

use lapwing::event::{Envelope, Event, Metadata, RawValue, Source, validate};
use std::borrow::Cow;

/// [`validate`] accepts what `serde_json` reads as an event, and no less and no more. Whether it does.
pub fn validation(json: &[u8]) -> bool {
    let read = std::str::from_utf8(json).ok().and_then(|text| serde_json::from_str::<Event>(text).ok());
    let shown = || String::from_utf8_lossy(json).into_owned();
    match (validate(json), read) {
        (Ok(valid), Some(event)) => {
            assert_eq!(valid.r#type(), event.r#type, "{}", shown());
            assert_eq!(valid.category(), event.category, "{}", shown());
            true
        }
        (Err(error), None) => {
            assert!(error.at <= json.len(), "{error:?} {}", shown());
            assert!(error.to_string().ends_with(". Nothing was published"), "{error}");
            false
        }
        (Ok(_), None) => panic!("accepted, and serde_json does not read it: {}", shown()),
        (Err(error), Some(_)) => panic!("{error}; and serde_json reads it: {}", shown()),
    }
}

/// The writer writes what `serde_json` writes, but for the line breaks in the data, and it can be read again.
pub fn writing(event: &Event<'_>) {
    let one_line = |json: Vec<u8>| json.into_iter().filter(|b| !b"\n\r".contains(b)).collect::<Vec<_>>();
    let json = event.to_json();
    assert_eq!(text(&json), text(&one_line(serde_json::to_vec(event).expect("an event has JSON"))));
    assert!(validation(&json), "{}", text(&json));

    let envelope = Envelope { seq: event.ts.unsigned_abs(), event: event.clone() };
    let mut appended = b"before".to_vec();
    envelope.write_json(&mut appended);
    let expected = one_line(serde_json::to_vec(&envelope).expect("an envelope has JSON"));
    assert_eq!(text(&appended), format!("before{}", text(&expected)));

    let read: Event = serde_json::from_slice(&json).expect("what was written can be read");
    let mut same = event.clone();
    if let Some(data) = &event.data {
        let data = String::from_utf8(one_line(data.get().into())).expect("it was text");
        same.data = Some(Cow::Owned(RawValue::from_string(data).expect("line breaks are white space")));
    }
    assert_eq!(read, same);
    assert_eq!(read.clone().into_owned(), same);
    let read: Envelope = serde_json::from_slice(&expected).expect("what was written can be read");
    assert_eq!((read.seq, read.into_owned().event), (envelope.seq, same));
}

fn text(json: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(json)
}

const STRINGS: [&str; 24] = [
    r#""""#,
    r#""a""#,
    r#""tick""#,
    r#""console""#,
    r#""platform""#,
    r#""cdp""#,
    r#""local_process""#,
    r#""weather report of today""#,
    r#""conso\u006ce""#,
    r#""12345678901234567890123456789012345678901234567890""#,
    r#""a\"b\\c\/d\b\f\n\r\te""#,
    r#""\u00e9\u0000\uFFFF""#,
    r#""\ud83d\ude00""#,
    r#""\uD83D\uDE00x""#,
    r#""\ud83d""#,
    r#""\ude00""#,
    r#""\ud83d\n""#,
    r#""\ud83d\ud83d\ude00""#,
    r#""\ud83d\u0041""#,
    r#""\x""#,
    r#""\u12g4""#,
    "\"é語😀\"",
    "\"\u{1f}\"",
    "\"\u{7f}\n\"",
];

const NUMBERS: [&str; 24] = [
    "0",
    "-0",
    "7",
    "-7",
    "00",
    "01",
    "1.0",
    "1e3",
    "-",
    "+1",
    "1795346234966162",
    "12345678",
    "123456789",
    "01234567",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "-9223372036854775809",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999999999999999",
    "0.5E-10",
    "1.",
    "2e+",
];

const OTHERS: [&str; 24] = [
    "null",
    "true",
    "false",
    "nul",
    "{}",
    "[]",
    "[1,2.5,-3e4]",
    "[[],{},[[]]]",
    r#"{"a":{"b":[{"c":null}]}}"#,
    r#"{"a":1,"a":2}"#,
    r#"{"\ud83d":"\ude00"}"#,
    r#"{"ke\u0079":"v"}"#,
    r#"{"k":"v","k":"w"}"#,
    r#"{"k":null}"#,
    r#"{"k":"v",}"#,
    r#"{"kind":"cdp"}"#,
    r#"{"kind":"weather","event":"e"}"#,
    r#"{"event":null,"kind":"cdp","metadata":null}"#,
    r#"{"kind":"cdp","metadata":{}}"#,
    r#"{"kind":"cdp","metadata":{"a":"b","a":"c"},"more":[{}]}"#,
    r#"["cdp"]"#,
    "[1,]",
    "[,1]",
    "[1 2]",
];

const KEYS: [&str; 24] = [
    r#""ts""#,
    r#""type""#,
    r#""category""#,
    r#""source""#,
    r#""data""#,
    r#""truncated""#,
    r#""kind""#,
    r#""event""#,
    r#""metadata""#,
    r#""t\u0073""#,
    r#""\u0074ype""#,
    r#""typ\u0065""#,
    r#""dat\u0061""#,
    r#""more""#,
    r#""Type""#,
    r#""""#,
    r#""\ud83d""#,
    r#""\ud83d\ude00""#,
    r#""\n""#,
    "\"é\"",
    "\"\t\"",
    "ts",
    "null",
    r#""truncated ""#,
];

/// What may be an event, which `bytes` describe: so that a fuzzer need not find the schema first.
pub fn grow(bytes: &[u8]) -> String {
    let mut bytes = bytes.iter().copied();
    let mut next = || bytes.next();
    let first = next().unwrap_or(0);
    let space = |n: u8| if n < 232 { "" } else { [" ", "\n", "\t\r\n", "  "][usize::from(n % 4)] };
    let value = |n: u8| match n / 24 % 3 {
        0 => STRINGS[usize::from(n % 24)],
        1 => NUMBERS[usize::from(n % 24)],
        _ => OTHERS[usize::from(n % 24)],
    };
    let mut members = Vec::new();
    // What an event must have: each is left out, or spelled as it likes, in one of eight.
    for (i, usual) in [r#""tick""#, r#""page""#, r#"{"kind":"cdp","event":"e"}"#].into_iter().enumerate() {
        match next().unwrap_or(8) {
            0..32 => {}
            n @ 32..64 => members.push(format!("{}:{}", KEYS[1 + i], value(n))),
            n => members.push(format!("{}{}:{}{usual}", KEYS[1 + i], space(n), space(n.rotate_left(1)))),
        }
    }
    while let (Some(key), Some(of)) = (next(), next()) {
        members.push(format!("{}{}:{}", KEYS[usize::from(key % 24)], space(key), value(of)));
        let places = usize::from(of / 72) % members.len();
        members.rotate_left(places);
    }
    let comma = if first < 4 { "," } else { "" };
    format!(
        "{}{{{}{comma}}}{}",
        space(first),
        members.join([",", " ,\n"][usize::from(first % 2)]),
        space(first)
    )
}

/// An event that `bytes` describe: every field and every length, and all that a string may have.
pub fn event(bytes: &[u8]) -> Event<'static> {
    let mut bytes = bytes.iter().copied();
    let mut next = || bytes.next().unwrap_or(0);
    let mut text = || {
        let len = next();
        let mut text = String::new();
        for _ in 0..len % 70 {
            // Escapes are rare, so that there is text without any.
            match next() {
                n @ 0..16 if len < 192 => {
                    text.push(['"', '\\', '\u{7f}', 'é', '語', '😀', '/', '\n'][usize::from(n % 8)])
                }
                n @ 16..48 if len < 128 => text.push(char::from(n % 32)),
                n => text.push(char::from(b' ' + n % 95).to_ascii_lowercase()),
            }
        }
        if len < 192 { text } else { text.replace(['"', '\\'], " ") }
    };
    let categories = ["console", "interaction", "platform", "weather", ""];
    let kinds = ["cdp", "local_process", "satellite"];
    let (r#type, event, key, value, category, kind) = (text(), text(), text(), text(), text(), text());
    let mut raw = [0; 8];
    raw.fill_with(&mut next);
    let [shape, more, a, b, c, d, e, f] = raw;
    let category = match shape % 6 {
        5 => category,
        n => categories[usize::from(n)].to_owned(),
    };
    let kind = match shape / 6 % 4 {
        3 => kind,
        n => kinds[usize::from(n)].to_owned(),
    };
    let mut source = Source::new(kind.into());
    if shape & 64 != 0 {
        source = source.event(event);
    }
    if shape & 128 != 0 {
        source.metadata = Some(Metadata::new());
        for _ in 0..more % 4 {
            source = source.metadata(key.clone(), value.clone());
        }
    }
    let ts = i64::from_le_bytes([a, b, c, d, e, f, a, b]) >> (more / 4 % 64);
    let mut event = Event::new(r#type, category.into(), source).ts(ts);
    event.truncated = more & 1 != 0;
    let data = match f % 8 {
        0 => None,
        1 => Some("null".to_owned()),
        2 => Some("[1,\n2,\r\n3]".to_owned()),
        3 => Some(format!("[\n{}]", "1,\t".repeat(usize::from(e) * 4) + "1")),
        n => Some(format!(
            "\"{}{}\"",
            "x".repeat(usize::from(e) * usize::from(n % 4 + 1)),
            if d < 64 { "\\ud83d" } else { "" }
        )),
    };
    event.data = data.map(|data| Cow::Owned(RawValue::from_string(data).expect("it is JSON")));
    event
}
