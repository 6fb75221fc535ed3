//! Reading what a stream of S2 holds.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use s2_sdk::types::SequencedRecord;

use super::client::{Client, Target, position};
use super::runtime::Runtime;
use super::{MAX_BATCH_RECORDS, S2Config, S2Error, S2Storage};
use crate::storage::{Line, seq_of};

/// The envelopes in a stream of S2, up to the end that it had at first. Made by [`S2Storage::read`].
///
/// After an error of the server or of the network the next call asks once more; behind what is no envelope it goes on.
pub struct S2Records {
    client: Arc<Client>,
    runtime: Runtime,
    /// The next record that is asked for.
    next: u64,
    end: u64,
    records: VecDeque<SequencedRecord>,
}

impl S2Storage {
    /// The envelopes that a stream holds now, in their order. It may be written to meanwhile.
    ///
    /// # Errors
    ///
    /// What is not valid, and what the server says.
    pub fn read(
        basin: &str,
        token: &str,
        stream_name: &str,
        config: &S2Config,
    ) -> Result<S2Records, S2Error> {
        let target = Target::new(basin, token, stream_name, config)?;
        let runtime = Runtime::start()?;
        let (client, end) = runtime.call(async move {
            let client = target.client()?;
            let end = client.tail().await?;
            Ok((Arc::new(client), end))
        })??;
        Ok(S2Records { client, runtime, next: 0, end, records: VecDeque::new() })
    }
}

impl S2Records {
    /// Asks for more. Nothing more is there if none comes.
    fn fill(&mut self) -> Result<(), S2Error> {
        let (client, next) = (Arc::clone(&self.client), self.next);
        let records = self.runtime.call(async move { client.read(next, MAX_BATCH_RECORDS).await })??;
        self.next = records.last().map_or(self.end, |last| last.seq_num + 1);
        self.records = records.into();
        Ok(())
    }
}

impl Iterator for S2Records {
    type Item = Result<Line, S2Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.records.pop_front() {
                Some(record) if record.seq_num >= self.end => return None,
                Some(record) if record.is_command_record() => {}
                Some(record) => {
                    let line = position(&record).filter(|(_, seq)| seq_of(&record.body) == Some(*seq));
                    let foreign = S2Error::Foreign { record: record.seq_num };
                    return Some(
                        line.ok_or(foreign).map(|(epoch, seq)| Line::new(epoch, seq, record.body.into())),
                    );
                }
                None if self.next >= self.end => return None,
                None => {
                    if let Err(error) = self.fill() {
                        return Some(Err(error));
                    }
                }
            }
        }
    }
}

impl fmt::Debug for S2Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S2Records")
            .field("stream", &format_args!("{}", self.client.target()))
            .field("next", &(self.next - self.records.len() as u64))
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}
