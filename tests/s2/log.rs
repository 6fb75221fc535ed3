//! Everything that is told as `tracing` events and spans, down to what HTTP/2 tells of its frames, searched for the token.

use std::collections::BTreeSet;
use std::fmt::{Debug, Write};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::server::TOKEN;

/// Listens while [`LISTENS`] is set, in every thread.
struct Log;

static LISTENS: AtomicBool = AtomicBool::new(false);
static HEARD: Mutex<Heard> = Mutex::new(Heard { targets: BTreeSet::new(), with_token: Vec::new() });

/// What was told.
#[derive(Clone, Debug)]
pub struct Heard {
    /// By whom.
    pub targets: BTreeSet<&'static str>,
    /// With the token in it.
    pub with_token: Vec<String>,
}

/// Listens while `told` runs, to other tests, too.
pub fn listen(told: impl FnOnce()) -> Heard {
    tracing::subscriber::set_global_default(Log).expect("one test listens, once");
    LISTENS.store(true, SeqCst);
    told();
    LISTENS.store(false, SeqCst);
    HEARD.lock().unwrap().clone()
}

impl Log {
    fn hear(&self, metadata: &Metadata<'static>, record: impl FnOnce(&mut Text)) {
        let mut text = Text(String::new());
        record(&mut text);
        let mut heard = HEARD.lock().unwrap();
        heard.targets.insert(metadata.target());
        // Also as bytes in decimal, as `Debug` has them.
        let bytes = format!("{:?}", TOKEN.as_bytes());
        if text.0.contains(TOKEN) || text.0.contains(bytes.trim_matches(['[', ']'])) {
            heard.with_token.push(format!("{}: {}", metadata.target(), text.0));
        }
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, "{field}={value:?} ").unwrap();
    }
}

impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        LISTENS.load(SeqCst)
    }

    fn register_callsite(&self, _: &'static Metadata<'static>) -> tracing::subscriber::Interest {
        tracing::subscriber::Interest::sometimes()
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.hear(span.metadata(), |text| span.record(text));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        let mut text = Text(String::new());
        values.record(&mut text);
        assert!(!text.0.contains(TOKEN), "{}", text.0);
    }

    fn event(&self, event: &Event<'_>) {
        self.hear(event.metadata(), |text| event.record(text));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
