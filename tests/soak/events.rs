//! Events of which everybody knows what they are from their number alone, and the account of who got which.

use std::io::Write;

/// Those of the events, in no order.
pub const CATEGORIES: [&str; 4] = ["console", "network", "page", "interaction"];

/// Bits that a number has for itself (the finalizer of SplitMix64).
pub fn mix(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

pub fn category(seq: u64) -> usize {
    (mix(seq) % CATEGORIES.len() as u64) as usize
}

/// The event `seq`, as it is published.
pub fn write_event(seq: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"ts\":");
    write_number(seq, out);
    out.extend_from_slice(b",\"type\":\"tick\",\"category\":\"");
    out.extend_from_slice(CATEGORIES[category(seq)].as_bytes());
    out.extend_from_slice(b"\",\"source\":{\"kind\":\"local_process\"},\"data\":\"");
    let bits = mix(seq);
    out.extend((0..16).map(|digit| b"0123456789abcdef"[(bits >> (digit * 4) & 15) as usize]));
    out.extend_from_slice(b"\"}");
}

/// The envelope of the event `seq`, as it arrives everywhere.
pub fn write_envelope(seq: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"seq\":");
    write_number(seq, out);
    out.extend_from_slice(b",\"event\":");
    write_event(seq, out);
    out.push(b'}');
}

pub fn write_number(number: u64, out: &mut Vec<u8>) {
    let _ = write!(out, "{number}"); // a vector takes everything
}

/// What somebody got of the events that he wants, in their order.
#[derive(Clone, Debug)]
pub struct Account {
    /// The one category; nothing for all.
    only: Option<usize>,
    /// All up to this number is accounted for.
    pub at: u64,
    pub delivered: u64,
    /// Told to be lost, of those wanted.
    pub lost: u64,
}

impl Account {
    /// From the first event on.
    pub fn new(only: Option<usize>) -> Self {
        Self { only, at: 0, delivered: 0, lost: 0 }
    }

    fn wants(&self, seq: u64) -> bool {
        self.only.is_none_or(|only| category(seq) == only)
    }

    /// The event that has to come next.
    pub fn next(&self) -> u64 {
        (self.at + 1..).find(|&seq| self.wants(seq)).unwrap_or(u64::MAX)
    }

    /// The next one came.
    pub fn deliver(&mut self) {
        (self.at, self.delivered) = (self.next(), self.delivered + 1);
    }

    /// It was told that these are lost, wanted or not. What is stepped over without a word must not be wanted.
    pub fn lose(&mut self, from: u64, to: u64) -> Result<(), String> {
        if from <= self.at || from > self.next() || to < from {
            return Err(format!(
                "{from} to {to} are told lost after {}, and {} comes next",
                self.at,
                self.next()
            ));
        }
        self.lost += (from..=to).filter(|&seq| self.wants(seq)).count() as u64;
        self.at = to;
        Ok(())
    }

    /// Whether nothing up to this number is missing.
    pub fn is_complete(&self, total: u64) -> bool {
        self.next() > total
    }

    /// Whether the numbers agree, which does not rest on what came in which order. `wanted` has how many there are of each category, and of all.
    pub fn check(&self, total: u64, wanted: &[u64; CATEGORIES.len() + 1]) -> Result<(), String> {
        let wanted = wanted[self.only.unwrap_or(CATEGORIES.len())];
        if !self.is_complete(total) || self.delivered + self.lost != wanted {
            return Err(format!("of {wanted} events up to {total} it has {self:?}"));
        }
        Ok(())
    }
}
