//! Sequences of operations on a ring and on its model; the interpreter is the property tests'.
#![no_main]

use arbitrary::{Arbitrary, Result, Unstructured};
use lapwing::ring::{Bytes, MAX_SEQ, Typed};
use libfuzzer_sys::fuzz_target;

#[path = "../../tests/model/mod.rs"]
mod model;

use model::{Op, Setup, run};

#[derive(Debug)]
struct Case {
    setup: Setup,
    ops: Vec<Op>,
}

fn event(u: &mut Unstructured<'_>, max_len: usize) -> Result<(u16, usize)> {
    Ok((u.int_in_range(0..=5)?, u.int_in_range(0..=max_len)?))
}

fn op(u: &mut Unstructured<'_>, slot_bytes: usize) -> Result<Op> {
    let kind = u.int_in_range(0..=19)?;
    if kind < 3 {
        let (tag, len) = event(u, slot_bytes + 1)?;
        return Ok(Op::Publish(tag, len));
    }
    if kind < 5 {
        let n = u.int_in_range(0..=20)?;
        return Ok(Op::Batch((0..n).map(|_| event(u, slot_bytes + kind - 3)).collect::<Result<_>>()?));
    }
    let reader = u.int_in_range(0..=7)?;
    Ok(match kind {
        5 => Op::Exchange,
        6 => Op::Close,
        7 => Op::Read(reader),
        8 => Op::ReadBatch(reader, u.int_in_range(0..=12)?),
        9 => Op::Look(reader),
        10 => Op::Filter(reader, u.int_in_range(0..=6)?),
        11 => Op::ClearFilter(reader),
        12 => Op::MoveToOldest(reader),
        13 => Op::MoveToNow(reader),
        14 => Op::MoveAfter(reader, u.int_in_range(-2..=70)?),
        15 => Op::Clone(reader),
        16 => Op::FromOldest,
        17 => Op::FromNow,
        18 => Op::After(u.int_in_range(-2..=70)?),
        19 if reader == 0 => Op::DropReader(u.int_in_range(0..=7)?),
        _ => Op::TryRead(reader),
    })
}

impl<'a> Arbitrary<'a> for Case {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let setup = Setup {
            capacity: if u.ratio(1, 10)? { 64 } else { u.int_in_range(1..=9)? },
            slot_bytes: u.int_in_range(0..=200)?,
            first_seq: if u.ratio(1, 8)? {
                MAX_SEQ - u.int_in_range(0..=100)?
            } else {
                1 + u.int_in_range(0..=9)?
            },
            spin: u.arbitrary()?,
        };
        let mut ops = Vec::new();
        while !u.is_empty() && ops.len() < 500 {
            ops.push(op(u, setup.slot_bytes)?);
        }
        Ok(Self { setup, ops })
    }
}

fuzz_target!(|case: Case| {
    match case.setup.slot_bytes % 4 {
        0 => run::<Typed<u64>>(case.setup, &case.ops),
        1 => run::<Typed<[[u16; 11]; 9]>>(case.setup, &case.ops),
        _ => run::<Bytes>(case.setup, &case.ops),
    }
});
