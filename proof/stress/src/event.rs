//! Events that say what they are: their time tells whose they are, and all their JSON follows from that.

use std::io::Write;
use std::sync::LazyLock;

use serde_json::Value;

use crate::payload::{Origin, PUBLISHERS};
use crate::violation::Violation;

pub const CATEGORIES: [&str; 6] = ["console", "network", "page", "api", "system", "weather"];

/// The most bytes that a stream's slot holds of an event here, and the most of an envelope.
pub const INLINE_BYTES: usize = 256;
pub const ENVELOPE_BYTES: usize = 20_000;

static LETTERS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let letter = |at: u64| b'a' + ((at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % 26) as u8;
    (0..64_000).map(letter).collect()
});

/// Makes what all events are made of, before there are threads: ThreadSanitizer does not see how std does it for many.
pub fn prepare() {
    LazyLock::force(&LETTERS);
}

impl Origin {
    fn ts(self) -> u64 {
        u64::from(self.publisher) << 48 | (self.count + 1)
    }

    fn of_ts(ts: u64) -> Option<Self> {
        let publisher =
            u8::try_from(ts >> 48).ok().filter(|&publisher| usize::from(publisher) < PUBLISHERS)?;
        Some(Self { publisher, count: (ts & ((1 << 48) - 1)).checked_sub(1)? })
    }

    pub fn category(self) -> usize {
        (self.mix() >> 40) as usize % CATEGORIES.len()
    }

    /// A text of which each part differs from every other: short as a rule, sometimes of many chunks, and sometimes larger than an envelope may be.
    fn text(self) -> &'static [u8] {
        let mix = self.mix();
        let size = (mix >> 20 & 0x3ff) as usize;
        let len = match mix % 128 {
            0 => 20_000 + 20 * size,
            1..4 => 12 * size,
            4..12 => 2 * size,
            _ => size % 60,
        };
        let from = (mix >> 30) as usize % 20_000;
        &LETTERS[from..from + len]
    }

    /// Appends its JSON.
    pub fn write_json(self, out: &mut Vec<u8>) {
        let (ts, category, mix, Self { publisher, count }) =
            (self.ts(), CATEGORIES[self.category()], self.mix(), self);
        let _ = write!(
            out,
            r#"{{"ts":{ts},"type":"stress","category":"{category}","source":{{"kind":"local_process"}},"data":{{"text":""#
        );
        out.extend_from_slice(self.text());
        let _ = write!(out, r#"","end":[{publisher},{count},{mix}]}}}}"#);
    }

    /// Whose event this is, if every byte is right. `scratch` is for what it should be.
    pub fn of_json(json: &[u8], truncated: bool, scratch: &mut Vec<u8>) -> Result<Self, Violation> {
        let torn = || Violation::Torn(String::from_utf8_lossy(json).into_owned());
        let digits = json.strip_prefix(b"{\"ts\":").ok_or_else(torn)?;
        let len = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let ts = std::str::from_utf8(&digits[..len]).ok().and_then(|digits| digits.parse().ok());
        let origin = ts.and_then(Self::of_ts).ok_or_else(torn)?;
        scratch.clear();
        origin.write_json(scratch);
        let is_right = if truncated { is_form_of(scratch, json) == Some(true) } else { scratch == json };
        if !is_right {
            let (right, is) = (String::from_utf8_lossy(scratch), String::from_utf8_lossy(json));
            return Err(Violation::Torn(format!(
                "{origin:?}, truncated {truncated}, is\n{is}\ninstead of\n{right}"
            )));
        }
        Ok(origin)
    }
}

/// Whether `form` is the event `whole` with less data, flagged.
fn is_form_of(whole: &[u8], form: &[u8]) -> Option<bool> {
    let whole: Value = serde_json::from_slice(whole).ok()?;
    let mut form: Value = serde_json::from_slice(form).ok()?;
    let fields = form.as_object_mut()?;
    let is_flagged = fields.remove("truncated")? == Value::Bool(true);
    let data = fields.remove("data");
    let mut rest = whole.clone();
    rest.as_object_mut()?.remove("data");
    let is_part = match data.as_ref().and_then(|data| data.get("text")).map(|text| text.as_str()) {
        Some(text) => whole["data"]["text"].as_str()?.starts_with(text?),
        None => true,
    };
    let end = data.as_ref().and_then(|data| data.get("end")).and_then(Value::as_array);
    let end_is_part = match end {
        Some(end) => whole["data"]["end"].as_array()?.starts_with(end),
        None => true,
    };
    Some(is_flagged && is_part && end_is_part && form == rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_counts() {
        let mut scratch = Vec::new();
        for count in 0..50 {
            let origin = Origin { publisher: 2, count };
            let mut json = Vec::new();
            origin.write_json(&mut json);
            assert_eq!(Origin::of_json(&json, false, &mut scratch), Ok(origin));
            for at in (0..json.len()).step_by(1 + json.len() / 200) {
                let mut torn = json.clone();
                torn[at] ^= 1;
                assert!(Origin::of_json(&torn, false, &mut scratch).is_err(), "byte {at} of {origin:?}");
            }
            assert!(Origin::of_json(&json[..json.len() - 1], false, &mut scratch).is_err());
        }
    }
}
