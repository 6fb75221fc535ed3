//! Telemetry events: a schema whose JSON is the contract, a fast writer of it, and a check of what comes as JSON.
//!
//! ```
//! use lapwing::event::{Category, Event, Source, SourceKind};
//!
//! let source = Source::new(SourceKind::Cdp).event("Runtime.consoleAPICalled").metadata("target_id", "T1");
//! let event = Event::new("console_log", Category::Console, source).ts(7).data_json(r#"{"message":"hello"}"#)?;
//! let json = concat!(
//!     r#"{"ts":7,"type":"console_log","category":"console","source":{"kind":"cdp","event":"#,
//!     r#""Runtime.consoleAPICalled","metadata":{"target_id":"T1"}},"data":{"message":"hello"}}"#,
//! );
//! assert_eq!(event.to_json(), json.as_bytes());
//! assert_eq!(serde_json::from_str::<Event>(json)?, event);
//! # Ok::<(), serde_json::Error>(())
//! ```
//!
//! Everything borrows where it can: an event is made and written without an allocation, and an event that was
//! read borrows from its JSON. [`Event::into_owned`] ends that.
//!
//! # The JSON
//!
//! | type | fields, in the order in which they are written |
//! | --- | --- |
//! | [`Envelope`] | `seq`, `event` |
//! | [`Event`] | `ts` (missing reads as 0), `type`, `category`, `source`, `data` (omitted when absent), `truncated` (omitted when false) |
//! | [`Source`] | `kind`, `event` and `metadata` (omitted when absent, and `null` reads as absent) |
//!
//! They are read in any order. A field that is there twice is an error; fields that the schema does not have
//! are ignored. `data` is any JSON and is carried as it is spelled, even where it holds an unpaired surrogate
//! escape, which is an error in a string of the schema. Only line breaks between its tokens are left out when
//! it is written, so that an event is always one line. Names that are not among the known ones of [`Category`]
//! and [`SourceKind`] are carried as they are.

mod name;
mod serde_impls;
pub(crate) mod validate;
mod word;
pub(crate) mod write;

use std::borrow::Cow;

pub use name::{Category, SourceKind};
use serde::Serialize;
pub use serde_json::value::RawValue;
pub use validate::{InvalidEvent, InvalidReason, Valid, validate};

/// One telemetry event.
#[derive(Clone, Debug, Serialize)]
pub struct Event<'a> {
    /// When it happened, in microseconds since the Unix epoch. 0 is filled in when the event is published.
    pub ts: i64,
    /// What happened, such as `console_log`.
    pub r#type: Cow<'a, str>,
    /// What part of the system it is about: what a capture configuration selects by.
    pub category: Category<'a>,
    /// Where it comes from.
    pub source: Source<'a>,
    /// Anything, as JSON. `Some` of a `null` is written as `null`, `None` is not written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Cow<'a, RawValue>>,
    /// Whether part of `data` was cut off, because the event was too large.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

impl<'a> Event<'a> {
    /// An event without data, whose `ts` is filled in when it is published.
    pub fn new(r#type: impl Into<Cow<'a, str>>, category: Category<'a>, source: Source<'a>) -> Self {
        Self { ts: 0, r#type: r#type.into(), category, source, data: None, truncated: false }
    }

    /// Sets the time, in microseconds since the Unix epoch.
    pub fn ts(mut self, ts: i64) -> Self {
        self.ts = ts;
        self
    }

    /// Sets the data.
    pub fn data(mut self, data: Cow<'a, RawValue>) -> Self {
        self.data = Some(data);
        self
    }

    /// Sets the data to what `json` spells. It is checked and borrowed.
    ///
    /// # Errors
    ///
    /// `json` is not one JSON value.
    pub fn data_json(self, json: &'a str) -> Result<Self, serde_json::Error> {
        Ok(self.data(Cow::Borrowed(serde_json::from_str(json)?)))
    }

    /// Sets the data to `value`, as JSON.
    ///
    /// # Errors
    ///
    /// `value` has no form in JSON: its `Serialize` fails, or it has a map whose keys are not strings.
    pub fn data_from(self, value: &(impl Serialize + ?Sized)) -> Result<Self, serde_json::Error> {
        Ok(self.data(Cow::Owned(serde_json::value::to_raw_value(value)?)))
    }

    /// The event with nothing borrowed.
    pub fn into_owned(self) -> Event<'static> {
        Event {
            ts: self.ts,
            r#type: owned(self.r#type),
            category: self.category.into_owned(),
            source: self.source.into_owned(),
            data: self.data.map(|data| Cow::Owned(data.into_owned())),
            truncated: self.truncated,
        }
    }

    /// The event as one line of JSON, without a line break at its end.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write_json(&mut out);
        out
    }

    /// Appends the event as one line of JSON, without a line break at its end.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        write::write(self, self.ts, usize::MAX, out);
    }
}

/// Two data are equal if they are spelled alike.
impl PartialEq for Event<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.ts == other.ts
            && self.r#type == other.r#type
            && self.category == other.category
            && self.source == other.source
            && self.truncated == other.truncated
            && self.data.as_deref().map(RawValue::get) == other.data.as_deref().map(RawValue::get)
    }
}

impl Eq for Event<'_> {}

/// An event with the number under which it was published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Envelope<'a> {
    /// 1 for the first event of a stream, and one more for each that follows.
    pub seq: u64,
    /// The event.
    pub event: Event<'a>,
}

impl Envelope<'_> {
    /// The envelope with nothing borrowed.
    pub fn into_owned(self) -> Envelope<'static> {
        Envelope { seq: self.seq, event: self.event.into_owned() }
    }

    /// The envelope as one line of JSON, without a line break at its end.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write_json(&mut out);
        out
    }

    /// Appends the envelope as one line of JSON, without a line break at its end.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        write::write_envelope(self, out);
    }
}

/// Where an event comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Source<'a> {
    /// What produced the event.
    pub kind: SourceKind<'a>,
    /// What the producer calls it, such as `Runtime.consoleAPICalled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<Cow<'a, str>>,
    /// What the producer knows about it, such as the page's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata<'a>>,
}

impl<'a> Source<'a> {
    /// A source of which only the kind is known.
    pub fn new(kind: SourceKind<'a>) -> Self {
        Self { kind, event: None, metadata: None }
    }

    /// Sets what the producer calls the event.
    pub fn event(mut self, event: impl Into<Cow<'a, str>>) -> Self {
        self.event = Some(event.into());
        self
    }

    /// Appends to the metadata.
    pub fn metadata(mut self, key: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) -> Self {
        self.metadata.get_or_insert_default().push(key, value);
        self
    }

    /// The source with nothing borrowed.
    pub fn into_owned(self) -> Source<'static> {
        Source {
            kind: self.kind.into_owned(),
            event: self.event.map(owned),
            metadata: self.metadata.map(Metadata::into_owned),
        }
    }
}

/// Pairs of a key and a value in the order in which they were given, a JSON object. A key that is there twice stays
/// there twice.
///
/// ```
/// use lapwing::event::Metadata;
///
/// let metadata = Metadata::from_iter([("target_id", "T1"), ("frame_id", "F1")]);
/// assert_eq!(serde_json::to_string(&metadata)?, r#"{"target_id":"T1","frame_id":"F1"}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Metadata<'a> {
    /// No pairs.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Appends a pair.
    pub fn push(&mut self, key: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) {
        self.0.push((key.into(), value.into()));
    }

    /// Takes the last pair off.
    pub fn pop(&mut self) -> Option<(Cow<'a, str>, Cow<'a, str>)> {
        self.0.pop()
    }

    /// The pairs in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The metadata with nothing borrowed.
    pub fn into_owned(self) -> Metadata<'static> {
        self.0.into_iter().map(|(key, value)| (owned(key), owned(value))).collect()
    }
}

impl<'a, K: Into<Cow<'a, str>>, V: Into<Cow<'a, str>>> FromIterator<(K, V)> for Metadata<'a> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

/// What an event is made of, each part as it is spelled in JSON: what a truncated form is assembled from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fields<'a> {
    pub(crate) ts: i64,
    pub(crate) r#type: &'a [u8],
    pub(crate) category: &'a [u8],
    pub(crate) source: &'a [u8],
    pub(crate) data: Option<&'a [u8]>,
}

fn owned(text: Cow<'_, str>) -> Cow<'static, str> {
    Cow::Owned(text.into_owned())
}
