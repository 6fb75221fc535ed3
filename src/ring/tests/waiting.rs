//! Readers that sleep. That they do is established by the list they are registered in, never by the clock.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::*;
use crate::sync::BARRIERS;
use crate::wait::WaitList;

fn list<P: Payload>(handle: &Handle<P>) -> &WaitList {
    handle.shared.waiters.as_ref().unwrap()
}

/// Until so many readers are registered: each sleeps, or is about to, and will not look at the ring again.
fn until_waiting<P: Payload>(handle: &Handle<P>, n: usize) {
    while list(handle).waiting() != n {
        thread::yield_now();
    }
}

/// What a read that waits returned, without the buffer.
fn outcome(read: Result<Read<Event<'_>>, ReadError>) -> Result<Got, ReadError> {
    Ok(match read? {
        Read::Event(event) => Got::Event(event.seq),
        Read::Dropped(Dropped { from, to }) => Got::Dropped(from, to),
    })
}

/// A reader that sleeps while `wake` runs, and what it returns.
fn parked<R>(
    ring: &Handle,
    mut reader: Reader,
    wake: impl FnOnce() -> R,
) -> (Reader, Result<Got, ReadError>) {
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let got = outcome(reader.read());
            (reader, got)
        });
        until_waiting(ring, 1);
        wake();
        thread.join().unwrap()
    })
}

#[test]
fn every_way_to_publish_wakes_a_parked_reader() {
    let ring = Ring::new(4, 8).unwrap();
    let reader = ring.reader_from_oldest();
    let (reader, got) = parked(&ring, reader, || ring.publish(b"1").unwrap());
    assert_eq!(got, Ok(E(1)));
    let (reader, got) = parked(&ring, reader, || ring.publish_tagged(1, b"2").unwrap());
    assert_eq!(got, Ok(E(2)));
    let (reader, got) = parked(&ring, reader, || ring.publish_batch(&[(0, b"3")]).unwrap());
    assert_eq!(got, Ok(E(3)));
    let handle = ring.handle();
    let mut ring = ring.into_exclusive();
    let (reader, got) = parked(&handle, reader, || ring.publish(b"4").unwrap());
    assert_eq!(got, Ok(E(4)));
    let (reader, got) = parked(&handle, reader, || ring.publish_batch(&[(0, b"5")]).unwrap());
    assert_eq!(got, Ok(E(5)));
    assert_eq!(list(&handle).waiting(), 0);
    drop(reader);

    let ring = TypedRing::new(4).unwrap();
    let mut reader = ring.reader_from_oldest();
    thread::scope(|scope| {
        let thread = scope.spawn(|| reader.read().unwrap().event().unwrap().value);
        until_waiting(&ring, 1);
        ring.publish(&77u64).unwrap();
        assert_eq!(thread.join().unwrap(), 77);
    });
}

#[test]
fn a_number_that_is_given_up_wakes_a_parked_reader() {
    let ring = Ring::new(1, 8).unwrap();
    let (published, got) = stalled(&ring, b"1", Step::Writing, |_| {
        let wake = || assert_eq!(ring.publish(b"2"), Err(PublishError::Stalled { tried: 1 }));
        parked(&ring, ring.reader_from_oldest(), wake).1
    });
    assert_eq!((published, got), (Ok(1), Ok(Got::Dropped(1, 1))));
}

#[test]
fn every_end_of_a_ring_wakes_its_parked_readers() {
    let closed = Err(ReadError::Closed);
    let ring = || Ring::new(4, 8).unwrap();
    let at_the_end = || {
        let ring = Config::new(4).first_seq(MAX_SEQ).bytes(8).unwrap();
        assert_eq!(ring.publish(b"last"), Ok(MAX_SEQ));
        ring
    };
    let shared = ring();
    assert_eq!(parked(&shared, shared.reader_from_now(), || assert!(shared.close())).1, closed);
    let shared = ring();
    assert_eq!(parked(&shared.handle(), shared.reader_from_now(), || drop(shared)).1, closed);
    let mut exclusive = ring().into_exclusive();
    assert_eq!(
        parked(&exclusive.handle(), exclusive.reader_from_now(), || assert!(exclusive.close())).1,
        closed
    );
    let exclusive = ring().into_exclusive();
    assert_eq!(parked(&exclusive.handle(), exclusive.reader_from_now(), || drop(exclusive)).1, closed);
    let shared = at_the_end();
    let refused = || assert_eq!(shared.publish(b"none"), Err(PublishError::Closed));
    assert_eq!(parked(&shared, shared.reader_from_now(), refused).1, closed);
    let mut exclusive = at_the_end().into_exclusive();
    let (handle, reader) = (exclusive.handle(), exclusive.reader_from_now());
    let refused = || assert_eq!(exclusive.publish(b"none"), Err(PublishError::Closed));
    assert_eq!(parked(&handle, reader, refused).1, closed);
}

#[test]
fn all_of_a_hundred_parked_readers_are_woken() {
    const READERS: usize = 100;
    let ring = Ring::new(4, 8).unwrap();
    let reads = AtomicU64::new(0);
    thread::scope(|scope| {
        let threads = (0..READERS).map(|_| {
            let mut reader = ring.reader_from_oldest();
            let reads = &reads;
            scope.spawn(move || {
                [(); 3].map(|()| {
                    let got = outcome(reader.read());
                    reads.fetch_add(1, Relaxed);
                    got
                })
            })
        });
        let threads = threads.collect::<Vec<_>>();
        for seq in 1..=2 {
            until_waiting(&ring, READERS);
            assert_eq!(ring.publish(b"event"), Ok(seq));
            while reads.load(Relaxed) != READERS as u64 * seq {
                thread::yield_now();
            }
        }
        until_waiting(&ring, READERS);
        assert!(ring.close());
        for thread in threads {
            assert_eq!(thread.join().unwrap(), [Ok(E(1)), Ok(E(2)), Err(ReadError::Closed)]);
        }
    });
    assert_eq!(list(&ring).waiting(), 0);
}

#[test]
fn a_canceller_ends_the_sleep_of_its_reader_alone() {
    let ring = Ring::new(4, 8).unwrap();
    let (mut one, mut other) = (ring.reader_from_oldest(), ring.reader_from_oldest());
    let canceller = one.canceller();
    thread::scope(|scope| {
        let other = scope.spawn(move || outcome(other.read()));
        until_waiting(&ring, 1);
        let thread = scope.spawn(move || {
            let got = outcome(one.read());
            (one, got)
        });
        until_waiting(&ring, 2);
        canceller.clone().cancel();
        let (reader, got) = thread.join().unwrap();
        one = reader;
        assert_eq!((got, one.next_seq()), (Err(ReadError::Cancelled), 1));
        assert!(canceller.is_cancelled() && one.canceller().is_cancelled());
        until_waiting(&ring, 1); // the other one sleeps on
        ring.publish(b"1").unwrap();
        assert_eq!(other.join().unwrap(), Ok(E(1)));

        // A clone goes on where it was, and is not cancelled.
        let mut clone = one.clone();
        assert!(!clone.canceller().is_cancelled());
        assert_eq!(outcome(clone.read()), Ok(E(1)));
        assert_eq!(outcome(one.read()), Err(ReadError::Cancelled), "before it takes an event");
        assert_eq!(read(&mut one), Ok(E(1)), "try_read still takes it");
    });
}

#[test]
fn a_canceller_outlives_its_reader_and_wakes_no_one_for_good() {
    let ring = Ring::new(4, 8).unwrap();
    let gone = ring.reader_from_oldest();
    let canceller = gone.canceller();
    drop(gone);
    canceller.cancel();
    // This one has the place of the other in the list.
    let reader = ring.reader_from_oldest();
    let (_, got) = parked(&ring, reader, || {
        canceller.cancel();
        until_waiting(&ring, 1);
        ring.publish(b"1").unwrap();
    });
    assert_eq!(got, Ok(E(1)));
}

#[test]
fn a_reader_that_moves_to_another_thread_is_woken_there() {
    let ring = Ring::new(4, 8).unwrap();
    let mut reader = ring.reader_from_oldest();
    for seq in 1..=10 {
        let got;
        (reader, got) = parked(&ring, reader, || ring.publish(b"event").unwrap());
        assert_eq!(got, Ok(E(seq)));
    }
}

#[test]
fn a_publisher_does_not_wait_for_the_list_and_whoever_holds_it_wakes() {
    let ring = Ring::new(4, 8).unwrap();
    let (reader, got) = parked(&ring, ring.reader_from_oldest(), || {
        let ((), waiting) = list(&ring).while_locked(|| {
            for seq in 1..=3 {
                assert_eq!(ring.publish(b"event"), Ok(seq));
            }
        });
        assert_eq!(waiting, 1, "nobody could be woken");
    });
    assert_eq!((got, reader.lag()), (Ok(E(1)), 2));
    let (_, got) = parked(&ring, ring.reader_from_now(), || list(&ring).while_locked(|| ring.close()));
    assert_eq!(got, Err(ReadError::Closed));
}

#[test]
fn a_sleep_that_is_timed_ends_with_the_event_or_with_the_time() {
    let ring = Ring::new(4, 8).unwrap();
    let mut reader = ring.reader_from_oldest();
    thread::scope(|scope| {
        let thread = scope.spawn(|| outcome(reader.read_timeout(Duration::from_secs(3600))));
        until_waiting(&ring, 1);
        ring.publish(b"1").unwrap();
        assert_eq!(thread.join().unwrap(), Ok(E(1)));
    });
    assert_eq!(outcome(reader.read_timeout(Duration::from_millis(20))), Err(ReadError::TimedOut));
    assert_eq!(list(&ring).waiting(), 0, "it is not registered any more");
    ring.publish(b"2").unwrap();
    assert_eq!(outcome(reader.read_timeout(Duration::ZERO)), Ok(E(2)));
}

/// One event, published while a task waits for it, which has read all before it.
fn wait_once(ring: &Ring, reader: &mut Reader) {
    reader.move_to_now();
    let mut cx = Context::from_waker(Waker::noop());
    let mut future = pin!(reader.read_async());
    assert!(future.as_mut().poll(&mut cx).is_pending());
    ring.publish(b"event").unwrap();
    assert!(matches!(future.poll(&mut cx), Poll::Ready(Ok(Read::Event(_)))));
}

#[test]
fn who_waits_for_every_event_makes_one_barrier_for_all_of_them() {
    let ring = Ring::new(4, 8).unwrap();
    let mut readers = [ring.reader_from_oldest(), ring.reader_from_oldest()];
    let before = BARRIERS.get();
    wait_once(&ring, &mut readers[0]);
    let once = BARRIERS.get() - before; // none where publishers have a fence of their own
    assert!(once <= 1);
    for _ in 0..100 {
        wait_once(&ring, &mut readers[0]);
        wait_once(&ring, &mut readers[1]);
    }
    assert_eq!(BARRIERS.get() - before, once, "the list was awaited all the time");
    ring.publish(b"alone").unwrap();
    ring.publish(b"again").unwrap();
    wait_once(&ring, &mut readers[0]);
    assert_eq!(BARRIERS.get() - before, 2 * once, "it was not, for two events");
}

#[test]
fn a_task_is_registered_while_its_future_waits() {
    let ring = Ring::new(4, 8).unwrap();
    let mut reader = ring.reader_from_oldest();
    let mut cx = Context::from_waker(Waker::noop());
    for seq in 1..=3 {
        let future = reader.read_async();
        assert_eq!(list(&ring).waiting(), 0, "not before it is polled");
        {
            let mut future = pin!(future);
            assert!(future.as_mut().poll(&mut cx).is_pending());
            assert!(future.as_mut().poll(&mut cx).is_pending());
            assert_eq!(list(&ring).waiting(), 1);
        }
        assert_eq!(list(&ring).waiting(), 0, "not after it was dropped");
        let mut future = pin!(reader.read_async());
        assert!(future.as_mut().poll(&mut cx).is_pending());
        ring.publish(b"event").unwrap();
        assert_eq!(list(&ring).waiting(), 0, "not after it was woken");
        match future.poll(&mut cx) {
            Poll::Ready(Ok(Read::Event(event))) => assert_eq!(event.seq, seq),
            other => panic!("{other:?}"),
        }
    }
    {
        let mut future = pin!(reader.read_async());
        assert!(future.as_mut().poll(&mut cx).is_pending());
        // The slot is looked at before the list is: woken or not, it is ready.
        list(&ring).while_locked(|| ring.publish(b"event")).0.unwrap();
        assert!(future.as_mut().poll(&mut cx).is_ready());
    }
    assert!(pin!(reader.read_async()).poll(&mut cx).is_pending());
    drop(reader);
    assert_eq!(list(&ring).waiting(), 0);
}

#[test]
fn a_batch_of_several_laps_wakes_after_each() {
    let ring = Ring::new(2, 8).unwrap();
    let mut reader = ring.reader_from_oldest();
    let mut cx = Context::from_waker(Waker::noop());
    let waiting = RefCell::new(Vec::new());
    let mut future = Box::pin(reader.read_async());
    assert!(future.as_mut().poll(&mut cx).is_pending());
    let seqs = ring.shared.publish_batch(6, |_, claimed| {
        waiting.borrow_mut().push(list(&ring).waiting());
        Bytes::store(claimed, 0, b"x");
    });
    assert_eq!((seqs, waiting.take()), (Ok(1..7), vec![1, 1, 0, 0, 0, 0]));

    drop(future);
    reader.move_to_now();
    let mut publisher = ring.into_exclusive();
    let handle = publisher.handle();
    let mut future = pin!(reader.read_async());
    assert!(future.as_mut().poll(&mut cx).is_pending());
    let seqs = publisher.write_batch(6, |(), _, claimed| {
        waiting.borrow_mut().push(list(&handle).waiting());
        Bytes::store(claimed, 0, b"x");
    });
    assert_eq!((seqs, waiting.take()), (Ok(7..13), vec![1, 1, 0, 0, 0, 0]));
}

/// A waker whose executor is broken: it panics, and so does the panic when it is dropped.
struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        struct DropPanics;
        impl Drop for DropPanics {
            fn drop(&mut self) {
                panic!("a panic that panics");
            }
        }
        std::panic::panic_any(DropPanics);
    }
}

#[test]
fn a_waker_that_panics_harms_neither_its_publisher_nor_other_readers() {
    const READERS: usize = 40; // several batches of wakers
    let ring = Ring::new(4, 8).unwrap();
    let broken = Waker::from(Arc::new(Panics));
    let mut readers = (0..READERS).map(|_| ring.reader_from_oldest()).collect::<Vec<_>>();
    let mut all_wait = |wake: &dyn Fn()| {
        let mut futures = readers.iter_mut().map(|reader| Box::pin(reader.read_async())).collect::<Vec<_>>();
        for (at, future) in futures.iter_mut().enumerate() {
            let waker = if at % 8 == 0 { &broken } else { Waker::noop() };
            assert!(future.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
        }
        wake();
        let waiting = list(&ring).waiting();
        drop(futures);
        readers.iter_mut().for_each(Reader::move_to_now);
        waiting
    };
    let publish = || assert_eq!(ring.publish_batch(&[(0, &b"1"[..]); 6]), Ok(1..7), "both laps of the batch");
    assert_eq!(all_wait(&publish), 0);
    let mut cancelled = ring.reader_from_now();
    let canceller = cancelled.canceller();
    assert!(pin!(cancelled.read_async()).poll(&mut Context::from_waker(&broken)).is_pending());
    canceller.cancel();
    assert_eq!(all_wait(&|| assert!(ring.close())), 0);
}

/// A waker that makes another reader.
struct Makes(Handle, Mutex<Option<Reader>>);

impl Wake for Makes {
    fn wake(self: Arc<Self>) {
        *self.1.lock().unwrap() = Some(self.0.reader_from_now());
    }
}

#[test]
fn a_walk_comes_to_all_when_a_reader_is_made_meanwhile() {
    const READERS: usize = 40;
    let ring = Ring::new(4, 8).unwrap();
    let mut readers = (0..READERS).map(|_| ring.reader_from_oldest()).collect::<Vec<_>>();
    wait_once(&ring, &mut readers[READERS / 2]); // the next walk begins behind it, and comes round to it last
    readers.iter_mut().for_each(Reader::move_to_now);
    let makes = Arc::new(Makes(ring.handle(), Mutex::new(None)));
    let waker = Waker::from(Arc::clone(&makes));
    let mut futures = readers.iter_mut().map(|reader| Box::pin(reader.read_async())).collect::<Vec<_>>();
    for (at, future) in futures.iter_mut().enumerate() {
        let waker = if at == READERS / 2 + 1 { &waker } else { Waker::noop() };
        assert!(future.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
    }
    ring.publish(b"event").unwrap();
    assert!(makes.1.lock().unwrap().is_some());
    assert_eq!(list(&ring).waiting(), 0);
}
