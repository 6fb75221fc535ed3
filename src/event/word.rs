//! Eight bytes in an integer, looked at all at once. The functions tell of each byte by its highest bit, and
//! the other bits mean nothing. The lowest byte of which they tell is right, always; those above it may be
//! mistakes.

/// `byte` eight times.
#[inline(always)]
pub(super) const fn splat(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// Where a byte is `byte`, which is ASCII.
#[inline(always)]
pub(super) const fn equal(word: u64, byte: u8) -> u64 {
    (word ^ splat(byte)).wrapping_sub(splat(1)) & !word
}

/// Where a byte is less than 0x20.
#[inline(always)]
pub(super) const fn control(word: u64) -> u64 {
    word.wrapping_sub(splat(0x20)) & !word
}
