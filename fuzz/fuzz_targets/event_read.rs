//! What JSON says as an event is what the event writes: any bytes, and what is grown from them, against `serde_json`.
#![no_main]

use lapwing::event::Event;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

#[path = "../../tests/event/checks.rs"]
#[allow(dead_code)] // what only the other targets need
mod checks;

/// What the schema has of a value that is an event.
fn known(value: &Value) -> Value {
    let mut known = value.clone();
    let object = known.as_object_mut().expect("an event is an object");
    object.retain(|key, _| ["ts", "type", "category", "source", "data", "truncated"].contains(&&**key));
    object.entry("ts").or_insert(0.into());
    object.retain(|key, value| key != "truncated" || *value != Value::Bool(false));
    let source = object["source"].as_object_mut().expect("a source is an object");
    source.retain(|key, value| ["kind", "event", "metadata"].contains(&&**key) && !value.is_null());
    known
}

fuzz_target!(|data: &[u8]| {
    let json = match data {
        [kind, rest @ ..] if kind % 2 == 0 => rest.to_vec(),
        _ => checks::grow(data).into_bytes(),
    };
    let Ok(event) = serde_json::from_slice::<Event>(&json) else { return };
    checks::writing(&event);
    // In `data` and in what is ignored there can be what only raw JSON may have.
    if let Ok(value) = serde_json::from_slice::<Value>(&json) {
        assert_eq!(serde_json::from_slice::<Value>(&event.to_json()).unwrap(), known(&value));
    }
});
