//! The page at `/` in a headless Chromium: what it shows of a stream, what it says of losses, and what it holds.
//!
//! Needs `chromium` and `chromedriver`, has them installed where it may (by `apt-get`, as root), and fails without them. What was
//! on the screen is left in `target/page-screenshots`, beside `figures.txt`.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

const RECORDING: &str = include_str!("../examples/telemetry.ndjson");

/// How long, and how much, the load test publishes.
const LOAD: Duration = Duration::from_secs(60);
const EVENTS_PER_SECOND: usize = 5_000;

/// What the page may hold: objects after a collection, and with its window, which it takes at the start.
const MAX_HEAP: u64 = 16 << 20;
const MAX_BUFFERS: u64 = 160 << 20;

/// How long a state may take to come, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);

// ---------------------------------------------------------------- the server

/// `lapwing relay --serve` with nothing on its standard input.
struct Server {
    child: Child,
    address: SocketAddr,
    /// A directory with a file that holds it.
    token: Option<TempDir>,
}

impl Server {
    fn start(token: Option<&str>) -> Self {
        let token = token.map(|token| {
            let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            fs::write(dir.path().join("token"), token).unwrap();
            dir
        });
        let (child, address) = Self::run(&token);
        Self { child, address, token }
    }

    fn run(token: &Option<TempDir>) -> (Child, SocketAddr) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lapwing"));
        command.args(["relay", "--serve", "127.0.0.1:0"]);
        if let Some(dir) = token {
            command.arg("--token-file").arg(dir.path().join("token"));
        }
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        // What else it says must not break its pipe.
        thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        let address = line.trim_end().strip_prefix("lapwing: serving at http://");
        let address =
            address.and_then(|address| address.strip_suffix('/')).unwrap_or_else(|| panic!("{line}"));
        (child, address.parse().unwrap())
    }

    /// Ends it, and starts another run of it, at another address.
    fn restart(&mut self) {
        self.end();
        (self.child, self.address) = Self::run(&self.token);
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn get(&self, path: &str) -> (u16, String) {
        http(self.address, "GET", path, "", "").expect("the server answers")
    }

    /// Publishes events, one a line.
    fn publish(&self, lines: &str) {
        let (status, body) = http(self.address, "POST", "/events", "application/x-ndjson", lines).unwrap();
        assert_eq!(status, 200, "{body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(answer["published"], lines.lines().count(), "{body}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

// ---------------------------------------------------------------- tests

#[test]
fn shows_filters_and_opens_live_events() {
    let mut test = Test::start(None);
    let recording = without_largest(RECORDING);
    test.server.publish(&recording);
    let events: Vec<&str> = recording.lines().collect();
    let page = &mut test.browser;
    page.wait_for_events(events.len());
    page.wait("document.querySelectorAll('#chips button').length >= 6");
    page.wait("document.querySelector('#total').textContent !== '–'");
    page.wait("document.querySelector('#readers').rows.length >= 1");
    for (dark, name) in [(false, "light"), (true, "dark")] {
        for (width, height) in [(1280, 800), (400, 800)] {
            page.resize(width, height, dark);
            page.wait(&format!("innerWidth === {width}"));
            let wide = page.js("return document.documentElement.scrollWidth");
            assert_eq!(wide, width, "nothing is wider than the window");
            page.wait("document.querySelectorAll('.row:not([hidden])').length > 5");
            page.screenshot(&format!("live-{width}-{name}"));
        }
    }
    page.resize(1280, 800, false);

    // A category alone, two categories less, a type, parts of types, text; counted in the recording.
    let of = |test: &dyn Fn(&str, &str) -> bool| {
        events.iter().filter(|line| test(first(line, "category"), first(line, "type"))).count()
    };
    page.js("document.querySelector('[data-category=console]').dispatchEvent(new MouseEvent('click', {shiftKey: true}))");
    page.wait_for_rows(of(&|category, _| category == "console"));
    page.js("document.querySelector('#clear').click()");
    page.wait_for_rows(events.len());
    for name in ["console", "network"] {
        page.js(&format!("document.querySelector('[data-category={name}]').click()"));
    }
    page.wait_for_rows(of(&|category, _| !["console", "network"].contains(&category)));
    page.js("document.querySelector('#clear').click()");
    page.enter("#type", "api_call");
    page.wait_for_rows(of(&|_, r#type| r#type == "api_call"));
    page.enter("#type", "console_warn, _error");
    page.wait_for_rows(of(&|_, r#type| r#type == "console_warn" || r#type.contains("_error")));
    page.enter("#type", "");
    page.enter("#text", "FiRa");
    page.wait_for_rows(events.iter().filter(|line| line.to_lowercase().contains("fira")).count());
    page.screenshot("filtered");
    page.enter("#text", "no event has this");
    page.wait("!document.querySelector('#empty').hidden");
    page.js("document.querySelector('#empty button').click()");
    page.wait_for_rows(events.len());

    // A screenshot as a picture, the same one cut off, and what says of itself how much of it is missing.
    let shot = RECORDING.lines().find(|line| line.contains("\"monitor_screenshot\"")).unwrap();
    let mut cut: Value = serde_json::from_str(shot).unwrap();
    let whole = cut["data"]["data"].as_str().unwrap().to_owned();
    cut["data"]["data"] = format!("{}…[{} bytes]", &whole[..2000], whole.len() - 2000).into();
    cut["truncated"] = true.into();
    let mut unmarked = cut.clone();
    unmarked["data"]["data"] = whole[..2000].into();
    test.server.publish(&format!("{shot}\n{cut}\n{unmarked}\n"));
    page.wait_for_events(events.len() + 3);
    page.press("k");
    page.press(ENTER);
    page.wait("!document.querySelector('#detail').hidden");
    let detail = page.text("#detail .body");
    assert!(detail.contains("How much was cut off is not part of the event"), "{detail}");
    assert!(detail.contains("the longest one left is data.data, with 2,000 characters"), "{detail}");
    assert!(detail.contains("cannot be shown"), "{detail}");
    page.press("k");
    page.press(ENTER);
    page.wait("!document.querySelector('#detail').hidden");
    let detail = page.text("#detail .body");
    assert!(
        detail.contains(&format!("1 string shortened, by {} bytes", thousands(whole.len() - 2000))),
        "{detail}"
    );
    assert!(detail.contains("cannot be shown"), "{detail}");
    assert_eq!(page.js("return document.querySelectorAll('#detail img').length"), 0);
    page.screenshot("truncated");
    page.press("k");
    page.wait("document.querySelector('#detail img')?.naturalWidth === 1280");
    page.screenshot("picture-1280");
    page.resize(400, 800, true);
    page.screenshot("picture-400");
    page.resize(1280, 800, false);
    let detail = page.text("#detail pre");
    assert!(detail.contains("\"duration_ms\": 76.920022"), "numbers are as they were sent: {detail}");
    page.press(ESCAPE);
    page.wait("document.querySelector('#detail').hidden");

    // The keys.
    page.press("/");
    page.wait("document.activeElement.id === 'text'");
    page.press(ESCAPE);
    page.press("?");
    page.wait("document.querySelector('#help').open");
    page.press(ESCAPE);
    page.wait("!document.querySelector('#help').open");
    page.press("g");
    page.wait("document.querySelector('.row[aria-selected=true]')?.getAttribute('aria-posinset') === '1'");
    page.press("j");
    page.wait("document.querySelector('.row[aria-selected=true]')?.getAttribute('aria-posinset') === '2'");
    page.press(" ");
    page.wait("document.querySelector('#pause').textContent === 'Pause'");
    test.finish(&[]);
}

#[test]
fn keeps_what_comes_while_it_is_paused() {
    let mut test = Test::start(None);
    let lines =
        |n: usize| RECORDING.lines().cycle().take(n).fold(String::new(), |text, line| text + line + "\n");
    test.server.publish(&lines(300));
    let page = &mut test.browser;
    page.wait_for_events(300);
    page.wait_for_rows(300);
    page.press(" ");
    page.wait("document.querySelector('#pause').textContent === 'Resume'");
    let seen = page.text(".row:last-child");
    test.server.publish(&lines(200));
    page.wait("document.querySelector('#notice').dataset.paused === '200'");
    assert_eq!(page.js("return document.querySelector('#count').dataset.n"), "300");
    assert_eq!(page.text(".row:last-child"), seen);
    page.screenshot("paused-1280");
    page.resize(400, 800, false);
    page.screenshot("paused-400");
    page.press(" ");
    page.wait_for_rows(500);
    assert_eq!(page.number("#lost"), 0);

    // More than fits: it stops reading, and goes on where it stopped.
    page.press(" ");
    let mut published = 500;
    let batch = lines(250);
    let full = "document.querySelector('#state').dataset.state === 'held'";
    while page.js(&format!("return {full}")) != true {
        test.server.publish(&batch);
        published += 250;
        let read = format!(
            "Number(document.querySelector('#received').dataset.n) + Number(document.querySelector('#lost').dataset.n) === {published} || {full}"
        );
        page.wait(&read);
    }
    page.wait("document.querySelector('#notice').textContent.includes('reading has stopped')");
    page.screenshot("paused-and-full");
    test.server.publish(&batch);
    published += 250;
    page.press(" ");
    page.wait_for_events(published);
    assert_eq!(page.number("#lost"), 0, "the server still had all that had not been read");
    test.finish(&[]);
}

#[test]
fn goes_on_after_a_broken_connection_and_a_restart() {
    let mut test = Test::start(None);
    let lines = without_largest(RECORDING);
    let count = lines.lines().count();
    test.server.publish(&lines);
    test.browser.wait_for_events(count);

    // The same run: nothing lost, nothing twice.
    test.proxy.refuse(true);
    test.browser.wait("document.querySelector('#state').dataset.state === 'reconnecting'");
    test.browser.screenshot("reconnecting-1280");
    test.browser.resize(400, 800, true);
    test.browser.screenshot("reconnecting-400");
    test.browser.resize(1280, 800, false);
    test.server.publish(&lines);
    test.proxy.refuse(false);
    test.browser.wait_for_events(2 * count);
    assert_eq!(test.browser.number("#restarts"), 0);

    // Another run: its events follow from the oldest, also those from before the page was back.
    test.proxy.refuse(true);
    test.server.restart();
    test.server.publish(&lines);
    test.proxy.target(test.server.address);
    test.proxy.refuse(false);
    test.browser.wait_for_events(3 * count);
    test.server.publish(&lines);
    test.browser.wait_for_events(4 * count);
    assert_eq!(test.browser.number("#restarts"), 1);
    assert_eq!(test.browser.number("#lost"), 0);
    assert_eq!(test.browser.js("return document.querySelector('#odd').dataset.unaccounted"), "0");
    test.browser.enter("#text", "no event has this");
    test.browser.wait(
        "document.querySelector('.row.note .what')?.textContent.startsWith('The server has restarted')",
    );
    test.browser.screenshot("restarted");
    test.finish(&["net::ERR_"]);
}

#[test]
fn the_browsers_own_event_source_goes_on_by_itself() {
    let test = Test::start(None);
    let lines = |n: usize| RECORDING.lines().take(n).fold(String::new(), |text, line| text + line + "\n");
    test.server.publish(&lines(200));
    test.browser.js("window.seqs = []; window.source = new EventSource('events?replay=all'); \
         source.onmessage = message => seqs.push(Number(/^{\"seq\":(\\d+)/.exec(message.data)[1]))");
    test.browser.wait("seqs.length === 200");
    test.proxy.refuse(true);
    test.browser.wait("source.readyState === EventSource.CONNECTING");
    test.server.publish(&lines(100));
    test.proxy.refuse(false);
    test.browser.wait("seqs.length === 300");
    assert_eq!(test.browser.js("return seqs.every((seq, at) => seq === at + 1)"), true);
    test.finish(&["net::ERR_"]);
}

#[test]
fn says_what_was_lost() {
    let mut test = Test::start(None);
    let lines = without_largest(RECORDING);
    test.server.publish(&lines);
    let mut published = lines.lines().count();
    test.browser.wait_for_events(published);
    test.proxy.refuse(true);
    test.browser.wait("document.querySelector('#state').dataset.state === 'reconnecting'");
    let stats: Value = serde_json::from_str(&test.server.get("/stats").1).unwrap();
    let capacity = stats["capacity"].as_u64().unwrap() as usize;
    let before = published;
    while published < before + capacity + 500 {
        test.server.publish(&lines);
        published += lines.lines().count();
    }
    test.proxy.refuse(false);
    let page = &mut test.browser;
    let told = "Number(document.querySelector('#lost').dataset.n)";
    page.wait(&format!("Number(document.querySelector('#received').dataset.n) + {told} === {published}"));
    let lost = page.number("#lost") as usize;
    assert!(lost >= published - before - capacity, "{lost} of {published}");
    page.enter("#text", "no event has this");
    page.wait("document.querySelector('.row.note:not([hidden])')");
    let note = page.text(".row.note .what");
    let range = format!("{} events lost: {} to {}", thousands(lost), before + 1, before + lost);
    assert!(note.starts_with(&range), "{note}");
    page.screenshot("lost");
    test.finish(&["net::ERR_"]);
}

#[test]
fn asks_for_a_token() {
    let mut test = Test::start(Some("let-me-in"));
    let page = &mut test.browser;
    page.wait("document.querySelector('#token').open");
    page.screenshot("token");
    page.type_in("#token-value", "wrong\u{e007}");
    page.wait("document.querySelector('#token-why').textContent.includes('refused')");
    page.type_in("#token-value", "let-me-in\u{e007}");
    page.wait("document.querySelector('#state').dataset.state === 'live'");
    page.wait("document.querySelector('#readers').rows.length > 0");
    page.screenshot("empty");
    assert_eq!(page.js("return localStorage.length + document.cookie.length"), 0);
    page.open(&format!("{}?again#token=let-me-in", test.proxy.url()));
    page.wait("document.querySelector('#state').dataset.state === 'live' && location.hash === ''");
    test.finish(&["401"]);
}

#[test]
fn keeps_up_without_growing() {
    let mut test = Test::start(None);
    let batches: Vec<String> = {
        let per_batch = EVENTS_PER_SECOND / 20;
        let lines: Vec<&str> = RECORDING.lines().collect();
        let mut lines = lines.iter().cycle();
        (0..40)
            .map(|_| lines.by_ref().take(per_batch).fold(String::new(), |text, line| text + line + "\n"))
            .collect()
    };
    let (stop, stopped) = mpsc::channel::<()>();
    let mut figures = String::new();
    let server = &test.server;
    let page = &mut test.browser;
    let published = thread::scope(|scope| {
        let publisher = scope.spawn(move || {
            let (start, mut published) = (Instant::now(), 0);
            for (n, batch) in (1..).zip(batches.iter().cycle()) {
                server.publish(batch);
                published += batch.lines().count();
                let next = start + Duration::from_millis(50) * n;
                let wait = next.saturating_duration_since(Instant::now());
                if stopped.recv_timeout(wait) != Err(mpsc::RecvTimeoutError::Timeout) {
                    break;
                }
            }
            (published, start.elapsed())
        });
        // Ends the publisher also when something here fails.
        let stop = stop;
        page.wait("document.querySelector('#count').dataset.n >= 15000");
        let (start, first) = (Instant::now(), page.heap());
        let mut most = first;
        while start.elapsed() < LOAD {
            page.wait_ms(5000);
            let now = page.heap();
            let _ = writeln!(
                figures,
                "{:>3} s: {} KiB of objects, {} KiB of buffers; {} received, {} lost; {}",
                start.elapsed().as_secs(),
                now.0 / 1024,
                now.1 / 1024,
                page.number("#received"),
                page.number("#lost"),
                page.text("#rate"),
            );
            most = (most.0.max(now.0), most.1.max(now.1));
        }
        page.screenshot("load");
        let last = page.heap();
        // Rows come and go ten times a second, and still the one that was hit opens.
        page.click(300, 600, 250);
        page.wait("!document.querySelector('#detail').hidden");
        page.screenshot("load-open");
        page.press(ESCAPE);
        page.press(" ");
        page.wait("document.querySelector('#state').dataset.state === 'live'");
        drop(stop);
        let (published, took) = publisher.join().unwrap();
        let rate = published as f64 / took.as_secs_f64();
        let _ = writeln!(
            figures,
            "published {published} in {took:.1?}, {rate:.0} a second; objects {} KiB at first, {} KiB at the end, at most {} KiB; \
             buffers {} KiB, {} KiB, at most {} KiB",
            first.0 / 1024,
            last.0 / 1024,
            most.0 / 1024,
            first.1 / 1024,
            last.1 / 1024,
            most.1 / 1024,
        );
        eprintln!("{figures}");
        fs::write(screenshots().join("figures.txt"), &figures).unwrap();
        assert!(rate > 0.95 * EVENTS_PER_SECOND as f64, "the test itself publishes too slowly: {figures}");
        assert!(most.0 < MAX_HEAP && most.1 < MAX_BUFFERS, "{figures}");
        assert!(last.0 < first.0 + (4 << 20), "it grows: {figures}");
        published
    });
    page.wait(&format!("Number(document.querySelector('#received').dataset.n) + Number(document.querySelector('#lost').dataset.n) === {published}"));
    let lost = page.number("#lost");
    assert!(lost * 100 <= published as u64, "{lost} of {published} lost: {figures}");
    assert_eq!(page.js("return document.querySelector('#odd').dataset.unaccounted"), "0");
    assert!(page.js("return document.querySelectorAll('*').length").as_u64().unwrap() < 2000);
    test.finish(&[]);
}

/// The lines that fit the memory for large events of a server with defaults, whatever is published after them.
fn without_largest(lines: &str) -> String {
    lines.lines().filter(|line| line.len() < 100_000).fold(String::new(), |text, line| text + line + "\n")
}

/// The first string in a line under that key. Lines with an unpaired surrogate are JSON, too, but not for `serde_json`.
fn first<'a>(line: &'a str, key: &str) -> &'a str {
    let (_, rest) = line.split_once(&format!("\"{key}\":\"")).expect("a field of every event");
    rest.split_once('"').unwrap().0
}

fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

// ---------------------------------------------------------------- the stage

/// A server, a proxy before it, and a page that is open and connected to that.
struct Test {
    browser: Browser,
    proxy: Proxy,
    server: Server,
    _alone: MutexGuard<'static, ()>,
}

impl Test {
    fn start(token: Option<&str>) -> Self {
        // One after the other: each measures, or shares the machine with two browsers.
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let server = Server::start(token);
        let proxy = Proxy::start(server.address);
        let mut browser = Browser::start();
        browser.open(&proxy.url());
        if token.is_none() {
            browser.wait("document.querySelector('#state').dataset.state === 'live'");
        }
        Self { browser, proxy, server, _alone: alone }
    }

    /// No errors on the console, but for those with one of the words; nothing asked of anybody else.
    fn finish(self, but: &[&str]) {
        let log = self.browser.log();
        let errors = log.iter().filter(|entry| entry["level"] == "SEVERE" || entry["level"] == "WARNING");
        let errors: Vec<_> = errors
            .filter(|entry| {
                !but.iter().any(|word| entry["message"].as_str().unwrap_or_default().contains(word))
            })
            .collect();
        assert!(errors.is_empty(), "on the console: {errors:#?}");
        let url = self.proxy.url();
        self.browser.wait("performance.getEntriesByType('resource').length > 0");
        let asked =
            self.browser.js("return performance.getEntriesByType('resource').map(entry => entry.name)");
        for name in asked.as_array().unwrap() {
            assert!(name.as_str().unwrap().starts_with(&url), "{name} was asked for");
        }
    }
}

/// Passes bytes on, until it is told to break what goes through it.
struct Proxy {
    address: SocketAddr,
    shared: Arc<Mutex<ProxyState>>,
    ended: Arc<AtomicBool>,
}

struct ProxyState {
    target: SocketAddr,
    refuse: bool,
    open: Vec<TcpStream>,
}

impl Proxy {
    fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Mutex::new(ProxyState { target, refuse: false, open: Vec::new() }));
        let ended = Arc::new(AtomicBool::new(false));
        let (state, end) = (Arc::clone(&shared), Arc::clone(&ended));
        thread::spawn(move || {
            for client in listener.incoming() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(client) = client else { continue };
                let mut state = state.lock().unwrap();
                if state.refuse {
                    continue;
                }
                let Ok(server) = TcpStream::connect(state.target) else { continue };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                    });
                }
                state.open.extend([client, server]);
            }
        });
        Self { address, shared, ended }
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    fn target(&self, target: SocketAddr) {
        self.shared.lock().unwrap().target = target;
    }

    /// Whether connections are closed as soon as they are made; those that there are, at once.
    fn refuse(&self, refuse: bool) {
        let mut state = self.shared.lock().unwrap();
        state.refuse = refuse;
        if refuse {
            for stream in state.open.drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.refuse(true);
        self.ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

// ---------------------------------------------------------------- the browser

const ENTER: &str = "\u{e007}";
const ESCAPE: &str = "\u{e00c}";

/// Chromium, driven over the WebDriver protocol.
struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    _profile: TempDir,
}

impl Browser {
    fn start() -> Self {
        let chromium = program("chromium");
        let mut driver = Command::new(program("chromedriver"))
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.find_map(|line| {
            line.unwrap().rsplit_once("successfully on port ")?.1.trim_end_matches('.').parse().ok()
        });
        let address = SocketAddr::from(([127, 0, 0, 1], port.expect("chromedriver tells its port")));
        thread::spawn(move || lines.for_each(drop));
        let profile = TempDir::new().unwrap();
        let mut browser = Self { driver, address, session: String::new(), _profile: profile };
        let arguments = [
            "--headless",
            "--no-sandbox", // needed by root, and the only page is ours
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--disable-quic",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            "--window-size=1280,800",
            &format!("--user-data-dir={}", browser._profile.path().display()),
        ];
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "binary": chromium, "args": arguments },
        } } });
        let session = browser.call("POST", "/session", &capabilities);
        browser.session = format!("/session/{}", session["sessionId"].as_str().unwrap());
        let script = (PATIENCE + Duration::from_secs(30)).as_millis() as u64;
        browser.command("POST", "/timeouts", &json!({ "script": script }));
        browser.resize(1280, 800, false);
        browser
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, answer) = http(self.address, method, path, "application/json", &body).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(status, 200, "{method} {path} {}: {answer:#}", body.get(..500).unwrap_or(&body));
        answer["value"].clone()
    }

    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        self.call(method, &format!("{}{path}", self.session), body)
    }

    fn devtools(&self, name: &str, parameters: &Value) -> Value {
        self.command("POST", "/goog/cdp/execute", &json!({ "cmd": name, "params": parameters }))
    }

    fn open(&mut self, url: &str) {
        self.command("POST", "/url", &json!({ "url": url }));
        self.js("performance.setResourceTimingBufferSize(10000)");
    }

    fn js(&self, script: &str) -> Value {
        self.command("POST", "/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Until the expression is true, looked at by the page's own clock.
    fn wait(&self, expression: &str) {
        let script = format!(
            "const done = arguments[0], until = performance.now() + {};
             const look = () => {{
               const value = {expression};
               if (value) done(''); else if (performance.now() > until) done('it is ' + value); else setTimeout(look, 20);
             }};
             look();",
            PATIENCE.as_millis()
        );
        let result = self.command("POST", "/execute/async", &json!({ "script": script, "args": [] }));
        if result != "" {
            self.screenshot("failed");
            panic!(
                "not within {PATIENCE:?}: {expression}: {result}\n{}\n{:#?}",
                self.js("return document.body.innerText.toWellFormed()"),
                self.log()
            );
        }
    }

    /// Lets the page run for so long.
    fn wait_ms(&self, ms: u32) {
        let script = format!("setTimeout(arguments[0], {ms})");
        self.command("POST", "/execute/async", &json!({ "script": script, "args": [] }));
    }

    fn wait_for_events(&self, n: usize) {
        self.wait(&format!("document.querySelector('#received').dataset.n === '{n}'"));
    }

    /// Until the list has so many rows, events and the page's own notes.
    fn wait_for_rows(&self, n: usize) {
        self.wait(&format!("document.querySelector('#count').dataset.n === '{n}'"));
    }

    fn number(&self, selector: &str) -> u64 {
        let text = self.js(&format!("return document.querySelector('{selector}').dataset.n"));
        text.as_str().unwrap().parse().unwrap()
    }

    fn text(&self, selector: &str) -> String {
        self.js(&format!("return document.querySelector('{selector}').textContent.toWellFormed()"))
            .as_str()
            .unwrap()
            .to_owned()
    }

    fn press(&self, key: &str) {
        let keys = json!([{ "type": "keyDown", "value": key }, { "type": "keyUp", "value": key }]);
        self.command(
            "POST",
            "/actions",
            &json!({ "actions": [{ "type": "key", "id": "keys", "actions": keys }] }),
        );
    }

    /// Presses the button of a mouse for so long.
    fn click(&self, x: u32, y: u32, ms: u32) {
        let steps = json!([
            { "type": "pointerMove", "x": x, "y": y },
            { "type": "pointerDown", "button": 0 },
            { "type": "pause", "duration": ms },
            { "type": "pointerUp", "button": 0 },
        ]);
        let mouse = json!({ "type": "pointer", "id": "mouse", "parameters": { "pointerType": "mouse" }, "actions": steps });
        self.command("POST", "/actions", &json!({ "actions": [mouse] }));
    }

    /// Replaces what is in a field.
    fn enter(&self, selector: &str, text: &str) {
        self.js(&format!("document.querySelector('{selector}').select()"));
        self.type_in(selector, if text.is_empty() { "\u{e017}" } else { text });
    }

    fn type_in(&self, selector: &str, text: &str) {
        let found = self.command("POST", "/element", &json!({ "using": "css selector", "value": selector }));
        let id = found.as_object().unwrap().values().next().unwrap().as_str().unwrap();
        self.command("POST", &format!("/element/{id}/value"), &json!({ "text": text }));
    }

    fn resize(&self, width: u32, height: u32, dark: bool) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", &size);
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", &media);
    }

    fn screenshot(&self, name: &str) {
        // Two frames later, what was changed last has been drawn.
        let script = "const done = arguments[0]; setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(() => done())), 300)";
        self.command("POST", "/execute/async", &json!({ "script": script, "args": [] }));
        let png = self.command("GET", "/screenshot", &Value::Null);
        fs::write(screenshots().join(format!("{name}.png")), from_base64(png.as_str().unwrap())).unwrap();
    }

    /// The bytes of objects and of buffers that are in use, after a collection.
    fn heap(&self) -> (u64, u64) {
        self.devtools("HeapProfiler.collectGarbage", &json!({}));
        let usage = self.devtools("Runtime.getHeapUsage", &json!({}));
        (usage["usedSize"].as_f64().unwrap() as u64, usage["backingStorageSize"].as_f64().unwrap() as u64)
    }

    fn log(&self) -> Vec<Value> {
        self.command("POST", "/se/log", &json!({ "type": "browser" })).as_array().unwrap().clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            let _ = http(self.address, "DELETE", &self.session, "", "");
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Where a program is.
fn program(name: &str) -> PathBuf {
    static INSTALLED: Once = Once::new();
    let find = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
    };
    find().unwrap_or_else(|| {
        INSTALLED.call_once(install);
        find().unwrap_or_else(|| {
            panic!("{name} is not there; this test needs it, and only root can have it installed: {INSTALL}")
        })
    })
}

const INSTALL: &str =
    "apt-get update && apt-get install --yes --no-install-recommends chromium chromium-driver";

/// Sets up the browser, where that is allowed.
fn install() {
    eprintln!("installing Chromium: {INSTALL}");
    let _ = Command::new("sh").args(["-c", INSTALL]).stdin(Stdio::null()).status();
}

fn screenshots() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("page-screenshots");
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn from_base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0);
    for digit in text.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => break,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    bytes
}

/// One request on a connection of its own; the status and the body.
fn http(
    address: SocketAddr,
    method: &str,
    path: &str,
    content_type: &str,
    body: &str,
) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE * 3))?;
    let content = if body.is_empty() && method != "POST" {
        String::new()
    } else {
        format!("content-type: {content_type}\r\ncontent-length: {}\r\n", body.len())
    };
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\n{content}connection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut answer = BufReader::new(stream);
    let mut line = String::new();
    answer.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other(format!("no status line: {line:?}")))?;
    let (mut length, mut chunked) = (None, false);
    loop {
        line.clear();
        if answer.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            let is = |header| name.eq_ignore_ascii_case(header);
            if is("content-length") {
                length = value.trim().parse().ok();
            }
            chunked |= is("transfer-encoding");
        }
    }
    let mut text = Vec::new();
    while chunked {
        line.clear();
        answer.read_line(&mut line)?;
        let len = u64::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
        answer.by_ref().take(len).read_to_end(&mut text)?;
        answer.read_line(&mut line)?;
        chunked = len > 0;
        length = Some(0);
    }
    answer.take(length.unwrap_or(u64::MAX)).read_to_end(&mut text)?;
    Ok((status, String::from_utf8(text).map_err(std::io::Error::other)?))
}
