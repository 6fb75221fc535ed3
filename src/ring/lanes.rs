//! A ring with two lanes: a small event lies in its slot, a larger one in chunks beside the slots.
//!
//! The chunks are the slots of a second ring, in the same protocol, whose numbers only the slots of the first one
//! know. An event that takes several of them gets a run of consecutive numbers by one claim and is written there
//! first. Its slot then holds the run, and a short form of the event for whoever comes too late for the run. Each
//! chunk is validated by its own stamp, and no chunk number is given twice: a run is whole, or it is not there.
//!
//! A publisher that meets a chunk in writing, or a newer one, gives its run up; the event is published in its short
//! form alone. No chunk has to be marked for that: nobody looks for a chunk whose run is in no slot.
//!
//! Beside each slot lies a row of counters, which only the publisher that holds the slot writes: claim:A and commit:R
//! order them as they order the slot's words, so that counting takes no locked instruction.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use core::sync::atomic::Ordering::Relaxed;

use super::error::{BatchError, ConfigError, PublishError};
use super::handle::Handle;
use super::publish::{Config, Exclusive, RingOf};
use super::sealed::Sealed;
use super::slots::{Claimed, Slots, Step, Written, words};
use super::{Payload, copy};
use crate::sync::{AtomicU64, CHUNK_WORDS, IS_MODEL};

/// Bytes of an event that one chunk holds.
pub const CHUNK_BYTES: usize = CHUNK_WORDS * 8;
/// Words of a chunk in front of its payload, which so begins on a cache line: the stamp, and nothing.
const CHUNK_HEAD: usize = if IS_MODEL { 1 } else { 8 };
/// Room that a reader's buffer has before and after an event, for what the event is wrapped in.
pub const MARGIN: usize = 40;

/// Slots of bytes, whose larger events lie in chunks.
#[derive(Debug)]
pub enum Laned {}

impl Sealed for Laned {
    const STRIDE: Option<usize> = None;
}

enum Chunk {}

impl Sealed for Chunk {
    const STRIDE: Option<usize> = Some(CHUNK_HEAD + CHUNK_WORDS);
}

/// Consecutive chunks that hold one event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run {
    first: u64,
    len: usize,
}

/// What goes into a slot.
#[derive(Clone, Copy, Debug)]
pub struct Form<'a> {
    /// The lowest four bits are the class by which it is counted.
    pub tag: u16,
    /// Where the whole event lies, if it does not lie here.
    pub run: Option<Run>,
    /// The event, or its short form.
    pub bytes: &'a [u8],
    /// Whether the event has lost something for good. Only counted.
    pub truncated: bool,
}

/// An event in the reader's buffer, until its next read.
pub struct LanedEvent<'a> {
    /// Its sequence number; the first is 1.
    pub seq: u64,
    /// The publisher's tag.
    pub tag: u16,
    /// Whether this is the short form of an event whose chunks were overwritten.
    pub short: bool,
    /// Where in the buffer it lies: with [`MARGIN`] bytes before and behind it.
    pub at: Range<usize>,
    /// The buffer.
    pub buffer: &'a mut [u8],
}

impl LanedEvent<'_> {
    /// The event.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.at.clone()]
    }
}

impl fmt::Debug for LanedEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LanedEvent")
            .field("seq", &self.seq)
            .field("tag", &self.tag)
            .field("short", &self.short)
            .field("len", &self.at.len())
            .finish()
    }
}

/// An event with a buffer of its own.
#[derive(Debug)]
pub struct OwnedLanedEvent {
    /// Its sequence number.
    pub seq: u64,
    /// The publisher's tag.
    pub tag: u16,
    /// Whether this is a short form.
    pub short: bool,
    /// The event, and nothing around it.
    pub bytes: Box<[u8]>,
}

/// What a reader knows of an event that it has copied.
#[derive(Clone, Copy)]
pub struct Meta {
    tag: u16,
    /// Of what is in the buffer for it.
    len: usize,
    place: Place,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Slot,
    /// Its short form was copied, the run not yet.
    Run(Run),
    Chunks,
    Short,
}

/// Room for an event in its slot, and for one from chunks: a run that turns out to be overwritten must not have
/// overwritten the short form.
#[cfg_attr(feature = "serve", derive(Default))]
pub struct Buffer {
    small: Box<[u8]>,
    large: Box<[u8]>,
}

/// The header word of a slot: the length above the tag, and this bit.
const LARGE: u64 = 1 << 63;
const TAG_BITS: u32 = 16;
/// Words of a slot before its payload: stamp, header, and the run's first number and length.
const SLOT_HEAD: usize = 4;

impl Laned {
    fn stride(slot_bytes: usize) -> usize {
        (SLOT_HEAD + slot_bytes.div_ceil(8)).next_multiple_of(if IS_MODEL { 1 } else { 8 })
    }

    #[inline(always)]
    fn store(lane: &Lane, Claimed { slot, words, ahead, .. }: Claimed<'_>, form: &Form<'_>) {
        let [header, first, len, payload @ ..] = words else { return };
        let mut large = 0;
        if let Some(run) = form.run {
            large = LARGE;
            first.store(run.first, Relaxed);
            len.store(run.len as u64, Relaxed);
        }
        header.store(large | (form.bytes.len() as u64) << TAG_BITS | u64::from(form.tag), Relaxed);
        copy::store(payload, form.bytes, ahead);
        lane.count(slot, form);
    }
}

impl Payload for Laned {
    type Event<'a> = LanedEvent<'a>;
    type Owned = OwnedLanedEvent;
    type Lane = Lane;
    type Buffer = Buffer;
    type Meta = Meta;

    fn buffer(slot_bytes: usize, lane: &Lane) -> Buffer {
        let room = |bytes: usize| vec![0; bytes + 2 * MARGIN].into();
        Buffer {
            small: room(slot_bytes.next_multiple_of(copy::BLOCK)),
            large: if lane.max_bytes == 0 { Box::default() } else { room(lane.max_bytes) },
        }
    }

    #[inline(always)]
    fn tag(words: &[AtomicU64]) -> u16 {
        words[0].load(Relaxed) as u16
    }

    #[inline(always)]
    fn load(words: &[AtomicU64], ahead: usize, buffer: &mut Buffer) -> Meta {
        let [header, first, run_len, payload @ ..] = words else {
            return Meta { tag: 0, len: 0, place: Place::Slot };
        };
        let header = header.load(Relaxed);
        // The length may be anything while the slot is being written.
        let room = buffer.small.len() - 2 * MARGIN;
        let len = ((header & !LARGE) >> TAG_BITS).min(room as u64) as usize;
        // Whole blocks are the fastest. What lies behind the event is some earlier one's, and nobody's.
        let blocks = len.next_multiple_of(copy::BLOCK);
        copy::load(payload, &mut buffer.small[MARGIN..MARGIN + blocks], ahead);
        let place = if header & LARGE == 0 {
            Place::Slot
        } else {
            Place::Run(Run { first: first.load(Relaxed), len: run_len.load(Relaxed) as usize })
        };
        Meta { tag: header as u16, len, place }
    }

    #[inline(always)]
    fn settle(lane: &Lane, meta: Meta, buffer: &mut Buffer) -> Meta {
        match meta.place {
            Place::Run(run) => {
                if lane.read(run, &mut buffer.large) {
                    Meta { len: run.len, place: Place::Chunks, ..meta }
                } else {
                    Meta { place: Place::Short, ..meta }
                }
            }
            _ => meta,
        }
    }

    #[inline(always)]
    fn event(seq: u64, Meta { tag, len, place }: Meta, buffer: &mut Buffer) -> LanedEvent<'_> {
        let buffer = if place == Place::Chunks { &mut buffer.large } else { &mut buffer.small };
        LanedEvent { seq, tag, short: place == Place::Short, at: MARGIN..MARGIN + len, buffer }
    }

    fn owned(event: LanedEvent<'_>) -> OwnedLanedEvent {
        let LanedEvent { seq, tag, short, .. } = event;
        OwnedLanedEvent { seq, tag, short, bytes: event.bytes().into() }
    }
}

/// What lies beside the slots.
pub struct Lane {
    /// None if there is no memory for large events.
    chunks: Option<Slots<Chunk>>,
    /// The largest event that it takes, in bytes.
    max_bytes: usize,
    /// A row of [`ROW`] counters for each slot.
    rows: Vec<AtomicU64>,
}

/// Counters of a slot: two cache lines, of which the first has all that common events need.
const ROW: usize = 16;
const BYTES: usize = 0;
const LARGEST: usize = 1;
const CLASSES: usize = 2;
const TRUNCATED: usize = 15;
/// How many classes are counted.
pub const CLASS_COUNT: usize = TRUNCATED - CLASSES;

/// What was written to the slots of a ring so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events by class.
    pub events: [u64; CLASS_COUNT],
    /// Their bytes, in their whole length.
    pub bytes: u64,
    /// The bytes of the largest one.
    pub largest: u64,
    /// How many were truncated for good.
    pub truncated: u64,
}

impl Lane {
    fn new(capacity: u64, chunks: u64, max_bytes: usize) -> Result<Self, ConfigError> {
        let stride = CHUNK_HEAD + CHUNK_WORDS;
        let chunks = if chunks == 0 { None } else { Some(Slots::new(chunks, stride, 1)?) };
        let room = chunks.as_ref().map_or(0, |chunks| chunks.capacity() as usize * CHUNK_BYTES);
        Ok(Self { chunks, max_bytes: max_bytes.min(room), rows: words(capacity as usize * ROW)? })
    }

    /// For the only publisher that holds `slot`.
    #[inline(always)]
    fn count(&self, slot: u64, form: &Form<'_>) {
        let at = slot as usize * ROW;
        let Some(row) = self.rows.get(at..at + ROW) else { return };
        let add = |counter: usize, n: u64| row[counter].store(row[counter].load(Relaxed) + n, Relaxed);
        let len = form.run.map_or(form.bytes.len(), |run| run.len) as u64;
        add(BYTES, len);
        if len > row[LARGEST].load(Relaxed) {
            row[LARGEST].store(len, Relaxed);
        }
        add(CLASSES + usize::from(form.tag & 15).min(CLASS_COUNT - 1), 1);
        if form.truncated {
            add(TRUNCATED, 1);
        }
    }

    fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for row in self.rows.chunks_exact(ROW) {
            let of = |counter: usize| row[counter].load(Relaxed);
            tally.bytes += of(BYTES);
            tally.largest = tally.largest.max(of(LARGEST));
            tally.truncated += of(TRUNCATED);
            for (class, events) in tally.events.iter_mut().enumerate() {
                *events += of(CLASSES + class);
            }
        }
        tally
    }

    /// Writes `parts`, one after the other, as one event. None if they are too large, or if the run was given up.
    fn write(&self, parts: [&[u8]; 3], step: &mut impl FnMut(Step, u64)) -> Option<Run> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let chunks = self.chunks.as_ref().filter(|_| len <= self.max_bytes && len != 0)?;
        let n = len.div_ceil(CHUNK_BYTES) as u64;
        let first = chunks.claim(n)?;
        let mut parts = Parts(parts);
        let mut slot = chunks.slot_of(first);
        for seq in first..first + n {
            let fill = |Claimed { words, ahead, .. }: Claimed<'_>| {
                let payload = words.get(CHUNK_HEAD - 1..).unwrap_or(words);
                parts.next(CHUNK_BYTES, |bytes| copy::store(payload, bytes, ahead));
            };
            if chunks.write(seq, slot, fill, step) != Written::Committed {
                return None;
            }
            slot = chunks.view().after(slot);
        }
        Some(Run { first, len })
    }

    /// Copies the event of a run behind the margin of `buffer`. False if a part of it is overwritten, or if it
    /// has no room.
    #[inline(never)]
    fn read(&self, run: Run, buffer: &mut [u8]) -> bool {
        let room = MARGIN..MARGIN.saturating_add(run.len);
        let (Some(chunks), Some(out)) = (&self.chunks, buffer.get_mut(room)) else { return false };
        let view = chunks.view();
        let mut slot = chunks.slot_of(run.first);
        for (seq, piece) in (run.first..).zip(out.chunks_mut(CHUNK_BYTES)) {
            let copy = |words: &[AtomicU64], ahead: usize| {
                copy::load(words.get(CHUNK_HEAD - 1..).unwrap_or(words), piece, ahead);
            };
            if view.read(seq, slot, copy).is_err() {
                return false;
            }
            slot = view.after(slot);
        }
        true
    }
}

/// Bytes in three pieces, taken off a chunk at a time.
struct Parts<'a>([&'a [u8]; 3]);

impl Parts<'_> {
    /// Hands the next `n` bytes, or what is left, to `each`. Where they lie in one piece, from there.
    fn next(&mut self, n: usize, each: impl FnOnce(&[u8])) {
        if let Some(part) = self.0.iter_mut().find(|part| !part.is_empty())
            && part.len() >= n
        {
            let (bytes, rest) = part.split_at(n);
            *part = rest;
            return each(bytes);
        }
        let mut joined = [0; CHUNK_BYTES];
        let mut len = 0;
        for part in &mut self.0 {
            let (bytes, rest) = part.split_at(part.len().min(n - len));
            joined[len..len + bytes.len()].copy_from_slice(bytes);
            len += bytes.len();
            *part = rest;
        }
        each(&joined[..len]);
    }
}

/// A ring with two lanes: events of up to `slot_bytes` bytes lie in their slots, those of up to `max_bytes` in
/// `chunks` chunks of [`CHUNK_BYTES`] each, as far as that suffices.
///
/// # Errors
///
/// As for [`Config::bytes`].
pub fn ring(
    config: Config,
    slot_bytes: usize,
    chunks: u64,
    max_bytes: usize,
) -> Result<RingOf<Laned>, ConfigError> {
    Config::check_slot_bytes(slot_bytes)?;
    let capacity = config.capacity;
    // The slots are made first: they know what a capacity can be.
    RingOf::make(config, Laned::stride(slot_bytes), slot_bytes, || Lane::new(capacity, chunks, max_bytes))
}

/// The most chunks that a ring can have.
pub const fn max_chunks() -> u64 {
    Slots::<Chunk>::max_capacity(CHUNK_HEAD + CHUNK_WORDS)
}

/// The bytes of memory that such a ring takes.
///
/// # Errors
///
/// When the capacity, the slot size, the first seq or the number of chunks is out of range.
pub fn memory(config: &Config, slot_bytes: usize, chunks: u64) -> Result<usize, ConfigError> {
    Config::check_slot_bytes(slot_bytes)?;
    let slots = Slots::<Laned>::len(config.capacity, Laned::stride(slot_bytes), config.first_seq)?;
    let rows = (config.capacity as usize).saturating_mul(ROW);
    let chunks = if chunks == 0 { 0 } else { Slots::<Chunk>::len(chunks, CHUNK_HEAD + CHUNK_WORDS, 1)? };
    Ok(slots.saturating_add(rows).saturating_add(chunks).saturating_mul(size_of::<AtomicU64>()))
}

#[doc(hidden)]
impl Handle<Laned> {
    /// Writes an event of three parts to chunks. None if it is too large for them, or if the run was given up
    /// because of a publisher that was stopped in it.
    pub fn write_run(&self, parts: [&[u8]; 3]) -> Option<Run> {
        self.write_run_stepped(parts, |_, _| ())
    }

    /// The same, with a call at every [`Step`] of every chunk.
    pub fn write_run_stepped(&self, parts: [&[u8]; 3], mut step: impl FnMut(Step, u64)) -> Option<Run> {
        self.shared.lane.write(parts, &mut step)
    }

    /// The largest event that chunks take, in bytes; 0 if there are none.
    pub fn max_run_bytes(&self) -> usize {
        self.shared.lane.max_bytes
    }

    /// What was written so far. Costs a look at every slot.
    pub fn tally(&self) -> Tally {
        self.shared.lane.tally()
    }

    /// The bytes of memory of slots, chunks and counters.
    pub fn laned_memory(&self) -> usize {
        let lane = &self.shared.lane;
        self.memory() + lane.chunks.as_ref().map_or(0, Slots::memory) + size_of_val(&*lane.rows)
    }
}

#[doc(hidden)]
impl RingOf<Laned> {
    /// Publishes an event in the form that `form` gives for its seq, and returns that. The form's bytes must
    /// not be more than a slot holds.
    ///
    /// # Errors
    ///
    /// When the ring is closed, or when every slot that may be tried is held by a stalled publisher.
    #[inline(always)]
    pub fn publish<'b>(&self, form: impl Fn(u64) -> Form<'b>) -> Result<u64, PublishError> {
        self.publish_stepped(form, |_, _| ())
    }

    /// The same, with a call at every [`Step`].
    #[inline(always)]
    pub fn publish_stepped<'b>(
        &self,
        form: impl Fn(u64) -> Form<'b>,
        step: impl FnMut(Step, u64),
    ) -> Result<u64, PublishError> {
        let shared = &*self.shared;
        shared.publish(
            |claimed| {
                let form = form(claimed.seq);
                Laned::store(&shared.lane, claimed, &form);
            },
            step,
        )
    }

    /// Publishes `n` events, in the form that `form` gives for an index and its seq. See
    /// [`publish_batch`](super::Ring::publish_batch).
    ///
    /// # Errors
    ///
    /// As for [`publish`](Self::publish), with the number of events that are published.
    pub fn publish_batch<'b>(
        &self,
        n: usize,
        form: impl Fn(usize, u64) -> Form<'b>,
    ) -> Result<Range<u64>, BatchError> {
        let shared = &*self.shared;
        shared
            .publish_batch(n, |at, claimed| {
                let form = form(at, claimed.seq);
                Laned::store(&shared.lane, claimed, &form);
            })
            .map_err(|(published, error)| BatchError { published, index: published, error })
    }
}

#[doc(hidden)]
impl Exclusive<Laned> {
    /// As for many publishers, without a locked instruction.
    ///
    /// # Errors
    ///
    /// When the ring is closed.
    #[inline(always)]
    pub fn publish<'b>(&mut self, form: impl Fn(u64) -> Form<'b>) -> Result<u64, PublishError> {
        self.write(1, |lane, _, claimed| {
            let form = form(claimed.seq);
            Laned::store(lane, claimed, &form);
        })
        .map(|seqs| seqs.start)
    }

    /// As for many publishers; all of them, or none.
    ///
    /// # Errors
    ///
    /// When the ring is closed.
    pub fn publish_batch<'b>(
        &mut self,
        n: usize,
        form: impl Fn(usize, u64) -> Form<'b>,
    ) -> Result<Range<u64>, BatchError> {
        self.write_batch(n, |lane, at, claimed| {
            let form = form(at, claimed.seq);
            Laned::store(lane, claimed, &form);
        })
    }
}

/// The models read this ring by itself; the stream sets its filter by categories.
#[cfg(any(loom, shuttle))]
impl super::Reader<Laned> {
    /// See [`set_filter`](super::Reader::set_filter) of a ring of bytes.
    pub fn set_filter(&mut self, wanted: impl FnMut(u16) -> bool) {
        self.filter_by(wanted);
    }
}
