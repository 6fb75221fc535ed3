//! What is measured: each scenario makes its groups, one for each payload or number of readers.

mod async_readers;
mod event;
mod fan_out;
mod latency;
mod one_thread;
mod streamed;
mod two_publishers;
mod wake_up;

use crate::harness::Group;
use crate::rivals::go::Go;

/// Makes a group when it is its turn, so that only one group's rings are there at a time.
pub type Make = Box<dyn FnOnce() -> Group>;

pub struct Scenario {
    pub name: &'static str,
    /// What is done and how, in a sentence or two.
    pub about: &'static str,
    pub groups: Vec<Make>,
}

/// All of them; those with the Go program if it is there.
pub fn all(go: Option<&Go>) -> Vec<Scenario> {
    vec![
        one_thread::publish(),
        one_thread::publish_and_read(),
        one_thread::bursts_read(),
        streamed::streamed(),
        streamed::free_running(),
        two_publishers::two_publishers(),
        latency::ping_pong(),
        latency::fixed_rate(),
        fan_out::publisher(),
        fan_out::readers(),
        wake_up::wake_up(go),
        async_readers::async_readers(),
        event::event(go),
    ]
}

/// A payload of so many words, by name.
pub fn size<const N: usize>() -> String {
    match N {
        1 => String::from("u64"),
        0..128 => format!("{} B", N * 8),
        _ => format!("{} KiB", N / 128),
    }
}

/// Makes a group for each payload.
macro_rules! each_payload {
    ($make:ident) => {
        vec![
            Box::new($make::<1>),
            Box::new($make::<8>),
            Box::new($make::<32>),
            Box::new($make::<128>),
            Box::new($make::<1024>),
        ]
    };
}
use each_payload;

/// What is published: memory that the publisher has at hand.
pub const fn value<const N: usize>() -> &'static [u64; N] {
    const { &[0x0123_4567_89ab_cdef; N] }
}
