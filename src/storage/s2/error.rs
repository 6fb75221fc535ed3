//! What can be wrong with a stream of S2.

use std::error::Error;
use std::fmt;

use super::super::StorageError;

/// A stream of S2 could not be opened, written or read. The access token is in none of the texts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum S2Error {
    /// Something is empty that may not be.
    Empty {
        /// `basin`, `token` or `stream name`.
        what: &'static str,
    },
    /// Something is not as it has to be.
    Invalid {
        /// What.
        what: &'static str,
        /// How it has to be.
        reason: String,
    },
    /// The writer was started before.
    Started,
    /// Another writer has taken the stream, and goes on. Nothing was written after that.
    Fenced {
        /// The basin and the stream.
        stream: String,
        /// The other one's fencing token.
        by: String,
    },
    /// The server has refused a request.
    Refused {
        /// What it was asked for.
        doing: &'static str,
        /// The basin and the stream.
        stream: String,
        /// The status of HTTP.
        status: u16,
        /// S2's name for the error.
        code: String,
        /// What the server says.
        message: String,
    },
    /// There was no answer, or none that makes sense. What was asked for may have been done.
    NoAnswer {
        /// What the server was asked for.
        doing: &'static str,
        /// The basin and the stream.
        stream: String,
        /// Why.
        reason: String,
    },
    /// The stream ends before something that it had acknowledged: it was deleted and made again, or its server has lost records.
    Shrunk {
        /// The basin and the stream.
        stream: String,
        /// How many records the stream has had.
        tail: u64,
        /// How many it had acknowledged.
        acknowledged: u64,
    },
    /// An envelope is too large for a record. Nothing of its batch was taken.
    TooLarge {
        /// Its seq.
        seq: u64,
        /// What it takes, as S2 counts: its bytes, and those of its headers.
        bytes: usize,
        /// What a record may take.
        max: usize,
    },
    /// A batch is of another stream than the one that the storage was opened for. Nothing of it was taken.
    Epoch {
        /// The epoch of the batch.
        given: u64,
        /// The epoch that it was opened for.
        expected: u64,
    },
    /// The stream holds more of its events than what comes before the batch. Nothing of the batch was taken.
    Held {
        /// The basin and the stream.
        stream: String,
        /// The last seq that it holds.
        seq: u64,
    },
    /// Time was up before everything was acknowledged.
    Deadline {
        /// How many bytes are not, as S2 counts. They may be in the stream.
        unacknowledged: usize,
    },
    /// A record of the stream is no envelope of this crate. Reading goes on behind it.
    Foreign {
        /// Its number in the stream.
        record: u64,
    },
    /// The system gave no thread.
    Thread(String),
}

impl S2Error {
    /// Whether a running writer tries again after it: when there was no answer, and after the statuses 408, 429, 500, 502, 503 and 504.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NoAnswer { .. } | Self::Deadline { .. } => true,
            Self::Refused { status, code, .. } => {
                matches!(status, 408 | 429 | 500 | 502 | 503 | 504) || code == "transaction_conflict"
            }
            _ => false,
        }
    }
}

impl fmt::Display for S2Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty { what } => write!(f, "the {what} is empty"),
            Self::Invalid { what, reason } => write!(f, "the {what} is not valid: {reason}"),
            Self::Started => f.write_str("a writer is started once, and this one has been"),
            Self::Fenced { stream, by } => {
                write!(
                    f,
                    "another writer has taken {stream}, and nothing was written since: its fencing token is {by:?}"
                )
            }
            Self::Refused { doing, stream, status, code, message } => {
                write!(f, "cannot {doing} {stream}: {status} {code}: {message}")
            }
            Self::NoAnswer { doing, stream, reason } => write!(f, "cannot {doing} {stream}: {reason}"),
            Self::Shrunk { stream, tail, acknowledged } => write!(
                f,
                "{stream} ends at record {tail}, and had acknowledged what is before {acknowledged}: it was deleted and \
                 made again, or has lost records"
            ),
            Self::TooLarge { seq, bytes, max } => write!(
                f,
                "the envelope with seq {seq} takes {bytes} bytes as a record of S2, which may take {max}; nothing of its \
                 batch was taken"
            ),
            Self::Epoch { given, expected } => write!(
                f,
                "a batch of epoch {given:016x} was given to a storage that was opened for {expected:016x}; nothing of it \
                 was taken"
            ),
            Self::Held { stream, seq } => write!(f, "{stream} holds what is up to seq {seq} already"),
            Self::Deadline { unacknowledged } => {
                write!(f, "time was up, with {unacknowledged} bytes not acknowledged")
            }
            Self::Foreign { record } => write!(f, "record {record} is no envelope of lapwing"),
            Self::Thread(reason) => write!(f, "the system gave no thread: {reason}"),
        }
    }
}

impl Error for S2Error {}

/// By whether it is [transient](S2Error::is_transient).
impl From<S2Error> for StorageError {
    fn from(error: S2Error) -> Self {
        if error.is_transient() { Self::Retry(error.into()) } else { Self::Fatal(error.into()) }
    }
}
