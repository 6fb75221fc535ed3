//! Copies between a caller's bytes and the words of a slot.
//!
//! Words are the definition: relaxed 64-bit stores and loads, in any order, which may race with the other side
//! and are validated by the stamp afterwards. On x86-64, blocks of 64 bytes go through SSE2 instead, in inline
//! assembly, since no intrinsic may touch memory that races. Each 16-byte move there is at least as strong as
//! two relaxed 8-byte accesses: the words are 8-byte aligned, and x86-64 never tears an aligned 8-byte half of
//! a vector access that lies in one cache line.
//!
//! Under `cfg(lapwing_sanitized)` the words are all there is: no sanitizer looks into an assembly block, so that it would see neither a race on the
//! caller's bytes nor an access beyond them.

use core::sync::atomic::Ordering::Relaxed;

use crate::sync::AtomicU64;

const WORD: usize = 8;
/// The unit of the wide copy, in bytes.
pub(super) const BLOCK: usize = 64;

/// Stores `bytes` into `words`, the last word padded with zeros. What does not fit is left out. Prefetches as much
/// `ahead` bytes further on, where it will soon be stored too.
#[inline(always)]
pub(crate) fn store(words: &[AtomicU64], bytes: &[u8], ahead: usize) {
    let done = wide::store(words, bytes, ahead);
    if done != bytes.len()
        && let Some(words) = words.get(done / WORD..)
    {
        store_rest(words, bytes, done);
    }
}

/// Loads `bytes.len()` bytes from `words`. What they do not hold is left as it was. Prefetches as much `ahead` bytes
/// further on, where it will soon be loaded too.
#[inline(always)]
pub(crate) fn load(words: &[AtomicU64], bytes: &mut [u8], ahead: usize) {
    let done = wide::load(words, bytes, ahead);
    if done != bytes.len()
        && let Some(words) = words.get(done / WORD..)
    {
        load_rest(words, &mut bytes[done..]);
    }
}

/// Out of line, so that what it keeps in registers costs nothing where whole blocks are all there is.
#[inline(never)]
fn store_rest(words: &[AtomicU64], bytes: &[u8], done: usize) {
    store_words_from(words, bytes, done);
}

#[inline(never)]
fn load_rest(words: &[AtomicU64], bytes: &mut [u8]) {
    load_words(words, bytes);
}

/// [`store`], word by word: the definition, and the fastest for a small length that is known at compile time.
#[inline(always)]
pub(crate) fn store_words(words: &[AtomicU64], bytes: &[u8]) {
    store_words_from(words, bytes, 0);
}

/// The same for the bytes from `done` on, which begin a word.
#[inline(always)]
fn store_words_from(words: &[AtomicU64], bytes: &[u8], done: usize) {
    let (whole, rest) = bytes[done..].as_chunks::<WORD>();
    let mut words = words.iter();
    for (chunk, word) in whole.iter().zip(&mut words) {
        word.store(u64::from_ne_bytes(*chunk), Relaxed);
    }
    if !rest.is_empty()
        && let Some(word) = words.next()
    {
        let last = match bytes.last_chunk() {
            // Those before the rest are shifted out: a copy of so many bytes would be a call.
            Some(last) => (u64::from_le_bytes(*last) >> (8 * (WORD - rest.len()))).to_le(),
            None => {
                let mut last = [0; WORD];
                last[..rest.len()].copy_from_slice(rest);
                u64::from_ne_bytes(last)
            }
        };
        word.store(last, Relaxed);
    }
}

/// [`load`], word by word.
#[inline(always)]
pub(crate) fn load_words(words: &[AtomicU64], bytes: &mut [u8]) {
    let (whole, rest) = bytes.as_chunks_mut::<WORD>();
    let mut words = words.iter();
    for (chunk, word) in whole.iter_mut().zip(&mut words) {
        *chunk = word.load(Relaxed).to_ne_bytes();
    }
    if !rest.is_empty()
        && let Some(word) = words.next()
    {
        let last = word.load(Relaxed).to_ne_bytes();
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

/// Whole blocks by SSE2, which every x86-64 has.
#[cfg(all(target_arch = "x86_64", not(any(lapwing_sanitized, loom, miri, shuttle))))]
mod wide {
    use core::arch::asm;

    use super::{AtomicU64, BLOCK};

    /// From so many bytes on a copy takes no prefetches: the processor's own prefetcher is far ahead by then.
    const LONG: usize = 2048;

    /// Moves `$len` bytes up from the first, a block at a time, perhaps with a prefetch of the line at `$ahead`, and
    /// of one more for each block.
    macro_rules! copy_blocks {
        ($from:expr, $to:expr, $len:expr $(, $prefetch:literal, $ahead:expr)?) => {
            asm!(
                $(concat!($prefetch, " [{ahead}]"),)?
                "2:",
                $(concat!($prefetch, " [{ahead} + {i} + 63]"),)?
                "movups {a}, [{from} + {i}]",
                "movups {b}, [{from} + {i} + 16]",
                "movups {c}, [{from} + {i} + 32]",
                "movups {d}, [{from} + {i} + 48]",
                "movups [{to} + {i}], {a}",
                "movups [{to} + {i} + 16], {b}",
                "movups [{to} + {i} + 32], {c}",
                "movups [{to} + {i} + 48], {d}",
                "add {i}, 64",
                "cmp {i}, {len}",
                "jb 2b",
                from = in(reg) $from,
                to = in(reg) $to,
                len = in(reg) $len,
                $(ahead = in(reg) $ahead,)?
                i = inout(reg) 0usize => _,
                a = out(xmm_reg) _,
                b = out(xmm_reg) _,
                c = out(xmm_reg) _,
                d = out(xmm_reg) _,
                options(nostack),
            )
        };
    }

    /// Stores the whole blocks of `bytes` that `words` have room for; returns their length in bytes.
    #[inline(always)]
    pub(super) fn store(words: &[AtomicU64], bytes: &[u8], ahead: usize) -> usize {
        let len = whole_blocks(words, bytes.len());
        let (from, to) = (bytes.as_ptr(), words.as_ptr());
        if len >= LONG {
            // SAFETY: as below.
            unsafe { copy_blocks!(from, to, len) }
        } else if len != 0 {
            // SAFETY: the loop reads and writes the blocks at 0, 64, ... below `len`, a positive multiple of 64 that
            // both slices hold, and uses no stack. The words may be written through a shared reference since they
            // are atomics, and may race since they are only ever accessed atomically: each move stands for two
            // relaxed stores of a word. The prefetch is a hint: it takes any address, and does nothing on a processor
            // that does not know it.
            unsafe { copy_blocks!(from, to, len, "prefetchw", to.wrapping_byte_add(ahead)) }
        }
        len
    }

    /// Loads the whole blocks of `bytes` that `words` hold; returns their length in bytes.
    #[inline(always)]
    pub(super) fn load(words: &[AtomicU64], bytes: &mut [u8], ahead: usize) -> usize {
        let len = whole_blocks(words, bytes.len());
        let (from, to) = (words.as_ptr(), bytes.as_mut_ptr());
        if len >= LONG {
            // SAFETY: as below.
            unsafe { copy_blocks!(from, to, len) }
        } else if len != 0 {
            // SAFETY: as in `store`, each move standing for two relaxed loads; the bytes are borrowed for this call
            // alone.
            unsafe { copy_blocks!(from, to, len, "prefetcht0", from.wrapping_byte_add(ahead)) }
        }
        len
    }

    #[inline(always)]
    fn whole_blocks(words: &[AtomicU64], bytes: usize) -> usize {
        bytes.min(size_of_val(words)) & !(BLOCK - 1)
    }
}

#[cfg(not(all(target_arch = "x86_64", not(any(lapwing_sanitized, loom, miri, shuttle)))))]
mod wide {
    use super::AtomicU64;

    pub(super) fn store(_: &[AtomicU64], _: &[u8], _: usize) -> usize {
        0
    }

    pub(super) fn load(_: &[AtomicU64], _: &mut [u8], _: usize) -> usize {
        0
    }
}
