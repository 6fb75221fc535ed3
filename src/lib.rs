//! A lock-free broadcast event bus.
#![deny(missing_docs, clippy::undocumented_unsafe_blocks, unsafe_op_in_unsafe_fn)]
#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

pub mod ring;
#[allow(clippy::disallowed_methods)] // the one place where fences may be
mod sync;
pub mod truncate;
#[cfg(feature = "std")]
mod wait;

/// For the loom suite: the names of all orderings.
#[cfg(loom)]
pub mod loom_support {
    pub use crate::sync::LABELS;
}

/// The examples of README, as tests.
#[cfg(all(doctest, feature = "std"))]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
