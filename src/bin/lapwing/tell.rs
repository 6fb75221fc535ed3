//! What the command has to say goes to standard error.

use std::fmt;
use std::io::{self, Write};

use indicatif::MultiProgress;
use parking_lot::Mutex;

/// The progress line that messages have to be written above, if there is one.
pub static LINE: Mutex<Option<MultiProgress>> = Mutex::new(None);

/// Writes a line. Whether it arrives is nobody's concern: there is nowhere else to say so.
pub fn line(message: fmt::Arguments<'_>) {
    let write = || _ = writeln!(io::stderr(), "{message}");
    match &*LINE.lock() {
        Some(progress) => progress.suspend(write),
        None => write(),
    }
}

/// Writes a message of the command.
macro_rules! tell {
    ($($message:tt)*) => { $crate::tell::line(format_args!("lapwing: {}", format_args!($($message)*))) };
}
pub(crate) use tell;
