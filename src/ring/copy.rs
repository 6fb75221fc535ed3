//! Copies between a caller's bytes and the words of a slot.
//!
//! Words are the definition: relaxed 64-bit stores and loads, in any order, which may race with the other side
//! and are validated by the stamp afterwards. On x86-64, blocks of 64 bytes go through SSE2 instead, in inline
//! assembly, since no intrinsic may touch memory that races. Each 16-byte move there is at least as strong as
//! two relaxed 8-byte accesses: the words are 8-byte aligned, and x86-64 never tears an aligned 8-byte half of
//! a vector access that lies in one cache line.

use core::sync::atomic::Ordering::Relaxed;

use crate::sync::AtomicU64;

const WORD: usize = 8;
/// The unit of the wide copy, in bytes.
const BLOCK: usize = 64;

/// Whether this build copies blocks through assembly.
const WIDE: bool = cfg!(all(target_arch = "x86_64", not(loom), not(miri)));

/// How many bytes the wide copy takes.
#[inline(always)]
fn wide_len(words: &[AtomicU64], bytes: &[u8]) -> usize {
    if WIDE { bytes.len().min(words.len() * WORD) & !(BLOCK - 1) } else { 0 }
}

/// Stores `bytes` into `words`, the last word padded with zeros. What does not fit is left out.
#[inline(always)]
pub(crate) fn store(words: &[AtomicU64], bytes: &[u8]) {
    let done = wide_len(words, bytes);
    if done != 0 {
        wide::store(&words[..done / WORD], &bytes[..done]);
    }
    if done == bytes.len() {
        return;
    }
    let (whole, rest) = bytes[done..].as_chunks::<WORD>();
    let mut words = words[done / WORD..].iter();
    for (chunk, word) in whole.iter().zip(&mut words) {
        word.store(u64::from_ne_bytes(*chunk), Relaxed);
    }
    if !rest.is_empty()
        && let Some(word) = words.next()
    {
        let mut last = [0; WORD];
        last[..rest.len()].copy_from_slice(rest);
        word.store(u64::from_ne_bytes(last), Relaxed);
    }
}

/// Loads `bytes.len()` bytes from `words`. What they do not hold is left as it was.
#[inline(always)]
pub(crate) fn load(words: &[AtomicU64], bytes: &mut [u8]) {
    let done = wide_len(words, bytes);
    if done != 0 {
        wide::load(&words[..done / WORD], &mut bytes[..done]);
    }
    if done == bytes.len() {
        return;
    }
    let (whole, rest) = bytes[done..].as_chunks_mut::<WORD>();
    let mut words = words[done / WORD..].iter();
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
#[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
mod wide {
    use core::arch::asm;

    use super::{AtomicU64, BLOCK, WORD};

    /// Stores `bytes`, a whole number of blocks and not none, into as many words.
    #[inline(always)]
    pub(super) fn store(words: &[AtomicU64], bytes: &[u8]) {
        check(words, bytes);
        // SAFETY: `check` has seen that both are as long, and how long. The words may be written through a
        // shared reference since they are atomics, and may race since they are only ever accessed atomically:
        // each move stands for two relaxed stores of a word.
        unsafe { copy(bytes.as_ptr(), words.as_ptr().cast_mut().cast(), bytes.len()) }
    }

    /// Loads `bytes`, a whole number of blocks and not none, from as many words.
    #[inline(always)]
    pub(super) fn load(words: &[AtomicU64], bytes: &mut [u8]) {
        check(words, bytes);
        // SAFETY: `check` has seen that both are as long, and how long. The words may race as in `store`, each
        // move standing for two relaxed loads; the bytes are borrowed for this call alone.
        unsafe { copy(words.as_ptr().cast(), bytes.as_mut_ptr(), bytes.len()) }
    }

    #[inline(always)]
    fn check(words: &[AtomicU64], bytes: &[u8]) {
        assert!(words.len() * WORD == bytes.len() && bytes.len().is_multiple_of(BLOCK) && !bytes.is_empty());
    }

    /// Moves `len` bytes up from the first, a block at a time.
    ///
    /// # Safety
    ///
    /// `len` is a positive multiple of `BLOCK`, so many bytes can be read at `from` and written at `to`, they do
    /// not overlap, and accesses to them that race with this one are atomic.
    #[inline(always)]
    unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
        // SAFETY: the loop reads and writes the blocks at 0, 64, ... below `len`, which the caller vouches for,
        // and nothing else; the stack is not used.
        unsafe {
            asm!(
                "2:",
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
                from = in(reg) from,
                to = in(reg) to,
                len = in(reg) len,
                i = inout(reg) 0usize => _,
                a = out(xmm_reg) _,
                b = out(xmm_reg) _,
                c = out(xmm_reg) _,
                d = out(xmm_reg) _,
                options(nostack),
            );
        }
    }
}

#[cfg(not(all(target_arch = "x86_64", not(loom), not(miri))))]
mod wide {
    use super::AtomicU64;

    pub(super) fn store(_: &[AtomicU64], _: &[u8]) {}

    pub(super) fn load(_: &[AtomicU64], _: &mut [u8]) {}
}
