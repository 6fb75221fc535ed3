//! What stands between a writer and a server: it can swallow answers, cut connections, and lead elsewhere.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

/// Listens on a port of its own for as long as the test runs.
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

struct State {
    to: AtomicU16,
    swallows: AtomicBool,
    /// No answer gets through once this was sent.
    until_sent: Mutex<Option<&'static [u8]>>,
    hold: (Mutex<Hold>, Condvar),
    late_answers: AtomicUsize,
    /// Both ends of every connection.
    connections: Mutex<Vec<TcpStream>>,
}

/// Of the connections that there were before.
#[derive(Clone, Copy, PartialEq)]
enum Hold {
    No,
    From(&'static [u8]),
    Released,
}

impl Proxy {
    /// Leads to a port.
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let state = State {
            to: port.into(),
            swallows: false.into(),
            until_sent: Mutex::default(),
            hold: (Mutex::new(Hold::No), Condvar::new()),
            late_answers: AtomicUsize::new(0),
            connections: Mutex::default(),
        };
        let proxy = Self { port: listener.local_addr().unwrap().port(), state: Arc::new(state) };
        let state = Arc::clone(&proxy.state);
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let Ok(server) = TcpStream::connect(("127.0.0.1", state.to.load(SeqCst))) else { continue };
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let copies = || [client.try_clone().unwrap(), server.try_clone().unwrap()];
                state.connections.lock().unwrap().extend(copies());
                let [from_client, to_server] = copies();
                let is_old = state.hold() == Hold::No;
                let [requests, answers] = [Arc::clone(&state), Arc::clone(&state)];
                thread::spawn(move || {
                    pump(from_client, to_server, |bytes| requests.on_request(bytes, is_old))
                });
                thread::spawn(move || pump(server, client, |_| answers.on_answer(is_old)));
            }
        });
        proxy
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on no answer gets through.
    pub fn swallow(&self) {
        self.state.swallows.store(true, SeqCst);
    }

    /// From these bytes on what is sent by the connections that there are is held back: it is late. No answer gets through there.
    pub fn hold_from(&self, bytes: &'static [u8]) {
        *self.state.hold.0.lock().unwrap() = Hold::From(bytes);
    }

    /// The piece of it that has those bytes comes to the server.
    pub fn release(&self) {
        *self.state.hold.0.lock().unwrap() = Hold::Released;
        self.state.hold.1.notify_all();
    }

    /// How often the server has answered to what was late.
    pub fn late_answers(&self) -> usize {
        self.state.late_answers.load(SeqCst)
    }

    /// From when these bytes are sent on no answer gets through.
    pub fn swallow_once_sent(&self, bytes: &'static [u8]) {
        *self.state.until_sent.lock().unwrap() = Some(bytes);
    }

    /// Cuts every connection. New ones lead to this port, and answers get through.
    pub fn cut_and_lead_to(&self, port: u16) {
        self.state.to.store(port, SeqCst);
        *self.state.until_sent.lock().unwrap() = None;
        for connection in self.state.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both); // it may be closed
        }
        self.state.swallows.store(false, SeqCst);
    }
}

enum Then {
    HandOn,
    Swallow,
    /// Neither hands on what comes later nor closes anything.
    HandOnAndLeave,
}

impl State {
    fn hold(&self) -> Hold {
        *self.hold.0.lock().unwrap()
    }

    fn on_request(&self, bytes: &[u8], is_old: bool) -> Then {
        let has = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
        if self.until_sent.lock().unwrap().is_some_and(has) {
            self.swallows.store(true, SeqCst);
        }
        match self.hold() {
            Hold::From(part) if is_old && has(part) => {
                let hold = self.hold.0.lock().unwrap();
                drop(self.hold.1.wait_while(hold, |hold| *hold != Hold::Released).unwrap());
                Then::HandOnAndLeave
            }
            _ => Then::HandOn,
        }
    }

    fn on_answer(&self, is_old: bool) -> Then {
        match self.hold() {
            Hold::Released if is_old => {
                self.late_answers.fetch_add(1, SeqCst);
                Then::Swallow
            }
            Hold::From(_) if is_old => Then::Swallow,
            _ if self.swallows.load(SeqCst) => Then::Swallow,
            _ => Then::HandOn,
        }
    }
}

/// Hands on what comes until either end is closed, or as `then` says.
fn pump(mut from: TcpStream, mut to: TcpStream, then: impl Fn(&[u8]) -> Then) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let then = then(&buffer[..read]);
        if !matches!(then, Then::Swallow) && to.write_all(&buffer[..read]).is_err() {
            break;
        }
        if let Then::HandOnAndLeave = then {
            return;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
