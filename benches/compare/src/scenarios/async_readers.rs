//! Readers that are tasks.

use std::future::{Future, poll_fn};
use std::hint::spin_loop;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Instant;

use lapwing::ring::{Config, Read, ReadError, TypedRing};
use tokio::runtime::Runtime;
use tokio::sync::broadcast;

use super::Scenario;
use crate::harness::{Against, Body, Contestant, Events, Goal, Group, Sample, THERE, pin};
use crate::rivals::Kind;

const CAPACITY: usize = 1024;
const SINGLE: &str = "single";
const BURSTS: &str = "bursts of 16";

pub fn async_readers() -> Scenario {
    Scenario {
        name: "async readers",
        about: "So many tasks on one worker thread of a tokio runtime, on another core, wait for events of 8 bytes. One is \
                published, or 16, and when every task has read what there is, the next: nanoseconds for each event \
                and reader.",
        groups: vec![Box::new(|| group(1)), Box::new(|| group(64)), Box::new(|| group(1000))],
    }
}

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).on_thread_start(|| pin(THERE)).build().expect("a thread can be started")
}

/// Publishes `burst` events by `publish`, and waits until each of so many tasks has read them, again and again. A
/// task is made by `reader`, and reads until its future ends.
fn body<F: Future<Output = ()> + Send + 'static>(
    tasks: usize,
    burst: u64,
    mut publish: impl FnMut(u64) + 'static,
    mut reader: impl FnMut(Done) -> F,
) -> Body {
    let runtime = runtime();
    let count = Arc::new(AtomicU64::new(0));
    for _ in 0..tasks {
        let done = Done { count: Arc::clone(&count), burst, read: 0 };
        runtime.spawn(reader(done));
    }
    let mut wanted = 0;
    Box::new(move |events| {
        let _running = &runtime;
        let bursts = events.div_ceil(burst * tasks as u64);
        let start = Instant::now();
        for _ in 0..bursts {
            (0..burst).for_each(&mut publish);
            wanted += tasks as u64;
            while count.load(Acquire) != wanted {
                spin_loop();
            }
        }
        Sample::per_event(start.elapsed(), bursts * burst * tasks as u64)
    })
}

/// Where a task says that it has read a burst.
struct Done {
    count: Arc<AtomicU64>,
    burst: u64,
    read: u64,
}

impl Done {
    fn one(&mut self) {
        self.read += 1;
        if self.read == self.burst {
            self.read = 0;
            self.count.fetch_add(1, Release);
        }
    }
}

fn lapwing(tasks: usize, burst: u64) -> Body {
    let ring: TypedRing<u64> = Config::new(CAPACITY as u64).typed().expect("a valid configuration");
    let first = ring.reader_from_now();
    let publish = move |value| _ = ring.publish(&value).expect("an open ring takes it");
    body(tasks, burst, publish, move |mut done| {
        let mut reader = first.clone();
        async move {
            loop {
                match reader.read_async().await {
                    Ok(Read::Event(_)) => done.one(),
                    Ok(Read::Dropped(dropped)) => panic!("the reader was left behind: {dropped}"),
                    Err(ReadError::Closed) => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    })
}

fn tokio(tasks: usize, burst: u64) -> Body {
    let (sender, _) = broadcast::channel::<u64>(CAPACITY);
    let subscribe = sender.clone();
    // What the tasks hold would otherwise keep it open.
    let mut receivers: Vec<_> = (0..tasks).map(|_| subscribe.subscribe()).collect();
    drop(subscribe);
    let publish = move |value| _ = sender.send(value).expect("a receiver is there");
    body(tasks, burst, publish, move |mut done| {
        let mut receiver = receivers.pop().expect("one for each task");
        async move {
            while let Ok(_value) = receiver.recv().await {
                done.one();
            }
        }
    })
}

fn async_broadcast(tasks: usize, burst: u64) -> Body {
    let (sender, receiver) = async_broadcast::broadcast::<u64>(CAPACITY);
    let mut receivers = vec![receiver; tasks];
    let publish = move |value| _ = sender.try_broadcast(value).expect("there is room");
    body(tasks, burst, publish, move |mut done| {
        let mut receiver = receivers.pop().expect("one for each task");
        async move {
            while let Ok(_value) = receiver.recv_direct().await {
                done.one();
            }
        }
    })
}

/// A number that is counted up, and the wakers of those who wait for it: what waking tasks costs.
fn base(tasks: usize, burst: u64) -> Body {
    let (newest, wakers) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::<Waker>::new())));
    let open = Arc::downgrade(&newest);
    let waiting = Arc::clone(&wakers);
    let mut woken = Vec::new();
    let publish = move |_| {
        let mut wakers = wakers.lock().expect("nobody panicked");
        newest.fetch_add(1, Release);
        std::mem::swap(&mut *wakers, &mut woken);
        drop(wakers);
        woken.drain(..).for_each(Waker::wake);
    };
    body(tasks, burst, publish, move |mut done| {
        let (open, waiting) = (open.clone(), Arc::clone(&waiting));
        let mut read = 0;
        poll_fn(move |context| {
            let Some(newest) = open.upgrade() else { return Poll::Ready(()) };
            loop {
                while read < newest.load(Acquire) {
                    read += 1;
                    done.one();
                }
                let mut waiting = waiting.lock().expect("nobody panicked");
                if read == newest.load(Relaxed) {
                    waiting.push(context.waker().clone());
                    return Poll::Pending;
                }
            }
        })
    })
}

fn group(tasks: usize) -> Group {
    let mut contestants = Vec::new();
    for (class, burst) in [(SINGLE, 1), (BURSTS, 16)] {
        let mut add = |name, kind, body| contestants.push(Contestant::new(name, kind, class, body));
        add("base, a list of wakers", Kind::Base, base(tasks, burst));
        add("lapwing typed shared", Kind::Ours, lapwing(tasks, burst));
        add("tokio", Kind::Rival, tokio(tasks, burst));
        add("async-broadcast", Kind::Rival, async_broadcast(tasks, burst));
    }
    let goal = |class| {
        let name = format!("1,000 async readers, {class} / tokio");
        Goal::new(name, class, Against::Named("tokio"), 0.5)
    };
    Group {
        scenario: "async readers",
        case: if tasks == 1 { String::from("1 task") } else { format!("{tasks} tasks") },
        x: Some(tasks as u64),
        what: "ns/read",
        events: Events::Turns(4),
        contestants,
        goals: if tasks == 1000 { vec![goal(SINGLE), goal(BURSTS)] } else { Vec::new() },
    }
}
