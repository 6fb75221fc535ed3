//! An allocator that counts its calls, of each thread apart. A test that has this module runs on it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// What this thread took or gave back.
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

fn count() {
    CALLS.set(CALLS.get() + 1);
}

// SAFETY: every call goes to `System` as it came, which keeps the contract; the count is a cell of the thread that
// takes no memory itself, and needs no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `alloc_zeroed`'s contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `realloc`'s contract.
        unsafe { System.realloc(ptr, layout, size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count();
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often this thread called the allocator until now.
pub fn calls_so_far() -> u64 {
    CALLS.get()
}

/// Runs `f` twice, first to warm up, and says how often the second run called the allocator.
pub fn calls(mut f: impl FnMut()) -> u64 {
    f();
    let before = calls_so_far();
    f();
    calls_so_far() - before
}

#[test]
fn the_allocator_counts() {
    let mut kept = Vec::new();
    assert_eq!(calls(|| kept = vec![1u8; 100]), 2, "one taken, one given back");
    assert_eq!(kept.len(), 100);
}
