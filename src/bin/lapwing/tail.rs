//! `lapwing tail`: what a server streams, on standard output.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use lapwing::event::Envelope;
use ureq::Agent;

use crate::tell;

/// A server that is silent for so long is gone: it should have sent a sign of life every 15 s.
const SILENCE: Duration = Duration::from_secs(45);
const CONNECT: Duration = Duration::from_secs(10);
/// The pauses between two attempts to connect once more.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// The most bytes of a line of a stream: an envelope, and some more.
const MAX_LINE: u64 = 64 << 20;

/// Print the events that `lapwing relay --serve` streams, as they come.
///
/// When the server goes away, it is asked again and again, for what comes after the last event that was printed. What was lost
/// meanwhile is told on standard error.
///
/// Exits with 1 when the server refuses, cannot be reached the first time, or sends what is no stream of events.
#[derive(clap::Args)]
#[command(verbatim_doc_comment, after_help = EXAMPLES)]
pub struct Args {
    /// The address of the server, or of its stream.
    url: String,
    /// Begin with the oldest event that the server holds, not with the next one.
    #[arg(long)]
    replay: bool,
    /// Only events of these categories, with commas between them.
    #[arg(long, value_name = "CATEGORIES", value_delimiter = ',')]
    category: Vec<String>,
    /// Only events of these types, with commas between them.
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    types: Vec<String>,
    /// Print envelopes as lines of JSON.
    #[arg(long)]
    json: bool,
    /// End when the server closes its stream, and do not wait until there is another one.
    #[arg(long)]
    once: bool,
    /// A file with the token that the server wants.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  lapwing tail http://127.0.0.1:7070 --category network,console
  lapwing tail http://127.0.0.1:7070 --replay --json | jq .event.type";

/// Runs the command.
pub fn main(args: &Args) -> ExitCode {
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Why a stream has ended.
enum End {
    /// The server has closed it.
    Closed,
    /// The server, or the way to it, is gone.
    Gone(String),
}

fn run(args: &Args) -> Result<(), String> {
    let token = args.token_file.as_deref().map(crate::setup::token).transpose()?;
    let agent: Agent = Agent::config_builder()
        .timeout_connect(Some(CONNECT))
        .timeout_per_read(Some(SILENCE))
        .http_status_as_error(false)
        .build()
        .into();
    let url = address(&args.url);
    let mut last_id: Option<String> = None;
    let mut pause = None;
    let mut out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    loop {
        let mut request = agent.get(&url).header("Accept", "text/event-stream");
        for (name, values) in [("category", &args.category), ("types", &args.types)] {
            if !values.is_empty() {
                request = request.query(name, values.join(","));
            }
        }
        if args.replay {
            request = request.query("replay", "all");
        }
        if let Some(id) = &last_id {
            request = request.header("Last-Event-ID", id);
        }
        if let Some(token) = &token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let end = match request.call() {
            Ok(response) => match response.status().as_u16() {
                200 => {
                    if pause.is_some() {
                        tell!("connected again");
                    }
                    pause = Some(FIRST_PAUSE);
                    let body = response.into_body().into_reader();
                    let mut stream = Stream::new(body);
                    print(&mut stream, &mut out, args.json, &mut last_id)?
                }
                // What is wrong now need not be later; what was asked for wrongly always is.
                status if status < 500 || pause.is_none() => {
                    let mut message = String::new();
                    let _ = response.into_body().into_reader().take(1000).read_to_string(&mut message);
                    return Err(format!(
                        "the server refuses with status {status}: {}",
                        shown(message.trim_end())
                    ));
                }
                status => End::Gone(format!("the server refuses with status {status}")),
            },
            Err(error) if pause.is_none() => return Err(format!("cannot connect to {url}: {error}")),
            Err(error) => End::Gone(error.to_string()),
        };
        out.flush().map_err(|error| failed(&error))?;
        let why = match end {
            End::Closed if args.once => return Ok(()),
            End::Closed => "the server has closed the stream".into(),
            End::Gone(why) => why,
        };
        let time = pause.unwrap_or(FIRST_PAUSE);
        tell!("{why}; trying again in {} ms", time.as_millis());
        thread::park_timeout(time); // nobody wakes it
        pause = Some((time * 2).min(MAX_PAUSE));
    }
}

fn failed(error: &io::Error) -> String {
    format!("cannot write to standard output: {error}")
}

/// The address of the stream of a server.
pub fn address(url: &str) -> String {
    let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let authority = url.find("://").map_or(0, |at| at + 3);
    match url[authority..].find('/') {
        None => url + "/events",
        Some(at) if authority + at + 1 == url.len() => url + "events",
        Some(_) => url,
    }
}

/// Prints what comes, until nothing comes any more.
fn print(
    stream: &mut Stream<impl Read>,
    out: &mut impl Write,
    json: bool,
    last_id: &mut Option<String>,
) -> Result<End, String> {
    let mut line = String::new();
    loop {
        let frame = match stream.next() {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(End::Gone("the server has ended the connection".into())),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(error.to_string()),
            Err(error) => return Ok(End::Gone(error.to_string())),
        };
        match frame.event.as_str() {
            "" => {
                line.clear();
                if json {
                    line.push_str(&frame.data);
                } else {
                    describe(&frame.data, &mut line)?;
                }
                line.push('\n');
                out.write_all(line.as_bytes()).map_err(|error| failed(&error))?;
            }
            "dropped" => tell!("events were overwritten before they could be sent: {}", shown(&frame.data)),
            "restarted" => {
                tell!("the server is another run; from its oldest event on: {}", shown(&frame.data))
            }
            "closed" => return Ok(End::Closed),
            _ => {}
        }
        if let Some(id) = frame.id {
            *last_id = Some(id);
        }
        if !stream.has_more() {
            out.flush().map_err(|error| failed(&error))?;
        }
    }
}

/// Time of the day (UTC), category, type and data.
pub fn describe(envelope: &str, line: &mut String) -> Result<(), String> {
    let invalid = |error| format!("the server sent what is no event: {error}: {}", shown(envelope));
    let Envelope { seq, event } = serde_json::from_str(envelope).map_err(invalid)?;
    let ms = event.ts.div_euclid(1000).rem_euclid(24 * 3600 * 1000);
    let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    let (category, r#type) = (shown(event.category.as_str()), shown(&event.r#type));
    let _ = write!(line, "{seq} {h:02}:{m:02}:{s:02}.{:03} {category} {type}", ms % 1000);
    if event.truncated {
        line.push_str(" (truncated)");
    }
    if let Some(data) = &event.data {
        let _ = write!(line, " {}", shown(data.get()));
    }
    Ok(())
}

/// What comes from elsewhere must not control the terminal.
fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_control() {
            shown.extend(char.escape_unicode());
        } else {
            shown.push(char);
        }
    }
    shown
}

/// A stream of server-sent events.
pub struct Stream<R> {
    input: BufReader<R>,
    line: Vec<u8>,
}

#[derive(Debug, Default, PartialEq)]
pub struct Frame {
    pub id: Option<String>,
    pub event: String,
    pub data: String,
}

impl<R: Read> Stream<R> {
    pub fn new(input: R) -> Self {
        Self { input: BufReader::with_capacity(64 << 10, input), line: Vec::new() }
    }

    /// Whether something has come that was not given yet.
    fn has_more(&self) -> bool {
        !self.input.buffer().is_empty()
    }

    /// The next one. One that is not whole when the stream ends is none.
    pub fn next(&mut self) -> io::Result<Option<Frame>> {
        let mut frame = Frame::default();
        let mut begun = false;
        loop {
            self.line.clear();
            self.input.by_ref().take(MAX_LINE).read_until(b'\n', &mut self.line)?;
            let Some(line) = self.line.strip_suffix(b"\n") else {
                if self.line.len() as u64 == MAX_LINE {
                    let message = format!("the server sent a line of more than {MAX_LINE} bytes");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, message));
                }
                return Ok(None);
            };
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let line = std::str::from_utf8(line).map_err(|_| {
                io::Error::new(io::ErrorKind::InvalidData, "the server sent what is not UTF-8")
            })?;
            if line.is_empty() {
                if begun {
                    return Ok(Some(frame));
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => frame.id = Some(value.into()),
                "event" => frame.event = value.into(),
                "data" => {
                    if begun {
                        frame.data.push('\n');
                    }
                    frame.data.push_str(value);
                    begun = true;
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_however_they_are_written() {
        let text = ":\n\nid: 7-ab\ndata: {\"seq\":7}\n\nretry: 5\nevent:dropped\r\nid\r\ndata:a\r\ndata: b\r\n\r\n\nid: 9\ndata: x\n";
        let mut stream = Stream::new(text.as_bytes());
        let frame = |id: Option<&str>, event: &str, data: &str| {
            Some(Frame { id: id.map(Into::into), event: event.into(), data: data.into() })
        };
        assert_eq!(stream.next().unwrap(), frame(Some("7-ab"), "", "{\"seq\":7}"));
        assert_eq!(stream.next().unwrap(), frame(Some(""), "dropped", "a\nb"));
        assert_eq!(stream.next().unwrap(), None);
        assert_eq!(
            Stream::new(&b"data: \xff\n\n"[..]).next().unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }

    #[test]
    fn the_stream_is_found() {
        for url in
            ["localhost:7070", "http://localhost:7070", "http://localhost:7070/", "localhost:7070/events"]
        {
            assert_eq!(address(url), "http://localhost:7070/events");
        }
        assert_eq!(address("https://example.net/telemetry/events"), "https://example.net/telemetry/events");
    }

    #[test]
    fn an_event_is_one_line_that_controls_no_terminal() {
        let mut line = String::new();
        let envelope = "{\"seq\":3,\"event\":{\"ts\":86399999001,\"type\":\"\\u001b[2J\",\"category\":\"page\",\
                        \"source\":{\"kind\":\"cdp\"},\"data\":\"\u{9b}\",\"truncated\":true}}";
        describe(envelope, &mut line).unwrap();
        assert_eq!(line, "3 23:59:59.999 page \\u{1b}[2J (truncated) \"\\u{9b}\"");
    }
}
