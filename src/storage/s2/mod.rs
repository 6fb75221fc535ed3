//! Streams of S2.

mod client;
mod error;
mod read;
mod runtime;
mod storage;
mod writer;

use std::time::Duration;

pub use self::error::S2Error;
pub use self::read::S2Records;
pub use self::storage::S2Storage;
pub use self::writer::{S2StorageWriter, StopError};

/// The most that S2 takes in one record, and in one batch, as it counts bytes.
const MAX_RECORD_BYTES: usize = 1 << 20;
const MAX_BATCH_BYTES: usize = 1 << 20;
/// The most records that S2 takes, or gives, at once.
const MAX_BATCH_RECORDS: usize = 1000;

/// How a stream of S2 is written and read.
///
/// ```
/// use lapwing::storage::S2Config;
/// use std::time::Duration;
///
/// let config = S2Config::new().endpoint("http://127.0.0.1:8080").linger(Duration::from_millis(5));
/// ```
#[derive(Clone, Debug)]
pub struct S2Config {
    linger: Duration,
    batch_records: usize,
    unacknowledged_bytes: usize,
    request_timeout: Duration,
    endpoint: Option<String>,
}

impl Default for S2Config {
    fn default() -> Self {
        Self::new()
    }
}

impl S2Config {
    /// S2's own cloud, up to 50 records a batch, which waits 100 ms for them, up to 5 MiB that are not acknowledged, and 5 s for an answer.
    pub fn new() -> Self {
        Self {
            linger: Duration::from_millis(100),
            batch_records: 50,
            unacknowledged_bytes: 5 << 20,
            request_timeout: Duration::from_secs(5),
            endpoint: None,
        }
    }

    /// How long the first record of a batch waits at most for others.
    pub fn linger(mut self, time: Duration) -> Self {
        self.linger = time;
        self
    }

    /// With so many records a batch is sent at once: 1 to 1,000. It is sent with fewer when they have 1 MiB.
    pub fn batch_records(mut self, records: usize) -> Self {
        self.batch_records = records;
        self
    }

    /// How much may be on its way, and is not acknowledged, before the writer waits: 1 MiB to 1 GiB. It is held in memory, beside the ring.
    pub fn unacknowledged_bytes(mut self, bytes: usize) -> Self {
        self.unacknowledged_bytes = bytes;
        self
    }

    /// After so long without an answer a request, or what was sent in a session, counts as failed: 10 ms to an hour.
    pub fn request_timeout(mut self, time: Duration) -> Self {
        self.request_timeout = time;
        self
    }

    /// The server, if it is one's own: `http://` or `https://` with a host and, if need be, a port.
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    fn check(&self) -> Result<(), S2Error> {
        let within = |what, given: u128, unit, min: u128, max: u128| {
            let reason = || format!("{given}{unit} were given: {min} to {max} are allowed");
            if (min..=max).contains(&given) {
                Ok(())
            } else {
                Err(S2Error::Invalid { what, reason: reason() })
            }
        };
        within("number of records a batch", self.batch_records as u128, "", 1, MAX_BATCH_RECORDS as u128)?;
        within("number of unacknowledged bytes", self.unacknowledged_bytes as u128, "", 1 << 20, 1 << 30)?;
        within("request timeout", self.request_timeout.as_millis(), " ms", 10, 3_600_000)?;
        within("linger", self.linger.as_millis(), " ms", 0, 3_600_000)
    }
}
