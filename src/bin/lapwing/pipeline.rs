//! From inputs through the bus to sinks: what `relay` and `replay` have in common.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use lapwing::event::Category;
use lapwing::stream::{CategorySet, Config};

use crate::listen::{Listener, Listening};
use crate::pace::Pace;
use crate::progress::Progress;
use crate::publish::{GRACE, Input, Pipeline, Rejects};
#[cfg(feature = "serve")]
use crate::serve::Serving;
use crate::setup::spawn;
use crate::sinks::{self, Notice, Sinks};
use crate::stop::Stop;
use crate::tell;

/// How long sinks are waited for after their time is up: one may be stuck in a system call.
const PATIENCE: Duration = Duration::from_secs(2);

/// What every pipeline can be told.
#[derive(clap::Args)]
#[group(skip)]
pub struct Args {
    #[command(flatten)]
    pub sinks: sinks::Args,
    /// How fast: `flat` out, or so many times as fast as the events were recorded, by their `ts`.
    #[arg(long, value_name = "flat|TIMES", default_value = "flat", value_parser = speed, help_heading = "Flow")]
    speed: Speed,
    /// What to do while a durable sink is far behind: pause the input, so that the sink loses nothing, or go on and let it drop what it
    /// is too slow for. A file or a pipe is paused if not told otherwise, sockets are not.
    #[arg(long, value_enum, help_heading = "Flow")]
    on_lag: Option<OnLag>,
    /// The categories to capture, with commas between them; `other` for all that have no name of their own. `system` always is.
    #[arg(long, value_name = "CATEGORIES", value_delimiter = ',', help_heading = "Flow")]
    capture: Option<Vec<String>>,
    /// Write lines that are no events to this file, as they are. It is overwritten.
    #[arg(long, value_name = "FILE", help_heading = "Flow")]
    rejects: Option<PathBuf>,
    /// Tell progress and summary as lines of JSON, on standard output.
    #[arg(long, help_heading = "Flow")]
    json: bool,
    /// How many events the ring holds.
    #[arg(long, value_name = "N", default_value_t = 4096, help_heading = "Ring")]
    events: u64,
    /// The most bytes of an event that lies in its slot. Larger ones have memory of their own.
    #[arg(long, value_name = "BYTES", default_value_t = 2048, help_heading = "Ring")]
    inline_bytes: usize,
    /// The memory for larger events.
    #[arg(long, value_name = "BYTES", default_value_t = 8 << 20, help_heading = "Ring")]
    large_bytes: usize,
    /// The most bytes of an envelope. Larger events are truncated, so that they are still valid JSON.
    #[arg(long, value_name = "BYTES", default_value_t = 1_000_000, help_heading = "Ring")]
    max_envelope_bytes: usize,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum OnLag {
    Pause,
    Drop,
}

/// How many times as fast as recorded; nothing for as fast as possible.
#[derive(Clone, Copy)]
pub struct Speed(pub Option<f64>);

pub fn speed(text: &str) -> Result<Speed, String> {
    if text == "flat" {
        return Ok(Speed(None));
    }
    match text.strip_suffix('x').unwrap_or(text).parse() {
        Ok(times) if times > 0.0 && f64::is_finite(times) => Ok(Speed(Some(times))),
        _ => Err("allowed are flat, or a number above 0".into()),
    }
}

/// Where lines come from.
pub struct Inputs {
    pub inputs: Vec<Input>,
    /// A socket that goes on giving new ones.
    pub listener: Option<Listener>,
}

/// Runs a pipeline to its end, with everything it has to say on standard error.
pub fn run(
    args: &Args,
    publishers: u16,
    open: impl FnOnce(&Arc<Stop>) -> Result<Inputs, String>,
) -> ExitCode {
    match try_run(args, publishers, open) {
        Ok(complete) => ExitCode::from(u8::from(!complete)),
        Err(error) => {
            tell!("{error}; nothing was relayed");
            ExitCode::FAILURE
        }
    }
}

fn try_run(
    args: &Args,
    publishers: u16,
    open: impl FnOnce(&Arc<Stop>) -> Result<Inputs, String>,
) -> Result<bool, String> {
    if args.json && args.sinks.to_stdout() {
        return Err("--json and the sink --out - both want standard output".into());
    }
    let config = Config::new()
        .events(args.events)
        .inline_bytes(args.inline_bytes)
        .large_bytes(args.large_bytes)
        .max_envelope_bytes(args.max_envelope_bytes)
        .captured(args.captured());
    let stream = Arc::new(config.build().map_err(|error| error.to_string())?);
    if stream.events() <= u64::from(publishers) {
        return Err(format!("{publishers} publishers need a ring of more events than {}", stream.events()));
    }
    let stop = Arc::new(Stop::default());
    let (notices, noticed) = mpsc::channel();
    // The signals come before anything that one could want to interrupt.
    on_signals(notices.clone())?;
    // The outputs come after the inputs: nothing is made or overwritten before those are found in order.
    let inputs = open(&stop)?;
    let rejects = args.rejects.clone().map(Rejects::create).transpose()?;
    #[cfg(feature = "serve")]
    let server = args.sinks.server.bind()?;
    let pace = Arc::new(Pace::new(&stream, args.large_bytes, publishers.into()));
    let mut sinks = args.sinks.start(&stream, &pace, &notices)?;
    #[cfg(feature = "serve")]
    let server =
        server.map(|server| server.start(&stream, sinks.statuses(), args.sinks.deadline())).transpose()?;
    let pause = args.on_lag.map(|on_lag| on_lag == OnLag::Pause);
    let pipeline = Arc::new(Pipeline::new(stream, stop, pace, pause, args.speed.0, rejects));

    let mut progress = Progress::new(args.json);
    let mut stopped = false;
    let tell_stop = || {
        let seconds = args.sinks.deadline().as_secs();
        tell!("told to stop: the sinks have {seconds} s for what is left; a second signal ends it at once");
    };
    let open_ended = inputs.listener.is_some() || args.sinks.serves();
    let mut publishing = 0u64;
    for input in inputs.inputs {
        let input = Arc::new(input);
        for _ in 0..publishers {
            let (pipeline, input, notices) = (Arc::clone(&pipeline), Arc::clone(&input), notices.clone());
            spawn("publisher", move || {
                pipeline.publish(&input);
                let _ = notices.send(Notice::Ended);
            })?;
            publishing += 1;
        }
    }
    let listener = inputs.listener.map(|listener| listener.start(&pipeline)).transpose()?;

    // Until the input ends, or is to end, or there is nobody left for it.
    while publishing > 0 || open_ended {
        match noticed.recv_timeout(progress.pause()) {
            Ok(Notice::Ended) => publishing -= 1,
            Ok(Notice::SinkEnded(index, outcome)) => {
                sinks.all[index].outcome = Some(outcome);
                if sinks.have_ended() && !args.sinks.serves() {
                    tell!("no sink is left; no more input is taken");
                    break;
                }
            }
            Ok(Notice::Signal) => {
                tell_stop();
                stopped = true;
                break;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        progress.tick(&pipeline, &sinks);
    }
    let until = Instant::now() + args.sinks.deadline();
    pipeline.stop.stop();
    if let Some(listener) = &listener {
        listener.stop();
    }
    let mut handle = |notice, publishing: &mut u64, sinks: &mut Sinks| match notice {
        Notice::Ended => *publishing = publishing.saturating_sub(1),
        Notice::SinkEnded(index, outcome) => sinks.all[index].outcome = Some(outcome),
        Notice::Signal if std::mem::replace(&mut stopped, true) => {
            tell!("told to stop for the second time: what is left is lost");
            std::process::exit(1);
        }
        Notice::Signal => tell_stop(),
    };
    // What was read is published; who waits for more is left alone.
    let socket_is_busy = || listener.as_ref().is_some_and(Listening::is_busy);
    while publishing > 0 || socket_is_busy() {
        let pause = GRACE.min(until.saturating_duration_since(Instant::now()));
        match noticed.recv_timeout(pause) {
            Ok(notice) => handle(notice, &mut publishing, &mut sinks),
            Err(_) if Instant::now() >= until => break,
            Err(_) if !pipeline.is_busy() && !socket_is_busy() => break,
            Err(_) => progress.tick(&pipeline, &sinks),
        }
    }
    sinks.finish(until);
    pipeline.stream.close();
    #[cfg(feature = "serve")]
    let server = server.map(Serving::shut_down);
    while !sinks.have_ended() {
        let now = Instant::now();
        if now >= until {
            pipeline.give_up();
            sinks.cancel();
        }
        if now >= until + PATIENCE {
            break;
        }
        match noticed.recv_timeout(progress.pause()) {
            Ok(notice) => handle(notice, &mut publishing, &mut sinks),
            Err(_) => progress.tick(&pipeline, &sinks),
        }
    }
    #[cfg(feature = "serve")]
    if let Some(server) = server {
        server.wait(until + PATIENCE);
    }
    let rejects = pipeline.finish_rejects();
    if let Some(Err(error)) = &rejects {
        tell!("{error}");
    }
    let failures = pipeline.take_failures();
    let kept = matches!(rejects, Some(Ok(())));
    Ok(progress.summary(&pipeline, &sinks, &failures, kept))
}

fn on_signals(notices: Sender<Notice>) -> Result<(), String> {
    let handler = move || _ = notices.send(Notice::Signal);
    ctrlc::set_handler(handler).map_err(|error| format!("cannot wait for signals: {error}"))
}

impl Args {
    fn captured(&self) -> CategorySet {
        match &self.capture {
            None => CategorySet::ALL,
            Some(names) => names.iter().map(|name| Category::from(name.as_str())).collect(),
        }
    }
}
