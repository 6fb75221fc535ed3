//! `lapwing relay`: events from a file, a pipe or sockets to any number of sinks.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::CommandFactory;
use clap::error::ErrorKind;

use crate::Cli;
use crate::input::{Follow, Lines};
use crate::listen::{Address, Listener};
use crate::pipeline::{self, Inputs};
use crate::publish::{Input, Kind};
use crate::setup::is_standard;
use crate::stop::Stop;

/// Relay events, one JSON object a line, through the bus to any number of sinks.
///
/// Each line is published as one event. What the sinks get are envelopes: {"seq":1,"event":{…}}. An event that is too large is
/// truncated, and still valid JSON. Lines that are no events are counted, and the first one of each kind is told.
///
/// A file or a pipe is paused while a durable sink is far behind. So nothing is lost but what the summary at the end says.
///
/// A first SIGINT or SIGTERM ends the input, and the sinks have until --deadline for what was published; a second one ends it at once.
///
/// Exits with 0 when nothing was lost: every line is in every durable sink, blank, not captured, or in the file for rejects. With 1
/// when something was, which the summary tells. With 2 when the arguments are wrong.
#[derive(clap::Args)]
#[command(verbatim_doc_comment, after_help = EXAMPLES)]
pub struct Args {
    /// Where to read events: a file, or `-` for standard input, which it is if nothing is told.
    file: Option<PathBuf>,
    /// Wait for more when the file ends, and go on when it was cut back or replaced.
    #[arg(long, requires = "file")]
    follow: bool,
    /// Take lines from whoever connects: to a loopback address with a port, or to `unix:PATH`.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<Address>,
    /// How many threads publish. With more than one, the lines come in any order.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    publishers: u16,
    #[command(flatten)]
    pub common: pipeline::Args,
}

const EXAMPLES: &str = "\
Examples:
  lapwing relay events.ndjson --out events
  agent | lapwing relay --out events --out-fsync batch --rejects rejects.ndjson
  lapwing relay --listen unix:/run/lapwing.sock --out events
  lapwing relay events.ndjson --follow --out -";

/// Runs the command.
pub fn main(args: Args) -> ExitCode {
    if args.common.sinks.is_none() {
        let error = Cli::command().error(
            ErrorKind::MissingRequiredArgument,
            "there is no sink: at least one is needed, see --help",
        );
        error.exit();
    }
    if args.follow && args.file.as_deref().is_some_and(is_standard) {
        Cli::command()
            .error(ErrorKind::ArgumentConflict, "only a file can be followed, not standard input")
            .exit();
    }
    pipeline::run(&args.common, args.publishers, |stop| args.open(stop))
}

impl Args {
    fn open(&self, stop: &Arc<Stop>) -> Result<Inputs, String> {
        let listener = self.listen.as_ref().map(Listener::bind).transpose()?;
        let file = match &self.file {
            Some(file) => Some(file.as_path()),
            None if listener.is_some() => None,
            None => Some(Path::new("-")),
        };
        let inputs = file.map(|file| self.open_file(file, stop)).transpose()?.into_iter().collect();
        Ok(Inputs { inputs, listener })
    }

    fn open_file(&self, path: &Path, stop: &Arc<Stop>) -> Result<Input, String> {
        if is_standard(path) {
            return Ok(Input::new("standard input,", Box::new(Lines::new(io::stdin())), Kind::Pipe));
        }
        let failed = |error| format!("cannot open the input {}: {error}", path.display());
        let name = format!("{},", path.display());
        if self.follow {
            let follow = Follow::open(path, Arc::clone(stop)).map_err(failed)?;
            return Ok(Input::new(name, Box::new(Lines::new(follow)), Kind::File));
        }
        let file = File::open(path).map_err(failed)?;
        let kind = if file.metadata().map_err(failed)?.is_file() { Kind::File } else { Kind::Pipe };
        Ok(Input::new(name, Box::new(Lines::new(file)), kind))
    }
}
