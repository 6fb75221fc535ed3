//! What the tests of the event stream share.

use std::borrow::Cow;

use lapwing::event::{Category, Event, RawValue, Source, SourceKind};
use lapwing::stream::{OwnedEnvelope, Publish, RawEnvelope, ReadResult, Reader, TryReadError};
use serde_json::Value;

#[path = "../tasks/mod.rs"]
pub mod tasks;

/// Bytes of `{"seq":`, `,"event":` and `}`.
pub const ENVELOPE: usize = 17;

/// A small event of `category`.
pub fn of(category: &str) -> Event<'_> {
    Event::new("note", category.into(), Source::new(SourceKind::LocalProcess)).ts(7)
}

/// An event whose JSON has exactly `len` bytes, most of them in a string. 150 and more.
pub fn sized(ts: i64, len: usize) -> Event<'static> {
    let source = Source::new(SourceKind::Cdp).event("Network.dataReceived").metadata("id", "T1");
    let event = Event::new("sized", Category::Network, source).ts(ts);
    let data = |filler: String| format!(r#"{{"filler":"{filler}","end":true}}"#);
    let bare = event.clone().data_json(&data(String::new())).unwrap().to_json().len();
    let filler = (bare..len).map(|at| char::from(b'a' + ((ts.unsigned_abs() as usize + at * 7) % 26) as u8));
    let event = event.data(Cow::Owned(RawValue::from_string(data(filler.collect())).unwrap()));
    assert_eq!(event.to_json().len(), len, "{len} is too small");
    event
}

/// The event number `seq` of those that tell by their number what they are: of every category in turn, and of about
/// 180 to 500 bytes.
pub fn numbered(seq: u64) -> Event<'static> {
    let at = (seq % (Category::KNOWN.len() as u64 + 2)) as usize;
    let category = Category::KNOWN.get(at).cloned().unwrap_or_else(|| format!("other {at}").into());
    let event = Event::new("numbered", category, Source::new(SourceKind::Cdp)).ts(seq as i64);
    let filler: String = (0..seq * 37 % 320).map(|at| char::from(b'a' + ((seq + at) % 26) as u8)).collect();
    event.data_from(&[filler, "é\n\"\u{1f980}".into()]).unwrap()
}

/// The envelope of [`numbered`].
pub fn numbered_line(seq: u64) -> Vec<u8> {
    [format!("{{\"seq\":{seq},\"event\":").as_bytes(), &numbered(seq).to_json(), b"}"].concat()
}

pub fn published(seq: u64) -> Publish {
    Publish::Published { seq, truncated: false }
}

pub fn truncated(seq: u64) -> Publish {
    Publish::Published { seq, truncated: true }
}

pub fn owned(read: ReadResult<RawEnvelope<'_>>) -> ReadResult<OwnedEnvelope> {
    match read {
        ReadResult::Envelope(envelope) => ReadResult::Envelope(envelope.to_owned()),
        ReadResult::Dropped { from, to } => ReadResult::Dropped { from, to },
    }
}

/// What the reader has next; nothing yet, and nothing any more, are `None`.
pub fn next(reader: &mut Reader) -> Option<ReadResult<OwnedEnvelope>> {
    reader.try_read().ok().map(owned)
}

/// The next event, which must be there.
pub fn take(reader: &mut Reader) -> OwnedEnvelope {
    match next(reader) {
        Some(ReadResult::Envelope(envelope)) => envelope,
        other => panic!("an event is expected, not {other:?}"),
    }
}

/// All that the reader has, without the events' content.
pub fn seqs(reader: &mut Reader) -> Vec<ReadResult<u64>> {
    std::iter::from_fn(|| next(reader))
        .map(|read| match read {
            ReadResult::Envelope(envelope) => ReadResult::Envelope(envelope.seq()),
            ReadResult::Dropped { from, to } => ReadResult::Dropped { from, to },
        })
        .collect()
}

pub fn is_empty(reader: &mut Reader) -> bool {
    matches!(reader.try_read(), Err(TryReadError::Empty))
}

/// `form` must be a truncated form of the event `whole`: flagged, one line, with the same fields, and with data
/// of which some is missing and nothing is new.
pub fn assert_truncated_form(whole: &[u8], form: &[u8]) {
    let shown = String::from_utf8_lossy(form);
    assert!(!form.iter().any(|byte| matches!(byte, b'\n' | b'\r')), "two lines: {shown}");
    let parse = |json| serde_json::from_slice::<Event<'_>>(json).unwrap_or_else(|e| panic!("{e}: {shown}"));
    let (whole, form) = (parse(whole), parse(form));
    assert!(form.truncated, "not flagged: {shown}");
    assert_eq!((form.ts, &form.r#type, &form.category), (whole.ts, &whole.r#type, &whole.category));
    assert_eq!((&form.source.kind, &form.source.event), (&whole.source.kind, &whole.source.event));
    let metadata = |event: &Event<'_>| {
        let pairs = event.source.metadata.iter().flat_map(|metadata| metadata.iter());
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect::<Vec<_>>()
    };
    assert!(metadata(&whole).starts_with(&metadata(&form)), "other metadata: {shown}");
    match (&whole.data, &form.data) {
        (Some(whole), Some(form)) if form.get() != "null" => {
            let parse = |json| serde_json::from_str::<Value>(json).unwrap();
            assert!(is_cut(&parse(whole.get()), &parse(form.get())), "other data: {shown}");
        }
        (None, Some(_)) => panic!("data from nowhere: {shown}"),
        _ => {}
    }
}

/// Whether `cut` is `whole`, or less of it.
fn is_cut(whole: &Value, cut: &Value) -> bool {
    match (whole, cut) {
        (Value::String(whole), Value::String(cut)) => whole.starts_with(cut.as_str()),
        (Value::Array(whole), Value::Array(cut)) => {
            cut.len() <= whole.len() && whole.iter().zip(cut).all(|(whole, cut)| is_cut(whole, cut))
        }
        (Value::Object(whole), Value::Object(cut)) => {
            cut.iter().all(|(key, cut)| whole.get(key).is_some_and(|whole| is_cut(whole, cut)))
        }
        _ => whole == cut,
    }
}

/// The event of `envelope` must be `json`, byte for byte.
#[track_caller]
pub fn assert_json(envelope: &OwnedEnvelope, json: &[u8]) {
    let got = envelope.event_json();
    if got != json {
        let at = got.iter().zip(json).take_while(|(got, json)| got == json).count();
        let rest = |json: &[u8]| String::from_utf8_lossy(&json[at..json.len().min(at + 80)]).into_owned();
        let (len, seq) = (json.len(), envelope.seq());
        panic!(
            "seq {seq} has {} bytes instead of {len}, and from byte {at} on {:?} instead of {:?}",
            got.len(),
            rest(got),
            rest(json)
        );
    }
}

/// As [`assert_json`], and it must not be flagged.
#[track_caller]
pub fn assert_whole(envelope: &OwnedEnvelope, json: &[u8]) {
    assert_json(envelope, json);
    assert!(!envelope.truncated(), "seq {}", envelope.seq());
}
