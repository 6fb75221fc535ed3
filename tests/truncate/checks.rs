//! What truncation promises, as functions that panic when it does not hold. The tests and the fuzz targets
//! share them.
#![allow(dead_code)] // Not every user needs every one.

use lapwing::truncate::{self, Error, Scanner, Scratch, Shape, Stage, Truncation};

/// Whether raw JSON like this is accepted: what an application that validates once at its edge would ask.
pub fn accepted(json: &[u8]) -> bool {
    std::str::from_utf8(json).is_ok() && serde_json::from_slice::<&serde_json::value::RawValue>(json).is_ok()
}

/// A document as it is spelled: strings without their quotes, scalars as they stand.
#[derive(Debug, PartialEq)]
pub enum Node<'a> {
    Scalar(&'a [u8]),
    Text(&'a [u8]),
    Array(Vec<Node<'a>>),
    Object(Vec<(&'a [u8], Node<'a>)>),
}

/// The tree of valid JSON.
pub fn parse(json: &[u8]) -> Node<'_> {
    let mut at = 0;
    let node = parse_at(json, &mut at);
    skip_space(json, &mut at);
    assert_eq!(at, json.len(), "text behind the document");
    node
}

fn skip_space(json: &[u8], at: &mut usize) {
    while json.get(*at).is_some_and(|b| b" \t\r\n".contains(b)) {
        *at += 1;
    }
}

fn parse_text<'a>(json: &'a [u8], at: &mut usize) -> &'a [u8] {
    assert_eq!(json[*at], b'"');
    let first = *at + 1;
    let mut p = first;
    while json[p] != b'"' {
        p += if json[p] == b'\\' { 2 } else { 1 };
    }
    *at = p + 1;
    &json[first..p]
}

fn parse_at<'a>(json: &'a [u8], at: &mut usize) -> Node<'a> {
    skip_space(json, at);
    match json[*at] {
        b'"' => Node::Text(parse_text(json, at)),
        open @ (b'[' | b'{') => {
            *at += 1;
            let (mut elements, mut members) = (Vec::new(), Vec::new());
            loop {
                skip_space(json, at);
                match json[*at] {
                    b']' | b'}' => break,
                    b',' => *at += 1,
                    b'"' if open == b'{' => {
                        let key = parse_text(json, at);
                        skip_space(json, at);
                        assert_eq!(json[*at], b':');
                        *at += 1;
                        members.push((key, parse_at(json, at)));
                    }
                    _ => elements.push(parse_at(json, at)),
                }
            }
            *at += 1;
            if open == b'[' { Node::Array(elements) } else { Node::Object(members) }
        }
        _ => {
            let first = *at;
            while json.get(*at).is_some_and(|b| !b" \t\r\n,:[]{}\"".contains(b)) {
                *at += 1;
            }
            Node::Scalar(&json[first..*at])
        }
    }
}

/// The length of the unit at the start of a string's content that may not be split.
fn unit(text: &[u8]) -> usize {
    let surrogate = |at: usize| match text.get(at..at + 6) {
        Some([b'\\', b'u', hex @ ..]) => u32::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap(),
        _ => 0,
    };
    match text {
        [b'\\', b'u', ..]
            if (0xD800..0xDC00).contains(&surrogate(0)) && (0xDC00..0xE000).contains(&surrogate(6)) =>
        {
            12
        }
        [b'\\', b'u', ..] => 6,
        [b'\\', ..] => 2,
        [first, ..] => match first.leading_ones() {
            0 => 1,
            bytes => bytes as usize,
        },
        [] => unreachable!("the caller stops at the end"),
    }
}

/// Whether a string's content may end at `at`.
pub fn may_end(text: &[u8], at: usize) -> bool {
    let mut p = 0;
    while p < at {
        p += unit(&text[p..]);
    }
    p == at
}

/// Every position where the tail cut may cut a valid document, ascending, with what must be appended there.
/// Byte by byte from the grammar, without anything of the crate.
pub fn tail_candidates(json: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open: Vec<u8> = Vec::new();
    let mut last = b' ';
    let mut at = 0;
    let closers = |open: &[u8], quote: bool| {
        let mut closers: Vec<u8> = open.iter().rev().map(|&b| b + 2).collect();
        if quote {
            closers.insert(0, b'"');
        }
        closers
    };
    while at < json.len() {
        let byte = json[at];
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {
                at += 1;
                continue;
            }
            b',' | b':' => at += 1,
            b'{' | b'[' => {
                if open.len() == truncate::MAX_DEPTH {
                    return found;
                }
                open.push(byte);
                at += 1;
                found.push((at, closers(&open, false)));
            }
            b'}' | b']' => {
                open.pop();
                at += 1;
                found.push((at, closers(&open, false)));
            }
            b'"' => {
                let is_key = open.last() == Some(&b'{') && matches!(last, b'{' | b',');
                let first = at + 1;
                let text = parse_text(json, &mut at);
                if !is_key {
                    let mut p = 0;
                    loop {
                        found.push((first + p, closers(&open, true)));
                        if p == text.len() {
                            break;
                        }
                        p += unit(&text[p..]);
                    }
                    found.push((at, closers(&open, false)));
                }
            }
            _ => {
                parse_at(json, &mut at);
                found.push((at, closers(&open, false)));
            }
        }
        last = byte;
    }
    found
}

/// The best of `candidates` for `max`: what the tail cut must give.
pub fn best_candidate(candidates: &[(usize, Vec<u8>)], max: usize) -> (usize, &[u8]) {
    candidates
        .iter()
        .rev()
        .find(|(keep, closers)| keep + closers.len() <= max)
        .map_or((0, b"null"), |(keep, closers)| (*keep, closers))
}

/// All that holds of the tail cut for any bytes at all. Returns the result if `json` did not fit.
pub fn tail_of_anything(json: &[u8], max: usize) -> Option<Vec<u8>> {
    let results: Vec<_> = Scanner::all().map(|s| (s, truncate::tail_with(s, json, max))).collect();
    for (scanner, result) in &results {
        assert_eq!(*result, results[0].1, "{scanner:?} against {:?}, budget {max}", results[0].0);
    }
    let mut in_place = json.to_vec();
    let memory = in_place.as_ptr();
    match (results[0].1, truncate::tail_in_place(&mut in_place, max)) {
        (Err(e), Err(again)) => {
            assert_eq!(e, again);
            assert_eq!(e, Error::BudgetTooSmall { max });
            assert!(max < truncate::MIN_BUDGET && json.len() > max);
            None
        }
        (Ok(None), Ok(None)) => {
            assert!(json.len() <= max, "{} bytes do not fit into {max}", json.len());
            assert_eq!(in_place, json);
            None
        }
        (Ok(Some(cut)), Ok(Some(report))) => {
            assert!(json.len() > max, "{} bytes fit into {max}", json.len());
            let mut expected = json[..cut.keep()].to_vec();
            expected.extend(cut.closers());
            assert_eq!(in_place, expected);
            assert_eq!(in_place.as_ptr(), memory, "it allocates");
            assert!(in_place.len() <= max, "{} bytes in a budget of {max}", in_place.len());
            assert_eq!(report.original_len, json.len());
            assert_eq!(report.stage == Stage::Null, cut.keep() == 0);
            let mut again = in_place.clone();
            assert_eq!(truncate::tail_in_place(&mut again, max), Ok(None));
            Some(in_place)
        }
        (direct, in_place) => panic!("{direct:?} but in place {in_place:?}"),
    }
}

/// All that holds of the tail cut for valid documents, at each of `budgets`.
pub fn tail_of_valid(json: &[u8], budgets: impl IntoIterator<Item = usize>) {
    let candidates = tail_candidates(json);
    for max in budgets {
        if let Some(result) = tail_of_anything(json, max) {
            let (keep, closers) = best_candidate(&candidates, max);
            let expected = [&json[..keep], closers].concat();
            let show = |bytes: &[u8]| {
                String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(200)..]).into_owned()
            };
            assert!(
                result == expected,
                "budget {max}: …{}\nexpected …{}\ninput …{}",
                show(&result),
                show(&expected),
                show(&json[..json.len().min(max + 20)])
            );
            assert!(accepted(&result), "budget {max}: not valid: …{}", show(&result));
        }
    }
}

/// All that holds of the UTF-8 cuts.
pub fn utf8(text: &str, max: usize, marker: &str) {
    let plain = truncate::utf8(text, max);
    assert!(text.starts_with(plain) && plain.len() <= max);
    let next = text[plain.len()..].chars().next().map_or(0, char::len_utf8);
    assert!(plain.len() == text.len() || plain.len() + next > max, "{max}: more of {text:?} would fit");
    assert_eq!(truncate::utf8_len(text.as_bytes(), max), plain.len());

    let mut marked = String::from("before ");
    let kept = truncate::utf8_marked(text, max, marker, &mut marked);
    let marked = marked.strip_prefix("before ").expect("it appends");
    assert!(marked.len() <= max || marked == text);
    if text.len() <= max {
        assert_eq!((marked, kept), (text, text.len()));
    } else {
        assert_eq!(marked, [&text[..kept], truncate::utf8(marker, max)].concat());
        assert_eq!(kept, truncate::utf8(text, max.saturating_sub(marker.len())).len());
        let mut again = String::new();
        truncate::utf8_marked(marked, max, marker, &mut again);
        assert_eq!(again, marked, "the second time");
    }
}

/// As [`utf8`], for bytes that may not be UTF-8.
pub fn utf8_bytes(bytes: &[u8], max: usize) {
    let len = truncate::utf8_len(bytes, max);
    if bytes.len() <= max {
        assert_eq!(len, bytes.len());
    } else {
        assert!(len <= max && len + 3 >= max);
    }
}

/// A document with limits applied, straight from its grammar. The slow and obvious twin of `Shape`.
struct Shaper<'a> {
    json: &'a [u8],
    marker: &'a str,
    protected: &'a [&'a str],
    string_limit: usize,
    array_limit: usize,
    at: usize,
    out: Vec<u8>,
    /// The length of `out` if every string that was shortened used its limit up.
    bound: usize,
    shortened: bool,
    named: bool,
}

impl<'a> Shaper<'a> {
    fn run(
        json: &'a [u8],
        marker: &'a str,
        protected: &'a [&'a str],
        string_limit: usize,
        array_limit: usize,
    ) -> Self {
        let (out, bound, shortened) = (Vec::new(), 0, false);
        let mut shaper = Self {
            json,
            marker,
            protected,
            string_limit,
            array_limit,
            at: 0,
            out,
            bound,
            shortened,
            named: false,
        };
        shaper.value(true, false);
        shaper.space(true);
        shaper
    }

    fn copy(&mut self, to: usize, keep: bool) {
        if keep {
            self.out.extend_from_slice(&self.json[self.at..to]);
            self.bound += to - self.at;
        }
        self.at = to;
    }

    fn space(&mut self, keep: bool) {
        let mut to = self.at;
        skip_space(self.json, &mut to);
        self.copy(to, keep);
    }

    fn value(&mut self, keep: bool, protected: bool) {
        self.space(keep);
        match self.json[self.at] {
            b'"' => {
                let mut end = self.at;
                let text = parse_text(self.json, &mut end);
                if protected || text.len() <= self.string_limit || !keep {
                    return self.copy(end, keep);
                }
                let marker = |removed: usize| self.marker.replacen("{}", &removed.to_string(), 1);
                let room = self.string_limit.saturating_sub(marker(text.len()).len());
                let mut kept = 0;
                while kept < text.len() && kept + unit(&text[kept..]) <= room {
                    kept += unit(&text[kept..]);
                }
                let marker = marker(text.len() - kept);
                let marker = truncate::utf8(&marker, self.string_limit - kept);
                self.out.extend_from_slice(&[b"\"", &text[..kept], marker.as_bytes(), b"\""].concat());
                self.bound += self.string_limit + 2;
                self.shortened = true;
                self.at = end;
            }
            open @ (b'[' | b'{') => {
                self.copy(self.at + 1, keep);
                let limit = if open == b'[' && !protected { self.array_limit } else { usize::MAX };
                let mut element = 0;
                loop {
                    // White space in front of a comma belongs to the element before.
                    self.space(keep && element < limit);
                    match self.json[self.at] {
                        b']' | b'}' => break,
                        b',' => {
                            element += 1;
                            self.copy(self.at + 1, keep && element < limit);
                        }
                        b'"' if open == b'{' => {
                            let mut end = self.at;
                            let key = parse_text(self.json, &mut end);
                            self.copy(end, keep);
                            self.space(keep);
                            self.copy(self.at + 1, keep);
                            let named = self.protected.iter().any(|name| name.as_bytes() == key);
                            self.named |= named;
                            self.value(keep, protected || named);
                        }
                        _ => self.value(keep && element < limit, protected),
                    }
                }
                self.copy(self.at + 1, keep);
            }
            _ => {
                let mut end = self.at;
                parse_at(self.json, &mut end);
                self.copy(end, keep);
            }
        }
    }
}

/// The largest of `range` for which `fits`, which then also holds for all that are smaller.
fn largest(range: std::ops::RangeInclusive<usize>, fits: impl Fn(usize) -> bool) -> Option<usize> {
    let (mut low, mut high) = range.into_inner();
    if !fits(low) {
        return None;
    }
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    Some(low)
}

/// What `Shape` must give for valid JSON that is larger than `max`.
fn shaped(json: &[u8], max: usize, marker: &str, protected: &[&str]) -> (Vec<u8>, Truncation) {
    let run = |strings, arrays| Shaper::run(json, marker, protected, strings, arrays);
    let report = |stage, string_limit, array_limit| Truncation {
        original_len: json.len(),
        stage,
        string_limit,
        array_limit,
    };
    let len = json.len();
    if let Some(limit) = largest(0..=len, |s| run(s, len).bound <= max) {
        return (run(limit, len).out, report(Stage::Strings, Some(limit), None));
    }
    let (cap, least) = match largest(0..=len, |cap| run(64, cap).bound <= max) {
        Some(cap) => (cap, 64),
        None => (0, 0),
    };
    if let Some(limit) = largest(least..=len, |s| run(s, cap).bound <= max) {
        let result = run(limit, cap);
        return (result.out, report(Stage::Arrays, result.shortened.then_some(limit), Some(cap)));
    }
    if run(0, len).named {
        let smallest = run(0, 0).out;
        assert!(smallest.len() > max);
        let (out, report) = shaped(&smallest, max, marker, &[]);
        let limits = (report.string_limit.or(Some(0)), report.array_limit.or(Some(0)));
        let stage = if report.stage == Stage::Strings { Stage::Arrays } else { report.stage };
        return (out, Truncation { original_len: len, stage, string_limit: limits.0, array_limit: limits.1 });
    }
    let candidates = tail_candidates(json);
    let (keep, closers) = best_candidate(&candidates, max);
    let stage = if keep == 0 { Stage::Null } else { Stage::Tail };
    ([&json[..keep], closers].concat(), report(stage, None, None))
}

/// With something left in each of its buffers: strings, ranks, what is cut of an array, and an open bracket.
fn used_scratch() -> Scratch {
    let mut scratch = Scratch::new();
    let json = format!(r#"{{"long":"{}","list":[1,2,3],"open":["#, "x".repeat(100));
    let report = Shape::new().truncate_reusing(&mut scratch, json.as_bytes(), 10, &mut Vec::new());
    assert_eq!(report.expect("the budget is enough").expect("it is too long").stage, Stage::Tail);
    scratch
}

/// All that holds of `Shape` for any bytes at all. Returns the result if `json` did not fit.
pub fn shape_of_anything(json: &[u8], max: usize, shape: Shape) -> Option<(Vec<u8>, Truncation)> {
    let mut used = used_scratch();
    let results: Vec<_> = Scanner::all()
        .map(|scanner| {
            let mut out = b"before ".to_vec();
            let report = shape.truncate_with(scanner, &mut used, json, max, &mut out);
            (scanner, report, out.strip_prefix(b"before ").expect("it appends").to_vec())
        })
        .collect();
    let (first, report, out) = &results[0];
    let mut fresh = Vec::new();
    assert_eq!(shape.truncate(json, max, &mut fresh), *report, "with a fresh scratch, budget {max}");
    assert_eq!(fresh, *out, "with a fresh scratch, budget {max}");
    for (scanner, other_report, other) in &results[1..] {
        assert_eq!((report, out), (other_report, other), "{first:?} against {scanner:?}, budget {max}");
    }
    match report {
        Err(e) => {
            assert_eq!(*e, Error::BudgetTooSmall { max });
            assert!(max < truncate::MIN_BUDGET && json.len() > max && out.is_empty());
            None
        }
        Ok(None) => {
            assert!(json.len() <= max && out.is_empty());
            None
        }
        Ok(Some(report)) => {
            assert!(json.len() > max, "{} bytes fit into {max}", json.len());
            assert!(out.len() <= max, "{} bytes in a budget of {max}", out.len());
            assert_eq!(report.original_len, json.len());
            assert_eq!(shape.truncate(out, max, &mut Vec::new()), Ok(None), "the second time");
            Some((out.clone(), *report))
        }
    }
}

/// All that holds of `Shape` for valid documents, at each of `budgets`.
pub fn shape_of_valid(
    json: &[u8],
    budgets: impl IntoIterator<Item = usize>,
    marker: &str,
    protected: &[&str],
) {
    let shape = Shape::new().marker(marker).expect("the marker is plain").protect(protected);
    for max in budgets {
        let Some((out, report)) = shape_of_anything(json, max, shape) else { continue };
        let show = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(1000)]).into_owned();
        assert!(accepted(&out), "budget {max}: not valid: {}", show(&out));
        let (expected, expected_report) = shaped(json, max, marker, protected);
        assert!(
            out == expected && report == expected_report,
            "budget {max}: {report:?}\n{}\nexpected {expected_report:?}\n{}\ninput\n{}",
            show(&out),
            show(&expected),
            show(json)
        );
        if report.stage == Stage::Strings {
            same_shape(&parse(json), &parse(&out), report.string_limit.expect("it says how long"));
        }
    }
}

/// Panics unless `cut` has every key and element of `original`, and every scalar and string but those longer
/// than `limit`.
fn same_shape(original: &Node, cut: &Node, limit: usize) {
    match (original, cut) {
        (Node::Array(original), Node::Array(cut)) => {
            assert_eq!(original.len(), cut.len());
            original.iter().zip(cut).for_each(|(original, cut)| same_shape(original, cut, limit));
        }
        (Node::Object(original), Node::Object(cut)) => {
            assert_eq!(original.len(), cut.len());
            for ((key, original), (same_key, cut)) in original.iter().zip(cut) {
                assert_eq!(key, same_key);
                same_shape(original, cut, limit);
            }
        }
        (Node::Text(original), Node::Text(cut)) => {
            assert!(original == cut || original.len() > limit && cut.len() <= limit)
        }
        _ => assert_eq!(original, cut),
    }
}

/// Valid JSON that `bytes` describe, one token a byte: so that a fuzzer need not find the grammar first.
pub fn grow(bytes: &[u8]) -> String {
    const PIECES: [&str; 16] = [
        "a",
        "long text 0123456789",
        "\\\\",
        "\\\"",
        "\\n",
        "\\ud83d\\ude00",
        "\\ud83d",
        "\\ude00",
        "é",
        "語",
        "😀",
        "{",
        "]",
        ",",
        ":",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ];
    const SCALARS: [&str; 8] = ["0", "-1.5e+10", "12345678901234567890", "true", "false", "null", "{}", "[]"];
    let mut json = String::new();
    let mut open: Vec<char> = Vec::new();
    let mut bytes = bytes.iter();
    let text = |json: &mut String, bytes: &mut std::slice::Iter<u8>, mut pieces: u8| {
        json.push('"');
        while pieces > 0
            && let Some(byte) = bytes.next()
        {
            (0..1 + byte / 64).for_each(|_| json.push_str(PIECES[usize::from(byte % 16)]));
            pieces -= 1;
        }
        json.push('"');
    };
    loop {
        let byte = bytes.next();
        let ends = byte.is_none() || !open.is_empty() && byte.is_some_and(|b| b % 8 == 0);
        if ends && let Some(bracket) = open.pop() {
            json.push(if bracket == '{' { '}' } else { ']' });
            if open.is_empty() {
                return json;
            }
            continue;
        }
        let byte = byte.copied().unwrap_or(7);
        match json.bytes().next_back() {
            None | Some(b'{' | b'[') => {}
            _ => json.push_str([",", ", ", " ,\n\t"][usize::from(byte / 8 % 3)]),
        }
        if open.last() == Some(&'{') {
            text(&mut json, &mut bytes, byte / 64);
            json.push_str([":", " : "][usize::from(byte / 32 % 2)]);
        }
        match byte % 8 {
            1 | 2 => {
                let bracket = if byte % 8 == 1 { '{' } else { '[' };
                open.push(bracket);
                json.push(bracket);
                continue;
            }
            3 | 4 => text(&mut json, &mut bytes, byte / 16),
            _ => json.push_str(SCALARS[usize::from(byte / 8 % 8)]),
        }
        if open.is_empty() {
            return json;
        }
    }
}

/// The body of a fuzz target over JSON: the first two bytes give the budget, the third says whether the rest
/// is the document or describes one. `of_valid` and `of_anything` are called accordingly.
pub fn fuzz_json(data: &[u8], of_valid: impl Fn(&[u8], usize, u8), of_anything: impl Fn(&[u8], usize)) {
    let [low, high, kind, rest @ ..] = data else { return };
    let grown;
    let json = if kind % 2 == 0 {
        rest
    } else {
        grown = grow(rest);
        assert!(accepted(grown.as_bytes()), "{grown}");
        grown.as_bytes()
    };
    // Every budget from 0 to a little more than the document has.
    let max = usize::from(u16::from_le_bytes([*low, *high])) % (json.len() + 3);
    if accepted(json) { of_valid(json, max, kind / 2) } else { of_anything(json, max) }
}
