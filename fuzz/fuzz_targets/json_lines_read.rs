//! Directories of JSON Lines as an earlier writer, a crash, a failing disk or a hostile hand may have left them: what is
//! whole is read once and in its order, and kept by who writes there next; all else is told.
#![no_main]

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use arbitrary::{Result, Unstructured};
use lapwing::event::{Category, Event, RawValue, Source, SourceKind};
use lapwing::ring::MAX_SEQ;
use lapwing::storage::{
    Fsync, JsonLines, JsonLinesConfig, OpenError, Position, ReadError, Storage, StorageWriter, Torn,
};
use lapwing::stream::Config;
use libfuzzer_sys::fuzz_target;

const EPOCHS: [u64; 3] = [0, 0x9f86_d081_884c_7d65, u64::MAX];
/// The last number that a file may have.
const MAX_NUMBER: u64 = 9_999_999_999;
const CATEGORIES: [&str; 3] = ["network", "system", "other"];

/// A file whose name is one of a directory of JSON Lines.
struct File {
    path: PathBuf,
    epoch: u64,
    category: Option<&'static str>,
    compressed: bool,
    /// As they are told apart, without compression.
    content: Vec<u8>,
    /// Whether its compressed form was spoilt.
    broken: bool,
}

/// A directory that exists for as long as this does.
struct Dir {
    dir: tempfile::TempDir,
    /// In the order in which they are read.
    files: Vec<File>,
    /// Others, which are nobody's.
    foreign: Vec<(PathBuf, Vec<u8>)>,
}

// ---- What is in a directory.

/// Lines, most of them whole, most of them in their order.
fn content(u: &mut Unstructured<'_>, seq: &mut u64, id: &mut u32) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for _ in 0..u.int_in_range(0..=6)? {
        let kind = u.int_in_range(0..=15u8)?;
        *seq = match kind {
            0 => [0, 1, MAX_SEQ, MAX_SEQ + 1, u64::MAX][u.choose_index(5)?],
            1 => u.int_in_range(0..=12)?,
            2 => seq.saturating_add(u.int_in_range(2..=5)?),
            _ => seq.saturating_add(1),
        };
        *id += 1;
        let start = out.len();
        let event = match kind {
            3 => format!(
                r#"{{"ts":{id},"type":"events_dropped","category":"system","source":{{"kind":"local_process"}},"data":{{"from":{},"to":{seq}}}}}"#,
                seq.saturating_sub(u.int_in_range(0..=4)?)
            ),
            _ => format!(r#"{{"ts":{id},"type":"t","category":"network","source":{{"kind":"cdp"}}}}"#),
        };
        out.extend_from_slice(format!(r#"{{"seq":{seq},"event":{event}}}"#).as_bytes());
        match kind {
            // As disks fail: one byte is another one, or some are missing, or are no line at all.
            4 | 5 => {
                let at = start + u.choose_index(out.len() - start)?;
                out[at] = u.arbitrary()?;
            }
            6 => {
                let from = start + u.choose_index(out.len() - start)?;
                let to = from + u.choose_index(out.len() - from)?;
                out.drain(from..to);
            }
            7 => {
                let len = u.int_in_range(0..=40)?;
                out.truncate(start);
                out.extend_from_slice(u.bytes(len.min(u.len()))?);
            }
            8 => drop(out.splice(start + 7..start + 7, *b"00")),
            _ => {}
        }
        out.push(b'\n');
    }
    if u.ratio(1, 4)? {
        let cut = u.int_in_range(0..=out.len())?;
        out.truncate(cut);
    }
    Ok(out)
}

fn dir(u: &mut Unstructured<'_>) -> Result<Dir> {
    let shm = Path::new("/dev/shm");
    let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
    let dir = dir.expect("a directory");
    let (mut files, mut foreign) = (BTreeMap::<_, File>::new(), Vec::new());
    let (mut number, mut seq, mut id, mut epoch) = (1u64, 0, 0, EPOCHS[1]);
    for _ in 0..u.int_in_range(1..=6)? {
        let category = if u.ratio(1, 3)? { Some(CATEGORIES[u.choose_index(3)?]) } else { None };
        if u.ratio(1, 4)? {
            (epoch, seq) = (EPOCHS[u.choose_index(3)?], 0);
        }
        number = match u.int_in_range(0..=11)? {
            0 => [0, MAX_NUMBER, MAX_NUMBER + 1, u64::MAX][u.choose_index(4)?],
            1 => number, // of another one, too, as a rule
            _ => number.saturating_add(1),
        };
        let first = if u.ratio(1, 8)? { u.arbitrary()? } else { seq + 1 };
        let mut name = format!("{number:010}-{epoch:016x}-{first:020}");
        name.extend(category.map(|category| format!(".{category}")));
        name.push_str(".ndjson");
        let content = content(u, &mut seq, &mut id)?;
        seq = seq.min(MAX_SEQ);
        let mut add = |name: &str, compressed: bool, content: Vec<u8>, spoil: Option<(usize, u8)>| {
            let path = dir.path().join(name);
            let plain = name.strip_suffix(".zst").unwrap_or(name).to_owned();
            // The two forms of a file have the same lines.
            let other = files.get(&(number, plain.clone(), !compressed));
            if other.is_some_and(|other| other.content != content) {
                return;
            }
            let mut bytes = content.clone();
            if compressed {
                let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
                encoder.include_checksum(true).unwrap();
                std::io::Write::write_all(&mut encoder, &content).unwrap();
                bytes = encoder.finish().unwrap();
            }
            match spoil {
                Some((at, 0)) => bytes.truncate(at % bytes.len()),
                Some((at, flip)) => {
                    let at = at % bytes.len();
                    bytes[at] ^= flip;
                }
                None => {}
            }
            std::fs::write(&path, &bytes).unwrap();
            let broken = spoil.is_some();
            files.insert(
                (number, plain, compressed),
                File { path, epoch, category, compressed, content, broken },
            );
        };
        let kind = u.int_in_range(0..=11)?;
        match kind {
            _ if kind == 11 || number > MAX_NUMBER => {
                // One character less is another name, but for a number that is one still.
                let at = if number > MAX_NUMBER { name.len() - 1 } else { u.choose_index(name.len())? };
                name.remove(at);
                let path = dir.path().join(name);
                std::fs::write(&path, &content).unwrap();
                foreign.retain(|(other, _)| *other != path);
                foreign.push((path, content));
            }
            0..=5 => add(&name, false, content, None),
            6 | 7 => add(&format!("{name}.zst"), true, content, None),
            8 => add(&format!("{name}.zst"), true, content, Some((u.arbitrary()?, u.arbitrary()?))),
            // Compressed, and there as it was, too.
            9 => {
                let spoil = if u.arbitrary()? { Some((u.arbitrary()?, u.arbitrary()?)) } else { None };
                add(&format!("{name}.zst"), true, content.clone(), spoil);
                add(&name, false, content, None);
            }
            // Compression was not finished.
            _ => {
                std::fs::write(dir.path().join(format!("{name}.zst.tmp")), &content[..content.len() / 2])
                    .unwrap();
                add(&name, false, content, None);
            }
        }
    }
    Ok(Dir { dir, files: files.into_values().collect(), foreign })
}

// ---- What it should be read as.

/// The seq of what is an envelope to who reads, by what is around it.
fn seq_of(line: &[u8]) -> Option<u64> {
    let rest = line.strip_prefix(b"{\"seq\":")?;
    let (digits, event) = rest.split_at(rest.iter().position(|byte| !byte.is_ascii_digit())?);
    let event = event.strip_prefix(b",\"event\":")?;
    let seq: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let is_plain = seq.to_string().as_bytes() == digits && (1..=MAX_SEQ).contains(&seq);
    (is_plain && event.starts_with(b"{") && event.ends_with(b"}}")).then_some(seq)
}

/// The seq of what is an envelope to the last byte.
fn intact(line: &[u8]) -> Option<u64> {
    let value: BTreeMap<&str, &RawValue> = serde_json::from_slice(line).ok()?;
    let is_whole = value.len() == 2 && value.get("event").is_some_and(|event| event.get().starts_with('{'));
    seq_of(line).filter(|_| is_whole)
}

fn lines(content: &[u8]) -> impl DoubleEndedIterator<Item = (usize, &[u8])> {
    let mut at = 0;
    let lines = content.split_inclusive(|byte| *byte == b'\n').map(move |line| {
        at += line.len();
        (at - line.len(), line)
    });
    lines.collect::<Vec<_>>().into_iter()
}

impl Dir {
    /// The files that are read: of two forms of one file the one that is not compressed.
    fn read_files(&self) -> impl Iterator<Item = &File> {
        let plain: HashSet<_> =
            self.files.iter().filter(|file| !file.compressed).map(|file| &file.path).collect();
        self.files
            .iter()
            .filter(move |file| !file.compressed || !plain.contains(&file.path.with_extension("")))
    }

    /// Every line that is whole, by its chain: those of one chain are read in their order.
    fn chains(&self) -> Vec<Vec<(u64, &[u8])>> {
        let mut chains: Vec<((usize, Option<&str>), Vec<_>)> = Vec::new();
        let (mut run, mut epoch) = (0, None);
        for file in self.read_files() {
            run += usize::from(epoch.replace(file.epoch).is_some_and(|epoch| epoch != file.epoch));
            let key = (run, file.category);
            let at = chains.iter().position(|(other, _)| *other == key).unwrap_or(chains.len());
            if at == chains.len() {
                chains.push((key, Vec::new()));
            }
            let whole = lines(&file.content).filter_map(|(_, line)| {
                let line = line.strip_suffix(b"\n")?;
                seq_of(line).map(|_| (file.epoch, line))
            });
            chains[at].1.extend(whole.filter(|_| !file.broken));
        }
        chains.into_iter().map(|(_, lines)| lines).collect()
    }

    /// Reads it, and checks all that can be said of what is read.
    fn check_read(&self) {
        let mut chains = self.chains();
        let broken: Vec<_> = self.read_files().filter(|file| file.broken).collect();
        let (mut told, mut expected) = (Vec::new(), Vec::new());
        for file in self.read_files().filter(|file| !file.broken) {
            for (at, line) in lines(&file.content) {
                match line.strip_suffix(b"\n") {
                    Some(line) if seq_of(line).is_some() => {}
                    Some(_) => expected.push((file.path.clone(), Some(at as u64), 0)),
                    None => expected.push((file.path.clone(), None, line.len() as u64)),
                }
            }
        }
        let mut seqs = HashSet::new();
        let epochs: Vec<_> = self.read_files().map(|file| file.epoch).collect();
        let has_one_run =
            epochs.chunk_by(|a, b| a == b).count() == epochs.iter().collect::<HashSet<_>>().len();
        let mut failed = Vec::new();
        for read in JsonLines::read(self.dir.path()).expect("it can be listed") {
            match read {
                Ok(line) => {
                    let json = line.json();
                    assert_eq!(Some(line.seq()), seq_of(json));
                    let event = &json[json.len() - 1 - line.event_json().len()..json.len() - 1];
                    assert!(event == line.event_json() && event.starts_with(b"{"));
                    seqs.insert((line.epoch(), line.seq()));
                    let key = (line.epoch(), json);
                    match chains.iter_mut().find(|chain| chain.first() == Some(&key)) {
                        Some(chain) => drop(chain.remove(0)),
                        // As far as a broken file can be read, it is.
                        None => assert!(
                            broken.iter().any(|file| lines(&file.content)
                                .any(|(_, of)| of.strip_suffix(b"\n") == Some(json))),
                            "more than once, out of order or made up: {line:?}"
                        ),
                    }
                }
                Err(ReadError::Invalid { path, at }) => told.push((path, Some(at), 0)),
                Err(ReadError::Torn { path, bytes }) => told.push((path, None, bytes)),
                Err(ReadError::Missing { epoch, from, to }) => {
                    // It may be in an earlier run of the epoch, or come too late.
                    let is_there = (from..=to).take(100).any(|seq| seqs.contains(&(epoch, seq)));
                    assert!(from <= to && !(is_there && has_one_run), "{from}..={to} is there");
                }
                Err(ReadError::File(error)) => failed.push(error.path),
                Err(error) => panic!("{error}"),
            }
        }
        assert!(chains.iter().all(Vec::is_empty), "not read: {chains:?}");
        told.retain(|(path, ..)| !broken.iter().any(|file| file.path == *path));
        told.sort();
        expected.sort();
        assert_eq!(told, expected);
        let mut broken: Vec<_> = broken.iter().map(|file| file.path.clone()).collect();
        broken.sort();
        failed.sort();
        assert_eq!(failed, broken);
    }

    /// Opens it as the next writer does, and takes over what is changed. Nothing if it is refused.
    fn check_open(&mut self, config: JsonLinesConfig) -> Option<Option<Position>> {
        let recovered = match JsonLines::open(self.dir.path(), config) {
            Ok((mut storage, recovered)) => {
                storage.close(Instant::now() + Duration::from_secs(60)).unwrap();
                Some(recovered)
            }
            Err(OpenError::File(error)) => {
                assert!(self.files.iter().any(|file| file.broken), "{error}");
                None
            }
            Err(error) => panic!("{error}"),
        };
        // Whoever is refused is told of nothing, so nothing is cut off.
        let mut torn = recovered.as_ref().map_or(Vec::new(), |recovered| recovered.torn.clone());
        let whole = self.files.iter().filter(|file| file.compressed && !file.broken);
        let whole: Vec<_> = whole.map(|file| (file.path.with_extension(""), file.content.clone())).collect();
        self.files.retain_mut(|file| {
            if file.compressed {
                assert!(file.path.exists());
                return true;
            }
            let kept = std::fs::read(&file.path).unwrap_or_default();
            let has_all =
                |(path, content): &(PathBuf, Vec<u8>)| *path == file.path && *content == file.content;
            if !file.path.exists() && whole.iter().any(has_all) {
                return false;
            }
            let cut = file.content.strip_prefix(&kept[..]).expect("only ends are cut off");
            for (_, line) in lines(cut) {
                assert!(line.strip_suffix(b"\n").and_then(intact).is_none(), "an intact line was cut off");
            }
            if !cut.is_empty() {
                let told = Torn { path: file.path.clone(), bytes: cut.len() as u64 };
                let at = torn.iter().position(|torn| *torn == told).expect("what is cut off is told");
                torn.remove(at);
            }
            file.content = kept;
            file.path.exists()
        });
        assert_eq!(torn, [], "nothing was cut off there");
        for (path, content) in &self.foreign {
            assert_eq!(&std::fs::read(path).unwrap(), content, "a file of others was touched");
        }
        let last = recovered?.last;
        if let Some(Position { epoch, seq }) = last {
            let of_epoch = |file: &&File| file.epoch == epoch;
            let has = |line: &[u8]| line.strip_suffix(b"\n").and_then(seq_of) == Some(seq);
            assert!(
                self.files
                    .iter()
                    .filter(of_epoch)
                    .any(|file| lines(&file.content).any(|(_, line)| has(line)))
            );
        }
        Some(last)
    }
}

fuzz_target!(|data: &[u8]| {
    let mut u = Unstructured::new(data);
    let Ok(mut dir) = dir(&mut u) else { return };
    // A spoilt byte may be one that does not matter.
    for file in &mut dir.files {
        if file.compressed {
            let bytes = std::fs::read(&file.path).unwrap();
            let content = zstd::decode_all(&bytes[..]).ok().filter(|_| !bytes.is_empty());
            file.broken = content.is_none();
            file.content = content.unwrap_or_else(|| std::mem::take(&mut file.content));
        }
    }
    dir.check_read();
    let config = JsonLinesConfig::new().fsync(Fsync::Never);
    let Some(last) = dir.check_open(config.clone()) else {
        return dir.check_read();
    };
    dir.check_read();
    let before: Vec<_> = dir.files.iter().map(|file| (file.path.clone(), file.content.clone())).collect();
    match dir.check_open(config.clone()) {
        Some(again) => assert_eq!(again, last, "the second time"),
        // Of what is there in two forms, one had nothing and the other one is spoilt.
        None => return dir.check_read(),
    }
    let after: Vec<_> = dir.files.iter().map(|file| (file.path.clone(), file.content.clone())).collect();
    assert_eq!(before, after, "the second time");

    // One more event, and the rest is there as before.
    let first_seq = last.map_or(1, |last| last.seq + 1);
    let is_full = dir.files.iter().any(|file| file.path.to_string_lossy().contains(&MAX_NUMBER.to_string()));
    if first_seq > MAX_SEQ || is_full {
        return;
    }
    let count = |dir: &Dir| JsonLines::read(dir.dir.path()).unwrap().filter(|line| line.is_ok()).count();
    let held = count(&dir);
    let stream = Config::new().events(4).large_bytes(0).first_seq(first_seq).build().unwrap();
    let config = if data.len().is_multiple_of(2) { config.compression(1) } else { config };
    let (storage, _) = JsonLines::open(dir.dir.path(), config).expect("the third time");
    let mut writer = StorageWriter::new(&stream, storage);
    stream.publish(&Event::new("last", Category::System, Source::new(SourceKind::Cdp)).ts(1)).unwrap();
    stream.close();
    writer.run().unwrap();
    writer.close(Instant::now() + Duration::from_secs(60)).unwrap();
    assert_eq!(count(&dir), held + 1);
});
