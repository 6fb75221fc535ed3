//! Sequences of operations on one thread, against a plain model of the event stream. What the memory for large
//! events still holds is not in the model: such an event may come whole, or in its truncated form.
#![cfg(feature = "std")]

#[allow(dead_code)] // each of its users uses a part
mod bus;

use std::borrow::Cow;
use std::collections::VecDeque;

use bus::{ENVELOPE, assert_truncated_form, owned};
use lapwing::event::{Category, Event, RawValue, Source, SourceKind};
use lapwing::ring::MAX_SEQ;
use lapwing::stream::{
    BatchError, BatchPublished, CategorySet, Config, EventStream, Exclusive, Handle, OwnedEnvelope,
    PositionError, Publish, PublishError, ReadResult, Reader, TryReadError,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

#[derive(Clone, Copy, Debug)]
struct Setup {
    events: u64,
    inline: usize,
    pages: usize,
    limit: usize,
    first_seq: u64,
}

/// An event to be made: its category, the length of its type and that of its data.
type Shape = (&'static str, usize, Option<usize>);

/// One step. Readers are named by an index, taken modulo how many there are.
#[derive(Clone, Debug)]
enum Op {
    Publish(Shape),
    /// With a line break between tokens, if it is to be.
    PublishJson(Shape, bool),
    Batch(Vec<Shape>),
    Exchange,
    Capture(CategorySet),
    Close,
    TryRead(usize),
    ReadBatch(usize, usize),
    Categories(usize, CategorySet),
    /// To so many before the newest, or beyond it.
    MoveAfter(usize, i64),
    FromOldest,
    FromNow,
    After(i64),
    DropReader(usize),
}

const NAMES: [&str; 4] = ["page", "system", "weather", "api"];

fn shape() -> impl Strategy<Value = Shape> {
    let data = prop_oneof![1 => Just(None), 6 => (0..120usize).prop_map(Some), 4 => (100..1000usize).prop_map(Some), 2 => (0..13_000usize).prop_map(Some)];
    (select(&NAMES[..]), prop_oneof![8 => 0..10usize, 1 => 0..300usize], data)
}

fn categories() -> impl Strategy<Value = CategorySet> {
    let some =
        vec(select(&NAMES[..]), 0..4).prop_map(|names| names.into_iter().map(Category::from).collect());
    prop_oneof![2 => Just(CategorySet::ALL), 3 => some]
}

fn op() -> impl Strategy<Value = Op> {
    let reader = || 0..6usize;
    let before = || -3..16i64;
    prop_oneof![
        10 => shape().prop_map(Op::Publish),
        10 => (shape(), any::<bool>()).prop_map(|(shape, has_newline)| Op::PublishJson(shape, has_newline)),
        6 => vec(shape(), 0..12).prop_map(Op::Batch),
        2 => Just(Op::Exchange),
        2 => categories().prop_map(Op::Capture),
        18 => reader().prop_map(Op::TryRead),
        6 => (reader(), 0..8usize).prop_map(|(reader, max)| Op::ReadBatch(reader, max)),
        3 => (reader(), categories()).prop_map(|(reader, categories)| Op::Categories(reader, categories)),
        3 => (reader(), before()).prop_map(|(reader, before)| Op::MoveAfter(reader, before)),
        1 => Just(Op::FromOldest),
        1 => Just(Op::FromNow),
        2 => before().prop_map(Op::After),
        2 => reader().prop_map(Op::DropReader),
    ]
}

/// Ends in a close now and then, and goes on after it.
fn case() -> impl Strategy<Value = (Setup, Vec<Op>)> {
    let inline = prop_oneof![select(vec![128, 200, 256, 1000]), 128..600usize];
    let limit = prop_oneof![select(vec![128, 300, 5000, 1_000_000]), 128..3000usize];
    let first_seq = prop_oneof![
        4 => Just(1),
        3 => (1..19u32, 0..12u64).prop_map(|(digits, before)| 10u64.pow(digits).saturating_sub(before).clamp(1, MAX_SEQ)),
        1 => MAX_SEQ - 40..=MAX_SEQ
    ];
    let setup = (1..=9u64, inline, 0..5usize, limit, first_seq).prop_map(
        |(events, inline, pages, limit, first_seq)| Setup { events, inline, pages, limit, first_seq },
    );
    let ops = (vec(op(), 0..80), prop_oneof![2 => Just(Vec::new()), 1 => vec(op(), 1..10)]);
    (setup, ops).prop_map(|(setup, (mut ops, tail))| {
        if !tail.is_empty() {
            ops.push(Op::Close);
        }
        ops.extend(tail);
        (setup, ops)
    })
}

/// What the stream holds of an event.
struct Kept {
    category: &'static str,
    /// The whole of it.
    json: Vec<u8>,
    is_truncated: bool,
}

/// What a stream must do, in plain data.
struct Model {
    setup: Setup,
    newest: u64,
    /// The newest ones.
    events: VecDeque<Kept>,
    captured: CategorySet,
    closed: bool,
    exclusive: bool,
    published: u64,
    truncated: u64,
    refused: u64,
}

/// What a reader must do.
struct Position {
    next: u64,
    categories: CategorySet,
    delivered: u64,
    dropped: u64,
    /// How many events came too late for their chunks, at least. Of one that was cut when it was published, two
    /// forms can be there.
    shortened: u64,
    /// How many were cut when they were published.
    cut: u64,
}

impl Model {
    fn oldest(&self) -> u64 {
        self.newest + 1 - self.events.len() as u64
    }

    /// The most bytes that an event has in its slot, whatever its seq.
    fn always_inline(&self) -> usize {
        self.setup.inline.min(self.setup.limit - ENVELOPE - 19)
    }

    /// Too large even without data and metadata?
    fn check(&self, event: &Event<'_>) -> Result<(), PublishError> {
        let bare = Event { data: None, truncated: true, ..event.clone() };
        let bare = Event { source: Source::new(SourceKind::Cdp), ..bare };
        let (len, max) = (bare.to_json().len(), self.always_inline());
        if event.to_json().len() > max && len > max {
            return Err(PublishError::FieldsTooLarge { len, max });
        }
        Ok(())
    }

    /// Puts it in, if there is a number left, and returns whether it is cut.
    fn push(&mut self, event: &Event<'_>, category: &'static str) -> bool {
        let Setup { events, inline, pages, limit, .. } = self.setup;
        self.newest += 1;
        let json = event.to_json();
        let digits = self.newest.to_string().len();
        let is_truncated = json.len() > inline.max(pages * 4032) || ENVELOPE + digits + json.len() > limit;
        self.published += 1;
        self.truncated += u64::from(is_truncated);
        self.events.push_back(Kept { category, json, is_truncated });
        if self.events.len() as u64 > events {
            self.events.pop_front();
        }
        is_truncated
    }

    fn captures(&self, category: &str) -> bool {
        category == "system" || self.captured.contains(&category.into())
    }

    fn publish(&mut self, event: &Event<'_>, category: &'static str) -> Result<Publish, PublishError> {
        if !self.captures(category) {
            return Ok(Publish::NotCaptured);
        }
        let result = self.check(event).and_then(|()| {
            self.closed |= self.newest == MAX_SEQ;
            if self.closed { Err(PublishError::Closed) } else { Ok(self.push(event, category)) }
        });
        self.refused += u64::from(result.is_err());
        result.map(|truncated| Publish::Published { seq: self.newest, truncated })
    }

    /// How many are published, and how many of them are cut.
    fn publish_batch(
        &mut self,
        batch: &[(Event<'static>, &'static str)],
    ) -> Result<(usize, usize), BatchError> {
        let captured = batch.iter().enumerate().filter(|(_, (_, category))| self.captures(category));
        let captured = captured.collect::<Vec<_>>();
        for (index, (event, _)) in &captured {
            if let Err(error) = self.check(event) {
                self.refused += 1;
                return Err(BatchError { published: 0, index: *index, error });
            }
        }
        // The shared stream claims at most its capacity at a time.
        let claim = if self.exclusive { captured.len().max(1) } else { self.setup.events as usize };
        let (mut published, mut truncated) = (0, 0);
        for claimed in captured.chunks(claim) {
            self.closed |= claimed.len() as u64 > MAX_SEQ - self.newest;
            if self.closed {
                self.refused += 1;
                return Err(BatchError { published, index: claimed[0].0, error: PublishError::Closed });
            }
            for (_, (event, category)) in claimed {
                truncated += usize::from(self.push(event, category));
                published += 1;
            }
        }
        Ok((published, truncated))
    }

    /// So many before the newest, or beyond it; never below 0.
    fn seq_before(&self, before: i64) -> u64 {
        self.newest.checked_add_signed(-before).unwrap_or(0)
    }

    fn position_after(&self, seq: u64) -> Result<u64, PositionError> {
        let newest = self.newest;
        if seq > newest { Err(PositionError::Future { given: seq, newest }) } else { Ok(seq + 1) }
    }

    fn read(&self, position: &mut Position) -> Result<ReadResult<u64>, TryReadError> {
        let from = position.next;
        if from < self.oldest() {
            position.next = self.oldest();
            position.dropped += position.next - from;
            return Ok(ReadResult::Dropped { from, to: position.next - 1 });
        }
        while position.next <= self.newest {
            position.next += 1;
            let kept = &self.events[(position.next - 1 - self.oldest()) as usize];
            if position.categories.contains(&kept.category.into()) {
                position.delivered += 1;
                return Ok(ReadResult::Envelope(position.next - 1));
            }
        }
        Err(if self.closed { TryReadError::Closed } else { TryReadError::Empty })
    }

    /// What was read at `seq` must be its event.
    fn check_envelope(&self, seq: u64, envelope: &OwnedEnvelope, position: &mut Position) {
        let kept = &self.events[(seq - self.oldest()) as usize];
        assert_eq!((envelope.seq(), envelope.category().as_str()), (seq, kept.category));
        if envelope.truncated() {
            assert!(kept.is_truncated || kept.json.len() > self.setup.inline, "it lies in its slot");
            position.shortened += u64::from(!kept.is_truncated);
            position.cut += u64::from(kept.is_truncated);
            assert_truncated_form(&kept.json, envelope.event_json());
        } else {
            assert!(!kept.is_truncated);
            bus::assert_json(envelope, &kept.json);
        }
        assert!(envelope.json().len() <= self.setup.limit);
        assert!(envelope.json().starts_with(format!("{{\"seq\":{seq},\"event\":{{\"ts\":").as_bytes()));
    }
}

/// The stream in one of its two forms.
enum Publisher {
    Shared(EventStream),
    Exclusive(Exclusive),
}

impl Publisher {
    fn publish(&mut self, event: &Event<'_>) -> Result<Publish, PublishError> {
        match self {
            Self::Shared(stream) => stream.publish(event),
            Self::Exclusive(stream) => stream.publish(event),
        }
    }

    fn publish_json(&mut self, json: &[u8]) -> Result<Publish, PublishError> {
        match self {
            Self::Shared(stream) => stream.publish_json(json),
            Self::Exclusive(stream) => stream.publish_json(json),
        }
    }

    fn publish_batch(&mut self, events: &[Event<'_>]) -> Result<BatchPublished, BatchError> {
        match self {
            Self::Shared(stream) => stream.publish_batch(events),
            Self::Exclusive(stream) => stream.publish_batch(events),
        }
    }

    fn exchange(self) -> Self {
        match self {
            Self::Shared(stream) => Self::Exclusive(stream.into_exclusive()),
            Self::Exclusive(stream) => Self::Shared(stream.into_shared()),
        }
    }

    fn close(&mut self) -> bool {
        match self {
            Self::Shared(stream) => stream.close(),
            Self::Exclusive(stream) => stream.close(),
        }
    }
}

type Pair = (Reader, Position);

fn run(setup: Setup, ops: &[Op]) {
    let Setup { events, inline, pages, limit, first_seq } = setup;
    let config = Config::new().events(events).inline_bytes(inline).large_bytes(pages * 4096);
    let stream = config.max_envelope_bytes(limit).first_seq(first_seq).build().unwrap();
    let mut model = Model {
        setup,
        newest: first_seq - 1,
        events: VecDeque::new(),
        captured: CategorySet::ALL,
        closed: false,
        exclusive: false,
        published: 0,
        truncated: 0,
        refused: 0,
    };
    let handle = stream.handle();
    let mut publisher = Publisher::Shared(stream);
    let mut readers = vec![pair(handle.reader_from_oldest(), first_seq)];
    let mut made = 0;
    for op in ops {
        match op {
            Op::Exchange => {
                publisher = publisher.exchange();
                model.exclusive = !model.exclusive;
            }
            op => step(&mut model, &mut publisher, &handle, &mut readers, &mut made, op),
        }
        check(&model, &handle, &readers);
    }
    // Dropping the publisher closes the stream, and every reader must come to its end.
    drop(publisher);
    model.closed = true;
    while let Some((mut reader, mut position)) = readers.pop() {
        while try_read(&model, &mut reader, &mut position) {}
        assert_eq!(position.next, model.newest + 1);
        readers.push((reader, position));
        check(&model, &handle, &readers);
        readers.pop();
    }
}

fn pair(reader: Reader, next: u64) -> Pair {
    (reader, Position { next, categories: CategorySet::ALL, delivered: 0, dropped: 0, shortened: 0, cut: 0 })
}

fn check(model: &Model, handle: &Handle, readers: &[Pair]) {
    assert_eq!(
        (handle.seq(), handle.readable(), handle.oldest()),
        (model.newest, model.newest, model.oldest())
    );
    let stats = handle.stats();
    let counts = (stats.published(), stats.truncated(), stats.refused, stats.overrun, stats.abandoned);
    assert_eq!(counts, (model.published, model.truncated, model.refused, 0, 0));
    let all = handle.readers();
    assert_eq!(all.len(), readers.len());
    for ((reader, position), status) in readers.iter().zip(all) {
        let lag = model.newest + 1 - position.next;
        assert_eq!((reader.next_seq(), reader.lag()), (position.next, lag));
        assert_eq!((status.position, status.lag), (position.next - 1, lag));
        assert_eq!((status.delivered, status.dropped), (position.delivered, position.dropped));
        assert!((position.shortened..=position.shortened + position.cut).contains(&status.shortened));
    }
}

/// One read, of both. False when there was nothing.
fn try_read(model: &Model, reader: &mut Reader, position: &mut Position) -> bool {
    let read = reader.try_read().map(owned);
    match (read, model.read(position)) {
        (Ok(ReadResult::Envelope(envelope)), Ok(ReadResult::Envelope(seq))) => {
            model.check_envelope(seq, &envelope, position);
            true
        }
        (
            Ok(ReadResult::Dropped { from, to }),
            Ok(ReadResult::Dropped { from: model_from, to: model_to }),
        ) => {
            assert_eq!((from, to), (model_from, model_to));
            true
        }
        (Err(error), Err(expected)) => {
            assert_eq!(error, expected);
            false
        }
        (read, expected) => panic!("{read:?} instead of {expected:?}"),
    }
}

fn step(
    model: &mut Model,
    publisher: &mut Publisher,
    handle: &Handle,
    readers: &mut Vec<Pair>,
    made: &mut i64,
    op: &Op,
) {
    // No two neighbours have the same time, or the same text.
    let mut make = |(category, type_len, data): Shape| {
        *made += 1;
        let text = |len| {
            (0..len).map(|at| char::from(b'a' + ((at as i64 * 7 + *made) % 26) as u8)).collect::<String>()
        };
        let source = Source::new(SourceKind::Cdp).metadata("key", "value");
        let event = Event::new("t".repeat(type_len), category.into(), source).ts(*made);
        match data {
            Some(len) => {
                let json = format!(r#"{{"list":[1,"{}",null],"text":"{}"}}"#, text(len / 3), text(len));
                event.data(Cow::Owned(RawValue::from_string(json).unwrap()))
            }
            None => event,
        }
    };
    let count = readers.len();
    let at = |reader: usize| reader % count;
    match op {
        Op::Publish(shape) => {
            let event = make(*shape);
            assert_eq!(publisher.publish(&event), model.publish(&event, shape.0));
        }
        Op::PublishJson(shape, has_newline) => {
            let event = make(*shape);
            let mut json = event.to_json();
            if *has_newline {
                json.splice(1..1, *b"\r\n");
            }
            assert_eq!(publisher.publish_json(&json), model.publish(&event, shape.0));
        }
        Op::Batch(shapes) => {
            let batch = shapes.iter().map(|shape| (make(*shape), shape.0)).collect::<Vec<_>>();
            let events = batch.iter().map(|(event, _)| event.clone()).collect::<Vec<_>>();
            let result = publisher.publish_batch(&events);
            let expected = model.publish_batch(&batch);
            let counts = result.as_ref().map(|result| (result.published, result.truncated));
            assert_eq!(counts, expected.as_ref().copied());
            if let Ok(BatchPublished { seqs, published, .. }) = result {
                assert!(
                    published == 0 && seqs.is_empty()
                        || seqs == (model.newest + 1 - published as u64..model.newest + 1)
                );
            }
        }
        Op::Exchange => unreachable!("it takes the publisher"),
        Op::Capture(categories) => {
            handle.set_captured(*categories);
            model.captured = *categories;
            assert_eq!(handle.captured(), categories.with(&Category::System));
        }
        Op::Close => {
            assert_eq!(publisher.close(), !model.closed);
            model.closed = true;
        }
        Op::FromOldest => readers.push(pair(handle.reader_from_oldest(), model.oldest())),
        Op::FromNow => readers.push(pair(handle.reader_from_now(), model.newest + 1)),
        Op::After(before) => {
            let seq = model.seq_before(*before);
            match (handle.resume(handle.epoch(), seq), model.position_after(seq)) {
                (Ok(reader), Ok(next)) => readers.push(pair(reader, next)),
                (reader, next) => assert_eq!(reader.map(|_| ()), next.map(|_| ())),
            }
        }
        // What is left needs a reader.
        _ if count == 0 => {}
        Op::TryRead(reader) => {
            let (reader, position) = &mut readers[at(*reader)];
            try_read(model, reader, position);
        }
        Op::ReadBatch(reader, max) => {
            let (reader, position) = &mut readers[at(*reader)];
            let mut got = Vec::new();
            let read = reader.try_read_batch(*max, |envelope| got.push(envelope.to_owned()));
            let first = model.read(position);
            match (read, first) {
                (Ok(ReadResult::Envelope(count)), Ok(ReadResult::Envelope(mut seq))) => {
                    assert_eq!(count, got.len());
                    for (i, envelope) in got.iter().enumerate() {
                        model.check_envelope(seq, envelope, position);
                        // The last one asks for no more.
                        if i + 1 < (*max).max(1) {
                            match model.read(position) {
                                Ok(ReadResult::Envelope(next)) => seq = next,
                                _ => assert_eq!(i + 1, count, "there are no more"),
                            }
                        }
                    }
                }
                (read, first) => {
                    assert_eq!(read.map(|read| read.dropped()), first.map(|read| read.dropped()))
                }
            }
        }
        Op::Categories(reader, categories) => {
            let (reader, position) = &mut readers[at(*reader)];
            reader.set_categories(*categories);
            position.categories = *categories;
        }
        Op::MoveAfter(reader, before) => {
            let (reader, position) = &mut readers[at(*reader)];
            let seq = model.seq_before(*before);
            let moved = model.position_after(seq);
            assert_eq!(reader.move_after(seq), moved.map(|_| ()));
            position.next = moved.unwrap_or(position.next);
        }
        Op::DropReader(reader) => drop(readers.remove(at(*reader))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(debug_assertions) { 300 } else { 3_000 }, ..Default::default() })]

    #[test]
    fn a_stream_is_its_model((setup, ops) in case()) {
        run(setup, &ops);
    }
}
