//! Streams of S2: where they are, and who lets one in.

use std::path::PathBuf;
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use lapwing::storage::{Line, S2Config, S2Error, S2Storage};
use lapwing::stream::EventStream;

/// Where the token is, if no file is told.
const TOKEN: &str = "S2_ACCESS_TOKEN";

/// How often a server is asked for more before it counts as gone, and how long after one attempt comes the next.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);

/// A sink in S2.
#[derive(clap::Args)]
#[group(skip)]
pub struct Args {
    /// Append every envelope as a record to a stream of S2, exactly once. The stream has to be there; whoever writes to it is shut out.
    #[arg(long, value_name = "BASIN/STREAM")]
    pub s2: Option<Name>,
    /// How long a record waits for others of its batch, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 100, requires = "s2")]
    s2_linger: u64,
    /// With how many records a batch is sent at once.
    #[arg(long, value_name = "RECORDS", default_value_t = 50, requires = "s2")]
    s2_batch: usize,
    #[command(flatten)]
    server: Server,
}

/// Where streams are.
#[derive(clap::Args)]
#[group(skip)]
pub struct Server {
    /// The server, where it is not S2's own: `http://` or `https://` with a host and a port.
    #[arg(long, value_name = "URL")]
    s2_endpoint: Option<String>,
    /// A file with the access token. Without it, the environment has it in S2_ACCESS_TOKEN; a server of one's own may do without.
    #[arg(long, value_name = "FILE")]
    s2_token_file: Option<PathBuf>,
}

/// A stream in a basin.
#[derive(Clone, Debug)]
pub struct Name {
    basin: String,
    stream: String,
}

impl FromStr for Name {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("s2://").unwrap_or(text).split_once('/') {
            Some((basin, stream)) if !basin.is_empty() && !stream.is_empty() => {
                Ok(Self { basin: basin.into(), stream: stream.into() })
            }
            _ => Err("the name of a basin, a slash and the name of a stream are needed"),
        }
    }
}

impl Args {
    /// Opens the stream, if one is told, and takes it.
    pub fn open(&self, stream: &EventStream) -> Result<Option<S2Storage>, String> {
        let Some(Name { basin, stream: name }) = &self.s2 else { return Ok(None) };
        let config =
            self.server.config().linger(Duration::from_millis(self.s2_linger)).batch_records(self.s2_batch);
        let opened = S2Storage::open(stream, basin, &self.server.token()?, name, config);
        // Nothing in it is of this stream, which was made just now.
        opened.map(|(storage, _)| Some(storage)).map_err(|error| error.to_string())
    }

    /// Reads a stream, up to the end that it has now. It ends before that when the server is gone.
    pub fn read(
        &self,
        Name { basin, stream }: &Name,
    ) -> Result<impl Iterator<Item = Result<Line, S2Error>> + Send + use<>, String> {
        let records = S2Storage::read(basin, &self.server.token()?, stream, &self.server.config());
        let mut records = records.map_err(|error| error.to_string())?;
        let mut is_gone = false;
        Ok(std::iter::from_fn(move || {
            let mut tries = 1..TRIES;
            loop {
                match records.next().filter(|_| !is_gone)? {
                    Err(error) if error.is_transient() && tries.next().is_some() => {
                        thread::park_timeout(PAUSE)
                    }
                    Err(error) => {
                        is_gone = !matches!(error, S2Error::Foreign { .. });
                        return Some(Err(error));
                    }
                    line => return Some(line),
                }
            }
        }))
    }
}

impl Server {
    fn config(&self) -> S2Config {
        let config = S2Config::new();
        match &self.s2_endpoint {
            Some(url) => config.endpoint(url),
            None => config,
        }
    }

    fn token(&self) -> Result<String, String> {
        if let Some(file) = &self.s2_token_file {
            return crate::setup::token(file);
        }
        match (std::env::var(TOKEN), &self.s2_endpoint) {
            (Ok(token), _) => Ok(token),
            (Err(_), Some(_)) => Ok("none".into()),
            (Err(_), None) => {
                Err(format!("S2 needs an access token: in {TOKEN}, or in a file, with --s2-token-file"))
            }
        }
    }
}
