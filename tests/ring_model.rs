//! Sequences of operations on one thread, against a plain model of the ring.
#![cfg(feature = "std")]

mod model;

use lapwing::ring::{Bytes, MAX_SEQ, Typed};
use model::{Op, Setup, run};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// Payloads up to the slot size and beyond, its neighbourhood above all.
fn len(slot_bytes: usize) -> impl Strategy<Value = usize> {
    prop_oneof![8 => 0..=slot_bytes, 2 => slot_bytes.saturating_sub(8)..=slot_bytes, 1 => slot_bytes..slot_bytes + 70]
}

fn op(slot_bytes: usize) -> impl Strategy<Value = Op> {
    let tag = || prop_oneof![0..4u16, any::<u16>()];
    let reader = || 0..8usize;
    // Before the newest, and some beyond it.
    let before = || -3..80i64;
    prop_oneof![
        12 => (tag(), len(slot_bytes)).prop_map(|(tag, len)| Op::Publish(tag, len)),
        6 => vec((tag(), 0..=slot_bytes), 0..24).prop_map(Op::Batch),
        1 => vec((tag(), len(slot_bytes)), 0..24).prop_map(Op::Batch),
        2 => Just(Op::Exchange),
        12 => reader().prop_map(Op::TryRead),
        4 => reader().prop_map(Op::Read),
        6 => (reader(), 0..12usize).prop_map(|(reader, max)| Op::ReadBatch(reader, max)),
        6 => reader().prop_map(Op::Look),
        3 => (reader(), tag()).prop_map(|(reader, below)| Op::Filter(reader, below)),
        1 => reader().prop_map(Op::ClearFilter),
        1 => reader().prop_map(Op::MoveToOldest),
        1 => reader().prop_map(Op::MoveToNow),
        2 => (reader(), before()).prop_map(|(reader, before)| Op::MoveAfter(reader, before)),
        2 => reader().prop_map(Op::Clone),
        1 => Just(Op::FromOldest),
        1 => Just(Op::FromNow),
        2 => before().prop_map(Op::After),
        2 => reader().prop_map(Op::DropReader),
    ]
}

/// Ends in a close now and then, and goes on after it.
fn ops(slot_bytes: usize) -> impl Strategy<Value = Vec<Op>> {
    let tail = prop_oneof![Just(Vec::new()), vec(op(slot_bytes), 0..12)];
    (vec(op(slot_bytes), 0..150), tail).prop_map(|(mut ops, tail)| {
        if !tail.is_empty() {
            ops.push(Op::Close);
        }
        ops.extend(tail);
        ops
    })
}

fn setup() -> impl Strategy<Value = Setup> {
    let capacity = prop_oneof![9 => 1..=9u64, 1 => Just(64)];
    let slot_bytes = prop_oneof![select(vec![0, 1, 7, 8, 16, 17, 63, 64, 65, 128, 200]), 0..300usize];
    let first_seq = prop_oneof![6 => Just(1), 1 => 2..100u64, 1 => MAX_SEQ - 100..=MAX_SEQ];
    (capacity, slot_bytes, first_seq, any::<bool>())
        .prop_map(|(capacity, slot_bytes, first_seq, spin)| Setup { capacity, slot_bytes, first_seq, spin })
}

fn case() -> impl Strategy<Value = (Setup, Vec<Op>)> {
    setup().prop_flat_map(|setup| (Just(setup), ops(setup.slot_bytes)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(debug_assertions) { 500 } else { 4_000 }, ..Default::default() })]

    #[test]
    fn a_ring_of_bytes_is_its_model((setup, ops) in case()) {
        run::<Bytes>(setup, &ops);
    }

    #[test]
    fn a_ring_of_words_is_its_model((setup, ops) in case()) {
        run::<Typed<u64>>(setup, &ops);
    }

    #[test]
    fn a_ring_of_odd_values_is_its_model((setup, ops) in case()) {
        run::<Typed<[u8; 13]>>(setup, &ops);
    }

    #[test]
    fn a_ring_of_long_values_is_its_model((setup, ops) in case()) {
        run::<Typed<[[u16; 11]; 9]>>(setup, &ops);
    }

    #[test]
    fn a_ring_of_nothing_is_its_model((setup, ops) in case()) {
        run::<Typed<()>>(setup, &ops);
    }
}

#[test]
fn an_empty_batch_is_accepted_after_the_close() {
    for exchange in [None, Some(Op::Exchange)] {
        let setup = Setup { capacity: 1, slot_bytes: 0, first_seq: 1, spin: false };
        let ops = exchange.into_iter().chain([Op::Close, Op::Batch(vec![])]);
        run::<Bytes>(setup, &ops.collect::<Vec<_>>());
    }
}
