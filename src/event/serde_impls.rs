//! Reading, by any deserializer: objects only (what is derived alone would also read an array of the fields),
//! and borrowing where the deserializer can.

use super::{Category, Envelope, Event, Metadata, RawValue, Source, SourceKind};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// The fields of [`Event`], as they are read.
#[derive(serde::Deserialize)]
#[serde(remote = "Event")]
struct EventFields<'a> {
    #[serde(default)]
    ts: i64,
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    category: Category<'a>,
    #[serde(borrow)]
    source: Source<'a>,
    #[serde(borrow, default, deserialize_with = "raw")]
    data: Option<Cow<'a, RawValue>>,
    #[serde(default)]
    truncated: bool,
}

/// The fields of [`Envelope`], as they are read.
#[derive(serde::Deserialize)]
#[serde(remote = "Envelope")]
struct EnvelopeFields<'a> {
    seq: u64,
    #[serde(borrow)]
    event: Event<'a>,
}

/// The fields of [`Source`], as they are read.
#[derive(serde::Deserialize)]
#[serde(remote = "Source")]
struct SourceFields<'a> {
    #[serde(borrow)]
    kind: SourceKind<'a>,
    #[serde(borrow, default, deserialize_with = "optional_text")]
    event: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    metadata: Option<Metadata<'a>>,
}

/// Reads an object, and nothing else, into `$type` by way of `$fields`.
macro_rules! object {
    ($type:ident, $fields:ident, $expected:literal) => {
        impl<'de: 'a, 'a> Deserialize<'de> for $type<'a> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Object<'a>(PhantomData<$type<'a>>);

                impl<'de: 'a, 'a> Visitor<'de> for Object<'a> {
                    type Value = $type<'a>;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                        $fields::deserialize(MapAccessDeserializer::new(map))
                    }
                }

                deserializer.deserialize_map(Object(PhantomData))
            }
        }
    };
}

object!(Event, EventFields, "an event, an object");
object!(Envelope, EnvelopeFields, "an envelope, an object");
object!(Source, SourceFields, "a source, an object");

/// Text that is borrowed if it can be, wherever it stands.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

pub(super) fn text<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Cow<'a, str>, D::Error> {
    Text::deserialize(deserializer).map(|text| text.0)
}

fn optional_text<'de: 'a, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Cow<'a, str>>, D::Error> {
    Ok(Option::<Text>::deserialize(deserializer)?.map(|text| text.0))
}

/// An explicit `null` is data like any other.
fn raw<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cow<'a, RawValue>>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(|data| Some(Cow::Borrowed(data)))
}

impl<'de: 'a, 'a> Deserialize<'de> for Metadata<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs<'a>(PhantomData<Metadata<'a>>);

        impl<'de: 'a, 'a> Visitor<'de> for Pairs<'a> {
            type Value = Metadata<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("metadata, an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut metadata = Metadata::new();
                while let Some((key, value)) = map.next_entry::<Text, Text>()? {
                    metadata.push(key.0, value.0);
                }
                Ok(metadata)
            }
        }

        deserializer.deserialize_map(Pairs(PhantomData))
    }
}

impl Serialize for Metadata<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}
