//! A real S2 server for the tests of the S2 sink: s2-lite, the open-source S2, on the loopback address only, without
//! credentials. s2-lite's own binary would listen on every address of the machine.
//!
//! ```sh
//! cd tests/s2-server && cargo build
//! target/debug/lapwing-s2-server 0 /tmp/streams
//! ```
//!
//! serves what is stored in the folder, or in memory if none is named, on the port given, or on a free one for 0. A number behind the
//! folder, `60`, has what was trimmed or has expired removed from the disk so many seconds later, not after a quarter of an hour. Once
//! it listens, it prints one line with its address, such as `http://127.0.0.1:34567`. It ends when its standard
//! input is closed, so that it does not outlive a test that dies, or when it is killed, by any signal. It can be started
//! again on the same folder: every append that was acknowledged is there.
//!
//! The first build takes five minutes on two cores, and needs a C compiler.

use std::error::Error;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;
use std::{env, fs, process, thread};

use axum::serve;
use axum::serve::ListenerExt;
use s2_lite::backend::{Backend, bgtasks};
use s2_lite::handlers;
use slatedb::config::{GarbageCollectorDirectoryOptions, GarbageCollectorOptions};
use slatedb::object_store::ObjectStore;
use slatedb::object_store::local::LocalFileSystem;
use slatedb::object_store::memory::InMemory;
use slatedb::{Db, Settings};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args_os().skip(1);
    let (Some(port), folder, clean, None) = (args.next(), args.next(), args.next(), args.next()) else {
        return Err("usage: lapwing-s2-server PORT [FOLDER [SECONDS]]".into());
    };
    let clean =
        clean.map(|seconds| seconds.to_string_lossy().parse().map(Duration::from_secs)).transpose()?;
    let port = port.to_string_lossy().parse::<u16>().map_err(|error| format!("port {port:?}: {error}"))?;
    let store: Arc<dyn ObjectStore> = match folder {
        Some(folder) => {
            fs::create_dir_all(&folder)?;
            Arc::new(LocalFileSystem::new_with_prefix(folder)?)
        }
        None => Arc::new(InMemory::new()),
    };
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink()); // the end, or what cannot be read on
        process::exit(0);
    });
    Runtime::new()?.block_on(run(port, store, clean))
}

async fn run(port: u16, store: Arc<dyn ObjectStore>, clean: Option<Duration>) -> Result<(), Box<dyn Error>> {
    // First, so that a port in use ends this before it takes the folder from the server that uses both.
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    // An append is acknowledged when it is flushed. This is s2-lite's own setting for local stores.
    let mut settings = Settings { flush_interval: Some(Duration::from_millis(5)), ..Settings::default() };
    if let Some(min_age) = clean {
        let often = GarbageCollectorDirectoryOptions {
            interval: Some(Duration::from_secs(10)),
            min_age,
            ..GarbageCollectorDirectoryOptions::default()
        };
        settings.garbage_collector_options = Some(GarbageCollectorOptions {
            wal_options: Some(often),
            compacted_options: Some(often),
            ..GarbageCollectorOptions::default()
        });
    }
    let db = Db::builder("", store).with_settings(settings).build().await?;
    let backend = Backend::new(db, "128MiB".parse()?); // the bytes in flight that s2-lite has as its default
    bgtasks::spawn(&backend);

    let mut out = io::stdout();
    writeln!(out, "http://{}", listener.local_addr()?)?;
    out.flush()?;
    // As s2-lite's own listener does: without it some answers wait 40 ms for an acknowledgement of TCP.
    let listener = listener.tap_io(|connection| {
        let _ = connection.set_nodelay(true);
    });
    Ok(serve(listener, handlers::router().with_state(backend)).await?)
}
