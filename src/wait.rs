//! The list of waiting readers: threads, tasks, time-outs, cancellation and the end of a ring go through it.
//!
//! A reader that finds nothing registers a waker, looks once more, and sleeps. A publisher that has committed
//! looks at one word and is done when nobody waits. When somebody does, it takes the list's lock *if it is
//! free*; if it is not, it leaves a request, which whoever holds the lock serves on the way out. So a publisher
//! never waits for a reader, not even for one that was descheduled with the lock in its hand.

use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use core::task::Waker;

use crossbeam_utils::CachePadded;

use crate::sync::{
    AtomicBool, AtomicUsize, IS_MODEL, Interruption, Mutex, PublisherFence, REQUEST_F, SERVE_F, shield,
};

/// How many wakers are taken out of the list at a time, to be called with the lock released.
const WAKE_BATCH: usize = if IS_MODEL { 1 } else { 16 };

/// What is asked of whoever holds the lock. A larger request includes the smaller ones.
mod request {
    pub(super) const NOTHING: usize = 0;
    /// Go on with the walk that was interrupted to call wakers.
    pub(super) const RESUME: usize = 1;
    /// Walk the whole list.
    pub(super) const WALK: usize = 2;
}

pub(crate) struct WaitList {
    /// Whether somebody may wait. Written under the lock.
    awaited: CachePadded<AtomicBool>,
    requested: AtomicUsize,
    fence: PublisherFence,
    interruption: Interruption,
    places: Mutex<Places>,
}

#[derive(Default)]
struct Places {
    places: Vec<Place>,
    /// How many places hold a waker.
    waiting: usize,
    /// Whether a barrier was made since the list began to be awaited: what a publisher has committed that still missed it
    /// can be seen.
    armed: bool,
    /// How often the list has ceased to be awaited.
    rests: u64,
    /// Where a walk goes on, whether the one before came to its end or not: so none waits for ever behind others.
    next: usize,
    /// How many places the walk has not come to.
    left: usize,
}

enum Place {
    Free,
    Taken(Option<Waker>),
}

/// A reader's place in the list.
#[derive(Clone, Copy)]
pub(crate) struct Key(usize);

impl Places {
    fn swap_waker(&mut self, key: usize, new: Option<Waker>) -> Option<Waker> {
        let Place::Taken(waker) = &mut self.places[key] else { return None };
        let added = usize::from(new.is_some());
        let old = core::mem::replace(waker, new);
        self.waiting = self.waiting + added - usize::from(old.is_some());
        old
    }
}

impl WaitList {
    pub(crate) fn new() -> Self {
        Self {
            awaited: CachePadded::new(AtomicBool::new(false)),
            requested: AtomicUsize::new(request::NOTHING),
            fence: PublisherFence::new(),
            interruption: Interruption::new(),
            places: Mutex::new(Places::default()),
        }
    }

    /// A place for one reader. All the memory that waiting needs is taken here.
    pub(crate) fn enter(&self) -> Key {
        self.locked(|list| {
            let free = list.places.iter().position(|place| matches!(place, Place::Free));
            let key = free.unwrap_or(list.places.len());
            if free.is_none() {
                list.places.push(Place::Free);
                list.left += usize::from(list.left > 0); // it may lie in the way of a walk
            }
            list.places[key] = Place::Taken(None);
            Key(key)
        })
    }

    /// Gives the place back.
    pub(crate) fn leave(&self, key: Key) {
        let waker = self.locked(|list| {
            let waker = list.swap_waker(key.0, None);
            list.places[key.0] = Place::Free;
            waker
        });
        drop(waker); // foreign code, as every call of a waker: never under the lock
    }

    /// Registers `waker` in place of an earlier one. The caller must look at what it waits for once more before
    /// it sleeps: what was published before this call wakes nobody. False when it must not count on being woken.
    #[must_use]
    pub(crate) fn register(&self, key: Key, waker: &Waker) -> bool {
        let waker = waker.clone();
        let (earlier, armed, rests) =
            self.locked(|list| (list.swap_waker(key.0, Some(waker)), list.armed, list.rests));
        drop(earlier);
        // `locked` ended with serve:F, this reader's half of the pair with notify:F. The publishers' half is their own,
        // or comes from here, unless some reader has seen to it since the list began to be awaited.
        if armed || self.fence.is_own() {
            return true;
        }
        let certain = self.fence.barrier();
        if certain {
            self.locked(|list| list.armed |= list.rests == rests);
        }
        certain
    }

    /// Takes the waker out again.
    pub(crate) fn unregister(&self, key: Key) {
        drop(self.take(key));
    }

    /// Wakes whoever waits at `key`, for its cancellation. May wait for the lock: not for publishers.
    pub(crate) fn wake_one(&self, key: Key) {
        self.take(key).into_iter().for_each(wake);
    }

    fn take(&self, key: Key) -> Option<Waker> {
        self.locked(|list| list.swap_waker(key.0, None))
    }

    /// After a commit: wakes everybody, if anybody waits. One load when nobody does, but for the first publish
    /// after somebody did.
    #[inline(always)]
    pub(crate) fn notify(&self) {
        self.fence.publisher();
        if self.awaited.load(Relaxed) {
            self.wake_all();
        }
    }

    /// Wakes everybody, without waiting for the list's lock: its holder takes over.
    #[cold]
    pub(crate) fn wake_all(&self) {
        // request:F, with serve:F. Without it, a reader could be woken without a sight of what it is woken for; and one that
        // registers after the walk could miss an end, if its closer was stopped between here and its own serve:F.
        self.interruption.here();
        REQUEST_F.fence();
        // A read-modify-write, not a store: whoever takes the last request has what came before each of them.
        self.requested.fetch_max(request::WALK, Relaxed);
        self.serve();
    }

    /// How many readers are registered: each one wakes, whether it sleeps already or is about to.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.locked(|list| list.waiting)
    }

    /// Runs `f` while the list is locked. Also returns how many readers are registered at its end.
    #[cfg(test)]
    pub(crate) fn while_locked<R>(&self, f: impl FnOnce() -> R) -> (R, usize) {
        self.locked(|list| (f(), list.waiting))
    }

    fn locked<R>(&self, f: impl FnOnce(&mut Places) -> R) -> R {
        let mut places = self.places.lock();
        let result = f(&mut places);
        if places.waiting > 0 && !self.awaited.load(Relaxed) {
            self.awaited.store(true, Relaxed);
        }
        drop(places);
        self.serve();
        result
    }

    /// Serves what is requested, for as long as the lock is free. Whoever holds it comes here after it.
    fn serve(&self) {
        self.fence();
        while self.requested.load(Relaxed) != request::NOTHING {
            let mut wakers = [const { None::<Waker> }; WAKE_BATCH];
            let Some(mut list) = self.places.try_lock() else { return };
            if self.requested.swap(request::NOTHING, Relaxed) == request::WALK {
                list.left = list.places.len();
                // Readers that were woken will be back: only a walk in vain ends it, so that a reader that waits for
                // every event need not arm the list each time.
                if list.waiting == 0 && self.awaited.load(Relaxed) {
                    list.armed = false;
                    list.rests += 1;
                    self.awaited.store(false, Relaxed);
                }
            }
            let mut taken = 0;
            while taken < WAKE_BATCH && list.left > 0 && list.waiting > 0 {
                let at = list.next % list.places.len();
                wakers[taken] = list.swap_waker(at, None);
                taken += usize::from(wakers[taken].is_some());
                list.next = at + 1;
                list.left -= 1;
            }
            if list.waiting == 0 {
                list.left = 0;
            }
            if list.left > 0 {
                self.requested.fetch_max(request::RESUME, Relaxed);
            }
            drop(list);
            self.fence();
            wakers.into_iter().flatten().for_each(wake);
        }
    }

    fn fence(&self) {
        self.interruption.here();
        // serve:F, with notify:F, request:F and itself. Without it, a publisher that could not lock and the
        // holder that unlocks, or a publisher that looks for waiting readers and a reader that registers, could
        // miss each other.
        SERVE_F.fence();
    }
}

/// Calls a waker. Its panic is not the caller's, nor that of those who are woken after it.
fn wake(waker: Waker) {
    shield(|| waker.wake());
}
