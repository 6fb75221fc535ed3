//! The scanner: 64 bytes become 64-bit masks, one bit a byte, lowest bit first.
//!
//! Three forms of [`Lanes`] give the same masks. Everything built on them is written once, generic over the
//! form, and instantiated per form by [`instantiate!`].

/// Bytes that one step of the scanner looks at.
pub(super) const BLOCK: usize = 64;

/// Which form of the scanner runs: one that the machine has, or it could not have been made. Not part of the
/// stable interface: for tests, benches and fuzz targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scanner(Form);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Eight bytes at a time in ordinary integers, on every architecture: the oracle for the others.
    Portable,
    /// x86-64 has it always.
    #[cfg(target_arch = "x86_64")]
    Sse2,
    /// With the bit instructions that came with it (BMI1, BMI2, LZCNT, POPCNT) and carry-less multiplication.
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Scanner {
    /// The fastest form that this machine can run.
    #[inline]
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            Self(if avx2_available() { Form::Avx2 } else { Form::Sse2 })
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            Self(Form::Portable)
        }
    }

    #[inline]
    pub(super) fn form(self) -> Form {
        self.0
    }

    /// All forms that this machine can run, the portable one first.
    pub fn all() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        {
            [Form::Portable, Form::Sse2].into_iter().chain(avx2_available().then_some(Form::Avx2)).map(Self)
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            core::iter::once(Self(Form::Portable))
        }
    }
}

/// Without `std` there is no detection at run time: then what the target was built for decides.
#[cfg(target_arch = "x86_64")]
#[inline]
fn avx2_available() -> bool {
    #[cfg(feature = "std")]
    {
        std::is_x86_feature_detected!("avx2")
            && std::is_x86_feature_detected!("bmi1")
            && std::is_x86_feature_detected!("bmi2")
            && std::is_x86_feature_detected!("lzcnt")
            && std::is_x86_feature_detected!("popcnt")
            && std::is_x86_feature_detected!("pclmulqdq")
    }
    #[cfg(not(feature = "std"))]
    {
        cfg!(all(
            target_feature = "avx2",
            target_feature = "bmi1",
            target_feature = "bmi2",
            target_feature = "lzcnt",
            target_feature = "popcnt",
            target_feature = "pclmulqdq"
        ))
    }
}

/// Defines `$name(scanner, …)`, which runs `$body::<L>(…)` compiled for the form that `scanner` names.
macro_rules! instantiate {
    ($vis:vis fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $body:ident) => {
        #[inline]
        $vis fn $name(scanner: $crate::truncate::scan::Scanner, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt,pclmulqdq")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: `Avx2` wants the features that this function is compiled with, so its caller has
                // them.
                unsafe { $body::<$crate::truncate::scan::Avx2>($($arg),*) }
            }
            match scanner.form() {
                // SAFETY: the portable form wants no feature.
                $crate::truncate::scan::Form::Portable => unsafe {
                    $body::<$crate::truncate::scan::Portable>($($arg),*)
                },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: every x86-64 has SSE2.
                $crate::truncate::scan::Form::Sse2 => unsafe {
                    $body::<$crate::truncate::scan::Sse2>($($arg),*)
                },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the machine has the features, or there would be no such scanner.
                $crate::truncate::scan::Form::Avx2 => unsafe { avx2($($arg),*) },
            }
        }
    };
}
pub(super) use instantiate;

/// 64 bytes that can be compared all at once.
///
/// Each function is `unsafe` for one reason: the machine must have the instructions that the form is made of.
pub(super) trait Lanes: Copy {
    unsafe fn load(block: &[u8; BLOCK]) -> Self;
    /// Where the byte is `byte`.
    unsafe fn eq(self, byte: u8) -> u64;
    /// Where the byte is `byte`, or `byte` without bit 5: `{` also finds `[`, `}` also finds `]`.
    unsafe fn eq_folded(self, byte: u8) -> u64;
    /// Bit i of the result is the parity of bits 0 to i.
    unsafe fn prefix_xor(mask: u64) -> u64;
    /// Whether `extract` and `spread` are single instructions.
    const HAS_BIT_MOVES: bool = false;
    /// The bits of `value` where `mask` has one, moved together at the low end.
    unsafe fn extract(value: u64, mask: u64) -> u64 {
        extract(value, mask)
    }
    /// The low eight bits, each in a byte of its own.
    unsafe fn spread(value: u64) -> u64 {
        (0..8).map(|bit| (value >> bit & 1) << (8 * bit)).sum()
    }
}

#[inline(always)]
fn extract(value: u64, mut mask: u64) -> u64 {
    let mut bits = 0;
    let mut to = 0;
    while mask != 0 {
        bits |= (value >> mask.trailing_zeros() & 1) << to;
        to += 1;
        mask &= mask - 1;
    }
    bits
}

#[derive(Clone, Copy)]
pub(super) struct Portable([u64; 8]);

impl Portable {
    /// One bit for each byte of each word that is zero.
    #[inline(always)]
    fn zeros(self, word: impl Fn(u64) -> u64) -> u64 {
        const LOW: u64 = 0x7F7F_7F7F_7F7F_7F7F;
        // The multiplication moves bit 0 of byte i to bit 56 + i; no two of them meet.
        const GATHER: u64 = 0x0102_0408_1020_4080;
        let mut mask = 0;
        for (i, &w) in self.0.iter().enumerate() {
            let w = word(w);
            let zero = !(((w & LOW) + LOW) | w | LOW) >> 7;
            mask |= (zero.wrapping_mul(GATHER) >> 56) << (8 * i);
        }
        mask
    }
}

#[inline(always)]
const fn splat(byte: u8) -> u64 {
    byte as u64 * 0x0101_0101_0101_0101
}

impl Lanes for Portable {
    #[inline(always)]
    unsafe fn load(block: &[u8; BLOCK]) -> Self {
        let mut words = [0; 8];
        for (word, bytes) in words.iter_mut().zip(block.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().expect("chunks of eight"));
        }
        Self(words)
    }
    #[inline(always)]
    unsafe fn eq(self, byte: u8) -> u64 {
        self.zeros(|w| w ^ splat(byte))
    }
    #[inline(always)]
    unsafe fn eq_folded(self, byte: u8) -> u64 {
        self.zeros(|w| (w | splat(0x20)) ^ splat(byte))
    }
    #[inline(always)]
    unsafe fn prefix_xor(mask: u64) -> u64 {
        prefix_xor(mask)
    }
}

#[inline(always)]
fn prefix_xor(mut mask: u64) -> u64 {
    for shift in [1, 2, 4, 8, 16, 32] {
        mask ^= mask << shift;
    }
    mask
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{BLOCK, Lanes, prefix_xor};
    use core::arch::x86_64::*;

    #[derive(Clone, Copy)]
    pub(in crate::truncate) struct Sse2([__m128i; 4]);

    impl Sse2 {
        /// # Safety
        ///
        /// SSE2.
        #[inline(always)]
        unsafe fn mask(self, lane: impl Fn(__m128i) -> __m128i) -> u64 {
            let mut mask = 0;
            for (i, &v) in self.0.iter().enumerate() {
                // SAFETY: the machine has SSE2, by this function's contract.
                mask |= u64::from(unsafe { _mm_movemask_epi8(lane(v)) } as u16) << (16 * i);
            }
            mask
        }
    }

    impl Lanes for Sse2 {
        #[inline(always)]
        unsafe fn load(block: &[u8; BLOCK]) -> Self {
            let at = block.as_ptr().cast::<__m128i>();
            // SAFETY: the four unaligned loads cover the 64 bytes of `block` and no more.
            unsafe {
                Self([
                    _mm_loadu_si128(at),
                    _mm_loadu_si128(at.add(1)),
                    _mm_loadu_si128(at.add(2)),
                    _mm_loadu_si128(at.add(3)),
                ])
            }
        }
        #[inline(always)]
        unsafe fn eq(self, byte: u8) -> u64 {
            // SAFETY: the machine has SSE2, by the trait's contract.
            unsafe {
                let byte = _mm_set1_epi8(byte as i8);
                self.mask(|v| _mm_cmpeq_epi8(v, byte))
            }
        }
        #[inline(always)]
        unsafe fn eq_folded(self, byte: u8) -> u64 {
            // SAFETY: as above.
            unsafe {
                let (byte, fold) = (_mm_set1_epi8(byte as i8), _mm_set1_epi8(0x20));
                self.mask(|v| _mm_cmpeq_epi8(_mm_or_si128(v, fold), byte))
            }
        }
        #[inline(always)]
        unsafe fn prefix_xor(mask: u64) -> u64 {
            prefix_xor(mask)
        }
    }

    #[derive(Clone, Copy)]
    pub(in crate::truncate) struct Avx2([__m256i; 2]);

    impl Avx2 {
        /// # Safety
        ///
        /// AVX2.
        #[inline(always)]
        unsafe fn mask(self, lane: impl Fn(__m256i) -> __m256i) -> u64 {
            // SAFETY: the machine has AVX2, by this function's contract.
            let (low, high) =
                unsafe { (_mm256_movemask_epi8(lane(self.0[0])), _mm256_movemask_epi8(lane(self.0[1]))) };
            u64::from(low as u32) | u64::from(high as u32) << 32
        }
    }

    impl Lanes for Avx2 {
        #[inline(always)]
        unsafe fn load(block: &[u8; BLOCK]) -> Self {
            let at = block.as_ptr().cast::<__m256i>();
            // SAFETY: the two unaligned loads cover the 64 bytes of `block` and no more.
            unsafe { Self([_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))]) }
        }
        #[inline(always)]
        unsafe fn eq(self, byte: u8) -> u64 {
            // SAFETY: the machine has AVX2, by the trait's contract.
            unsafe {
                let byte = _mm256_set1_epi8(byte as i8);
                self.mask(|v| _mm256_cmpeq_epi8(v, byte))
            }
        }
        #[inline(always)]
        unsafe fn eq_folded(self, byte: u8) -> u64 {
            // SAFETY: as above.
            unsafe {
                let (byte, fold) = (_mm256_set1_epi8(byte as i8), _mm256_set1_epi8(0x20));
                self.mask(|v| _mm256_cmpeq_epi8(_mm256_or_si256(v, fold), byte))
            }
        }
        const HAS_BIT_MOVES: bool = true;
        #[inline(always)]
        unsafe fn spread(value: u64) -> u64 {
            // SAFETY: the machine has BMI2, by the trait's contract.
            unsafe { _pdep_u64(value, 0x0101_0101_0101_0101) }
        }
        #[inline(always)]
        unsafe fn extract(value: u64, mask: u64) -> u64 {
            // SAFETY: the machine has BMI2, by the trait's contract.
            unsafe { _pext_u64(value, mask) }
        }
        #[inline(always)]
        unsafe fn prefix_xor(mask: u64) -> u64 {
            // SAFETY: the machine has carry-less multiplication, by the trait's contract. A product with all
            // ones adds, without carries, every shift of `mask`: that is the parity of all bits up to each
            // one.
            unsafe {
                let product = _mm_clmulepi64_si128(_mm_set_epi64x(0, mask as i64), _mm_set1_epi8(-1), 0);
                _mm_cvtsi128_si64(product) as u64
            }
        }
    }
}
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Sse2};

/// What one block tells the next about strings.
#[derive(Clone, Copy, Default)]
pub(super) struct Carry {
    /// All ones inside a string, else 0.
    pub(super) in_string: u64,
    /// 1 if the first byte is escaped by a backslash before it, else 0.
    pub(super) escaped: u64,
}

/// The strings of one block.
#[derive(Clone, Copy)]
pub(super) struct Strings {
    /// Quotes that are not escaped.
    pub(super) quotes: u64,
    /// From each opening quote to the last byte before the closing one.
    pub(super) inside: u64,
}

impl Carry {
    /// # Safety
    ///
    /// What `L` wants of the machine.
    #[inline(always)]
    pub(super) unsafe fn strings<L: Lanes>(&mut self, block: L) -> Strings {
        // SAFETY: by this function's contract.
        unsafe {
            let backslashes = block.eq(b'\\');
            let quotes = block.eq(b'"') & !escaped_by(backslashes, &mut self.escaped);
            let inside = L::prefix_xor(quotes) ^ self.in_string;
            self.in_string = ((inside as i64) >> 63) as u64;
            Strings { quotes, inside }
        }
    }
}

/// The bytes that a backslash escapes: in each run of backslashes the second, the fourth and so on, and the
/// byte after a run of odd length. `carry` is 1 if the byte before the block escapes its first byte.
///
/// The subtraction borrows through each run and so tells, at its end, whether the run began at an even
/// position and has an even length, or not: the method of simdjson's `json_escape_scanner`.
#[inline(always)]
fn escaped_by(backslashes: u64, carry: &mut u64) -> u64 {
    const ODD: u64 = 0xAAAA_AAAA_AAAA_AAAA;
    if backslashes == 0 {
        return core::mem::take(carry);
    }
    let starts = backslashes & !*carry;
    let alternating = ((starts << 1) | ODD).wrapping_sub(starts) ^ ODD;
    let escaped = alternating ^ (backslashes | *carry);
    *carry = (alternating & backslashes) >> 63;
    escaped
}

/// The block at `at`; past the end of `bytes` it is filled with spaces.
#[inline(always)]
pub(super) fn block_at<'a>(bytes: &'a [u8], at: usize, tail: &'a mut [u8; BLOCK]) -> &'a [u8; BLOCK] {
    match bytes[at..].first_chunk() {
        Some(block) => block,
        None => {
            *tail = [b' '; BLOCK];
            tail[..bytes.len() - at].copy_from_slice(&bytes[at..]);
            tail
        }
    }
}

/// Inside a string at `from`: the position of the quote that closes it, or `to` if there is none before it.
/// `escaped` as in [`Carry`].
///
/// Blocks with a backslash cost one look at their masks. After two blocks without, `memchr2` takes over: it
/// is as fast as the memory, and slow only where it finds something.
///
/// # Safety
///
/// What `L` wants of the machine.
#[inline(always)]
pub(super) unsafe fn skip_string<L: Lanes>(bytes: &[u8], from: usize, to: usize, mut escaped: u64) -> usize {
    let mut at = from;
    let mut clean = 0;
    let mut tail = [0; BLOCK];
    while at < to {
        // SAFETY: by this function's contract.
        let block = unsafe { L::load(block_at(&bytes[..to], at, &mut tail)) };
        // SAFETY: as above.
        let (quotes, backslashes) = unsafe { (block.eq(b'"'), block.eq(b'\\')) };
        let quotes = quotes & !escaped_by(backslashes, &mut escaped);
        if quotes != 0 {
            return at + quotes.trailing_zeros() as usize;
        }
        at += BLOCK;
        clean = if backslashes == 0 { clean + 1 } else { 0 };
        if clean == 2 && at < to {
            match memchr::memchr2(b'"', b'\\', &bytes[at..to]) {
                Some(found) => at += found,
                None => return to,
            }
            clean = 0;
        }
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Masks of one block and the carry after it, one byte at a time.
    fn naive(block: &[u8; BLOCK], mut in_string: bool, mut escaped: bool) -> [u64; 6] {
        let mut masks = [0; 6];
        for (i, &byte) in block.iter().enumerate() {
            let quote = byte == b'"' && !escaped;
            in_string ^= quote;
            masks[0] |= u64::from(quote) << i;
            masks[1] |= u64::from(in_string) << i;
            masks[2] |= u64::from(byte == b'{' || byte == b'[') << i;
            masks[3] |= u64::from(byte == b',' || byte == b':') << i;
            escaped = byte == b'\\' && !escaped;
        }
        masks[4] = if in_string { u64::MAX } else { 0 };
        masks[5] = u64::from(escaped);
        masks
    }

    unsafe fn bit_moves<L: Lanes>(value: u64, mask: u64) -> (u64, u64) {
        // SAFETY: by this function's contract.
        unsafe { (L::extract(value, mask), L::spread(value)) }
    }
    instantiate!(fn bit_moves_by(value: u64, mask: u64) -> (u64, u64) = bit_moves);

    unsafe fn masks<L: Lanes>(block: &[u8; BLOCK], in_string: bool, escaped: bool) -> [u64; 6] {
        let mut carry = Carry { in_string: if in_string { u64::MAX } else { 0 }, escaped: escaped.into() };
        // SAFETY: by this function's contract.
        unsafe {
            let lanes = L::load(block);
            let strings = carry.strings(lanes);
            let (open, separators) = (lanes.eq_folded(b'{'), lanes.eq(b',') | lanes.eq(b':'));
            [strings.quotes, strings.inside, open, separators, carry.in_string, carry.escaped]
        }
    }
    instantiate!(fn masks_by(block: &[u8; BLOCK], in_string: bool, escaped: bool) -> [u64; 6] = masks);

    proptest::proptest! {
        #[test]
        fn every_scanner_gives_the_naive_masks(
            bytes in proptest::collection::vec(proptest::sample::select(&b"\\\\\\\"{}[],:a \x00\x5f\x7f\xdb\xfb\xff"[..]), BLOCK),
            in_string: bool,
            escaped: bool,
        ) {
            let block: [u8; BLOCK] = bytes.try_into().unwrap();
            for scanner in Scanner::all() {
                let got = masks_by(scanner, &block, in_string, escaped);
                proptest::prop_assert_eq!(got, naive(&block, in_string, escaped), "{:?}", scanner);
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn every_scanner_moves_bits_alike(value: u64, mask: u64) {
            let bits: Vec<u64> = (0..64).filter(|bit| mask >> bit & 1 == 1).map(|bit| value >> bit & 1).collect();
            let extracted = bits.iter().rev().fold(0, |bits, bit| bits << 1 | bit);
            let spread = u64::from_le_bytes(std::array::from_fn(|bit| (value >> bit) as u8 & 1));
            for scanner in Scanner::all() {
                proptest::prop_assert_eq!(bit_moves_by(scanner, value, mask), (extracted, spread), "{:?}", scanner);
            }
        }
    }

    #[test]
    fn every_byte_value_is_compared_right() {
        for byte in 0..=255 {
            let block = [byte; BLOCK];
            for scanner in Scanner::all() {
                assert_eq!(
                    masks_by(scanner, &block, false, false),
                    naive(&block, false, false),
                    "{byte} {scanner:?}"
                );
            }
        }
    }

    unsafe fn skip<L: Lanes>(bytes: &[u8], from: usize, to: usize, escaped: u64) -> usize {
        // SAFETY: by this function's contract.
        unsafe { skip_string::<L>(bytes, from, to, escaped) }
    }
    instantiate!(fn skip_by(bytes: &[u8], from: usize, to: usize, escaped: u64) -> usize = skip);

    #[test]
    fn a_string_is_skipped_to_its_quote_and_not_past_the_end() {
        for length in 0..300 {
            for (filler, step) in [("a", 1), ("\\\\", 2), ("\\\"", 2)] {
                let mut text = filler.repeat(length / step);
                let content = text.len();
                text.push_str("\" after \"");
                for scanner in Scanner::all() {
                    assert_eq!(skip_by(scanner, text.as_bytes(), 0, text.len(), 0), content);
                    assert_eq!(
                        skip_by(scanner, text.as_bytes(), 0, content, 0),
                        content,
                        "no quote before `to`"
                    );
                    if content > 0 {
                        let inner = content - content % step - step;
                        let escaped = u64::from(step == 2);
                        assert_eq!(
                            skip_by(scanner, text.as_bytes(), inner + step - 1, text.len(), escaped),
                            content
                        );
                    }
                }
            }
        }
    }
}
