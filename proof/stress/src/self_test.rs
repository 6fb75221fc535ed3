//! Mistakes on purpose, each of which the sanitizer in charge has to report: otherwise its silence would tell nothing.
#![expect(unsafe_code, reason = "they are mistakes")]

use std::cell::UnsafeCell;
use std::hint::black_box;
use std::process;
use std::sync::Barrier;
use std::thread;

/// A counter without any synchronization.
struct Racy(UnsafeCell<u64>);

// SAFETY: none. This is the mistake.
unsafe impl Sync for Racy {}

/// Makes the mistake of this name and ends the process.
pub fn run(name: &str) -> Result<(), String> {
    match name {
        "race" => race(),
        "overflow" => overflow(),
        "leak" => leak(),
        _ => return Err(format!("--self-test {name}: race, overflow and leak are there")),
    }
    eprintln!("the mistake was made: {name}");
    process::exit(0)
}

fn race() {
    static COUNTER: Racy = Racy(UnsafeCell::new(0));
    let barrier = Barrier::new(2);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                barrier.wait();
                for _ in 0..100_000 {
                    // SAFETY: none. The other thread does the same, at the same time.
                    unsafe { *black_box(COUNTER.0.get()) += 1 };
                }
            });
        }
    });
}

fn overflow() {
    let bytes = black_box(vec![1u8; 64]);
    // SAFETY: none. It is the byte behind the last one.
    black_box(unsafe { *bytes.as_ptr().add(black_box(64)) });
}

#[inline(never)]
fn leak() {
    for _ in 0..4 {
        black_box(Box::leak(black_box(Box::new([7u8; 1000]))));
    }
}
