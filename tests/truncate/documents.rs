//! Documents to truncate: made up, from other people's test suites, and recorded.

use proptest::prelude::*;
use std::path::PathBuf;
use std::process::Command;

/// The content of a string, as it is spelled.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-z ]{1,12}",
        1 => "[a-zA-Z0-9+/]{60,200}",
        1 => prop::sample::select(vec![
            "\\n", "\\\"", "\\/", "\\\\", "\\\\\\\\", "\\\\\\\"", "\\u00e9", "\\u0000", "\\ud83d\\ude00", "\\uD83D\\uDE00",
            "\\ud83d", "\\ude00", "\\ud83d\\ud83d\\ude00", "\\\\ud83d\\ude00", "\\udbff\\udfff", "\\ud7ff\\ue000",
            "{", "}", "[", "]", ",", ":", "{\\\"a\\\":[1,", "é", "語", "漢字仮名", "😀", "e\u{301}", "\u{7f}", "…", "null",
        ]).prop_map(String::from),
        1 => (1usize..80).prop_map(|n| "\\\\".repeat(n)),
        1 => (1usize..40, prop::sample::select(vec!["語", "😀", "\\ud83d\\ude00", "\\n", "\\u0041"])).prop_map(|(n, s)| s.repeat(n)),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => prop::sample::select(vec!["a", "b", "id", "", "k\\\"y", "\\\\", "schlüssel", "{", "a,b", "\\ud83d\\ude00"]).prop_map(String::from),
        1 => text(),
    ]
}

fn space() -> impl Strategy<Value = &'static str> {
    prop_oneof![12 => Just(""), 2 => Just(" "), 1 => Just("\n\t  \r"), 1 => Just("                                                                      ")]
}

/// Valid JSON with all that is hard about it.
pub fn document() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        3 => text().prop_map(|t| format!("\"{t}\"")),
        1 => prop::sample::select(vec!["0", "-1", "12345678901234567890", "1e308", "-0.5E+10", "3.141592653589793238462643383279502884197169399375105820974944592307816406286208998628034825342117068", "true", "false", "null", "{}", "[]"]).prop_map(String::from),
    ];
    let tree = leaf.prop_recursive(6, 48, 8, |inner| {
        prop_oneof![
            (prop::collection::vec((inner.clone(), space(), space()), 0..8), space()).prop_map(
                |(elements, s)| {
                    let elements: Vec<_> =
                        elements.into_iter().map(|(e, a, b)| format!("{a}{e}{b}")).collect();
                    format!("[{s}{}]", elements.join(","))
                }
            ),
            (prop::collection::vec((key(), inner, space(), space()), 0..8), space()).prop_map(
                |(members, s)| {
                    let members: Vec<_> =
                        members.into_iter().map(|(k, v, a, b)| format!("{a}\"{k}\"{b}:{a}{v}{b}")).collect();
                    format!("{{{s}{}}}", members.join(","))
                }
            ),
        ]
    });
    let depth = prop_oneof![8 => Just(0usize), 1 => 0usize..140];
    (tree, depth, space(), any::<u64>()).prop_map(|(tree, depth, space, kinds)| {
        let mut text = String::from(space);
        for level in 0..depth {
            text.push_str(if kinds >> (level % 64) & 1 == 1 { "[" } else { "{\"deep\":" });
        }
        text.push_str(&tree);
        for level in (0..depth).rev() {
            text.push(if kinds >> (level % 64) & 1 == 1 { ']' } else { '}' });
        }
        text + space
    })
}

/// A file of real events, and which one it is.
pub fn telemetry() -> (PathBuf, Vec<u8>) {
    let path = match std::env::var_os("LAPWING_TELEMETRY") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/telemetry.ndjson"),
    };
    let bytes =
        std::fs::read(&path).unwrap_or_else(|e| panic!("the recorded events in {}: {e}", path.display()));
    (path, bytes)
}

/// The JSON files in a folder of a dev-dependency's package.
pub fn package_files(package: &str, folder: &str) -> Vec<(String, Vec<u8>)> {
    let run = |command: &mut Command| {
        let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("it can be started");
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("it writes UTF-8")
    };
    let version = run(Command::new("rustc").arg("-vV"));
    let host = version.lines().find_map(|l| l.strip_prefix("host: ")).expect("rustc names its host");
    let metadata = run(Command::new(env!("CARGO")).args([
        "metadata",
        "--format-version=1",
        "--locked",
        "--all-features",
        "--filter-platform",
        host,
    ]));
    let metadata: serde_json::Value = serde_json::from_str(&metadata).expect("cargo writes JSON");
    let manifest = metadata["packages"]
        .as_array()
        .and_then(|packages| packages.iter().find(|p| p["name"] == package))
        .and_then(|p| p["manifest_path"].as_str())
        .unwrap_or_else(|| panic!("{package} is not among the dependencies"));
    let folder = PathBuf::from(manifest).with_file_name("").join(folder);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .map(|path| (path.display().to_string(), std::fs::read(&path).expect("the file can be read")))
        .collect();
    files.sort();
    files
}

/// JSONTestSuite and the benchmark files of jiter; fails if they are not there.
pub fn corpora() -> Vec<(String, Vec<u8>)> {
    let mut files = package_files("json-syntax", "tests/inputs");
    assert!(files.len() > 300, "only {} files of JSONTestSuite", files.len());
    let bench = package_files("jiter", "benches");
    assert!(bench.len() >= 15, "only {} files of jiter", bench.len());
    files.extend(bench);
    files
}

/// About `count` budgets from 0 to `len`, small ones and those next to the end included.
pub fn budgets(len: usize, count: usize) -> impl Iterator<Item = usize> {
    let step = (len / count).max(1);
    (0..8.min(len)).chain((8..len).step_by(step)).chain(len.saturating_sub(2)..=len)
}

/// Runs `check` on every recorded event, with the budgets that its cuts are for.
pub fn for_recorded_events(check: impl Fn(&[u8], [usize; 4])) {
    let (path, events) = telemetry();
    let mut cuts = 0;
    for event in events.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
        let budgets = [256, 1 << 10, 4 << 10, 64 << 10];
        cuts += budgets.iter().filter(|&&max| max < event.len()).count();
        check(event, budgets);
    }
    println!("{cuts} cuts of events in {}", path.display());
    assert!(cuts > 1000, "only {cuts} cuts of events in {}", path.display());
}
