//! Events that describe themselves, readers that give an account, and a ledger of what was published.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use lapwing::event::{Category, Event, Source as Origin, SourceKind};
use lapwing::model_support::lanes::{Laned, LanedEvent};
use lapwing::ring::{self, Bytes, Handle, Payload, Read, ReadError, Reader, TryReadError, Typed};
use lapwing::stream::{self, RawEnvelope, ReadResult};
use shuttle::sync::{Condvar, Mutex};
use shuttle::thread;

use crate::see;

// ---- Events that describe themselves.

/// An event: who publishes it, and which of its publisher's it is. Every byte of a payload follows from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    pub publisher: u64,
    pub count: u64,
}

/// In the first word of a payload: it is the short form of a large event.
const SHORT: u64 = 1 << 63;
/// The bytes of the largest payload in a slot.
pub const SLOT_BYTES: usize = 24;
/// The bytes of a payload in chunks: two whole ones, and a part.
pub const LARGE_BYTES: usize = 40;
/// A value of three words.
pub type Value = [u64; 3];

impl Id {
    fn head(self) -> u64 {
        self.publisher << 32 | self.count
    }

    fn of_head(head: u64) -> Self {
        Self { publisher: head >> 32, count: head & u64::from(u32::MAX) }
    }

    fn filled(self, head: u64, len: usize) -> Vec<u8> {
        let word =
            |n: u64| (self.head() + n).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29).to_le_bytes();
        head.to_le_bytes().into_iter().chain((1..).flat_map(word)).take(len).collect()
    }

    /// A payload for a slot, of 8 bytes and more.
    pub fn bytes(self) -> Vec<u8> {
        self.filled(self.head(), 8 + (5 * self.publisher + 7 * self.count) as usize % (SLOT_BYTES - 7))
    }

    /// A payload for chunks.
    pub fn large(self) -> Vec<u8> {
        self.filled(self.head(), LARGE_BYTES)
    }

    /// Its short form.
    pub fn short(self) -> Vec<u8> {
        self.filled(self.head() | SHORT, 16)
    }

    /// The publisher in the lowest four bits, a checksum above.
    pub fn tag(self) -> u16 {
        let sum = self.head().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48;
        (sum as u16) << 4 | self.publisher as u16
    }

    pub fn value(self) -> Value {
        [self.head(), !self.head(), self.head().rotate_left(17)]
    }

    /// For an even publisher a small one; for an odd one too large for a slot, and every third time for chunks as well.
    pub fn event(self) -> Event<'static> {
        let category = match self.publisher {
            0 | 3 => Category::Page,
            1 => Category::Network,
            _ => Category::System,
        };
        let event = Event::new("e", category, Origin::new(SourceKind::Cdp)).ts(1 + self.head() as i64);
        if self.publisher.is_multiple_of(2) {
            return event;
        }
        let filler = "abcdefghijklmnopqrstuvwxyz".chars().cycle().skip(self.count as usize);
        let len = if self.count % 3 == 2 { 190 } else { 70 + self.count as usize };
        let data = format!("\"{}\"", filler.take(len).collect::<String>());
        event.data_json(&data).expect("a string").into_owned()
    }

    fn checked(self, tag: u16, given: &[u8], published: &[u8], seq: u64) -> Self {
        assert_eq!((tag, given), (self.tag(), published), "torn: event {seq}");
        self
    }

    fn of_bytes(bytes: &[u8], seq: u64) -> Self {
        let head = *bytes.first_chunk().unwrap_or_else(|| panic!("torn: the length of event {seq}"));
        Self::of_head(u64::from_le_bytes(head) & !SHORT)
    }

    /// By its `ts`.
    pub fn of_json(json: &[u8], seq: u64) -> Self {
        let json = std::str::from_utf8(json).unwrap_or_else(|_| panic!("torn: event {seq}"));
        let ts = json.strip_prefix("{\"ts\":").and_then(|rest| rest.split(',').next()?.parse::<u64>().ok());
        Self::of_head(ts.unwrap_or_else(|| panic!("torn: event {seq}: {json}")) - 1)
    }
}

/// A payload from which its event can be told, if it is whole.
pub trait Described: Payload {
    fn describe(event: Self::Event<'_>) -> (u64, Id);
}

impl Described for Bytes {
    fn describe(event: ring::Event<'_>) -> (u64, Id) {
        let id = Id::of_bytes(event.bytes, event.seq);
        (event.seq, id.checked(event.tag, event.bytes, &id.bytes(), event.seq))
    }
}

impl Described for Typed<Value> {
    fn describe(event: ring::TypedEvent<Value>) -> (u64, Id) {
        let id = Id::of_head(event.value[0]);
        assert_eq!(event.value, id.value(), "torn: event {}", event.seq);
        (event.seq, id)
    }
}

impl Described for Laned {
    fn describe(event: LanedEvent<'_>) -> (u64, Id) {
        let id = Id::of_bytes(event.bytes(), event.seq);
        let is_short = event.bytes().get(7).is_some_and(|byte| byte & 1 << 7 != 0);
        assert!(is_short || !event.short, "torn: event {} is no short form", event.seq);
        let published = if is_short {
            see("short form");
            id.short()
        } else if event.bytes().len() == LARGE_BYTES {
            see("whole from chunks");
            id.large()
        } else {
            id.bytes()
        };
        (event.seq, id.checked(event.tag, event.bytes(), &published, event.seq))
    }
}

fn describe(envelope: &RawEnvelope<'_>) -> (u64, Id) {
    let (seq, json) = (envelope.seq(), envelope.event_json());
    let id = Id::of_json(json, seq);
    let published = id.event();
    assert_eq!(envelope.category(), published.category, "torn: the tag of event {seq}");
    if envelope.truncated() {
        see("truncated");
        let event = envelope.event().unwrap_or_else(|error| panic!("torn: event {seq}: {error}"));
        assert!(event.truncated, "torn: the flag of event {seq}");
        assert_eq!(event.category, published.category, "torn: event {seq}");
    } else {
        if json.len() > 128 {
            see("whole from chunks");
        }
        assert_eq!(json, published.to_json(), "torn: event {seq}");
    }
    (seq, id)
}

// ---- Readers that give an account.

/// What a read found.
pub enum Found {
    Event(u64, Id),
    Lost(u64, u64),
}

/// A reader of any kind.
pub trait Source: Sized + Send + 'static {
    fn try_next(&mut self) -> Result<Found, TryReadError>;
    fn next(&mut self) -> Result<Found, ReadError>;
    fn next_async(&mut self) -> impl Future<Output = Result<Found, ReadError>>;
    fn next_batch(&mut self, found: &mut Vec<Found>) -> Result<(), ReadError>;
    fn position(&self) -> u64;
}

impl<P: Described> Source for Reader<P> {
    fn try_next(&mut self) -> Result<Found, TryReadError> {
        self.try_read().map(found::<P>)
    }

    fn next(&mut self) -> Result<Found, ReadError> {
        self.read().map(found::<P>)
    }

    async fn next_async(&mut self) -> Result<Found, ReadError> {
        self.read_async().await.map(found::<P>)
    }

    fn next_batch(&mut self, found: &mut Vec<Found>) -> Result<(), ReadError> {
        let each = |event: P::Event<'_>| {
            let (seq, id) = P::describe(event);
            found.push(Found::Event(seq, id));
        };
        if let Read::Dropped(lost) = self.read_batch(3, each)? {
            found.push(Found::Lost(lost.from, lost.to));
        }
        Ok(())
    }

    fn position(&self) -> u64 {
        self.next_seq()
    }
}

fn found<P: Described>(read: Read<P::Event<'_>>) -> Found {
    match read {
        Read::Event(event) => {
            let (seq, id) = P::describe(event);
            Found::Event(seq, id)
        }
        Read::Dropped(lost) => Found::Lost(lost.from, lost.to),
    }
}

impl Source for stream::Reader {
    fn try_next(&mut self) -> Result<Found, TryReadError> {
        self.try_read().map(found_in_stream)
    }

    fn next(&mut self) -> Result<Found, ReadError> {
        self.read().map(found_in_stream)
    }

    async fn next_async(&mut self) -> Result<Found, ReadError> {
        self.read_async().await.map(found_in_stream)
    }

    fn next_batch(&mut self, found: &mut Vec<Found>) -> Result<(), ReadError> {
        let each = |envelope: RawEnvelope<'_>| {
            let (seq, id) = describe(&envelope);
            found.push(Found::Event(seq, id));
        };
        if let ReadResult::Dropped { from, to } = self.read_batch(3, each)? {
            found.push(Found::Lost(from, to));
        }
        Ok(())
    }

    fn position(&self) -> u64 {
        self.next_seq()
    }
}

fn found_in_stream(read: ReadResult<RawEnvelope<'_>>) -> Found {
    match read {
        ReadResult::Envelope(envelope) => {
            let (seq, id) = describe(&envelope);
            Found::Event(seq, id)
        }
        ReadResult::Dropped { from, to } => Found::Lost(from, to),
    }
}

/// Where a reader is, for whoever waits until it is there: what ends a ring wakes all, and so hides a wake-up that was lost before.
#[derive(Clone)]
pub struct Progress(Arc<(Mutex<u64>, Condvar)>);

impl Progress {
    pub fn wait_for(&self, next: u64) {
        drop(self.0.1.wait_while(self.0.0.lock().unwrap(), |at| *at < next).unwrap());
    }

    fn report(&self, next: u64) {
        *self.0.0.lock().unwrap() = next;
        self.0.1.notify_all();
    }
}

/// What one reader got, checked as it comes.
pub struct Account<S> {
    pub reader: S,
    start: u64,
    next: u64,
    /// The publishers whose events it wants, if not all.
    wanted: Option<&'static [u64]>,
    pub delivered: BTreeMap<u64, Id>,
    pub dropped: u64,
    skipped: u64,
    /// The last seq of a loss of several: such a one is a lap, where a single seq may have been given up.
    lapped: u64,
    progress: Option<Progress>,
    /// The last event of each publisher.
    counts: BTreeMap<u64, u64>,
}

impl<S: Source> Account<S> {
    pub fn of(reader: S) -> Self {
        let start = reader.position();
        Self {
            reader,
            start,
            next: start,
            wanted: None,
            delivered: BTreeMap::new(),
            dropped: 0,
            skipped: 0,
            lapped: 0,
            progress: None,
            counts: BTreeMap::new(),
        }
    }

    /// For one that is waited for.
    pub fn of_watched(reader: S) -> (Self, Progress) {
        let progress = Progress(Arc::new((Mutex::new(reader.position()), Condvar::new())));
        (Self { progress: Some(progress.clone()), ..Self::of(reader) }, progress)
    }

    /// For a reader with a filter.
    pub fn of_some(reader: S, publishers: &'static [u64]) -> Self {
        Self { wanted: Some(publishers), ..Self::of(reader) }
    }

    /// The same account, for a reader that goes on where this one is.
    pub fn go_on(self, by: impl FnOnce(S) -> S) -> Self {
        let reader = by(self.reader);
        assert_eq!(reader.position(), self.next, "the next reader begins elsewhere");
        Self { reader, ..self }
    }

    fn enter(&mut self, found: Found) {
        let from = match found {
            Found::Event(seq, _) => seq,
            Found::Lost(from, _) => from,
        };
        self.skip_to(from);
        match found {
            Found::Event(seq, id) => {
                assert!(
                    self.wanted.is_none_or(|wanted| wanted.contains(&id.publisher)),
                    "{id:?} is not wanted"
                );
                let before = self.counts.insert(id.publisher, id.count);
                assert!(
                    before.is_none_or(|before| before < id.count),
                    "out of order: {id:?} after {before:?}"
                );
                self.delivered.insert(seq, id);
                self.next = seq + 1;
            }
            Found::Lost(from, to) => {
                see("lapped");
                assert!(to >= from, "an empty loss");
                self.dropped += to - from + 1;
                self.next = to + 1;
                if to > from {
                    self.lapped = to;
                }
            }
        }
        if let Some(progress) = &self.progress {
            progress.report(self.next);
        }
    }

    fn skip_to(&mut self, next: u64) {
        if self.wanted.is_none() {
            assert_eq!(next, self.next, "out of order, or a hole");
        }
        assert!(next >= self.next, "back from {} to {next}", self.next);
        self.skipped += next - self.next;
        self.next = next;
    }

    /// One look. False when there was nothing.
    pub fn look(&mut self) -> Result<bool, TryReadError> {
        let found = match self.reader.try_next() {
            Ok(found) => found,
            Err(TryReadError::Empty) => return Ok(false),
            Err(error) => return Err(error),
        };
        self.enter(found);
        assert_eq!(self.next, self.reader.position(), "position and account differ");
        Ok(true)
    }

    /// Reads once, and sleeps if it has to.
    pub fn wait(&mut self) -> Result<(), ReadError> {
        let found = self.reader.next()?;
        self.enter(found);
        assert_eq!(self.next, self.reader.position(), "position and account differ");
        Ok(())
    }

    // ---- To the end, in different ways.

    pub fn parking(&mut self) -> ReadError {
        loop {
            if let Err(error) = self.wait() {
                return error;
            }
        }
    }

    pub fn in_batches(&mut self) -> ReadError {
        let mut found = Vec::new();
        loop {
            if let Err(error) = self.reader.next_batch(&mut found) {
                return error;
            }
            found.drain(..).for_each(|found| self.enter(found));
            self.skip_to(self.reader.position());
        }
    }

    /// Every other future is dropped after one poll.
    pub async fn as_task(&mut self) -> ReadError {
        loop {
            let polled = {
                let mut future = std::pin::pin!(self.reader.next_async());
                std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx))).await
            };
            let found = match polled {
                std::task::Poll::Ready(found) => found,
                std::task::Poll::Pending => {
                    see("future dropped");
                    self.reader.next_async().await
                }
            };
            match found {
                Ok(found) => self.enter(found),
                Err(error) => return error,
            }
        }
    }

    pub fn looking(&mut self) {
        loop {
            match self.look() {
                Ok(true) => {}
                Ok(false) => thread::yield_now(),
                Err(_) => return,
            }
        }
    }

    /// Everything up to `last` was delivered, skipped or dropped, and what was delivered was published.
    pub fn close(mut self, last: u64, capacity: u64, ledger: &Ledger) {
        self.skip_to(self.reader.position());
        assert_eq!(self.next, last + 1, "unaccounted: the reader is not at the end");
        let sum = self.delivered.len() as u64 + self.skipped + self.dropped;
        assert_eq!(sum, last + 1 - self.start, "unaccounted: delivered, skipped and dropped");
        assert!(
            self.lapped == 0 || self.lapped + capacity <= last,
            "{} is told as lost, of {last}",
            self.lapped
        );
        for (seq, id) in &self.delivered {
            let seqs = ledger.published.get(id).unwrap_or_else(|| panic!("{id:?} was never published"));
            assert!(seqs.contains(seq), "{id:?} was published as {seqs:?} and delivered as {seq}");
        }
    }
}

impl<P: Described> Account<Reader<P>> {
    /// The same, when nobody publishes any more: and the last lap is there, all of it.
    pub fn close_ring(mut self, ledger: &Ledger) {
        let ring = self.reader.handle().clone();
        self.looking();
        if self.wanted.is_some() {
            self.skip_to(self.reader.position());
            assert_eq!(self.skipped, self.reader.skipped(), "the reader counts otherwise what it skipped");
        }
        self.close(ring.newest(), ring.capacity(), ledger);
        let mut last_lap = Account::of(ring.reader_from_oldest());
        last_lap.looking();
        ledger.check_ring(&ring, &last_lap.delivered);
        last_lap.close(ring.newest(), ring.capacity(), ledger);
    }
}

// ---- The ledger of what was published.

/// Why an event was not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Refused {
    Stalled,
    Closed,
    NotCaptured,
}

impl From<ring::PublishError> for Refused {
    fn from(error: ring::PublishError) -> Self {
        match error {
            ring::PublishError::Stalled { .. } => Self::Stalled,
            ring::PublishError::Closed => Self::Closed,
            _ => panic!("refused: {error}"),
        }
    }
}

impl From<stream::PublishError> for Refused {
    fn from(error: stream::PublishError) -> Self {
        match error {
            stream::PublishError::Stalled { .. } => Self::Stalled,
            stream::PublishError::Closed => Self::Closed,
            _ => panic!("refused: {error}"),
        }
    }
}

/// What became of an event: somewhere among these seqs, or refused.
pub type Outcome = (Id, Result<Range<u64>, Refused>);

#[derive(Default)]
pub struct Ledger {
    /// Where an event can be. Of one that came alone, the seq is known.
    pub published: BTreeMap<Id, Range<u64>>,
    pub refused: Vec<(Id, Refused)>,
}

impl Ledger {
    /// Takes what one publisher says.
    pub fn add(&mut self, outcomes: Vec<Outcome>) {
        let mut last = 0;
        let mut closed = false;
        for (id, outcome) in outcomes {
            match outcome {
                Ok(seqs) => {
                    assert!(!closed, "{id:?} was published after the end");
                    assert!(seqs.end > last, "seqs of one publisher fall");
                    last = seqs.start;
                    let twice = self.published.insert(id, seqs);
                    assert!(twice.is_none(), "{id:?} was published twice");
                }
                Err(refused) => {
                    see(match refused {
                        Refused::Stalled => "refused: stalled",
                        Refused::Closed => "refused: closed",
                        Refused::NotCaptured => "not captured",
                    });
                    closed |= refused == Refused::Closed;
                    self.refused.push((id, refused));
                }
            }
        }
    }

    pub fn of(publishers: impl IntoIterator<Item = thread::JoinHandle<Vec<Outcome>>>) -> Self {
        let mut ledger = Self::default();
        publishers.into_iter().for_each(|publisher| ledger.add(publisher.join().unwrap()));
        ledger
    }

    /// Every seq is an event's, or was given up. What lies in the last lap is there.
    pub fn check(&self, last: u64, given_up: u64, capacity: u64, last_lap: &BTreeMap<u64, Id>) {
        let published = self.published.len() as u64;
        assert_eq!(published + given_up, last, "unaccounted: published and given up");
        let mut known: Vec<_> = self.published.values().filter(|seqs| seqs.end - seqs.start == 1).collect();
        known.sort_by_key(|seqs| seqs.start);
        assert!(known.is_sorted_by(|a, b| a.start < b.start), "one seq for two events: {known:?}");
        for (id, seqs) in &self.published {
            assert!(seqs.start >= 1 && seqs.end <= last + 1, "{id:?} is beyond the end");
            if seqs.start + capacity > last {
                let there = last_lap.range(seqs.clone()).any(|(_, delivered)| delivered == id);
                assert!(there, "{id:?} of {seqs:?} is lost: the last seq is {last}, and nobody was told");
            }
        }
    }

    pub fn check_ring<P: Payload>(&self, ring: &Handle<P>, last_lap: &BTreeMap<u64, Id>) {
        if ring.overruns() > 0 {
            see("overrun");
        }
        if ring.abandoned() > 0 {
            see("given up");
        }
        self.check(ring.newest(), ring.abandoned(), ring.capacity(), last_lap);
    }
}
