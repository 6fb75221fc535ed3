//! Sequences of operations on an event stream, and on a simple model that says what each of them must give.
//!
//! The model knows nothing of slots and little of chunks: it keeps every event, and counts the chunks that are given
//! out, which tells whether a large event is still whole. What an event is cut to is taken from a stream that holds
//! this event alone, and checked by itself.
#![no_main]

use arbitrary::{Arbitrary, Result, Unstructured};
use lapwing::event::{Category, Event, RawValue, Source, SourceKind};
use lapwing::ring::MAX_SEQ;
use lapwing::stream::{
    BatchError, BatchPublished, CategorySet, Config, EventStream, Exclusive, Handle, PositionError, Publish,
    PublishError, RawEnvelope, ReadResult, Reader, TryReadError, Wait,
};
use libfuzzer_sys::fuzz_target;

/// Bytes of an event in one chunk.
const CHUNK: u64 = 4032;
/// `{"seq":`, `,"event":` and `}`.
const ENVELOPE: usize = 17;
/// Names that are not known.
const OTHERS: [&str; 2] = ["billing", "quoted \" and ü"];
/// The known categories, and all others as one.
const CLASSES: usize = Category::KNOWN.len() + 1;
/// Microseconds of any clock between 2001 and 2286.
const CLOCK_DIGITS: usize = 16;

// ---- What is done.

#[derive(Clone, Copy, Debug)]
struct Setup {
    events: u64,
    inline: usize,
    chunks: u64,
    max_envelope: usize,
    first_seq: u64,
    spin: bool,
}

#[derive(Clone, Debug)]
struct Spec {
    ts: i64,
    type_len: usize,
    category: usize,
    metadata: Vec<usize>,
    data: usize,
    /// How long the whole event shall be, if it has data that can be so long.
    len: usize,
    truncated: bool,
}

/// How an event is spelled as JSON.
#[derive(Clone, Copy, Debug)]
struct Spelling {
    no_ts: bool,
    line_breaks: bool,
    extra: bool,
    first_field: usize,
}

/// Readers are named by an index, taken modulo how many there are.
#[derive(Clone, Debug)]
enum Op {
    Publish(Spec),
    PublishJson(Spec, Spelling),
    /// A prefix of its JSON.
    PublishInvalid(Spec, usize),
    Batch(Vec<Spec>),
    /// From the shared stream to the exclusive publisher, or back.
    Exchange,
    Close,
    Capture(u16),
    TryRead(usize),
    ReadBatch(usize, usize),
    Categories(usize, u16),
    MoveAfter(usize, i64),
    FromOldest,
    FromNow,
    After(i64),
    Resume(i64, bool),
    DropReader(usize),
}

fn spec(u: &mut Unstructured<'_>, setup: &Setup) -> Result<Spec> {
    let Setup { inline, chunks, max_envelope, .. } = *setup;
    let room = setup.room();
    // The lengths at which another form begins, and any other.
    let edges = [
        inline,
        max_envelope - ENVELOPE - 1,
        max_envelope - ENVELOPE - 19,
        max_envelope - ENVELOPE - digits(setup.first_seq),
        (chunks * CHUNK) as usize,
        CHUNK as usize,
        2 * CHUNK as usize,
    ];
    let len = match u.int_in_range(0..=3)? {
        0 => 0,
        1 => u.int_in_range(0..=room + 2000)?,
        2 => u.int_in_range(room / 2..=room)?,
        _ => (edges[u.choose_index(edges.len())?] + u.int_in_range(0..=6)?).saturating_sub(3),
    };
    Ok(Spec {
        ts: [0, 7, -1, i64::MIN, i64::MAX][u.choose_index(5)?],
        type_len: if u.ratio(1, 12)? { u.int_in_range(0..=400)? } else { u.int_in_range(0..=12)? },
        category: u.int_in_range(0..=Category::KNOWN.len() + OTHERS.len() - 1)?,
        metadata: (0..u.int_in_range(0..=3)?).map(|_| u.int_in_range(0..=120)).collect::<Result<_>>()?,
        data: u.int_in_range(0..=6)?,
        len,
        truncated: u.ratio(1, 16)?,
    })
}

fn op(u: &mut Unstructured<'_>, setup: &Setup) -> Result<Op> {
    let kind = u.int_in_range(0..=23)?;
    Ok(match kind {
        0..=3 => Op::Publish(spec(u, setup)?),
        4..=6 => Op::PublishJson(
            spec(u, setup)?,
            Spelling {
                no_ts: u.arbitrary()?,
                line_breaks: u.arbitrary()?,
                extra: u.arbitrary()?,
                first_field: u.int_in_range(0..=6)?,
            },
        ),
        7 => Op::PublishInvalid(spec(u, setup)?, u.arbitrary()?),
        8 | 9 => {
            let n = u.int_in_range(0..=8)?;
            Op::Batch((0..n).map(|_| spec(u, setup)).collect::<Result<_>>()?)
        }
        10 => Op::Exchange,
        11 => {
            if u.ratio(1, 8)? {
                Op::Close
            } else {
                Op::Exchange
            }
        }
        12 => Op::Capture(if u.arbitrary()? { u16::MAX } else { u.arbitrary()? }),
        13 => Op::Categories(u.arbitrary()?, if u.arbitrary()? { u16::MAX } else { u.arbitrary()? }),
        14 => Op::MoveAfter(u.arbitrary()?, u.int_in_range(-2..=20)?),
        15 => Op::FromOldest,
        16 => Op::FromNow,
        17 => Op::After(u.int_in_range(-2..=20)?),
        18 => Op::Resume(u.int_in_range(-2..=20)?, u.arbitrary()?),
        19 => Op::DropReader(u.arbitrary()?),
        20 => Op::ReadBatch(u.arbitrary()?, u.int_in_range(0..=7)?),
        _ => Op::TryRead(u.arbitrary()?),
    })
}

#[derive(Debug)]
struct Case {
    setup: Setup,
    ops: Vec<Op>,
}

impl<'a> Arbitrary<'a> for Case {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let setup = Setup {
            events: if u.ratio(1, 10)? { 40 } else { u.int_in_range(1..=6)? },
            inline: if u.arbitrary()? { u.int_in_range(128..=300)? } else { u.int_in_range(128..=9000)? },
            chunks: u.int_in_range(0..=5)?,
            max_envelope: if u.arbitrary()? {
                u.int_in_range(128..=500)?
            } else {
                u.int_in_range(128..=21_000)?
            },
            first_seq: match u.int_in_range(0..=3)? {
                0 => 1,
                1 => 10u64.pow(u.int_in_range(1..=18)?) - u.int_in_range(0..=9)?,
                2 => MAX_SEQ - u.int_in_range(0..=30)?,
                _ => u.int_in_range(1..=MAX_SEQ)?,
            },
            spin: u.arbitrary()?,
        };
        let mut ops = Vec::new();
        while !u.is_empty() && ops.len() < 200 {
            ops.push(op(u, &setup)?);
        }
        Ok(Self { setup, ops })
    }
}

// ---- Events.

fn category(class: usize) -> Category<'static> {
    match Category::KNOWN.get(class) {
        Some(known) => known.clone(),
        None => Category::from(OTHERS[class - Category::KNOWN.len()]),
    }
}

fn event(spec: &Spec) -> Event<'static> {
    let mut source =
        Source::new(if spec.category.is_multiple_of(2) { SourceKind::Cdp } else { SourceKind::from("é") });
    if spec.metadata.len() == 2 {
        source = source.event("made up");
    }
    for (i, &len) in spec.metadata.iter().enumerate() {
        source = source.metadata(format!("k{i}"), "m\"".repeat(len / 2));
    }
    let mut event = Event::new("t".repeat(spec.type_len), category(spec.category), source).ts(spec.ts);
    event.truncated = spec.truncated;
    // What is in front of the padding and behind it.
    let (front, back) = match spec.data {
        0 => return event,
        1 => ("null", ""),
        2 => ("\"", "\""),
        3 => ("[1,[2,{\"a\":\"", "\"}],true]"),
        4 => ("{\"message\":\"", "\",\"list\":[1.5e3,-0,\"\\u00e9\"],\"last\":{}}"),
        5 => ("{\n\"message\" : \"", "\"\r\n, \"n\":1}"),
        _ => ("[\"ü\\n\\\"😀\",\"", "\"]"),
    };
    let set = |event: Event<'static>, padding: usize| {
        let padding = if back.is_empty() {
            String::new()
        } else {
            "padding ".repeat(padding / 8 + 1)[..padding].into()
        };
        let data = RawValue::from_string(format!("{front}{padding}{back}")).expect("JSON");
        event.data(std::borrow::Cow::Owned(data))
    };
    event = set(event, 0);
    let len = len_of(&event);
    set(event, spec.len.saturating_sub(len))
}

/// As it is in the stream.
fn len_of(event: &Event<'_>) -> usize {
    event.to_json().len() + if event.ts == 0 { CLOCK_DIGITS - 1 } else { 0 }
}

fn spell(event: &Event<'_>, spelling: Spelling) -> Vec<u8> {
    let mut fields = Vec::new();
    if !spelling.no_ts {
        fields.push(format!("\"ts\":{}", event.ts));
    }
    fields.push(format!("\"type\":{}", serde_json::to_string(&event.r#type).unwrap()));
    fields.push(format!("\"category\":{}", serde_json::to_string(&event.category).unwrap()));
    fields.push(format!("\"source\":{}", serde_json::to_string(&event.source).unwrap()));
    if let Some(data) = &event.data {
        fields.push(format!("\"data\":{}", data.get()));
    }
    if event.truncated {
        fields.push("\"truncated\":true".into());
    }
    if spelling.extra {
        fields.push("\"extra\" : [ {} , null ]".into());
    }
    let n = fields.len();
    fields.rotate_left(spelling.first_field % n);
    let (open, between, close) =
        if spelling.line_breaks { ("{\n ", ",\r\n", "\n}\n") } else { ("{ ", ", ", "}") };
    format!("{open}{}{close}", fields.join(between)).into_bytes()
}

fn digits(n: u64) -> usize {
    n.to_string().len()
}

/// What the clock does to an event.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Clock {
    Nothing,
    Replaces,
    Inserts,
}

/// An event as it was given.
#[derive(Clone, Debug)]
struct Given {
    event: Event<'static>,
    /// Its JSON, if it was given as such.
    json: Option<Vec<u8>>,
    /// The JSON without line breaks, before the clock was asked.
    line: Vec<u8>,
    clock: Clock,
}

impl Given {
    fn event(spec: &Spec) -> Self {
        let event = event(spec);
        let clock = if event.ts == 0 { Clock::Replaces } else { Clock::Nothing };
        Self { line: event.to_json(), event, json: None, clock }
    }

    fn json(spec: &Spec, spelling: Spelling) -> Self {
        let event = event(spec);
        let json = spell(&event, spelling);
        let line = json.iter().copied().filter(|byte| !matches!(byte, b'\n' | b'\r')).collect();
        let clock = match event.ts {
            _ if spelling.no_ts => Clock::Inserts,
            0 => Clock::Replaces,
            _ => Clock::Nothing,
        };
        Self { event, json: Some(json), line, clock }
    }

    /// As it is in the stream.
    fn len(&self) -> usize {
        self.line.len()
            + match self.clock {
                Clock::Nothing => 0,
                Clock::Replaces => CLOCK_DIGITS - 1,
                Clock::Inserts => "\"ts\":,".len() + CLOCK_DIGITS,
            }
    }

    fn class(&self) -> usize {
        (0..CLASSES)
            .find(|&at| Category::KNOWN.get(at).is_none_or(|known| *known == self.event.category))
            .unwrap()
    }

    fn publish(&self, stream: &mut Publisher) -> std::result::Result<Publish, PublishError> {
        match (&self.json, stream) {
            (None, Publisher::Shared(stream)) => stream.publish(&self.event),
            (None, Publisher::Exclusive(stream)) => stream.publish(&self.event),
            (Some(json), Publisher::Shared(stream)) => stream.publish_json(json),
            (Some(json), Publisher::Exclusive(stream)) => stream.publish_json(json),
        }
    }

    /// A whole event with the time that the clock gave taken out again.
    fn undo(&self, json: &[u8]) -> Vec<u8> {
        without_time(json, self.clock)
    }

    /// A truncated form that can be compared to the same one of another moment.
    fn form(&self, json: &[u8]) -> Vec<u8> {
        without_time(json, if self.clock == Clock::Nothing { Clock::Nothing } else { Clock::Replaces })
    }
}

fn without_time(json: &[u8], clock: Clock) -> Vec<u8> {
    if clock == Clock::Nothing {
        return json.to_vec();
    }
    let text = std::str::from_utf8(json).unwrap();
    let (before, after) = text.split_once("\"ts\":").expect("a time");
    let (time, rest) = after.split_at(CLOCK_DIGITS);
    assert!(time.bytes().all(|byte| byte.is_ascii_digit()), "the time is {time}");
    match clock {
        Clock::Inserts => format!("{before}{}", rest.strip_prefix(',').expect("something behind the time")),
        _ => format!("{before}\"ts\":0{rest}"),
    }
    .into_bytes()
}

// ---- The model.

enum Publisher {
    Shared(EventStream),
    Exclusive(Exclusive),
}

impl Publisher {
    fn handle(&self) -> Handle {
        match self {
            Self::Shared(stream) => stream.handle(),
            Self::Exclusive(stream) => stream.handle(),
        }
    }
}

/// The chunks of an event, and what it is in them.
#[derive(Clone, Debug)]
struct Run {
    first: u64,
    /// Its truncated form; none if it is whole.
    form: Option<Vec<u8>>,
    len: usize,
}

/// What is made of an event before it has a seq.
#[derive(Clone, Debug)]
struct Ready {
    given: Given,
    /// For its slot, if it is not there whole.
    short: Vec<u8>,
    run: Option<Run>,
}

#[derive(Clone, Debug)]
struct Entry {
    ready: Ready,
    /// Whether it is there in part only, at best.
    cut: bool,
}

struct Model {
    setup: Setup,
    entries: Vec<Entry>,
    /// The last chunk that was given out.
    chunk: u64,
    closed: bool,
    captured: CategorySet,
    refused: u64,
    truncated: u64,
    bytes: u64,
    largest: u64,
}

struct Reading {
    reader: Reader,
    next: u64,
    wanted: CategorySet,
    /// What it tells of itself.
    position: u64,
    delivered: u64,
    dropped: u64,
    shortened: u64,
}

/// An event in the order of [`Model::entries`], or what was lost.
#[derive(Debug, PartialEq)]
enum Found {
    Event(u64),
    Dropped(u64, u64),
}

impl Setup {
    fn config(&self) -> Config {
        Config::new()
            .events(self.events)
            .inline_bytes(self.inline)
            .large_bytes(self.chunks as usize * 4096)
            .max_envelope_bytes(self.max_envelope)
            .first_seq(self.first_seq)
            .wait(if self.spin { Wait::Spin } else { Wait::Park })
    }

    /// The largest event in chunks.
    fn max_run(&self) -> usize {
        (self.max_envelope - ENVELOPE - 1).min((self.chunks * CHUNK) as usize)
    }

    fn room(&self) -> usize {
        self.inline.max(self.max_run())
    }

    /// The longest event that may have any seq.
    fn always(&self) -> usize {
        self.max_envelope - ENVELOPE - 19
    }

    fn fits(&self, len: usize, seq: u64) -> bool {
        len <= self.room() && ENVELOPE + digits(seq) + len <= self.max_envelope
    }

    /// What this event alone comes to, in a stream that is like this one.
    fn alone(&self, given: &Given) -> std::result::Result<Vec<u8>, PublishError> {
        let config = Self { events: 1, ..*self }.config();
        let mut stream = Publisher::Shared(config.build().unwrap());
        stream.handle().set_captured(CategorySet::ALL);
        given.publish(&mut stream)?;
        let mut reader = stream.handle().reader_from_oldest();
        let read = reader.try_read().unwrap().envelope().unwrap();
        Ok(given.form(read.event_json()))
    }
}

impl Model {
    fn newest(&self) -> u64 {
        self.setup.first_seq - 1 + self.entries.len() as u64
    }

    fn oldest(&self) -> u64 {
        self.setup.first_seq.max((self.newest() + 1).saturating_sub(self.setup.events))
    }

    fn entry(&self, seq: u64) -> &Entry {
        &self.entries[(seq - self.setup.first_seq) as usize]
    }

    fn captures(&self, given: &Given) -> bool {
        self.captured.contains(&given.event.category)
    }

    fn is_intact(&self, run: &Run) -> bool {
        run.first + self.setup.chunks > self.chunk
    }

    /// What is made of an event by who publishes it, before it is known under which seq.
    fn prepare(&mut self, given: Given) -> std::result::Result<Ready, PublishError> {
        let Setup { inline, .. } = self.setup;
        let always_inline = inline.min(self.setup.always());
        let len = given.len();
        let mut ready = Ready { given, short: Vec::new(), run: None };
        if len <= always_inline {
            return Ok(ready);
        }
        // Without chunks, and with the longest seq, there is nothing but the short form.
        let small = Setup { chunks: 0, first_seq: MAX_SEQ, ..self.setup };
        ready.short = small.alone(&ready.given)?;
        check_form(&ready.given, &ready.short, always_inline);
        if self.setup.fits(len, self.newest() + 1) {
            if len > inline {
                ready.run = Some(self.claim(None, len));
            }
        } else if self.setup.room().min(self.setup.always()) > always_inline {
            let here = Setup { first_seq: (self.newest() + 1).min(MAX_SEQ), ..self.setup };
            let form = here.alone(&ready.given)?;
            check_form(&ready.given, &form, self.setup.room().min(self.setup.always()));
            // The clock's digits stand for one each.
            let len = form.len() + if ready.given.clock == Clock::Nothing { 0 } else { CLOCK_DIGITS - 1 };
            ready.run = Some(self.claim(Some(form), len));
        }
        Ok(ready)
    }

    fn claim(&mut self, form: Option<Vec<u8>>, len: usize) -> Run {
        let first = self.chunk + 1;
        self.chunk += (len as u64).div_ceil(CHUNK);
        Run { first, form, len }
    }

    /// Puts an event under the next seq. Whether it is cut.
    fn enter(&mut self, mut ready: Ready) -> bool {
        let seq = self.newest() + 1;
        let len = ready.given.len();
        let cut = !self.setup.fits(len, seq);
        if cut && ready.run.as_ref().is_some_and(|run| run.form.is_none()) {
            // It would have fitted with a seq of fewer digits.
            ready.run = None;
        }
        let clock = if ready.given.clock == Clock::Nothing { 0 } else { CLOCK_DIGITS - 1 };
        let bytes = match &ready.run {
            Some(run) => run.len,
            None if cut => ready.short.len() + clock,
            None => len,
        };
        self.bytes += bytes as u64;
        self.largest = self.largest.max(bytes as u64);
        self.truncated += u64::from(cut);
        self.entries.push(Entry { ready, cut });
        cut
    }

    /// The end of a publish of one event.
    fn publish(&mut self, given: Given) -> std::result::Result<Publish, PublishError> {
        if !self.captures(&given) {
            return Ok(Publish::NotCaptured);
        }
        let ready = self.prepare(given);
        let result = ready.and_then(|ready| {
            if self.newest() == MAX_SEQ {
                self.closed = true;
            }
            if self.closed {
                return Err(PublishError::Closed);
            }
            let truncated = self.enter(ready);
            Ok(Publish::Published { seq: self.newest(), truncated })
        });
        self.refused += u64::from(result.is_err());
        result
    }

    fn publish_batch(
        &mut self,
        batch: &[Given],
        is_exclusive: bool,
    ) -> std::result::Result<BatchPublished, BatchError> {
        let captured: Vec<_> = (0..batch.len()).filter(|&at| self.captures(&batch[at])).collect();
        let mut ready = Vec::new();
        for &index in &captured {
            match self.prepare(batch[index].clone()) {
                Ok(one) => ready.push(one),
                Err(error) => {
                    self.refused += 1;
                    return Err(BatchError { published: 0, index, error });
                }
            }
        }
        let n = ready.len();
        let first = self.newest() + 1;
        let lap = if is_exclusive { n } else { self.setup.events as usize };
        let mut truncated = 0;
        let mut ready = ready.into_iter();
        let mut published = 0;
        while published < n {
            let count = lap.min(n - published);
            if self.closed || self.newest() + count as u64 > MAX_SEQ {
                self.closed = true;
                self.refused += 1;
                let error = PublishError::Closed;
                return Err(BatchError { published, index: captured[published], error });
            }
            for one in ready.by_ref().take(count) {
                truncated += usize::from(self.enter(one));
            }
            published += count;
        }
        Ok(BatchPublished { seqs: first..first + n as u64, published, truncated })
    }

    /// The next thing for a reader, which goes there.
    fn read(&self, reading: &mut Reading) -> std::result::Result<Found, TryReadError> {
        let from = reading.next;
        if from < self.oldest() {
            reading.next = self.oldest();
            return Ok(Found::Dropped(from, reading.next - 1));
        }
        while reading.next <= self.newest() {
            reading.next += 1;
            let seq = reading.next - 1;
            if reading.wanted.contains(&self.entry(seq).ready.given.event.category) {
                return Ok(Found::Event(seq));
            }
        }
        Err(if self.closed { TryReadError::Closed } else { TryReadError::Empty })
    }

    /// That this envelope is what is left of the event of its seq. Whether it comes in its short form.
    fn check(&self, envelope: &mut RawEnvelope<'_>) -> bool {
        let seq = envelope.seq();
        let Entry { ready, cut } = self.entry(seq);
        let given = &ready.given;
        let json = envelope.event_json().to_vec();
        let mut is_short = false;
        match &ready.run {
            Some(run) if !self.is_intact(run) => {
                is_short = true;
                assert_eq!(given.form(&json), ready.short, "{seq} is not its short form");
            }
            Some(Run { form: Some(form), .. }) => {
                assert_eq!(given.form(&json), *form, "{seq} is not its long form")
            }
            None if *cut => assert_eq!(given.form(&json), ready.short, "{seq} is not its short form"),
            _ => assert_eq!(given.undo(&json), given.line, "{seq} is not what was published"),
        }
        assert_eq!(envelope.truncated(), *cut || is_short || given.event.truncated, "the flag of {seq}");
        assert_eq!(envelope.category(), given.event.category);

        let event = envelope.event().expect("an event");
        assert!(event.ts != 0 && (given.clock != Clock::Nothing || event.ts == given.event.ts));
        assert_eq!(event.r#type, given.event.r#type);
        assert_eq!(event.truncated, envelope.truncated(), "the field of {seq}");

        let expected = [format!("{{\"seq\":{seq},\"event\":").as_bytes(), &json, b"}"].concat();
        assert!(expected.len() <= self.setup.max_envelope, "an envelope of {} bytes", expected.len());
        let mut written = b"before".to_vec();
        envelope.write_json(&mut written);
        assert_eq!(written, [b"before", &expected[..]].concat());
        let owned = envelope.to_owned();
        assert_eq!((owned.seq(), owned.truncated()), (seq, envelope.truncated()));
        assert_eq!((owned.json(), owned.event_json()), (&expected[..], &json[..]));
        assert_eq!(envelope.json(), expected);
        assert_eq!(envelope.event_json(), json, "the envelope around it spoils the event");
        is_short
    }

    fn position(&self, seq: u64) -> std::result::Result<u64, PositionError> {
        let newest = self.newest();
        if seq > newest { Err(PositionError::Future { given: seq, newest }) } else { Ok(seq + 1) }
    }

    fn check_stats(&self, stream: &Handle) {
        assert_eq!((stream.seq(), stream.readable()), (self.newest(), self.newest()));
        assert_eq!(stream.oldest(), self.oldest());
        assert_eq!(stream.captured(), self.captured);
        let stats = stream.stats();
        assert_eq!(stats.published(), self.entries.len() as u64);
        for at in 0..CLASSES {
            let count = self.entries.iter().filter(|entry| entry.ready.given.class() == at).count();
            assert_eq!(stats.published_in(&category(at)), count as u64);
        }
        assert_eq!((stats.bytes(), stats.largest()), (self.bytes, self.largest));
        assert_eq!((stats.truncated(), stats.refused), (self.truncated, self.refused));
        assert_eq!((stats.overrun, stats.abandoned), (0, 0));
    }
}

/// That this is a truncated form of the event, in `max` bytes.
fn check_form(given: &Given, form: &[u8], max: usize) {
    let clock = if given.clock == Clock::Nothing { 0 } else { CLOCK_DIGITS - 1 };
    assert!(form.len() + clock <= max, "a form of {} bytes, and not {max}", form.len() + clock);
    let Event { r#type, category, source, truncated, data, .. } = serde_json::from_slice(form).expect("JSON");
    assert!(truncated);
    assert_eq!((&r#type, &category), (&given.event.r#type, &given.event.category));
    assert_eq!((&source.kind, &source.event), (&given.event.source.kind, &given.event.source.event));
    let all = given.event.source.metadata.clone().unwrap_or_default();
    let kept = source.metadata.unwrap_or_default();
    assert!(kept.iter().zip(all.iter()).all(|(kept, all)| kept == all), "other metadata");
    assert!(data.is_none() || given.event.data.is_some());
    assert!(!form.contains(&b'\n'));
}

impl Reading {
    fn of(reader: Reader) -> Self {
        let next = reader.next_seq();
        let wanted = CategorySet::ALL;
        Self { reader, next, wanted, position: next - 1, delivered: 0, dropped: 0, shortened: 0 }
    }

    fn try_read(&mut self, model: &Model) {
        let expected = model.read(self);
        self.position = self.next - 1;
        let got = self.reader.try_read().map(|read| match read {
            ReadResult::Envelope(mut envelope) => {
                self.delivered += 1;
                self.shortened += u64::from(model.check(&mut envelope));
                Found::Event(envelope.seq())
            }
            ReadResult::Dropped { from, to } => {
                self.dropped += to - from + 1;
                Found::Dropped(from, to)
            }
        });
        assert_eq!(got, expected);
    }

    fn read_batch(&mut self, model: &Model, max: usize) {
        let mut seqs = Vec::new();
        let mut shortened = 0;
        let got = self.reader.try_read_batch(max, |mut envelope| {
            shortened += u64::from(model.check(&mut envelope));
            seqs.push(envelope.seq());
        });
        self.delivered += seqs.len() as u64;
        self.shortened += shortened;
        match model.read(self) {
            Err(error) => {
                self.position = self.next - 1;
                assert_eq!(got, Err(error));
            }
            Ok(Found::Dropped(from, to)) => {
                self.position = to;
                self.dropped += to - from + 1;
                assert_eq!(got, Ok(ReadResult::Dropped { from, to }));
            }
            Ok(Found::Event(first)) => {
                let mut expected = vec![first];
                while expected.len() < max
                    && let Ok(Found::Event(seq)) = model.read(self)
                {
                    expected.push(seq);
                }
                // Behind the last one the filter has skipped, and that counts.
                self.position = self.next - 1;
                assert_eq!(got, Ok(ReadResult::Envelope(expected.len())));
                assert_eq!(seqs, expected);
            }
        }
    }
}

fn set(bits: u16) -> CategorySet {
    if bits == u16::MAX {
        return CategorySet::ALL;
    }
    CategorySet::from_iter((0..CLASSES).filter(|at| bits >> at & 1 != 0).map(category))
}

fn run(setup: Setup, ops: &[Op]) {
    let memory = setup.config().memory().unwrap();
    let mut publisher = Some(Publisher::Shared(setup.config().build().unwrap()));
    let stream = publisher.as_ref().unwrap().handle();
    assert_eq!(stream.memory(), memory);
    let mut model = Model {
        setup,
        entries: Vec::new(),
        chunk: 0,
        closed: false,
        captured: CategorySet::ALL,
        refused: 0,
        truncated: 0,
        bytes: 0,
        largest: 0,
    };
    let mut readers = vec![Reading::of(stream.reader_from_oldest())];
    // So many before the newest, or beyond it.
    let seq = |model: &Model, back: i64| model.newest().saturating_add_signed(-back);
    for op in ops {
        let to = publisher.as_mut().unwrap();
        let n = readers.len();
        match op {
            Op::Publish(spec) => {
                let given = Given::event(spec);
                assert_eq!(given.publish(to), model.publish(given));
            }
            Op::PublishJson(spec, spelling) => {
                let given = Given::json(spec, *spelling);
                assert_eq!(given.publish(to), model.publish(given));
            }
            Op::PublishInvalid(spec, len) => {
                let json = event(spec).to_json();
                let part = &json[..len % json.len()];
                let result = match to {
                    Publisher::Shared(stream) => stream.publish_json(part),
                    Publisher::Exclusive(stream) => stream.publish_json(part),
                };
                assert!(matches!(result, Err(PublishError::Invalid(_))), "{result:?}");
                model.refused += 1;
            }
            Op::Batch(specs) => {
                let batch: Vec<_> = specs.iter().map(Given::event).collect();
                let events: Vec<_> = batch.iter().map(|given| given.event.clone()).collect();
                let (got, is_exclusive) = match to {
                    Publisher::Shared(stream) => (stream.publish_batch(&events), false),
                    Publisher::Exclusive(stream) => (stream.publish_batch(&events), true),
                };
                match (got, model.publish_batch(&batch, is_exclusive)) {
                    (Ok(got), Ok(expected)) if expected.published == 0 => {
                        assert!(got.seqs.is_empty());
                        assert_eq!((got.published, got.truncated), (0, 0));
                    }
                    (got, expected) => assert_eq!(got, expected),
                }
            }
            Op::Exchange => {
                publisher = publisher.map(|publisher| match publisher {
                    Publisher::Shared(stream) => Publisher::Exclusive(stream.into_exclusive()),
                    Publisher::Exclusive(stream) => Publisher::Shared(stream.into_shared()),
                });
            }
            Op::Close => {
                let closed = match to {
                    Publisher::Shared(stream) => stream.close(),
                    Publisher::Exclusive(stream) => stream.close(),
                };
                assert_eq!(closed, !model.closed);
                model.closed = true;
            }
            Op::Capture(bits) => {
                stream.set_captured(set(*bits));
                model.captured = set(*bits).with(&Category::System);
            }
            Op::TryRead(at) if n > 0 => readers[at % n].try_read(&model),
            Op::ReadBatch(at, max) if n > 0 => readers[at % n].read_batch(&model, *max),
            Op::Categories(at, bits) if n > 0 => {
                readers[at % n].wanted = set(*bits);
                readers[at % n].reader.set_categories(set(*bits));
            }
            Op::MoveAfter(at, back) if n > 0 => {
                let reading = &mut readers[at % n];
                let seq = seq(&model, *back);
                let expected = model.position(seq);
                assert_eq!(reading.reader.move_after(seq), expected.map(|_| ()));
                if expected.is_ok() {
                    (reading.next, reading.position) = (seq + 1, seq);
                }
            }
            Op::FromOldest => {
                readers.push(Reading::of(stream.reader_from_oldest()));
                assert_eq!(readers[n].next, model.oldest());
            }
            Op::FromNow => {
                readers.push(Reading::of(stream.reader_from_now()));
                assert_eq!(readers[n].next, model.newest() + 1);
            }
            Op::After(back) => {
                let seq = seq(&model, *back);
                let reader = stream.reader_after(seq);
                assert_eq!(reader.as_ref().map(Reader::next_seq), model.position(seq).as_ref().copied());
                readers.extend(reader.ok().map(Reading::of));
            }
            Op::Resume(back, is_ours) => {
                let seq = seq(&model, *back);
                let epoch = stream.epoch() ^ u64::from(!is_ours);
                let expected = if *is_ours {
                    model.position(seq)
                } else {
                    Err(PositionError::Epoch { given: epoch, current: stream.epoch() })
                };
                let reader = stream.resume(epoch, seq);
                assert_eq!(reader.as_ref().map(Reader::next_seq), expected.as_ref().copied());
                readers.extend(reader.ok().map(Reading::of));
            }
            Op::DropReader(at) if n > 0 => _ = readers.remove(at % n),
            _ => {}
        }
        if readers.len() > 6 {
            readers.remove(0);
        }
        model.check_stats(&stream);
        let statuses = stream.readers();
        assert_eq!(statuses.len(), readers.len());
        for (status, reading) in statuses.iter().zip(&readers) {
            assert_eq!(reading.reader.next_seq(), reading.next);
            assert_eq!(reading.reader.lag(), (model.newest() + 1).saturating_sub(reading.next));
            assert_eq!(status.position, reading.position);
            assert_eq!(status.lag, model.newest().saturating_sub(reading.position));
            assert_eq!(
                (status.delivered, status.dropped, status.shortened),
                (reading.delivered, reading.dropped, reading.shortened)
            );
        }
    }
    drop(publisher);
    model.closed = true;
    for mut reading in readers {
        while reading.next <= model.newest() {
            reading.try_read(&model);
        }
        reading.try_read(&model);
        assert!(matches!(reading.reader.try_read(), Err(TryReadError::Closed)));
    }
}

fuzz_target!(|case: Case| run(case.setup, &case.ops));
