//! What is asked of the server, one request after the other.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use s2_sdk::append_session::{AppendSession, AppendSessionConfig};
use s2_sdk::error::{
    AppendConditionFailed, AppendError, AppendSessionError, ClientError, ReadError, RequestError,
};
use s2_sdk::types::{
    AppendInput, AppendRecord, AppendRecordBatch, AppendRetryPolicy, BasinName, CommandRecord, FencingToken,
    ReadFrom, ReadInput, ReadLimits, ReadStart, ReadStop, RetryConfig, S2Endpoints, SequencedRecord,
    StreamName,
};
use s2_sdk::{S2, S2Stream};

use super::{MAX_BATCH_RECORDS, S2Config, S2Error};

/// The headers of a record: what stands in its envelope's stream for it.
pub(super) const EPOCH: &[u8] = b"epoch";
pub(super) const SEQ: &[u8] = b"seq";
/// The server's clock may go by so much differently from ours within the life of a stream.
const CLOCK_MARGIN: Duration = Duration::from_secs(60);
/// How often the stream may grow under the hands of whoever takes it, before he gives up for now.
const TAKE_TRIES: u32 = 8;

/// A stream of S2 and how to get there, all of it found to be well-formed. Nothing is opened. `Debug` is left out for the token's sake.
#[derive(Clone)]
pub(super) struct Target {
    basin: BasinName,
    stream: StreamName,
    token: String,
    endpoints: S2Endpoints,
    plain: bool,
    request_timeout: Duration,
}

impl Target {
    pub(super) fn new(basin: &str, token: &str, stream: &str, config: &S2Config) -> Result<Self, S2Error> {
        for (what, text) in [("basin", basin), ("token", token), ("stream name", stream)] {
            if text.is_empty() {
                return Err(S2Error::Empty { what });
            }
        }
        let invalid = |what, reason: &dyn fmt::Display| S2Error::Invalid { what, reason: reason.to_string() };
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(invalid("token", &"it has other characters than ASCII letters, digits and marks"));
        }
        config.check()?;
        let endpoints = match &config.endpoint {
            Some(endpoint) => {
                let authority =
                    endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
                if authority.is_none_or(|authority| authority.contains(['/', '@', '?', '#'])) {
                    let reason = format!("{endpoint:?} is not http:// or https:// with a host and a port");
                    return Err(S2Error::Invalid { what: "endpoint", reason });
                }
                S2Endpoints::for_endpoint(endpoint)
                    .map_err(|error| invalid("endpoint", &format_args!("{endpoint:?}: {error}")))?
            }
            None => S2Endpoints::for_cloud(),
        };
        Ok(Self {
            basin: basin.parse().map_err(|e| invalid("basin", &format_args!("{basin:?}: {e}")))?,
            stream: stream.parse().map_err(|e| invalid("stream name", &format_args!("{stream:?}: {e}")))?,
            token: token.into(),
            endpoints,
            plain: config.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://")),
            request_timeout: config.request_timeout,
        })
    }

    /// A client with connections of its own. It connects when it is used, in a runtime.
    pub(super) fn client(&self) -> Result<Client, S2Error> {
        // No attempts but the first: what may have been done has to be found out, not done again.
        let retry = RetryConfig::new()
            .with_max_attempts(NonZeroU32::MIN)
            .with_append_retry_policy(AppendRetryPolicy::NoSideEffects);
        let config = s2_sdk::types::S2Config::new(self.token.clone())
            .with_endpoints(self.endpoints.clone())
            .with_connection_timeout(self.request_timeout)
            .with_request_timeout(self.request_timeout)
            .with_retry(retry)
            .with_rustls_ring_crypto_provider()
            // Otherwise a machine without certificates could not even speak without them.
            .with_insecure_skip_cert_verification(self.plain);
        let s2 = S2::new(config).map_err(|error| self.request("connect to", &error))?;
        let stream = s2.basin(self.basin.clone()).stream(self.stream.clone());
        Ok(Client { target: self.clone(), stream })
    }

    // ---- What went wrong.

    pub(super) fn request(&self, doing: &'static str, error: &RequestError) -> S2Error {
        let stream = self.to_string();
        // What comes from outside could tell what it was told.
        let hidden = |text: &str| text.replace(&self.token, "(token not shown)");
        match error {
            RequestError::Server(error) => S2Error::Refused {
                doing,
                stream,
                status: error.status.as_u16(),
                code: hidden(&error.code),
                message: hidden(&error.message),
            },
            RequestError::Client(ClientError::Configuration(reason) | ClientError::RequestBuild(reason)) => {
                S2Error::Invalid { what: "connection", reason: hidden(reason) }
            }
            RequestError::MalformedAccessToken(_) => {
                S2Error::Invalid { what: "token", reason: "it is none that can be sent".into() }
            }
            RequestError::Validation(error) => {
                S2Error::Invalid { what: "request", reason: hidden(&error.to_string()) }
            }
            error => S2Error::NoAnswer { doing, stream, reason: hidden(&error.to_string()) },
        }
    }

    fn read(&self, doing: &'static str, error: &ReadError) -> S2Error {
        match error {
            ReadError::Request(error) => self.request(doing, error),
            error => S2Error::NoAnswer { doing, stream: self.to_string(), reason: error.to_string() },
        }
    }

    fn append(&self, doing: &'static str, error: &AppendError) -> S2Error {
        match error {
            AppendError::Request(error) => self.request(doing, error),
            AppendError::ConditionFailed(AppendConditionFailed::FencingTokenMismatch(by)) => {
                S2Error::Fenced { stream: self.to_string(), by: by.to_string() }
            }
            // An attempt that was not the last one may have been the one that took it.
            error => S2Error::NoAnswer { doing, stream: self.to_string(), reason: error.to_string() },
        }
    }

    pub(super) fn session(&self, error: &AppendSessionError) -> S2Error {
        const DOING: &str = "append to";
        match error {
            AppendSessionError::Append(error) => self.append(DOING, error),
            error => self.no_answer(DOING, &error.to_string()),
        }
    }

    pub(super) fn no_answer(&self, doing: &'static str, reason: &str) -> S2Error {
        S2Error::NoAnswer { doing, stream: self.to_string(), reason: reason.into() }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.basin, self.stream)
    }
}

/// The fencing tokens of one writer: a new one for each time that it takes the stream, so that what it had in flight before cannot come
/// after.
#[derive(Debug)]
pub(super) struct Fence {
    writer: String,
    tokens: u32,
    /// The one that the stream has, as far as this writer knows.
    held: Option<FencingToken>,
}

impl Fence {
    pub(super) fn new() -> Self {
        Self { writer: format!("lapwing-{:016x}-", crate::stream::random()), tokens: 0, held: None }
    }

    fn next(&mut self) -> Result<FencingToken, S2Error> {
        self.tokens += 1;
        let token = format!("{}{}", self.writer, self.tokens);
        token.parse().map_err(|error| S2Error::Invalid { what: "fencing token", reason: format!("{error}") })
    }

    fn is_ours(&self, token: &str) -> bool {
        token.starts_with(&self.writer)
    }
}

/// Where records may be whose envelopes are of this stream.
#[derive(Clone, Copy, Debug)]
pub(super) enum Since {
    /// From this record on: what is before was acknowledged.
    Record(u64),
    /// Not before it was made, so long ago.
    Made(Duration),
}

/// A stream that is this writer's.
#[derive(Debug)]
pub(super) struct Taken {
    /// The number that the next record will have.
    pub(super) next_record: u64,
    /// The last seq of the epoch that it holds.
    pub(super) last_seq: Option<u64>,
    pub(super) token: FencingToken,
}

/// A stream of S2, to talk to.
pub(super) struct Client {
    target: Target,
    stream: S2Stream,
}

impl Client {
    pub(super) fn session(&self, unacknowledged_bytes: usize) -> Result<AppendSession, S2Error> {
        let bytes = unacknowledged_bytes.try_into().unwrap_or(u32::MAX);
        let config = AppendSessionConfig::new().with_max_unacked_bytes(bytes);
        let config = config.map_err(|error| self.target.request("append to", &error.into()))?;
        Ok(self.stream.append_session(config))
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    pub(super) async fn tail(&self) -> Result<u64, S2Error> {
        let tail = self.stream.check_tail().await;
        Ok(tail.map_err(|error| self.target.read("find the end of", &error))?.seq_num)
    }

    /// Takes the stream: from then on no append with another fencing token is taken, be it of another writer, or one of this writer's that is
    /// still under way. And finds what the stream holds of the epoch.
    ///
    /// The first time it takes it from whoever has it, and later only from itself.
    pub(super) async fn take(&self, fence: &mut Fence, epoch: u64, since: Since) -> Result<Taken, S2Error> {
        let target = &self.target;
        for _ in 0..TAKE_TRIES {
            let tail = self.tail().await?;
            if let Since::Record(acknowledged) = since
                && tail < acknowledged
            {
                return Err(S2Error::Shrunk { stream: target.to_string(), tail, acknowledged });
            }
            let token = fence.next()?;
            let command = AppendRecord::from(CommandRecord::fence(token.clone()));
            let command = AppendRecordBatch::try_from_iter([command])
                .map_err(|error| target.request("take", &error.into()))?;
            let mut input = AppendInput::new(command).with_match_seq_num(tail);
            if let Some(held) = fence.held.clone() {
                input = input.with_fencing_token(held);
            }
            match self.stream.append(input).await {
                Ok(ack) => {
                    fence.held = Some(token.clone());
                    let born = match since {
                        Since::Made(ago) => (ack.end.timestamp)
                            .saturating_sub((ago + CLOCK_MARGIN).as_millis().try_into().unwrap_or(u64::MAX)),
                        Since::Record(_) => 0,
                    };
                    let floor = if let Since::Record(record) = since { record } else { 0 };
                    let last_seq = self.last_seq(epoch, floor, tail, born).await?;
                    return Ok(Taken { next_record: ack.end.seq_num, last_seq, token });
                }
                Err(AppendError::ConditionFailed(AppendConditionFailed::SeqNumMismatch(_))) => {}
                // The answer to an earlier attempt to take it was lost.
                Err(AppendError::ConditionFailed(AppendConditionFailed::FencingTokenMismatch(by)))
                    if fence.is_ours(&by) =>
                {
                    fence.held = Some(by);
                }
                Err(error) => return Err(target.append("take", &error)),
            }
        }
        Err(target.no_answer("take", "others append to it all the time"))
    }

    /// The last seq of an epoch in the records from `floor` to before `end`, looked for from there backwards. No record from before the time `born` is
    /// of it: the times of records never fall.
    async fn last_seq(&self, epoch: u64, floor: u64, end: u64, born: u64) -> Result<Option<u64>, S2Error> {
        let (mut end, mut step) = (end, 1);
        while floor < end {
            let from = end.saturating_sub(step).max(floor);
            let (mut at, mut last, mut is_there, mut older) = (from, None, false, false);
            while at < end {
                let records = self.read(at, (end - at) as usize).await?;
                let Some(newest) = records.last() else { break };
                at = newest.seq_num + 1;
                for record in records.iter().filter(|record| record.seq_num < end) {
                    is_there = true;
                    older |= record.timestamp < born;
                    last = position(record).filter(|(of, _)| *of == epoch).map(|(_, seq)| seq).or(last);
                }
            }
            // Nothing is there when they were trimmed.
            if last.is_some() || older || !is_there {
                return Ok(last);
            }
            (end, step) = (from, (step * 2).min(MAX_BATCH_RECORDS as u64));
        }
        Ok(None)
    }

    /// Up to `count` records from `record` on; none at the end of the stream.
    pub(super) async fn read(&self, record: u64, count: usize) -> Result<Vec<SequencedRecord>, S2Error> {
        let input =
            ReadInput::new().with_start(ReadStart::new().with_from(ReadFrom::SeqNum(record))).with_stop(
                ReadStop::new().with_limits(ReadLimits::new().with_count(count.min(MAX_BATCH_RECORDS))),
            );
        match self.stream.read(input).await {
            Ok(batch) => Ok(batch.records),
            Err(ReadError::ReadUnwritten(_)) => Ok(Vec::new()),
            Err(error) => Err(self.target.read("read", &error)),
        }
    }
}

/// The epoch and the seq of the envelope that a record holds.
pub(super) fn position(record: &SequencedRecord) -> Option<(u64, u64)> {
    let header = |name: &[u8]| {
        let header = record.headers.iter().find(|header| &header.name[..] == name)?;
        std::str::from_utf8(&header.value).ok()
    };
    Some((u64::from_str_radix(header(EPOCH)?, 16).ok()?, header(SEQ)?.parse().ok()?))
}
