//! What must hold, and what is done when it does not.

use std::fmt::Display;
use std::process;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::thread::ScopedJoinHandle;

use crate::payload::{Origin, PUBLISHERS};
use crate::violation::Violation;

/// What is running, for whoever reads of a violation.
static RUNNING: Mutex<String> = Mutex::new(String::new());

pub fn now_running(what: String) {
    *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) = what;
}

/// Ends the process: what comes after a violation tells nothing.
pub fn fail(violation: impl Display) -> ! {
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    eprintln!("VIOLATION {violation}\nwhile running {running}");
    process::exit(1);
}

/// Unwraps what must be.
pub trait OrFail<T> {
    fn or_fail(self, what: impl Display) -> T;
}

impl<T, E: Display> OrFail<T> for Result<T, E> {
    #[inline(always)]
    fn or_fail(self, what: impl Display) -> T {
        self.unwrap_or_else(|error| fail(format_args!("{what}: {error}")))
    }
}

/// Waits for every thread, one after the other: that a scope waits at its end is in std's own code, where ThreadSanitizer does not see it.
pub fn join_all(threads: Vec<ScopedJoinHandle<'_, ()>>) {
    for thread in threads {
        thread.join().map_err(|_| "it panicked").or_fail("a thread");
    }
}

/// Sums over all rounds.
pub struct Totals {
    pub published: AtomicU64,
    pub delivered: AtomicU64,
    pub skipped: AtomicU64,
    pub dropped: AtomicU64,
    pub leaked: AtomicU64,
}

pub static TOTALS: Totals = Totals {
    published: AtomicU64::new(0),
    delivered: AtomicU64::new(0),
    skipped: AtomicU64::new(0),
    dropped: AtomicU64::new(0),
    leaked: AtomicU64::new(0),
};

/// What one reader has seen, exact to the event. A reader that moves begins a new stretch.
#[derive(Clone, Debug)]
pub struct Account {
    /// Before the stretch.
    from: u64,
    /// The last seq that is accounted for.
    pub last: u64,
    /// The lengths of earlier stretches.
    covered: u64,
    pub delivered: u64,
    pub dropped: u64,
    /// Seqs that a filter has passed over, as far as they are seen to be missing.
    skipped: u64,
    /// What the reader has told of that in this stretch.
    told_skipped: u64,
    /// Whether there is a filter.
    pub is_filtered: bool,
    /// A bit for every tag that a filter of tags wants.
    pub tags: u64,
    /// By publisher: the count that comes next.
    next: [u64; PUBLISHERS],
    /// Counts that were passed over.
    missing: u64,
    has_moved: bool,
}

impl Account {
    /// For a reader that looks for `next_seq`.
    pub fn new(next_seq: u64) -> Self {
        Self {
            from: next_seq - 1,
            last: next_seq - 1,
            covered: 0,
            delivered: 0,
            dropped: 0,
            skipped: 0,
            told_skipped: 0,
            is_filtered: false,
            tags: u64::MAX,
            next: [0; PUBLISHERS],
            missing: 0,
            has_moved: false,
        }
    }

    #[inline]
    pub fn event(&mut self, seq: u64, origin: Origin) -> Result<(), Violation> {
        self.come_to(seq)?;
        if self.is_filtered && self.tags >> origin.tag() & 1 == 0 {
            return Err(Violation::Other(format!("seq {seq} is {origin:?}, which the filter does not want")));
        }
        self.last = seq;
        self.delivered += 1;
        let next = &mut self.next[usize::from(origin.publisher)];
        if origin.count < *next {
            return Err(Violation::Reordered(format!("seq {seq} is {origin:?}, where {next} comes next")));
        }
        let missing = origin.count - *next;
        *next = origin.count + 1;
        self.missing += missing;
        Ok(())
    }

    #[inline]
    pub fn dropped(&mut self, from: u64, to: u64) -> Result<(), Violation> {
        self.come_to(from)?;
        if to < from {
            return Err(Violation::Unaccounted(format!("dropped from {from} to {to}")));
        }
        self.last = to;
        self.dropped += to - from + 1;
        Ok(())
    }

    /// What lies before `seq` was skipped by a filter, or must not be there.
    #[inline]
    fn come_to(&mut self, seq: u64) -> Result<(), Violation> {
        if seq == self.last + 1 {
            return Ok(());
        }
        if seq <= self.last {
            return Err(Violation::Reordered(format!("seq {seq} comes after {}", self.last)));
        }
        if !self.is_filtered {
            let last = self.last;
            return Err(Violation::Unaccounted(format!("seq {seq} comes after {last}, and nothing is told")));
        }
        self.skipped += seq - self.last - 1;
        Ok(())
    }

    /// Compares it with a reader that looks for `next_seq` and says that it has skipped so many since it was made.
    pub fn settle(&mut self, next_seq: u64, told_skipped: Option<u64>) -> Result<(), Violation> {
        self.come_to(next_seq)?;
        self.last = next_seq - 1;
        let sum = self.delivered + self.dropped + self.skipped;
        let covered = self.covered + self.last - self.from;
        if sum != covered {
            return Err(Violation::Unaccounted(format!("{sum} numbers of {covered}: {self:?}")));
        }
        if let Some(told) = told_skipped
            && told.wrapping_sub(self.told_skipped) != self.skipped
        {
            return Err(Violation::Unaccounted(format!("{told} are told as skipped: {self:?}")));
        }
        Ok(())
    }

    /// The reader was settled, and is somewhere else now, or another one.
    pub fn moved(&mut self, next_seq: u64, told_skipped: u64) {
        self.covered += self.last - self.from;
        (self.from, self.last) = (next_seq - 1, next_seq - 1);
        self.told_skipped = told_skipped.wrapping_sub(self.skipped);
        self.next = [0; PUBLISHERS];
        self.has_moved = true;
    }

    /// The end of a ring whose last seq is `newest`.
    pub fn end(&self, newest: u64) -> Result<(), Violation> {
        if self.last != newest {
            return Err(Violation::Unaccounted(format!("the end is at {newest}: {self:?}")));
        }
        let add = |total: &AtomicU64, n| total.fetch_add(n, std::sync::atomic::Ordering::Relaxed);
        add(&TOTALS.delivered, self.delivered);
        add(&TOTALS.skipped, self.skipped);
        add(&TOTALS.dropped, self.dropped);
        Ok(())
    }

    /// For a reader that was there from the first event to the last, and has not moved: what it has not got is what it was told to have lost.
    pub fn whole(&self, counts: &[u64; PUBLISHERS], abandoned: u64) -> Result<(), Violation> {
        let rest = counts.iter().zip(&self.next).map(|(count, next)| count - next).sum::<u64>();
        let (told, lost) = (self.dropped + self.skipped, self.missing + rest + abandoned);
        if self.has_moved || told != lost {
            return Err(Violation::Unaccounted(format!("{told} are told, {lost} lost: {self:?}")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(count: u64) -> Origin {
        Origin { publisher: 1, count }
    }

    #[test]
    fn what_is_in_order_and_told_is_right() {
        let mut account = Account::new(1);
        account.event(1, at(0)).unwrap();
        account.dropped(2, 4).unwrap();
        account.event(5, at(3)).unwrap();
        account.settle(6, Some(0)).unwrap();
        account.end(5).unwrap();
        account.whole(&[0, 4, 0, 0, 0, 0, 0, 0], 1).unwrap();
        account.moved(3, 0);
        account.event(3, at(1)).unwrap();
        account.settle(4, Some(0)).unwrap();
    }

    #[test]
    fn a_hole_is_found() {
        let mut account = Account::new(1);
        account.event(1, at(0)).unwrap();
        assert!(matches!(account.event(3, at(1)), Err(Violation::Unaccounted(_))));
        assert!(matches!(account.dropped(4, 5), Err(Violation::Unaccounted(_))));
        assert!(matches!(account.settle(5, None), Err(Violation::Unaccounted(_))));
        assert!(matches!(account.end(2), Err(Violation::Unaccounted(_))));
    }

    #[test]
    fn what_comes_twice_or_too_late_is_found() {
        let mut account = Account::new(1);
        account.event(1, at(7)).unwrap();
        assert!(matches!(account.event(1, at(8)), Err(Violation::Reordered(_))));
        assert!(matches!(account.event(2, at(7)), Err(Violation::Reordered(_))));
    }

    #[test]
    fn an_untold_loss_is_found() {
        let mut account = Account::new(1);
        account.event(1, at(0)).unwrap();
        account.event(2, at(2)).unwrap();
        assert!(matches!(account.whole(&[0, 3, 0, 0, 0, 0, 0, 0], 0), Err(Violation::Unaccounted(_))));
    }

    #[test]
    fn what_a_filter_skips_must_be_what_the_reader_says() {
        let mut account = Account::new(1);
        account.is_filtered = true;
        account.event(4, at(0)).unwrap();
        account.settle(6, Some(4)).unwrap();
        assert!(matches!(account.settle(6, Some(3)), Err(Violation::Unaccounted(_))));
    }
}
