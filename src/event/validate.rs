//! Is it one event of the schema? In one pass, without building anything.

use super::{Category, Fields};
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

/// Checks that `json` is one [`Event`](super::Event) as JSON, without making one.
///
/// What is accepted here is what `serde_json::from_str` reads as an `Event`, no less and no more: keys in any order,
/// keys that the schema does not know, white space, nesting of any depth in `data`. Only where a key or the
/// category is spelled with escapes, or where brackets are nested 64 deep, memory is allocated.
///
/// ```
/// use lapwing::event::{Category, InvalidReason, validate};
///
/// let valid = validate(br#"{"type":"tick","category":"system","source":{"kind":"local_process"},"data":[1]}"#)?;
/// assert_eq!(valid.category(), Category::System);
///
/// let error = validate(br#"{"type":"tick","category":"system"}"#).unwrap_err();
/// assert_eq!((error.at, error.reason), (34, InvalidReason::Missing("source")));
/// # Ok::<(), lapwing::event::InvalidEvent>(())
/// ```
///
/// # Errors
///
/// Where and why it is no event.
pub fn validate(json: &[u8]) -> Result<Valid<'_>, InvalidEvent> {
    if let Err(error) = std::str::from_utf8(json) {
        return Err(InvalidEvent { at: error.valid_up_to(), reason: InvalidReason::Utf8 });
    }
    let mut scan = Scan { json, at: 0, newline: false };
    let valid = scan.event()?;
    scan.space();
    if scan.at < json.len() {
        return scan.expected("the end after the event");
    }
    Ok(Valid { newline: scan.newline, ..valid })
}

/// JSON of which [`validate`] has found that it is an event.
#[derive(Clone, Debug)]
pub struct Valid<'a> {
    ts: Ts,
    r#type: &'a [u8],
    category: &'a [u8],
    category_index: u8,
    source: &'a [u8],
    data: Option<&'a [u8]>,
    truncated: bool,
    newline: bool,
}

impl<'a> Valid<'a> {
    /// The type.
    pub fn r#type(&self) -> Cow<'a, str> {
        decoded(self.r#type)
    }

    /// The category.
    pub fn category(&self) -> Category<'a> {
        match Category::KNOWN.get(usize::from(self.category_index)) {
            Some(category) => category.clone(),
            None => Category::Other(decoded(self.category)),
        }
    }

    /// The parts as they are spelled, with their line breaks if they have any. A `ts` that is missing is 0.
    pub(crate) fn fields(&self) -> Fields<'a> {
        Fields {
            ts: match self.ts {
                Ts::Set(ts) => ts,
                Ts::Missing { .. } | Ts::Zero { .. } => 0,
            },
            r#type: self.r#type,
            category: self.category,
            source: self.source,
            data: self.data,
        }
    }

    /// [`Category::index`].
    pub(crate) fn category_index(&self) -> u8 {
        self.category_index
    }

    pub(crate) fn truncated(&self) -> bool {
        self.truncated
    }

    /// Whether there is a line break among the white space.
    pub(crate) fn has_newline(&self) -> bool {
        self.newline
    }

    pub(crate) fn ts(&self) -> Ts {
        self.ts.clone()
    }
}

/// The `ts` of an event that came as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ts {
    /// There is none. `"ts":7,` with any number can be inserted here.
    Missing { insert_at: usize },
    /// It is 0, and spelled here.
    Zero { range: Range<usize> },
    /// It is another number.
    Set(i64),
}

/// This is no event as JSON. Nothing was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidEvent {
    /// The byte at which that is seen.
    pub at: usize,
    /// Why.
    pub reason: InvalidReason,
}

/// Why JSON is no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidReason {
    /// Something else is expected here.
    Expected(&'static str),
    /// The event or its source ends here, without this field.
    Missing(&'static str),
    /// This field is there for the second time.
    Duplicate(&'static str),
    /// A `ts` that is no 64-bit signed integer.
    Ts,
    /// Bytes that are not UTF-8.
    Utf8,
    /// A control character in a string, where only its escape may be.
    ControlCharacter,
    /// A backslash that begins no escape.
    Escape,
    /// The escape of half a surrogate pair, in a string of the schema.
    LoneSurrogate,
}

impl fmt::Display for InvalidEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at;
        match self.reason {
            InvalidReason::Expected(what) => write!(f, "no event: {what} is expected at byte {at}"),
            InvalidReason::Missing(field) => {
                write!(f, "no event: the object that ends at byte {at} has no `{field}`, which is required")
            }
            InvalidReason::Duplicate(field) => {
                write!(f, "no event: `{field}` is there again at byte {at}, and once is allowed")
            }
            InvalidReason::Ts => write!(
                f,
                "no event: the `ts` at byte {at} is no integer from {} to {} (microseconds since the Unix epoch)",
                i64::MIN,
                i64::MAX
            ),
            InvalidReason::Utf8 => write!(f, "no event: byte {at} is not UTF-8"),
            InvalidReason::ControlCharacter => {
                write!(
                    f,
                    "no event: there is a control character at byte {at}, inside a string, where only its escape may be"
                )
            }
            InvalidReason::Escape => write!(
                f,
                "no event: the backslash at byte {at} begins no escape; those of JSON are \\\" \\\\ \\/ \\b \\f \\n \\r \\t and \\uXXXX"
            ),
            InvalidReason::LoneSurrogate => write!(
                f,
                "no event: the escape at byte {at} is half a surrogate pair, which only `data` may have"
            ),
        }?;
        f.write_str(". Nothing was published")
    }
}

impl std::error::Error for InvalidEvent {}

/// What a string of the document spells: with escapes by way of `serde_json`.
fn decoded(spelling: &[u8]) -> Cow<'_, str> {
    let inside = spelling.get(1..spelling.len().saturating_sub(1)).unwrap_or_default();
    match std::str::from_utf8(inside) {
        Ok(text) if !inside.contains(&b'\\') => Cow::Borrowed(text),
        _ => Cow::Owned(serde_json::from_slice(spelling).unwrap_or_default()),
    }
}

struct Scan<'a> {
    json: &'a [u8],
    at: usize,
    /// Whether a line break was among the white space so far.
    newline: bool,
}

/// Which escapes a string may have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Surrogates {
    /// Those that spell text.
    Paired,
    /// Any: the string is carried and not read.
    Any,
}

type Found<T> = Result<T, InvalidEvent>;

impl<'a> Scan<'a> {
    fn fail<T>(&self, at: usize, reason: InvalidReason) -> Found<T> {
        Err(InvalidEvent { at, reason })
    }

    #[cold]
    fn expected<T>(&self, what: &'static str) -> Found<T> {
        self.fail(self.at, InvalidReason::Expected(what))
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.json.get(self.at).copied()
    }

    /// Skips white space.
    #[inline]
    fn space(&mut self) {
        while let Some(byte @ (b' ' | b'\t' | b'\n' | b'\r')) = self.peek() {
            self.newline |= byte == b'\n' || byte == b'\r';
            self.at += 1;
        }
    }

    #[inline]
    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn event(&mut self) -> Found<Valid<'a>> {
        let (mut ts, mut r#type, mut category, mut source, mut data, mut truncated) =
            (None, None, None, None, None, None);
        self.space();
        let open = self.at;
        self.object("an event, an object,", |scan, key_at, key| {
            let start = scan.at;
            match key {
                b"ts" => scan.once(&mut ts, "ts", key_at, Self::ts),
                b"type" => scan.once(&mut r#type, "type", key_at, |scan| scan.text("a string")),
                b"category" => scan.once(&mut category, "category", key_at, |scan| scan.text("a string")),
                b"source" => scan.once(&mut source, "source", key_at, |scan| {
                    scan.source()?;
                    Ok(&scan.json[start..scan.at])
                }),
                b"data" => scan.once(&mut data, "data", key_at, |scan| {
                    scan.value()?;
                    Ok(&scan.json[start..scan.at])
                }),
                b"truncated" => scan.once(&mut truncated, "truncated", key_at, Self::boolean),
                _ => scan.value(),
            }
        })?;
        let close = self.at - 1;
        let missing = |field| InvalidEvent { at: close, reason: InvalidReason::Missing(field) };
        let category = category.ok_or(missing("category"))?;
        Ok(Valid {
            ts: ts.unwrap_or(Ts::Missing { insert_at: open + 1 }),
            r#type: r#type.ok_or(missing("type"))?,
            category,
            category_index: Category::index_of(&decoded(category)),
            source: source.ok_or(missing("source"))?,
            data,
            truncated: truncated.unwrap_or(false),
            newline: false,
        })
    }

    fn source(&mut self) -> Found<()> {
        let (mut kind, mut event, mut metadata) = (None, None, None);
        self.object("a source, an object,", |scan, key_at, key| match key {
            b"kind" => scan.once(&mut kind, "kind", key_at, |scan| scan.text("a string")),
            b"event" => scan.once(&mut event, "event", key_at, |scan| {
                scan.or_null(|scan| scan.text("a string or `null`").map(drop))
            }),
            b"metadata" => scan.once(&mut metadata, "metadata", key_at, |scan| scan.or_null(Self::metadata)),
            _ => scan.value(),
        })?;
        match kind {
            Some(_) => Ok(()),
            None => self.fail(self.at - 1, InvalidReason::Missing("kind")),
        }
    }

    fn metadata(&mut self) -> Found<()> {
        self.object("metadata, an object of strings, or `null`", |scan, _, _| {
            scan.text("a string, as all metadata,").map(drop)
        })
    }

    /// An object of the schema. `member` is called behind each colon with where the key is and what it is, and
    /// reads the value.
    #[inline(always)]
    fn object(
        &mut self,
        what: &'static str,
        mut member: impl FnMut(&mut Self, usize, &[u8]) -> Found<()>,
    ) -> Found<()> {
        if !self.eat(b'{') {
            return self.expected(what);
        }
        self.space();
        if self.eat(b'}') {
            return Ok(());
        }
        loop {
            let at = self.at;
            let key = self.text("a key, a string,")?;
            self.space();
            if !self.eat(b':') {
                return self.expected("a colon");
            }
            self.space();
            if key.contains(&b'\\') {
                member(self, at, decoded(key).as_bytes())?;
            } else {
                member(self, at, &key[1..key.len() - 1])?;
            }
            self.space();
            if self.eat(b'}') {
                return Ok(());
            }
            if !self.eat(b',') {
                return self.expected("a comma or a closing brace");
            }
            self.space();
        }
    }

    /// Reads a field's value into `field`, where nothing may be yet.
    #[inline(always)]
    fn once<T>(
        &mut self,
        field: &mut Option<T>,
        name: &'static str,
        key_at: usize,
        read: impl FnOnce(&mut Self) -> Found<T>,
    ) -> Found<()> {
        if field.is_some() {
            return self.fail(key_at, InvalidReason::Duplicate(name));
        }
        *field = Some(read(self)?);
        Ok(())
    }

    fn or_null(&mut self, read: impl FnOnce(&mut Self) -> Found<()>) -> Found<()> {
        if self.peek() == Some(b'n') { self.literal(b"null") } else { read(self) }
    }

    fn ts(&mut self) -> Found<Ts> {
        let start = self.at;
        if !matches!(self.peek(), Some(b'-' | b'0'..=b'9')) {
            return self.fail(start, InvalidReason::Ts);
        }
        self.number()?;
        let range = start..self.at;
        let spelling = &self.json[range.clone()];
        if spelling == b"0" {
            return Ok(Ts::Zero { range });
        }
        // What is left of a JSON number that `parse` would accept and serde_json would not is `-0`.
        match std::str::from_utf8(spelling).ok().and_then(|text| text.parse().ok()) {
            Some(ts) if ts != 0 => Ok(Ts::Set(ts)),
            _ => self.fail(start, InvalidReason::Ts),
        }
    }

    fn boolean(&mut self) -> Found<bool> {
        match self.peek() {
            Some(b't') => self.literal(b"true").map(|()| true),
            Some(b'f') => self.literal(b"false").map(|()| false),
            _ => self.expected("`true` or `false`"),
        }
    }

    fn literal(&mut self, literal: &'static [u8]) -> Found<()> {
        if !self.json[self.at..].starts_with(literal) {
            return self.expected("a JSON value");
        }
        self.at += literal.len();
        Ok(())
    }

    fn digits(&mut self) -> Found<()> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { self.expected("a digit") } else { Ok(()) }
    }

    fn number(&mut self) -> Found<()> {
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            let _ = self.eat(b'+') || self.eat(b'-');
            self.digits()?;
        }
        Ok(())
    }

    /// A string that is read as text. Its spelling, with the quotes.
    fn text(&mut self, what: &'static str) -> Found<&'a [u8]> {
        let start = self.at;
        if !self.eat(b'"') {
            return self.expected(what);
        }
        self.string(Surrogates::Paired)?;
        Ok(&self.json[start..self.at])
    }

    /// The rest of a string, behind its first quote.
    fn string(&mut self, surrogates: Surrogates) -> Found<()> {
        loop {
            match self.peek() {
                None => return self.expected("the end of the string"),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape(surrogates)?,
                Some(0..0x20) => return self.fail(self.at, InvalidReason::ControlCharacter),
                Some(_) => self.at += 1,
            }
        }
    }

    fn escape(&mut self, surrogates: Surrogates) -> Found<()> {
        let start = self.at;
        let invalid = Err(InvalidEvent { at: start, reason: InvalidReason::Escape });
        match self.json.get(start + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                return Ok(());
            }
            Some(b'u') => {}
            _ => return invalid,
        }
        let Some(unit) = self.unit() else { return invalid };
        if surrogates == Surrogates::Any || !matches!(unit, 0xD800..0xE000) {
            return Ok(());
        }
        if unit < 0xDC00 && matches!(self.unit(), Some(0xDC00..0xE000)) {
            return Ok(());
        }
        self.fail(start, InvalidReason::LoneSurrogate)
    }

    /// The code unit that a `\uXXXX` spells, if there is one here.
    fn unit(&mut self) -> Option<u16> {
        let [b'\\', b'u', digits @ ..] = self.json.get(self.at..self.at + 6)? else { return None };
        let unit = digits
            .iter()
            .try_fold(0, |unit, &digit| Some(unit << 4 | char::from(digit).to_digit(16)? as u16))?;
        self.at += 6;
        Some(unit)
    }

    /// Any value.
    fn value(&mut self) -> Found<()> {
        let mut open = Vec::new();
        loop {
            // A value begins here.
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    self.string(Surrogates::Any)?;
                }
                Some(b'-' | b'0'..=b'9') => self.number()?,
                Some(b't') => self.literal(b"true")?,
                Some(b'f') => self.literal(b"false")?,
                Some(b'n') => self.literal(b"null")?,
                Some(b'{') => {
                    self.at += 1;
                    self.space();
                    if !self.eat(b'}') {
                        open.push(b'}');
                        self.key()?;
                        continue;
                    }
                }
                Some(b'[') => {
                    self.at += 1;
                    self.space();
                    if !self.eat(b']') {
                        open.push(b']');
                        continue;
                    }
                }
                _ => return self.expected("a JSON value"),
            }
            // A value ended here.
            loop {
                let Some(&close) = open.last() else { return Ok(()) };
                self.space();
                if self.eat(close) {
                    open.pop();
                } else if self.eat(b',') {
                    self.space();
                    if close == b'}' {
                        self.key()?;
                    }
                    break;
                } else {
                    return self.expected("a comma or a closing bracket");
                }
            }
        }
    }

    /// The key of any object, and the colon behind it.
    fn key(&mut self) -> Found<()> {
        if !self.eat(b'"') {
            return self.expected("a key, a string,");
        }
        self.string(Surrogates::Any)?;
        self.space();
        if !self.eat(b':') {
            return self.expected("a colon");
        }
        self.space();
        Ok(())
    }
}
