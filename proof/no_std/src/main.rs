//! A program without std, with a panic handler and an allocator of its own, which uses all that lapwing has without the feature `std`. It cannot be
//! linked if anything below lapwing brings in std, which has a panic handler, too.
//!
//! It ends with 0 when everything was as it has to be, and otherwise with the line that was not.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ffi::c_int;
use core::panic::PanicInfo;
use core::ptr::null_mut;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::Relaxed;

use lapwing::ring::{Read, Ring, TypedRing};
use lapwing::truncate;

const SIZE: usize = 1 << 20;

/// Memory that is given away once.
#[repr(align(4096))]
struct Arena {
    bytes: UnsafeCell<[u8; SIZE]>,
    used: AtomicUsize,
}

// SAFETY: the bytes are only reached through what `alloc` gives, and it gives no byte twice.
unsafe impl Sync for Arena {}

// SAFETY: each block is within the arena, aligned to what is asked for (at most the arena's own alignment), and nobody else's: `used` only rises.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        let mut at = 0;
        let taken = self.used.fetch_update(Relaxed, Relaxed, |used| {
            at = used.checked_next_multiple_of(align)?;
            at.checked_add(size).filter(|&end| end <= SIZE)
        });
        if taken.is_err() || align > 4096 {
            return null_mut();
        }
        self.bytes.get().cast::<u8>().wrapping_add(at)
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static ARENA: Arena = Arena { bytes: UnsafeCell::new([0; SIZE]), used: AtomicUsize::new(0) };

// All that is needed of the system. Here are copies and comparisons of memory as well, which the compiler calls.
#[link(name = "c")]
unsafe extern "C" {
    safe fn _exit(status: c_int) -> !;
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    _exit(info.location().map_or(255, |at| at.line() as c_int % 255 + 1))
}

/// What the compiled `alloc` refers to, and nobody calls where a panic does not unwind.
// SAFETY: no other function of this program has that name: it comes with std.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

// SAFETY: no other function of this program has that name, and the C runtime calls it with these arguments.
#[unsafe(no_mangle)]
extern "C" fn main(_: c_int, _: *const *const u8) -> c_int {
    the_ring();
    values();
    truncation();
    0
}

fn the_ring() {
    let ring = Ring::new(4, 64).unwrap();
    let mut reader = ring.reader_after(0).unwrap();
    for number in 1..=6u8 {
        assert_eq!(ring.publish_tagged(u16::from(number % 2), &[number; 40]).unwrap(), u64::from(number));
    }
    let Read::Dropped(lost) = reader.try_read().unwrap() else { panic!("it was lapped") };
    assert_eq!((lost.from, lost.to), (1, 2));
    reader.set_filter(|tag| tag == 1);
    let event = reader.try_read().unwrap().event().unwrap();
    assert_eq!((event.seq, event.bytes), (3, &[3; 40][..]));
    let event = reader.try_read().unwrap().event().unwrap();
    assert_eq!((event.seq, event.bytes), (5, &[5; 40][..]));
    assert!(reader.try_read().is_err());
    ring.close();
    assert!(ring.publish(b"late").is_err());
}

fn values() {
    let mut ring = TypedRing::new(8).unwrap().into_exclusive();
    let mut reader = ring.reader_from_now();
    ring.publish(&[101.25, 101.5]).unwrap();
    let event = reader.try_read().unwrap().event().unwrap();
    assert_eq!((event.seq, event.value), (1, [101.25, 101.5]));
}

fn truncation() {
    let event = br#"{"id":7,"url":"/a","body":"something long","ok":true}"#;
    let mut out = Vec::new();
    truncate::tail_into(event, 33, &mut out).unwrap();
    assert_eq!(out, br#"{"id":7,"url":"/a","body":"some"}"#);
    out.clear();
    truncate::shape(event, 46, &mut out).unwrap();
    assert_eq!(out, br#"{"id":7,"url":"/a","body":"somethi","ok":true}"#);
    assert_eq!(truncate::utf8("häuser", 2), "h");
}
