//! Accepting connections, and their bounds.

use std::future::poll_fn;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::State;

/// The most bytes of a request's head, and of what is read or written ahead.
const HEAD_BYTES: usize = 16 << 10;
/// After the system had no descriptor or no memory for a connection.
const PAUSE: Duration = Duration::from_millis(50);
/// How long, and for how many bytes more, a client that still sends has for its answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 16 << 20;
/// What a connection too many is told.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: 46\r\n\
      retry-after: 1\r\nconnection: close\r\n\r\n{\"error\":\"too many connections: try it later\"}";

/// Serves until `shutdown`, and then for as long as the clients need, but not longer than the grace. Returns how many were cut off.
pub(super) async fn run(
    state: Arc<State>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> usize {
    let service = TowerToHyperService::new(Arc::clone(&state).router());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) if connections.len() >= state.limits.max_connections => refuse(socket),
                Ok((socket, peer)) => {
                    let (state, service) = (Arc::clone(&state), service.clone());
                    connections.spawn(async move { serve(&state, &service, socket, peer).await });
                }
                Err(error) if is_of_one_connection(error.kind()) => {}
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
        }
    }
    drop(listener);
    state.stop();
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(state.limits.grace, all).await.is_err() {
        while connections.try_join_next().is_some() {}
    }
    connections.len() // they are cut off when this is dropped
}

/// The error of a connection that was gone before it was accepted.
fn is_of_one_connection(kind: ErrorKind) -> bool {
    use ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(kind, ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Tells a client that there is no room for it. What is so short fits the socket, or is not sent.
fn refuse(socket: TcpStream) {
    if let Ok(mut socket) = socket.into_std() {
        // What was received and not read would have the system discard the answer.
        let _ = socket.read(&mut [0; 4096]);
        let _ = socket.write(FULL);
        let _ = socket.shutdown(Shutdown::Write);
    }
}

async fn serve(
    state: &State,
    service: &TowerToHyperService<axum::Router>,
    socket: TcpStream,
    peer: SocketAddr,
) {
    let _ = socket.set_nodelay(true); // an event is not to wait for the next one
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        Box::pin(service.call(request))
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(state.limits.header_timeout)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(socket), service);
    let mut stopping = state.stopping.subscribe();
    let is_over = tokio::select! {
        _ = poll_fn(|cx| connection.poll_without_shutdown(cx)) => true,
        _ = stopping.wait_for(|&stopping| stopping) => false,
    };
    if !is_over {
        std::pin::Pin::new(&mut connection).graceful_shutdown();
        let _ = poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
    }
    linger(connection.into_parts().io.into_inner()).await;
}

/// Closes a connection so that its client gets the last answer: one that is still sending when its socket is gone would lose it.
async fn linger(mut socket: TcpStream) {
    let _ = socket.shutdown().await;
    let mut rest = socket.take(LINGER_BYTES);
    let mut discarded = vec![0; HEAD_BYTES];
    let discard = async { while matches!(rest.read(&mut discarded).await, Ok(1..)) {} };
    let _ = tokio::time::timeout(LINGER, discard).await;
}
