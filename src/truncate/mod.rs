//! Too large becomes as much as fits: still valid UTF-8, still valid JSON, at memory speed.
//!
//! ```
//! use lapwing::truncate;
//!
//! let event = br#"{"id":7,"url":"/a","body":"something long","ok":true}"#;
//! let mut out = Vec::new();
//! let report = truncate::tail_into(event, 33, &mut out)?.expect("it has more than 33 bytes");
//! assert_eq!(out, br#"{"id":7,"url":"/a","body":"some"}"#);
//! assert_eq!(report.original_len, event.len());
//! # Ok::<(), truncate::Error>(())
//! ```
//!
//! - [`utf8`] and [`utf8_marked`] cut text.
//! - [`tail`] cuts the end of a JSON document off: one scan of what is kept. For hot paths, small budgets and
//!   very large inputs.
//! - [`shape`] keeps every key and the structure, and shortens the longest strings. [`Shape`] adds a marker,
//!   and keys that are shortened last.
//! - [`json`] chooses between the two by the budget.
//!
//! # What is promised
//!
//! - Budgets count bytes. An input that has no more bytes than the budget is not touched, so truncating twice
//!   to the same budget changes nothing the second time.
//! - What is kept is kept as it is spelled: the order of keys, duplicate keys, numbers, escapes, white space.
//! - Valid in, valid out: whatever accepted the input as raw JSON accepts the result. An unpaired surrogate
//!   escape of the input is carried as it is. No character, escape or surrogate pair is split.
//! - Nothing is validated here: that is the caller's, once, at the edge. Invalid input gives an invalid
//!   result, within the budget, and never a panic.
//! - Every machine gives the same result.
//!
//! # How
//!
//! A scanner turns 64 bytes into bit masks of quotes, backslashes and brackets: with AVX2 where the machine
//! has it, SSE2 on any other x86-64, ordinary integers elsewhere. The method of telling strings from
//! structure by a running parity of the quotes is simdjson's (Langdale and Lemire, *Parsing Gigabytes of JSON
//! per Second*, 2019). `memchr` alone finds each quote faster than that, but stops at each: on structure and
//! on escaped text it is 5 to 20 times slower, on long strings as fast as the memory. So the scanner hands
//! over to `memchr2` inside a string after two blocks without a backslash, and takes over again behind it.

mod scan;
mod shape;
mod tail;
mod utf8;

#[doc(hidden)]
pub use scan::Scanner;
pub use shape::{Scratch, Shape, shape};
#[doc(hidden)]
pub use tail::tail_with;
pub use tail::{TailCut, tail, tail_in_place, tail_into};
pub use utf8::{utf8, utf8_len, utf8_marked};

/// How deep the brackets of a truncated document may be nested: as deep as `serde_json` reads by default.
pub const MAX_DEPTH: usize = 127;

/// The smallest budget for a JSON document that has to be shortened: it holds `null`.
pub const MIN_BUDGET: usize = 4;

/// What was done to a JSON document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncation {
    /// The length of the input, in bytes.
    pub original_len: usize,
    /// The last stage that was needed.
    pub stage: Stage,
    /// Strings were cut to this length, in bytes of their spelling between the quotes.
    pub string_limit: Option<usize>,
    /// Arrays were cut to this many elements.
    pub array_limit: Option<usize>,
}

/// The stages of truncation, from the one that loses least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Stage {
    /// The longest strings were shortened.
    Strings,
    /// Strings were shortened, and arrays.
    Arrays,
    /// The end was cut off.
    Tail,
    /// Nothing could be kept: `null`.
    Null,
}

/// Why nothing was truncated. The input is untouched, and so is the output buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The input is larger than the budget, and the budget cannot even hold `null`.
    BudgetTooSmall {
        /// The budget that was given, in bytes.
        max: usize,
    },
    /// The input has 4 GiB or more.
    InputTooLarge {
        /// The length of the input, in bytes.
        len: usize,
    },
    /// The marker cannot stand in a JSON string as it is.
    Marker {
        /// Where in the marker there is a quote, a backslash or a control character.
        at: usize,
    },
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::BudgetTooSmall { max } => {
                write!(
                    f,
                    "a budget of {max} bytes cannot hold `null`; {MIN_BUDGET} is the least. Nothing was truncated"
                )
            }
            Self::InputTooLarge { len } => {
                write!(f, "an input of {len} bytes is too large to truncate; {} is the most", u32::MAX)
            }
            Self::Marker { at } => {
                write!(
                    f,
                    "a marker holds no quote, backslash or control character, but this one does at byte {at}"
                )
            }
        }
    }
}

impl core::error::Error for Error {}

/// The smallest budget for which [`json`] tries to keep the shape.
pub const SHAPE_FROM: usize = 4096;

/// Truncates a JSON document to `max` bytes, appended to `out`: by [`shape`] for budgets of [`SHAPE_FROM`]
/// bytes and up, by [`tail`] below. `None` if it fits: then nothing was appended, and `json` can be used as
/// it is.
///
/// ```
/// let json = format!(r#"{{"url":"/a","body":"{}","status":200}}"#, "x".repeat(10_000));
/// let mut out = Vec::new();
/// lapwing::truncate::json(json.as_bytes(), 5000, &mut out)?.expect("it has more than 5000 bytes");
/// assert_eq!(out.len(), 5000);
/// assert!(out.ends_with(br#"xx","status":200}"#));
/// # Ok::<(), lapwing::truncate::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::InputTooLarge`] for inputs of 4 GiB and more, [`Error::BudgetTooSmall`] if the input does not fit
/// and `max` cannot hold `null` either. `out` is as it was.
pub fn json(json: &[u8], max: usize, out: &mut alloc::vec::Vec<u8>) -> Result<Option<Truncation>, Error> {
    if max < SHAPE_FROM { tail_into(json, max, out) } else { shape(json, max, out) }
}

/// Whether the input fits, after the checks that all JSON truncation has in common.
#[inline]
fn check(json: &[u8], max: usize) -> Result<bool, Error> {
    if json.len() > u32::MAX as usize {
        return Err(Error::InputTooLarge { len: json.len() });
    }
    if json.len() > max && max < MIN_BUDGET {
        return Err(Error::BudgetTooSmall { max });
    }
    Ok(json.len() <= max)
}
