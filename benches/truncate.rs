//! What truncation costs, beside a bare scan of the same bytes and beside the naive way, in one run.
//!
//! `cargo bench --bench truncate` first gives criterion's figure for each contestant alone. Then comes a table, in which
//! each row is one input. The tail cut has a budget of 90 % and its GB/s are of the bytes that it must read, which is
//! the budget; the shape has a budget of 50 % and must read the whole. `memchr` looks for a byte that is not there: the
//! machine's own speed. The naive way parses to `serde_json::Value`, trims in one walk, and writes. The contestants take
//! turns, in many short rounds; a figure is the median of its rounds, and a ratio the median of the rounds' own ratios.
//! The tail cut is the finding of it: to cut in place costs no more than its closers. The shape is written to a buffer
//! that is reused.
//!
//! The real events come from `examples/telemetry.ndjson`, or from the recording that `LAPWING_TELEMETRY`
//! names: of those that `serde_json::Value` accepts, the one next in size.

mod harness;

use std::hint::black_box;
use std::time::{Duration, Instant};

use harness::{Limit, median, ratio, verdict};
use lapwing::truncate::{shape, tail};
use serde_json::Value;

/// The least GB/s of the tail cut and of the shape, and how many times as fast as the naive way the tail cut
/// is.
struct Goals {
    tail: f64,
    shape: f64,
    naive: f64,
}

struct Input {
    name: String,
    json: Vec<u8>,
    goals: Option<Goals>,
}

fn input(name: &str, json: Vec<u8>, tail: f64, shape: f64, naive: f64) -> Input {
    Input { name: name.into(), json, goals: Some(Goals { tail, shape, naive }) }
}

fn main() {
    let once = std::env::args().any(|arg| arg == "--test");
    let mut inputs = vec![
        input("base64 body, 256 KiB", base64(256 << 10), 60.0, 35.0, 80.0),
        input("escaped text, 256 KiB", escaped(256 << 10), 12.0, 13.0, 60.0),
        input("structure, 256 KiB", structure(256 << 10), 7.0, 2.5, 100.0),
    ];
    let events = recorded();
    for (size, tail, shape) in [(16 << 10, 10.0, 5.0), (256 << 10, 28.0, 25.0)] {
        let event = nearest(&events, size);
        inputs.push(input(&format!("real event, {} bytes", event.len()), event.to_vec(), tail, shape, 90.0));
    }
    let window: Vec<_> =
        events.iter().filter(|event| event.len() < 4096).take(400).map(Vec::as_slice).collect();
    let window = [b"[", window.join(&b","[..]).as_slice(), b"]"].concat();
    inputs.push(Input {
        name: format!("400 small real events, {} bytes", window.len()),
        json: window,
        goals: None,
    });
    inputs.push(Input { name: "base64 body, 1 KiB".into(), json: base64(1 << 10), goals: None });
    let small = nearest(&events, 1 << 10).to_vec();
    inputs.push(Input { name: format!("real event, {} bytes", small.len()), json: small, goals: None });

    let mut criterion = harness::criterion();
    let mut rows = vec![format!(
        "{:<34} {:>9} {:>9} {:>7} {:>7} | {:>9} {:>9} {:>7} {:>7} | {:>7}",
        "GB/s, ns, ratios", "tail", "ns", "memchr", "naive", "shape", "ns", "memchr", "naive", "memchr"
    )];
    let mut goals = Vec::new();
    for Input { name, json, goals: wanted } in &inputs {
        let (most, half) = (json.len() * 9 / 10, json.len() / 2);
        let mut out = Vec::with_capacity(half);
        let contestants: &mut [(&str, &mut dyn FnMut())] = &mut [
            ("tail", &mut || {
                black_box(
                    tail(black_box(json), most).expect("the budget is enough").expect("it is too long"),
                );
            }),
            ("shape", &mut || {
                out.clear();
                shape(black_box(json), half, &mut out)
                    .expect("the budget is enough")
                    .expect("it is too long");
                black_box(&out);
            }),
            ("memchr", &mut || assert_eq!(memchr::memchr(1, black_box(json)), None)),
            ("tail, the naive way", &mut || drop(black_box(naive(black_box(json), most)))),
            ("shape, the naive way", &mut || drop(black_box(naive(black_box(json), half)))),
        ];
        let mut group = criterion.benchmark_group(name);
        for (contestant, body) in contestants.iter_mut() {
            group.bench_function(*contestant, |bencher| bencher.iter(&mut *body));
        }
        group.finish();
        let times = measure(once, contestants);
        assert!(out.len() <= half, "{name}: {} bytes in a budget of {half}", out.len());
        let ns = |i: usize| median(&times[i]);
        let ratio = |over: usize, under: usize| ratio(&times[over], &times[under]);
        let speed = [most as f64 / ns(0), json.len() as f64 / ns(1), json.len() as f64 / ns(2)];
        rows.push(format!(
            "{name:<34} {:>9.2} {:>9.0} {:>7.2} {:>7.0} | {:>9.2} {:>9.0} {:>7.2} {:>7.0} | {:>7.1}",
            speed[0],
            ns(0),
            // Per byte: the tail cut reads nine tenths.
            0.9 * ratio(2, 0),
            ratio(3, 0),
            speed[1],
            ns(1),
            ratio(2, 1),
            ratio(4, 1),
            speed[2],
        ));
        let mut goal = |what: &str, figure: f64, limit: Limit| {
            goals.push(verdict(&format!("{name}: {what}"), figure, limit, 1));
        };
        if let Some(wanted) = wanted {
            goal("tail cut, GB/s", speed[0], Limit::AtLeast(wanted.tail));
            goal("shape, GB/s", speed[1], Limit::AtLeast(wanted.shape));
            goal("tail cut, times as fast as the naive way", ratio(3, 0), Limit::AtLeast(wanted.naive));
        } else if name.starts_with("base64") {
            goal("tail cut, ns", ns(0), Limit::AtMost(40.0));
            goal("shape, ns", ns(1), Limit::AtMost(150.0));
        }
    }
    criterion.final_summary();
    println!();
    rows.iter().for_each(|row| println!("{row}"));
    println!();
    goals.iter().for_each(|goal| println!("{goal}"));
}

/// Nanoseconds per call, of each contestant in each round.
fn measure(once: bool, contestants: &mut [(&str, &mut dyn FnMut())]) -> Vec<Vec<f64>> {
    let time = |contestant: &mut dyn FnMut(), calls: u32| {
        let start = Instant::now();
        (0..calls).for_each(|_| contestant());
        start.elapsed().as_nanos() as f64 / f64::from(calls)
    };
    if once {
        return contestants.iter_mut().map(|(_, contestant)| vec![time(*contestant, 1)]).collect();
    }
    let calls: Vec<u32> = contestants
        .iter_mut()
        .map(|(_, contestant)| {
            time(*contestant, 1);
            (Duration::from_millis(2).as_nanos() as f64 / time(*contestant, 3)).clamp(1.0, 1e6) as u32
        })
        .collect();
    let mut times = vec![Vec::new(); contestants.len()];
    for _ in 0..40 {
        for (at, (_, contestant)) in contestants.iter_mut().enumerate() {
            times[at].push(time(*contestant, calls[at]));
        }
    }
    times
}

/// Parse, trim, write.
fn naive(json: &[u8], max: usize) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(json).expect("valid");
    let mut room = max;
    trim(&mut value, &mut room);
    serde_json::to_vec(&value).expect("a value can be written")
}

/// Keeps of `value` what fits into `room`, and takes that off.
fn trim(value: &mut Value, room: &mut usize) -> bool {
    let cost = match value {
        Value::Null | Value::Bool(true) => 4,
        Value::Bool(false) => 5,
        Value::Number(number) => number.to_string().len(),
        Value::String(text) => {
            let cost = |c: char| match c {
                '"' | '\\' | '\n' | '\r' | '\t' => 2,
                c if c < ' ' => 6,
                c => c.len_utf8(),
            };
            let mut used = 2;
            let end = text.char_indices().find(|(_, c)| {
                used += cost(*c);
                used > *room
            });
            let end = end.map_or(text.len(), |(at, _)| at);
            text.truncate(end);
            used.min(*room)
        }
        Value::Array(elements) => {
            *room = room.saturating_sub(2);
            let kept = elements.iter_mut().position(|element| {
                *room = room.saturating_sub(1);
                *room <= 2 || !trim(element, room)
            });
            let kept = kept.unwrap_or(elements.len());
            elements.truncate(kept);
            0
        }
        Value::Object(members) => {
            *room = room.saturating_sub(2);
            members.retain(|key, value| {
                let fits = *room > key.len() + 8;
                if fits {
                    *room -= key.len() + 4;
                }
                fits && trim(value, room)
            });
            0
        }
    };
    let fits = cost <= *room;
    *room = room.saturating_sub(cost);
    fits
}

/// An event whose body is one long string without escapes.
fn base64(len: usize) -> Vec<u8> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (before, after) =
        (r#"{"ts":1795346234966162,"type":"screenshot","data":{"png":""#, r#""},"truncated":false}"#);
    let body: Vec<u8> = (0..len - before.len() - after.len()).map(|i| alphabet[i * 29 % 64]).collect();
    [before.as_bytes(), &body, after.as_bytes()].concat()
}

/// An event whose body is a document as a string: an escape every few bytes.
fn escaped(len: usize) -> Vec<u8> {
    let piece = r#"{\"name\":\"value\",\"path\":\"C:\\\\temp\",\"text\":\"line one\\nline two\"},\n"#;
    let (before, after) = (r#"{"ts":1795346234966162,"type":"console_log","data":{"args":[""#, r#""]}}"#);
    [before, &piece.repeat(len / piece.len()), after].concat().into_bytes()
}

/// Rows of small keys and numbers.
fn structure(len: usize) -> Vec<u8> {
    let mut json = String::from(r#"{"rows":["#);
    let mut id = 0_u32;
    while json.len() < len {
        let comma = if id == 0 { "" } else { "," };
        json +=
            &format!(r#"{comma}{{"id":{id},"x":{},"y":-{}.5,"ok":true,"t":[1,2]}}"#, id * 7 % 1000, id % 97);
        id += 1;
    }
    (json + "]}").into_bytes()
}

/// The recorded events that `Value` accepts.
fn recorded() -> Vec<Vec<u8>> {
    let path = std::env::var("LAPWING_TELEMETRY")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/examples/telemetry.ndjson").into());
    let lines = std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    println!("real events from {path}");
    let lines = lines.split(|&b| b == b'\n').filter(|line| serde_json::from_slice::<Value>(line).is_ok());
    lines.map(<[u8]>::to_vec).collect()
}

fn nearest(events: &[Vec<u8>], size: usize) -> &[u8] {
    events.iter().min_by_key(|event| event.len().abs_diff(size)).expect("there are events")
}
