//! Publishing: events into their slots, or into chunks and in truncated form into their slots.

use std::cell::Cell;
use std::fmt;
use std::ops::{Deref, Range};
use std::time::{SystemTime, UNIX_EPOCH};

use super::config::{Config, ENVELOPE_BYTES, MAX_SEQ_DIGITS};
use super::error::{BatchError, ConfigError, PublishError};
use super::handle::{Core, Handle, Limits};
use super::truncated;
use super::{TRUNCATED, tag};
use crate::event::validate::Ts;
use crate::event::write::{self, Written};
use crate::event::{Event, Fields, Valid, validate};
use crate::ring::lanes::{Form, Laned, Run};
use crate::ring::{self, RingOf};
use crate::truncate;

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publish {
    /// It is in the stream.
    Published {
        /// Its number.
        seq: u64,
        /// Whether it was too large, and is there in part only.
        truncated: bool,
    },
    /// Its category is not captured at the moment. It has no number.
    NotCaptured,
}

impl Publish {
    /// The number of the event, if it is in the stream.
    pub fn seq(&self) -> Option<u64> {
        match self {
            Self::Published { seq, .. } => Some(*seq),
            Self::NotCaptured => None,
        }
    }
}

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchPublished {
    /// The numbers of its events: as many as were captured, unless the slot of one was held by a stalled
    /// publisher and had to be stepped over. Empty if none was captured.
    pub seqs: Range<u64>,
    /// How many events are in the stream.
    pub published: usize,
    /// How many of those are there in part only.
    pub truncated: usize,
}

impl Config {
    /// The stream.
    ///
    /// # Errors
    ///
    /// When a number is out of range, or the allocator refuses the memory. The error says what was given and
    /// what is allowed.
    pub fn build(self) -> Result<EventStream, ConfigError> {
        let ring = self.make_ring()?;
        Ok(EventStream { handle: Handle::new(ring.handle(), &self), ring })
    }
}

/// The bus: events are serialized once and streamed to every reader.
///
/// ```
/// use lapwing::event::{Category, Event, Source, SourceKind};
/// use lapwing::stream::{EventStream, Publish, ReadResult};
///
/// let stream = EventStream::new()?;
/// let mut reader = stream.reader_from_oldest();
///
/// let event = Event::new("page_load", Category::Page, Source::new(SourceKind::Cdp)).ts(7).data_json(r#"{"ok":true}"#)?;
/// assert_eq!(stream.publish(&event)?, Publish::Published { seq: 1, truncated: false });
///
/// let ReadResult::Envelope(mut envelope) = reader.try_read()? else { panic!("nothing was lost") };
/// assert_eq!(envelope.event()?, event);
/// assert!(envelope.json().starts_with(br#"{"seq":1,"event":{"ts":7,"type":"page_load","#));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Any number of threads publish through `&EventStream`, or an `Arc` of it. It dereferences to a [`Handle`],
/// which makes readers and tells how things stand. Dropping it closes it.
pub struct EventStream {
    ring: RingOf<Laned>,
    handle: Handle,
}

impl EventStream {
    /// A stream as [`Config::new`] has it.
    ///
    /// # Errors
    ///
    /// When the allocator refuses the memory.
    pub fn new() -> Result<Self, ConfigError> {
        Config::new().build()
    }

    /// Publishes an event. A `ts` of 0 is filled in from the clock.
    ///
    /// The event is written as JSON once, into a buffer that the thread reuses, and copied to the stream. That
    /// takes a bounded number of steps, whatever other threads do, and no allocation once the buffer has its
    /// size.
    ///
    /// # Errors
    ///
    /// When the stream is closed, when every slot that may be tried is held by a stalled publisher, or when the
    /// event is too large even without its data. Nothing is published then.
    #[inline]
    pub fn publish(&self, event: &Event<'_>) -> Result<Publish, PublishError> {
        with_scratch(|scratch| publish(&self.handle.core, scratch, event, &mut &self.ring))
    }

    /// Publishes an event that is JSON already, as an agent receives it: checks it, once, and publishes the
    /// bytes as they are. Only line breaks between its tokens are left out, and a `ts` that is 0 or missing is
    /// filled in from the clock.
    ///
    /// ```
    /// use lapwing::stream::{EventStream, PublishError};
    ///
    /// let stream = EventStream::new()?;
    /// stream.publish_json(br#"{"ts":7,"type":"page_load","category":"page","source":{"kind":"cdp"}}"#)?;
    /// let error = stream.publish_json(br#"{"type":"page_load"}"#).unwrap_err();
    /// assert!(matches!(error, PublishError::Invalid(_)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`publish`](Self::publish), and when `json` is no event of the schema.
    #[inline]
    pub fn publish_json(&self, json: &[u8]) -> Result<Publish, PublishError> {
        publish_json(&self.handle.core, json, &mut &self.ring, |valid, to| {
            with_scratch(|scratch| publish_other_json(&self.handle.core, scratch, json, valid, to))
        })
    }

    /// Publishes the events of a batch that are captured, with one claim for all of them (or for each ring
    /// full). They keep their order.
    ///
    /// # Errors
    ///
    /// As for [`publish`](Self::publish). An event that is too large even without its data is found before
    /// anything is published; the other errors can come in the middle, and tell how many events are published.
    pub fn publish_batch(&self, events: &[Event<'_>]) -> Result<BatchPublished, BatchError> {
        with_scratch(|scratch| publish_batch(&self.handle.core, scratch, events, &mut &self.ring))
    }

    /// Ends the stream: nothing is published any more, readers get what is there and then are told. False when
    /// it was closed already.
    pub fn close(&self) -> bool {
        self.ring.close()
    }

    /// A handle for those who do not publish.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The same stream with one publisher only, which needs no locked instruction and has a buffer of its own.
    /// There is no other one, since this takes the stream by value.
    pub fn into_exclusive(self) -> Exclusive {
        Exclusive { ring: self.ring.into_exclusive(), handle: self.handle, scratch: Box::default() }
    }
}

impl Deref for EventStream {
    type Target = Handle;

    #[inline(always)]
    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EventStream").field(&self.handle).finish()
    }
}

/// The only publisher of a stream: publishing takes `&mut`, and no locked instruction.
///
/// ```
/// use lapwing::event::{Category, Event, Source, SourceKind};
/// use lapwing::stream::EventStream;
///
/// let mut publisher = EventStream::new()?.into_exclusive();
/// let mut reader = publisher.reader_from_now();
/// publisher.publish(&Event::new("tick", Category::System, Source::new(SourceKind::LocalProcess)))?;
/// assert_eq!(reader.try_read()?.envelope().unwrap().seq(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// It dereferences to a [`Handle`]. Dropping it closes the stream.
pub struct Exclusive {
    ring: ring::Exclusive<Laned>,
    handle: Handle,
    scratch: Box<Scratch>,
}

impl Exclusive {
    /// Publishes an event. See [`EventStream::publish`].
    ///
    /// # Errors
    ///
    /// When the stream is closed, or when the event is too large even without its data. Nothing is published then.
    #[inline]
    pub fn publish(&mut self, event: &Event<'_>) -> Result<Publish, PublishError> {
        publish(&self.handle.core, &mut self.scratch, event, &mut self.ring)
    }

    /// Publishes an event that is JSON already. See [`EventStream::publish_json`].
    ///
    /// # Errors
    ///
    /// As for [`publish`](Self::publish), and when `json` is no event of the schema.
    #[inline]
    pub fn publish_json(&mut self, json: &[u8]) -> Result<Publish, PublishError> {
        publish_json(&self.handle.core, json, &mut self.ring, |valid, to| {
            publish_other_json(&self.handle.core, &mut self.scratch, json, valid, to)
        })
    }

    /// Publishes the events of a batch that are captured: all of them, or none.
    ///
    /// # Errors
    ///
    /// As for [`publish`](Self::publish).
    pub fn publish_batch(&mut self, events: &[Event<'_>]) -> Result<BatchPublished, BatchError> {
        publish_batch(&self.handle.core, &mut self.scratch, events, &mut self.ring)
    }

    /// Ends the stream. See [`EventStream::close`].
    pub fn close(&mut self) -> bool {
        self.ring.close()
    }

    /// The stream for any number of publishers again.
    pub fn into_shared(self) -> EventStream {
        EventStream { ring: self.ring.into_shared(), handle: self.handle }
    }

    /// A handle for those who do not publish.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Deref for Exclusive {
    type Target = Handle;

    #[inline(always)]
    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl fmt::Debug for Exclusive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Exclusive").field(&self.handle).finish()
    }
}

// ---- What both kinds of publisher have in common.

/// What a publisher reuses from one event to the next.
#[derive(Default)]
struct Scratch {
    /// Events as JSON.
    json: Vec<u8>,
    forms: TruncatedForms,
    batch: Vec<Item>,
}

#[derive(Default)]
struct TruncatedForms {
    /// Those for the slots.
    short: Vec<u8>,
    /// One that is still too large for a slot.
    long: Vec<u8>,
    shape: truncate::Scratch,
}

/// Runs `f` with this thread's scratch. It is taken out meanwhile: a waker that publishes, too, finds none and
/// makes its own.
#[inline]
fn with_scratch<R>(f: impl FnOnce(&mut Scratch) -> R) -> R {
    thread_local! {
        static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
    }
    // A thread that is at its end has none any more.
    let mut scratch = SCRATCH.try_with(Cell::take).ok().flatten().unwrap_or_default();
    let result = f(&mut scratch);
    let _ = SCRATCH.try_with(|place| place.set(Some(scratch)));
    result
}

/// An event that is ready for its slot.
#[derive(Clone)]
struct Item {
    tag: u16,
    /// It lies there already.
    run: Option<Run>,
    /// The event among others, if it has no run.
    json: Range<usize>,
    /// Its truncated form among others; empty if it cannot come to that.
    short: Range<usize>,
    /// With a larger seq its envelope would be too large, and the truncated form takes its place.
    until: u64,
    /// Whether it is truncated in any case.
    truncated: bool,
}

impl Item {
    /// An event that fits its slot, and its envelope with any seq.
    fn small(tag: u16, json: Range<usize>) -> Self {
        Self { tag, run: None, json, short: 0..0, until: u64::MAX, truncated: false }
    }

    /// What goes into the slot of `seq`.
    #[inline(always)]
    fn form<'a>(&self, seq: u64, json: &'a [u8], short: &'a [u8]) -> Form<'a> {
        if self.run.is_none() && seq <= self.until {
            let bytes = &json[self.json.clone()];
            Form { tag: self.tag, run: None, bytes, truncated: self.truncated }
        } else {
            self.large_form(seq, short)
        }
    }

    #[cold]
    fn large_form<'a>(&self, seq: u64, short: &'a [u8]) -> Form<'a> {
        let bytes = &short[self.short.clone()];
        if seq <= self.until {
            Form { tag: self.tag, run: self.run, bytes, truncated: self.truncated }
        } else {
            Form { tag: self.tag | TRUNCATED, run: None, bytes, truncated: true }
        }
    }

    #[inline(always)]
    fn is_truncated(&self, seq: u64) -> bool {
        self.truncated || seq > self.until
    }
}

/// The ring, by either way to publish.
trait Publisher {
    fn ring(&self) -> &ring::Handle<Laned>;
    fn send<'b>(&mut self, form: impl Fn(u64) -> Form<'b>) -> Result<u64, ring::PublishError>;
    fn send_batch<'b>(
        &mut self,
        n: usize,
        form: impl Fn(usize, u64) -> Form<'b>,
    ) -> Result<Range<u64>, ring::BatchError>;
}

impl Publisher for &RingOf<Laned> {
    fn ring(&self) -> &ring::Handle<Laned> {
        self
    }

    #[inline(always)]
    fn send<'b>(&mut self, form: impl Fn(u64) -> Form<'b>) -> Result<u64, ring::PublishError> {
        self.publish(form)
    }

    fn send_batch<'b>(
        &mut self,
        n: usize,
        form: impl Fn(usize, u64) -> Form<'b>,
    ) -> Result<Range<u64>, ring::BatchError> {
        self.publish_batch(n, form)
    }
}

impl Publisher for ring::Exclusive<Laned> {
    fn ring(&self) -> &ring::Handle<Laned> {
        self
    }

    #[inline(always)]
    fn send<'b>(&mut self, form: impl Fn(u64) -> Form<'b>) -> Result<u64, ring::PublishError> {
        self.publish(form)
    }

    fn send_batch<'b>(
        &mut self,
        n: usize,
        form: impl Fn(usize, u64) -> Form<'b>,
    ) -> Result<Range<u64>, ring::BatchError> {
        self.publish_batch(n, form)
    }
}

#[inline(always)]
fn publish(
    core: &Core,
    scratch: &mut Scratch,
    event: &Event<'_>,
    to: &mut impl Publisher,
) -> Result<Publish, PublishError> {
    let category = event.category.index();
    if !core.captured().has(category) {
        return Ok(Publish::NotCaptured);
    }
    scratch.json.clear();
    let ts = ts(event);
    let written = write::write(event, ts, core.limits.inline_bytes, &mut scratch.json);
    let tag = tag(category, event.truncated);
    if core.limits.is_small(&written, scratch.json.len()) {
        return send_small(core, tag, &scratch.json, to);
    }
    publish_large(core, scratch, &Serialized { event, ts, tag, start: 0, written: &written }, to)
}

#[cold]
#[inline(never)]
fn publish_large(
    core: &Core,
    scratch: &mut Scratch,
    serialized: &Serialized<'_>,
    to: &mut impl Publisher,
) -> Result<Publish, PublishError> {
    scratch.forms.short.clear();
    let item = serialized.prepare(core, scratch, to.ring()).map_err(|error| core.refused(error))?;
    send(core, &item, &scratch.json, &scratch.forms.short, to)
}

/// Publishes an event that fits its slot, and its envelope with any seq.
#[inline(always)]
fn send_small(core: &Core, tag: u16, json: &[u8], to: &mut impl Publisher) -> Result<Publish, PublishError> {
    match to.send(|_| Form { tag, run: None, bytes: json, truncated: false }) {
        Ok(seq) => Ok(Publish::Published { seq, truncated: false }),
        Err(error) => Err(core.refused(error.into())),
    }
}

fn send(
    core: &Core,
    item: &Item,
    json: &[u8],
    short: &[u8],
    to: &mut impl Publisher,
) -> Result<Publish, PublishError> {
    match to.send(|seq| item.form(seq, json, short)) {
        Ok(seq) => Ok(Publish::Published { seq, truncated: item.is_truncated(seq) }),
        Err(error) => Err(core.refused(error.into())),
    }
}

fn publish_batch(
    core: &Core,
    scratch: &mut Scratch,
    events: &[Event<'_>],
    to: &mut impl Publisher,
) -> Result<BatchPublished, BatchError> {
    scratch.json.clear();
    scratch.forms.short.clear();
    scratch.batch.clear();
    let captured = core.captured();
    for (index, event) in events.iter().enumerate() {
        let category = event.category.index();
        if !captured.has(category) {
            continue;
        }
        let (ts, start) = (ts(event), scratch.json.len());
        let written = write::write(event, ts, core.limits.inline_bytes, &mut scratch.json);
        let tag = tag(category, event.truncated);
        let item = if core.limits.is_small(&written, scratch.json.len() - start) {
            Item::small(tag, start..scratch.json.len())
        } else {
            let serialized = Serialized { event, ts, tag, start, written: &written };
            serialized.prepare(core, scratch, to.ring()).map_err(|error| BatchError {
                published: 0,
                index,
                error: core.refused(error),
            })?
        };
        scratch.batch.push(item);
    }
    let Scratch { json, forms, batch } = scratch;
    let truncated = Cell::new(0);
    let seqs = to.send_batch(batch.len(), |at, seq| {
        let item = &batch[at];
        truncated.set(truncated.get() + usize::from(item.is_truncated(seq)));
        item.form(seq, json, &forms.short)
    });
    match seqs {
        Ok(seqs) => Ok(BatchPublished { seqs, published: batch.len(), truncated: truncated.get() }),
        Err(ring::BatchError { published, index, error }) => {
            // Among the captured ones it is the one at `index`.
            let index = events
                .iter()
                .enumerate()
                .filter(|(_, event)| captured.has(event.category.index()))
                .nth(index)
                .map_or(events.len(), |(at, _)| at);
            Err(BatchError { published, index, error: core.refused(error.into()) })
        }
    }
}

/// An event that was written to the end of the scratch, and is not small.
struct Serialized<'a> {
    event: &'a Event<'a>,
    ts: i64,
    tag: u16,
    /// Where it begins.
    start: usize,
    written: &'a Written,
}

impl Serialized<'_> {
    #[cold]
    #[inline(never)]
    fn prepare(
        &self,
        core: &Core,
        scratch: &mut Scratch,
        ring: &ring::Handle<Laned>,
    ) -> Result<Item, PublishError> {
        let Scratch { json, forms, .. } = scratch;
        let fields = self.written.fields(self.event, self.ts, json);
        let parts = match (self.written.hole, fields.data) {
            (Some(hole), Some(data)) => [&json[self.start..hole], data, &json[hole..]],
            _ => [&json[self.start..], &[], &[]],
        };
        let mut item = prepare_large(&core.limits, self.tag, parts, &fields, forms, ring)?;
        item.json = self.start..json.len();
        Ok(item)
    }
}

/// An event of three parts that does not simply fit its slot.
fn prepare_large(
    limits: &Limits,
    tag: u16,
    parts: [&[u8]; 3],
    fields: &Fields<'_>,
    forms: &mut TruncatedForms,
    ring: &ring::Handle<Laned>,
) -> Result<Item, PublishError> {
    let TruncatedForms { short, long, shape } = forms;
    let start = short.len();
    truncated::write(fields, limits.always_inline, shape, short)?;
    let mut item = Item { tag, run: None, json: 0..0, short: start..short.len(), until: 0, truncated: false };

    let len = parts.iter().map(|part| part.len()).sum();
    let room = limits.inline_bytes.max(ring.max_run_bytes());
    let until = limits.until(len);
    if len <= room && until > ring.newest() {
        item.until = until;
        if len > limits.inline_bytes {
            item.run = ring.write_run(parts);
        }
    } else if room.min(limits.always) > limits.always_inline {
        long.clear();
        truncated::write(fields, room.min(limits.always), shape, long)?;
        (item.tag, item.truncated, item.until) = (tag | TRUNCATED, true, u64::MAX);
        item.run = ring.write_run([long, &[], &[]]);
    } else {
        return Ok(item);
    }
    if item.run.is_none() && (item.truncated || len > limits.inline_bytes) {
        // The run was given up.
        item.until = 0;
    }
    Ok(item)
}

/// `other` publishes JSON that is large, or not yet as it has to be.
#[inline(always)]
fn publish_json<P: Publisher>(
    core: &Core,
    json: &[u8],
    to: &mut P,
    other: impl FnOnce(&Valid<'_>, &mut P) -> Result<Publish, PublishError>,
) -> Result<Publish, PublishError> {
    // Looked at where it lies: what is known of it is large.
    let checked = validate(json);
    let valid = match &checked {
        Ok(valid) => valid,
        Err(error) => return Err(core.refused(PublishError::Invalid(*error))),
    };
    if !core.captured().has(valid.category_index()) {
        return Ok(Publish::NotCaptured);
    }
    if json.len() <= core.limits.always_inline && valid.is_complete() {
        return send_small(core, tag(valid.category_index(), valid.truncated()), json, to);
    }
    other(valid, to)
}

/// JSON that is large, or not yet as it has to be.
#[cold]
#[inline(never)]
fn publish_other_json(
    core: &Core,
    scratch: &mut Scratch,
    json: &[u8],
    valid: &Valid<'_>,
    to: &mut impl Publisher,
) -> Result<Publish, PublishError> {
    let Scratch { json: ready, forms, .. } = scratch;
    ready.clear();
    forms.short.clear();
    let checked;
    let (json, valid) = if !valid.is_complete() {
        complete(json, valid, ready);
        checked = validate(ready).map_err(|error| core.refused(PublishError::Invalid(error)))?;
        (&ready[..], &checked)
    } else {
        (json, valid)
    };
    let tag = tag(valid.category_index(), valid.truncated());
    let mut item = if json.len() <= core.limits.always_inline {
        Item::small(tag, 0..0)
    } else {
        prepare_large(&core.limits, tag, [json, &[], &[]], &valid.fields(), forms, to.ring())
            .map_err(|error| core.refused(error))?
    };
    item.json = 0..json.len();
    send(core, &item, json, &forms.short, to)
}

/// What [`EventStream::publish_json`] makes of `json`, or `None` where that is `json` as it is.
#[cfg(feature = "serve")]
pub(crate) fn completed(json: &[u8]) -> Result<Option<Vec<u8>>, crate::event::InvalidEvent> {
    let valid = validate(json)?;
    Ok((!valid.is_complete()).then(|| {
        let mut ready = Vec::with_capacity(json.len() + MAX_SEQ_DIGITS + 6);
        complete(json, &valid, &mut ready);
        ready
    }))
}

/// The event on one line, and with a `ts`.
fn complete(json: &[u8], valid: &Valid<'_>, out: &mut Vec<u8>) {
    let (before, after) = match valid.ts() {
        Ts::Set(_) => (json, &[][..]),
        Ts::Zero { range } => (&json[..range.start], &json[range.end..]),
        Ts::Missing { insert_at } => json.split_at(*insert_at),
    };
    let mut append = |bytes: &[u8]| {
        out.extend(bytes.iter().filter(|byte| !matches!(byte, b'\n' | b'\r')));
    };
    append(before);
    if !matches!(valid.ts(), Ts::Set(_)) {
        let missing = matches!(valid.ts(), Ts::Missing { .. });
        append(if missing { b"\"ts\":" } else { b"" });
        append(itoa::Buffer::new().format(now()).as_bytes());
        append(if missing { b"," } else { b"" });
    }
    append(after);
}

/// That of the event, or the clock's.
#[inline(always)]
fn ts(event: &Event<'_>) -> i64 {
    if event.ts == 0 { now() } else { event.ts }
}

/// Microseconds since the Unix epoch; at least 1, since 0 stands for none.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX).max(1)
}

impl Limits {
    pub(super) fn new(inline_bytes: usize, max_envelope_bytes: usize) -> Self {
        let always = max_envelope_bytes - ENVELOPE_BYTES - MAX_SEQ_DIGITS;
        Self { inline_bytes, max_envelope_bytes, always, always_inline: inline_bytes.min(always) }
    }

    /// Whether what was written, `len` bytes, is an event that fits its slot, and its envelope with any seq.
    #[inline(always)]
    fn is_small(&self, written: &Written, len: usize) -> bool {
        written.hole.is_none() && len <= self.always_inline
    }

    /// The last seq with which the envelope of an event of `len` bytes is not too large; 0 if there is none.
    fn until(&self, len: usize) -> u64 {
        match self.max_envelope_bytes.saturating_sub(ENVELOPE_BYTES + len) {
            digits @ 0..MAX_SEQ_DIGITS => 10u64.pow(digits as u32) - 1,
            _ => u64::MAX,
        }
    }
}
