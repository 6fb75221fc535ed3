//! Tests that need the inside: stopped publishers, the arithmetic of slots, the range's end.

use super::*;
use crate::ring::slots::Slots;

#[test]
fn the_slot_of_a_seq_is_its_remainder() {
    let seqs =
        [1, 2, 3, 5, 63, 64, 65, 1000, 1 << 31, (1 << 32) + 7, (1 << 61) + 12345, MAX_SEQ - 1, MAX_SEQ];
    for capacity in (1..=130).chain([255, 256, 257, 1000, 4096, 65_521, 65_536]) {
        let slots = Slots::<Typed<u64>>::new(capacity, 2, 1).unwrap();
        for seq in seqs {
            assert_eq!(slots.slot_of(seq), seq % capacity, "{seq} % {capacity}");
        }
    }
}
