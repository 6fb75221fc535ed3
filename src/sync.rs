//! The facade over atomics, fences and parking: the real ones, or a model checker's.
//!
//! Every `cfg(loom)` and `cfg(shuttle)` of the algorithms is here. loom takes all executions that the memory model allows, of small
//! models; shuttle takes random schedules of large ones, and its memory is sequentially consistent.
//!
//! Every access that is not relaxed, and every fence, goes through a [`Label`], so that the design page's table, the
//! code and the mutants of loom name the same thing: under loom, the environment variable `LAPWING_MUTANT` makes one
//! label as weak as if it were not there.

#[cfg(feature = "std")]
use core::sync::atomic::Ordering::SeqCst;
use core::sync::atomic::Ordering::{self, Acquire, Release};

#[cfg(loom)]
use loom as model;
#[cfg(shuttle)]
use shuttle as model;

#[cfg(all(feature = "std", not(any(loom, shuttle))))]
pub(crate) use core::sync::atomic::{AtomicBool, AtomicUsize};
#[cfg(not(any(loom, shuttle)))]
pub(crate) use core::sync::atomic::{AtomicU64, fence};
#[cfg(any(loom, shuttle))]
pub(crate) use model::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, fence};

/// Whether a model checker runs this. Sizes and bounds are as small then as leaves nothing out: each access is a step that it takes.
pub(crate) const IS_MODEL: bool = cfg!(any(loom, shuttle));

/// Words between the control words of a ring, and between them and its slots: two cache lines, since
/// processors fetch lines in pairs.
pub(crate) const LINE_WORDS: usize = if IS_MODEL { 1 } else { 16 };

/// Words of an event that one chunk holds: with its head, a page. Under shuttle a chunk can be torn.
#[cfg(feature = "std")]
pub(crate) const CHUNK_WORDS: usize = if cfg!(loom) {
    1
} else if cfg!(shuttle) {
    2
} else {
    504
};

/// How often a publisher looks again at a slot that another publisher is writing before it gives its seq up.
pub(crate) const CLAIM_SPINS: u32 = if IS_MODEL { 1 } else { 64 };

/// How many numbers one publish may claim, when it finds their slots in writing, before it is refused.
pub(crate) const CLAIM_TRIES: u64 = if IS_MODEL { 2 } else { 16 };

/// One named ordering. The design page's table says what it pairs with and what breaks without it.
#[derive(Clone, Copy)]
pub(crate) struct Label {
    #[cfg(loom)]
    name: &'static str,
    order: Ordering,
}

macro_rules! labels {
    ($($(#[$meta:meta])* $ident:ident = $name:literal, $order:ident;)*) => {
        $($(#[$meta])* pub(crate) const $ident: Label = Label {
            #[cfg(loom)]
            name: $name,
            order: $order,
        };)*
        /// The names of all labels, for the suite that makes one mutant of each.
        #[cfg(loom)]
        pub const LABELS: &[&str] = &[$($name),*];
    };
}

labels! {
    /// A publisher takes over a slot from the publisher one lap before it.
    CLAIM_A = "claim:A", Acquire;
    /// The stamp "being written" before the words that it announces.
    WRITE_F = "write:F", Release;
    /// The words before the stamp "written".
    COMMIT_R = "commit:R", Release;
    /// The stamp before the words.
    READ_A = "read:A", Acquire;
    /// The words before the second look at the stamp.
    READ_F = "read:F", Acquire;
    /// What the closer did before the end that it sets.
    CLOSE_R = "close:R", Release;
    /// The end before what its reader does next.
    CLOSED_A = "closed:A", Acquire;
    /// A publisher's commit before its look for waiting readers.
    #[cfg(feature = "std")]
    NOTIFY_F = "notify:F", SeqCst;
    /// What a wake request is about before the request.
    #[cfg(feature = "std")]
    REQUEST_F = "request:F", SeqCst;
    /// A request before the attempt to lock the list; the list's unlocking before the look for requests, and so a
    /// reader's registration before its last look at the slot.
    #[cfg(feature = "std")]
    SERVE_F = "serve:F", SeqCst;
    /// What the canceller did before the cancellation.
    #[cfg(feature = "std")]
    CANCEL_R = "cancel:R", Release;
    /// The cancellation before what the cancelled reader does next.
    #[cfg(feature = "std")]
    CANCELLED_A = "cancelled:A", Acquire;
}

impl Label {
    /// The ordering to pass to an atomic access.
    #[inline(always)]
    pub(crate) fn order(self) -> Ordering {
        #[cfg(loom)]
        if self.is_mutant() {
            return Ordering::Relaxed;
        }
        self.order
    }

    /// A fence of this ordering.
    #[inline(always)]
    pub(crate) fn fence(self) {
        #[cfg(loom)]
        if self.is_mutant() {
            return;
        }
        fence(self.order);
    }

    #[cfg(loom)]
    fn is_mutant(self) -> bool {
        static MUTANT: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
        MUTANT.get_or_init(|| std::env::var("LAPWING_MUTANT").ok()).as_deref() == Some(self.name)
    }
}

#[cfg(all(test, feature = "std"))]
std::thread_local! {
    /// This thread's calls of [`spin`].
    pub(crate) static SPINS: core::cell::Cell<u64> = const { core::cell::Cell::new(0) };
    /// This thread's calls of `membarrier`.
    pub(crate) static BARRIERS: core::cell::Cell<u64> = const { core::cell::Cell::new(0) };
}

/// One step of waiting for another thread that is expected to be done at once.
#[inline(always)]
pub(crate) fn spin() {
    #[cfg(all(test, feature = "std"))]
    SPINS.set(SPINS.get() + 1);
    #[cfg(not(any(loom, shuttle)))]
    core::hint::spin_loop();
    #[cfg(any(loom, shuttle))]
    model::thread::yield_now();
}

#[cfg(feature = "std")]
pub(crate) use waiting::*;

#[cfg(feature = "std")]
mod waiting {
    use std::time::Instant;

    use super::NOTIFY_F;
    #[cfg(not(any(loom, shuttle)))]
    use super::{AtomicBool, Ordering::Relaxed};

    /// The publisher's half of a pair of full fences, which the reader's half may do for it.
    ///
    /// A publisher commits and then looks for waiting readers; a reader registers and then looks at the slot.
    /// Both need a full fence between the two, or each can miss the other. Linux can put the whole cost on the
    /// reader that goes to sleep: `membarrier(2)` runs a full barrier on every processor that runs a thread of
    /// this process, so that the publisher needs only to keep the compiler from reordering.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub(crate) enum PublisherFence {
        /// A fence of its own.
        Own,
        /// The reader's `membarrier`.
        ByReader,
    }

    impl PublisherFence {
        pub(crate) fn new() -> Self {
            if membarrier::register() { Self::ByReader } else { Self::Own }
        }

        /// Between commit and look, with every publish.
        #[inline(always)]
        pub(crate) fn publisher(self) {
            match self {
                Self::Own => NOTIFY_F.fence(),
                Self::ByReader => core::sync::atomic::compiler_fence(NOTIFY_F.order()),
            }
        }

        /// Whether publishers need nothing of a reader.
        pub(crate) fn is_own(self) -> bool {
            self == Self::Own
        }

        /// The publishers' half by a reader, between registration and look, beside the reader's own fence. False if
        /// the system refused (a sandbox entered after the ring was made can do that): the reader must then look again
        /// by itself.
        #[must_use]
        pub(crate) fn barrier(self) -> bool {
            #[cfg(test)]
            super::BARRIERS.set(super::BARRIERS.get() + 1);
            membarrier::run()
        }
    }

    #[cfg(all(target_os = "linux", not(any(loom, shuttle, miri))))]
    mod membarrier {
        fn call(command: libc::c_int) -> bool {
            // SAFETY: membarrier(2) takes three integers, touches no memory of ours, and reports an unknown
            // command as an error.
            unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
        }

        pub(super) fn register() -> bool {
            call(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
        }

        pub(super) fn run() -> bool {
            // Not registered means that this process was forked from the one that made the ring.
            call(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED)
                || (register() && call(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED))
        }
    }

    #[cfg(not(all(target_os = "linux", not(any(loom, shuttle, miri)))))]
    mod membarrier {
        /// Shuttle has it, as a step of nothing, so that readers arm the list there as on Linux.
        pub(super) fn register() -> bool {
            cfg!(shuttle)
        }

        pub(super) fn run() -> bool {
            true
        }
    }

    /// A place where loom may stop one thread and let another through. It does so only where their accesses
    /// conflict, and runs a fence as one step with the access before it; this one conflicts with itself.
    pub(crate) struct Interruption {
        #[cfg(loom)]
        accesses: super::AtomicUsize,
    }

    impl Interruption {
        pub(crate) fn new() -> Self {
            Self {
                #[cfg(loom)]
                accesses: super::AtomicUsize::new(0),
            }
        }

        #[inline(always)]
        pub(crate) fn here(&self) {
            #[cfg(loom)]
            self.accesses.fetch_add(1, super::Ordering::Relaxed);
        }
    }

    #[cfg(not(any(loom, shuttle)))]
    use std::sync as imp;

    #[cfg(any(loom, shuttle))]
    use super::model::{sync as imp, thread};

    /// A lock whose release never waits, and which knows no poison: nothing that is locked here calls foreign code.
    ///
    /// Not parking_lot's: its release takes a lock of its own when somebody waits, and a publisher releases this.
    pub(crate) struct Mutex<T>(imp::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(imp::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> imp::MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
        }

        pub(crate) fn try_lock(&self) -> Option<imp::MutexGuard<'_, T>> {
            match self.0.try_lock() {
                Ok(guard) => Some(guard),
                Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                Err(std::sync::TryLockError::WouldBlock) => None,
            }
        }
    }

    /// Runs foreign code whose panic ends here, when the panic hook has told of it.
    #[cfg(not(any(loom, shuttle)))]
    pub(crate) fn shield(foreign: impl FnOnce()) {
        if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(foreign)) {
            core::mem::forget(panic); // to drop it is foreign code, too
        }
    }

    /// A model checker tells of a failure by a panic.
    #[cfg(any(loom, shuttle))]
    pub(crate) fn shield(foreign: impl FnOnce()) {
        foreign();
    }

    /// A thread that sleeps. The standard library's parking, since its unparking takes no lock that the sleeper
    /// could have been descheduled with; and a word beside it, since the thread has only one token, and foreign code that
    /// parks in a filter or a waker may take it.
    #[cfg(not(any(loom, shuttle)))]
    pub(crate) struct Sleeper {
        thread: std::thread::Thread,
        woken: AtomicBool,
    }

    #[cfg(not(any(loom, shuttle)))]
    impl Sleeper {
        pub(crate) fn this_thread() -> Self {
            Self { thread: std::thread::current(), woken: AtomicBool::new(false) }
        }

        pub(crate) fn is_this_thread(&self) -> bool {
            self.thread.id() == std::thread::current().id()
        }

        /// To be called by the thread itself. May return early.
        pub(crate) fn park(&self, deadline: Option<Instant>) {
            // Relaxed: whatever took the token on this thread saw to it that the word before it is seen here.
            if !self.woken.load(Relaxed) {
                match deadline {
                    Some(deadline) => {
                        std::thread::park_timeout(deadline.saturating_duration_since(Instant::now()));
                    }
                    None => std::thread::park(),
                }
            }
            self.woken.store(false, Relaxed); // the caller looks again, whatever woke it
        }

        pub(crate) fn unpark(&self) {
            self.woken.store(true, Relaxed);
            self.thread.unpark();
        }
    }

    /// The same over a model checker's condition variable, which never times out and never returns early. (loom's own `park` wakes
    /// threads that are blocked elsewhere; shuttle's returns early at any time, and so hides that a wake-up was lost.)
    #[cfg(any(loom, shuttle))]
    pub(crate) struct Sleeper {
        thread: thread::ThreadId,
        token: imp::Mutex<bool>,
        arrived: imp::Condvar,
    }

    #[cfg(any(loom, shuttle))]
    impl Sleeper {
        pub(crate) fn this_thread() -> Self {
            Self {
                thread: thread::current().id(),
                token: imp::Mutex::new(false),
                arrived: imp::Condvar::new(),
            }
        }

        pub(crate) fn is_this_thread(&self) -> bool {
            self.thread == thread::current().id()
        }

        pub(crate) fn park(&self, _deadline: Option<Instant>) {
            let mut token = self.token.lock().unwrap();
            while !*token {
                token = self.arrived.wait(token).unwrap();
            }
            *token = false;
        }

        pub(crate) fn unpark(&self) {
            *self.token.lock().unwrap() = true;
            self.arrived.notify_one();
        }
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn foreign_code_that_parks_takes_no_wake_up() {
        let sleeper = Sleeper::this_thread();
        sleeper.unpark();
        thread::park_timeout(Duration::ZERO); // what a filter may do between a reader's registration and its sleep
        let start = Instant::now();
        sleeper.park(Some(start + Duration::from_secs(3600)));
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}
