//! Time-outs, cancellation, tasks and streams, as users see them. What needs to know that a thread sleeps is tested
//! inside the crate, where that can be seen.
#![cfg(feature = "std")]

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use lapwing::ring::{Config, Dropped, Event, Read, ReadError, Ring, TypedRing, Wait};

mod tasks;
use tasks::{Count, block_on};

fn rings() -> [Ring; 2] {
    [Wait::Park, Wait::Spin].map(|wait| {
        let ring = Config::new(8).wait(wait).bytes(8).unwrap();
        assert_eq!(ring.wait(), wait);
        ring
    })
}

/// The seq of an event that must not be a loss.
fn seq(read: Result<Read<Event<'_>>, ReadError>) -> Result<u64, ReadError> {
    Ok(read?.event().expect("an event").seq)
}

// ---- Threads.

#[test]
fn a_time_out_takes_its_time_and_nothing_else() {
    for ring in rings() {
        let mut reader = ring.reader_from_oldest();
        for ms in [0, 1, 30] {
            let timeout = Duration::from_millis(ms);
            let start = Instant::now();
            assert_eq!(seq(reader.read_timeout(timeout)), Err(ReadError::TimedOut));
            assert!(start.elapsed() >= timeout, "after {:?}", start.elapsed());
            let deadline = Instant::now() + timeout;
            assert_eq!(seq(reader.read_deadline(deadline)), Err(ReadError::TimedOut));
            assert!(Instant::now() >= deadline);
        }
        assert_eq!(reader.next_seq(), 1);
        (1..=3).for_each(|seq| assert_eq!(ring.publish(b"event"), Ok(seq)));
        assert_eq!(seq(reader.read_timeout(Duration::from_secs(3600))), Ok(1));
        assert_eq!(seq(reader.read_timeout(Duration::MAX)), Ok(2), "beyond the clock");
        assert_eq!(seq(reader.read_timeout(Duration::ZERO)), Ok(3));
    }
}

#[test]
fn a_deadline_in_the_past_still_looks() {
    for ring in rings() {
        let past = Instant::now();
        let mut reader = ring.reader_from_oldest();
        assert_eq!(seq(reader.read_deadline(past)), Err(ReadError::TimedOut));
        ring.publish(b"event").unwrap();
        assert_eq!(seq(reader.read_deadline(past)), Ok(1));
        assert_eq!(seq(reader.read_deadline(past)), Err(ReadError::TimedOut));
        for _ in 2..=10 {
            ring.publish(b"event").unwrap();
        }
        assert_eq!(reader.read_deadline(past), Ok(Read::Dropped(Dropped { from: 2, to: 2 })));
        assert_eq!(seq(reader.read_deadline(past)), Ok(3));
        ring.close();
        (4..=10).for_each(|n| assert_eq!(seq(reader.read_deadline(past)), Ok(n)));
        assert_eq!(seq(reader.read_deadline(past)), Err(ReadError::Closed));
    }
}

#[test]
fn cancelled_before_a_read_it_ends_at_once_and_takes_nothing() {
    for ring in rings() {
        let mut reader = ring.reader_from_oldest();
        let canceller = reader.canceller();
        assert!(!canceller.is_cancelled());
        ring.publish(b"event").unwrap();
        canceller.cancel();
        canceller.cancel();
        assert!(canceller.is_cancelled() && canceller.clone().is_cancelled());
        let hour = Duration::from_secs(3600);
        assert_eq!(seq(reader.read()), Err(ReadError::Cancelled));
        assert_eq!(seq(reader.read_timeout(hour)), Err(ReadError::Cancelled));
        assert_eq!(seq(reader.read_deadline(Instant::now() + hour)), Err(ReadError::Cancelled));
        assert_eq!(reader.read_batch(3, |_| panic!("an event")), Err(ReadError::Cancelled));
        assert_eq!(seq(block_on(reader.read_async())), Err(ReadError::Cancelled));
        ring.close();
        assert_eq!(seq(reader.read()), Err(ReadError::Cancelled), "before it sees the end");
        assert_eq!(reader.try_read().unwrap().event().unwrap().seq, 1);
    }
}

#[test]
fn cancelled_in_a_read_it_returns() {
    for ring in rings() {
        let mut reader = ring.reader_from_oldest();
        let canceller = reader.canceller();
        thread::scope(|scope| {
            let thread = scope.spawn(|| seq(reader.read()));
            canceller.cancel();
            assert_eq!(thread.join().unwrap(), Err(ReadError::Cancelled));
        });
        assert_eq!(reader.next_seq(), 1);
    }
}

#[test]
fn a_spinning_reader_gets_event_and_end() {
    let [_, ring] = rings();
    let mut reader = ring.reader_from_oldest();
    thread::scope(|scope| {
        let thread = scope.spawn(|| [(); 4].map(|()| seq(reader.read())));
        for n in 1..=3 {
            assert_eq!(ring.publish(b"event"), Ok(n));
            thread::yield_now();
        }
        ring.close();
        assert_eq!(thread.join().unwrap(), [Ok(1), Ok(2), Ok(3), Err(ReadError::Closed)]);
    });
}

#[test]
fn blocking_batches_give_what_there_is_and_no_more() {
    for ring in rings() {
        let mut reader = ring.reader_from_oldest();
        let mut seqs = Vec::new();
        for _ in 1..=10 {
            ring.publish(b"event").unwrap();
        }
        assert_eq!(reader.read_batch(9, |_| panic!()), Ok(Read::Dropped(Dropped { from: 1, to: 2 })));
        assert_eq!(reader.read_batch(3, |event| seqs.push(event.seq)), Ok(Read::Event(3)));
        assert_eq!(reader.read_batch(0, |event| seqs.push(event.seq)), Ok(Read::Event(1)), "at least one");
        assert_eq!(reader.read_batch(100, |event| seqs.push(event.seq)), Ok(Read::Event(4)));
        assert_eq!(seqs, (3..=10).collect::<Vec<_>>());
        // A loss comes after what was there before it.
        ring.publish(b"event").unwrap();
        let mut batch = Vec::new();
        let read = reader.read_batch(9, |event| {
            batch.push(event.seq);
            if event.seq == 11 {
                (12..=21).for_each(|seq| assert_eq!(ring.publish(b"event"), Ok(seq)));
            }
        });
        assert_eq!((read, batch), (Ok(Read::Event(1)), vec![11]));
        assert_eq!(reader.read_batch(9, |_| panic!()), Ok(Read::Dropped(Dropped { from: 12, to: 13 })));
        ring.close();
        assert_eq!(reader.read_batch(100, |_| ()), Ok(Read::Event(8)));
        assert_eq!(reader.read_batch(100, |_| ()), Err(ReadError::Closed));
    }
}

/// A filter that goes through what nobody wants must not keep its reader from looking around. Here there is a
/// wanted event behind a long stretch of others: a reader that got it has not looked.
#[test]
fn a_filter_looks_around_while_it_skips() {
    const UNWANTED: usize = 10_000;
    for wait in [Wait::Park, Wait::Spin] {
        let ring = Config::new(UNWANTED as u64 + 1).wait(wait).bytes(8).unwrap();
        ring.publish_batch(&[(0, &b"unwanted"[..]); UNWANTED]).unwrap();
        ring.publish_tagged(1, b"wanted").unwrap();
        let reader = || {
            let mut reader = ring.reader_from_oldest();
            reader.set_filter(|tag| tag == 1);
            reader
        };
        let past = Instant::now();
        let mut one = reader();
        assert_eq!(seq(one.read_deadline(past)), Err(ReadError::TimedOut));
        assert!(one.next_seq() > 1 && one.next_seq() < UNWANTED as u64, "it stopped at {}", one.next_seq());
        assert_eq!(seq(one.read_timeout(Duration::ZERO)), Err(ReadError::TimedOut));
        assert_eq!(seq(one.read_timeout(Duration::from_secs(3600))), Ok(UNWANTED as u64 + 1), "and goes on");

        let mut one = reader();
        let canceller = one.canceller();
        let (count, waker) = Count::new();
        let mut future = pin!(one.read_async());
        for polls in 1..=3 {
            assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            assert_eq!(count.get(), polls, "it asks to be polled again at once");
        }
        canceller.cancel();
        let end = future.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(matches!(end, Poll::Ready(Err(ReadError::Cancelled))), "{end:?}");

        let mut one = reader();
        assert_eq!(seq(block_on(one.read_async())), Ok(UNWANTED as u64 + 1));
    }
}

/// The same while publishers go on with events that nobody wants, for as long as the reader has not ended.
#[test]
fn a_steady_load_of_unwanted_events_hides_neither_canceller_nor_deadline() {
    for wait in [Wait::Park, Wait::Spin] {
        let ring = Config::new(4096).wait(wait).bytes(8).unwrap();
        let mut reader = ring.reader_from_oldest();
        reader.set_filter(|_| false);
        let canceller = reader.canceller();
        let (stop, is_reading) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            let publishers = [(); 2].map(|()| {
                scope.spawn(|| {
                    // A reader that does not end would make this test go on for ever, if this did.
                    let deadline = Instant::now() + Duration::from_secs(60);
                    let mut batches = 0;
                    while !stop.load(SeqCst) && Instant::now() < deadline {
                        ring.publish_batch(&[(0, &b"unwanted"[..]); 64]).unwrap();
                        batches += usize::from(is_reading.load(SeqCst));
                        if batches == 1000 {
                            canceller.cancel();
                        }
                    }
                    stop.load(SeqCst)
                })
            });
            let deadline = Instant::now() + Duration::from_millis(20);
            // Losses are told, and it goes on.
            let timed_out = loop {
                match reader.read_deadline(deadline) {
                    Ok(read) => assert!(read.event().is_none()),
                    Err(error) => break error,
                }
            };
            is_reading.store(true, SeqCst);
            let cancelled = loop {
                match reader.read() {
                    Ok(read) => assert!(read.event().is_none()),
                    Err(error) => break error,
                }
            };
            stop.store(true, SeqCst);
            let stopped = publishers.map(|publisher| publisher.join().unwrap());
            assert_eq!((timed_out, cancelled), (ReadError::TimedOut, ReadError::Cancelled));
            assert_eq!(stopped, [true, true], "the reader ended under load, and not after it");
            assert!(reader.skipped() > 0);
        });
    }
}

// ---- Tasks.

#[test]
fn a_task_reads_what_a_thread_publishes() {
    const EVENTS: u64 = 2000;
    for ring in rings() {
        let (mut one, mut other) = (ring.reader_from_oldest(), ring.reader_from_oldest());
        thread::scope(|scope| {
            let tasks = [&mut one, &mut other].map(|reader| {
                scope.spawn(move || {
                    block_on(async {
                        let mut last = 0;
                        loop {
                            match reader.read_async().await {
                                Ok(Read::Event(event)) => {
                                    assert_eq!(event.seq, last + 1);
                                    assert_eq!(event.bytes, event.seq.to_le_bytes());
                                    last = event.seq;
                                }
                                Ok(Read::Dropped(dropped)) => {
                                    assert_eq!(dropped.from, last + 1);
                                    last = dropped.to;
                                }
                                Err(error) => return (last, error),
                            }
                        }
                    })
                })
            });
            for seq in 1..=EVENTS {
                assert_eq!(ring.publish(&seq.to_le_bytes()), Ok(seq));
            }
            ring.close();
            for task in tasks {
                assert_eq!(task.join().unwrap(), (EVENTS, ReadError::Closed));
            }
        });
    }
}

#[test]
fn all_of_a_hundred_pending_tasks_are_woken_once() {
    let ring = TypedRing::new(8).unwrap();
    let mut readers = [(); 100].map(|()| ring.reader_from_oldest());
    for value in [10u64, 20] {
        let mut tasks = readers.iter_mut().map(|reader| {
            let (count, waker) = Count::new();
            let mut future = Box::pin(reader.read_async());
            assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            (count, future)
        });
        let mut tasks = tasks.by_ref().collect::<Vec<_>>();
        ring.publish(&value).unwrap();
        for (count, future) in &mut tasks {
            assert_eq!(count.get(), 1);
            match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(Read::Event(event))) => assert_eq!(event.value, value),
                other => panic!("{other:?}"),
            }
        }
    }
    let mut pending = readers.iter_mut().map(|reader| Box::pin(reader.read_async())).collect::<Vec<_>>();
    let (count, waker) = Count::new();
    for future in &mut pending {
        assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    ring.close();
    assert_eq!(count.get(), 100);
    for future in &mut pending {
        let end = future.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(matches!(end, Poll::Ready(Err(ReadError::Closed))), "{end:?}");
    }
}

#[test]
fn the_last_waker_is_the_one_that_is_woken() {
    let [ring, spinning] = rings();
    let mut reader = ring.reader_from_oldest();
    let mut future = pin!(reader.read_async());
    let wakers = [Count::new(), Count::new(), Count::new()];
    for (_, waker) in &wakers {
        assert!(future.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
    }
    ring.publish(b"event").unwrap();
    ring.publish(b"event").unwrap();
    assert_eq!(wakers.map(|(count, _)| count.get()), [0, 0, 1]);

    // No publisher wakes the task of a ring that spins: it asks to be polled again.
    let (count, waker) = Count::new();
    let mut reader = spinning.reader_from_oldest();
    let mut future = pin!(reader.read_async());
    for polls in 1..=3 {
        assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        assert_eq!(count.get(), polls);
    }
    spinning.publish(b"event").unwrap();
    assert_eq!(count.get(), 3);
    assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
}

#[test]
fn a_canceller_wakes_its_pending_task_alone() {
    let [ring, _] = rings();
    let (mut one, mut other) = (ring.reader_from_oldest(), ring.reader_from_oldest());
    let canceller = one.canceller();
    let (mut one, mut other) = (pin!(one.read_async()), pin!(other.read_async()));
    let ((one_count, one_waker), (other_count, other_waker)) = (Count::new(), Count::new());
    assert!(one.as_mut().poll(&mut Context::from_waker(&one_waker)).is_pending());
    assert!(other.as_mut().poll(&mut Context::from_waker(&other_waker)).is_pending());
    canceller.cancel();
    assert_eq!((one_count.get(), other_count.get()), (1, 0));
    let end = one.poll(&mut Context::from_waker(&one_waker));
    assert!(matches!(end, Poll::Ready(Err(ReadError::Cancelled))), "{end:?}");
    ring.publish(b"event").unwrap();
    assert_eq!((one_count.get(), other_count.get()), (1, 1));
    assert!(other.poll(&mut Context::from_waker(&other_waker)).is_ready());
}

/// Every sequence of publishing, polling, and dropping the future, up to a length.
#[test]
fn a_future_that_is_dropped_at_any_time_loses_nothing() {
    const LEN: u32 = 8;
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Publish,
        Poll,
        Drop,
    }
    for ring_at in 0..2 {
        for sequence in 0..3usize.pow(LEN) {
            let [parking, spinning] = rings();
            let ring = if ring_at == 0 { parking } else { spinning };
            let mut steps = (0..LEN)
                .map(|at| [Step::Publish, Step::Poll, Step::Drop][sequence / 3usize.pow(at) % 3])
                .collect::<VecDeque<_>>();
            let mut reader = ring.reader_from_oldest();
            let (mut published, mut last) = (0, 0);
            while !steps.is_empty() {
                let (count, waker) = Count::new();
                let mut future = pin!(reader.read_async());
                // What it was woken for, so far.
                let mut pending = None;
                while let Some(step) = steps.pop_front() {
                    match step {
                        Step::Publish => {
                            published = ring.publish(b"event").unwrap();
                            if let Some(before) = pending {
                                assert!(count.get() > before, "a lost wake-up in {sequence}");
                            }
                        }
                        Step::Poll => {
                            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                                Poll::Ready(read) => {
                                    assert_eq!(seq(read), Ok(last + 1), "in {sequence}");
                                    last += 1;
                                    break;
                                }
                                Poll::Pending => {
                                    assert_eq!(last, published, "in {sequence}");
                                    // A ring that spins has woken it already.
                                    pending = Some(if ring_at == 0 { count.get() } else { 0 });
                                }
                            }
                        }
                        Step::Drop => break,
                    }
                }
            }
            for n in last + 1..=published {
                assert_eq!(reader.try_read().unwrap().event().unwrap().seq, n, "in {sequence}");
            }
            assert!(reader.try_read().is_err());
        }
    }
}

/// A waker that runs code of its own when it is called, and when it is dropped.
struct Foreign {
    wake: Box<dyn Fn() + Send + Sync>,
    dropped: Box<dyn Fn() + Send + Sync>,
}

impl Wake for Foreign {
    fn wake(self: Arc<Self>) {
        (self.wake)();
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        (self.dropped)();
    }
}

#[test]
fn a_waker_may_use_the_ring() {
    let [ring, _] = rings();
    let ring = Arc::new(ring);
    let log = Arc::new(Mutex::new(Vec::new()));
    let foreign = |name: &'static str| {
        // Each takes a place in the list, and gives it back; a lock held around it would be a deadlock.
        let uses = |what: &'static str| {
            let (ring, log) = (Arc::clone(&ring), Arc::clone(&log));
            move || {
                let mut reader = ring.reader_from_now();
                let seq = ring.publish(b"foreign").unwrap();
                assert_eq!(reader.try_read().unwrap().event().unwrap().seq, seq);
                log.lock().unwrap().push(format!("{name} {what}"));
            }
        };
        Waker::from(Arc::new(Foreign { wake: Box::new(uses("woken")), dropped: Box::new(uses("dropped")) }))
    };
    let logged = || std::mem::take(&mut *log.lock().unwrap());
    let mut reader = ring.reader_from_now();
    // Dropped with its future.
    {
        let mut future = pin!(reader.read_async());
        assert!(future.as_mut().poll(&mut Context::from_waker(&foreign("a"))).is_pending());
        assert_eq!(logged(), [""; 0]);
    }
    assert_eq!(logged(), ["a dropped"]);
    reader.move_to_now();
    // Replaced by another one.
    {
        let mut future = pin!(reader.read_async());
        assert!(future.as_mut().poll(&mut Context::from_waker(&foreign("b"))).is_pending());
        assert_eq!(logged(), [""; 0]);
        // Its drop publishes, so that the other one is woken, and the look after the registration finds an event.
        assert!(future.as_mut().poll(&mut Context::from_waker(&foreign("c"))).is_ready());
        assert_eq!(logged(), ["c woken", "b dropped", "c dropped"]);
    }
    reader.move_to_now();
    // Woken by a publish.
    {
        let mut future = pin!(reader.read_async());
        assert!(future.as_mut().poll(&mut Context::from_waker(&foreign("d"))).is_pending());
        ring.publish(b"event").unwrap();
        assert_eq!(logged(), ["d woken", "d dropped"]);
        assert!(future.poll(&mut Context::from_waker(Waker::noop())).is_ready());
    }
    reader.move_to_now();
    // Woken by its canceller.
    {
        let canceller = reader.canceller();
        let mut future = pin!(reader.read_async());
        assert!(future.as_mut().poll(&mut Context::from_waker(&foreign("e"))).is_pending());
        canceller.cancel();
        assert_eq!(logged(), ["e woken", "e dropped"]);
    }
}

// ---- Streams.

#[cfg(feature = "futures")]
mod stream {
    use std::pin::Pin;

    use futures_core::Stream;
    use lapwing::ring::{Events, OwnedEvent, Payload};

    use super::*;

    fn next<P: Payload>(events: &mut Events<P>, waker: &Waker) -> Poll<Option<Read<P::Owned>>> {
        Pin::new(events).poll_next(&mut Context::from_waker(waker))
    }

    fn event(seq: u64, tag: u16, bytes: &[u8]) -> Poll<Option<Read<OwnedEvent>>> {
        Poll::Ready(Some(Read::Event(OwnedEvent { seq, tag, bytes: bytes.into() })))
    }

    #[test]
    fn a_stream_gives_events_and_losses_and_ends() {
        let [ring, _] = rings();
        let mut events = ring.reader_from_oldest().into_events();
        let (count, waker) = Count::new();
        assert_eq!(next(&mut events, &waker), Poll::Pending);
        ring.publish_tagged(3, b"one").unwrap();
        assert_eq!(count.get(), 1);
        assert_eq!(next(&mut events, &waker), event(1, 3, b"one"));
        assert_eq!(next(&mut events, &waker), Poll::Pending);
        for n in 2..=11u8 {
            ring.publish(&[n]).unwrap();
        }
        assert_eq!(count.get(), 2);
        let dropped = Read::Dropped(Dropped { from: 2, to: 3 });
        assert_eq!(next(&mut events, &waker), Poll::Ready(Some(dropped)));
        assert_eq!(next(&mut events, &waker), event(4, 0, &[4]));

        // The reader goes on where the stream was, and back.
        let mut reader = events.into_reader();
        assert_eq!(reader.try_read().unwrap().event().unwrap().seq, 5);
        let mut events = reader.into_events();
        ring.close();
        for n in 6..=11 {
            assert_eq!(next(&mut events, &waker), event(n.into(), 0, &[n]));
        }
        assert_eq!(next(&mut events, &waker), Poll::Ready(None));
        assert_eq!(next(&mut events, &waker), Poll::Ready(None));
    }

    #[test]
    fn a_stream_of_values_ends_when_it_is_cancelled() {
        let ring = TypedRing::new(4).unwrap();
        let reader = ring.reader_from_oldest();
        let canceller = reader.canceller();
        let mut events = reader.into_events();
        let (count, waker) = Count::new();
        ring.publish(&[1.5f64, 2.5]).unwrap();
        let Poll::Ready(Some(Read::Event(event))) = next(&mut events, &waker) else { panic!() };
        assert_eq!((event.seq, event.value), (1, [1.5, 2.5]));
        assert!(next(&mut events, &waker).is_pending());
        canceller.cancel();
        assert_eq!(count.get(), 1);
        assert!(matches!(next(&mut events, &waker), Poll::Ready(None)));
    }
}
