//! `lapwing truncate` as a user runs it.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;

const RECORDING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/telemetry.ndjson");

/// Exit status, standard output, standard error.
fn run(input: &[u8], args: &[&str]) -> (i32, Vec<u8>, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lapwing"))
        .arg("truncate")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    let output = thread::scope(|scope| {
        // It may end before it has read all: then the pipe breaks, which is its right.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().expect("the command ends")
    });
    let err = String::from_utf8(output.stderr).expect("messages are UTF-8");
    (output.status.code().expect("it exits"), output.stdout, err)
}

#[test]
fn truncate_cuts_by_tail_or_shape_and_says_so() {
    let json = br#"{"body":"0123456789","ok":true}"#;
    let (status, out, err) = run(json, &["--max", "25", "--shape"]);
    assert_eq!((status, out.as_slice()), (0, &br#"{"body":"0123","ok":true}"#[..]));
    assert_eq!(err, "lapwing: the input: 31 bytes cut to 25, strings to 4 bytes\n");
    let (status, out, err) = run(json, &["--max", "22", "-"]);
    assert_eq!((status, out.as_slice()), (0, &br#"{"body":"0123456789"}"#[..]));
    assert_eq!(err, "lapwing: the input: 31 bytes cut to 21, the end cut off\n");
    let (status, out, err) = run(json, &["--max", "31"]);
    assert_eq!(
        (status, out.as_slice(), err.as_str()),
        (0, &json[..], "lapwing: the input: all 31 bytes fit\n")
    );
    let (_, out, err) = run(b"[1,2,3,4]", &["--max", "6", "--shape"]);
    assert_eq!(out, b"[1,2]");
    assert_eq!(err, "lapwing: the input: 9 bytes cut to 5, arrays to 2 elements\n");
}

#[test]
fn truncate_marks_and_protects() {
    let json = br#"{"body":"0123456789","note":"0123456789"}"#;
    let (_, out, _) = run(json, &["--max", "37", "--marker", "-{}", "--protect", "note"]);
    assert_eq!(out, br#"{"body":"012-7","note":"0123456789"}"#);
    let (status, out, err) = run(json, &["--max", "30", "--marker", "\""]);
    assert_eq!((status, out.len()), (1, 0));
    assert!(err.contains("a marker holds no quote"), "{err}");
    assert_eq!(run(json, &["--max", "30", "--tail", "--marker", "…"]).0, 2);
    assert_eq!(run(json, &["--max", "30", "--tail", "--shape"]).0, 2);
}

#[test]
fn truncate_refuses_what_it_cannot_do_and_writes_nothing() {
    for (input, args, message) in [
        (
            &b"[1,]"[..],
            &["--max", "100"][..],
            "the input is not valid JSON: expected value at line 1 column 4",
        ),
        (b"[1] 2", &["--max", "100"], "the input is not valid JSON: trailing characters"),
        (b"", &["--max", "100"], "the input is not valid JSON: EOF"),
        (b"[\"\xff\"]", &["--max", "100"], "the input is not UTF-8"),
        (b"[1,2]", &["--max", "3"], "a budget of 3 bytes cannot hold `null`; 4 is the least"),
        (b"", &["--max", "9", "/no/such/file"], "cannot read /no/such/file"),
    ] {
        let (status, out, err) = run(input, args);
        assert_eq!((status, out.len()), (1, 0), "{err}");
        assert!(err.starts_with("lapwing: ") && err.contains(message), "{err}");
    }
}

#[test]
fn truncate_takes_lines_and_stops_at_a_bad_one() {
    let (status, out, err) = run(b"[1,2,3]\r\n\n\"abcdef\"\n[]", &["--max", "6", "--lines", "--shape"]);
    assert_eq!((status, out.as_slice()), (0, &b"[1,2]\r\n\n\"abcd\"\n[]"[..]), "{err}");
    assert!(err.ends_with("lapwing: 2 of 4 lines were cut\n"), "{err}");
    let (status, out, err) = run(b"[1]\n[2\n[3]\n", &["--max", "6", "--lines"]);
    assert_eq!((status, out.as_slice()), (1, &b"[1]\n"[..]));
    assert!(err.contains("line 2 is not valid JSON"), "{err}");
}

#[test]
fn truncate_a_real_event_and_the_whole_recording() {
    let events = fs::read(RECORDING).expect("the recording is in the repository");
    let longest = events.split(|&b| b == b'\n').max_by_key(|line| line.len()).expect("there are events");
    let (status, out, err) = run(longest, &["--max", "65536", "--marker", "…[{} bytes]"]);
    assert_eq!(status, 0, "{err}");
    assert!(out.len() <= 65536 && out.len() > 65000, "{err}");
    let keys = |json| {
        serde_json::from_slice::<serde_json::Value>(json).expect("valid")["data"].as_object().map(|o| o.len())
    };
    assert_eq!(keys(&out), keys(longest));

    for mode in ["--tail", "--shape"] {
        let (status, out, err) = run(b"", &["--max", "1024", "--lines", mode, RECORDING]);
        assert_eq!(status, 0, "{err}");
        let (before, after): (Vec<_>, Vec<_>) =
            (events.split(|&b| b == b'\n').collect(), out.split(|&b| b == b'\n').collect());
        assert_eq!(before.len(), after.len());
        for (before, after) in before.into_iter().zip(after) {
            assert!(after.len() <= 1024 && (before.len() > 1024 || before == after));
        }
    }
}
