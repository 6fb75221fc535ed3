//! No publish and no read takes memory after warm-up: counted by an allocator, on the thread that must not.
#![cfg(feature = "std")]

mod alloc;

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use alloc::{calls, calls_so_far};
use lapwing::ring::{Config, Exclusive, Read, ReadError, Reader, Ring, TryReadError, TypedRing, Wait};

/// More than a lap, so that every slot is overwritten.
const EVENTS: u64 = 40;

#[test]
fn publishing() {
    let ring = Ring::new(16, 200).unwrap();
    let bytes = [7; 200];
    assert_eq!(calls(|| (0..EVENTS).for_each(|_| assert!(ring.publish(&bytes).is_ok()))), 0);
    assert_eq!(calls(|| (0..EVENTS).for_each(|_| assert!(ring.publish_tagged(3, &bytes).is_ok()))), 0);
    let batch = [(1, &bytes[..]), (2, &bytes[..9]), (3, &[])].repeat(15);
    assert_eq!(calls(|| assert!(ring.publish_batch(&batch).is_ok())), 0);
    assert_eq!(calls(|| assert!(ring.publish(&[0; 201]).is_err())), 0);

    let mut ring = ring.into_exclusive();
    assert_eq!(calls(|| (0..EVENTS).for_each(|_| assert!(ring.publish(&bytes).is_ok()))), 0);
    assert_eq!(calls(|| assert!(ring.publish_batch(&batch).is_ok())), 0);
    ring.close();
    assert_eq!(calls(|| assert!(ring.publish(&bytes).is_err())), 0);

    let ring = TypedRing::new(16).unwrap();
    assert_eq!(calls(|| (0..EVENTS).for_each(|at| assert!(ring.publish(&at).is_ok()))), 0);
    assert_eq!(calls(|| assert!(ring.publish_batch(&[5; EVENTS as usize]).is_ok())), 0);
    let mut ring = ring.into_exclusive();
    assert_eq!(calls(|| (0..EVENTS).for_each(|at| assert!(ring.publish(&at).is_ok()))), 0);
    assert_eq!(calls(|| assert!(ring.publish_batch(&[5; EVENTS as usize]).is_ok())), 0);
}

/// Publishes more than a lap, and calls `read` until there is nothing more; with what was lost, and the end.
fn reads(read: impl Fn(&mut Reader) -> bool) -> u64 {
    let mut ring = Ring::new(16, 200).unwrap().into_exclusive();
    let mut reader = ring.reader_from_oldest();
    reader.set_filter(|tag| tag % 2 == 1);
    let publish = |ring: &mut Exclusive| {
        for at in 0..EVENTS {
            ring.publish_tagged(at as u16, &[at as u8; 200]).unwrap();
        }
    };
    publish(&mut ring);
    while read(&mut reader) {}
    publish(&mut ring);
    let before = calls_so_far();
    let mut count = 0;
    while read(&mut reader) {
        count += 1;
    }
    let after = calls_so_far();
    assert!(count > 0);
    assert_eq!(reader.next_seq(), 2 * EVENTS + 1);
    assert_eq!(reader.skipped(), 16, "8 in each round");
    after - before
}

#[test]
fn reading() {
    assert_eq!(reads(|reader| reader.try_read() != Err(TryReadError::Empty)), 0);
    assert_eq!(reads(|reader| reader.lag() != 0 && reader.read().is_ok()), 0);
    assert_eq!(reads(|reader| reader.read_timeout(Duration::ZERO) != Err(ReadError::TimedOut)), 0);
    assert_eq!(
        reads(|reader| reader.try_read_batch(3, |event| assert_eq!(event.bytes.len(), 200)).is_ok()),
        0
    );
    assert_eq!(reads(|reader| reader.try_look(|event| assert_eq!(event.len(), 200)).is_ok()), 0);
    let poll = |reader: &mut Reader| {
        pin!(reader.read_async()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    };
    assert_eq!(reads(poll), 0);
}

#[test]
fn reading_values() {
    let ring = TypedRing::new(16).unwrap();
    let mut reader = ring.reader_from_oldest();
    let round = || {
        (0..EVENTS).for_each(|at| assert!(ring.publish(&at).is_ok()));
        while reader.try_read() != Err(TryReadError::Empty) {}
        (0..EVENTS).for_each(|at| assert!(ring.publish(&at).is_ok()));
        while reader.lag() != 0 {
            reader.read().unwrap();
        }
    };
    assert_eq!(calls(round), 0);
    assert_eq!(reader.next_seq(), 4 * EVENTS + 1);
}

/// Until thread `id` sleeps in the system.
#[cfg(target_os = "linux")]
fn until_asleep(id: i32) {
    let stat = format!("/proc/self/task/{id}/stat");
    // The state follows the name, which is in parentheses.
    while !std::fs::read_to_string(&stat).unwrap().rsplit(')').next().unwrap().starts_with(" S") {
        thread::yield_now();
    }
}

/// The publisher wakes a reader that sleeps, again and again; neither takes memory for it.
#[cfg(target_os = "linux")]
#[test]
fn parking_and_waking() {
    const ROUNDS: u64 = 100;
    let ring = Ring::new(16, 64).unwrap();
    let mut reader = ring.reader_from_oldest();
    let id = AtomicU64::new(0);
    let (published, read) = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            // SAFETY: a call without arguments that cannot fail.
            id.store(unsafe { libc::gettid() } as u64, Release);
            let mut calls = 0;
            for round in 1..=ROUNDS {
                let before = calls_so_far();
                let read = reader.read().unwrap();
                assert!(matches!(read, Read::Event(event) if event.seq == round), "{read:?}");
                if round > 1 {
                    calls += calls_so_far() - before;
                }
            }
            calls
        });
        while id.load(Acquire) == 0 {
            thread::yield_now();
        }
        let mut calls = 0;
        for round in 1..=ROUNDS {
            // Nothing but its read can make it sleep, once it has told its id.
            until_asleep(id.load(Acquire) as i32);
            let before = calls_so_far();
            assert_eq!(ring.publish(b"wake up"), Ok(round));
            if round > 1 {
                calls += calls_so_far() - before;
            }
        }
        (calls, reader.join().unwrap())
    });
    assert_eq!((published, read), (0, 0));
}

/// The same for a task that waits, and for a reader that spins.
#[test]
fn pending_tasks() {
    for wait in [Wait::Park, Wait::Spin] {
        let ring = Config::new(16).wait(wait).bytes(64).unwrap();
        let mut reader = ring.reader_from_oldest();
        let round = || {
            let mut cx = Context::from_waker(Waker::noop());
            let mut read = pin!(reader.read_async());
            assert!(read.as_mut().poll(&mut cx).is_pending());
            ring.publish(b"wake up").unwrap();
            assert!(matches!(read.poll(&mut cx), Poll::Ready(Ok(Read::Event(_)))));
        };
        assert_eq!(calls(round), 0);
    }
}
