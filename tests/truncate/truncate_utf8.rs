use crate::checks;
use lapwing::truncate::{utf8, utf8_len, utf8_marked};
use proptest::prelude::*;

#[test]
fn the_marker_counts() {
    let marked = |max| {
        let mut out = String::new();
        utf8_marked("0123456789", max, "…", &mut out);
        out
    };
    assert_eq!(marked(10), "0123456789", "what fits has no marker");
    assert_eq!(marked(9), "012345…");
    assert_eq!(marked(4), "0…");
    assert_eq!(marked(3), "…");
    assert_eq!(marked(2), "", "no prefix of the marker has two bytes");
    assert_eq!(marked(0), "");
}

#[test]
fn a_character_is_kept_whole_or_not_at_all() {
    for text in ["aé", "a語", "a😀"] {
        for max in 1..text.len() {
            assert_eq!(utf8(text, max), "a", "{text} {max}");
        }
        assert_eq!(utf8(text, text.len()), text);
    }
}

#[test]
fn bytes_that_are_not_utf8_lose_three_at_most() {
    assert_eq!(utf8_len(&[0x80; 20], 10), 7);
    assert_eq!(utf8_len(&[0xff; 20], 10), 10);
    assert_eq!(utf8_len(&[0x80; 20], 2), 0);
}

proptest! {
    #[test]
    fn the_longest_prefix_at_every_budget(text in "(\\PC|é|語|😀|e\u{301}){0,40}", marker in "(…|[.]{3}|\\PC){0,4}") {
        for max in 0..text.len() + 2 {
            checks::utf8(&text, max, &marker);
        }
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..40), max in 0usize..44) {
        checks::utf8_bytes(&bytes, max);
    }
}
