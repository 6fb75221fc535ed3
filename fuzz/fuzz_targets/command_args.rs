//! Any arguments of the command, one a line: they are taken, or refused with a text and the status 2; and what its own
//! parsers take means the same when it is written out again.
#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use clap::Parser;
use clap::error::ErrorKind;
use lapwing::storage::Fsync;
use libfuzzer_sys::fuzz_target;

#[path = "../../src/bin/lapwing/main.rs"]
#[allow(dead_code, unused_imports)] // all but its arguments
mod command;
use command::*; // its parts name each other from the root

fn own_parsers(text: &str) {
    if let Ok(speed) = pipeline::speed(text) {
        let again = speed.0.map_or("flat".into(), |times| times.to_string());
        assert_eq!(pipeline::speed(&again).map(|speed| speed.0), Ok(speed.0), "{text}");
        assert!(speed.0.is_none_or(|times| times > 0.0 && times.is_finite()));
    }
    if let Ok(fsync) = sinks::fsync(text) {
        let again = match fsync {
            Fsync::Never => "never".into(),
            Fsync::EveryBatch => "batch".into(),
            Fsync::Every(time) => time.as_millis().to_string(),
        };
        assert_eq!(sinks::fsync(&again), Ok(fsync), "{text}");
    }
    match text.parse() {
        Ok(listen::Address::Tcp(address)) => {
            assert!(address.ip().is_loopback());
            let again = address.to_string().parse();
            assert!(matches!(again, Ok(listen::Address::Tcp(again)) if again == address), "{text}");
        }
        Ok(listen::Address::Unix(path)) => assert_eq!(format!("unix:{}", path.display()), text),
        Err(error) => assert!(!error.is_empty()),
    }
    let plain = text.strip_prefix("s2://").unwrap_or(text);
    match (text.parse::<s2::Name>(), plain.split_once('/')) {
        (Ok(name), Some((basin, stream))) => {
            assert!(!basin.is_empty() && !stream.is_empty());
            assert_eq!(format!("{name:?}"), format!("Name {{ basin: {basin:?}, stream: {stream:?} }}"));
        }
        (Ok(name), None) => panic!("{name:?} of {text}"),
        (Err(error), _) => assert!(!error.is_empty()),
    }
    let url = tail::address(text);
    assert!(url.contains("://") && url.contains(text.trim_end_matches('/')));
    assert_eq!(tail::address(&url), url, "{text}");
}

fuzz_target!(|data: &[u8]| {
    let args: Vec<_> = data.split(|byte| *byte == b'\n').map(OsStr::from_bytes).collect();
    args.iter().filter_map(|arg| arg.to_str()).for_each(own_parsers);
    match Cli::try_parse_from([OsStr::new("lapwing")].into_iter().chain(args)) {
        Ok(Cli { command: Command::Relay(args) }) => {
            // Time is counted from now on.
            let until = Instant::now().checked_add(args.common.sinks.deadline());
            assert!(until.is_some_and(|until| until.checked_add(Duration::from_secs(60)).is_some()));
        }
        Ok(_) => {}
        Err(error) => {
            let is_asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            assert_eq!(error.exit_code(), if is_asked { 0 } else { 2 }, "{error}");
            assert!(!error.render().to_string().trim().is_empty());
        }
    }
});
