//! The ways to publish, and what their events are: each is known by its id.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;

use lapwing::event::{Category, Event, RawValue, Source, SourceKind};
use lapwing::ring::{self, Handle, Read, Ring};
use lapwing::stream::{self, EventStream, Publish, ReadResult};

use crate::arena::shared;

/// All ids are below it.
pub const IDS: u64 = 1000;

/// What a reader got.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Got {
    Event { seq: u64, id: u64 },
    Dropped { from: u64, to: u64 },
    Nothing,
}

/// What a publisher was told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Told {
    /// Each event has its number in this range, in order; a number that was stepped over is in it as well.
    Published { first: u64, end: u64 },
    /// Every slot that it tried was held by another one.
    Stalled,
}

#[derive(Clone, Copy, Debug)]
pub enum From {
    Oldest,
    Now,
    After(u64),
}

pub type Reader = Box<dyn FnMut() -> Got>;

/// A way to publish, into a bus of its own.
pub trait Subject {
    /// Makes the events `ids` ready to be published.
    fn prepare(&mut self, ids: &[u64]);
    /// Publishes them, and does nothing else.
    fn publish(&mut self) -> Told;
    fn is_exclusive(&self) -> bool;
    /// From now on an exclusive publisher is none.
    fn share(&mut self);
    /// It checks every byte of what it reads.
    fn reader(&self, from: From) -> Reader;
    fn capacity(&self) -> u64;
    fn newest(&self) -> u64;
    /// How many numbers were given up.
    fn abandoned(&self) -> u64;
}

/// By one publisher, or by any number.
enum Side<S, E> {
    Shared(S),
    Exclusive(E),
    Moving,
}

impl<S, E> Side<S, E> {
    fn share(&mut self, into_shared: impl FnOnce(E) -> S) {
        *self = match std::mem::replace(self, Self::Moving) {
            Self::Exclusive(exclusive) => Self::Shared(into_shared(exclusive)),
            other => other,
        };
    }
}

// ---- The ring.

pub struct OfRing {
    side: Side<Ring, ring::Exclusive>,
    handle: Handle,
    len: usize,
    events: Vec<(u16, &'static [u8])>,
}

impl OfRing {
    pub fn new(capacity: u64, len: usize, is_exclusive: bool) -> Self {
        let ring = shared(|| Ring::new(capacity, len)).unwrap();
        let handle = ring.handle();
        let side = if is_exclusive { Side::Exclusive(ring.into_exclusive()) } else { Side::Shared(ring) };
        Self { side, handle, len, events: Vec::new() }
    }
}

/// Word `at` of the payload of `id`. The first one tells the id, and hardly any other number is one.
fn word(id: u64, at: u64) -> u64 {
    (id + (at << 32) + 1).wrapping_mul(FACTOR)
}

const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
/// Of the factor, modulo 2^64.
const INVERSE: u64 = 0xf1de_83e1_9937_733d;
const _: () = assert!(FACTOR.wrapping_mul(INVERSE) == 1);

/// Made once, and never given back.
fn payload(id: u64, len: usize) -> &'static [u8] {
    thread_local!(static MADE: RefCell<HashMap<(u64, usize), &'static [u8]>> = RefCell::default());
    let make =
        || -> Vec<u8> { (0..len as u64).flat_map(|at| word(id, at).to_le_bytes()).take(len).collect() };
    MADE.with_borrow_mut(|made| *made.entry((id, len)).or_insert_with(|| make().leak()))
}

impl Subject for OfRing {
    fn prepare(&mut self, ids: &[u64]) {
        self.events = ids.iter().map(|&id| (0, payload(id, self.len))).collect();
    }

    fn publish(&mut self) -> Told {
        let seqs = match (&mut self.side, &self.events[..]) {
            (Side::Shared(ring), [(_, one)]) => ring.publish(one).map(|seq| seq..seq + 1),
            (Side::Exclusive(ring), [(_, one)]) => ring.publish(one).map(|seq| seq..seq + 1),
            (Side::Shared(ring), events) => ring.publish_batch(events).map_err(|error| error.error),
            (Side::Exclusive(ring), events) => ring.publish_batch(events).map_err(|error| error.error),
            (Side::Moving, _) => unreachable!(),
        };
        match seqs {
            Ok(seqs) => Told::Published { first: seqs.start, end: seqs.end },
            Err(ring::PublishError::Stalled { .. }) => Told::Stalled,
            Err(error) => panic!("{error}"),
        }
    }

    fn is_exclusive(&self) -> bool {
        matches!(self.side, Side::Exclusive(_))
    }

    fn share(&mut self) {
        self.side.share(ring::Exclusive::into_shared);
    }

    fn reader(&self, from: From) -> Reader {
        let mut reader = match from {
            From::Oldest => self.handle.reader_from_oldest(),
            From::Now => self.handle.reader_from_now(),
            From::After(seq) => self.handle.reader_after(seq).unwrap(),
        };
        let len = self.len;
        Box::new(move || match reader.try_read() {
            Ok(Read::Event(event)) => {
                let first = event.bytes.first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk));
                let id = first.wrapping_mul(INVERSE).wrapping_sub(1);
                assert!(id < IDS && event.bytes == payload(id, len), "TORN: seq {}", event.seq);
                Got::Event { seq: event.seq, id }
            }
            Ok(Read::Dropped(ring::Dropped { from, to })) => Got::Dropped { from, to },
            Err(_) => Got::Nothing,
        })
    }

    fn capacity(&self) -> u64 {
        self.handle.capacity()
    }

    fn newest(&self) -> u64 {
        self.handle.newest()
    }

    fn abandoned(&self) -> u64 {
        self.handle.abandoned()
    }
}

// ---- The stream.

/// Which call publishes what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Call {
    Event,
    Json,
    Batch,
}

pub struct OfStream {
    side: Side<EventStream, stream::Exclusive>,
    handle: stream::Handle,
    call: Call,
    /// Every third event is as large as this.
    large: Option<usize>,
    forms: Vec<&'static Forms>,
    batch: Vec<Event<'static>>,
}

/// An event, and what readers get of it.
struct Forms {
    event: Event<'static>,
    whole: Vec<u8>,
    /// When its chunks are overwritten.
    short: Option<Vec<u8>>,
}

/// So small that the slots come round soon, with memory for one and a half of the large events.
fn stream() -> EventStream {
    stream::Config::new().events(4).inline_bytes(256).large_bytes(4 * 4096).build().unwrap()
}

/// Made once, and never given back.
fn forms(id: u64, large: Option<usize>) -> &'static Forms {
    thread_local!(static MADE: RefCell<HashMap<(u64, Option<usize>), &'static Forms>> = RefCell::default());
    let make = || {
        let filler =
            |len: usize| (0..len).map(|at| char::from(b'a' + ((id as usize * 7 + at * 11) % 26) as u8));
        let data = format!(r#"{{"id":{id},"filler":"{}"}}"#, filler(large.unwrap_or(40)).collect::<String>());
        let source = Source::new(SourceKind::Cdp).event("Log.entryAdded");
        let event = Event::new("stopped", Category::Console, source).ts(1 + id as i64);
        let event = event.data(Cow::Owned(RawValue::from_string(data).unwrap()));
        let short = large.map(|_| {
            let stream = stream();
            stream.publish(&event).unwrap();
            stream.publish(&event).unwrap(); // displaces the first one
            let mut reader = stream.reader_from_oldest();
            let envelope = reader.try_read().unwrap().envelope().unwrap();
            assert!(envelope.truncated());
            envelope.event_json().to_vec()
        });
        &*Box::leak(Box::new(Forms { whole: event.to_json(), event, short }))
    };
    if let Some(forms) = MADE.with_borrow(|made| made.get(&(id, large)).copied()) {
        return forms;
    }
    let forms = make();
    MADE.with_borrow_mut(|made| made.insert((id, large), forms));
    forms
}

impl OfStream {
    pub fn new(call: Call, large: Option<usize>, is_exclusive: bool) -> Self {
        let (stream, handle) = shared(|| {
            let stream = stream();
            let handle = stream.handle();
            (stream, handle)
        });
        let side = if is_exclusive { Side::Exclusive(stream.into_exclusive()) } else { Side::Shared(stream) };
        Self { side, handle, call, large, forms: Vec::new(), batch: Vec::new() }
    }

    /// Every other event is small in any case, so that both kinds meet.
    fn forms(id: u64, large: Option<usize>) -> &'static Forms {
        forms(id, large.filter(|_| id.is_multiple_of(2)))
    }
}

impl Subject for OfStream {
    fn prepare(&mut self, ids: &[u64]) {
        self.forms = ids.iter().map(|&id| Self::forms(id, self.large)).collect();
        self.batch = self.forms.iter().map(|forms| forms.event.clone()).collect();
    }

    fn publish(&mut self) -> Told {
        let (forms, batch) = (self.forms[0], &self.batch[..]);
        let one = |publish: Publish| publish.seq().map_or(0..0, |seq| seq..seq + 1);
        let seqs = match (&mut self.side, self.call) {
            (Side::Shared(stream), Call::Event) => stream.publish(&forms.event).map(one),
            (Side::Shared(stream), Call::Json) => stream.publish_json(&forms.whole).map(one),
            (Side::Shared(stream), Call::Batch) => {
                stream.publish_batch(batch).map(|batch| batch.seqs).map_err(|error| error.error)
            }
            (Side::Exclusive(stream), Call::Event) => stream.publish(&forms.event).map(one),
            (Side::Exclusive(stream), Call::Json) => stream.publish_json(&forms.whole).map(one),
            (Side::Exclusive(stream), Call::Batch) => {
                stream.publish_batch(batch).map(|batch| batch.seqs).map_err(|error| error.error)
            }
            (Side::Moving, _) => unreachable!(),
        };
        match seqs {
            Ok(seqs) => Told::Published { first: seqs.start, end: seqs.end },
            Err(stream::PublishError::Stalled { .. }) => Told::Stalled,
            Err(error) => panic!("{error}"),
        }
    }

    fn is_exclusive(&self) -> bool {
        matches!(self.side, Side::Exclusive(_))
    }

    fn share(&mut self) {
        self.side.share(stream::Exclusive::into_shared);
    }

    fn reader(&self, from: From) -> Reader {
        let mut reader = match from {
            From::Oldest => self.handle.reader_from_oldest(),
            From::Now => self.handle.reader_from_now(),
            From::After(seq) => self.handle.reader_after(seq).unwrap(),
        };
        let large = self.large;
        Box::new(move || match reader.try_read() {
            Ok(ReadResult::Envelope(envelope)) => {
                let (seq, json) = (envelope.seq(), envelope.event_json());
                // Each begins with `{"ts":` and the id plus 1.
                let digits = json.iter().skip(6).take_while(|byte| byte.is_ascii_digit());
                let id = digits.fold(0, |n, digit| n * 10 + u64::from(digit - b'0')).wrapping_sub(1);
                assert!(id < IDS, "TORN: seq {seq}: {}", String::from_utf8_lossy(json));
                let forms = Self::forms(id, large);
                let expected = if envelope.truncated() { forms.short.as_ref() } else { Some(&forms.whole) };
                let is_whole = expected.is_some_and(|expected| expected == json);
                assert!(is_whole, "TORN: seq {seq}: {}", String::from_utf8_lossy(json));
                Got::Event { seq, id }
            }
            Ok(ReadResult::Dropped { from, to }) => Got::Dropped { from, to },
            Err(_) => Got::Nothing,
        })
    }

    fn capacity(&self) -> u64 {
        self.handle.events()
    }

    fn newest(&self) -> u64 {
        self.handle.seq()
    }

    fn abandoned(&self) -> u64 {
        self.handle.stats().abandoned
    }
}
