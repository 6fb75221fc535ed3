//! The event stream: a bus of telemetry events for one process.
//!
//! ```
//! use lapwing::event::{Category, Event, Source, SourceKind};
//! use lapwing::stream::{EventStream, ReadResult};
//!
//! let stream = EventStream::new()?;
//! let mut reader = stream.reader_from_oldest();
//! stream.publish(&Event::new("tick", Category::System, Source::new(SourceKind::LocalProcess)))?;
//! match reader.try_read()? {
//!     ReadResult::Envelope(mut envelope) => println!("{}", String::from_utf8_lossy(envelope.json())),
//!     ReadResult::Dropped { from, to } => println!("lost {from} to {to}"),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! - **An event is serialized once**, when it is published. Those bytes go to every reader, and to whatever
//!   stands behind it; the seq is put in front of them there.
//! - **A publisher never blocks, allocates or waits**; a slow reader is lapped, and told what it lost. See
//!   [`ring`](crate::ring).
//! - **Large events have memory of their own**, so that they displace each other and no small ones. A reader
//!   that comes too late for one, or one that is larger than an envelope may be, gets it in
//!   [truncated](crate::truncate) form, flagged: with its type, category, source and ts, and as much of its
//!   data as fits.
//! - **A category that is not captured costs a look at a flag**, and a reader of some categories steps over the
//!   others without copying them.
//! - **Nothing hides**: [`readers`](Handle::readers) tells where each one is, [`stats`](Handle::stats) what was
//!   published.

mod config;
mod error;
mod handle;
mod publish;
mod reader;
mod truncated;

use crate::ring::lanes::CLASS_COUNT;

pub use crate::ring::{Canceller, ReadError, TryReadError, Wait};
pub use config::{CategorySet, Config};
pub use error::{BatchError, ConfigError, PositionError, PublishError};
#[cfg(feature = "s2")]
pub(crate) use handle::random;
pub use handle::{Handle, ReaderStatus, Stats};
#[cfg(feature = "serve")]
pub(crate) use publish::completed;
pub(crate) use publish::now;
pub use publish::{BatchPublished, EventStream, Exclusive, Publish};
#[cfg(feature = "serve")]
pub(crate) use reader::Buffer;
#[cfg(feature = "futures")]
pub use reader::Envelopes;
pub(crate) use reader::category;
pub use reader::{OwnedEnvelope, RawEnvelope, ReadResult, Reader};

/// In a tag, above the category: the event is truncated.
const TRUNCATED: u16 = 1 << 4;

/// The category by its index, which is the class that the ring counts, and whether the event is truncated.
#[inline(always)]
fn tag(category: u8, truncated: bool) -> u16 {
    const { assert!(crate::event::Category::KNOWN.len() < CLASS_COUNT) };
    u16::from(category) | if truncated { TRUNCATED } else { 0 }
}

fn category_of(tag: u16) -> u8 {
    (tag & 15) as u8
}
