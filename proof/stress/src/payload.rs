//! Payloads that say what they are: who published them, as which of its events, and every further word follows from those.

use crate::violation::Violation;

/// The most publishers of a ring.
pub const PUBLISHERS: usize = 8;
/// How many tags there are.
pub const TAGS: u16 = 7;

/// Which of a publisher's events this is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Origin {
    pub publisher: u8,
    pub count: u64,
}

#[inline(always)]
fn mix(word: u64) -> u64 {
    let mixed = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}

impl Origin {
    /// The first word of its payload.
    #[inline(always)]
    pub fn word(self) -> u64 {
        u64::from(self.publisher) << 56 | self.count
    }

    #[inline(always)]
    pub fn of_word(word: u64) -> Result<Self, Violation> {
        let origin = Self { publisher: (word >> 56) as u8, count: word & ((1 << 56) - 1) };
        if usize::from(origin.publisher) >= PUBLISHERS {
            return Err(Violation::Torn(format!("no publisher is {origin:?}")));
        }
        Ok(origin)
    }

    /// Many bits that depend on all of it.
    #[inline(always)]
    pub fn mix(self) -> u64 {
        mix(self.word() ^ 0x5bd1_e995_0000_0000)
    }

    /// Word `at` after the first.
    #[inline(always)]
    fn word_at(self, at: usize) -> u64 {
        mix(self.word() ^ (at as u64) << 40 ^ at as u64)
    }

    /// The bytes of its payload where there is room for `max`, of which 8 are needed.
    #[inline(always)]
    fn len(self, max: usize) -> usize {
        8 + ((self.mix() >> 16) % (max as u64 - 7)) as usize
    }

    #[inline(always)]
    pub fn tag(self) -> u16 {
        (self.mix() >> 8 & 0xff) as u16 % TAGS
    }

    /// Its payload, in the first bytes of `room`.
    #[inline]
    pub fn fill(self, room: &mut [u8]) -> &[u8] {
        let len = self.len(room.len());
        let payload = &mut room[..len];
        let (words, rest) = payload.as_chunks_mut();
        for (at, word) in words.iter_mut().enumerate() {
            *word = if at == 0 { self.word() } else { self.word_at(at) }.to_le_bytes();
        }
        let last = self.word_at(words.len()).to_le_bytes();
        rest.copy_from_slice(&last[..rest.len()]);
        payload
    }

    /// Whose this payload is, if every byte is right.
    #[inline]
    pub fn of_bytes(bytes: &[u8], tag: u16, max: usize) -> Result<Self, Violation> {
        let (words, rest) = bytes.as_chunks();
        let Some(first) = words.first() else {
            return Err(Violation::Torn(format!("a payload of {} bytes", bytes.len())));
        };
        let origin = Self::of_word(u64::from_le_bytes(*first))?;
        let words_are_right = words
            .iter()
            .enumerate()
            .skip(1)
            .all(|(at, word)| u64::from_le_bytes(*word) == origin.word_at(at));
        let last = origin.word_at(words.len()).to_le_bytes();
        if !words_are_right
            || *rest != last[..rest.len()]
            || bytes.len() != origin.len(max)
            || tag != origin.tag()
        {
            return Err(Violation::Torn(format!("{origin:?} with tag {tag} is {bytes:x?}")));
        }
        Ok(origin)
    }

    /// Its value.
    #[inline(always)]
    pub fn value<const N: usize>(self) -> [u64; N] {
        std::array::from_fn(|at| if at == 0 { self.word() } else { self.word_at(at) })
    }

    /// Whose this value is, if every word is right.
    #[inline(always)]
    pub fn of_value<const N: usize>(value: &[u64; N]) -> Result<Self, Violation> {
        let origin = Self::of_word(value[0])?;
        if !value.iter().enumerate().skip(1).all(|(at, word)| *word == origin.word_at(at)) {
            return Err(Violation::Torn(format!("{origin:?} is {value:x?}")));
        }
        Ok(origin)
    }
}

/// Random numbers that follow from a seed.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    /// 0 to `n` - 1.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Once in `n` times.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// One for another thread.
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_counts() {
        for count in 0..200 {
            let origin = Origin { publisher: 3, count };
            let mut room = [0; 100];
            let payload = origin.fill(&mut room).to_vec();
            assert_eq!(Origin::of_bytes(&payload, origin.tag(), 100), Ok(origin));
            // From one word nothing follows: another count makes another event, of another length as a rule.
            let bits = if payload.len() < 16 { 0 } else { payload.len() * 8 };
            for bit in 0..bits {
                let mut torn = payload.clone();
                torn[bit / 8] ^= 1 << (bit % 8);
                assert!(Origin::of_bytes(&torn, origin.tag(), 100).is_err(), "{origin:?}, bit {bit}");
            }
            assert!(Origin::of_bytes(&payload[..payload.len() - 1], origin.tag(), 100).is_err());
            assert!(Origin::of_bytes(&payload, origin.tag() + 1, 100).is_err());
            let value = origin.value::<5>();
            assert_eq!(Origin::of_value(&value), Ok(origin));
            for bit in 0..5 * 64 {
                let mut torn = value;
                torn[bit / 64] ^= 1 << (bit % 64);
                assert!(Origin::of_value(&torn).is_err(), "{origin:?}, bit {bit}");
            }
        }
    }
}
