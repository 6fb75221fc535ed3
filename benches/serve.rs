//! What a thousand clients of server-sent events get, and what they cost the publisher.
//!
//! `cargo bench --bench serve` publishes 100 events a second to a stream that is served on the loopback address, and takes the time of
//! each `publish`: in turn without clients, and with a process that has 1,000 of them. The last lines are one for each goal. As a test
//! (`-- --test`), with few clients and events.

mod harness;

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use harness::{Limit, verdict};
use lapwing::event::{Category, Event, Source, SourceKind};
use lapwing::serve::Server;
use lapwing::stream::{Config, EventStream};
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

/// What makes this the process of the clients: the server's address.
const SERVER: &str = "LAPWING_BENCH_SERVER";
const CLIENTS: &str = "LAPWING_BENCH_CLIENTS";
/// Between two events.
const PAUSE: Duration = Duration::from_millis(10);

struct Size {
    rounds: usize,
    clients: usize,
    /// Of each half of a round.
    events: usize,
}

fn main() {
    if let Ok(address) = std::env::var(SERVER) {
        let count = std::env::var(CLIENTS).unwrap().parse().unwrap();
        return clients(address.parse().unwrap(), count);
    }
    let has = |wanted| std::env::args().any(|arg| arg == wanted);
    if has("--list") {
        return;
    }
    let is_test = has("--test") || !has("--bench");
    let size = if is_test {
        Size { rounds: 1, clients: 20, events: 50 }
    } else {
        Size { rounds: 5, clients: 1000, events: 500 }
    };
    let verdicts = run(&size);
    if !is_test {
        println!();
        verdicts.iter().for_each(|verdict| println!("{verdict}"));
    }
}

fn event() -> Event<'static> {
    let source = Source::new(SourceKind::Cdp).event("Runtime.consoleAPICalled");
    let event = Event::new("console_log", Category::Console, source).ts(1_795_346_234_966_162);
    event.data_json(r#"{"message":"hello","level":"log"}"#).unwrap()
}

/// What the rounds add up to.
#[derive(Default)]
struct Sums {
    without: Vec<u64>,
    with: Vec<u64>,
    frames: u64,
    dropped: u64,
    behind: u64,
    time: Duration,
    cpu: Duration,
}

fn run(size: &Size) -> Vec<String> {
    raise_descriptors();
    let mut sums = Sums::default();
    (0..size.rounds).for_each(|_| round(size, &mut sums));
    let Sums { mut without, mut with, frames, dropped, behind, time, cpu } = sums;

    let wanted = (size.clients * size.events * size.rounds) as u64;
    println!(
        "{} clients got {frames} of {wanted} events in {:.1} s and lost {dropped}; the last one was {behind} behind at the end",
        size.clients,
        time.as_secs_f64(),
    );
    println!("the server took {:.2} cores meanwhile", cpu.as_secs_f64() / time.as_secs_f64());
    println!("\n{:<30}{:>12}{:>12}{:>12}", "publish, ns", "median", "p99", "largest");
    for (name, times) in [("without clients", &mut without), ("with clients", &mut with)] {
        times.sort_unstable();
        let [median, p99, max] = [50, 99, 100].map(|percent| percentile(times, percent));
        println!("{name:<30}{median:>12}{p99:>12}{max:>12}");
    }
    let arrived = frames as f64 / wanted as f64;
    let ratio = percentile(&with, 99) as f64 / percentile(&without, 99) as f64;
    vec![
        verdict("events that 1,000 clients got / events for them", arrived, Limit::AtLeast(1.0), 4),
        verdict("publish p99 with 1,000 clients / without", ratio, Limit::AtMost(1.1), 2),
    ]
}

/// A server, first without clients and then with them.
fn round(size: &Size, sums: &mut Sums) {
    let stream = Arc::new(Config::new().build().unwrap());
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = Server::new(Arc::clone(&stream)).serve(listener, async { _ = stopped.await });
    let served = runtime.spawn(server);

    sums.without.extend(publish(&stream, size.events));
    let mut process = Process::start(address, size.clients);
    let start = (Instant::now(), cpu());
    sums.with.extend(publish(&stream, size.events));
    sums.time += start.0.elapsed();
    sums.cpu += cpu() - start.1;
    sums.behind = stream.readers().iter().map(|reader| reader.lag).fold(sums.behind, u64::max);
    stream.close();
    let (frames, dropped) = process.end();
    sums.frames += frames;
    sums.dropped += dropped;
    drop(stop);
    assert_eq!(runtime.block_on(served).unwrap().unwrap(), 0, "a client was cut off");
}

/// Publishes so many events, one in each pause, and returns the nanoseconds that each took.
fn publish(stream: &EventStream, events: usize) -> Vec<u64> {
    let event = event();
    let mut due = Instant::now();
    let mut times = Vec::with_capacity(events);
    for _ in 0..events {
        due += PAUSE;
        while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            thread::park_timeout(left);
        }
        let start = Instant::now();
        stream.publish(&event).unwrap();
        times.push(start.elapsed().as_nanos() as u64);
    }
    times
}

/// Of sorted times.
fn percentile(times: &[u64], percent: usize) -> u64 {
    times[((times.len() - 1) * percent).div_ceil(100)]
}

/// The time that this process had on all cores.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<i64> = stat
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .filter_map(|field| field.parse().ok())
        .collect();
    // After the state, utime and stime are the 11th and 12th number; in hundredths of a second.
    fields
        .get(10..12)
        .map_or(Duration::ZERO, |ticks| Duration::from_millis(10 * ticks.iter().sum::<i64>().unsigned_abs()))
}

fn raise_descriptors() {
    #[cfg(target_os = "linux")]
    {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the pointer is to a limit that outlives the call, which is all that it asks for.
        if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0 {
            limit.rlim_cur = limit.rlim_max;
            // SAFETY: as above.
            unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
        }
    }
}

// ---- The clients.

struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts the clients, and waits until the server has them all.
    fn start(address: SocketAddr, clients: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(SERVER, address.to_string())
            .env(CLIENTS, clients.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        Self { child, lines }
    }

    /// How many events they have got, and how many they were told that they lost.
    fn end(&mut self) -> (u64, u64) {
        let line = self.lines.next().unwrap().unwrap();
        assert!(self.child.wait().unwrap().success());
        let (frames, dropped) = line.split_once(' ').unwrap();
        (frames.parse().unwrap(), dropped.parse().unwrap())
    }
}

fn clients(address: SocketAddr, count: usize) {
    raise_descriptors();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (frames, dropped) = runtime.block_on(async {
        let mut connected = Vec::new();
        for _ in 0..count {
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket.write_all(b"GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(socket.read_u8().await.unwrap());
            }
            assert!(head.starts_with(b"HTTP/1.1 200 "));
            connected.push(socket);
        }
        println!("ready");
        std::io::stdout().flush().unwrap();
        let clients: Vec<_> = connected.into_iter().map(|socket| tokio::spawn(client(socket))).collect();
        let mut sums = (0, 0);
        for client in clients {
            let (frames, dropped) = client.await.unwrap();
            sums = (sums.0 + frames, sums.1 + dropped);
        }
        sums
    });
    println!("{frames} {dropped}");
}

/// Reads until the stream is closed.
async fn client(mut socket: TcpStream) -> (u64, u64) {
    const ENVELOPE: &[u8] = b"data: {\"seq\":";
    const DROPPED: &[u8] = b"event: dropped";
    const CLOSED: &[u8] = b"event: closed";
    // What one read may have cut in two.
    const CARRY: usize = DROPPED.len() - 1;
    let mut buffer = vec![0; 8 << 10];
    let (mut frames, mut dropped, mut start) = (0, 0, 0);
    let mut is_closed = false;
    while !is_closed {
        let read = socket.read(&mut buffer[start..]).await.unwrap();
        assert!(read > 0, "the server has closed before the stream");
        let there = &buffer[..start + read];
        let keep = there.len().min(CARRY);
        let count = |of: &[u8]| {
            // Those in the carry alone were counted before.
            let old = memmem::find_iter(&there[..start], of).count();
            (memmem::find_iter(there, of).count() - old) as u64
        };
        // The `closed` frame has a seq, too.
        is_closed = count(CLOSED) > 0;
        frames += count(ENVELOPE) - u64::from(is_closed);
        dropped += count(DROPPED);
        let end = there.len();
        buffer.copy_within(end - keep..end, 0);
        start = keep;
    }
    (frames, dropped)
}
