//! JSON that claims to be an event, published: what is published is what was given, and the rest is refused.
#![no_main]

use std::borrow::Cow;

use lapwing::event::{Envelope, Event, RawValue};
use lapwing::stream::{Config, Publish, PublishError, ReadResult, TryReadError};
use libfuzzer_sys::fuzz_target;

#[path = "../../tests/event/checks.rs"]
#[allow(dead_code)] // what only the other targets need
mod checks;

fn one_line(json: &[u8]) -> Vec<u8> {
    json.iter().copied().filter(|byte| !b"\r\n".contains(byte)).collect()
}

fuzz_target!(|data: &[u8]| {
    let [inline, max, rest @ ..] = data else { return };
    let json = match rest {
        [kind, rest @ ..] if kind % 2 == 0 => rest.to_vec(),
        _ => checks::grow(rest).into_bytes(),
    };
    let max = 128 + 4 * usize::from(*max);
    let config = Config::new().events(4).inline_bytes(128 + usize::from(*inline)).max_envelope_bytes(max);
    let stream = config.large_bytes(usize::from(inline % 2) << 13).build().expect("it is allowed");
    let mut reader = stream.reader_from_oldest();
    let given = std::str::from_utf8(&json).ok().and_then(|json| serde_json::from_str::<Event>(json).ok());
    let truncated = match (stream.publish_json(&json), &given) {
        (Ok(Publish::Published { seq: 1, truncated }), Some(_)) => truncated,
        (Err(PublishError::FieldsTooLarge { .. }), Some(_)) | (Err(PublishError::Invalid(_)), None) => {
            assert!(matches!(reader.try_read(), Err(TryReadError::Empty)));
            assert_eq!((stream.handle().seq(), stream.handle().stats().refused), (0, 1));
            return;
        }
        (result, _) => panic!("{result:?} of {}", String::from_utf8_lossy(&json)),
    };
    let mut given = given.expect("it was published");
    let Ok(ReadResult::Envelope(mut envelope)) = reader.try_read() else { panic!("it was published") };
    let line = envelope.json().to_vec();
    assert!(line.len() <= max && !line.contains(&b'\n') && !line.contains(&b'\r'));
    let Envelope { seq, event } = serde_json::from_slice(&line).expect("an envelope");
    assert_eq!((seq, &event), (1, &envelope.event().expect("an event")));
    // The clock's, where there was none.
    assert!(event.ts == given.ts || given.ts == 0 && event.ts > 0);
    let is_as_given = given.ts != 0 && !json.iter().any(|byte| b"\r\n".contains(byte));
    given.ts = event.ts;
    if truncated {
        assert!(event.truncated);
        // Of the metadata the end may be missing, and so may the data.
        let all = given.source.metadata.take().unwrap_or_default();
        let kept = event.source.metadata.clone().unwrap_or_default();
        assert!(kept.len() <= all.len() && kept.iter().zip(all.iter()).all(|(kept, all)| kept == all));
        assert!(event.data.is_none() || given.data.is_some());
        (given.source.metadata, given.data, given.truncated) =
            (event.source.metadata.clone(), event.data.clone(), true);
    } else if is_as_given {
        assert_eq!(envelope.event_json(), json);
    }
    let data = given.data.map(|data| one_line(data.get().as_bytes()));
    let data = data.map(|data| String::from_utf8(data).expect("it was text"));
    given.data = data.map(|data| Cow::Owned(RawValue::from_string(data).expect("it was JSON")));
    assert_eq!(event, given);

    // The event, published as such, is the same once more; larger spellings may have been truncated.
    if !truncated {
        let again = stream.publish(&event).expect("it is not larger");
        assert_eq!(again, Publish::Published { seq: 2, truncated: false });
        let Ok(ReadResult::Envelope(again)) = reader.try_read() else { panic!("it was published") };
        assert_eq!(again.event_json(), event.to_json());
    }
});
