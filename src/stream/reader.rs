//! Reading envelopes.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::config::CategorySet;
use super::error::PositionError;
use super::handle::{Handle, Vitals};
use super::{TRUNCATED, category_of};
use crate::event::{Category, Envelope, Event};
use crate::ring::lanes::{Laned, LanedEvent, MARGIN};
use crate::ring::{self, Canceller, Read, ReadError, TryReadError};

/// What a read found: one of the two, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadResult<E> {
    /// The next envelope.
    Envelope(E),
    /// The reader was overtaken: it will never get these events. The next read gives what came after.
    Dropped {
        /// The first lost seq.
        from: u64,
        /// The last lost seq; at least `from`.
        to: u64,
    },
}

impl<E> ReadResult<E> {
    /// The envelope, or `None` for a drop.
    pub fn envelope(self) -> Option<E> {
        match self {
            Self::Envelope(envelope) => Some(envelope),
            Self::Dropped { .. } => None,
        }
    }

    /// How many events were lost; 0 with an envelope.
    pub fn dropped(&self) -> u64 {
        match self {
            Self::Envelope(_) => 0,
            Self::Dropped { from, to } => to - from + 1,
        }
    }
}

/// A position in a stream, and a buffer that events are copied into.
///
/// ```
/// use lapwing::event::{Category, Event, Source, SourceKind};
/// use lapwing::stream::{Config, ReadResult, TryReadError};
///
/// let stream = Config::new().events(2).build()?;
/// for _ in 0..3 {
///     stream.publish(&Event::new("tick", Category::System, Source::new(SourceKind::LocalProcess)))?;
/// }
/// let mut reader = stream.reader_after(0)?;
/// assert!(matches!(reader.try_read()?, ReadResult::Dropped { from: 1, to: 1 }));
/// assert_eq!(reader.try_read()?.envelope().unwrap().seq(), 2);
/// assert_eq!(reader.try_read()?.envelope().unwrap().seq(), 3);
/// assert!(matches!(reader.try_read(), Err(TryReadError::Empty)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Every reader sees every event, or every event of its categories. It keeps the stream's memory, but does not
/// keep the stream open.
///
/// Reads take no memory, but for the first time that a reader sleeps on a thread. The buffer has room for the
/// largest event, of which what is never used stays untouched.
pub struct Reader {
    ring: ring::Reader<Laned>,
    state: State,
}

struct State {
    handle: Handle,
    vitals: Arc<Vitals>,
    delivered: u64,
    dropped: u64,
}

impl State {
    /// Makes known what was read, and hands it on.
    #[inline(always)]
    fn note<'a>(&mut self, read: Read<LanedEvent<'a>>) -> ReadResult<RawEnvelope<'a>> {
        match read {
            Read::Event(event) => {
                self.delivered += 1;
                self.vitals.delivered.store(self.delivered, Relaxed);
                self.vitals.position.store(event.seq, Relaxed);
                if event.short {
                    self.vitals.shortened.store(self.vitals.shortened.load(Relaxed) + 1, Relaxed);
                }
                ReadResult::Envelope(RawEnvelope { event })
            }
            Read::Dropped(ring::Dropped { from, to }) => {
                self.dropped += to - from + 1;
                self.vitals.dropped.store(self.dropped, Relaxed);
                self.vitals.position.store(to, Relaxed);
                ReadResult::Dropped { from, to }
            }
        }
    }

    /// A batch, and what comes after it: each envelope was noted already, but not what was stepped over behind
    /// the last one.
    fn note_batch(&mut self, read: Read<usize>, next_seq: u64) -> ReadResult<usize> {
        match read {
            Read::Event(count) => {
                self.vitals.position.store(next_seq - 1, Relaxed);
                ReadResult::Envelope(count)
            }
            Read::Dropped(dropped) => match self.note(Read::Dropped(dropped)) {
                ReadResult::Dropped { from, to } => ReadResult::Dropped { from, to },
                ReadResult::Envelope(_) => ReadResult::Envelope(0),
            },
        }
    }
}

impl Handle {
    /// A reader that starts with the oldest event there is.
    pub fn reader_from_oldest(&self) -> Reader {
        Reader::new(self, self.ring.reader_from_oldest())
    }

    /// A reader that starts after everything that is [`readable`](Self::readable) now: it gets what is still
    /// being published, and all that is published later. Costs one look at every slot.
    pub fn reader_from_now(&self) -> Reader {
        Reader::new(self, self.ring.reader_from_now())
    }

    /// A reader that starts after the event `seq`: 0 before the first one, the newest for what comes next. When
    /// what follows `seq` is overwritten already, the first read says so.
    ///
    /// # Errors
    ///
    /// When `seq` is beyond the newest event.
    pub fn reader_after(&self, seq: u64) -> Result<Reader, PositionError> {
        Ok(Reader::new(self, self.ring.reader_after(seq)?))
    }

    /// A reader that goes on after the event `seq` of the stream `epoch`, as an earlier reader has left them:
    /// of this stream, or of an earlier run of the program.
    ///
    /// # Errors
    ///
    /// When `epoch` is not this stream's, or `seq` is beyond the newest event.
    pub fn resume(&self, epoch: u64, seq: u64) -> Result<Reader, PositionError> {
        if epoch != self.epoch() {
            return Err(PositionError::Epoch { given: epoch, current: self.epoch() });
        }
        self.reader_after(seq)
    }
}

impl Reader {
    fn new(stream: &Handle, mut ring: ring::Reader<Laned>) -> Self {
        let vitals = stream.enlist(ring.next_seq() - 1);
        ring.position = Some(Arc::clone(&vitals.position));
        Self { ring, state: State { handle: stream.clone(), vitals, delivered: 0, dropped: 0 } }
    }

    /// The same reader under a name, by which [`Handle::readers`] lists it.
    pub fn named(self, name: &str) -> Self {
        self.state.vitals.set_name(name);
        self
    }

    /// The stream.
    pub fn handle(&self) -> &Handle {
        &self.state.handle
    }

    /// The seq that the next read looks for.
    pub fn next_seq(&self) -> u64 {
        self.ring.next_seq()
    }

    /// How many events are claimed that this reader has not read.
    pub fn lag(&self) -> u64 {
        self.ring.lag()
    }

    /// From now on this reader gets only events of these categories. It steps over the others without copying
    /// them. Lost numbers are told as before, whatever their events' categories were.
    pub fn set_categories(&mut self, categories: CategorySet) {
        if categories == CategorySet::ALL {
            self.ring.unfilter();
        } else {
            self.ring.filter_by(|tag| categories.has(category_of(tag)));
        }
    }

    /// Moves to what comes after the event `seq`, back or forth. When that is overwritten already, the next
    /// read says so.
    ///
    /// # Errors
    ///
    /// When `seq` is beyond the newest event. The reader stays where it is.
    pub fn move_after(&mut self, seq: u64) -> Result<(), PositionError> {
        self.ring.move_after(seq)?;
        self.state.vitals.position.store(seq, Relaxed);
        Ok(())
    }

    /// The next envelope, or what was lost before it, without waiting.
    ///
    /// Costs a copy of the event's bytes; large ones are copied out of their chunks.
    ///
    /// # Errors
    ///
    /// [`TryReadError::Empty`] when there is no event yet, [`TryReadError::Closed`] when there will be none.
    #[inline(always)]
    pub fn try_read(&mut self) -> Result<ReadResult<RawEnvelope<'_>>, TryReadError> {
        Ok(self.state.note(self.ring.try_read()?))
    }

    /// The next envelope, or what was lost before it; waits for it.
    ///
    /// # Errors
    ///
    /// When the stream is closed and everything was read, or when the reader was cancelled.
    #[inline]
    pub fn read(&mut self) -> Result<ReadResult<RawEnvelope<'_>>, ReadError> {
        Ok(self.state.note(self.ring.read()?))
    }

    /// As [`read`](Self::read), for at most `timeout`.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read), and [`ReadError::TimedOut`].
    #[inline]
    pub fn read_timeout(&mut self, timeout: Duration) -> Result<ReadResult<RawEnvelope<'_>>, ReadError> {
        Ok(self.state.note(self.ring.read_timeout(timeout)?))
    }

    /// As [`read`](Self::read), until `deadline`. With one in the past it looks, and does not sleep.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read), and [`ReadError::TimedOut`].
    #[inline]
    pub fn read_deadline(&mut self, deadline: Instant) -> Result<ReadResult<RawEnvelope<'_>>, ReadError> {
        Ok(self.state.note(self.ring.read_deadline(deadline)?))
    }

    /// The next envelope, or what was lost before it; for any executor. The future can be dropped at any time:
    /// an event that it has not returned is still the next one.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read).
    pub async fn read_async(&mut self) -> Result<ReadResult<RawEnvelope<'_>>, ReadError> {
        Ok(self.state.note(self.ring.read_async().await?))
    }

    /// Hands up to `max` envelopes (at least 1) to `each`, one after the other, without waiting. Returns how
    /// many; fewer than `max` when there are no more, when a loss comes next, which the next read tells, or
    /// when a thousand in a row are of other categories, so that what was handed out waits no longer.
    ///
    /// # Errors
    ///
    /// Those of [`try_read`](Self::try_read), when there is not even one.
    pub fn try_read_batch(
        &mut self,
        max: usize,
        mut each: impl FnMut(RawEnvelope<'_>),
    ) -> Result<ReadResult<usize>, TryReadError> {
        let state = &mut self.state;
        let read = self.ring.try_read_batch(max, |event| {
            if let ReadResult::Envelope(envelope) = state.note(Read::Event(event)) {
                each(envelope);
            }
        })?;
        Ok(self.state.note_batch(read, self.ring.next_seq()))
    }

    /// As [`try_read_batch`](Self::try_read_batch), but waits for the first event.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read).
    pub fn read_batch(
        &mut self,
        max: usize,
        mut each: impl FnMut(RawEnvelope<'_>),
    ) -> Result<ReadResult<usize>, ReadError> {
        let state = &mut self.state;
        let read = self.ring.read_batch(max, |event| {
            if let ReadResult::Envelope(envelope) = state.note(Read::Event(event)) {
                each(envelope);
            }
        })?;
        Ok(self.state.note_batch(read, self.ring.next_seq()))
    }

    /// What ends this reader's waiting from another thread.
    pub fn canceller(&self) -> Canceller {
        self.ring.canceller()
    }

    /// The rest of the stream as a [`Stream`](futures_core::Stream) of envelopes with buffers of their own.
    #[cfg(feature = "futures")]
    pub fn into_envelopes(self) -> Envelopes {
        Envelopes { reader: self }
    }
}

/// What a reader reads into, for those that share one: see [`Reader::lend`].
#[cfg(feature = "serve")]
pub(crate) struct Buffer(crate::ring::lanes::Buffer);

#[cfg(feature = "serve")]
impl Handle {
    /// One for a reader of this stream.
    pub(crate) fn buffer(&self) -> Buffer {
        Buffer(self.ring.new_buffer())
    }

    /// One that starts now.
    pub(crate) fn probe(&self) -> Probe {
        let mut reader = self.ring.reader_from_now();
        reader.filter_by(|_| false);
        reader.swap_buffer(&mut Default::default());
        reader.leave_waiting();
        Probe(reader)
    }
}

/// Sees whether there is anything new: a reader that steps over everything, and that nobody else sees. It copies nothing, and never waits.
#[cfg(feature = "serve")]
pub(crate) struct Probe(ring::Reader<Laned>);

#[cfg(feature = "serve")]
impl Probe {
    /// Whether a reader finds something since the last call, if only the end.
    pub(crate) fn has_news(&mut self) -> bool {
        let before = self.0.next_seq();
        let is_closed = matches!(self.0.try_read(), Err(TryReadError::Closed));
        is_closed || self.0.next_seq() != before
    }
}

#[cfg(feature = "serve")]
impl Reader {
    /// Gives up its buffer and its place among those that a publisher wakes. From now on it reads only while it is lent a buffer, and does not
    /// wait.
    pub(crate) fn give_up_waiting(&mut self) {
        self.ring.swap_buffer(&mut Default::default());
        self.ring.leave_waiting();
    }

    /// Calls `read` with this reader while it has `buffer`, of the same stream.
    pub(crate) fn lend<R>(&mut self, buffer: &mut Buffer, read: impl FnOnce(&mut Self) -> R) -> R {
        self.ring.swap_buffer(&mut buffer.0);
        let result = read(self);
        self.ring.swap_buffer(&mut buffer.0);
        result
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.state.handle.forget(&self.state.vitals);
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("next_seq", &self.next_seq())
            .field("lag", &self.lag())
            .finish_non_exhaustive()
    }
}

/// An event as the stream carries it, with its seq, in the reader's buffer until the next read. Nothing of it
/// is parsed.
pub struct RawEnvelope<'a> {
    event: LanedEvent<'a>,
}

impl RawEnvelope<'_> {
    /// Its number.
    pub fn seq(&self) -> u64 {
        self.event.seq
    }

    /// The category. A name that is not [known](Category::KNOWN) is parsed for.
    pub fn category(&self) -> Category<'_> {
        category(self.category_index(), self.event_json())
    }

    /// The place of the category among the [known](Category::KNOWN) ones, or how many there are for any other name.
    pub(crate) fn category_index(&self) -> u8 {
        category_of(self.event.tag)
    }

    /// Whether this is the truncated form of an event that was too large, or whose reader came too late for the
    /// whole of it.
    pub fn truncated(&self) -> bool {
        is_truncated(&self.event)
    }

    /// The event as JSON.
    #[inline]
    pub fn event_json(&self) -> &[u8] {
        self.event.bytes()
    }

    /// The envelope as one line of JSON, without a line break at its end. It is put around the event in the
    /// reader's buffer.
    pub fn json(&mut self) -> &[u8] {
        const { assert!(super::config::ENVELOPE_BYTES + super::config::MAX_SEQ_DIGITS <= MARGIN) };
        let Range { start, end } = self.event.at;
        let head = Head::new(self.event.seq);
        let from = start - head.bytes().len();
        self.event.buffer[from..start].copy_from_slice(head.bytes());
        self.event.buffer[end] = b'}';
        &self.event.buffer[from..=end]
    }

    /// Appends the envelope as one line of JSON, without a line break at its end.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(Head::new(self.event.seq).bytes());
        out.extend_from_slice(self.event_json());
        out.push(b'}');
    }

    /// The event, parsed. It borrows from the buffer.
    ///
    /// # Errors
    ///
    /// None that is known: what the stream takes is an event of the schema.
    pub fn event(&self) -> Result<Event<'_>, serde_json::Error> {
        parse(self.event_json())
    }

    /// The event with its seq, parsed.
    ///
    /// # Errors
    ///
    /// As for [`event`](Self::event).
    pub fn envelope(&self) -> Result<Envelope<'_>, serde_json::Error> {
        Ok(Envelope { seq: self.seq(), event: self.event()? })
    }

    /// The same with a buffer of its own.
    pub fn to_owned(&self) -> OwnedEnvelope {
        let head = Head::new(self.event.seq);
        let mut json = Vec::with_capacity(head.bytes().len() + self.event.at.len() + 1);
        self.write_json(&mut json);
        OwnedEnvelope {
            seq: self.event.seq,
            tag: self.event.tag,
            truncated: self.truncated(),
            head: head.bytes().len(),
            json: json.into(),
        }
    }
}

impl fmt::Debug for RawEnvelope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawEnvelope")
            .field("seq", &self.seq())
            .field("truncated", &self.truncated())
            .field("event", &String::from_utf8_lossy(self.event_json()))
            .finish()
    }
}

/// An event as the stream carries it, with its seq, in a buffer of its own.
#[derive(Clone, PartialEq, Eq)]
pub struct OwnedEnvelope {
    seq: u64,
    tag: u16,
    truncated: bool,
    /// How many bytes of the envelope are in front of the event.
    head: usize,
    json: Box<[u8]>,
}

impl OwnedEnvelope {
    /// Its number.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The category. A name that is not [known](Category::KNOWN) is parsed for.
    pub fn category(&self) -> Category<'_> {
        category(category_of(self.tag), self.event_json())
    }

    /// See [`RawEnvelope::truncated`].
    pub fn truncated(&self) -> bool {
        self.truncated
    }

    /// The event as JSON.
    pub fn event_json(&self) -> &[u8] {
        &self.json[self.head..self.json.len() - 1]
    }

    /// The envelope as one line of JSON, without a line break at its end.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// The event, parsed. It borrows from the buffer.
    ///
    /// # Errors
    ///
    /// As for [`RawEnvelope::event`].
    pub fn event(&self) -> Result<Event<'_>, serde_json::Error> {
        parse(self.event_json())
    }
}

impl fmt::Debug for OwnedEnvelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnedEnvelope({})", String::from_utf8_lossy(&self.json))
    }
}

/// Checked once to be UTF-8, not string by string.
fn parse(json: &[u8]) -> Result<Event<'_>, serde_json::Error> {
    let text = str::from_utf8(json).map_err(serde::de::Error::custom)?;
    serde_json::from_str(text)
}

fn is_truncated(event: &LanedEvent<'_>) -> bool {
    event.short || event.tag & TRUNCATED != 0
}

/// The category with this index among the known ones; beyond them it is parsed for.
pub(crate) fn category(index: u8, event_json: &[u8]) -> Category<'_> {
    #[derive(serde::Deserialize)]
    struct Only<'a> {
        #[serde(borrow)]
        category: Category<'a>,
    }

    match Category::KNOWN.get(usize::from(index)) {
        Some(category) => category.clone(),
        None => serde_json::from_slice(event_json)
            .map_or_else(|_| Category::from(""), |Only { category }| category),
    }
}

/// What stands before an event in its envelope.
struct Head {
    bytes: [u8; MARGIN],
    len: usize,
}

impl Head {
    #[inline]
    fn new(seq: u64) -> Self {
        let mut head = Self { bytes: [0; MARGIN], len: 0 };
        let mut digits = itoa::Buffer::new();
        for part in [b"{\"seq\":", digits.format(seq).as_bytes(), b",\"event\":"] {
            head.bytes[head.len..head.len + part.len()].copy_from_slice(part);
            head.len += part.len();
        }
        head
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(feature = "futures")]
pub use envelopes::Envelopes;

#[cfg(feature = "futures")]
mod envelopes {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use super::{OwnedEnvelope, ReadResult, Reader};

    /// Envelopes with a buffer of their own, as a [`Stream`](futures_core::Stream) that ends when the event
    /// stream is closed or the reader cancelled. Made by [`Reader::into_envelopes`].
    #[derive(Debug)]
    pub struct Envelopes {
        pub(super) reader: Reader,
    }

    impl Envelopes {
        /// The reader again, after the last envelope that the stream gave.
        pub fn into_reader(self) -> Reader {
            self.reader
        }
    }

    impl futures_core::Stream for Envelopes {
        type Item = ReadResult<OwnedEnvelope>;

        fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            let Reader { ring, state } = &mut self.reader;
            ring.poll_read(cx).map(|read| {
                Some(match state.note(read.ok()?) {
                    ReadResult::Envelope(envelope) => ReadResult::Envelope(envelope.to_owned()),
                    ReadResult::Dropped { from, to } => ReadResult::Dropped { from, to },
                })
            })
        }
    }
}
