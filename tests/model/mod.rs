//! A ring beside a plain `VecDeque` that says what it must do, and an interpreter that drives both through the same
//! operations. Shared by the property tests and the fuzz target, each with its own generator.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytemuck::Pod;
use lapwing::ring::{
    BatchError, Bytes, Config, ConfigError, Dropped, Event, Exclusive, Handle, MAX_SEQ, Payload,
    PositionError, PublishError, Read, ReadError, Reader, RingOf, TryReadError, Typed, TypedEvent, Wait,
};

/// How the ring is made.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub capacity: u64,
    pub slot_bytes: usize,
    pub first_seq: u64,
    pub spin: bool,
}

/// One step. Readers are named by an index, taken modulo how many there are.
#[derive(Clone, Debug)]
pub enum Op {
    /// A payload of this tag and length.
    Publish(u16, usize),
    Batch(Vec<(u16, usize)>),
    /// From the shared ring to the exclusive publisher, or back.
    Exchange,
    Close,
    TryRead(usize),
    /// By a call that would wait, if there were nothing.
    Read(usize),
    ReadBatch(usize, usize),
    Look(usize),
    /// From now on, only tags below this one.
    Filter(usize, u16),
    ClearFilter(usize),
    MoveToOldest(usize),
    MoveToNow(usize),
    /// To so many before the newest, or beyond it.
    MoveAfter(usize, i64),
    Clone(usize),
    FromOldest,
    FromNow,
    After(i64),
    DropReader(usize),
}

/// What an event carries.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    tag: u16,
    bytes: Vec<u8>,
}

type Outcome<T> = Result<Read<T>, TryReadError>;

/// What the two kinds of ring do not have in common.
pub trait Subject: Payload {
    /// The payload's length in every event, if there is no choice.
    const LEN: Option<usize>;
    /// Whether events have tags, and can be looked at in place.
    const TAGS: bool;

    fn make(config: Config, slot_bytes: usize) -> Result<RingOf<Self>, ConfigError>;
    fn publish(ring: &RingOf<Self>, item: &Item) -> Result<u64, PublishError>;
    fn publish_batch(ring: &RingOf<Self>, items: &[Item]) -> Result<Range<u64>, BatchError>;
    fn publish_exclusive(ring: &mut Exclusive<Self>, item: &Item) -> Result<u64, PublishError>;
    fn publish_exclusive_batch(ring: &mut Exclusive<Self>, items: &[Item]) -> Result<Range<u64>, BatchError>;
    fn item(event: Self::Event<'_>) -> (u64, Item);

    fn look(reader: &mut Reader<Self>) -> Outcome<(u64, Item)> {
        reader.try_read().map(owned::<Self>)
    }

    fn set_filter(_reader: &mut Reader<Self>, _below: Option<u16>) {}
}

fn owned<S: Subject>(read: Read<S::Event<'_>>) -> Read<(u64, Item)> {
    match read {
        Read::Event(event) => Read::Event(S::item(event)),
        Read::Dropped(dropped) => Read::Dropped(dropped),
    }
}

fn refs(items: &[Item]) -> Vec<(u16, &[u8])> {
    items.iter().map(|item| (item.tag, &item.bytes[..])).collect()
}

impl Subject for Bytes {
    const LEN: Option<usize> = None;
    const TAGS: bool = true;

    fn make(config: Config, slot_bytes: usize) -> Result<RingOf<Self>, ConfigError> {
        config.bytes(slot_bytes)
    }

    fn publish(ring: &RingOf<Self>, item: &Item) -> Result<u64, PublishError> {
        if item.tag == 0 { ring.publish(&item.bytes) } else { ring.publish_tagged(item.tag, &item.bytes) }
    }

    fn publish_batch(ring: &RingOf<Self>, items: &[Item]) -> Result<Range<u64>, BatchError> {
        ring.publish_batch(&refs(items))
    }

    fn publish_exclusive(ring: &mut Exclusive<Self>, item: &Item) -> Result<u64, PublishError> {
        if item.tag == 0 { ring.publish(&item.bytes) } else { ring.publish_tagged(item.tag, &item.bytes) }
    }

    fn publish_exclusive_batch(ring: &mut Exclusive<Self>, items: &[Item]) -> Result<Range<u64>, BatchError> {
        ring.publish_batch(&refs(items))
    }

    fn item(Event { seq, tag, bytes }: Event<'_>) -> (u64, Item) {
        (seq, Item { tag, bytes: bytes.into() })
    }

    /// Takes the payload out both ways, which must agree.
    fn look(reader: &mut Reader<Self>) -> Outcome<(u64, Item)> {
        reader.try_look(|event| {
            let mut bytes = vec![0xee; event.len() + 1];
            assert_eq!(event.copy_to(&mut bytes), event.len());
            assert_eq!(bytes.pop(), Some(0xee), "copied beyond the payload");
            let mut words = event.words().flatten().collect::<Vec<_>>();
            assert_eq!(words.len(), event.len().next_multiple_of(8));
            assert!(words.split_off(event.len()).iter().all(|&byte| byte == 0), "padding");
            assert_eq!(words, bytes);
            assert_eq!(event.is_empty(), bytes.is_empty());
            let half = bytes.len() / 2;
            let mut first = vec![0; half];
            assert_eq!(event.copy_to(&mut first), half);
            assert_eq!(first, bytes[..half]);
            (event.seq(), Item { tag: event.tag(), bytes })
        })
    }

    fn set_filter(reader: &mut Reader<Self>, below: Option<u16>) {
        match below {
            Some(below) => reader.set_filter(|tag| tag < below),
            None => reader.clear_filter(),
        }
    }
}

fn value<T: Pod>(item: &Item) -> T {
    bytemuck::pod_read_unaligned(&item.bytes)
}

fn values<T: Pod>(items: &[Item]) -> Vec<T> {
    items.iter().map(value).collect()
}

impl<T: Pod + Debug + Send + Sync> Subject for Typed<T> {
    const LEN: Option<usize> = Some(size_of::<T>());
    const TAGS: bool = false;

    fn make(config: Config, _: usize) -> Result<RingOf<Self>, ConfigError> {
        config.typed()
    }

    fn publish(ring: &RingOf<Self>, item: &Item) -> Result<u64, PublishError> {
        ring.publish(&value(item))
    }

    fn publish_batch(ring: &RingOf<Self>, items: &[Item]) -> Result<Range<u64>, BatchError> {
        ring.publish_batch(&values(items))
    }

    fn publish_exclusive(ring: &mut Exclusive<Self>, item: &Item) -> Result<u64, PublishError> {
        ring.publish(&value(item))
    }

    fn publish_exclusive_batch(ring: &mut Exclusive<Self>, items: &[Item]) -> Result<Range<u64>, BatchError> {
        ring.publish_batch(&values(items))
    }

    fn item(TypedEvent { seq, value }: TypedEvent<T>) -> (u64, Item) {
        (seq, Item { tag: 0, bytes: bytemuck::bytes_of(&value).into() })
    }
}

/// What a ring must do, in plain data.
struct Model {
    capacity: u64,
    slot_bytes: usize,
    newest: u64,
    /// The newest `capacity` events.
    events: VecDeque<Item>,
    closed: bool,
    exclusive: bool,
}

/// What a reader must do.
#[derive(Clone)]
struct Position {
    next: u64,
    below: Option<u16>,
    skipped: u64,
}

impl Model {
    fn oldest(&self) -> u64 {
        self.newest + 1 - self.events.len() as u64
    }

    fn check_len(&self, item: &Item) -> Result<(), PublishError> {
        let (len, slot_bytes) = (item.bytes.len(), self.slot_bytes);
        if len > slot_bytes { Err(PublishError::TooLarge { len, slot_bytes }) } else { Ok(()) }
    }

    fn push(&mut self, item: &Item) {
        self.events.push_back(item.clone());
        if self.events.len() as u64 > self.capacity {
            self.events.pop_front();
        }
        self.newest += 1;
    }

    fn publish(&mut self, item: &Item) -> Result<u64, PublishError> {
        self.check_len(item)?;
        self.closed |= self.newest == MAX_SEQ;
        if self.closed {
            return Err(PublishError::Closed);
        }
        self.push(item);
        Ok(self.newest)
    }

    /// An empty batch is published by doing nothing.
    fn publish_batch(&mut self, items: &[Item]) -> Result<usize, BatchError> {
        for (index, item) in items.iter().enumerate() {
            self.check_len(item).map_err(|error| BatchError { published: 0, index, error })?;
        }
        // The shared ring claims at most its capacity at a time.
        let claim = if self.exclusive { items.len().max(1) } else { self.capacity as usize };
        for (chunk, items) in items.chunks(claim).enumerate() {
            self.closed |= items.len() as u64 > MAX_SEQ - self.newest;
            if self.closed {
                let published = chunk * claim;
                return Err(BatchError { published, index: published, error: PublishError::Closed });
            }
            items.iter().for_each(|item| self.push(item));
        }
        Ok(items.len())
    }

    /// So many before the newest, or beyond it; never below 0.
    fn seq_before(&self, before: i64) -> u64 {
        self.newest.checked_add_signed(-before).unwrap_or(0)
    }

    fn position_after(&self, seq: u64) -> Result<u64, PositionError> {
        let newest = self.newest;
        if seq > newest { Err(PositionError { given: seq, newest }) } else { Ok(seq + 1) }
    }

    fn read(&self, position: &mut Position) -> Outcome<(u64, Item)> {
        let from = position.next;
        if from < self.oldest() {
            position.next = self.oldest();
            return Ok(Read::Dropped(Dropped { from, to: position.next - 1 }));
        }
        while position.next <= self.newest {
            let seq = position.next;
            let item = &self.events[(seq - self.oldest()) as usize];
            position.next += 1;
            if position.below.is_none_or(|below| item.tag < below) {
                return Ok(Read::Event((seq, item.clone())));
            }
            position.skipped += 1;
        }
        Err(if self.closed { TryReadError::Closed } else { TryReadError::Empty })
    }

    fn read_batch(&self, position: &mut Position, max: usize, out: &mut Vec<(u64, Item)>) -> Outcome<usize> {
        loop {
            if !out.is_empty() && (out.len() >= max || position.next < self.oldest()) {
                return Ok(Read::Event(out.len()));
            }
            match self.read(position) {
                Ok(Read::Event(event)) => out.push(event),
                Ok(Read::Dropped(dropped)) => return Ok(Read::Dropped(dropped)),
                Err(_) if !out.is_empty() => return Ok(Read::Event(out.len())),
                Err(error) => return Err(error),
            }
        }
    }
}

/// The ring in one of its two forms.
enum Publisher<S: Subject> {
    Shared(RingOf<S>),
    Exclusive(Exclusive<S>),
}

impl<S: Subject> Publisher<S> {
    fn publish(&mut self, item: &Item) -> Result<u64, PublishError> {
        match self {
            Self::Shared(ring) => S::publish(ring, item),
            Self::Exclusive(ring) => S::publish_exclusive(ring, item),
        }
    }

    fn publish_batch(&mut self, items: &[Item]) -> Result<Range<u64>, BatchError> {
        match self {
            Self::Shared(ring) => S::publish_batch(ring, items),
            Self::Exclusive(ring) => S::publish_exclusive_batch(ring, items),
        }
    }

    fn close(&mut self) -> bool {
        match self {
            Self::Shared(ring) => ring.close(),
            Self::Exclusive(ring) => ring.close(),
        }
    }

    fn exchange(self) -> Self {
        match self {
            Self::Shared(ring) => Self::Exclusive(ring.into_exclusive()),
            Self::Exclusive(ring) => Self::Shared(ring.into_shared()),
        }
    }
}

struct Pair<S: Subject> {
    reader: Reader<S>,
    position: Position,
}

/// Runs `ops` on a ring and on its model, and panics where they differ.
pub fn run<S: Subject>(setup: Setup, ops: &[Op]) {
    let Setup { capacity, slot_bytes, first_seq, spin } = setup;
    let slot_bytes = S::LEN.unwrap_or(slot_bytes);
    let wait = if spin { Wait::Spin } else { Wait::Park };
    let ring = S::make(Config::new(capacity).first_seq(first_seq).wait(wait), slot_bytes).unwrap();
    let mut model = Model {
        capacity,
        slot_bytes,
        newest: first_seq - 1,
        events: VecDeque::new(),
        closed: false,
        exclusive: false,
    };
    let handle = ring.handle();
    let mut publisher = Publisher::Shared(ring);
    let mut readers = vec![pair(handle.reader_from_oldest(), first_seq)];
    let mut published = 0;
    for op in ops {
        match op {
            Op::Exchange => {
                publisher = publisher.exchange();
                model.exclusive = !model.exclusive;
            }
            op => step(&mut model, &mut publisher, &handle, &mut readers, &mut published, op),
        }
        check(&model, &handle, &readers);
    }
    // Dropping the publisher closes the ring, and every reader must come to its end.
    drop(publisher);
    model.closed = true;
    for Pair { mut reader, mut position } in readers {
        let skipped = reader.skipped();
        let mut account = reader.next_seq() - 1;
        loop {
            let read = reader.try_read().map(owned::<S>);
            assert_eq!(read, model.read(&mut position));
            match read {
                Ok(Read::Event(_)) => account += 1,
                Ok(Read::Dropped(dropped)) => account += dropped.count(),
                Err(_) => break,
            }
        }
        account += reader.skipped() - skipped;
        assert_eq!(account, model.newest, "delivered, skipped and dropped add up to the last seq");
    }
}

fn pair<S: Subject>(reader: Reader<S>, next: u64) -> Pair<S> {
    Pair { reader, position: Position { next, below: None, skipped: 0 } }
}

fn check<S: Subject>(model: &Model, handle: &Handle<S>, readers: &[Pair<S>]) {
    assert_eq!(handle.newest(), model.newest);
    assert_eq!(handle.readable(), model.newest);
    assert_eq!(handle.oldest(), model.oldest());
    assert_eq!((handle.overruns(), handle.abandoned()), (0, 0));
    assert_eq!((handle.capacity(), handle.slot_bytes()), (model.capacity, model.slot_bytes));
    for Pair { reader, position } in readers {
        assert_eq!(reader.next_seq(), position.next);
        assert_eq!(reader.lag(), model.newest + 1 - position.next);
        assert_eq!(reader.skipped(), position.skipped);
    }
}

fn step<S: Subject>(
    model: &mut Model,
    publisher: &mut Publisher<S>,
    handle: &Handle<S>,
    readers: &mut Vec<Pair<S>>,
    published: &mut u8,
    op: &Op,
) {
    // No two neighbours in a slot have a byte in common.
    let mut item = |tag: u16, len: usize| {
        *published = published.wrapping_add(1);
        let bytes = (0..S::LEN.unwrap_or(len)).map(|at| (at as u8).wrapping_mul(3).wrapping_add(*published));
        Item { tag: if S::TAGS { tag } else { 0 }, bytes: bytes.collect() }
    };
    let count = readers.len();
    let at = |reader: usize| reader % count;
    match *op {
        Op::Publish(tag, len) => {
            let item = item(tag, len);
            assert_eq!(publisher.publish(&item), model.publish(&item));
        }
        Op::Batch(ref events) => {
            let items = events.iter().map(|&(tag, len)| item(tag, len)).collect::<Vec<_>>();
            let published = publisher.publish_batch(&items);
            match (published, model.publish_batch(&items)) {
                (Ok(seqs), Ok(0)) => assert!(seqs.is_empty()),
                (Ok(seqs), Ok(n)) => assert_eq!(seqs, model.newest + 1 - n as u64..model.newest + 1),
                (result, expected) => assert_eq!(result.map(|_| ()), expected.map(|_| ())),
            }
        }
        Op::Close => {
            assert_eq!(publisher.close(), !model.closed);
            model.closed = true;
        }
        Op::TryRead(reader) => {
            let Pair { reader, position } = &mut readers[at(reader)];
            assert_eq!(reader.try_read().map(owned::<S>), model.read(position));
        }
        Op::Read(reader) => {
            let Pair { reader, position } = &mut readers[at(reader)];
            let expected = model.read(position).map_err(|error| match error {
                TryReadError::Empty => ReadError::TimedOut,
                TryReadError::Closed => ReadError::Closed,
            });
            let read = match expected {
                Err(ReadError::TimedOut) if position.next % 2 == 0 => reader.read_timeout(Duration::ZERO),
                Err(ReadError::TimedOut) => reader.read_deadline(Instant::now()),
                _ => reader.read(),
            };
            assert_eq!(read.map(owned::<S>), expected);
        }
        Op::ReadBatch(reader, max) => {
            let Pair { reader, position } = &mut readers[at(reader)];
            let (mut events, mut expected_events) = (Vec::new(), Vec::new());
            let expected = model.read_batch(position, max, &mut expected_events);
            let read = if expected.is_ok() && max % 2 == 0 {
                Ok(reader.read_batch(max, |event| events.push(S::item(event))).unwrap())
            } else {
                reader.try_read_batch(max, |event| events.push(S::item(event)))
            };
            assert_eq!(read, expected);
            assert_eq!(events, expected_events);
        }
        Op::Look(reader) => {
            let Pair { reader, position } = &mut readers[at(reader)];
            assert_eq!(S::look(reader), model.read(position));
        }
        Op::Filter(reader, below) if S::TAGS => {
            let Pair { reader, position } = &mut readers[at(reader)];
            S::set_filter(reader, Some(below));
            position.below = Some(below);
        }
        Op::ClearFilter(reader) => {
            let Pair { reader, position } = &mut readers[at(reader)];
            S::set_filter(reader, None);
            position.below = None;
        }
        Op::MoveToOldest(reader) => {
            let pair = &mut readers[at(reader)];
            pair.reader.move_to_oldest();
            pair.position.next = model.oldest();
        }
        Op::MoveToNow(reader) => {
            let pair = &mut readers[at(reader)];
            pair.reader.move_to_now();
            pair.position.next = model.newest + 1;
        }
        Op::MoveAfter(reader, before) => {
            let pair = &mut readers[at(reader)];
            let seq = model.seq_before(before);
            let expected = model.position_after(seq);
            assert_eq!(pair.reader.move_after(seq), expected.map(|_| ()));
            if let Ok(next) = expected {
                pair.position.next = next;
            }
        }
        Op::Clone(reader) => {
            let Pair { reader, position } = &readers[at(reader)];
            let clone = Pair { reader: reader.clone(), position: position.clone() };
            readers.push(clone);
        }
        Op::FromOldest => readers.push(pair(handle.reader_from_oldest(), model.oldest())),
        Op::FromNow => readers.push(pair(handle.reader_from_now(), model.newest + 1)),
        Op::After(before) => {
            let seq = model.seq_before(before);
            match (handle.reader_after(seq), model.position_after(seq)) {
                (Ok(reader), Ok(next)) => readers.push(pair(reader, next)),
                (reader, expected) => assert_eq!(reader.err(), expected.err()),
            }
        }
        Op::DropReader(reader) if readers.len() > 1 => drop(readers.swap_remove(at(reader))),
        Op::Filter(..) | Op::DropReader(_) | Op::Exchange => {}
    }
}
