//! A real S2 server as a child process, on a port and a folder of its own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU16, AtomicUsize};
use std::time::Duration;

use s2_sdk::S2;
use s2_sdk::error::ReadError;
use s2_sdk::types::{
    AppendInput, AppendRecord, AppendRecordBatch, CreateBasinInput, CreateStreamInput, DeleteStreamInput,
    ReadFrom, ReadInput, ReadStart, RetentionPolicy, S2Config, S2Endpoints, SequencedRecord, StreamConfig,
};
use tokio::runtime::Runtime;

pub const BASIN: &str = "lapwing-tests";
pub const STREAM: &str = "events";
/// What every test gives as its token. It must be seen nowhere.
pub const TOKEN: &str = "not-to-be-seen-5bd1e995";

/// How many servers were started, by one test each.
pub static STARTED: AtomicUsize = AtomicUsize::new(0);

/// The server's program, which is built if it is not there.
fn program(profile: &str, folder: &str) -> PathBuf {
    let workspace = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/s2-server"));
    let target = workspace.join("target");
    let program = target.join(folder).join("lapwing-s2-server");
    if !program.exists() {
        eprintln!("building the S2 server once, which takes some minutes");
        let built = Command::new(env!("CARGO"))
            .args(["build", "--locked", "--profile", profile, "--target-dir"])
            .arg(&target)
            .current_dir(&workspace)
            .status();
        assert!(built.is_ok_and(|status| status.success()), "the S2 server in {workspace:?} cannot be built");
    }
    program
}

static TEST_PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| program("dev", "debug"));
static RELEASE_PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| program("release", "release"));

/// It is killed when it is dropped, and its folder is removed.
pub struct Server {
    child: Child,
    program: &'static PathBuf,
    port: u16,
    folder: tempfile::TempDir,
    /// For how many seconds it keeps a record, if not for as long as it lives.
    keeps: Option<u64>,
    runtime: Runtime,
    client: S2,
}

impl Server {
    /// With [`BASIN`] and [`STREAM`], in the build that takes the least time to make.
    pub fn start() -> Self {
        let server = Self::without_stream();
        server.create_stream(STREAM);
        server
    }

    /// With [`BASIN`] only.
    pub fn without_stream() -> Self {
        Self::of(&TEST_PROGRAM, None)
    }

    /// With [`BASIN`] and [`STREAM`], optimized.
    pub fn release() -> Self {
        let server = Self::of(&RELEASE_PROGRAM, None);
        server.create_stream(STREAM);
        server
    }

    /// As [`release`](Self::release). What is older than so many seconds is removed, also from the disk.
    pub fn release_keeping(seconds: u64) -> Self {
        let server = Self::of(&RELEASE_PROGRAM, Some(seconds));
        server.create_stream(STREAM);
        server
    }

    fn of(program: &'static PathBuf, keeps: Option<u64>) -> Self {
        // Below those that the system gives to whoever asks for any port: it must be free again when the server is killed.
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (child, port) = (0..1000)
            .find_map(|_| {
                let port =
                    20_000 + (std::process::id() as u16 % 1000 * 12 + NEXT.fetch_add(1, Relaxed)) % 12_000;
                Some((spawn(program, port, &folder, keeps)?, port))
            })
            .expect("the S2 server starts");
        STARTED.fetch_add(1, Relaxed);
        let runtime = runtime();
        let client = runtime.block_on(async { client(&format!("http://127.0.0.1:{port}")) });
        let server = Self { child, program, port, folder, keeps, runtime, client };
        let basin = CreateBasinInput::new(BASIN.parse().unwrap());
        server.runtime.block_on(server.client.create_basin(basin)).unwrap();
        server
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn create_stream(&self, name: &str) {
        let mut config = StreamConfig::new();
        if let Some(seconds) = self.keeps {
            config = config.with_retention_policy(RetentionPolicy::Age(seconds));
        }
        let stream = CreateStreamInput::new(name.parse().unwrap()).with_config(config);
        self.runtime.block_on(self.client.basin(BASIN.parse().unwrap()).create_stream(stream)).unwrap();
    }

    pub fn delete_stream(&self, name: &str) {
        let stream = DeleteStreamInput::new(name.parse().unwrap()).with_ignore_not_found(true);
        self.runtime.block_on(self.client.basin(BASIN.parse().unwrap()).delete_stream(stream)).unwrap();
    }

    fn stream(&self) -> s2_sdk::S2Stream {
        self.client.basin(BASIN.parse().unwrap()).stream(STREAM.parse().unwrap())
    }

    /// How many records there are.
    pub fn tail(&self) -> u64 {
        self.runtime.block_on(self.stream().check_tail()).unwrap().seq_num
    }

    /// Appends a record that is none of lapwing's, as anybody may.
    pub fn append_foreign(&self) {
        let record = AppendRecord::new("somebody else's").unwrap();
        let input = AppendInput::new(AppendRecordBatch::try_from_iter([record]).unwrap());
        self.runtime.block_on(self.stream().append(input)).unwrap();
    }

    /// Every record, as the SDK gives them.
    pub fn records(&self) -> Vec<SequencedRecord> {
        let mut records: Vec<SequencedRecord> = Vec::new();
        loop {
            let next = self.records_from(records.last().map_or(0, |record| record.seq_num + 1));
            if next.is_empty() {
                return records;
            }
            records.extend(next);
        }
    }

    /// The next records, as many as the server gives at once; none if there are no more yet.
    pub fn records_from(&self, seq_num: u64) -> Vec<SequencedRecord> {
        let start = ReadStart::new().with_from(ReadFrom::SeqNum(seq_num));
        match self.runtime.block_on(self.stream().read(ReadInput::new().with_start(start))) {
            Ok(batch) => batch.records,
            Err(ReadError::ReadUnwritten(_)) => Vec::new(),
            Err(error) => panic!("{error}"),
        }
    }

    /// Where it keeps everything.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends it, without giving it the time to do anything more.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again after it was killed: with what it holds, at the same address.
    pub fn restart(&mut self) {
        self.child =
            spawn(self.program, self.port, &self.folder, self.keeps).expect("the S2 server starts again");
        self.client = self.runtime.block_on(async { client(&self.url()) });
    }

    /// Stops it where it is.
    pub fn stop(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts the program and waits until it listens. `None` when it ends before that, as it does when the port is in use.
fn spawn(program: &PathBuf, port: u16, folder: &tempfile::TempDir, keeps: Option<u64>) -> Option<Child> {
    let mut command = Command::new(program);
    command.arg(port.to_string()).arg(folder.path()).args(keeps.map(|seconds| seconds.to_string()));
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if line.is_empty() {
        child.wait().unwrap();
        return None;
    }
    assert_eq!(line.trim_end(), format!("http://127.0.0.1:{port}"));
    Some(child)
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// The SDK's client, which has to be made in a runtime.
pub fn client(url: &str) -> S2 {
    let config = S2Config::new(TOKEN)
        .with_request_timeout(Duration::from_secs(60))
        .with_endpoints(S2Endpoints::for_endpoint(url).unwrap())
        .with_rustls_ring_crypto_provider()
        .with_insecure_skip_cert_verification(true);
    S2::new(config).unwrap()
}
