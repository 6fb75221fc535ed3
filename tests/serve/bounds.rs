//! What strangers can do to the server, and cannot.

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lapwing::stream::Config;

use crate::http::{Connection, Events, get, post};
use crate::{Served, SetAtEnd, event, publish};

// ---- Requests that are none.

#[test]
fn what_is_no_request_is_refused_and_harms_nobody() {
    let served = Served::start();
    let long = "x".repeat(100_000);
    let post = "POST /events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let get = "GET /events?replay=all HTTP/1.1\r\n";
    let requests: Vec<(Vec<u8>, &[u16])> = vec![
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(10), &[400]), // TLS
        (b"\x00\x00\x00\x00\r\n\r\n".to_vec(), &[400]),
        (b"GET\r\n\r\n".to_vec(), &[400]),
        (b"GET /events\r\n\r\n".to_vec(), &[400]),
        (b"GET /events HTTP/9.9\r\n\r\n".to_vec(), &[400]),
        (b"GET /ev\x7fents HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(), &[400]),
        (format!("{get}host localhost\r\n\r\n").into(), &[400]),
        (format!("{get}ho\u{0}st: localhost\r\n\r\n").into(), &[400]),
        (format!("{get}host: localhost\r\nlast-event-id: 1\u{0}\r\n\r\n").into(), &[400]),
        (format!("{post}content-length: -1\r\n\r\n").into(), &[400]),
        (format!("{post}content-length: 99999999999999999999999\r\n\r\n").into(), &[400]),
        (format!("{post}content-length: 2\r\ncontent-length: 3\r\n\r\n{{}}").into(), &[400]),
        (format!("{post}transfer-encoding: nonsense\r\n\r\n{{}}").into(), &[400]),
        (format!("{post}transfer-encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\n").into(), &[400]),
        (format!("{post}transfer-encoding: chunked\r\n\r\n5;{long}\r\n").into(), &[400]),
        (format!("GET /events?types={long} HTTP/1.1\r\nhost: localhost\r\n\r\n").into(), &[414, 431]),
        (format!("{get}host: localhost\r\nx: {long}\r\n\r\n").into(), &[431]),
        (format!("{get}host: localhost\r\n{}\r\n", "a: b\r\n".repeat(1000)).into(), &[431]),
        (format!("{get}{long}").into(), &[431]),
        (b"BREW /events HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".to_vec(), &[405]),
        (b"GET /nothing HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".to_vec(), &[404]),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), &[]),
    ];
    for (request, statuses) in requests {
        let shown = String::from_utf8_lossy(&request[..request.len().min(60)]).into_owned();
        let mut connection = Connection::to(served.address);
        connection.try_send(&request);
        // Such a connection is closed in any case.
        let answer = String::from_utf8(connection.rest()).unwrap();
        let status = answer.get(9..12).and_then(|status| status.parse().ok());
        let is_expected = status.map_or(statuses.is_empty(), |status| statuses.contains(&status));
        assert!(is_expected && !answer[12.min(answer.len())..].contains("HTTP/"), "{shown:?}: {answer}");
        // Everybody else is served.
        assert_eq!(crate::http::get(served.address, "/healthz", "").status, 200, "{shown:?}");
    }
    assert_eq!((served.stream.seq(), served.stream.readers().len()), (0, 0));
}

#[test]
fn requests_may_follow_each_other_without_waiting() {
    let served = Served::start();
    let mut connection = Connection::to(served.address);
    connection.send("GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(3));
    for _ in 0..3 {
        assert_eq!(connection.response().text(), "ok\n");
    }
    // An older client has the end of the connection as the end of the body.
    publish(&served.stream, 1);
    served.stream.close();
    let mut old = Connection::to(served.address);
    old.send("GET /events?replay=all&ids=seq HTTP/1.0\r\n\r\n");
    assert_eq!(old.head().status, 200);
    let rest = String::from_utf8(old.rest()).unwrap();
    assert!(rest.starts_with("id: 1\n") && rest.ends_with("event: closed\ndata: {\"seq\":1}\n\n"), "{rest}");
}

// ---- Time.

#[test]
fn a_head_that_does_not_come_is_not_waited_for() {
    const TIMEOUT: Duration = Duration::from_millis(100);
    let served = Served::with(Config::new(), |server| server.header_timeout(TIMEOUT));
    for start in ["", "GET /ev", "GET /events HTTP/1.1\r\nhost: localhost\r\n"] {
        let before = Instant::now();
        let mut connection = Connection::to(served.address);
        connection.send(start);
        connection.rest();
        assert!(before.elapsed() >= TIMEOUT, "{start}: too soon");
    }
    // More of it is no reason to wait longer: one that sends without an end is closed, too.
    let mut trickle = Connection::to(served.address);
    trickle.send("GET /events HTTP/1.1\r\n");
    let start = Instant::now();
    while trickle.try_send(b"x") {
        assert!(start.elapsed() < Duration::from_secs(30), "it is still waited for");
        thread::yield_now();
    }
    // So is one that does not ask again.
    let mut idle = Connection::to(served.address);
    idle.get("/healthz", "");
    assert_eq!(idle.response().status, 200);
    assert_eq!(idle.rest(), b"");
    // One that listens is not: its request was there.
    let mut listening = Events::new(served.address, "", "");
    let before = Instant::now();
    while before.elapsed() < 3 * TIMEOUT {
        publish(&served.stream, 1);
        assert!(listening.frame().is_some());
    }
}

// ---- Numbers.

#[test]
fn one_connection_too_many_is_told_so() {
    let served = Served::with(Config::new(), |server| server.max_connections(3));
    let mut there: Vec<_> = (0..3).map(|_| Events::new(served.address, "", "")).collect();
    for _ in 0..5 {
        let mut refused = Connection::to(served.address);
        let response = refused.response();
        assert_eq!((response.status, response.header("retry-after")), (503, Some("1")));
        assert!(response.error().contains("too many connections"));
        assert_eq!(refused.rest(), b"");
    }
    publish(&served.stream, 1);
    for events in &mut there {
        assert!(events.frame().is_some(), "those that are there stay");
    }
    there.pop();
    // As soon as the server has seen that one go, there is room.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let mut connection = Connection::to(served.address);
        connection.try_send(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n");
        match connection.response().status {
            200 => break,
            status => assert!(status == 503 && Instant::now() < deadline, "{status}"),
        }
    }
}

#[test]
fn all_bodies_together_have_a_bound() {
    // 2 MiB each, of 64 MiB: they do not all get what they need.
    let served = Served::start();
    let head = "POST /events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 2097152\r\n\r\n";
    let body = vec![b' '; (2 << 20) - 1];
    let mut bodies: Vec<_> = (0..40)
        .map(|_| {
            let mut connection = Connection::to(served.address);
            connection.try_send(head.as_bytes());
            connection.try_send(&body);
            connection
        })
        .collect();
    // Nobody has an answer before his last byte but who is refused.
    let deadline = Instant::now() + Duration::from_secs(25);
    while !bodies.iter().any(Connection::has_answer) {
        assert!(Instant::now() < deadline, "every body is held");
        thread::yield_now();
    }
    // Small ones need no leave.
    assert_eq!(post(served.address, "application/json", event("page", "x")).status, 200);
    // And those that have theirs are served to the end.
    let mut count = [0, 0];
    for connection in &mut bodies {
        connection.try_send(b" ");
        let response = connection.response();
        count[usize::from(response.status == 503)] += 1;
        if response.status == 503 {
            assert_eq!(response.header("retry-after"), Some("1"));
            assert!(response.error().contains("too many large bodies"), "{response:?}");
        } else {
            assert_eq!(response.status, 400, "{response:?}");
        }
    }
    assert!(count[0] >= 16 && count[1] >= 1, "{count:?}");
    let large = format!(
        r#"{{"ts":1,"type":"x","category":"page","source":{{"kind":"x"}},"data":"{}"}}"#,
        "x".repeat(2_000_000)
    );
    assert_eq!(post(served.address, "application/json", large).status, 200);
}

// ---- Memory. The server is a process of its own, so that it can be measured.

/// What makes this test binary the server.
const CHILD: &str = "LAPWING_TEST_SERVER";
/// The most clients that are tried.
const SLOW_CLIENTS: usize = 10_000;

#[test]
fn server() {
    if std::env::var_os(CHILD).is_none() {
        return; // it is for the tests below
    }
    raise_descriptors();
    let config = Config::new().events(4096).large_bytes(16 << 20);
    let served = Served::with(config, |server| server.header_timeout(Duration::from_secs(600)));
    println!("\naddress {}", served.address);
    // Until the test is at its end, however it ends.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

struct Server {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    address: SocketAddr,
}

impl Server {
    fn start() -> Self {
        let program = std::env::current_exe().unwrap();
        let mut child = Command::new(program)
            .args(["--exact", "bounds::server", "--nocapture", "--test-threads=1"])
            .env(CHILD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = stdout.find_map(|line| line.unwrap().strip_prefix("address ").map(str::to_owned));
        Self { child, stdout, address: address.expect("the server has started").parse().unwrap() }
    }

    /// The bytes of memory that it has.
    fn memory(&self) -> usize {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.map_or(0, |line| line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.stdout.by_ref().for_each(drop);
        let status = self.child.wait();
        assert!(thread::panicking() || status.unwrap().success());
    }
}

/// As many as this process may have. Returns how many.
fn raise_descriptors() -> usize {
    #[cfg(target_os = "linux")]
    {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the pointer is to a limit that outlives the call, which is all that it asks for.
        if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0 {
            limit.rlim_cur = limit.rlim_max;
            // SAFETY: as above.
            if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } == 0 {
                return usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX);
            }
        }
    }
    256
}

/// Publishes over HTTP and listens, and does not publish more before it has what it published: for as long as `until` says no. Returns how
/// many events there were.
fn all_arrives(address: SocketAddr, until: &AtomicBool) -> u64 {
    let mut events = Events::new(address, "?types=good", "");
    let mut publisher = Connection::to(address);
    let batch = (event("page", "good") + "\n").repeat(100);
    let mut count = 0;
    while !until.load(Ordering::Acquire) {
        let report = publisher.post("application/x-ndjson", batch.as_bytes()).json();
        assert_eq!(report["published"], 100, "{report}");
        for _ in 0..100 {
            let frame = events.frame().unwrap();
            assert_eq!(frame.event, None, "nothing is lost: {frame:?}");
            count += 1;
        }
    }
    count
}

/// Runs `attack` while events are published and listened to.
fn unaffected(address: SocketAddr, attack: impl FnOnce()) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let good = scope.spawn(|| all_arrives(address, &over));
        let stop = SetAtEnd(&over);
        attack();
        drop(stop);
        let count = good.join().unwrap();
        assert!(count >= 100, "no event was published meanwhile");
        println!("{count} events were published meanwhile, and all have arrived");
    });
}

#[test]
fn ten_thousand_slow_clients_take_little_and_the_bus_is_unaffected() {
    let count = SLOW_CLIENTS.min(raise_descriptors().saturating_sub(100));
    let server = Server::start();
    let mut clients = Vec::with_capacity(count);
    let before = server.memory();
    unaffected(server.address, || {
        for at in 0..count {
            let mut client = TcpStream::connect(server.address).unwrap();
            client
                .write_all(format!("GET /events HTTP/1.1\r\nhost: localhost\r\nx-{at}: ").as_bytes())
                .unwrap();
            clients.push(client);
            // Not more at once than the system keeps waiting: it would have them wait for a second.
            if at % 64 == 0 {
                assert_eq!(get(server.address, "/healthz", "").status, 200);
            }
        }
        // A byte more for each, again and again.
        for _ in 0..3 {
            clients.iter_mut().for_each(|client| client.write_all(b"x").unwrap());
        }
        assert_eq!(get(server.address, "/healthz", "").status, 200);
    });
    let taken = server.memory().saturating_sub(before);
    println!(
        "{count} clients that open a request slowly take {} MiB, {} bytes each",
        taken >> 20,
        taken / count
    );
    assert!(taken < count * (16 << 10), "{taken} bytes for {count} clients");
    // They were served: the first and the last can end their request.
    for at in [0, count - 1] {
        let client = &mut clients[at];
        client.write_all(b"\r\n\r\n").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut status = [0; 12];
        client.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
    }
}

#[test]
fn two_gibibytes_are_refused_in_little_memory() {
    const LEN: u64 = 2 << 30;
    let server = Server::start();
    let before = server.memory();
    let block = vec![b'x'; 64 << 10];
    unaffected(server.address, || {
        for content_type in ["application/json", "application/x-ndjson"] {
            for is_chunked in [false, true] {
                let mut connection = Connection::to(server.address);
                let framing = if is_chunked {
                    "transfer-encoding: chunked".into()
                } else {
                    format!("content-length: {LEN}")
                };
                let head = format!(
                    "POST /events HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\n{framing}\r\n\r\n"
                );
                connection.send(&head);
                let mut sent = 0;
                while sent < LEN {
                    let is_taken = if is_chunked {
                        connection.try_send(b"10000\r\n")
                            && connection.try_send(&block)
                            && connection.try_send(b"\r\n")
                    } else {
                        connection.try_send(&block)
                    };
                    if !is_taken {
                        break;
                    }
                    sent += block.len() as u64;
                }
                assert!(sent < LEN, "all of it was taken");
                // Even one that sends on without a look gets the answer.
                let response = connection.response();
                assert_eq!(response.status, 413, "{content_type} {is_chunked}");
                let error = response.json()["error"].as_str().unwrap().to_owned();
                assert!(error.contains("too large"), "{error}");
                println!("{content_type}, chunked {is_chunked}: closed after {} MiB", sent >> 20);
            }
        }
    });
    let taken = server.memory().saturating_sub(before);
    println!("bodies of 2 GiB take {} MiB", taken >> 20);
    assert!(taken < 32 << 20, "{taken} bytes");
}

#[test]
fn clients_that_do_not_read_hold_a_chunk_and_no_more() {
    const CLIENTS: usize = 200;
    const LARGE: usize = 500_000;
    raise_descriptors();
    let server = Server::start();
    let batch = format!(
        "{{\"ts\":1,\"type\":\"shot\",\"category\":\"screenshot\",\"source\":{{\"kind\":\"x\"}},\"data\":\"{}\"}}\n",
        "x".repeat(LARGE)
    )
    .repeat(8);
    let publish = || {
        let report = post(server.address, "application/x-ndjson", &batch).json();
        assert_eq!(report["published"], 8, "{report}");
    };
    // The stream's own memory is touched, and a reader's buffer.
    let warm = Events::new(server.address, "", "");
    (0..10).for_each(|_| publish());
    drop(warm);
    let clients: Vec<_> = (0..CLIENTS).map(|_| Events::new(server.address, "", "")).collect();
    let before = server.memory();
    unaffected(server.address, || (0..20).for_each(|_| publish()));
    let taken = server.memory().saturating_sub(before);
    println!(
        "{CLIENTS} clients that do not read 80 MB take {} MiB, {} bytes each",
        taken >> 20,
        taken / CLIENTS
    );
    // One event more than a chunk's 64 KiB, and 16 KiB that go before.
    let chunk = LARGE + (80 << 10);
    assert!(taken < CLIENTS * (chunk + (64 << 10)), "{taken} bytes");
    drop(clients);
}
