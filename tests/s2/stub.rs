//! What speaks HTTP/2 and answers every request alike.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use h2::server::handshake;
use http::{HeaderMap, Response};
use tokio::net::TcpListener;

use super::server::runtime;

/// Listens on a port of its own for as long as the tests run.
pub struct Stub {
    pub port: u16,
    requests: Arc<AtomicUsize>,
}

impl Stub {
    /// Answers with a status, and an error as S2 writes them. In the message `{authorization}` stands for what the request has for that.
    pub fn answering(status: u16, code: &'static str, message: &'static str) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&requests);
        thread::spawn(move || {
            tokio::task::LocalSet::new().block_on(&runtime(), async move {
                let listener = TcpListener::from_std(listener).unwrap();
                loop {
                    let (socket, _) = listener.accept().await.unwrap();
                    let counter = Arc::clone(&counter);
                    tokio::task::spawn_local(async move {
                        let Ok(mut connection) = handshake(socket).await else { return };
                        while let Some(Ok((request, mut respond))) = connection.accept().await {
                            counter.fetch_add(1, SeqCst);
                            let message =
                                message.replace("{authorization}", authorization(request.headers()));
                            let body = format!(r#"{{"code":"{code}","message":"{message}"}}"#);
                            let head =
                                Response::builder().status(status).header("content-type", "application/json");
                            let Ok(mut send) = respond.send_response(head.body(()).unwrap(), false) else {
                                continue;
                            };
                            let _ = send.send_data(body.into(), true);
                        }
                    });
                }
            })
        });
        Self { port, requests }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// How many requests there were.
    pub fn requests(&self) -> usize {
        self.requests.load(SeqCst)
    }
}

fn authorization(headers: &HeaderMap) -> &str {
    headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or("")
}
