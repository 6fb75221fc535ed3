//! Truncation as its users see it.

mod checks;
mod documents;
mod truncate_shape;
mod truncate_tail;
mod truncate_utf8;
