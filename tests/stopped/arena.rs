//! Memory that a forked child has in common with its parent, at the same addresses; and memory whose addresses are the same each time.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

/// What is never used of it stays untouched.
const BYTES: usize = 16 << 20;

/// A mapping that is used up from its start, until nothing of it is in use: then it is all free again, and the next block lies where the
/// first one lay.
struct Arena {
    /// Of the mapping; 0 before it is made.
    start: AtomicUsize,
    used: AtomicUsize,
    /// How many blocks are in use.
    live: AtomicUsize,
    flags: libc::c_int,
}

/// What a child has in common with its parent.
static SHARED: Arena = Arena::new(libc::MAP_SHARED);
/// What each has for itself.
static PRIVATE: Arena = Arena::new(libc::MAP_PRIVATE);

/// Where memory is taken from.
static PLACE: AtomicUsize = AtomicUsize::new(SYSTEM);
const SYSTEM: usize = 0;
const IN_SHARED: usize = 1;
const IN_PRIVATE: usize = 2;

impl Arena {
    const fn new(kind: libc::c_int) -> Self {
        let [start, used, live] = [const { AtomicUsize::new(0) }; 3];
        Self { start, used, live, flags: kind | libc::MAP_ANONYMOUS }
    }

    fn map(&self) {
        if self.start.load(Relaxed) == 0 {
            // SAFETY: a new mapping, at an address that the system chooses.
            let start = unsafe {
                libc::mmap(null_mut(), BYTES, libc::PROT_READ | libc::PROT_WRITE, self.flags, -1, 0)
            };
            assert_ne!(start, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
            self.start.store(start.expose_provenance(), Relaxed);
        }
    }

    fn has(&self, ptr: *mut u8) -> bool {
        let start = self.start.load(Relaxed);
        start != 0 && (start..start + BYTES).contains(&ptr.addr())
    }

    fn take(&self, layout: Layout) -> *mut u8 {
        let at = self.used.load(Relaxed).next_multiple_of(layout.align());
        if layout.size() > BYTES - at {
            return null_mut();
        }
        self.used.store(at + layout.size(), Relaxed);
        self.live.fetch_add(1, Relaxed);
        std::ptr::with_exposed_provenance_mut(self.start.load(Relaxed) + at)
    }

    fn give_back(&self) {
        if self.live.fetch_sub(1, Relaxed) == 1 {
            self.used.store(0, Relaxed);
        }
    }
}

struct Arenas;

#[global_allocator]
static ARENAS: Arenas = Arenas;

// SAFETY: a block of an arena is inside of its mapping, which lives as long as the process, aligned as asked for (the mapping is, to a
// page, and no layout here asks for more), and behind every block in use. All others are `System`'s, which gets them back. No method
// panics. One thread only calls it: `fork` asserts that there is no other.
unsafe impl GlobalAlloc for Arenas {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match PLACE.load(Relaxed) {
            IN_SHARED => SHARED.take(layout),
            IN_PRIVATE => PRIVATE.take(layout),
            // SAFETY: the caller keeps `alloc`'s contract.
            _ => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        if SHARED.has(ptr) {
            SHARED.give_back();
        } else if PRIVATE.has(ptr) {
            PRIVATE.give_back();
        } else {
            // SAFETY: the caller keeps `dealloc`'s contract, and what is no arena's is `System`'s.
            unsafe { System.dealloc(ptr, layout) }
        }
    }
}

fn within<T>(place: usize, make: impl FnOnce() -> T) -> T {
    let before = PLACE.swap(place, Relaxed);
    let made = make();
    PLACE.store(before, Relaxed);
    made
}

/// Runs `make`, and what it takes from the allocator lies in shared memory.
pub fn shared<T>(make: impl FnOnce() -> T) -> T {
    SHARED.map();
    within(IN_SHARED, make)
}

/// Runs `make`, and what it takes lies where it lay the last time, if all of that is given back.
pub fn private<T>(make: impl FnOnce() -> T) -> T {
    PRIVATE.map();
    within(IN_PRIVATE, make)
}

/// How many blocks of both kinds are in use.
pub fn live() -> usize {
    SHARED.live.load(Relaxed) + PRIVATE.live.load(Relaxed)
}

/// A copy of all that is in use of it, to tell whether a child has written there.
pub struct Snapshot(Vec<u8>);

impl Snapshot {
    pub fn take() -> Self {
        let mut snapshot = Self(vec![0; SHARED.used.load(Relaxed)]);
        snapshot.copy();
        snapshot
    }

    fn source() -> *const c_void {
        std::ptr::with_exposed_provenance(SHARED.start.load(Relaxed))
    }

    fn copy(&mut self) {
        // SAFETY: so many bytes are mapped there, initialized by the system, and nobody writes them now: the child is stopped. The call
        // is foreign, so that it makes no claim about the types that lie there.
        unsafe { libc::memcpy(self.0.as_mut_ptr().cast(), Self::source(), self.0.len()) };
    }

    /// Whether anything was written since the last call.
    pub fn has_changed(&mut self) -> bool {
        // SAFETY: as in `copy`.
        let differs = unsafe { libc::memcmp(self.0.as_ptr().cast(), Self::source(), self.0.len()) != 0 };
        if differs {
            self.copy();
        }
        differs
    }
}
