//! A publisher stopped at every machine instruction of a publish: the code as it is compiled, not a model of it.
//!
//! The ring lies in memory that a forked child shares. The child publishes, and its parent runs it one instruction at a time, up to the
//! n-th, for every n, each time in a new ring that has gone round already. While the child stands there, the parent does what other threads
//! do: it publishes, for less than a lap or for several, and reads, from before, from now and from the oldest event. Then the child
//! goes on to its end, or never runs again.
//!
//! `src/ring/tests.rs` stops a publisher at three places that were thought of, and `proof/slots.pml` at each step of a specification. This
//! needs no thought: whatever others can see of a stopped publisher, they see it here. (One processor at a time: what another one could
//! see in another order is for the models.)
//!
//! Asserted at every stop, by readers that check every byte:
//!
//! - no event is torn, comes twice, under two numbers, or out of order; delivered and dropped add up to the last number;
//! - others publish: each call takes at most one number more than it needs, and returns; a ring of a single slot may refuse;
//! - a reader that waits for the stopped one's event gets across within a lap, and after that misses no event of others;
//! - who goes on is told a number, and its event is delivered whole under that number, or that number is told as dropped;
//! - who never runs again leaves a bus that lives: of all that comes later nothing is lost, and its number is told as dropped.
//!
//! In the two longest publishes, whose copies and scans repeat, not every instruction has a stop, but each one around a change of shared memory
//! has: between two changes there is nothing new to be seen. The table at the end has, by kind, how many of its instructions change
//! something, what the reader that is there already saw at the stops, what became of the stopped one's numbers, and what the publishers beside
//! it needed at most.
#![cfg_attr(not(all(target_os = "linux", target_arch = "x86_64")), allow(dead_code))]

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod arena;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod check;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod subject;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod traced;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn main() -> std::process::ExitCode {
    check::main()
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() {
    println!("NOT RUN: stopped: it steps through machine instructions by ptrace, on Linux and x86-64 only");
}
