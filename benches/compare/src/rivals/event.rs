//! The reference's event, end to end: lapwing's stream, and tokio's broadcast with serde_json.

use std::hint::black_box;
use std::sync::Arc;

use lapwing::event::{Category, Envelope, Event, Source, SourceKind};
use lapwing::stream::{Config, EventStream, Exclusive, ReadResult, Reader};
use tokio::sync::broadcast;

const CAPACITY: usize = 1024;

/// A console event, as a publisher has it: 157 bytes of JSON.
pub fn event() -> Event<'static> {
    let source = Source::new(SourceKind::Cdp).event("Runtime.consoleAPICalled");
    let event = Event::new("console_log", Category::Console, source).ts(1_795_346_234_966_162);
    event.data_json(r#"{"message":"hello","level":"log"}"#).expect("it is JSON")
}

/// What the reader has in the end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The envelope as bytes of JSON.
    Bytes,
    /// The event, parsed.
    Parsed,
}

/// Publishes an event, and reads it.
pub trait EndToEnd {
    fn once(&mut self, wanted: Wanted);
}

pub struct Lapwing<P> {
    publisher: P,
    reader: Reader,
    event: Event<'static>,
}

fn stream() -> EventStream {
    let config = Config::new().events(CAPACITY as u64).inline_bytes(512).large_bytes(1 << 20);
    config.build().expect("a valid configuration")
}

impl Lapwing<EventStream> {
    pub fn shared() -> Self {
        let publisher = stream();
        Self { reader: publisher.reader_from_now(), publisher, event: event() }
    }
}

impl Lapwing<Exclusive> {
    pub fn exclusive() -> Self {
        let publisher = stream().into_exclusive();
        Self { reader: publisher.reader_from_now(), publisher, event: event() }
    }
}

fn read(reader: &mut Reader, wanted: Wanted) {
    match reader.try_read().expect("it was published") {
        ReadResult::Envelope(mut envelope) => match wanted {
            Wanted::Bytes => _ = black_box(envelope.json()),
            Wanted::Parsed => _ = black_box(envelope.event().expect("it is an event")),
        },
        ReadResult::Dropped { from, to } => panic!("the reader was left behind: {from} to {to}"),
    }
}

impl EndToEnd for Lapwing<EventStream> {
    #[inline(always)]
    fn once(&mut self, wanted: Wanted) {
        self.publisher.publish(black_box(&self.event)).expect("an open stream takes it");
        read(&mut self.reader, wanted);
    }
}

impl EndToEnd for Lapwing<Exclusive> {
    #[inline(always)]
    fn once(&mut self, wanted: Wanted) {
        self.publisher.publish(black_box(&self.event)).expect("an open stream takes it");
        read(&mut self.reader, wanted);
    }
}

/// The envelope serialized by serde_json when it is published, and broadcast as an `Arc<[u8]>`.
pub struct TokioBytes {
    sender: broadcast::Sender<Arc<[u8]>>,
    receiver: broadcast::Receiver<Arc<[u8]>>,
    envelope: Envelope<'static>,
}

impl TokioBytes {
    pub fn new() -> Self {
        let (sender, receiver) = broadcast::channel(CAPACITY);
        Self { sender, receiver, envelope: Envelope { seq: 0, event: event() } }
    }
}

impl EndToEnd for TokioBytes {
    #[inline(always)]
    fn once(&mut self, wanted: Wanted) {
        self.envelope.seq += 1;
        let json = serde_json::to_vec(black_box(&self.envelope)).expect("it can be written");
        self.sender.send(json.into()).expect("a receiver is there");
        let json = self.receiver.try_recv().expect("it was sent");
        match wanted {
            Wanted::Bytes => _ = black_box(&json),
            Wanted::Parsed => {
                let envelope: Envelope<'_> = serde_json::from_slice(&json).expect("it is an envelope");
                black_box(envelope);
            }
        }
    }
}

/// The envelope broadcast as an `Arc<Envelope>`, and serialized by the reader where he wants bytes: no JSON at all
/// for one who wants it parsed.
pub struct TokioEvents {
    sender: broadcast::Sender<Arc<Envelope<'static>>>,
    receiver: broadcast::Receiver<Arc<Envelope<'static>>>,
    event: Event<'static>,
    seq: u64,
}

impl TokioEvents {
    pub fn new() -> Self {
        let (sender, receiver) = broadcast::channel(CAPACITY);
        Self { sender, receiver, event: event(), seq: 0 }
    }
}

impl EndToEnd for TokioEvents {
    #[inline(always)]
    fn once(&mut self, wanted: Wanted) {
        self.seq += 1;
        let envelope = Envelope { seq: self.seq, event: black_box(&self.event).clone() };
        self.sender.send(Arc::new(envelope)).expect("a receiver is there");
        let envelope = self.receiver.try_recv().expect("it was sent");
        match wanted {
            Wanted::Bytes => _ = black_box(serde_json::to_vec(&*envelope).expect("it can be written")),
            Wanted::Parsed => _ = black_box(envelope),
        }
    }
}
