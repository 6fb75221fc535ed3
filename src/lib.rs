//! A lock-free broadcast event bus: a publisher never waits, and a slow reader is lapped and told exactly what it lost.
//!
//! - `stream` (feature `std`): telemetry events, serialized once, streamed to every reader.
//! - `storage` (feature `std`): what leaves the stream arrives in a storage: a directory of JSON Lines, or a stream of S2 (feature `s2`).
//! - `serve` (feature `serve`): a stream over HTTP, as server-sent events.
//! - `event` (feature `std`): those events, their JSON, and a check of what claims to be one.
//! - [`ring`]: what the stream is made of: any number of publishers and readers of bytes or plain values.
//! - [`truncate`]: payloads that are too large are cut where they stay valid UTF-8 and valid JSON.
//! - [`design`]: how it works, and the pair of every ordering in it.
#![deny(missing_docs, clippy::undocumented_unsafe_blocks, unsafe_op_in_unsafe_fn)]
#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

#[cfg(feature = "std")]
#[macro_use]
mod tell;

#[doc = include_str!("design.md")]
pub mod design {}
#[cfg(feature = "std")]
pub mod event;
pub mod ring;
#[cfg(feature = "serve")]
pub mod serve;
#[cfg(feature = "std")]
pub mod storage;
#[cfg(feature = "std")]
pub mod stream;
#[allow(clippy::disallowed_methods)] // the one place where fences may be
mod sync;
pub mod truncate;
#[cfg(feature = "std")]
mod wait;

/// For the suites of loom and shuttle: the ring with two lanes, and for loom the names of all orderings.
#[cfg(any(loom, shuttle))]
pub mod model_support {
    /// The ring with two lanes, whose module is not public.
    pub mod lanes {
        pub use crate::ring::lanes::*;
    }
    #[cfg(loom)]
    pub use crate::sync::LABELS;
}

/// The examples of README, as tests.
#[cfg(all(doctest, feature = "std"))]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
