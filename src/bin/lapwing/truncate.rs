//! `lapwing truncate`: JSON that is too large, cut to a budget.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lapwing::truncate::{self, Shape, Stage, Truncation};
use serde_json::value::RawValue;

use crate::tell;

/// Cut JSON to as many bytes as are allowed, so that it is still valid JSON.
///
/// The result goes to standard output, and what was cut is told on standard error. What fits already comes
/// out as it is, byte for byte; a line feed at the end of the input counts as part of it.
///
/// With --shape every key is kept, and the longest strings are shortened first, then arrays. With --tail the
/// end is cut off. With neither, budgets of 4096 bytes and up take the first, and smaller ones the second.
///
/// Exits with 1, and no output for what is at fault, when the input is not valid JSON, cannot be read, or is
/// larger than a budget which cannot even hold `null`; with 2 when the arguments are wrong.
#[derive(clap::Args)]
#[command(verbatim_doc_comment, after_help = EXAMPLES)]
pub struct Args {
    /// Where to read: a file, or `-` for standard input. It is never written to.
    #[arg(default_value = "-")]
    file: PathBuf,
    /// The budget: the most bytes that a document may have.
    #[arg(long, value_name = "BYTES")]
    max: usize,
    /// Cut the end off.
    #[arg(long, conflicts_with = "shape")]
    tail: bool,
    /// Keep every key, and shorten strings and then arrays.
    #[arg(long)]
    shape: bool,
    /// What ends a string that was shortened; `{}` in it stands for the number of bytes removed. Means
    /// --shape.
    #[arg(long, value_name = "TEXT", conflicts_with = "tail", allow_hyphen_values = true)]
    marker: Option<String>,
    /// Shorten last what is under this key, or at this JSON pointer if it begins with a slash. Means --shape.
    #[arg(long, value_name = "NAME", conflicts_with = "tail")]
    protect: Vec<String>,
    /// Every line is a document of its own, with a budget of its own. Blank lines pass. Stops at the first
    /// line that is at fault.
    #[arg(long)]
    lines: bool,
}

const EXAMPLES: &str = "\
Examples:
  lapwing truncate --max 1000 --shape event.json
  lapwing truncate --max 4096 --lines --marker '…[{} bytes]' events.ndjson";

/// Runs the command, with everything but the result on standard error.
pub fn main(args: &Args) -> ExitCode {
    let mut out = io::stdout().lock();
    match run(args, &mut out).and_then(|()| out.flush().map_err(Failure::Output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tell!("{failure}");
            ExitCode::FAILURE
        }
    }
}

enum Failure {
    Input(PathBuf, io::Error),
    Output(io::Error),
    Encoding(Place, std::str::Utf8Error),
    Json(Place, serde_json::Error),
    Truncate(Place, truncate::Error),
    Marker(truncate::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(file, error) => write!(f, "cannot read {}: {error}", file.display()),
            Self::Output(error) => write!(f, "cannot write the result: {error}"),
            Self::Encoding(place, error) => write!(f, "{place} is not UTF-8: {error}"),
            Self::Json(place, error) => write!(f, "{place} is not valid JSON: {error}"),
            Self::Truncate(place, error) => write!(f, "{place}: {error}"),
            Self::Marker(error) => error.fmt(f),
        }
    }
}

/// The whole input, or a line of it.
#[derive(Clone, Copy)]
struct Place(Option<u64>);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("the input"),
            Some(line) => write!(f, "line {line}"),
        }
    }
}

fn run(args: &Args, out: &mut dyn Write) -> Result<(), Failure> {
    let protected: Vec<&str> = args.protect.iter().map(String::as_str).collect();
    let shape = Shape::new().marker(args.marker.as_deref().unwrap_or("")).map_err(Failure::Marker)?;
    let shape = shape.protect(&protected);
    let wants_shape = args.shape || args.marker.is_some() || !args.protect.is_empty();
    let mut buffer = Vec::new();
    let mut document = |json: &[u8], place: Place, out: &mut dyn Write| {
        let text = std::str::from_utf8(json).map_err(|error| Failure::Encoding(place, error))?;
        serde_json::from_str::<&RawValue>(text).map_err(|error| Failure::Json(place, error))?;
        buffer.clear();
        let done = if args.tail {
            truncate::tail_into(json, args.max, &mut buffer)
        } else if wants_shape {
            shape.truncate(json, args.max, &mut buffer)
        } else {
            truncate::json(json, args.max, &mut buffer)
        };
        let done = done.map_err(|error| Failure::Truncate(place, error))?;
        let result = if done.is_some() { &buffer } else { json };
        out.write_all(result).map_err(Failure::Output)?;
        if let Some(done) = &done {
            tell!("{place}: {}", Report { done, len: result.len() });
        }
        Ok(done.is_some())
    };

    let failed = |error| Failure::Input(args.file.clone(), error);
    let mut input = open(&args.file).map_err(failed)?;
    let mut line = Vec::new();
    if !args.lines {
        input.read_to_end(&mut line).map_err(failed)?;
        if !document(&line, Place(None), out)? {
            tell!("the input: all {} bytes fit", line.len());
        }
        return Ok(());
    }
    let (mut lines, mut cut) = (0, 0);
    while input.read_until(b'\n', &mut line).map_err(failed)? > 0 {
        lines += 1;
        let json = line.strip_suffix(b"\n").unwrap_or(&line);
        if json.trim_ascii().is_empty() {
            out.write_all(json).map_err(Failure::Output)?;
        } else {
            cut += u64::from(document(json, Place(Some(lines)), out)?);
        }
        out.write_all(&line[json.len()..]).map_err(Failure::Output)?;
        line.clear();
    }
    tell!("{cut} of {lines} lines were cut");
    Ok(())
}

fn open(file: &Path) -> io::Result<Box<dyn BufRead>> {
    Ok(if file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(file)?))
    })
}

/// What was done, in words.
struct Report<'a> {
    done: &'a Truncation,
    len: usize,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Truncation { original_len, stage, string_limit, array_limit } = *self.done;
        write!(f, "{original_len} bytes cut to {}", self.len)?;
        if let Some(limit) = string_limit {
            write!(f, ", strings to {limit} bytes")?;
        }
        if let Some(limit) = array_limit {
            write!(f, ", arrays to {limit} elements")?;
        }
        match stage {
            Stage::Tail => f.write_str(", the end cut off"),
            Stage::Null => f.write_str(", nothing could be kept"),
            _ => Ok(()),
        }
    }
}
