//! Is it one event of the schema? In one pass, without building anything.

use super::word::{control, equal, splat};
use super::{Category, Fields};
use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::ops::Range;

/// Checks that `json` is one [`Event`](super::Event) as JSON, without making one.
///
/// What is accepted here is what `serde_json::from_str` reads as an `Event`, no less and no more: keys in any
/// order, keys that the schema does not know, white space, nesting of any depth in `data`. Memory is taken only
/// where a key or the category is spelled with escapes, and by a thread that meets brackets nested more than 63
/// deep for the first time.
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
    match std::str::from_utf8(json) {
        Ok(text) => {
            let error = InvalidEvent { at: 0, reason: InvalidReason::Expected("an event") };
            let scan = Scan { text, json, newline: Cell::new(false), error: Cell::new(error) };
            scan.document().ok_or_else(|| scan.error.get())
        }
        Err(error) => Err(InvalidEvent { at: error.valid_up_to(), reason: InvalidReason::Utf8 }),
    }
}

/// JSON of which [`validate`] has found that it is an event.
#[derive(Clone, Debug)]
pub struct Valid<'a> {
    ts: Ts,
    r#type: Text<'a>,
    category: Text<'a>,
    category_index: u8,
    source: &'a [u8],
    data: Option<&'a [u8]>,
    truncated: bool,
    newline: bool,
}

impl<'a> Valid<'a> {
    /// The type.
    pub fn r#type(&self) -> Cow<'a, str> {
        self.r#type.decoded()
    }

    /// The category.
    pub fn category(&self) -> Category<'a> {
        match Category::KNOWN.get(usize::from(self.category_index)) {
            Some(category) => category.clone(),
            None => Category::Other(self.category.decoded()),
        }
    }

    /// The parts as they are spelled, with their line breaks if they have any. A `ts` that is missing is 0.
    pub(crate) fn fields(&self) -> Fields<'a> {
        Fields {
            ts: match self.ts {
                Ts::Set(ts) => ts,
                Ts::Missing { .. } | Ts::Zero { .. } => 0,
            },
            r#type: self.r#type.spelling.as_bytes(),
            category: self.category.spelling.as_bytes(),
            source: self.source,
            data: self.data,
        }
    }

    /// [`Category::index`].
    #[inline(always)]
    pub(crate) fn category_index(&self) -> u8 {
        self.category_index
    }

    #[inline(always)]
    pub(crate) fn truncated(&self) -> bool {
        self.truncated
    }

    /// Whether there is a line break among the white space.
    #[cfg(test)]
    fn has_newline(&self) -> bool {
        self.newline
    }

    /// Whether it is ready as it is: on one line, and with a `ts`.
    #[inline(always)]
    pub(crate) fn is_complete(&self) -> bool {
        !self.newline && matches!(self.ts, Ts::Set(_))
    }

    pub(crate) fn ts(&self) -> &Ts {
        &self.ts
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
        write!(f, "{}. Nothing was published", Reason(self))
    }
}

/// Why JSON is no event, without what has happened to it.
pub(crate) struct Reason<'a>(pub(crate) &'a InvalidEvent);

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.0.at;
        match self.0.reason {
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
        }
    }
}

impl std::error::Error for InvalidEvent {}

/// A string of the document.
#[derive(Clone, Copy, Debug)]
struct Text<'a> {
    /// With the quotes.
    spelling: &'a str,
    escaped: bool,
}

impl<'a> Text<'a> {
    #[inline(always)]
    fn decoded(self) -> Cow<'a, str> {
        if self.escaped {
            self.unescaped()
        } else {
            Cow::Borrowed(&self.spelling[1..self.spelling.len() - 1])
        }
    }

    #[cold]
    fn unescaped(self) -> Cow<'a, str> {
        // It does not fail: what is here has been checked.
        serde_json::from_str(self.spelling).unwrap_or_default()
    }
}

/// The document. Its functions take where something begins, and return where it ends.
struct Scan<'a> {
    text: &'a str,
    /// The same in bytes.
    json: &'a [u8],
    /// Whether a line break was among the white space so far.
    newline: Cell<bool>,
    /// Why the last function that returned `None` did so.
    error: Cell<InvalidEvent>,
}

/// Which escapes of surrogates a string may have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Surrogates {
    /// Pairs: the string is read as text.
    Paired,
    /// Any: the string is carried as it is.
    Any,
}

impl<'a> Scan<'a> {
    #[cold]
    #[inline(never)]
    fn fail<T>(&self, at: usize, reason: InvalidReason) -> Option<T> {
        self.error.set(InvalidEvent { at, reason });
        None
    }

    #[cold]
    #[inline(never)]
    fn expected<T>(&self, at: usize, what: &'static str) -> Option<T> {
        self.fail(at, InvalidReason::Expected(what))
    }

    #[inline(always)]
    fn is(&self, at: usize, byte: u8) -> bool {
        self.json.get(at) == Some(&byte)
    }

    /// White space, which may be none.
    #[inline(always)]
    fn space(&self, at: usize) -> usize {
        match self.json.get(at) {
            Some(0..=b' ') => self.some_space(at),
            _ => at,
        }
    }

    #[inline(never)]
    fn some_space(&self, mut at: usize) -> usize {
        while let Some(byte @ (b' ' | b'\t' | b'\n' | b'\r')) = self.json.get(at) {
            if matches!(byte, b'\n' | b'\r') {
                self.newline.set(true);
            }
            at += 1;
        }
        at
    }

    fn document(&self) -> Option<Valid<'a>> {
        let (mut ts, mut r#type, mut category, mut source, mut data, mut truncated) =
            (None, None, None, None, None, None);
        let open = self.space(0);
        let end = self.object(open, "an event, an object,", |key_at, key, at| match key {
            "ts" => self.once(&mut ts, "ts", key_at, || self.ts(at)),
            "type" => self.once(&mut r#type, "type", key_at, || self.text(at, "a string")),
            "category" => self.once(&mut category, "category", key_at, || self.text(at, "a string")),
            "source" => self.once(&mut source, "source", key_at, || {
                let end = self.source(at)?;
                Some((&self.json[at..end], end))
            }),
            "data" => self.once(&mut data, "data", key_at, || {
                let end = self.value(at)?;
                Some((&self.json[at..end], end))
            }),
            "truncated" => self.once(&mut truncated, "truncated", key_at, || self.boolean(at)),
            _ => self.value(at),
        })?;
        let missing = |field| self.fail(end - 1, InvalidReason::Missing(field));
        let Some(r#type) = r#type else { return missing("type") };
        let Some(category): Option<Text<'a>> = category else { return missing("category") };
        let Some(source) = source else { return missing("source") };
        let rest = self.space(end);
        if rest < self.json.len() {
            return self.expected(rest, "nothing more, for the event is complete,");
        }
        Some(Valid {
            ts: ts.unwrap_or(Ts::Missing { insert_at: open + 1 }),
            r#type,
            category,
            category_index: Category::index_of(&category.decoded()),
            source,
            data,
            truncated: truncated.unwrap_or(false),
            newline: self.newline.get(),
        })
    }

    fn source(&self, at: usize) -> Option<usize> {
        let (mut kind, mut event, mut metadata) = (None, None, None);
        let end = self.object(at, "a source, an object,", |key_at, key, at| match key {
            "kind" => self.once(&mut kind, "kind", key_at, || self.text(at, "a string")),
            "event" => self.once(&mut event, "event", key_at, || {
                self.or_null(at, || self.text(at, "a string or `null`").map(|(_, end)| end))
            }),
            "metadata" => {
                self.once(&mut metadata, "metadata", key_at, || self.or_null(at, || self.metadata(at)))
            }
            _ => self.value(at),
        })?;
        if kind.is_none() {
            return self.fail(end - 1, InvalidReason::Missing("kind"));
        }
        Some(end)
    }

    fn metadata(&self, at: usize) -> Option<usize> {
        self.object(at, "metadata, an object, or `null`", |_, _, at| {
            self.text(at, "a string, as in all of the metadata,").map(|(_, end)| end)
        })
    }

    /// An object of the schema. `member` is given where a key is, what it is and where its value begins, and returns
    /// where that ends.
    #[inline(always)]
    fn object(
        &self,
        at: usize,
        what: &'static str,
        mut member: impl FnMut(usize, &str, usize) -> Option<usize>,
    ) -> Option<usize> {
        if !self.is(at, b'{') {
            return self.expected(at, what);
        }
        let mut at = self.space(at + 1);
        if self.is(at, b'}') {
            return Some(at + 1);
        }
        loop {
            let (key, end) = self.text(at, "a key, a string,")?;
            let value = self.colon(end)?;
            at = self.space(member(at, &key.decoded(), value)?);
            if self.is(at, b',') {
                at = self.space(at + 1);
            } else if self.is(at, b'}') {
                return Some(at + 1);
            } else {
                return self.expected(at, "a comma or a closing brace");
            }
        }
    }

    /// Puts what is read into `field`, where nothing may be yet. Where it ends.
    #[inline(always)]
    fn once<T>(
        &self,
        field: &mut Option<T>,
        name: &'static str,
        key_at: usize,
        read: impl FnOnce() -> Option<(T, usize)>,
    ) -> Option<usize> {
        if field.is_some() {
            return self.fail(key_at, InvalidReason::Duplicate(name));
        }
        let (value, end) = read()?;
        *field = Some(value);
        Some(end)
    }

    #[inline(always)]
    fn or_null(&self, at: usize, read: impl FnOnce() -> Option<usize>) -> Option<((), usize)> {
        let end = if self.is(at, b'n') { self.literal(at, "null") } else { read() };
        Some(((), end?))
    }

    /// An integer, with no fraction and no exponent, and not `-0`.
    fn ts(&self, start: usize) -> Option<(Ts, usize)> {
        let invalid = || self.fail(start, InvalidReason::Ts);
        let negative = self.is(start, b'-');
        let first = start + usize::from(negative);
        let mut at = first;
        let mut magnitude = 0_u64;
        while let Some(&word) = self.json[at..].first_chunk::<8>()
            && let Some(eight) = eight_digits(u64::from_le_bytes(word))
            && let Some(more) = magnitude.checked_mul(100_000_000).and_then(|high| high.checked_add(eight))
        {
            magnitude = more;
            at += 8;
        }
        while let Some(digit @ b'0'..=b'9') = self.json.get(at) {
            let more = magnitude.checked_mul(10).and_then(|tens| tens.checked_add(u64::from(digit - b'0')));
            let Some(more) = more else { return invalid() };
            magnitude = more;
            at += 1;
        }
        let leading_zero = at - first > 1 && self.json[first] == b'0';
        if at == first || leading_zero || matches!(self.json.get(at), Some(b'.' | b'e' | b'E')) {
            return invalid();
        }
        let ts = match (magnitude, negative) {
            (0, false) => return Some((Ts::Zero { range: start..at }, at)),
            (0, true) => None,
            (_, true) => 0_i64.checked_sub_unsigned(magnitude),
            (_, false) => i64::try_from(magnitude).ok(),
        };
        match ts {
            Some(ts) => Some((Ts::Set(ts), at)),
            None => invalid(),
        }
    }

    fn boolean(&self, at: usize) -> Option<(bool, usize)> {
        match self.json.get(at) {
            Some(b't') => Some((true, self.literal(at, "true")?)),
            Some(b'f') => Some((false, self.literal(at, "false")?)),
            _ => self.expected(at, "`true` or `false`"),
        }
    }

    #[inline(always)]
    fn literal(&self, at: usize, literal: &'static str) -> Option<usize> {
        if !self.json[at..].starts_with(literal.as_bytes()) {
            return self.expected(at, "a JSON value");
        }
        Some(at + literal.len())
    }

    fn number(&self, mut at: usize) -> Option<usize> {
        if self.is(at, b'-') {
            at += 1;
        }
        at = if self.is(at, b'0') { at + 1 } else { self.digits(at)? };
        if self.is(at, b'.') {
            at = self.digits(at + 1)?;
        }
        if let Some(b'e' | b'E') = self.json.get(at) {
            let sign = matches!(self.json.get(at + 1), Some(b'+' | b'-'));
            at = self.digits(at + 1 + usize::from(sign))?;
        }
        Some(at)
    }

    #[inline(always)]
    fn digits(&self, start: usize) -> Option<usize> {
        let mut at = start;
        while let Some(b'0'..=b'9') = self.json.get(at) {
            at += 1;
        }
        if at == start { self.expected(at, "a digit") } else { Some(at) }
    }

    /// A string that is read as text.
    #[inline(always)]
    fn text(&self, at: usize, what: &'static str) -> Option<(Text<'a>, usize)> {
        if !self.is(at, b'"') {
            return self.expected(at, what);
        }
        let close = self.plain(at + 1);
        let escaped = !self.is(close, b'"');
        let end = if escaped { self.string_with_escapes(close, Surrogates::Paired)? } else { close + 1 };
        Some((Text { spelling: &self.text[at..end], escaped }, end))
    }

    /// A string that is carried, from behind its first quote.
    #[inline(always)]
    fn string(&self, at: usize) -> Option<usize> {
        let close = self.plain(at);
        if self.is(close, b'"') { Some(close + 1) } else { self.string_with_escapes(close, Surrogates::Any) }
    }

    #[inline(never)]
    fn string_with_escapes(&self, mut at: usize, surrogates: Surrogates) -> Option<usize> {
        loop {
            match self.json.get(at) {
                Some(b'"') => return Some(at + 1),
                Some(b'\\') => at = self.plain(self.escape(at, surrogates)?),
                Some(_) => return self.fail(at, InvalidReason::ControlCharacter),
                None => return self.expected(at, "the end of the string"),
            }
        }
    }

    /// What stands in a string as it is.
    #[inline(always)]
    fn plain(&self, at: usize) -> usize {
        let (words, tail) = self.json[at..].as_chunks::<8>();
        for (i, word) in words.iter().enumerate() {
            let word = u64::from_le_bytes(*word);
            let found = (control(word) | equal(word, b'"') | equal(word, b'\\')) & splat(0x80);
            if found != 0 {
                // The lowest one is right, always.
                return at + 8 * i + found.trailing_zeros() as usize / 8;
            }
        }
        let special = |&byte: &u8| byte < 0x20 || byte == b'"' || byte == b'\\';
        self.json.len() - tail.len() + tail.iter().position(special).unwrap_or(tail.len())
    }

    fn escape(&self, at: usize, surrogates: Surrogates) -> Option<usize> {
        match self.json.get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => return Some(at + 2),
            Some(b'u') => {}
            _ => return self.fail(at, InvalidReason::Escape),
        }
        let Some(unit) = self.unit(at) else { return self.fail(at, InvalidReason::Escape) };
        match unit {
            _ if surrogates == Surrogates::Any => Some(at + 6),
            0xD800..0xDC00 if matches!(self.unit(at + 6), Some(0xDC00..0xE000)) => Some(at + 12),
            0xD800..0xE000 => self.fail(at, InvalidReason::LoneSurrogate),
            _ => Some(at + 6),
        }
    }

    /// The code unit that a `\uXXXX` spells, if there is one here.
    fn unit(&self, at: usize) -> Option<u32> {
        let &[b'\\', b'u', a, b, c, d] = self.json.get(at..)?.first_chunk::<6>()? else { return None };
        let mut unit = 0;
        for digit in [a, b, c, d] {
            unit = unit << 4 | char::from(digit).to_digit(16)?;
        }
        Some(unit)
    }

    /// Any value.
    fn value(&self, mut at: usize) -> Option<usize> {
        let mut open = Brackets { inner: 1, outer: Vec::new() };
        loop {
            // A value begins here.
            at = match self.json.get(at) {
                Some(b'"') => self.string(at + 1)?,
                Some(b'{') => {
                    at = self.space(at + 1);
                    if self.is(at, b'}') {
                        at + 1
                    } else {
                        open.push(true);
                        at = self.key(at)?;
                        continue;
                    }
                }
                Some(b'[') => {
                    at = self.space(at + 1);
                    if self.is(at, b']') {
                        at + 1
                    } else {
                        open.push(false);
                        continue;
                    }
                }
                Some(b'-' | b'0'..=b'9') => self.number(at)?,
                Some(b't') => self.literal(at, "true")?,
                Some(b'f') => self.literal(at, "false")?,
                Some(b'n') => self.literal(at, "null")?,
                _ => return self.expected(at, "a JSON value"),
            };
            // A value ended here.
            loop {
                let Some(object) = open.last() else { return Some(at) };
                at = self.space(at);
                if self.is(at, b',') {
                    at = self.space(at + 1);
                    if object {
                        at = self.key(at)?;
                    }
                    break;
                }
                if !self.is(at, if object { b'}' } else { b']' }) {
                    let bracket =
                        if object { "a comma or a closing brace" } else { "a comma or a closing bracket" };
                    return self.expected(at, bracket);
                }
                at += 1;
                open.pop();
            }
        }
    }

    /// The key of any object, and the colon behind it.
    #[inline(always)]
    fn key(&self, at: usize) -> Option<usize> {
        if !self.is(at, b'"') {
            return self.expected(at, "a key, a string,");
        }
        self.colon(self.string(at + 1)?)
    }

    #[inline(always)]
    fn colon(&self, at: usize) -> Option<usize> {
        let at = self.space(at);
        if !self.is(at, b':') {
            return self.expected(at, "a colon");
        }
        Some(self.space(at + 1))
    }
}

/// The brackets that are open, a bit each: 1 for an object.
struct Brackets {
    /// The innermost ones, the last one lowest, above them a 1 that is no bracket.
    inner: u64,
    /// What is further out, as it was when `inner` was full. Its memory is the thread's, for one document after
    /// the other.
    outer: Vec<u64>,
}

thread_local! {
    static OUTER: Cell<Vec<u64>> = const { Cell::new(Vec::new()) };
}

impl Brackets {
    #[inline(always)]
    fn push(&mut self, object: bool) {
        if self.inner >> 63 == 1 {
            self.push_outer();
        }
        self.inner = self.inner << 1 | u64::from(object);
    }

    #[cold]
    fn push_outer(&mut self) {
        if self.outer.capacity() == 0 {
            // A thread that is at its end has none any more.
            self.outer = OUTER.try_with(Cell::take).unwrap_or_default();
            self.outer.clear();
        }
        self.outer.push(self.inner);
        self.inner = 1;
    }

    #[inline(always)]
    fn last(&self) -> Option<bool> {
        (self.inner != 1).then_some(self.inner & 1 == 1)
    }

    #[inline(always)]
    fn pop(&mut self) {
        self.inner >>= 1;
        if self.inner == 1
            && let Some(outer) = self.outer.pop()
        {
            self.inner = outer;
        }
    }
}

impl Drop for Brackets {
    #[inline(always)]
    fn drop(&mut self) {
        if self.outer.capacity() != 0 {
            let outer = std::mem::take(&mut self.outer);
            let _ = OUTER.try_with(|place| place.set(outer));
        }
    }
}

/// The number that eight digits spell, the first one in the lowest byte: neighbours are joined three times, in
/// all lanes at once.
#[inline(always)]
fn eight_digits(word: u64) -> Option<u64> {
    // The high half of each byte is 3, and stays so if 6 is added.
    let high = splat(0xF0);
    if word & high != splat(b'0') || word.wrapping_add(splat(6)) & high != splat(b'0') {
        return None;
    }
    let ones = word ^ splat(b'0');
    let twos = (ones * 10 + (ones >> 8)) & 0x00FF_00FF_00FF_00FF;
    let fours = (twos * 100 + (twos >> 16)) & 0x0000_FFFF_0000_FFFF;
    Some((fours * 10_000 + (fours >> 32)) & 0xFFFF_FFFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_those_of_the_document() {
        let json = br#" {"x":1,"source": {"kind" : "cdp", "y":[]},"truncated":true,"category":"p\u0061ge","ts":-12,"data": [1, 2] ,"type":"a\n"} "#;
        let valid = validate(json).expect("it is an event");
        assert_eq!(
            valid.fields(),
            Fields {
                ts: -12,
                r#type: br#""a\n""#,
                category: br#""p\u0061ge""#,
                source: br#"{"kind" : "cdp", "y":[]}"#,
                data: Some(b"[1, 2]"),
            }
        );
        assert_eq!((valid.r#type(), valid.category()), (Cow::Borrowed("a\n"), Category::Page));
        assert_eq!(valid.category_index(), 2);
        assert!(valid.truncated() && !valid.has_newline());
    }

    #[test]
    fn a_missing_ts_can_be_inserted_and_a_zero_replaced() {
        let rest = r#""type":"t","category":"weather","source":{"kind":"cdp"}}"#;
        let expected = format!("{{\"ts\":7,{rest}");

        let missing = format!("  {{{rest}");
        let valid = validate(missing.as_bytes()).expect("it is an event");
        let Ts::Missing { insert_at } = valid.ts() else { panic!("{valid:?}") };
        let mut json = missing.clone();
        json.insert_str(*insert_at, "\"ts\":7,");
        assert_eq!(json.trim_start(), expected);
        assert_eq!((valid.fields().ts, valid.fields().data, valid.truncated()), (0, None, false));
        assert_eq!(valid.category_index(), 12);

        let zero = format!("{{\"ts\":0,{rest}");
        let Ts::Zero { range } = validate(zero.as_bytes()).expect("it is an event").ts().clone() else {
            panic!("{zero}")
        };
        let mut json = zero.clone();
        json.replace_range(range, "7");
        assert_eq!(json, expected);

        for ts in [1, -1, 12_345_678, 1_795_346_234_966_162, i64::MIN, i64::MAX] {
            let json = format!("{{\"ts\":{ts},{rest}");
            assert_eq!(validate(json.as_bytes()).expect("it is an event").ts(), &Ts::Set(ts));
        }
    }

    #[test]
    fn line_breaks_between_tokens_are_seen_wherever_they_are() {
        let json = r#"{"type":"t","category":"c","source":{"kind":"cdp","metadata":{"a":"b"}},"data":[1,{"a":{}}],"x":0}"#;
        assert!(!validate(json.as_bytes()).expect("it is an event").has_newline());
        for at in (0..=json.len()).filter(|&at| at == json.len() || b"{}[]:,".contains(&json.as_bytes()[at]))
        {
            for (space, is_one) in [(" \t ", false), (" \n", true), ("\r", true)] {
                let mut json = json.to_owned();
                json.insert_str(at, space);
                assert_eq!(
                    validate(json.as_bytes()).expect("it is an event").has_newline(),
                    is_one,
                    "{json:?}"
                );
            }
        }
    }
}
