//! Events to JSON, byte for byte what `serde_json` writes, but for the line breaks in `data`.

use super::{Envelope, Event, Fields, Metadata, RawValue};
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
    any(event, ts, inline, out)
}

/// Appends `envelope` as JSON.
pub(super) fn write_envelope(envelope: &Envelope<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"seq\":");
    out.extend_from_slice(itoa::Buffer::new().format(envelope.seq).as_bytes());
    out.extend_from_slice(b",\"event\":");
    write(&envelope.event, envelope.event.ts, usize::MAX, out);
    out.push(b'}');
}

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
