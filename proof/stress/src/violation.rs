//! What the checks find.

use std::fmt::{self, Display};

/// Something that must not be.
#[derive(Debug, PartialEq)]
pub enum Violation {
    /// A payload that no publisher has written so.
    Torn(String),
    /// Seqs or a publisher's events out of their order.
    Reordered(String),
    /// A number that was neither delivered, nor skipped, nor told as dropped; or one that was told twice.
    Unaccounted(String),
    /// Anything else.
    Other(String),
}

impl Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Torn(what) => write!(f, "torn: {what}"),
            Self::Reordered(what) => write!(f, "reordered: {what}"),
            Self::Unaccounted(what) => write!(f, "unaccounted: {what}"),
            Self::Other(what) => f.write_str(what),
        }
    }
}
