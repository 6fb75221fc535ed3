/// The longest prefix of `text` of at most `max` bytes that ends at a character boundary.
///
/// A character is a code point here: an accent that is a code point of its own may be left behind. Cost: at
/// most three bytes are looked at.
///
/// ```
/// assert_eq!(lapwing::truncate::utf8("naïve", 3), "na");
/// assert_eq!(lapwing::truncate::utf8("naïve", 4), "naï");
/// assert_eq!(lapwing::truncate::utf8("naïve", 99), "naïve");
/// ```
pub fn utf8(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let mut end = max;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// As [`utf8`], for bytes that ought to be UTF-8 but were not checked: the length of the prefix.
///
/// Of valid UTF-8 this is the length of what [`utf8`] returns. Of anything else it is between `max - 3` and
/// `max`.
pub fn utf8_len(bytes: &[u8], max: usize) -> usize {
    if bytes.len() <= max {
        return bytes.len();
    }
    boundary(bytes, max.saturating_sub(3), max)
}

/// Appends `text` to `out`, whole if it has at most `max` bytes, and otherwise the longest prefix that leaves
/// room for `marker` within `max`, and `marker`.
///
/// A budget smaller than the marker gives the marker's longest prefix that fits; 0 gives nothing. Returns the
/// number of bytes of `text` that were kept.
///
/// ```
/// let mut out = String::new();
/// assert_eq!(lapwing::truncate::utf8_marked("lapwing", 6, "…", &mut out), 3);
/// assert_eq!(out, "lap…");
/// ```
pub fn utf8_marked(text: &str, max: usize, marker: &str, out: &mut alloc::string::String) -> usize {
    if text.len() <= max {
        out.push_str(text);
        return text.len();
    }
    let Some(room) = max.checked_sub(marker.len()) else {
        out.push_str(utf8(marker, max));
        return 0;
    };
    let kept = utf8(text, room);
    out.push_str(kept);
    out.push_str(marker);
    kept.len()
}

/// The largest position in `first..=at` that is not inside a character, as far as three bytes back can tell.
/// `at` may be the length of `bytes`.
pub(super) fn boundary(bytes: &[u8], first: usize, at: usize) -> usize {
    let is_continuation = |p: usize| p < bytes.len() && bytes[p] & 0xC0 == 0x80;
    let lowest = first.max(at.saturating_sub(3));
    let mut p = at;
    while p > lowest && is_continuation(p) {
        p -= 1;
    }
    p
}
