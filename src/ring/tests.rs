//! Tests that need the inside: stopped publishers, the arithmetic of slots, the range's end, sleeping readers.

use std::cell::RefCell;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use super::*;
use crate::ring::slots::Slots;
use crate::sync::{CLAIM_SPINS, CLAIM_TRIES, SPINS};

mod waiting;

const STEPS: [Step; 3] = [Step::Claimed, Step::Writing, Step::Written];

/// Publishes `bytes` by a publisher that is stopped at `stop` while `meanwhile` runs with its seq.
fn stalled<R>(
    ring: &Ring,
    bytes: &[u8],
    stop: Step,
    meanwhile: impl FnOnce(u64) -> R,
) -> (Result<u64, PublishError>, R) {
    let mut meanwhile = Some(meanwhile);
    let mut result = None;
    let published = ring.publish_stepped(0, bytes, |step, seq| {
        if step == stop
            && let Some(meanwhile) = meanwhile.take()
        {
            result = Some(meanwhile(seq));
        }
    });
    (published, result.unwrap())
}

/// Stops one publisher in each of `n` slots, and runs `meanwhile` then.
fn hold(ring: &Ring, n: u64, meanwhile: &mut dyn FnMut()) {
    if n == 0 {
        return meanwhile();
    }
    let (published, ()) = stalled(ring, b"held", Step::Writing, |_| hold(ring, n - 1, meanwhile));
    published.unwrap();
}

/// What a reader gets now: the numbers of events, and of losses from and to.
#[derive(Debug, PartialEq)]
enum Got {
    Event(u64),
    Dropped(u64, u64),
}

use Got::Event as E;

fn read(reader: &mut Reader) -> Result<Got, TryReadError> {
    Ok(match reader.try_read()? {
        Read::Event(event) => Got::Event(event.seq),
        Read::Dropped(Dropped { from, to }) => Got::Dropped(from, to),
    })
}

/// All that a reader gets now, and why there is no more.
fn drain(reader: &mut Reader) -> (Vec<Got>, TryReadError) {
    let mut all = Vec::new();
    loop {
        match read(reader) {
            Ok(got) => all.push(got),
            Err(error) => return (all, error),
        }
    }
}

/// What is delivered and dropped, where each read must go on where the one before ended.
fn account(got: &[Got], first: u64) -> (u64, u64) {
    let (mut next, mut delivered) = (first, 0);
    for got in got {
        let (from, to) = match *got {
            Got::Event(seq) => (seq, seq),
            Got::Dropped(from, to) => (from, to),
        };
        assert_eq!(from, next, "a hole, or an overlap");
        delivered += u64::from(matches!(got, Got::Event(_)));
        next = to + 1;
    }
    (delivered, next - first - delivered)
}

// ---- Stalled publishers.

/// With capacity 4, publishers meet in the slots as well; then it is a new try.
fn publish_surely(ring: &Ring, bytes: &[u8]) -> u64 {
    loop {
        match ring.publish(bytes) {
            Err(PublishError::Stalled { .. }) => thread::yield_now(),
            published => return published.unwrap(),
        }
    }
}

/// Everything up to the event "last".
fn until_last(mut read: impl FnMut() -> Option<(Got, bool)>) -> Vec<Got> {
    let mut all = Vec::new();
    loop {
        match read() {
            Some((got, last)) => {
                all.push(got);
                if last {
                    return all;
                }
            }
            None => thread::yield_now(),
        }
    }
}

#[test]
fn two_publishers_go_on_beside_a_stalled_one() {
    const EVENTS: u64 = 10_000;
    fn got(read: Read<Event<'_>>) -> (Got, bool) {
        match read {
            Read::Event(event) => (Got::Event(event.seq), event.bytes == b"last"),
            Read::Dropped(Dropped { from, to }) => (Got::Dropped(from, to), false),
        }
    }
    for step in STEPS {
        let ring = &Ring::new(4, 8).unwrap();
        let (published, last) = stalled(ring, b"stalled", step, |seq| {
            assert_eq!(seq, 1);
            let [mut blocking, mut polling, mut late] = [(); 3].map(|()| ring.reader_from_oldest());
            // All of this happens while the stalled one is stalled.
            let (last, blocking, polling) = thread::scope(|scope| {
                let publishers = [0, 1].map(|at| {
                    scope.spawn(move || {
                        for n in 0..EVENTS / 2 {
                            publish_surely(ring, &(2 * n + at).to_le_bytes());
                        }
                    })
                });
                let blocking = scope.spawn(move || until_last(|| Some(got(blocking.read().unwrap()))));
                let polling = scope.spawn(move || until_last(|| polling.try_read().ok().map(got)));
                publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
                (publish_surely(ring, b"last"), blocking.join().unwrap(), polling.join().unwrap())
            });
            let late = until_last(|| late.try_read().ok().map(got));
            for (name, all) in [("blocking", blocking), ("polling", polling), ("late", late)] {
                let (delivered, dropped) = account(&all, 1);
                assert_eq!(delivered + dropped, last, "{name}, stalled at {step:?}");
            }
            // The stalled one, all of theirs, and the last.
            assert_eq!(last, 1 + EVENTS + 1 + ring.abandoned());
            last
        });
        assert_eq!(published, Ok(1), "it was published, if only to be overwritten");
        assert!(step != Step::Claimed || ring.overruns() > 0);

        // Its slot is as good as the others now.
        let mut reader = ring.reader_from_now();
        for seq in last + 1..=last + 8 {
            assert_eq!(ring.publish(b"on"), Ok(seq));
            assert_eq!(read(&mut reader), Ok(E(seq)));
        }
    }
}

#[test]
fn a_reader_waits_for_an_event_no_longer_than_it_could_arrive() {
    // A publisher that holds its slot: the one a lap later steps over it.
    for step in [Step::Writing, Step::Written] {
        let ring = Ring::new(4, 8).unwrap();
        let mut reader = ring.reader_from_oldest();
        let (published, ()) = stalled(&ring, b"1", step, |_| {
            for seq in 2..=4 {
                assert_eq!(ring.publish(b"next"), Ok(seq));
                assert_eq!(read(&mut reader), Err(TryReadError::Empty), "1 can still arrive");
            }
            assert_eq!(ring.readable(), 0);
            assert_eq!(ring.publish(b"6"), Ok(6), "5 has the slot of 1");
            assert_eq!(ring.readable(), 6);
            assert_eq!(ring.abandoned(), 1);
            let expected = vec![Got::Dropped(1, 2), E(3), E(4), Got::Dropped(5, 5), E(6)];
            assert_eq!(drain(&mut reader), (expected, TryReadError::Empty));
        });
        assert_eq!(published, Ok(1));
        assert_eq!(ring.overruns(), 0);
        // It was not overwritten by 5: who comes now finds it.
        let mut late = ring.reader_after(0).unwrap();
        assert_eq!(drain(&mut late).0, [E(1), Got::Dropped(2, 2), E(3), E(4), Got::Dropped(5, 5), E(6)]);
        assert_eq!((7..=9).map(|_| ring.publish(b"on").unwrap()).collect::<Vec<_>>(), [7, 8, 9]);
        assert_eq!(drain(&mut reader).0, [E(7), E(8), E(9)]);
    }
    // A publisher that has not come to its slot: it is overwritten before it writes.
    let ring = Ring::new(4, 8).unwrap();
    let mut reader = ring.reader_from_oldest();
    let (published, ()) = stalled(&ring, b"1", Step::Claimed, |_| {
        for seq in 2..=4 {
            assert_eq!(ring.publish(b"next"), Ok(seq));
            assert_eq!(read(&mut reader), Err(TryReadError::Empty), "1 can still arrive");
        }
        assert_eq!(ring.publish(b"5"), Ok(5));
        assert_eq!(drain(&mut reader).0, [Got::Dropped(1, 1), E(2), E(3), E(4), E(5)]);
        assert_eq!(ring.overruns(), 0);
    });
    assert_eq!(published, Ok(1));
    assert_eq!((ring.overruns(), ring.abandoned()), (1, 0));
    assert_eq!(ring.publish(b"6"), Ok(6));
    assert_eq!(drain(&mut reader).0, [E(6)]);
}

#[test]
fn overruns_are_counted_by_event() {
    let ring = Ring::new(2, 8).unwrap();
    for n in 1..=3 {
        let (published, ()) = stalled(&ring, b"overrun", Step::Claimed, |_| {
            ring.publish(b"a").unwrap();
            ring.publish(b"b").unwrap();
        });
        assert_eq!(published, Ok(3 * n - 2));
        assert_eq!(ring.overruns(), n);
    }
    let mut reader = ring.reader_after(0).unwrap();
    assert_eq!(drain(&mut reader).0, [Got::Dropped(1, 7), E(8), E(9)]);
}

/// The words of all slots, stamps aside.
fn payloads(ring: &Ring) -> Vec<u64> {
    let slots = &ring.shared.slots;
    (0..slots.capacity()).flat_map(|slot| slots.slot(slot).1.iter().map(|word| word.load(Relaxed))).collect()
}

#[test]
fn a_publish_is_refused_when_all_slots_are_held() {
    for capacity in [1, 2, 3, 4, 5, 20] {
        let ring = Ring::new(capacity, 8).unwrap();
        let mut reader = ring.reader_from_oldest();
        let tried = capacity.min(CLAIM_TRIES);
        let mut refused = 0;
        hold(&ring, capacity, &mut || {
            let before = payloads(&ring);
            let payload = *b"refused";
            let (mut steps, spins) = (Vec::new(), SPINS.get());
            let result = ring.publish_stepped(1, &payload, |step, seq| steps.push((step, seq)));
            assert_eq!(result, Err(PublishError::Stalled { tried }));
            // Every step that it took: so many slots, and so many looks at each.
            let expected = (capacity + 1..=capacity + tried).map(|seq| (Step::Claimed, seq));
            assert_eq!(steps, expected.collect::<Vec<_>>());
            assert_eq!(SPINS.get() - spins, tried * u64::from(CLAIM_SPINS));
            assert_eq!(payload, *b"refused");
            refused = tried;
            assert_eq!((ring.abandoned(), ring.newest()), (refused, capacity + refused));

            // A batch of two claims two at a time, and gives up what it has claimed.
            let error = BatchError { published: 0, index: 0, error: PublishError::Stalled { tried } };
            assert_eq!(ring.publish_batch(&[(1, b"refused"), (2, b"too")]), Err(error));
            refused += tried.next_multiple_of(capacity.min(2));
            assert_eq!((ring.abandoned(), ring.newest()), (refused, capacity + refused));
            assert_eq!(payloads(&ring), before, "not a word of it is in the ring");

            let (got, end) = drain(&mut reader);
            assert_eq!(account(&got, 1), (0, ring.newest()), "{got:?}");
            assert_eq!(end, TryReadError::Empty);
        });
        // They go on, and write what it is too late for.
        assert_eq!(drain(&mut reader), (Vec::new(), TryReadError::Empty));
        assert_eq!(ring.overruns(), 0);
        let last = ring.newest();
        for seq in last + 1..=last + 3 * capacity {
            assert_eq!(ring.publish(b"again"), Ok(seq));
            assert_eq!(read(&mut reader), Ok(E(seq)));
        }
        assert_eq!(ring.abandoned(), refused);
        let (got, _) = drain(&mut ring.reader_after(0).unwrap());
        assert_eq!(account(&got, 1), (capacity, ring.newest() - capacity));
    }
}

#[test]
fn a_batch_steps_over_what_is_held() {
    let ring = Ring::new(4, 8).unwrap();
    let mut reader = ring.reader_from_oldest();
    hold(&ring, 2, &mut || {
        let batch = [b"a", b"b", b"c"].map(|bytes| (0, &bytes[..]));
        // 3 and 4 are free, 5 and 6 held, 7 free again.
        assert_eq!(ring.publish_batch(&batch), Ok(3..8));
        assert_eq!(ring.abandoned(), 2);
        assert_eq!(
            drain(&mut reader).0,
            [Got::Dropped(1, 3), E(4), Got::Dropped(5, 5), Got::Dropped(6, 6), E(7)]
        );
    });
    assert_eq!(ring.publish_batch(&[(0, b"d")]), Ok(8..9));
    assert_eq!(drain(&mut reader).0, [E(8)]);
}

#[test]
fn a_batch_that_is_refused_in_the_middle_tells_how_far_it_came() {
    let ring = Ring::new(20, 8).unwrap();
    let mut reader = ring.reader_from_oldest();
    hold(&ring, 18, &mut || {
        let batch = [(0, &b"x"[..]); 8];
        let stalled = PublishError::Stalled { tried: CLAIM_TRIES };
        assert_eq!(
            ring.publish_batch(&batch),
            Err(BatchError { published: 2, index: 2, error: stalled }),
            "19 and 20 are free; then 16 are held"
        );
        let (got, end) = drain(&mut reader);
        let (delivered, dropped) = account(&got, 1);
        assert_eq!((delivered + dropped, end), (ring.newest(), TryReadError::Empty));
    });
    let last = ring.newest();
    assert_eq!(ring.abandoned() + 2 + 18, last);
    assert_eq!(ring.publish_batch(&[(0, &b"y"[..]); 20]), Ok(last + 1..last + 21));
}

#[test]
fn an_exclusive_batch_of_several_laps_loses_only_what_it_has_overwritten() {
    let mut publisher = Ring::new(2, 8).unwrap().into_exclusive();
    let reader = RefCell::new(publisher.reader_from_oldest());
    let during = RefCell::new(None);
    let seqs = publisher.write_batch(6, |(), at, claimed| {
        Bytes::store(claimed, 0, b"x");
        if at == 2 {
            during.replace(Some(read(&mut reader.borrow_mut())));
        }
    });
    assert_eq!(seqs, Ok(1..7));
    assert_eq!(during.take(), Some(Ok(Got::Dropped(1, 2))), "3 to 6 could still be read");
    assert_eq!(drain(&mut reader.borrow_mut()).0, [Got::Dropped(3, 4), E(5), E(6)]);
}

#[test]
fn a_reader_from_now_misses_nothing_that_is_not_committed() {
    let ring = Ring::new(4, 8).unwrap();
    ring.publish(b"1").unwrap();
    let mut reader = ring.reader_from_oldest();
    for step in STEPS {
        let (published, mut from_now) = stalled(&ring, b"late", step, |seq| {
            ring.publish(b"later").unwrap();
            assert_eq!((ring.readable(), ring.newest()), (seq - 1, seq + 1));
            reader.move_to_now();
            ring.reader_from_now()
        });
        let seq = published.unwrap();
        assert_eq!(drain(&mut reader).0, [E(seq), E(seq + 1)]);
        assert_eq!(drain(&mut from_now).0, [E(seq), E(seq + 1)]);
        assert_eq!(ring.readable(), seq + 1);
    }
}

// ---- The end.

#[test]
fn a_ring_that_closes_knows_its_numbers_at_any_moment() {
    let ring = Ring::new(4, 8).unwrap();
    (1..=10).for_each(|seq| assert_eq!(ring.publish(b"event"), Ok(seq)));
    let mut reader = ring.reader_after(10).unwrap();
    // The closer is stopped half-way, and refused claims count the head up.
    let last = ring.shared.slots.refuse_claims().unwrap();
    assert_eq!(last, 10);
    (0..3).for_each(|_| assert_eq!(ring.publish(b"late"), Err(PublishError::Closed)));
    assert_eq!((ring.newest(), ring.readable(), ring.oldest()), (10, 10, 7));
    assert_eq!(reader.lag(), 0);
    assert_eq!(ring.reader_after(11).unwrap_err(), PositionError { given: 11, newest: 10 });
    reader.move_to_now();
    assert_eq!(reader.next_seq(), 11);
    assert_eq!(drain(&mut ring.reader_from_oldest()), ([7, 8, 9, 10].map(E).into(), TryReadError::Empty));
    assert_eq!(drain(&mut ring.reader_after(2).unwrap()).0, [Got::Dropped(3, 6), E(7), E(8), E(9), E(10)]);
    assert!(!ring.close(), "somebody does already");
}

#[test]
fn an_event_in_flight_is_still_read_after_the_close() {
    for step in STEPS {
        let ring = Ring::new(4, 8).unwrap();
        let mut reader = ring.reader_from_oldest();
        let (published, ()) = stalled(&ring, b"1", step, |_| {
            assert!(ring.close());
            assert!(!ring.close());
            assert_eq!(ring.publish(b"2"), Err(PublishError::Closed));
            assert_eq!(read(&mut reader), Err(TryReadError::Empty), "1 can still arrive");
        });
        assert_eq!(published, Ok(1));
        assert_eq!(drain(&mut reader), (vec![E(1)], TryReadError::Closed));
    }
}

// ---- The range's end.

#[test]
fn a_ring_closes_itself_at_the_last_seq() {
    for capacity in [1, 2, 3, 8] {
        let ring = Config::new(capacity).first_seq(MAX_SEQ - 2).bytes(8).unwrap();
        assert_eq!((ring.newest(), ring.oldest()), (MAX_SEQ - 3, MAX_SEQ - 2));
        let mut reader = ring.reader_from_oldest();
        for seq in MAX_SEQ - 2..=MAX_SEQ {
            assert_eq!(ring.publish(b"event"), Ok(seq));
            assert_eq!(read(&mut reader), Ok(E(seq)));
        }
        assert_eq!(read(&mut reader), Err(TryReadError::Empty));
        for _ in 0..100 {
            assert_eq!(ring.publish(b"event"), Err(PublishError::Closed));
            assert_eq!(ring.publish_batch(&[(0, &b"event"[..]); 7]).unwrap_err().error, PublishError::Closed);
        }
        assert_eq!(read(&mut reader), Err(TryReadError::Closed));
        assert_eq!((ring.newest(), ring.readable()), (MAX_SEQ, MAX_SEQ));
        assert_eq!(ring.oldest(), (MAX_SEQ - 2).max(MAX_SEQ + 1 - capacity));
        assert_eq!(reader.lag(), 0);
        assert!(!ring.close(), "it is closed");
        let (got, end) = drain(&mut ring.reader_after(MAX_SEQ - 3).unwrap());
        assert_eq!(
            (account(&got, MAX_SEQ - 2), end),
            ((capacity.min(3), 3 - capacity.min(3)), TryReadError::Closed)
        );
        assert_eq!(
            ring.reader_after(MAX_SEQ + 1).unwrap_err(),
            PositionError { given: MAX_SEQ + 1, newest: MAX_SEQ }
        );
        assert_eq!(ring.into_exclusive().publish(b"event"), Err(PublishError::Closed));
    }
}

#[test]
fn a_batch_over_the_last_seq_is_refused_as_a_whole() {
    let batch = [(0, &b"event"[..]); 6];
    // The shared ring claims its capacity at a time, of which the last does not fit.
    for (capacity, published) in [(2, 4), (3, 3), (4, 4), (5, 5), (6, 0), (9, 0)] {
        let ring = Config::new(capacity).first_seq(MAX_SEQ - 4).bytes(8).unwrap();
        let mut reader = ring.reader_from_oldest();
        let error = BatchError { published, index: published, error: PublishError::Closed };
        assert_eq!(ring.publish_batch(&batch), Err(error), "5 numbers are left, capacity {capacity}");
        assert_eq!(ring.newest(), MAX_SEQ - 5 + published as u64);
        let (got, end) = drain(&mut reader);
        let (delivered, dropped) = account(&got, MAX_SEQ - 4);
        assert_eq!((delivered + dropped, end), (published as u64, TryReadError::Closed));
    }
    let mut ring = Config::new(4).first_seq(MAX_SEQ - 4).bytes(8).unwrap().into_exclusive();
    let mut reader = ring.reader_from_oldest();
    let error = BatchError { published: 0, index: 0, error: PublishError::Closed };
    assert_eq!(ring.publish_batch(&batch), Err(error));
    assert_eq!(drain(&mut reader), (Vec::new(), TryReadError::Closed));
    assert_eq!(ring.publish(b"event"), Err(PublishError::Closed), "the refusal closed it");
}

#[test]
fn an_exclusive_publisher_closes_the_ring_at_the_last_seq() {
    let mut ring = Config::new(4).first_seq(MAX_SEQ - 4).bytes(8).unwrap().into_exclusive();
    let mut reader = ring.reader_from_oldest();
    assert_eq!(ring.publish_batch(&[(0, &b"event"[..]); 4]), Ok(MAX_SEQ - 4..MAX_SEQ));
    assert_eq!(ring.publish(b"last"), Ok(MAX_SEQ));
    assert_eq!(ring.publish_batch(&[]), Ok(MAX_SEQ + 1..MAX_SEQ + 1));
    assert_eq!(ring.publish(b"event"), Err(PublishError::Closed));
    assert_eq!(ring.publish(b"event"), Err(PublishError::Closed));
    let (got, end) = drain(&mut reader);
    assert_eq!((account(&got, MAX_SEQ - 4), end), ((4, 1), TryReadError::Closed));
    let ring = ring.into_shared();
    assert_eq!(ring.publish(b"event"), Err(PublishError::Closed));
    assert!(!ring.close());
    assert_eq!(ring.newest(), MAX_SEQ);
}

#[test]
fn publishers_race_to_the_last_seq() {
    const LEFT: u64 = 2000;
    let ring = Config::new(64).first_seq(MAX_SEQ - LEFT + 1).bytes(8).unwrap();
    let mut reader = ring.reader_from_oldest();
    let published = thread::scope(|scope| {
        let publishers = [1, 2, 3, 2].map(|n| {
            let ring = &ring;
            scope.spawn(move || {
                let mut published = 0;
                loop {
                    match ring.publish_batch(&[(0, &b"event"[..]); 3][..n]) {
                        Ok(_) => published += n,
                        Err(BatchError { published: some, error, .. }) => {
                            published += some;
                            if error == PublishError::Closed {
                                return published as u64;
                            }
                        }
                    }
                }
            })
        });
        publishers.into_iter().map(|publisher| publisher.join().unwrap()).sum::<u64>()
    });
    let newest = ring.newest();
    assert!(
        (MAX_SEQ - 2..=MAX_SEQ).contains(&newest),
        "{newest}: a batch of 3 was refused before the last seq"
    );
    assert_eq!(published + ring.abandoned(), newest - (MAX_SEQ - LEFT));
    let (got, end) = drain(&mut reader);
    let (delivered, dropped) = account(&got, MAX_SEQ - LEFT + 1);
    assert_eq!((delivered + dropped, end), (newest - (MAX_SEQ - LEFT), TryReadError::Closed));
}

#[test]
fn a_position_before_the_first_seq_is_told_as_dropped() {
    for capacity in [1, 3, 4, 7] {
        let ring = Config::new(capacity).first_seq(100).bytes(8).unwrap();
        for start in 0..=99 {
            let mut reader = ring.reader_after(start).unwrap();
            let expected = if start == 99 { Vec::new() } else { vec![Got::Dropped(start + 1, 99)] };
            assert_eq!(drain(&mut reader), (expected, TryReadError::Empty), "after {start}");
        }
        (100..=105).for_each(|seq| assert_eq!(ring.publish(b"event"), Ok(seq)));
        for start in 0..=99 {
            let (got, _) = drain(&mut ring.reader_after(start).unwrap());
            assert_eq!(account(&got, start + 1), (capacity.min(6), 105 - start - capacity.min(6)));
        }
    }
}

// ---- Arithmetic and copies.

#[test]
fn the_slot_of_a_seq_is_its_remainder() {
    let seqs =
        [1, 2, 3, 5, 63, 64, 65, 1000, 1 << 31, (1 << 32) + 7, (1 << 61) + 12345, MAX_SEQ - 1, MAX_SEQ];
    for capacity in (1..=130).chain([255, 256, 257, 1000, 4096, 65_521, 65_536]) {
        let slots = Slots::<Typed<u64>>::new(capacity, 2, 1).unwrap();
        // The reader of the last event looks at the one after it.
        for seq in
            seqs.into_iter().chain([MAX_SEQ + 1]).chain((0..3).map(|n| MAX_SEQ / capacity * capacity - n))
        {
            assert_eq!(slots.slot_of(seq), seq % capacity, "{seq} % {capacity}");
        }
    }
}

#[test]
fn copies_are_what_a_plain_loop_does() {
    const MAX: usize = 300;
    let source = (0..MAX + 8).map(|at| (at * 7 + at / 251) as u8 | 1).collect::<Vec<_>>();
    for len in 0..=MAX {
        for offset in 0..8 {
            let bytes = &source[offset..offset + len];
            // One word more than it takes, and one less; in blocks and in words alone.
            let counts = [len.div_ceil(8) + 1, len.div_ceil(8).saturating_sub(1)];
            for (count, words_only) in counts.into_iter().flat_map(|count| [(count, false), (count, true)]) {
                let words = (0..count).map(|_| AtomicU64::new(u64::MAX)).collect::<Vec<_>>();
                if words_only {
                    copy::store_words(&words, bytes);
                } else {
                    copy::store(&words, bytes, 64);
                }
                let stored =
                    words.iter().flat_map(|word| word.load(Relaxed).to_ne_bytes()).collect::<Vec<_>>();
                let mut expected = vec![0xff; count * 8];
                for (at, byte) in expected.iter_mut().enumerate() {
                    if at < len {
                        *byte = bytes[at];
                    } else if at < len.next_multiple_of(8) {
                        *byte = 0;
                    }
                }
                assert_eq!(stored, expected, "{len} bytes from {offset} into {count} words");

                let mut loaded = vec![0xaa; MAX + 16];
                let part = &mut loaded[offset..offset + len];
                if words_only {
                    copy::load_words(&words, part)
                } else {
                    copy::load(&words, part, 64)
                }
                let mut expected = vec![0xaa; MAX + 16];
                let held = len.min(count * 8);
                expected[offset..offset + held].copy_from_slice(&bytes[..held]);
                assert_eq!(loaded, expected, "{len} bytes at {offset} from {count} words");
            }
        }
    }
}

// ---- Errors, and what the types promise.

#[test]
fn errors_name_what_was_given_and_what_is_allowed() {
    let config = |error: ConfigError| (error, error.to_string());
    let max = |result: Result<Ring, ConfigError>| match config(result.unwrap_err()) {
        (ConfigError::Capacity { given, max }, text) => {
            assert!(
                text.contains(&format!("{given} events")) && text.contains(&format!("1 to {max}")),
                "{text}"
            );
            max
        }
        (error, _) => panic!("{error}"),
    };
    let most = max(Ring::new(0, 100));
    assert_eq!(max(Ring::new(most + 1, 100)), most);
    assert_eq!(max(Ring::new(u64::MAX, 100)), most);
    assert!(max(Ring::new(0, 1000)) < most, "larger slots, fewer of them");
    let (error, text) = config(TypedRing::<u64>::new(0).unwrap_err());
    assert!(matches!(error, ConfigError::Capacity { given: 0, .. }));
    assert!(text.contains("a ring of 0 events"), "{text}");
    // The largest capacity is one that the allocator is asked for.
    let (error, text) = config(Ring::new(most, 100).unwrap_err());
    let ConfigError::OutOfMemory { bytes } = error else { panic!("{error}") };
    assert!(bytes > isize::MAX as usize / 2 && text.contains(&bytes.to_string()), "{text}");

    for given in [MAX_SLOT_BYTES + 1, usize::MAX] {
        let (error, text) = config(Ring::new(1, given).unwrap_err());
        assert_eq!(error, ConfigError::SlotBytes { given, max: MAX_SLOT_BYTES });
        assert!(text.contains(&given.to_string()) && text.contains(&MAX_SLOT_BYTES.to_string()), "{text}");
    }
    for given in [0, MAX_SEQ + 1, u64::MAX] {
        let (error, text) = config(Config::new(1).first_seq(given).bytes(8).unwrap_err());
        assert_eq!(error, ConfigError::FirstSeq { given, max: MAX_SEQ });
        assert!(text.contains(&format!("seq {given}")) && text.contains(&MAX_SEQ.to_string()), "{text}");
    }

    let ring = Ring::new(3, 10).unwrap();
    let error = ring.publish(&[0; 11]).unwrap_err();
    assert_eq!(error.to_string(), "not published: the payload has 11 bytes, a slot holds 10");
    assert_eq!((ring.newest(), ring.into_exclusive().publish(&[0; 11])), (0, Err(error)));
    let ring = Ring::new(3, 10).unwrap();
    let error = ring.publish_batch(&[(0, &[0; 10]), (0, &[0; 12])]).unwrap_err();
    assert_eq!(ring.newest(), 0, "nothing is published of it");
    let text = "event 1 of the batch was not published: the payload has 12 bytes, a slot holds 10; \
                0 events before it are published";
    assert_eq!(error.to_string(), text);
    assert_eq!(error.source().unwrap().to_string(), error.error.to_string());
    let text = PublishError::Stalled { tried: 5 }.to_string();
    assert_eq!(text, "not published: all 5 slots tried are held by stalled publishers");
    let error = ring.reader_after(7).unwrap_err();
    assert_eq!(error.to_string(), "no reader can be positioned after seq 7: the newest is 0");
    assert_eq!(format!("{error:?}"), "PositionError { given: 7, newest: 0 }");
    let mut reader = ring.reader_from_now();
    assert_eq!(reader.move_after(1), Err(PositionError { given: 1, newest: 0 }));
    assert_eq!(reader.next_seq(), 1, "it stays where it is");

    let texts =
        [PublishError::Closed.to_string(), TryReadError::Empty.to_string(), TryReadError::Closed.to_string()];
    let read = [ReadError::Closed, ReadError::TimedOut, ReadError::Cancelled].map(|error| error.to_string());
    for text in texts.into_iter().chain(read) {
        assert!(!text.is_empty() && !text.ends_with('.'), "{text}");
    }
}

#[test]
fn debug_texts_say_how_things_stand() {
    let ring = Ring::new(3, 10).unwrap();
    ring.publish_tagged(5, b"hi").unwrap();
    let mut reader = ring.reader_from_oldest();
    assert_eq!(format!("{ring:?}"), "Ring(Handle { capacity: 3, slot_bytes: 10, newest: 1, .. })");
    assert_eq!(format!("{reader:?}"), "Reader { next_seq: 1, lag: 1, .. }");
    let look = reader.try_look(|event| format!("{event:?}")).unwrap().event();
    assert_eq!(look.unwrap(), "Look { seq: 1, tag: 5, len: 2 }");
    let exclusive = ring.into_exclusive();
    assert_eq!(format!("{exclusive:?}"), "Exclusive(Handle { capacity: 3, slot_bytes: 10, newest: 1, .. })");
    assert_eq!(format!("{:?}", reader.canceller()), "Canceller { cancelled: false, .. }");
}

#[test]
fn types_cross_threads_as_they_should() {
    fn shared<T: Send + Sync + 'static>() {}
    fn sent<T: Send + 'static>() {}
    fn cloned<T: Clone>() {}
    shared::<Ring>();
    shared::<TypedRing<u64>>();
    shared::<Exclusive>();
    shared::<Handle>();
    shared::<Config>();
    sent::<Reader>();
    sent::<TypedReader<[f64; 3]>>();
    cloned::<Reader>();
    cloned::<TypedReader<u64>>();
    cloned::<Handle>();
    shared::<PublishError>();
    shared::<BatchError>();
    shared::<ConfigError>();
    shared::<PositionError>();
    shared::<TryReadError>();
    shared::<OwnedEvent>();
    shared::<Canceller>();
    cloned::<Canceller>();
    shared::<ReadError>();
    fn future<T: Send>(_: &T) {}
    future(&Ring::new(1, 8).unwrap().reader_from_oldest().read_async());
    #[cfg(feature = "futures")]
    sent::<Events>();
}

#[test]
fn a_panic_in_a_look_leaves_ring_and_reader_as_they_were() {
    let ring = Ring::new(2, 8).unwrap();
    let mut reader = ring.reader_from_oldest();
    ring.publish(b"1").unwrap();
    for _ in 0..3 {
        let look = AssertUnwindSafe(|| reader.try_look(|_| -> () { panic!("in a look") }));
        let panic = catch_unwind(look).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"in a look"));
        assert_eq!((reader.next_seq(), reader.lag()), (1, 1));
    }
    assert_eq!(read(&mut reader), Ok(E(1)));
    assert_eq!(ring.publish(b"2"), Ok(2));
    let each = AssertUnwindSafe(|| reader.try_read_batch(5, |_| panic!("with an event in hand")));
    catch_unwind(each).unwrap_err();
    assert_eq!(reader.next_seq(), 3, "it was handed out");
    let wanted =
        AssertUnwindSafe(|| reader.set_filter(|tag| if tag < 9 { false } else { panic!("at {tag}") }));
    catch_unwind(wanted).unwrap_err();
    assert_eq!(ring.publish(b"3"), Ok(3));
    assert_eq!(read(&mut reader), Ok(E(3)), "no filter was set");
}

#[test]
fn a_look_that_is_overtaken_is_discarded() {
    let ring = Ring::new(2, 8).unwrap();
    ring.publish(b"1").unwrap();
    let mut reader = ring.reader_from_oldest();
    let mut looks = 0;
    let read = reader.try_look(|event| {
        looks += 1;
        assert_eq!(event.seq(), 1);
        for seq in 2..=3 {
            assert_eq!(ring.publish(b"new"), Ok(seq));
        }
    });
    assert_eq!(read, Ok(Read::Dropped(Dropped { from: 1, to: 1 })));
    assert_eq!(looks, 1);
    assert_eq!(drain(&mut reader).0, [E(2), E(3)]);
}
