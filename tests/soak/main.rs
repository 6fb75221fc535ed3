//! A soak of `lapwing relay`: every sink at once, with a rate that has to be held, and many clients of its server, each with habits of its own. Nobody
//! may miss an event without being told, and when the clients have gone, everything is as it was before they came.
//!
//! `cargo test` runs it for some seconds. `bash proof/soak` runs it for an hour, with the goals that are told there.

mod clients;
mod events;
#[allow(dead_code)] // each of its users uses a part
#[path = "../serve/http.rs"]
mod http;
mod process;
#[allow(dead_code)]
#[path = "../s2/server.rs"]
mod s2;
mod sinks;

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use clients::{Client, Done, Habit, pause_until};
use events::{Account, CATEGORIES, write_event};
use libtest_mimic::{Arguments, Trial};
use process::{Held, busy, resident, size};
use s2::{BASIN, STREAM, Server};
use serde_json::Value;

/// Nothing takes that long without anything happening.
const PATIENCE: Duration = Duration::from_secs(120);
/// Of how many events there will be, before that is known.
const UNKNOWN: u64 = u64::MAX;
/// What S2 keeps a record for, in seconds. Whoever checks it is no further behind.
const KEPT: u64 = 60;
/// How much memory may have grown since the first fifth of the time, by the run's end, if it is long enough to tell.
const GROWTH: f64 = 1.05;
const LONG: u64 = 60;

struct Plan {
    seconds: u64,
    rate: u64,
    clients: usize,
    optimized: bool,
}

fn main() -> ExitCode {
    let mut plan = Plan { seconds: 4, rate: 2_000, clients: 10, optimized: false };
    let args: Vec<_> = env::args().skip(1).collect();
    if !args.iter().any(|arg| arg == "--seconds") {
        let trial = Trial::test("a_short_soak", move || Ok(soak(&plan).map(drop)?));
        return libtest_mimic::run(&Arguments::from_args(), vec![trial]).exit_code();
    }
    plan = Plan { rate: 50_000, clients: 100, optimized: true, ..plan };
    for pair in args.chunks(2) {
        let number = pair.get(1).and_then(|number| number.parse().ok()).filter(|&number| number > 0);
        match (&*pair[0], number) {
            ("--seconds", Some(number)) => plan.seconds = number,
            ("--rate", Some(number)) => plan.rate = number,
            ("--clients", Some(number)) => plan.clients = number as usize,
            _ => {
                eprintln!(
                    "{pair:?}: allowed are --seconds, --rate and --clients, with a number above 0 each"
                );
                return ExitCode::from(2);
            }
        }
    }
    match soak(&plan) {
        Ok(verified) => {
            println!("verified soak: {verified}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("FAILED: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The relay, as a process.
struct Relay {
    child: Child,
    listening: SocketAddr,
    serving: SocketAddr,
    /// The last line of its JSON.
    report: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Relay {
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_lapwing"))
            .arg("relay")
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let (mut listening, mut serving) = (None, None);
        while listening.is_none() || serving.is_none() {
            let line = stderr.next().expect("the relay starts");
            let address = |words| line.strip_prefix(words)?.trim_end_matches('/').parse().ok();
            listening = listening.or_else(|| address("lapwing: listening at "));
            serving = serving.or_else(|| address("lapwing: serving at http://"));
        }
        let report = Arc::new(Mutex::new(String::new()));
        let (last, stdout) = (Arc::clone(&report), BufReader::new(child.stdout.take().unwrap()));
        let readers = vec![
            thread::spawn(move || stderr.for_each(|line| println!("    {line}"))),
            thread::spawn(move || {
                stdout.lines().map_while(Result::ok).for_each(|line| *last.lock().unwrap() = line);
            }),
        ];
        Self { child, listening: listening.unwrap(), serving: serving.unwrap(), report, readers }
    }

    fn stats(&self) -> Value {
        http::get(self.serving, "/stats", "").json()
    }

    /// Waits until its sinks have everything for good, and so many clients are there.
    fn settle(&self, seq: u64, clients: u64) -> Result<(), String> {
        let start = Instant::now();
        loop {
            let stats = self.stats();
            let sinks = stats["sinks"].as_array().unwrap();
            if sinks.iter().all(|sink| sink["durable"].as_u64() >= Some(seq)) && stats["clients"] == clients {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                return Err(format!("{seq} events are not there, or not {clients} clients: {stats}"));
            }
            thread::park_timeout(Duration::from_millis(100));
        }
    }

    /// What it holds when nothing happens: the same at several looks.
    fn held(&self) -> Held {
        let (mut held, mut looks) = (Held::by(self.child.id()), 0);
        while looks < 10 {
            thread::park_timeout(Duration::from_millis(50));
            let now = Held::by(self.child.id());
            looks = if now == held { looks + 1 } else { 0 };
            held = now;
        }
        held
    }

    /// Ends it. Returns its last report, and whether it says that nothing was lost.
    fn end(&mut self) -> Result<(Value, bool), String> {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let code = sent.and_then(|_| self.child.wait()).map_err(|error| error.to_string())?.code();
        self.readers.drain(..).for_each(|reader| reader.join().unwrap());
        let report: Value = serde_json::from_str(&self.report.lock().unwrap()).map_err(|e| e.to_string())?;
        match code {
            Some(code @ (0 | 1)) => Ok((report, code == 0)),
            other => Err(format!("the relay ended with {other:?}: {report}")),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Who sends events, so many a second.
struct Feed {
    socket: TcpStream,
    sent: u64,
}

impl Feed {
    /// Sends up to this number. Returns by how much it was late, at most.
    fn send(&mut self, to: u64, rate: u64) -> Result<Duration, String> {
        let (start, first) = (Instant::now(), self.sent);
        let mut lines = Vec::new();
        let mut latest = Duration::ZERO;
        while self.sent < to {
            let passed = start.elapsed();
            let due = (first + (passed.as_secs_f64() * rate as f64) as u64).min(to);
            lines.clear();
            // Not more at once than a reader takes in one go: the time is looked at again after that.
            for seq in self.sent + 1..=due.min(self.sent + 1000) {
                write_event(seq, &mut lines);
                lines.push(b'\n');
                self.sent = seq;
            }
            self.socket.write_all(&lines).map_err(|error| format!("the relay takes no more: {error}"))?;
            let late = start.elapsed().as_secs_f64() - (self.sent - first) as f64 / rate as f64;
            latest = latest.max(Duration::from_secs_f64(late.max(0.0)));
            if self.sent == due {
                pause_until(Instant::now() + Duration::from_millis(2));
            }
        }
        Ok(latest)
    }
}

/// What was seen at one time.
struct Sample {
    at: f64,
    resident: u64,
}

#[derive(Default)]
struct Most {
    lag: [u64; 2],
    not_durable: [u64; 2],
    descriptors: usize,
    threads: usize,
    disk: u64,
}

fn joined<T>(what: &str, thread: JoinHandle<Result<T, String>>) -> Result<T, String> {
    thread.join().unwrap_or_else(|_| Err(format!("{what} panicked")))
}

fn soak(plan: &Plan) -> Result<String, String> {
    let &Plan { seconds, rate, clients, optimized } = plan;
    let server = Arc::new(if optimized { Server::release_keeping(KEPT) } else { Server::start() });
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(|error| error.to_string())?;
    let (out, name, url) = (dir.path().join("out"), format!("{BASIN}/{STREAM}"), server.url());
    // Five seconds of events, which all lie in their slots.
    let ring = (rate * 5).next_power_of_two().to_string();
    #[rustfmt::skip]
    let mut relay = Relay::start(&[
        "--listen", "127.0.0.1:0", "--serve", "127.0.0.1:0", "--json", "--deadline", "60",
        "--out", out.to_str().unwrap(), "--out-max-bytes", "33554432", "--out-zstd", "1", "--out-fsync", "100",
        "--s2", &name, "--s2-endpoint", &url, "--s2-batch", "1000", "--s2-linger", "20",
        "--events", &ring, "--inline-bytes", "256",
    ]);
    let pid = relay.child.id();
    let epoch = relay.stats()["epoch"].as_str().unwrap().to_owned();
    let total = Arc::new(AtomicU64::new(UNKNOWN));
    let is_over = Arc::new(AtomicBool::new(false));
    let (their_dir, over) = (out.clone(), Arc::clone(&is_over));
    let files = thread::spawn(move || sinks::files(&their_dir, &over));
    let (their_server, over, all) = (Arc::clone(&server), Arc::clone(&is_over), Arc::clone(&total));
    let records = thread::spawn(move || sinks::records(&their_server, &all, &over));

    // Everything has been at work once.
    let socket = TcpStream::connect(relay.listening).map_err(|error| error.to_string())?;
    let mut feed = Feed { socket, sent: 0 };
    feed.send(rate, rate)?;
    relay.settle(rate, 0)?;
    let before = relay.held();

    let client = |number: usize, stays: bool| {
        let habit =
            [Habit::All, Habit::Slow, Habit::OneCategory, Habit::ComesAndGoes, Habit::All][number % 5];
        let (address, total, epoch) = (relay.serving, Arc::clone(&total), epoch.clone());
        let patience = rate * 2;
        thread::spawn(move || {
            Client { number, habit, address, epoch: &epoch, total: &total, patience, stays }.run()
        })
    };
    let everybody: Vec<_> = (0..clients).map(|number| client(number, false)).collect();
    let (start, busy_before) = (Instant::now(), busy(pid));
    let feeding = thread::spawn(move || {
        let to = feed.sent + rate * seconds;
        feed.send(to, rate).map(|late| (feed, late, start.elapsed()))
    });

    let period = Duration::from_secs((seconds / 30).clamp(1, 10));
    let (mut samples, mut most) = (Vec::new(), Most::default());
    let mut due = start + period;
    while !feeding.is_finished() {
        if files.is_finished() || records.is_finished() || everybody.iter().any(JoinHandle::is_finished) {
            break; // somebody has found something
        }
        if Instant::now() < due {
            thread::park_timeout(Duration::from_millis(100));
            continue;
        }
        due += period;
        let (stats, held) = (relay.stats(), Held::by(pid));
        let sample = Sample { at: start.elapsed().as_secs_f64(), resident: resident(pid) };
        let (threads, descriptors) = held.count();
        let disk = size(dir.path()) + size(server.folder());
        let seq = stats["seq"].as_u64().unwrap();
        for at in 0..2 {
            let sink = &stats["sinks"][at];
            most.lag[at] = most.lag[at].max(sink["lag"].as_u64().unwrap());
            most.not_durable[at] =
                most.not_durable[at].max(seq.saturating_sub(sink["durable"].as_u64().unwrap()));
        }
        most.threads = most.threads.max(threads);
        most.descriptors = most.descriptors.max(descriptors);
        most.disk = most.disk.max(disk);
        let lag = |at: usize| &stats["sinks"][at]["lag"];
        println!(
            "{:6.0} s: {seq} events, {} clients, {:.1} MiB resident, {descriptors} descriptors, {threads} threads, \
             lag of files {}, of S2 {}, {} MiB on disk",
            sample.at,
            stats["clients"],
            sample.resident as f64 / 1024.0,
            lag(0),
            lag(1),
            disk >> 20,
        );
        samples.push(sample);
    }
    if !feeding.is_finished() {
        let mut finished = everybody.into_iter().filter(JoinHandle::is_finished);
        let client =
            finished.next().map(|client| joined("a client", client).map(|_| "a client has gone".into()));
        return Err(match client {
            Some(why) => why.unwrap_or_else(|why| why),
            None if files.is_finished() => joined("the reader of the files", files).err().unwrap_or_default(),
            None => joined("the reader of S2", records).err().unwrap_or_default(),
        });
    }
    let (feed, late, took) = joined("who feeds", feeding)?;
    let cpu = (busy(pid) - busy_before) / took.as_secs_f64();
    let events = feed.sent;
    total.store(events, Relaxed);

    // The clients get what is left, and go.
    let done =
        everybody.into_iter().map(|client| joined("a client", client)).collect::<Result<Vec<_>, _>>()?;
    relay.settle(events, 0)?;
    let mut after = relay.held();
    let gone = Instant::now();
    while after.count().0 > before.count().0 || after.count().1 > before.count().1 {
        if gone.elapsed() > PATIENCE {
            return Err(format!("before: {before:#?}\nafter the clients have gone: {after:#?}"));
        }
        after = relay.held();
    }
    // A few that are there to the end.
    let late_ones: Vec<_> = (0..5).map(|number| client(number, true)).collect();
    relay.settle(events, 5)?;
    let (report, complete) = relay.end()?;
    is_over.store(true, Relaxed);
    let late_ones =
        late_ones.into_iter().map(|client| joined("a client", client)).collect::<Result<Vec<_>, _>>()?;
    let (files, file_count) = joined("the reader of the files", files)?;
    let (records, record_count) = joined("the reader of S2", records)?;
    drop(feed);

    // ---- The account.
    let mut wanted = [0; CATEGORIES.len() + 1];
    (1..=events).for_each(|seq| wanted[events::category(seq)] += 1);
    wanted[CATEGORIES.len()] = events;
    for (name, account) in [("files", &files), ("S2", &records)] {
        account.check(events, &wanted).map_err(|why| format!("{name}: {why}"))?;
    }
    for Done { habit, account, closed_at, .. } in done.iter().chain(&late_ones) {
        account.check(events, &wanted).map_err(|why| format!("a client ({habit:?}): {why}"))?;
        if closed_at.is_some_and(|seq| seq != events) {
            return Err(format!("{events} events, and closed at {closed_at:?}"));
        }
    }
    if late_ones.iter().any(|done| done.closed_at.is_none()) {
        return Err("a client that stayed was not told of the end".into());
    }
    if server.tail() != record_count {
        return Err(format!("{record_count} records were read, and there are {}", server.tail()));
    }
    let said = ["published", "seq", "lines"].map(|name| report[name].as_u64());
    let dropped = [0, 1].map(|at: usize| report["sinks"][at]["dropped"].as_u64().unwrap_or(UNKNOWN));
    let is_nothing_lost = files.lost + records.lost == 0;
    if said != [Some(events); 3] || dropped != [files.lost, records.lost] || complete != is_nothing_lost {
        return Err(format!("this is not what was seen: {report}"));
    }

    let warm_at = took.as_secs_f64() / 5.0;
    let warm: Vec<_> = samples.iter().filter(|sample| sample.at >= warm_at).collect();
    let tenth = (warm.len() / 8).max(1).min(warm.len());
    let (first, last) = (middle(&warm[..tenth]), middle(&warm[warm.len() - tenth..]));
    let slope = slope(&warm) * 3600.0;
    if seconds >= LONG && last > first * GROWTH {
        return Err(format!("memory has grown from {first:.1} to {last:.1} MiB, {slope:.1} MiB an hour"));
    }

    let by_habit = |habit: Habit| {
        let (mut count, mut delivered, mut lost, mut connections) = (0u64, 0, 0, 0);
        for done in done.iter().filter(|done| done.habit == habit) {
            count += 1;
            delivered += done.account.delivered;
            lost += done.account.lost;
            connections += done.connections;
        }
        println!(
            "{habit:?}: {count} clients, {delivered} delivered, {lost} told lost, {connections} connections"
        );
        [delivered, lost, connections]
    };
    let habits = [Habit::All, Habit::OneCategory, Habit::Slow, Habit::ComesAndGoes].map(by_habit);
    let sum = |at: usize| habits.iter().map(|habit| habit[at]).sum::<u64>();
    let there = |account: &Account| match account.lost {
        0 => "all there".to_owned(),
        lost => format!("{} there and {lost} told lost", account.delivered),
    };
    let [lag_files, lag_s2] = most.lag;
    let [not_durable_files, not_durable_s2] = most.not_durable;
    let (threads, descriptors) = before.count();
    let (threads_after, descriptors_after) = after.count();
    Ok(format!(
        "{seconds} s at {:.0} events/s (late by {} ms at most), {events} events, {clients} clients: files {} in {file_count}, S2 {}, clients \
         delivered {} and told of {} lost over {} connections, RSS {first:.1} MiB after warm-up and {last:.1} at the end (slope {slope:+.2} MiB/h), \
         descriptors {descriptors} before, {} at most and {descriptors_after} after, threads {threads}, {} and {threads_after}, most lag {lag_files} \
         events in files and {lag_s2} in S2 (not durable {not_durable_files} and {not_durable_s2}) of a ring of {ring}, {:.0} % of a core, \
         {} MiB on disk at most, 0 unaccounted",
        (events - rate) as f64 / took.as_secs_f64(),
        late.as_millis(),
        there(&files),
        there(&records),
        sum(0),
        sum(1),
        sum(2),
        most.descriptors,
        most.threads,
        cpu * 100.0,
        most.disk >> 20,
    ))
}

/// The median, in MiB.
fn middle(samples: &[&Sample]) -> f64 {
    let mut resident: Vec<_> = samples.iter().map(|sample| sample.resident).collect();
    resident.sort_unstable();
    resident.get(resident.len() / 2).map_or(0.0, |&kib| kib as f64 / 1024.0)
}

/// The line of least squares through them, in MiB a second.
fn slope(samples: &[&Sample]) -> f64 {
    let count = samples.len() as f64;
    let mean = |of: fn(&Sample) -> f64| samples.iter().map(|sample| of(sample)).sum::<f64>() / count;
    let (at, mib) = (mean(|sample| sample.at), mean(|sample| sample.resident as f64 / 1024.0));
    let (mut product, mut square) = (0.0, 0.0);
    for sample in samples {
        product += (sample.at - at) * (sample.resident as f64 / 1024.0 - mib);
        square += (sample.at - at).powi(2);
    }
    if square > 0.0 { product / square } else { 0.0 }
}
