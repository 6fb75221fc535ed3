//! What the threads around one stream have in common.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use lapwing::stream::{Canceller, Handle};

/// What the threads of one stream share.
pub struct Scene {
    pub handle: Handle,
    /// Where the steady reader is.
    pub at: AtomicU64,
    pub is_paced: bool,
    pub published: AtomicU64,
    pub refused: AtomicU64,
    pub cancellers: Mutex<Vec<Canceller>>,
}
