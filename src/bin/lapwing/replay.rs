//! `lapwing replay`: what a durable sink holds, once more through the bus.

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;

use lapwing::storage::{JsonLines, Line};

use crate::input::{Block, Source};
use crate::pipeline::{self, Inputs};
use crate::publish::{Input, Kind};

/// Bytes of a block.
const BLOCK: usize = 256 << 10;

/// Read events back from where `relay` put them, and relay them once more.
///
/// The events of one run come after those of the run before, in the order of their seqs, and get new seqs. What is not as it should be
/// in the source is told, and is no reason to stop: a torn last line, a line that is no envelope, seqs that are missing.
///
/// Without a sink the envelopes go to standard output. Exits as relay does; what is missing in the source counts as lost.
#[derive(clap::Args)]
#[command(verbatim_doc_comment, after_help = EXAMPLES)]
pub struct Args {
    /// A directory of JSON Lines, or with the feature `s2` a stream: `s2://BASIN/STREAM`. It is only read.
    source: PathBuf,
    #[command(flatten)]
    common: pipeline::Args,
}

const EXAMPLES: &str = "\
Examples:
  lapwing replay events | jq .event.type
  lapwing replay events --speed 10 --out again";

/// Runs the command.
pub fn main(mut args: Args) -> ExitCode {
    if args.common.sinks.is_none() {
        args.common.sinks.out = Some("-".into());
    }
    pipeline::run(&args.common, 1, |_| {
        let input = Input::new(format!("{},", args.source.display()), args.open()?, Kind::File);
        Ok(Inputs { inputs: vec![input], listener: None })
    })
}

impl Args {
    fn open(&self) -> Result<Box<dyn Source>, String> {
        #[cfg(feature = "s2")]
        if let Some(name) = self.source.to_str().filter(|source| source.starts_with("s2://")) {
            let records = self.common.sinks.s2.read(&name.parse()?)?;
            return Ok(Box::new(Replay { lines: records, number: 0, problem: None }));
        }
        let lines = JsonLines::read(&self.source).map_err(|error| error.to_string())?;
        Ok(Box::new(Replay { lines, number: 0, problem: None }))
    }
}

/// The events of a storage.
struct Replay<I> {
    lines: I,
    /// How many events there were.
    number: u64,
    problem: Option<String>,
}

impl<I: Iterator<Item = Result<Line, E>> + Send, E: Display> Source for Replay<I> {
    fn next(&mut self, block: &mut Block) -> Result<bool, String> {
        block.clear();
        while self.problem.is_none() && block.len() < BLOCK {
            match self.lines.next() {
                Some(Ok(line)) => {
                    self.number += 1;
                    block.push(self.number, line.event_json());
                }
                // What came before it first.
                Some(Err(error)) => self.problem = Some(error.to_string()),
                None => break,
            }
        }
        match self.problem.take_if(|_| block.len() == 0) {
            Some(problem) => Err(problem),
            None => Ok(block.len() > 0),
        }
    }
}
