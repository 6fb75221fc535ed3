//! What is done at a stop, and what must hold.

use std::collections::{BTreeMap, HashMap};
use std::io::{Cursor, Write};
use std::process::ExitCode;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};

use libtest_mimic::{Arguments, Trial, run};

use crate::arena::{self, Snapshot, private, shared};
use crate::subject::{Call, From, Got, OfRing, OfStream, Reader, Subject, Told};
use crate::traced::{Child, Status};

/// How many single steps and breakpoints one way through all stops of a kind may take. Beyond that not every instruction has its own stop,
/// but each one around a change of shared memory still has.
const MOST_STEPS: usize = if cfg!(debug_assertions) { 30_000 } else { 100_000 };
/// In a publish of no more instructions each stop is made with every fate. In a longer one only those around a change are, and the others
/// have the fates in turn; in one that is longer than the second number all have.
const SHORT: usize = if cfg!(debug_assertions) { 100 } else { 700 };
const LONG: usize = if cfg!(debug_assertions) { 1000 } else { 5000 };
/// Of the first event of the stopped publisher: even, and so large where there are large ones.
const STOPPED: u64 = 500;
/// Of the first one that others publish meanwhile.
const BESIDE: u64 = 100;

struct Kind {
    name: &'static str,
    make: fn() -> Box<dyn Subject>,
    /// How many events the stopped one publishes.
    events: u64,
}

/// How many of the kinds are run. Unoptimized, a publish of a stream has up to 200,000 instructions, and nobody uses it so.
const KINDS_RUN: usize = if cfg!(debug_assertions) { 2 } else { KINDS.len() };

const KINDS: &[Kind] = &[
    Kind { name: "ring, 8 bytes", make: || Box::new(OfRing::new(4, 8, false)), events: 1 },
    Kind { name: "ring, 256 bytes", make: || Box::new(OfRing::new(4, 256, false)), events: 1 },
    Kind { name: "ring, 250 bytes", make: || Box::new(OfRing::new(4, 250, false)), events: 1 },
    Kind { name: "ring of one slot", make: || Box::new(OfRing::new(1, 256, false)), events: 1 },
    Kind { name: "ring, batch of 3", make: || Box::new(OfRing::new(4, 72, false)), events: 3 },
    Kind { name: "ring, exclusive", make: || Box::new(OfRing::new(4, 256, true)), events: 1 },
    Kind { name: "ring, exclusive batch of 3", make: || Box::new(OfRing::new(4, 72, true)), events: 3 },
    Kind { name: "stream", make: || Box::new(OfStream::new(Call::Event, None, false)), events: 1 },
    Kind {
        name: "stream, batch of 3",
        make: || Box::new(OfStream::new(Call::Batch, None, false)),
        events: 3,
    },
    Kind { name: "stream, exclusive", make: || Box::new(OfStream::new(Call::Event, None, true)), events: 1 },
    Kind { name: "stream, JSON", make: || Box::new(OfStream::new(Call::Json, None, false)), events: 1 },
    Kind {
        name: "stream, large event",
        make: || Box::new(OfStream::new(Call::Event, Some(9000), false)),
        events: 1,
    },
    Kind {
        name: "stream, large JSON",
        make: || Box::new(OfStream::new(Call::Json, Some(9000), false)),
        events: 1,
    },
];

// ---- A publisher in a child.

/// What a child says, in shared memory.
#[derive(Default)]
struct Board {
    state: AtomicU64,
    stalled: AtomicU64,
    first: AtomicU64,
    end: AtomicU64,
}

const BEGUN: u64 = 1;
const DONE: u64 = 2;

impl Board {
    fn new() -> Box<Self> {
        shared(Box::default)
    }

    /// A child that publishes what is prepared, stopped before.
    fn publish(&self, subject: &mut dyn Subject) -> Child {
        Child::fork(|| {
            self.state.store(BEGUN, SeqCst);
            let told = subject.publish();
            self.state.store(DONE, SeqCst);
            match told {
                Told::Published { first, end } => {
                    self.first.store(first, Relaxed);
                    self.end.store(end, Relaxed);
                }
                Told::Stalled => self.stalled.store(1, Relaxed),
            }
        })
    }

    fn state(&self) -> u64 {
        self.state.load(SeqCst)
    }

    /// Once it has exited.
    fn told(&self) -> Told {
        assert_eq!(self.state(), DONE);
        if self.stalled.load(Relaxed) != 0 {
            return Told::Stalled;
        }
        Told::Published { first: self.first.load(Relaxed), end: self.end.load(Relaxed) }
    }
}

// ---- The way through a publish.

/// Where each instruction of a publish is, in their order, and of what comes before it in the child.
#[derive(Default)]
struct Trace {
    addresses: Vec<u64>,
    /// How often the child has come to the address until then, itself included.
    occurrences: Vec<usize>,
    /// How many single steps lie before.
    steps: Vec<usize>,
    begin: usize,
    /// Before these instructions, the one before has changed shared memory.
    after_changes: Vec<usize>,
}

impl Trace {
    fn take(kind: &Kind) -> Self {
        let mut scene = Scene::new(kind);
        let mut trace = Self::default();
        let mut seen: HashMap<u64, usize> = HashMap::new();
        let mut snapshot = Snapshot::take();
        let mut steps = 0;
        while scene.board.state() != DONE {
            let address = scene.child.at();
            // One that repeats, for a copy, is one instruction.
            if trace.addresses.last() != Some(&address) {
                let times = seen.entry(address).or_default();
                *times += 1;
                trace.addresses.push(address);
                trace.occurrences.push(*times);
                trace.steps.push(steps);
            }
            assert_eq!(scene.child.step(), Status::Stopped);
            steps += 1;
            if snapshot.has_changed() {
                trace.after_changes.push(trace.addresses.len());
            }
        }
        // The first and the last one are the board's.
        trace.begin = trace.after_changes.remove(0);
        trace.after_changes.pop();
        trace.after_changes.dedup();
        trace
    }

    /// How many instructions the publish takes.
    fn len(&self) -> usize {
        self.addresses.len() - self.begin
    }

    /// How to come to a place: by a breakpoint to some place shortly before it that the child does not come to often, and from there step
    /// by step. With the number of steps and breakpoints.
    fn way(&self, at: usize) -> (usize, usize) {
        let steps = |from: usize| self.steps[at] - self.steps[from];
        // One that repeats is no place to go by: whether it meets a breakpoint once or each time is the processor's business.
        let is_fit = |from: &usize| self.steps.get(from + 1).is_none_or(|next| next - self.steps[*from] == 1);
        let ways = (self.begin..=at).rev().take(2000).filter(is_fit);
        ways.map(|from| (self.occurrences[from] + steps(from), from))
            .min()
            .unwrap_or((steps(self.begin), self.begin))
    }

    /// Brings a child that is at its start before instruction `at`. False if it is not there: a breakpoint was passed by, as happens once
    /// in some thousands on a virtual machine, or it goes another way.
    fn go(&self, child: &mut Child, at: usize) -> bool {
        let (_, from) = self.way(at);
        child.run_to(self.addresses[from], self.occurrences[from])
            && (self.steps[from]..self.steps[at]).all(|_| child.step() == Status::Stopped)
            && child.at() == self.addresses[at]
    }

    /// The places to stop at.
    fn stops(&self) -> Vec<usize> {
        let places = self.begin..self.addresses.len();
        let steps = places.clone().map(|at| self.way(at).0).sum::<usize>();
        let every = steps.div_ceil(MOST_STEPS);
        places.filter(|&at| (at - self.begin).is_multiple_of(every) || self.is_near(at)).collect()
    }

    /// Whether there is a change around a place.
    fn is_near(&self, at: usize) -> bool {
        let around = if self.len() <= LONG { 12 } else { 1 };
        let next = self.after_changes.partition_point(|&change| change + around < at);
        self.after_changes.get(next).is_some_and(|&change| change <= at + around)
    }
}

// ---- Readers.

/// What a reader has got since it was made: nothing twice, nothing left out.
struct Account {
    name: &'static str,
    read: Reader,
    next: u64,
    delivered: BTreeMap<u64, u64>,
}

impl Account {
    fn new(name: &'static str, subject: &dyn Subject, from: From) -> Self {
        let next = match from {
            From::Oldest | From::Now => None,
            From::After(seq) => Some(seq + 1),
        };
        Self { name, read: subject.reader(from), next: next.unwrap_or(0), delivered: BTreeMap::new() }
    }

    /// Reads once. False if there is nothing.
    fn read(&mut self) -> bool {
        let (from, to) = match (self.read)() {
            Got::Event { seq, id } => {
                self.delivered.insert(seq, id);
                (seq, seq)
            }
            Got::Dropped { from, to } => (from, to),
            Got::Nothing => return false,
        };
        let next = if self.next == 0 { from } else { self.next };
        assert_eq!(from, next, "OUT OF ORDER: {}: a hole, or an overlap", self.name);
        self.next = to + 1;
        true
    }

    fn drain(&mut self) {
        while self.read() {}
    }

    /// It must have come to the end.
    fn close(&mut self, newest: u64) {
        self.drain();
        // A reader from now may have nothing to read.
        if self.next != 0 {
            assert_eq!(self.next, newest + 1, "UNACCOUNTED: {} does not get to the end", self.name);
        }
    }
}

// ---- A stop.

/// What others do while the publisher stands, and what becomes of it then.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// Less than a lap, and it goes on.
    ResumedSoon,
    /// Several laps, and it goes on.
    ResumedLate,
    /// Half a lap before, and several after.
    Killed,
    /// One lap by publishers whose instructions are counted.
    Measured,
}

const FATES: [Fate; 4] = [Fate::Measured, Fate::ResumedSoon, Fate::ResumedLate, Fate::Killed];

/// Whether all lies where it lay the last time, so that every child goes the same way.
static IS_WARM: AtomicBool = AtomicBool::new(false);

struct Scene {
    subject: Box<dyn Subject>,
    board: Box<Board>,
    child: Child,
    /// What was published by others.
    truth: BTreeMap<u64, u64>,
    next_id: u64,
    /// Read after each publish; only when all is over; now and then.
    early: Account,
    patient: Account,
    slow: Account,
    most_numbers: u64,
    most_instructions: usize,
    refused: u64,
}

impl Scene {
    fn new(kind: &Kind) -> Self {
        if IS_WARM.load(Relaxed) { private(|| Self::make(kind)) } else { Self::make(kind) }
    }

    fn make(kind: &Kind) -> Self {
        assert_eq!(arena::live(), 0, "each ring lies where the one before lay");
        let board = Board::new();
        let mut subject = (kind.make)();
        let mut truth = BTreeMap::new();
        // More than a lap, by the way that is looked at: buffers have their size then.
        for n in 0..2 * subject.capacity() + 1 {
            let ids: Vec<_> = (0..kind.events).map(|at| n * kind.events + at).collect();
            subject.prepare(&ids);
            let Told::Published { first, end } = subject.publish() else { panic!("nobody holds a slot") };
            truth.extend((first..end).zip(ids));
        }
        let newest = subject.newest();
        let [early, patient, slow] =
            ["early", "patient", "slow"].map(|name| Account::new(name, &*subject, From::After(newest)));
        subject.prepare(&(STOPPED..STOPPED + kind.events).collect::<Vec<_>>());
        let child = board.publish(&mut *subject);
        Self {
            subject,
            board,
            child,
            truth,
            next_id: BESIDE,
            early,
            patient,
            slow,
            most_numbers: 0,
            most_instructions: 0,
            refused: 0,
        }
    }

    /// Somebody else publishes.
    fn publish_beside(&mut self, is_measured: bool) {
        let before = self.subject.newest();
        self.subject.prepare(&[self.next_id]);
        let told = if is_measured { self.publish_counted() } else { self.subject.publish() };
        let numbers = self.subject.newest() - before;
        self.most_numbers = self.most_numbers.max(numbers);
        match told {
            Told::Published { first, .. } => {
                assert!(self.truth.insert(first, self.next_id).is_none(), "seq {first} was given twice");
            }
            Told::Stalled => {
                assert_eq!(self.subject.capacity(), 1, "A PUBLISHER IS REFUSED, beside one that is stopped");
                self.refused += 1;
            }
        }
        assert!(numbers <= 2, "a publish took {numbers} numbers, beside one publisher that is stopped");
        self.next_id += 1;
        self.early.drain();
        if self.next_id.is_multiple_of(2) {
            self.slow.read();
        }
    }

    /// By a child, step by step.
    fn publish_counted(&mut self) -> Told {
        let board = Board::new();
        let mut child = board.publish(&mut *self.subject);
        let mut instructions = 0;
        while board.state() != DONE {
            assert_eq!(child.step(), Status::Stopped);
            instructions += usize::from(board.state() == BEGUN);
            assert!(instructions < 100_000, "A PUBLISHER WAITS for one that is stopped");
        }
        child.finish();
        self.most_instructions = self.most_instructions.max(instructions);
        board.told()
    }
}

/// What was seen of the stopped publisher's events.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// Of a publish, and how many of them change shared memory.
    instructions: usize,
    changes: usize,
    /// Where it was stopped, and how often in all.
    places: usize,
    stops: usize,
    /// By the reader that is there already, while the publisher stands.
    not_yet: usize,
    there: usize,
    /// In the end.
    delivered: u64,
    dropped: u64,
    never_claimed: u64,
    refused: u64,
    most_numbers: u64,
    most_instructions: usize,
}

fn stop(kind: &Kind, trace: &Trace, at: usize, fate: Fate, seen: &mut Seen) {
    let mut scene = Scene::new(kind);
    let mut tries = 1;
    while !trace.go(&mut scene.child, at) {
        assert!(tries < 5, "the child goes another way than the first one");
        tries += 1;
        drop(scene);
        scene = Scene::new(kind);
    }
    let capacity = scene.subject.capacity();
    let first_free = scene.early.next;
    let stopped = STOPPED..STOPPED + kind.events;

    // While it stands.
    scene.early.drain();
    assert!(
        scene.early.delivered.values().copied().eq((STOPPED..).take(scene.early.delivered.len())),
        "TORN: {:?}",
        scene.early.delivered
    );
    assert_eq!(
        scene.early.next - first_free,
        scene.early.delivered.len() as u64,
        "a loss before a lap is over"
    );
    if scene.early.delivered.is_empty() {
        seen.not_yet += 1;
    } else {
        seen.there += 1;
    }
    let mut others = [("from oldest", From::Oldest), ("from now", From::Now), ("after 0", From::After(0))]
        .map(|(name, from)| Account::new(name, &*scene.subject, from));
    others.iter_mut().for_each(Account::drain);
    if !scene.subject.is_exclusive() {
        let events = match fate {
            Fate::ResumedSoon | Fate::Killed => capacity / 2,
            Fate::ResumedLate => 3 * capacity + 1,
            Fate::Measured => capacity + 1,
        };
        for _ in 0..events {
            scene.publish_beside(fate == Fate::Measured);
        }
        if events > capacity && scene.refused == 0 {
            assert_eq!(scene.early.next, scene.subject.newest() + 1, "a reader stays behind who is stopped");
        }
    }

    // It goes on, or never.
    let told = match fate {
        Fate::ResumedSoon | Fate::ResumedLate => {
            scene.child.finish();
            scene.early.drain();
            assert_eq!(
                scene.early.next,
                scene.subject.newest() + 1,
                "UNACCOUNTED: all publishers have returned"
            );
            // It has not written over a later event.
            let newest = scene.subject.newest();
            let mut at_once = Account::new("at once", &*scene.subject, From::Oldest);
            at_once.close(newest);
            let mut last_lap = scene.truth.range(newest + 1 - capacity..);
            let lost = last_lap.find(|(seq, _)| !at_once.delivered.contains_key(seq));
            assert_eq!(lost, None, "WRITTEN OVER by an older event");
            Some(scene.board.told())
        }
        Fate::Killed | Fate::Measured => {
            scene.child.kill();
            None
        }
    };
    scene.subject.share();
    for _ in 0..2 * capacity + 2 {
        scene.publish_beside(false);
    }
    let newest = scene.subject.newest();

    // Everybody's account.
    let late = [("late", From::Oldest), ("late, after 0", From::After(0))]
        .map(|(name, from)| Account::new(name, &*scene.subject, from));
    let mut readers = vec![scene.early, scene.patient, scene.slow];
    readers.extend(others.into_iter().chain(late));
    readers.iter_mut().for_each(|reader| reader.close(newest));

    let numbers = scene.truth.len() as u64 + scene.subject.abandoned();
    let claimed = newest - numbers;
    match told {
        None => {
            assert!(claimed <= kind.events, "UNACCOUNTED: {claimed} numbers of one that never runs again")
        }
        Some(told) => {
            let Told::Published { first, end } = told else { panic!("nobody else holds a slot") };
            assert_eq!((end - first, claimed), (kind.events, kind.events), "UNACCOUNTED");
            for (seq, id) in (first..end).zip(stopped.clone()) {
                assert!(scene.truth.insert(seq, id).is_none(), "seq {seq} was given twice");
            }
        }
    }
    // The first event of the stopped one can be known by its number only if somebody was told it, or got it.
    let mut numbers = BTreeMap::new();
    for reader in &readers {
        let name = reader.name;
        for (&seq, &id) in &reader.delivered {
            match scene.truth.get(&seq) {
                Some(&other) => assert_eq!(id, other, "{name}: seq {seq} is another event"),
                None => assert!(told.is_none() && stopped.contains(&id), "{name}: seq {seq} is from nowhere"),
            }
            assert_eq!(*numbers.entry(id).or_insert(seq), seq, "{name}: event {id} came under two numbers");
        }
        let of_stopped = reader.delivered.values().filter(|id| stopped.contains(id));
        assert!(of_stopped.is_sorted(), "OUT OF ORDER: {name}: {:?}", reader.delivered);
        // What must not be lost: to a reader that keeps up, everything but what it waited for the stopped one's event for; to one that
        // comes late, the last lap.
        let since = match name {
            "early" => first_free + kind.events + capacity + 1,
            "late" | "late, after 0" => newest + 1 - capacity,
            _ => newest + 1,
        };
        let lost = scene.truth.range(since..).find(|(seq, _)| !reader.delivered.contains_key(seq));
        assert_eq!(lost, None, "{name} has lost an event that is there");
    }
    let delivered = stopped.filter(|&id| readers[0].delivered.values().any(|&got| got == id)).count() as u64;
    seen.stops += 1;
    seen.delivered += delivered;
    seen.dropped += claimed - delivered;
    seen.never_claimed += kind.events - claimed;
    seen.refused += scene.refused;
    seen.most_numbers = seen.most_numbers.max(scene.most_numbers);
    seen.most_instructions = seen.most_instructions.max(scene.most_instructions);
}

/// Stops one kind of publish at all of its places.
fn step_through(kind: &Kind) -> Seen {
    // First without, so that what is made once and kept is made.
    IS_WARM.store(false, Relaxed);
    let mut warm_up = Seen::default();
    let trace = Trace::take(kind);
    FATES[1..].iter().for_each(|&fate| stop(kind, &trace, trace.begin, fate, &mut warm_up));
    IS_WARM.store(true, Relaxed);
    let trace = Trace::take(kind);
    let places = trace.stops();
    // Others see something new after a change only; in a long one it would take too long.
    let changes = &trace.after_changes;
    let of_changes = changes.iter().copied().chain([trace.begin]);
    let measured: Vec<_> =
        of_changes.filter(|_| trace.len() <= LONG).step_by(changes.len().div_ceil(24)).collect();
    let mut seen = Seen { instructions: trace.len(), changes: trace.after_changes.len(), ..Seen::default() };
    for &at in &places {
        seen.places += 1;
        watch(kind, at - trace.begin);
        for (turn, fate) in FATES.into_iter().enumerate() {
            let is_due = match fate {
                Fate::Measured => measured.contains(&at),
                _ => {
                    trace.len() <= SHORT
                        || (trace.len() <= LONG && trace.is_near(at))
                        || seen.places % 3 == turn % 3
                }
            };
            if is_due {
                stop(kind, &trace, at, fate, &mut seen);
            }
        }
    }
    seen
}

// ---- Watch.

static KIND: AtomicUsize = AtomicUsize::new(0);
static AT: AtomicUsize = AtomicUsize::new(0);

/// If nothing is heard for a minute, somebody waits for the publisher that is stopped.
fn watch(kind: &Kind, at: usize) {
    extern "C" fn bark(_: libc::c_int) {
        let mut text = [0; 200];
        let mut out = Cursor::new(&mut text[..]);
        let name = KINDS[KIND.load(Relaxed)].name;
        let _ =
            writeln!(out, "FAIL {name}, stopped at instruction {}: SOMEBODY WAITS for it", AT.load(Relaxed));
        let len = out.position() as usize;
        // SAFETY: both may be called in a signal handler, and `text` has so many bytes.
        unsafe {
            libc::write(2, text.as_ptr().cast(), len);
            libc::_exit(1)
        }
    }
    KIND.store(KINDS.iter().position(|other| std::ptr::eq(other, kind)).unwrap_or(0), Relaxed);
    AT.store(at, Relaxed);
    // SAFETY: the handler calls what is allowed in one, and nothing that takes memory or a lock.
    unsafe {
        libc::signal(libc::SIGALRM, bark as extern "C" fn(libc::c_int) as libc::sighandler_t);
        libc::alarm(60);
    }
}

pub fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // On the thread that it starts on, and on no other: see `Child::fork`.
    arguments.test_threads = Some(1);
    let all = Arc::new(Mutex::new(Vec::new()));
    if KINDS_RUN < KINDS.len() {
        println!("NOT RUN unoptimized: {} of {} kinds", KINDS.len() - KINDS_RUN, KINDS.len());
    }
    let trials = KINDS[..KINDS_RUN].iter().map(|kind| {
        let all = Arc::clone(&all);
        Trial::test(kind.name, move || {
            let seen = step_through(kind);
            all.lock().unwrap().push((kind.name, seen));
            Ok(())
        })
    });
    let conclusion = run(&arguments, trials.collect());
    let all = all.lock().unwrap();
    println!(
        "\n{:27}{:>13}{:>8}{:>8}{:>7}{:>9}{:>7}{:>11}{:>9}{:>9}{:>9}{:>9}{:>14}",
        "a publisher stopped in",
        "instructions",
        "changes",
        "places",
        "stops",
        "not yet",
        "there",
        "delivered",
        "dropped",
        "no seq",
        "refused",
        "numbers",
        "instructions"
    );
    for (name, seen) in &*all {
        println!(
            "{name:27}{:>13}{:>8}{:>8}{:>7}{:>9}{:>7}{:>11}{:>9}{:>9}{:>9}{:>9}{:>14}",
            seen.instructions,
            seen.changes,
            seen.places,
            seen.stops,
            seen.not_yet,
            seen.there,
            seen.delivered,
            seen.dropped,
            seen.never_claimed,
            seen.refused,
            seen.most_numbers,
            seen.most_instructions
        );
    }
    if all.len() == KINDS.len() && conclusion.num_failed == 0 {
        let (all, long): (Vec<_>, Vec<_>) =
            all.iter().partition(|(_, seen)| seen.places == seen.instructions);
        let sum = |of: fn(&Seen) -> usize| long.iter().map(|(_, seen)| of(seen)).sum::<usize>();
        println!(
            "verified stopped: {} stops, at every instruction of {} ways to publish, and at {} of {} of {} longer ones, those around each \
             change of shared memory among them: 0 torn, 0 out of order, 0 unaccounted, no publisher waited",
            all.iter().chain(&long).map(|(_, seen)| seen.stops).sum::<usize>(),
            all.len(),
            sum(|seen| seen.places),
            sum(|seen| seen.instructions),
            long.len()
        );
    }
    conclusion.exit_code()
}
