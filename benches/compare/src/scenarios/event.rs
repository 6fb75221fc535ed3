//! The reference's event, from a publisher to the bytes, or to the event, in a reader's hands.

use std::sync::Arc;
use std::time::Instant;

use super::Scenario;
use crate::harness::{Against, Body, Contestant, Events, Goal, Group, Sample};
use crate::rivals::Kind;
use crate::rivals::event::{EndToEnd, Lapwing, TokioBytes, TokioEvents, Wanted};
use crate::rivals::go::Go;

/// The Go program sleeps between its turns: so many events make its caches and its collector warm.
const WARM: u64 = 5_000;

pub fn event(go: Option<&Go>) -> Scenario {
    let (bytes, parsed) = (go.map(Arc::clone), go.map(Arc::clone));
    Scenario {
        name: "event",
        about: "A console event of 157 bytes of JSON is published and read, in turn on one thread. `bytes`: the reader has the \
                envelope as JSON; `parsed`: it has the event. tokio and serde_json: serialized at once and sent as an \
                `Arc<[u8]>`, or sent as an `Arc` of the event and serialized where bytes are wanted. Go: marshalled \
                to know its size, read as it is, and marshalled again for the bytes.",
        groups: vec![Box::new(|| group(Wanted::Bytes, bytes)), Box::new(|| group(Wanted::Parsed, parsed))],
    }
}

fn in_turn(mut peer: impl EndToEnd + 'static, wanted: Wanted) -> Body {
    Box::new(move |events| {
        let start = Instant::now();
        for _ in 0..events {
            peer.once(wanted);
        }
        Sample::per_event(start.elapsed(), events)
    })
}

fn group(wanted: Wanted, go: Option<Go>) -> Group {
    let case = match wanted {
        Wanted::Bytes => "bytes",
        Wanted::Parsed => "parsed",
    };
    let mut contestants = vec![
        Contestant::new("lapwing shared", Kind::Ours, "", in_turn(Lapwing::shared(), wanted)),
        Contestant::new("lapwing exclusive", Kind::Ours, "", in_turn(Lapwing::exclusive(), wanted)),
        Contestant::new("tokio + serde_json", Kind::Rival, "", in_turn(TokioBytes::new(), wanted)),
        Contestant::new("tokio, Arc<Envelope>", Kind::Rival, "", in_turn(TokioEvents::new(), wanted)),
    ];
    if let Some(go) = go {
        let body: Body = Box::new(move |events| {
            let answer = go.lock().expect("nobody panicked").ask(case, events.max(WARM));
            Sample { ns: answer[0], lost: (0, 0), latencies: None }
        });
        contestants.push(Contestant::new("Go program", Kind::Rival, "", body));
    }
    let goal = |against, name, limit| {
        Goal::new(format!("event, {case} / {name}"), "", Against::Named(against), limit)
    };
    Group {
        scenario: "event",
        case: String::from(case),
        x: None,
        what: "ns/event",
        events: Events::Turns(1),
        contestants,
        goals: vec![
            goal("Go program", "the Go program", 0.05),
            goal("tokio + serde_json", "tokio + serde_json", 0.5),
        ],
    }
}
