//! The truncated form of an event: type, category, source and ts in any case, and of its data as much as fits.

use std::fmt::Write as _;

use super::error::PublishError;
use crate::event::{Fields, Source};
use crate::truncate::{MIN_BUDGET, Scratch, Shape};

/// Appends the event of these parts to `out`, flagged, in `max` bytes at most.
///
/// The data is shortened, or left out. If that is not enough, the source loses metadata, the last entries first.
///
/// # Errors
///
/// When even that is not enough; `out` is as it was.
pub(super) fn write(
    fields: &Fields<'_>,
    max: usize,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Result<(), PublishError> {
    const TRUNCATED: &[u8] = b",\"truncated\":true}";
    const DATA: &[u8] = b",\"data\":";
    let start = out.len();
    out.extend_from_slice(b"{\"ts\":");
    out.extend_from_slice(itoa::Buffer::new().format(fields.ts).as_bytes());
    out.extend_from_slice(b",\"type\":");
    out.extend_from_slice(fields.r#type);
    out.extend_from_slice(b",\"category\":");
    out.extend_from_slice(fields.category);
    out.extend_from_slice(b",\"source\":");
    let fixed = out.len() - start + TRUNCATED.len();
    if fixed + fields.source.len() <= max {
        out.extend_from_slice(fields.source);
    } else if let Err(len) = write_source(fields.source, max.saturating_sub(fixed), out) {
        out.truncate(start);
        return Err(PublishError::FieldsTooLarge { len: fixed + len, max });
    }
    let room = max - (out.len() - start) - TRUNCATED.len();
    if let Some(data) = fields.data
        && let Some(budget) = room.checked_sub(DATA.len())
        && (budget >= data.len() || budget >= MIN_BUDGET)
    {
        out.extend_from_slice(DATA);
        match Shape::new().truncate_reusing(scratch, data, budget, out) {
            Ok(Some(_)) => {}
            Ok(None) => out.extend_from_slice(data),
            // 4 GiB of data and more.
            Err(_) => out.extend_from_slice(b"null"),
        }
    }
    out.extend_from_slice(TRUNCATED);
    Ok(())
}

/// Appends `source` without as many of its last entries of metadata as it takes to fit `max` bytes. If it does
/// not fit without any, returns how long that is.
fn write_source(source: &[u8], max: usize, out: &mut Vec<u8>) -> Result<(), usize> {
    let Ok(mut source) = serde_json::from_slice::<Source<'_>>(source) else { return Err(source.len()) };
    let metadata = source.metadata.take();
    let start = out.len();
    let mut text = json(&source);
    if text.len() > max {
        return Err(text.len());
    }
    text.pop();
    out.extend_from_slice(text.as_bytes());
    let mut separator = ",\"metadata\":{";
    let mut end = "}";
    for (key, value) in metadata.iter().flat_map(|metadata| metadata.iter()) {
        text.clear();
        // Writing to a string cannot fail.
        let _ = write!(text, "{separator}{}:{}", json(key), json(value));
        if out.len() - start + text.len() + "}}".len() > max {
            break;
        }
        out.extend_from_slice(text.as_bytes());
        separator = ",";
        end = "}}";
    }
    out.extend_from_slice(end.as_bytes());
    Ok(())
}

/// Strings, and what is made of them, have a form in JSON.
fn json(value: &(impl serde::Serialize + ?Sized)) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
