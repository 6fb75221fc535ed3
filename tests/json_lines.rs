//! `JsonLines`: what it promises, by the files that it leaves. What kills its process is in `json_lines_kill.rs`.
#![cfg(feature = "std")]

#[allow(dead_code)] // each of its users uses a part
mod bus;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use bus::{numbered, numbered_line, published};
use lapwing::event::{Category, Envelope};
use lapwing::ring::MAX_SEQ;
use lapwing::storage::{
    Batch, Fsync, JsonLines, JsonLinesConfig, Line, OpenError, Position, ReadError, Recovered, RunError,
    Status, Storage, StorageError, StorageWriter, Torn,
};
use lapwing::stream::{Config, EventStream};
use tempfile::TempDir;

// ---- What the tests share.

fn config() -> JsonLinesConfig {
    JsonLinesConfig::new().fsync(Fsync::Never)
}

fn tempdir() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A stream of so many events, which begins after the seq `after`.
fn stream(events: u64, after: u64) -> EventStream {
    Config::new().events(events).first_seq(after + 1).large_bytes(0).build().unwrap()
}

/// Publishes so many events, of which each is [`numbered`] by its seq.
fn publish(stream: &EventStream, count: u64) -> u64 {
    for _ in 0..count {
        let seq = stream.seq() + 1;
        assert_eq!(stream.publish(&numbered(seq)), Ok(published(seq)));
    }
    stream.seq()
}

fn open(dir: &Path, config: &JsonLinesConfig) -> (JsonLines, Recovered) {
    JsonLines::open(dir, config.clone()).unwrap_or_else(|e| panic!("{e}"))
}

fn in_a_minute() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[track_caller]
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = in_a_minute();
    while !so() {
        assert!(Instant::now() < deadline, "not after a minute: {what}");
        thread::yield_now();
    }
}

/// Stores the events after `after` up to `last`, in batches of `step`, as one run of a program does. Returns its epoch.
fn store(dir: &Path, config: &JsonLinesConfig, after: u64, last: u64, step: u64) -> u64 {
    let stream = stream(step, after);
    let mut writer = StorageWriter::new(&stream, open(dir, config).0);
    while stream.seq() < last {
        publish(&stream, step.min(last - stream.seq()));
        assert_eq!(writer.drain(in_a_minute()).unwrap(), stream.seq());
    }
    let storage = writer.close(in_a_minute()).unwrap();
    assert_eq!(storage.last(), Some(Position { epoch: stream.epoch(), seq: last }));
    stream.epoch()
}

/// Every file of lines in the order of the names, without the lock.
fn files(dir: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = names.filter(|path| !path.ends_with("lock")).collect();
    files.sort();
    files
}

fn names(dir: &Path) -> Vec<String> {
    let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    files(dir).into_iter().map(name).collect()
}

fn read(dir: &Path) -> Vec<Result<Line, ReadError>> {
    JsonLines::read(dir).unwrap().collect()
}

/// Fails unless what is read is the numbered lines with these seqs, each of them with all its bytes, and no error.
#[track_caller]
fn assert_lines(dir: &Path, seqs: impl IntoIterator<Item = u64>) {
    let (mut lines, mut seqs) = (JsonLines::read(dir).unwrap(), seqs.into_iter());
    loop {
        match (lines.next(), seqs.next()) {
            (None, None) => break,
            (Some(Ok(line)), Some(seq)) => {
                assert_eq!((line.seq(), line.json()), (seq, &*numbered_line(seq)), "{line:?}");
                assert_eq!(line.event_json(), numbered(seq).to_json());
            }
            (line, seq) => panic!("{line:?} where {seq:?} should be"),
        }
    }
}

/// What is in a file or in several, one after the other.
fn bytes(paths: &[PathBuf]) -> Vec<u8> {
    paths.iter().flat_map(|path| fs::read(path).unwrap()).collect()
}

fn numbered_lines(seqs: impl IntoIterator<Item = u64>) -> Vec<u8> {
    seqs.into_iter().flat_map(|seq| [numbered_line(seq), b"\n".to_vec()].concat()).collect()
}

/// Number, epoch, first seq and the rest of a name.
fn parts(name: &str) -> (u64, u64, u64, &str) {
    let (stem, rest) = name.split_once('.').unwrap();
    let [number, epoch, first] = stem.split('-').collect::<Vec<_>>()[..] else { panic!("{name}") };
    assert_eq!((number.len(), epoch.len(), first.len()), (10, 16, 20));
    (number.parse().unwrap(), u64::from_str_radix(epoch, 16).unwrap(), first.parse().unwrap(), rest)
}

fn no_error(line: &Result<Line, ReadError>) -> &Line {
    line.as_ref().unwrap_or_else(|e| panic!("{e}"))
}

// ---- What is written is read.

#[test]
fn what_was_published_is_in_the_files_and_read_back_byte_for_byte() {
    for step in [1, 7, 500] {
        let dir = tempdir();
        let epoch = store(dir.path(), &config(), 0, 500, step);
        assert_lines(dir.path(), 1..=500);
        assert!(read(dir.path()).iter().all(|line| no_error(line).epoch() == epoch));
        assert_eq!(bytes(&files(dir.path())), numbered_lines(1..=500), "cat is JSON Lines");
        assert_eq!(names(dir.path()), [format!("0000000001-{epoch:016x}-00000000000000000001.ndjson")]);
    }
}

#[test]
fn each_run_comes_after_the_one_before_and_goes_on_with_its_numbers_or_not() {
    let dir = tempdir();
    let mut epochs = Vec::new();
    for (after, last) in [(0, 40), (40, 90), (90, 91), (0, 5)] {
        assert_eq!(
            open(dir.path(), &config()).1,
            Recovered { last: epochs.last().map(|&(epoch, seq)| Position { epoch, seq }), torn: Vec::new() }
        );
        epochs.push((store(dir.path(), &config().max_bytes(4096), after, last, 10), last));
    }
    assert_lines(dir.path(), (1..=91).chain(1..=5));
    let read: Vec<_> = read(dir.path()).iter().map(|line| no_error(line).epoch()).collect();
    let runs: Vec<_> = read.chunk_by(|a, b| a == b).map(|run| (run[0], run.len())).collect();
    assert_eq!(runs, [(epochs[0].0, 40), (epochs[1].0, 50), (epochs[2].0, 1), (epochs[3].0, 5)]);
    let numbers: Vec<_> = names(dir.path()).iter().map(|name| parts(name).0).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "in the order of writing");
}

#[test]
fn what_is_there_of_a_stream_is_not_appended_again() {
    for per_category in [false, true] {
        let (dir, config) = (tempdir(), config().per_category(per_category));
        let stream = stream(64, 0);
        for last in [0, 10, 10, 30, 64] {
            publish(&stream, last - stream.seq());
            let (storage, recovered) = open(dir.path(), &config);
            assert_eq!(storage.last(), recovered.last);
            // From the oldest event on, whatever is there.
            let mut writer = StorageWriter::new(&stream, storage);
            assert_eq!(writer.drain(in_a_minute()).unwrap(), last);
            writer.close(in_a_minute()).unwrap();
            assert_lines(dir.path(), 1..=last);
        }
        // The same after what is recovered, and beyond what the ring holds.
        let (storage, recovered) = open(dir.path(), &config);
        let Position { epoch, seq } = recovered.last.unwrap();
        assert_eq!((epoch, seq), (stream.epoch(), 64));
        let mut writer = StorageWriter::after(&stream, storage, seq).unwrap();
        publish(&stream, 164);
        writer.drain(in_a_minute()).unwrap();
        writer.close(in_a_minute()).unwrap();
        let read = read(dir.path());
        let seqs: Vec<_> = read.iter().map(|line| no_error(line).seq()).collect();
        assert_eq!(seqs, [(1..=64).collect(), vec![164], (165..=228).collect::<Vec<_>>()].concat());
        assert_gap(no_error(&read[64]), 65, 164);
    }
}

#[track_caller]
fn assert_gap(line: &Line, from: u64, to: u64) {
    let Envelope { seq, event } = serde_json::from_slice(line.json()).unwrap();
    let data = format!(r#"{{"from":{from},"to":{to},"count":{}}}"#, to - from + 1);
    assert_eq!((seq, &*event.r#type, event.category), (to, "events_dropped", Category::System));
    assert_eq!(event.data.unwrap().get(), data);
}

#[test]
fn it_can_be_read_while_it_is_written() {
    const LAST: u64 = 20_000;
    let (dir, stream) = (tempdir(), stream(1024, 0));
    #[allow(unused_mut)] // without zstd
    let mut config = config().max_bytes(64 << 10);
    #[cfg(feature = "zstd")]
    {
        config = config.compression(1);
    }
    let mut writer = StorageWriter::new(&stream, open(dir.path(), &config).0);
    let status = writer.status();
    thread::scope(|scope| {
        let run = scope.spawn(move || writer.run().map(|()| writer));
        let published = scope.spawn(|| {
            while stream.seq() < LAST {
                until("the writer keeps up", || status.get().lag < 512);
                publish(&stream, 100);
            }
            stream.close();
        });
        let mut times = 0;
        while !published.is_finished() || times == 0 {
            let known = status.get().appended;
            let mut last = 0;
            for line in JsonLines::read(dir.path()).unwrap() {
                match line {
                    Ok(line) => {
                        assert_eq!((line.seq(), line.json()), (last + 1, &*numbered_line(last + 1)));
                        last += 1;
                    }
                    // The line that is just being written.
                    Err(ReadError::Torn { .. }) if last >= known => {}
                    Err(error) => panic!("{error} after {last}, where {known} were appended"),
                }
            }
            assert!(last >= known, "{last} of {known}");
            times += 1;
        }
        published.join().unwrap();
        run.join().unwrap().unwrap().close(in_a_minute()).unwrap();
    });
    assert_lines(dir.path(), 1..=LAST);
}

#[test]
fn foreign_files_are_left_alone() {
    let dir = tempdir();
    let foreign = [
        "notes.txt",
        "1-2-3.ndjson",
        "0000000001-0000000000000001-00000000000000000001.weather.ndjson",
        "0000000001-0000000000000001-00000000000000000001.ndjson.gz",
        "0000000001-0000000000000001-00000000000000000001.ndjson.tmp",
        "0000000001-000000000000000G-00000000000000000001.ndjson",
    ];
    for name in foreign {
        fs::write(dir.path().join(name), "not ours").unwrap();
    }
    let epoch = store(dir.path(), &config(), 0, 10, 10);
    assert_lines(dir.path(), 1..=10);
    for name in foreign {
        assert_eq!(fs::read(dir.path().join(name)).unwrap(), b"not ours");
    }
    assert_eq!(open(dir.path(), &config()).1.last, Some(Position { epoch, seq: 10 }));
}

// ---- Rotation.

#[test]
fn a_file_has_at_most_so_many_bytes_or_is_of_one_batch() {
    for max_bytes in [0, 1, 300, 1000, 5000, 20_000] {
        for step in [1, 10] {
            let dir = tempdir();
            let epoch = store(dir.path(), &config().max_bytes(max_bytes), 0, 200, step);
            assert_lines(dir.path(), 1..=200);
            let (names, files) = (names(dir.path()), files(dir.path()));
            let mut next = 1;
            let mut lens = Vec::new();
            for (at, (name, path)) in names.iter().zip(&files).enumerate() {
                assert_eq!(parts(name), (at as u64 + 1, epoch, next, "ndjson"));
                let content = fs::read(path).unwrap();
                let lines = content.iter().filter(|byte| **byte == b'\n').count() as u64;
                next += lines;
                // A batch ends with the first line that comes to the limit, and after `step` of them.
                let last = content.len()
                    - 1
                    - content[..content.len() - 1].iter().rev().take_while(|b| **b != b'\n').count();
                assert!(content.len() as u64 <= max_bytes || (last as u64) < max_bytes.max(1), "{name}");
                assert!(content.len() as u64 <= max_bytes || lines <= step, "{name}");
                lens.push(content.len() as u64);
            }
            assert_eq!(next, 201);
            // None was finished too early: the first batch of the next one did not fit. With batches of one line it is that line.
            if step == 1 {
                for (pair, name) in lens.windows(2).zip(names.iter().skip(1)) {
                    let first = numbered_line(parts(name).2).len() as u64 + 1;
                    assert!(pair[0] + first > max_bytes, "{name}");
                }
            }
        }
    }
}

#[test]
fn a_file_is_finished_so_long_after_it_was_begun() {
    for (age, files_of_three) in [(Duration::ZERO, 3), (Duration::from_millis(30), 2), (Duration::MAX, 1)] {
        let (dir, stream) = (tempdir(), stream(64, 0));
        let mut writer = StorageWriter::new(&stream, open(dir.path(), &config().max_age(age)).0);
        let mut in_time = true;
        for seq in 1..=3 {
            if seq == 3 && age < Duration::MAX {
                let begun = Instant::now();
                until("it is old", || begun.elapsed() >= age);
            }
            let start = Instant::now();
            publish(&stream, 1);
            writer.drain(in_a_minute()).unwrap();
            in_time &= seq == 3 || start.elapsed() < age / 2;
        }
        writer.close(in_a_minute()).unwrap();
        let files = files(dir.path()).len();
        // On a machine that is slow just then, the second line may have come too late, too.
        assert!(files == files_of_three || (!in_time && files == 3), "{files} files at an age of {age:?}");
        assert_lines(dir.path(), 1..=3);
    }
}

#[cfg(feature = "zstd")]
#[test]
fn a_file_is_finished_at_its_age_also_when_nothing_comes() {
    let (dir, stream) = (tempdir(), stream(64, 0));
    let config = config().max_age(Duration::from_millis(20)).compression(3);
    let mut writer = StorageWriter::new(&stream, open(dir.path(), &config).0);
    let canceller = writer.canceller();
    thread::scope(|scope| {
        let run = scope.spawn(|| writer.run());
        for seq in 1..=2 {
            publish(&stream, 1);
            until("it is compressed", || {
                let names = names(dir.path());
                names.len() == seq && names.iter().all(|name| name.ends_with(".ndjson.zst"))
            });
        }
        canceller.cancel();
        run.join().unwrap().unwrap();
    });
    assert_lines(dir.path(), 1..=2);
}

// ---- A file for each category.

#[test]
fn each_category_has_its_files_and_reading_brings_them_together() {
    let (dir, config) = (tempdir(), config().per_category(true).max_bytes(8000));
    let epoch = store(dir.path(), &config, 0, 1000, 16);
    assert_lines(dir.path(), 1..=1000);
    let mut of_category: BTreeMap<_, Vec<u64>> = BTreeMap::new();
    for seq in 1..=1000 {
        let category = numbered(seq).category;
        let known = Category::KNOWN.contains(&category);
        let name = if known { category.as_str().to_owned() } else { "other".into() };
        of_category.entry(name).or_default().push(seq);
    }
    assert_eq!(of_category.len(), Category::KNOWN.len() + 1);
    let (names, files) = (names(dir.path()), files(dir.path()));
    for (category, seqs) in of_category {
        let rest = format!("{category}.ndjson");
        let own: Vec<_> = names.iter().zip(&files).filter(|(name, _)| parts(name).3 == rest).collect();
        assert!(own.len() > 2, "{category} has {own:?}");
        let mut content = Vec::new();
        for (name, path) in own {
            let bytes = fs::read(path).unwrap();
            assert!(bytes.len() <= 8000);
            assert!(bytes.starts_with(format!("{{\"seq\":{},", parts(name).2).as_bytes()));
            assert_eq!(parts(name).1, epoch);
            content.extend(bytes);
        }
        assert_eq!(content, numbered_lines(seqs), "{category}");
    }
    let numbers: Vec<_> = names.iter().map(|name| parts(name).0).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
}

/// The one way in which a crash can take a line out of the middle, and it is told.
#[test]
fn a_batch_that_reached_some_categories_only_is_missed() {
    let (dir, config) = (tempdir(), config().per_category(true));
    let epoch = store(dir.path(), &config, 0, 40, 40);
    let is_of = |seq: u64, category: &str| numbered(seq).category == category.into();
    // The process died before it wrote to this one.
    let network =
        files(dir.path()).into_iter().find(|path| path.to_str().unwrap().ends_with(".network.ndjson"));
    fs::write(network.unwrap(), "").unwrap();
    let (_, recovered) = open(dir.path(), &config);
    let last = (1..=40).rev().find(|seq| !is_of(*seq, "network")).unwrap();
    assert_eq!(recovered, Recovered { last: Some(Position { epoch, seq: last }), torn: vec![] });
    let (mut there, mut missing) = (Vec::new(), Vec::new());
    for line in read(dir.path()) {
        match line {
            Ok(line) => there.push(line.seq()),
            Err(ReadError::Missing { epoch: of, from, to }) => {
                assert_eq!(of, epoch);
                missing.extend(from..=to);
            }
            Err(error) => panic!("{error}"),
        }
    }
    let first = there[0];
    assert_eq!(there, (1..=40).filter(|seq| !is_of(*seq, "network")).collect::<Vec<_>>());
    assert_eq!(missing, (first..=last).filter(|seq| is_of(*seq, "network")).collect::<Vec<_>>());
    assert!(!missing.is_empty());
}

// ---- Compression.

#[cfg(feature = "zstd")]
mod compressed {
    use super::*;

    #[test]
    fn finished_files_are_compressed_and_read_back() {
        for per_category in [false, true] {
            let (dir, plain) = (tempdir(), tempdir());
            let config = config().max_bytes(20_000).per_category(per_category);
            let epoch = store(dir.path(), &config.clone().compression(3), 0, 1000, 50);
            store(plain.path(), &config, 0, 1000, 50);
            assert_lines(dir.path(), 1..=1000);
            let (names, all) = (names(dir.path()), files(dir.path()));
            assert!(names.len() > 5 && names.iter().all(|name| name.ends_with(".ndjson.zst")), "{names:?}");
            for (packed, plain) in all.iter().zip(files(plain.path())) {
                let (packed, plain) = (fs::read(packed).unwrap(), fs::read(plain).unwrap());
                assert_eq!(zstd::decode_all(&*packed).unwrap(), plain);
                assert!(packed.len() < plain.len() / 2, "{} of {}", packed.len(), plain.len());
            }
            // What is compressed is recovered from, too.
            let last = Some(Position { epoch, seq: 1000 });
            assert_eq!(open(dir.path(), &config).1, Recovered { last, torn: vec![] });
        }
    }

    #[test]
    fn what_was_not_compressed_is_by_the_next_one() {
        let dir = tempdir();
        store(dir.path(), &config().max_bytes(5000), 0, 100, 10);
        let before = files(dir.path());
        let content = bytes(&before);
        // Dead in the middle, once before the new name was there, and once after it.
        fs::write(before[0].with_extension("ndjson.zst.tmp"), "unfinished").unwrap();
        let done = zstd::encode_all(&*fs::read(&before[1]).unwrap(), 3).unwrap();
        fs::write(before[1].with_extension("ndjson.zst"), done).unwrap();
        assert_lines(dir.path(), 1..=100);
        let (mut storage, _) = open(dir.path(), &config().compression(3));
        storage.close(in_a_minute()).unwrap();
        drop(storage);
        let after = files(dir.path());
        assert_eq!(after, before.iter().map(|path| path.with_extension("ndjson.zst")).collect::<Vec<_>>());
        let unpacked: Vec<_> =
            after.iter().flat_map(|path| zstd::decode_all(&*fs::read(path).unwrap()).unwrap()).collect();
        assert_eq!(unpacked, content);
        assert_lines(dir.path(), 1..=100);
    }

    #[test]
    fn a_compressed_file_that_is_damaged_is_told() {
        let dir = tempdir();
        store(dir.path(), &config().max_bytes(5000).compression(3), 0, 100, 10);
        let damaged = &files(dir.path())[2];
        let mut content = fs::read(damaged).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 0x55;
        fs::write(damaged, content).unwrap();
        let (mut seqs, mut errors) = (Vec::new(), Vec::new());
        for line in read(dir.path()) {
            match line {
                Ok(line) => seqs.push(line.seq()),
                Err(error) => errors.push(error),
            }
        }
        let ReadError::File(error) = &errors[0] else { panic!("{errors:?}") };
        assert_eq!((error.doing, &error.path), ("read", damaged));
        let ReadError::Missing { from, to, .. } = errors[1] else { panic!("{errors:?}") };
        assert_eq!(errors.len(), 2);
        assert_eq!(seqs, (1..from).chain(to + 1..=100).collect::<Vec<_>>(), "what is missing is told");
        assert!(parts(&names(dir.path())[2]).2 <= from && parts(&names(dir.path())[3]).2 == to + 1);
    }
}

/// Files as a failing disk or a hostile hand may have left them.
fn put(dir: &Path, number: u64, lines: &[&[u8]]) -> PathBuf {
    let path = dir.join(format!("{number:010}-{:016x}-{:020}.ndjson", 7, 1));
    fs::write(&path, lines.iter().flat_map(|line| [line, &b"\n"[..]].concat()).collect::<Vec<_>>()).unwrap();
    path
}

/// What is read, and what is told.
fn read_and_told(dir: &Path) -> (Vec<u64>, Vec<String>) {
    let (mut seqs, mut told) = (Vec::new(), Vec::new());
    for read in JsonLines::read(dir).unwrap() {
        match read {
            Ok(line) => seqs.push(line.seq()),
            Err(error) => told.push(error.to_string()),
        }
    }
    (seqs, told)
}

#[test]
fn a_number_that_no_stream_gives_is_that_of_no_envelope() {
    let dir = tempdir();
    let good = numbered_line(1);
    for seq in ["0", "00", "01", "4611686018427387904", "18446744073709551615", "18446744073709551616"] {
        let line =
            String::from_utf8(good.clone()).unwrap().replacen("\"seq\":1", &format!("\"seq\":{seq}"), 1);
        let path = put(dir.path(), 1, &[line.as_bytes(), &good]);
        let told = format!("{}: the line at byte 0 is no envelope", path.display());
        assert_eq!(read_and_told(dir.path()), (vec![1], vec![told]), "{seq}");
    }
    let last = String::from_utf8(good).unwrap().replacen("\"seq\":1", "\"seq\":4611686018427387903", 1);
    put(dir.path(), 1, &[last.as_bytes(), last.as_bytes()]);
    assert_eq!(read_and_told(dir.path()), (vec![MAX_SEQ; 2], vec![]));
}

#[test]
fn a_loss_told_wrongly_hides_nothing_that_is_there() {
    let dir = tempdir();
    for (from, missing) in [(0, None), (3, None), (4, Some(3..=3)), (99, Some(3..=4))] {
        let gap = format!(
            r#"{{"seq":5,"event":{{"ts":1,"type":"events_dropped","category":"system","source":{{"kind":"cdp"}},"data":{{"from":{from},"to":5}}}}}}"#
        );
        put(dir.path(), 1, &[&numbered_line(2), gap.as_bytes()]);
        let told: Vec<_> = missing
            .map(|seqs| {
                format!("seqs {} to {} of epoch 0000000000000007 are missing", seqs.start(), seqs.end())
            })
            .into_iter()
            .collect();
        assert_eq!(read_and_told(dir.path()), (vec![2, 5], told), "{from}");
    }
}

#[test]
fn lines_out_of_order_are_not_told_to_be_missing() {
    let dir = tempdir();
    put(dir.path(), 1, &[5, 3, 6, 8].map(numbered_line).each_ref().map(Vec::as_slice));
    let told = vec!["seqs 7 to 7 of epoch 0000000000000007 are missing".to_owned()];
    assert_eq!(read_and_told(dir.path()), (vec![5, 3, 6, 8], told));
}

#[test]
fn two_files_of_one_number_are_two_files() {
    let dir = tempdir();
    let one = put(dir.path(), 1, &[&numbered_line(1)]);
    let two = dir.path().join(format!("{:010}-{:016x}-{:020}.ndjson", 1, 7, 2));
    fs::write(&two, [numbered_line(2), b"\n{\"seq\":3".to_vec()].concat()).unwrap();
    let torn = format!("{}: its last 8 bytes are no whole line", two.display());
    assert_eq!(read_and_told(dir.path()), (vec![1, 2], vec![torn]));
    let (_, recovered) = open(dir.path(), &config());
    let torn = vec![Torn { path: two, bytes: 8 }];
    assert_eq!(recovered, Recovered { last: Some(Position { epoch: 7, seq: 2 }), torn });
    assert!(one.exists());
}

#[test]
fn the_numbers_of_files_end_where_names_would_no_longer_rise() {
    let dir = tempdir();
    let beyond = put(dir.path(), u64::MAX, &[&numbered_line(1)]);
    assert_eq!(read_and_told(dir.path()), (vec![], vec![]), "it is nobody's");
    put(dir.path(), 9_999_999_999, &[&numbered_line(1)]);
    let (mut storage, _) = open(dir.path(), &config());
    let stream = stream(4, 1);
    publish(&stream, 1);
    stream.close();
    let mut writer = StorageWriter::new(&stream, Once(&mut storage));
    let Err(RunError::Storage(error)) = writer.run() else { panic!("it was appended") };
    assert!(error.to_string().ends_with("9999999999 is the last number of a file"), "{error}");
    drop(writer);
    assert_eq!(read_and_told(dir.path()), (vec![1], vec![]));
    assert!(beyond.exists());
}

/// A storage that is tried once.
struct Once<'a>(&'a mut JsonLines);

impl Storage for Once<'_> {
    fn append(&mut self, batch: &Batch) -> Result<(), StorageError> {
        self.0.append(batch).map_err(|error| StorageError::Fatal(error.into()))
    }
}

#[cfg(feature = "zstd")]
#[test]
fn a_compressed_file_of_which_nothing_is_left_is_told() {
    let dir = tempdir();
    let path = put(dir.path(), 1, &[]).with_extension("ndjson.zst");
    fs::remove_file(path.with_extension("")).unwrap();
    for rest in [0, 3, 20] {
        let whole = zstd::encode_all(&*[numbered_line(1), b"\n".to_vec()].concat(), 1).unwrap();
        fs::write(&path, &whole[..rest]).unwrap();
        let (seqs, told) = read_and_told(dir.path());
        assert!(seqs.is_empty() && told.len() == 1, "{rest} bytes: {seqs:?} {told:?}");
        let error = JsonLines::open(dir.path(), config()).unwrap_err().to_string();
        assert_eq!(told, [error], "{rest} bytes");
    }
}

#[cfg(feature = "zstd")]
#[test]
fn who_is_refused_over_one_file_finds_the_others_as_they_were() {
    let dir = tempdir();
    let torn = put(dir.path(), 2, &[&numbered_line(1)]);
    fs::write(&torn, "{\"seq\":2").unwrap();
    fs::write(put(dir.path(), 1, &[]).with_extension("ndjson.zst"), "spoilt").unwrap();
    fs::remove_file(put(dir.path(), 1, &[])).unwrap();
    JsonLines::open(dir.path(), config()).unwrap_err();
    assert_eq!(fs::read(&torn).unwrap(), b"{\"seq\":2");
}

#[cfg(feature = "zstd")]
#[test]
fn a_file_goes_only_when_its_compressed_form_has_all_of_it() {
    let dir = tempdir();
    let path = put(dir.path(), 1, &[&numbered_line(1), &numbered_line(2)]);
    let compressed = path.with_extension("ndjson.zst");
    let whole = zstd::encode_all(&*fs::read(&path).unwrap(), 1).unwrap();
    let other = zstd::encode_all(&*[numbered_line(1), b"\n".to_vec()].concat(), 1).unwrap();
    for spoilt in [&[], &whole[..whole.len() / 2], &other] {
        fs::write(&compressed, spoilt).unwrap();
        assert_eq!(read_and_told(dir.path()), (vec![1, 2], vec![]));
        let (_, recovered) = open(dir.path(), &config());
        assert_eq!(recovered, Recovered { last: Some(Position { epoch: 7, seq: 2 }), torn: vec![] });
        assert_eq!(read_and_told(dir.path()), (vec![1, 2], vec![]));
    }
    fs::write(&compressed, &whole).unwrap();
    open(dir.path(), &config());
    assert!(!path.exists());
    assert_eq!(read_and_told(dir.path()), (vec![1, 2], vec![]));
}

#[cfg(not(feature = "zstd"))]
#[test]
fn compressed_files_are_refused_by_name_without_the_feature() {
    let dir = tempdir();
    store(dir.path(), &config(), 0, 10, 10);
    let path = files(dir.path()).remove(0);
    let compressed = path.with_extension("ndjson.zst");
    fs::rename(path, &compressed).unwrap();
    let text = format!("{} is compressed, and this build is without zstd", compressed.display());
    assert_eq!(read(dir.path()).remove(0).unwrap_err().to_string(), text);
    assert_eq!(JsonLines::open(dir.path(), config()).unwrap_err().to_string(), text);
}

// ---- What is durable.

#[test]
fn what_is_durable_depends_on_the_policy() {
    let hour = Duration::from_secs(3600);
    for (fsync, after_append, after_close) in [
        (Fsync::Never, (None, 0), 0),
        (Fsync::EveryBatch, (Some(10), 10), 10),
        // Nothing yet, beyond what came before the writer's begin.
        (Fsync::Every(hour), (Some(5), 5), 10),
    ] {
        for per_category in [false, true] {
            let (dir, stream) = (tempdir(), stream(64, 0));
            let config = JsonLinesConfig::new().fsync(fsync).per_category(per_category);
            publish(&stream, 10);
            let mut writer = StorageWriter::after(&stream, open(dir.path(), &config).0, 5).unwrap();
            let status = writer.status();
            assert_eq!((writer.storage().durable(), status.get().durable), (None, 0));
            writer.drain(in_a_minute()).unwrap();
            assert_eq!((writer.storage().durable(), status.get().durable), after_append, "{fsync:?}");
            writer.close(in_a_minute()).unwrap();
            assert_eq!((status.get().appended, status.get().durable), (10, after_close), "{fsync:?}");
            assert_lines(dir.path(), 6..=10);
        }
    }
}

#[test]
fn what_was_appended_is_durable_after_the_period_also_when_nothing_comes() {
    let (dir, stream) = (tempdir(), stream(64, 0));
    let period = Duration::from_millis(50);
    let config = JsonLinesConfig::new().fsync(Fsync::Every(period));
    let mut writer = StorageWriter::new(&stream, open(dir.path(), &config).0);
    let (status, canceller) = (writer.status(), writer.canceller());
    thread::scope(|scope| {
        let run = scope.spawn(|| writer.run());
        for seq in 1..=3 {
            let start = Instant::now();
            publish(&stream, 1);
            until("it is durable", || status.get().durable == seq);
            assert!(start.elapsed() >= period, "too soon: {:?}", start.elapsed());
        }
        canceller.cancel();
        run.join().unwrap().unwrap();
    });
}

/// When the system fails to make durable what it took, nobody knows what is there.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
fn what_could_not_be_made_durable_is_cut_off_and_read_from_the_ring_once_more() {
    for per_category in [false, true] {
        let (dir, stream) = (tempdir(), stream(64, 0));
        let config = JsonLinesConfig::new().fsync(Fsync::EveryBatch).per_category(per_category);
        let mut writer = StorageWriter::new(&stream, open(dir.path(), &config).0);
        publish(&stream, 10);
        writer.drain(in_a_minute()).unwrap();
        publish(&stream, 15);
        let status = writer.status();
        let error = thread::scope(|scope| {
            let failing = scope.spawn(|| {
                fail_fdatasync_on_this_thread();
                writer.drain(Instant::now()).unwrap_err()
            });
            failing.join().unwrap()
        });
        assert!(matches!(error, RunError::Deadline { appended: 10, wanted: 25, .. }), "{error:?}");
        let text = error.to_string();
        let why = ": the storage holds what is up to seq 10: cannot make durable ";
        assert!(text.contains(why) && text.contains("Input/output error"), "{text}");
        let Status { appended, durable, errors, .. } = status.get();
        assert_eq!((appended, durable, errors), (10, 10, 1));
        assert_lines(dir.path(), 1..=10);
        assert_eq!(writer.drain(in_a_minute()).unwrap(), 25);
        assert_eq!((status.get().durable, writer.storage().last().unwrap().seq), (25, 25));
        assert_lines(dir.path(), 1..=25);
    }
}

/// The same where it is made durable now and then, and when it is closed.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
fn several_batches_that_could_not_be_made_durable_are_read_once_more() {
    let (dir, stream) = (tempdir(), stream(64, 0));
    let config = JsonLinesConfig::new().fsync(Fsync::Every(Duration::ZERO)).max_bytes(2000);
    let mut writer = StorageWriter::new(&stream, open(dir.path(), &config).0);
    let (status, canceller) = (writer.status(), writer.canceller());
    publish(&stream, 40);
    thread::scope(|scope| {
        let run = scope.spawn(|| {
            fail_fdatasync_on_this_thread();
            writer.run()
        });
        until("it has failed", || status.get().errors >= 2);
        canceller.cancel();
        run.join().unwrap().unwrap();
    });
    assert_eq!((status.get().durable, status.get().dropped), (0, 0));
    assert_eq!(writer.drain(in_a_minute()).unwrap(), 40);
    writer.close(in_a_minute()).unwrap();
    assert_eq!((status.get().appended, status.get().durable), (40, 40));
    assert_lines(dir.path(), 1..=40);
}

/// Every `fdatasync` of this thread is an input/output error, for as long as it lives.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn fail_fdatasync_on_this_thread() {
    let statement = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0), // the number of the call
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_fdatasync as u32),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EIO as u32),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: prctl only reads the program, which lives until it returns, and whose length is right.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    assert!(done, "this test needs seccomp: {}", std::io::Error::last_os_error());
}

// ---- Torn ends.

/// A process can die anywhere in a write.
#[test]
fn wherever_the_last_file_is_cut_its_whole_lines_stay_and_the_rest_is_told() {
    const LAST: u64 = 12;
    const FIRST_OF_FILE: u64 = 9;
    // Two files of one run: 1 to 8, and 9 to 12, the one that is cut.
    let (dir, stream) = (tempdir(), stream(64, 0));
    for last in [FIRST_OF_FILE - 1, LAST] {
        publish(&stream, last - stream.seq());
        let mut writer = StorageWriter::new(&stream, open(dir.path(), &config()).0);
        writer.drain(in_a_minute()).unwrap();
        writer.close(in_a_minute()).unwrap();
    }
    let files = files(dir.path());
    assert_eq!(files.len(), 2);
    let (first, whole) = (fs::read(&files[0]).unwrap(), fs::read(&files[1]).unwrap());
    assert_eq!(whole, numbered_lines(FIRST_OF_FILE..=LAST));
    let ends: Vec<_> =
        (FIRST_OF_FILE - 1..=LAST).map(|last| numbered_lines(FIRST_OF_FILE..=last).len()).collect();
    for cut in 0..=whole.len() {
        for name in names(dir.path()) {
            fs::remove_file(dir.path().join(name)).unwrap();
        }
        fs::write(&files[0], &first).unwrap();
        fs::write(&files[1], &whole[..cut]).unwrap();
        let lines = ends.iter().rposition(|end| *end <= cut).unwrap();
        let (torn, last) = ((cut - ends[lines]) as u64, FIRST_OF_FILE - 1 + lines as u64);
        // Reading tells it, and changes nothing.
        let lines_read = read(dir.path());
        let (is_torn, seqs): (Vec<_>, Vec<_>) = lines_read.iter().partition(|line| line.is_err());
        assert_eq!(seqs.len() as u64, last);
        match &is_torn[..] {
            [] => assert_eq!(torn, 0),
            [Err(ReadError::Torn { path, bytes })] => assert_eq!((path, *bytes), (&files[1], torn)),
            other => panic!("{other:?}"),
        }
        assert_eq!(fs::read(&files[1]).unwrap(), whole[..cut]);
        // Opening cuts it off.
        let (storage, recovered) = open(dir.path(), &config());
        let expected = Recovered {
            last: Some(Position { epoch: stream.epoch(), seq: last }),
            torn: if torn > 0 { vec![Torn { path: files[1].clone(), bytes: torn }] } else { vec![] },
        };
        assert_eq!(recovered, expected, "cut at {cut}");
        assert_lines(dir.path(), 1..=last);
        // And a writer goes on there, without a gap and without a line that is there twice.
        let mut writer = StorageWriter::after(&stream, storage, last).unwrap();
        writer.drain(in_a_minute()).unwrap();
        writer.close(in_a_minute()).unwrap();
        assert_lines(dir.path(), 1..=LAST);
        assert_eq!(
            open(dir.path(), &config()).1,
            Recovered { torn: vec![], last: Some(Position { seq: LAST, ..expected.last.unwrap() }) }
        );
    }
}

/// A machine that dies can leave anything behind what was made durable.
#[test]
fn what_is_no_envelope_at_the_end_is_cut_off_too() {
    let long = [&b"{\"seq\":11,\"event\":{\"data\":\""[..], &[b'x'; 300_000]].concat();
    for garbage in [
        &[0; 5000][..],
        b"\n",
        b"\n\n\n",
        b"nonsense\n",
        b"{\"seq\":11,\"event\":{}}\n{\"seq\":",
        b"{\"seq\":11,\"event\":{\"ts\":7,}}\n",
        &long,
    ] {
        let dir = tempdir();
        let epoch = store(dir.path(), &config(), 0, 10, 10);
        let path = files(dir.path()).remove(0);
        fs::write(&path, [&numbered_lines(1..=10), garbage].concat()).unwrap();
        let (_, recovered) = open(dir.path(), &config());
        let (last, whole) = match garbage {
            b"{\"seq\":11,\"event\":{}}\n{\"seq\":" => (11, 22), // as far as anybody can know
            _ => (10, 0),
        };
        let torn = Torn { path: path.clone(), bytes: garbage.len() as u64 - whole };
        let last = Some(Position { epoch, seq: last });
        assert_eq!(recovered, Recovered { last, torn: vec![torn] });
        let left = [&numbered_lines(1..=10), &garbage[..whole as usize]].concat();
        assert_eq!(fs::read(&path).unwrap(), left);
    }
}

#[test]
fn every_file_can_be_torn_and_one_of_which_nothing_is_left_goes() {
    let (dir, config) = (tempdir(), config().per_category(true));
    let epoch = store(dir.path(), &config, 0, 200, 200);
    let files = files(dir.path());
    let (mut torn, mut last) = (Vec::new(), 0);
    for (at, path) in files.iter().enumerate() {
        let content = fs::read(path).unwrap();
        let lines: Vec<_> = content.split_inclusive(|byte| *byte == b'\n').collect();
        // Within the last line; but of the second file, within the first one.
        let cut = if at == 1 { 20 } else { content.len() - 3 };
        fs::write(path, &content[..cut]).unwrap();
        let bytes = if at == 1 { 20 } else { lines[lines.len() - 1].len() as u64 - 3 };
        torn.push(Torn { path: path.clone(), bytes });
        if at != 1 {
            let before: Envelope<'_> = serde_json::from_slice(lines[lines.len() - 2]).unwrap();
            last = last.max(before.seq);
        }
    }
    let (_, recovered) = open(dir.path(), &config);
    assert_eq!(recovered, Recovered { last: Some(Position { epoch, seq: last }), torn });
    assert!(!files[1].exists() && files[0].exists());
}

// ---- Damage in the middle.

#[test]
fn a_line_that_is_damaged_is_told_and_nothing_else_is_lost() {
    let dir = tempdir();
    let epoch = store(dir.path(), &config().max_bytes(3000), 0, 60, 5);
    let path = files(dir.path()).remove(1);
    let first = parts(&names(dir.path())[1]).2;
    let content = fs::read(&path).unwrap();
    let damaged = first + 2;
    let at = numbered_lines(first..damaged).len();
    let end = at + numbered_line(damaged).len();
    // The beginning, the end, a line break in the middle, and an empty line.
    let mut in_two = content.clone();
    in_two[at + 40] = b'\n';
    let damages = [
        ([&content[..at], b"x", &content[at + 1..]].concat(), vec![at], true),
        ([&content[..end - 1], b"x", &content[end..]].concat(), vec![at], true),
        (in_two, vec![at, at + 41], true),
        ([&content[..at], b"\n", &content[at..]].concat(), vec![at], false),
    ];
    for (content, places, is_lost) in damages {
        fs::write(&path, content).unwrap();
        // Nothing of it changes when the directory is opened: the file's last line is whole.
        assert_eq!(
            open(dir.path(), &config()).1,
            Recovered { last: Some(Position { epoch, seq: 60 }), torn: vec![] }
        );
        let (mut seqs, mut errors) = (Vec::new(), Vec::new());
        for line in read(dir.path()) {
            match line {
                Ok(line) => {
                    assert_eq!(line.json(), numbered_line(line.seq()));
                    seqs.push(line.seq());
                }
                Err(error) => errors.push(error.to_string()),
            }
        }
        let mut expected: Vec<_> = places
            .iter()
            .map(|at| format!("{}: the line at byte {at} is no envelope", path.display()))
            .collect();
        if is_lost {
            expected.push(format!("seqs {damaged} to {damaged} of epoch {epoch:016x} are missing"));
        }
        assert_eq!(errors, expected);
        assert_eq!(seqs, (1..=60).filter(|seq| !is_lost || *seq != damaged).collect::<Vec<_>>());
    }
}

#[test]
fn a_file_that_is_missing_is_told() {
    let dir = tempdir();
    let epoch = store(dir.path(), &config().max_bytes(3000), 0, 60, 5);
    let names = names(dir.path());
    let (from, to) = (parts(&names[1]).2, parts(&names[3]).2 - 1);
    (1..3).for_each(|at| fs::remove_file(dir.path().join(&names[at])).unwrap());
    let read = read(dir.path());
    let errors: Vec<_> = read.iter().filter_map(|line| line.as_ref().err()).collect();
    assert!(
        matches!(errors[..], [ReadError::Missing { epoch: e, from: f, to: t }] if (*e, *f, *t) == (epoch, from, to)),
        "{errors:?}"
    );
    assert_eq!(read.len() as u64, 60 - (to - from + 1) + 1);
}

// ---- One process writes.

#[test]
fn a_second_writer_is_refused_and_readers_are_not() {
    let dir = tempdir();
    store(dir.path(), &config(), 0, 10, 10);
    let (storage, _) = open(dir.path(), &config());
    let error = JsonLines::open(dir.path(), config()).unwrap_err();
    assert!(matches!(&error, OpenError::Locked { dir: locked } if locked == dir.path()));
    assert_eq!(error.to_string(), format!("{} is locked: another writer has it open", dir.path().display()));
    assert_lines(dir.path(), 1..=10);
    drop(storage);
    open(dir.path(), &config());

    // In another process.
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child_that_holds_a_directory", "--exact", "--nocapture"])
        .env(CHILD, dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line.ends_with("it is open")));
    let error = JsonLines::open(dir.path(), config()).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    assert_lines(dir.path(), 1..=10);
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    open(dir.path(), &config());
}

/// Between its start and its program a process has the files of the one that starts it, locks included.
#[test]
fn processes_that_are_being_started_do_not_hold_a_directory() {
    let dir = tempdir();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                assert!(Command::new("true").status().unwrap().success());
            }
        });
        let all = (0..2000).map(|_| JsonLines::open(dir.path(), config()).map(drop));
        let refused = all.filter(Result::is_err).count();
        done.store(true, Relaxed);
        assert_eq!(refused, 0, "of 2,000");
    });
}

/// In its environment a child finds the directory that it works in.
const CHILD: &str = "LAPWING_TEST_CHILD";

/// Not a test, but the child of one.
#[test]
fn child_that_holds_a_directory() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let _storage = JsonLines::open(dir, config()).unwrap();
    println!("it is open");
    // Until the other end is closed.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
}

// ---- What the system refuses.

#[test]
fn what_is_no_directory_is_an_error_that_names_it() {
    let dir = tempdir();
    let (file, path) = (dir.path().join("file"), |path: &Path| path.display().to_string());
    fs::write(&file, "not a directory").unwrap();
    let error = JsonLines::open(&file, config()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot make {}: ", path(&file))), "{error}");
    let error = JsonLines::open(file.join("below"), config()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot make {}: ", path(&file.join("below")))), "{error}");
    let error = JsonLines::read(&file).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot list {}: ", path(&file))), "{error}");
    let error = JsonLines::read(dir.path().join("nowhere")).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot list {}: ", path(&dir.path().join("nowhere")))), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"not a directory");
    // But one that is not there yet is made.
    store(&dir.path().join("a/b/c"), &config(), 0, 3, 3);
    assert_lines(&dir.path().join("a/b/c"), 1..=3);
}

/// Where a removed file can still be written to, what is appended would be lost unseen.
#[cfg(unix)]
#[test]
fn a_directory_that_disappears_is_an_error_until_it_is_back() {
    let (parent, stream) = (tempdir(), stream(64, 0));
    let dir = parent.path().join("lines");
    for fsync in [Fsync::Never, Fsync::EveryBatch, Fsync::Every(Duration::from_secs(3600))] {
        let before = publish(&stream, 10);
        let config = JsonLinesConfig::new().fsync(fsync);
        let mut writer = StorageWriter::new(&stream, open(&dir, &config).0);
        writer.drain(in_a_minute()).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        let last = publish(&stream, 10);
        let status = writer.status();
        let error = writer.drain(Instant::now()).unwrap_err().to_string();
        assert!(error.contains("cannot append to ") && error.ends_with(": it was removed"), "{error}");
        let error = writer.drain(Instant::now()).unwrap_err().to_string();
        assert!(error.contains("cannot create ") && error.contains("No such file or directory"), "{error}");
        assert_eq!((status.get().appended, status.get().lag, status.get().errors), (before, 10, 2));
        fs::create_dir(&dir).unwrap();
        writer.drain(in_a_minute()).unwrap();
        writer.close(in_a_minute()).unwrap();
        assert_lines(&dir, before + 1..=last);
    }
}

/// File systems of their own, of a certain size. They need root.
#[cfg(target_os = "linux")]
mod mounted {
    use super::*;

    struct Tmpfs(TempDir);

    impl Tmpfs {
        fn new(size: &str) -> Self {
            let dir = tempdir();
            run("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "none"], dir.path());
            Self(dir)
        }

        fn path(&self) -> &Path {
            self.0.path()
        }
    }

    impl Drop for Tmpfs {
        fn drop(&mut self) {
            run("umount", &["-l"], self.0.path());
        }
    }

    fn run(command: &str, args: &[&str], dir: &Path) {
        let output = Command::new(command).args(args).arg(dir).output();
        let output = output.unwrap_or_else(|e| panic!("this test needs the command {command}: {e}"));
        let said = String::from_utf8_lossy(&output.stderr);
        let done = output.status.success() || thread::panicking();
        assert!(done, "this test has to mount a file system, which needs root: {said}");
    }

    #[test]
    fn a_directory_that_is_read_only_is_an_error_that_names_it() {
        let disk = Tmpfs::new("256k");
        let dir = disk.path().join("lines");
        store(&dir, &config(), 0, 10, 10);
        run("mount", &["-o", "remount,ro"], disk.path());
        let error = JsonLines::open(&dir, config()).unwrap_err().to_string();
        let expected = format!("cannot open {}: Read-only file system", dir.join("lock").display());
        assert!(error.starts_with(&expected), "{error}");
        let error = JsonLines::open(disk.path().join("new"), config()).unwrap_err().to_string();
        assert!(error.starts_with("cannot make ") && error.contains("Read-only file system"), "{error}");
        assert_lines(&dir, 1..=10);
    }

    /// Fills a disk of 256 KiB with lines, of which another file leaves 96. Publishes `more` events when it is full, then
    /// makes room, and returns what is there and the status at the end.
    fn fill_and_go_on(config: &JsonLinesConfig, events: u64, more: u64) -> (Vec<Line>, Status) {
        let disk = Tmpfs::new("256k");
        let (dir, other) = (disk.path().join("lines"), disk.path().join("other"));
        fs::write(&other, vec![0; 160 << 10]).unwrap();
        let stream = stream(events, 0);
        let mut writer = StorageWriter::new(&stream, open(&dir, config).0);
        let (status, canceller) = (writer.status(), writer.canceller());
        thread::scope(|scope| {
            let run = scope.spawn(|| writer.run());
            while status.get().errors == 0 {
                until("the writer is there", || status.get().lag < 10 || status.get().errors > 0);
                publish(&stream, 1);
            }
            publish(&stream, more);
            let errors = status.get().errors;
            until("it tries again", || status.get().errors > errors + 1);
            canceller.cancel();
            run.join().unwrap().unwrap();
        });
        let Status { appended, lag, errors, last_error, dropped, .. } = status.get();
        let error = last_error.unwrap();
        let (begin, end) =
            ("the storage failed for now: cannot append to ", "No space left on device (os error 28)");
        assert!(error.starts_with(&format!("{begin}{}", dir.display())) && error.ends_with(end), "{error}");
        assert!(lag >= more && lag <= more + 11 && errors >= 3 && dropped == 0, "{status:?}");
        // Nothing but whole lines is there, and all that counts as appended.
        assert_lines(&dir, 1..=appended);
        assert!(appended > 100, "{appended}");
        // As long as it is full, closing or draining does not help, and does no harm.
        writer.drain(Instant::now()).unwrap_err();
        assert_lines(&dir, 1..=appended);

        fs::remove_file(other).unwrap();
        let last = stream.seq();
        while status.get().appended < last {
            writer.drain(in_a_minute()).unwrap();
        }
        writer.close(in_a_minute()).unwrap();
        (read(&dir).into_iter().map(|line| line.unwrap_or_else(|e| panic!("{e}"))).collect(), status.get())
    }

    fn configs() -> Vec<JsonLinesConfig> {
        vec![
            config(),
            config().per_category(true),
            config().max_bytes(10_000),
            JsonLinesConfig::new().fsync(Fsync::EveryBatch),
            JsonLinesConfig::new()
                .fsync(Fsync::Every(Duration::from_millis(1)))
                .max_bytes(10_000)
                .per_category(true),
        ]
    }

    #[test]
    fn a_full_disk_loses_nothing_that_the_ring_holds() {
        for config in configs() {
            let (lines, status) = fill_and_go_on(&config, 128, 100);
            assert_eq!((status.dropped, status.lag), (0, 0));
            assert_eq!(lines.len() as u64, status.appended);
            for (line, seq) in lines.iter().zip(1..) {
                assert_eq!((line.seq(), line.json()), (seq, &*numbered_line(seq)));
            }
        }
    }

    #[test]
    fn what_the_ring_loses_while_the_disk_is_full_is_told_in_its_place() {
        for config in configs() {
            let (lines, status) = fill_and_go_on(&config, 64, 300);
            let gap = lines.iter().position(|line| line.json() != numbered_line(line.seq())).unwrap();
            // What it had in its hand comes before the gap, what the ring held after it.
            let (from, to) = (lines[gap - 1].seq() + 1, status.appended - 64);
            assert_gap(&lines[gap], from, to);
            assert_eq!((status.dropped, status.lag), (to - from + 1, 0));
            let seqs: Vec<_> = lines.iter().map(Line::seq).collect();
            assert_eq!(seqs, (1..from).chain(to..=status.appended).collect::<Vec<_>>());
            let events = lines.iter().enumerate().filter(|(at, _)| *at != gap);
            events.for_each(|(_, line)| assert_eq!(line.json(), numbered_line(line.seq())));
        }
    }
}
