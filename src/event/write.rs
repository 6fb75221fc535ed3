//! Events to JSON, byte for byte what `serde_json` writes, but for the line breaks in `data`.

use super::word::{control, equal, splat};
use super::{Category, Envelope, Event, Fields, Metadata, RawValue, SourceKind};
use std::mem::{MaybeUninit, take};
use std::ops::Range;

/// Where in the output the parts of an event are.
pub(crate) struct Written {
    /// Where `data` belongs that was left out.
    pub(crate) hole: Option<usize>,
    pub(crate) r#type: Range<usize>,
    pub(crate) category: Range<usize>,
    pub(crate) source: Range<usize>,
    /// `data` that was not left out.
    pub(crate) data: Option<Range<usize>>,
}

impl Written {
    /// The parts of the event that was written to `out`.
    pub(crate) fn fields<'a>(&self, event: &'a Event<'_>, ts: i64, out: &'a [u8]) -> Fields<'a> {
        Fields {
            ts,
            r#type: &out[self.r#type.clone()],
            category: &out[self.category.clone()],
            source: &out[self.source.clone()],
            data: match (&self.data, self.hole) {
                (Some(data), _) => Some(&out[data.clone()]),
                (None, Some(_)) => spelling(event),
                (None, None) => None,
            },
        }
    }
}

fn spelling<'a>(event: &'a Event<'_>) -> Option<&'a [u8]> {
    event.data.as_deref().map(|data: &RawValue| data.get().as_bytes())
}

/// Appends `event` as JSON, with `ts` in the place of its own.
///
/// Data of more than `inline` bytes is not copied: it belongs at `hole`, and the JSON is `out[..hole]`, the data,
/// `out[hole..]`. Unless there are line breaks in it: then it is copied without them, whatever its size.
pub(crate) fn write(event: &Event<'_>, ts: i64, inline: usize, out: &mut Vec<u8>) -> Written {
    match plain(event, ts, inline, out) {
        Some(written) => written,
        None => any(event, ts, inline, out),
    }
}

/// Appends `envelope` as JSON.
pub(super) fn write_envelope(envelope: &Envelope<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"seq\":");
    out.extend_from_slice(itoa::Buffer::new().format(envelope.seq).as_bytes());
    out.extend_from_slice(b",\"event\":");
    write(&envelope.event, envelope.event.ts, usize::MAX, out);
    out.push(b'}');
}

/// At least as many bytes as all of the text in an event that is not its own.
const FRAME: usize = 256;

/// At least as many bytes as the text around a pair of metadata.
const PAIR: usize = 8;

/// [`write`] for an event without anything to escape or to leave out: one pass, by moves of fixed size where the
/// length allows it. `None` for all others: then nothing was appended.
fn plain(event: &Event<'_>, ts: i64, inline: usize, out: &mut Vec<u8>) -> Option<Written> {
    let Event { r#type, category, source, truncated, .. } = event;
    let raw = spelling(event);
    let left_out = raw.is_some_and(|raw| raw.len() > inline);
    let mut room = FRAME + r#type.len();
    if let Category::Other(name) = category {
        room += name.len();
    }
    if let SourceKind::Other(name) = &source.kind {
        room += name.len();
    }
    if let Some(event) = &source.event {
        room += event.len();
    }
    for (key, value) in source.metadata.iter().flat_map(Metadata::iter) {
        room += key.len() + value.len() + PAIR;
    }
    if let Some(raw) = raw
        && !left_out
    {
        room += raw.len();
    }
    out.reserve(room);

    let end = out.capacity();
    let mut to = Cursor { rest: out.spare_capacity_mut(), end };
    const { &literal::<8>(&["{\"ts\":"]) }.put(&mut to)?;
    to.integer(ts)?;
    const { &literal::<16>(&[",\"type\":\""]) }.put(&mut to)?;
    let type_start = to.at() - 1;
    to.text(r#type)?;
    let type_end = to.at() + 1;
    let category_start = type_end + const { ",\"category\":".len() };
    let category_end = match category {
        Category::Other(name) => {
            const { &literal::<16>(&["\",\"category\":\""]) }.put(&mut to)?;
            to.text(name)?;
            const { &literal::<32>(&["\",\"source\":{\"kind\":\""]) }.put(&mut to)?;
            category_start + name.len() + 2
        }
        known => {
            let known = usize::from(known.index());
            CATEGORY[known].put(&mut to)?;
            category_start + Category::NAMES[known].len() + 2
        }
    };
    let source_start = category_end + const { ",\"source\":".len() };
    match (&source.kind, &source.event) {
        (SourceKind::Other(name), event) => {
            to.text(name)?;
            if let Some(event) = event {
                const { &literal::<16>(&["\",\"event\":\""]) }.put(&mut to)?;
                to.text(event)?;
            }
        }
        (known, Some(event)) => {
            KIND_AND_EVENT[usize::from(known.index())].put(&mut to)?;
            to.text(event)?;
        }
        (known, None) => KIND[usize::from(known.index())].put(&mut to)?,
    }
    if let Some(metadata) = &source.metadata {
        const { &literal::<16>(&["\",\"metadata\":{"]) }.put(&mut to)?;
        for (i, (key, value)) in metadata.iter().enumerate() {
            if i == 0 {
                const { &literal::<4>(&["\""]) }.put(&mut to)?;
            } else {
                const { &literal::<4>(&["\",\""]) }.put(&mut to)?;
            }
            to.text(key)?;
            const { &literal::<4>(&["\":\""]) }.put(&mut to)?;
            to.text(value)?;
        }
        if metadata.is_empty() {
            const { &literal::<4>(&["}}"]) }.put(&mut to)?;
        } else {
            const { &literal::<4>(&["\"}}"]) }.put(&mut to)?;
        }
    } else {
        const { &literal::<4>(&["\"}"]) }.put(&mut to)?;
    }
    let source = source_start..to.at();
    let (mut data, mut hole) = (None, None);
    if let Some(raw) = raw {
        const { &literal::<8>(&[",\"data\":"]) }.put(&mut to)?;
        let start = to.at();
        if left_out {
            if memchr::memchr2(b'\n', b'\r', raw).is_some() {
                return None;
            }
            hole = Some(start);
        } else {
            to.raw(raw)?;
            data = Some(start..to.at());
        }
    }
    if *truncated {
        const { &literal::<32>(&[",\"truncated\":true}"]) }.put(&mut to)?;
    } else {
        const { &literal::<4>(&["}"]) }.put(&mut to)?;
    }
    let len = to.at();
    // SAFETY: `len` is within the capacity, and everything before it is written: up to the old length by the
    // vector's own invariant, and from there on by the cursor's.
    unsafe { out.set_len(len) };
    Some(Written { hole, r#type: type_start..type_end, category: category_start..category_end, source, data })
}

/// Spare capacity that is written from the front. Each step is `None` if there is too little of it, or if it
/// met a byte that cannot be copied as it is: then the whole has to be written in another way.
struct Cursor<'a> {
    /// What is left. Everything in front of it was written.
    rest: &'a mut [MaybeUninit<u8>],
    /// Where in the vector it ends.
    end: usize,
}

impl Cursor<'_> {
    /// Where in the vector the next byte goes.
    #[inline(always)]
    fn at(&self) -> usize {
        self.end - self.rest.len()
    }

    /// Text that stands between quotes as it is.
    #[inline(always)]
    fn text(&mut self, text: &str) -> Option<()> {
        self.copy(text.as_bytes(), |word| control(word) | equal(word, b'"') | equal(word, b'\\'))
    }

    /// JSON without a line break.
    #[inline(always)]
    fn raw(&mut self, json: &[u8]) -> Option<()> {
        if json.len() < 256 {
            return self.copy(json, |word| equal(word, b'\n') | equal(word, b'\r'));
        }
        if memchr::memchr2(b'\n', b'\r', json).is_some() {
            return None;
        }
        let (to, rest) = take(&mut self.rest).split_at_mut_checked(json.len())?;
        put(to, json);
        self.rest = rest;
        Some(())
    }

    #[inline(always)]
    fn integer(&mut self, n: i64) -> Option<()> {
        const E8: u64 = 100_000_000;
        const E15: i64 = 1_000_000_000_000_000;
        // Sixteen digits: every microsecond from 2001 to 2286.
        if (E15..10 * E15).contains(&n) {
            let n = n as u64;
            let (to, rest) = take(&mut self.rest).split_first_chunk_mut::<16>()?;
            put(&mut to[..8], &eight_digits(n / E8).to_le_bytes());
            put(&mut to[8..], &eight_digits(n % E8).to_le_bytes());
            self.rest = rest;
            Some(())
        } else {
            self.copy(itoa::Buffer::new().format(n).as_bytes(), |_| 0)
        }
    }

    /// `None` if one of the bytes is special, which `special` tells of eight by a bit, the highest of a byte,
    /// that is set.
    ///
    /// A call of `memcpy` costs more than all the bytes of a short text: they are copied by moves that overlap, and
    /// looked at on the way.
    #[inline(always)]
    fn copy(&mut self, from: &[u8], special: impl Fn(u64) -> u64) -> Option<()> {
        let word = |bytes: &[u8; 8]| special(u64::from_le_bytes(*bytes));
        let half = |bytes: &[u8; 4]| u64::from(u32::from_le_bytes(*bytes));
        let (to, rest) = take(&mut self.rest).split_at_mut_checked(from.len())?;
        self.rest = rest;
        let mut found = 0;
        if let (Some(last), Some(to_last)) = (from.last_chunk::<8>(), to.last_chunk_mut::<8>()) {
            put(to_last, last);
            found = word(last);
            for (to, from) in to.as_chunks_mut::<8>().0.iter_mut().zip(from.as_chunks::<8>().0) {
                put(to, from);
                found |= word(from);
            }
        } else if let (Some(first), Some(last)) = (from.first_chunk::<4>(), from.last_chunk::<4>()) {
            put(to.first_chunk_mut::<4>()?, first);
            put(to.last_chunk_mut::<4>()?, last);
            found = special(half(first) | half(last) << 32);
        } else {
            for (to, &byte) in to.iter_mut().zip(from) {
                to.write(byte);
                found |= special(u64::from(byte) | splat(b' ') << 8);
            }
        }
        if found & splat(0x80) == 0 { Some(()) } else { None }
    }
}

#[inline(always)]
fn put(to: &mut [MaybeUninit<u8>], from: &[u8]) {
    assert_eq!(to.len(), from.len());
    // SAFETY: both have `from.len()` bytes, and they do not overlap, because `to` is borrowed exclusively.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr().cast(), from.len()) }
}

/// The decimal digits of a number below 10^8, the first one in the lowest byte: it is halved three times, in
/// all lanes at once, by multiplication with the reciprocal of 100 and of 10.
#[inline(always)]
fn eight_digits(n: u64) -> u64 {
    let fours = (n / 10_000) | (n % 10_000) << 32;
    let hundreds = ((fours * 5243) >> 19) & 0x0000_007F_0000_007F;
    let twos = hundreds | (fours - hundreds * 100) << 16;
    let tens = ((twos * 103) >> 10) & 0x000F_000F_000F_000F;
    let ones = tens | (twos - tens * 10) << 8;
    ones | 0x3030_3030_3030_3030
}

use fixed::{Literal, literal};

/// Text of any length up to `N`, written by one move of `N` bytes.
mod fixed {
    use super::{Cursor, put, take};

    pub(super) struct Literal<const N: usize> {
        bytes: [u8; N],
        /// At most `N`.
        len: usize,
    }

    /// All parts, one behind the other. They have `N` bytes at most.
    pub(super) const fn literal<const N: usize>(parts: &[&str]) -> Literal<N> {
        let mut bytes = [0; N];
        let (mut len, mut part) = (0, 0);
        while part < parts.len() {
            let from = parts[part].as_bytes();
            let mut at = 0;
            while at < from.len() {
                bytes[len] = from[at];
                (len, at) = (len + 1, at + 1);
            }
            part += 1;
        }
        Literal { bytes, len }
    }

    impl<const N: usize> Literal<N> {
        #[inline(always)]
        pub(super) fn put(&self, to: &mut Cursor<'_>) -> Option<()> {
            let rest = take(&mut to.rest);
            put(rest.first_chunk_mut::<N>()?, &self.bytes);
            to.rest = &mut rest[self.len..];
            Some(())
        }
    }
}

/// From the end of the type to the beginning of the source's kind, for each known category.
static CATEGORY: [Literal<48>; Category::NAMES.len()] = {
    let mut literals = [const { literal(&[]) }; Category::NAMES.len()];
    let mut i = 0;
    while i < literals.len() {
        literals[i] = literal(&["\",\"category\":\"", Category::NAMES[i], "\",\"source\":{\"kind\":\""]);
        i += 1;
    }
    literals
};

/// Each known kind.
static KIND: [Literal<16>; SourceKind::NAMES.len()] = {
    let mut literals = [const { literal(&[]) }; SourceKind::NAMES.len()];
    let mut i = 0;
    while i < literals.len() {
        literals[i] = literal(&[SourceKind::NAMES[i]]);
        i += 1;
    }
    literals
};

/// From each known kind to the beginning of the source's event.
static KIND_AND_EVENT: [Literal<32>; SourceKind::NAMES.len()] = {
    let mut literals = [const { literal(&[]) }; SourceKind::NAMES.len()];
    let mut i = 0;
    while i < literals.len() {
        literals[i] = literal(&[SourceKind::NAMES[i], "\",\"event\":\""]);
        i += 1;
    }
    literals
};

/// [`write`] for every event.
fn any(event: &Event<'_>, ts: i64, inline: usize, out: &mut Vec<u8>) -> Written {
    out.extend_from_slice(b"{\"ts\":");
    out.extend_from_slice(itoa::Buffer::new().format(ts).as_bytes());
    out.extend_from_slice(b",\"type\":");
    let r#type = text(&event.r#type, out);
    out.extend_from_slice(b",\"category\":");
    let category = text(event.category.as_str(), out);
    out.extend_from_slice(b",\"source\":");
    let start = out.len();
    out.extend_from_slice(b"{\"kind\":");
    text(event.source.kind.as_str(), out);
    if let Some(event) = &event.source.event {
        out.extend_from_slice(b",\"event\":");
        text(event, out);
    }
    if let Some(metadata) = &event.source.metadata {
        out.extend_from_slice(b",\"metadata\":");
        pairs(metadata, out);
    }
    out.push(b'}');
    let source = start..out.len();
    let (mut data, mut hole) = (None, None);
    if let Some(raw) = spelling(event) {
        out.extend_from_slice(b",\"data\":");
        let start = out.len();
        let mut from = 0;
        for at in memchr::memchr2_iter(b'\n', b'\r', raw) {
            out.extend_from_slice(&raw[from..at]);
            from = at + 1;
        }
        if from == 0 && raw.len() > inline {
            hole = Some(start);
        } else {
            out.extend_from_slice(&raw[from..]);
            data = Some(start..out.len());
        }
    }
    out.extend_from_slice(if event.truncated { b",\"truncated\":true}" } else { b"}" });
    Written { hole, r#type, category, source, data }
}

fn pairs(metadata: &Metadata<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (i, (key, value)) in metadata.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        text(key, out);
        out.push(b':');
        text(value, out);
    }
    out.push(b'}');
}

/// Appends `text` as a JSON string. Where it is.
fn text(text: &str, out: &mut Vec<u8>) -> Range<usize> {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let start = out.len();
    out.push(b'"');
    let mut from = 0;
    for (at, byte) in text.bytes().enumerate() {
        let letter = match byte {
            b'"' | b'\\' => byte,
            0x08 => b'b',
            b'\t' => b't',
            b'\n' => b'n',
            0x0C => b'f',
            b'\r' => b'r',
            0..0x20 => b'u',
            _ => continue,
        };
        out.extend_from_slice(&text.as_bytes()[from..at]);
        out.extend_from_slice(&[b'\\', letter]);
        if letter == b'u' {
            out.extend_from_slice(&[b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        from = at + 1;
    }
    out.extend_from_slice(&text.as_bytes()[from..]);
    out.push(b'"');
    start..out.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Source;

    fn event(data: &str) -> Event<'_> {
        let source = Source::new(SourceKind::Cdp).event("e").metadata("k", "v");
        Event::new("t", Category::Page, source).ts(1).data_json(data).expect("it is JSON")
    }

    /// Writes behind something else, and checks that the parts are where they are said to be.
    fn written(event: &Event<'_>, ts: i64, inline: usize) -> (Vec<u8>, Option<usize>) {
        let mut out = b"before".to_vec();
        let written = write(event, ts, inline, &mut out);
        let fields = written.fields(event, ts, &out);
        let json = |value: &str| serde_json::to_string(value).expect("text has JSON").into_bytes();
        assert_eq!(fields.ts, ts);
        assert_eq!(fields.r#type, json(&event.r#type));
        assert_eq!(fields.category, json(event.category.as_str()));
        assert_eq!(fields.source, serde_json::to_vec(&event.source).expect("a source has JSON"));
        let data = event.data.as_ref().map(|data| data.get().replace(['\n', '\r'], "").into_bytes());
        assert_eq!(fields.data.map(Vec::from), data);

        let mut whole = out.clone();
        if let Some(hole) = written.hole {
            whole.splice(hole..hole, fields.data.expect("only data is left out").iter().copied());
        }
        let mut expected = b"before".to_vec();
        event.clone().ts(ts).write_json(&mut expected);
        assert_eq!(String::from_utf8(whole), String::from_utf8(expected));
        (out, written.hole)
    }

    #[test]
    fn data_that_is_too_large_to_copy_leaves_a_hole() {
        for len in [2, 3, 255, 256, 257, 5000] {
            let data = format!("\"{}\"", "x".repeat(len - 2));
            let (out, hole) = written(&event(&data), 7, len);
            assert_eq!(hole, None);
            assert!(out.ends_with(format!("{data}}}").as_bytes()));
            let (out, hole) = written(&event(&data), 7, len - 1);
            assert_eq!(hole, Some(out.len() - 1));
            assert!(out.ends_with(b",\"data\":}"));
        }
    }

    #[test]
    fn data_with_a_line_break_is_copied_without_it_whatever_its_size() {
        for line_break in ["\n", "\r", "\r\n\n"] {
            for len in [0, 1, 100, 300] {
                let data = format!("[{line_break}\"{}\"{line_break}]", "x".repeat(len));
                for inline in [0, len, usize::MAX] {
                    let (out, hole) = written(&event(&data), 7, inline);
                    assert_eq!(hole, None);
                    assert!(out.ends_with(format!("[\"{}\"]}}", "x".repeat(len)).as_bytes()));
                }
            }
        }
    }

    #[test]
    fn the_parts_of_every_kind_of_event_are_found() {
        let names = ["console", "interaction", "screenshot", "weather", "a \"quoted\" name", ""];
        let kinds = ["cdp", "local_process", "satellite", "\\"];
        for (category, kind) in names.iter().flat_map(|name| kinds.map(|kind| (*name, kind))) {
            for (texts, truncated) in [("plain", false), ("with \u{1} control", true)] {
                let mut event = Event::new(texts, category.into(), Source::new(kind.into()));
                event.truncated = truncated;
                written(&event, i64::MIN, 0);
                written(&event, 1_795_346_276_448_549, 0);
                event.source = event.source.event(texts);
                written(&event, 0, 0);
                event.source.metadata = Some(Metadata::new());
                written(&event, 999_999_999_999_999, 0);
                event.source = event.source.metadata("a", texts).metadata("a", "b");
                written(&event, 10_000_000_000_000_000, 0);
                written(&event.data_json("[1,\n2]").expect("it is JSON"), i64::MAX, 3);
            }
        }
    }

    #[test]
    fn an_ordinary_event_is_written_in_one_pass() {
        let mut out = Vec::new();
        assert!(plain(&event("[1]"), 1_795_346_276_448_549, 3, &mut out).is_some());
        assert!(plain(&event("[1]"), 7, 2, &mut out).is_some());
        out.clear();
        assert!(plain(&event("[1,\n2]"), 7, 9, &mut out).is_none());
        assert!(plain(&Event { r#type: "\"".into(), ..event("1") }, 7, 9, &mut out).is_none());
        assert_eq!(out, b"", "nothing is appended where another way must be taken");
    }
}
