use super::scan::{BLOCK, Carry, Lanes, Scanner, block_at, instantiate, skip_string};
use super::tail::{self, is_delimiter, is_space, string_boundary};
use super::utf8::utf8;
use super::{Error, Stage, Truncation, check};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;

/// The scan for long strings finds every value of more bytes than this. It is also what is left of a string
/// before arrays are touched.
const LONG: usize = BLOCK;

/// Truncation that keeps every key and the structure for as long as it can. [`shape`] is this with nothing
/// set.
///
/// ```
/// use lapwing::truncate::Shape;
///
/// let json = br#"{"url":"/a","body":"0123456789012345678901234567890123456789","ok":true}"#;
/// let mut out = Vec::new();
/// let shape = Shape::new().marker("…{} bytes")?;
/// let report = shape.truncate(json, 54, &mut out)?.expect("it has more than 54 bytes");
/// assert_eq!(str::from_utf8(&out).unwrap(), r#"{"url":"/a","body":"01234567890…29 bytes","ok":true}"#);
/// assert_eq!(report.string_limit, Some(22));
/// # Ok::<(), lapwing::truncate::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape<'a> {
    marker: &'a str,
    protected: &'a [&'a str],
}

impl<'a> Shape<'a> {
    /// No marker, nothing protected.
    pub const fn new() -> Self {
        Self { marker: "", protected: &[] }
    }

    /// What ends a string that was shortened. `{}` in it stands for the number of bytes that were removed.
    ///
    /// The marker counts: a string and its marker together keep to the limit. A limit smaller than the marker
    /// gives the longest prefix of the marker that fits.
    ///
    /// # Errors
    ///
    /// [`Error::Marker`] if it could not stand in a JSON string as it is: quotes, backslashes, control
    /// characters.
    pub fn marker(self, marker: &'a str) -> Result<Self, Error> {
        match marker.bytes().position(|b| b < b' ' || b == b'"' || b == b'\\') {
            Some(at) => Err(Error::Marker { at }),
            None => Ok(Self { marker, ..self }),
        }
    }

    /// What is shortened last: every value under a key of that name (`"message"`), or, with a slash in front,
    /// the one at that JSON pointer (`"/data/body"`, RFC 6901). With all that is inside of it.
    ///
    /// Names are compared as they are spelled in the document. If protected values have to be shortened, the
    /// limits that are reported are theirs: all other strings and arrays are empty then. Cost: another pass,
    /// byte by byte.
    pub fn protect(self, protected: &'a [&'a str]) -> Self {
        Self { protected, ..self }
    }

    /// Appends to `out` what is left of `json` in `max` bytes, or returns `None` if it fits: then nothing was
    /// appended, and `json` can be used as it is.
    ///
    /// As [`shape`], which says how.
    ///
    /// # Errors
    ///
    /// [`Error::InputTooLarge`] for inputs of 4 GiB and more, [`Error::BudgetTooSmall`] if the input does not
    /// fit and `max` cannot hold `null` either. `out` is as it was.
    pub fn truncate(&self, json: &[u8], max: usize, out: &mut Vec<u8>) -> Result<Option<Truncation>, Error> {
        self.truncate_reusing(&mut Scratch::new(), json, max, out)
    }

    /// [`Shape::truncate`] in memory that is reused: no allocation, once `scratch` and `out` have grown to
    /// what such documents need.
    ///
    /// That holds with no marker and nothing protected. A marker takes memory for each string that is
    /// shortened, and protected values for each call: where they are, and a copy of the document if they have
    /// to be shortened themselves.
    ///
    /// ```
    /// use lapwing::truncate::{Scratch, Shape};
    ///
    /// let (mut scratch, mut out) = (Scratch::new(), Vec::new());
    /// for event in [r#"{"id":1,"text":"a long story"}"#, r#"{"id":2,"text":"another long one"}"#] {
    ///     out.clear();
    ///     let report = Shape::new().truncate_reusing(&mut scratch, event.as_bytes(), 24, &mut out)?;
    ///     assert_eq!(report.expect("it has more than 24 bytes").string_limit, Some(6));
    /// }
    /// assert_eq!(out, br#"{"id":2,"text":"anothe"}"#);
    /// # Ok::<(), lapwing::truncate::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Shape::truncate`].
    pub fn truncate_reusing(
        &self,
        scratch: &mut Scratch,
        json: &[u8],
        max: usize,
        out: &mut Vec<u8>,
    ) -> Result<Option<Truncation>, Error> {
        self.truncate_with(Scanner::best(), scratch, json, max, out)
    }

    /// [`Shape::truncate_reusing`] with a scanner of choice. Not part of the stable interface.
    #[doc(hidden)]
    pub fn truncate_with(
        &self,
        scanner: Scanner,
        scratch: &mut Scratch,
        json: &[u8],
        max: usize,
        out: &mut Vec<u8>,
    ) -> Result<Option<Truncation>, Error> {
        if check(json, max)? {
            return Ok(None);
        }
        out.reserve(max);
        let protected =
            if self.protected.is_empty() { Vec::new() } else { protected_ranges(json, self.protected) };
        Ok(Some(match self.cut(scanner, scratch, json, &protected, max, out) {
            Ok(report) => report,
            Err(_) if protected.is_empty() => tail::write(json, &tail::cut(scanner, json, max), out),
            Err(least) => {
                // All else is as small as it gets. Now what was protected is treated like the rest.
                let mut smallest = Vec::new();
                self.write(json, least.strings, 0, least.arrays, &mut smallest);
                let report = self
                    .cut(scanner, scratch, &smallest, &[], max, out)
                    .unwrap_or_else(|_| tail::write(&smallest, &tail::cut(scanner, &smallest, max), out));
                Truncation {
                    original_len: json.len(),
                    stage: report.stage.max(Stage::Arrays),
                    string_limit: report.string_limit.or(Some(0)),
                    array_limit: report.array_limit.or(Some(0)),
                }
            }
        }))
    }

    /// Strings, then arrays. Nothing is written if that is not enough.
    fn cut<'s>(
        &self,
        scanner: Scanner,
        scratch: &'s mut Scratch,
        json: &[u8],
        protected: &[Range<usize>],
        max: usize,
        out: &mut Vec<u8>,
    ) -> Result<Truncation, Least<'s>> {
        let report = |stage, string_limit, array_limit| Truncation {
            original_len: json.len(),
            stage,
            string_limit,
            array_limit,
        };
        let Scratch { long, all, buffers, arrays } = scratch;
        let in_strings = long_strings(scanner, json, long);
        remove_within(long, protected);
        if let Some(limit) = level(long, LONG, json.len(), max) {
            self.write(json, long, limit, &[], out);
            return Ok(report(Stage::Strings, Some(limit), None));
        }
        let find_all = |all: &mut _| {
            all_strings(scanner, json, all);
            remove_within(all, protected);
        };
        // Keys alone may show that there is too little in strings to look at each.
        // (Of a string that is not closed, which only invalid input has, more is counted than there is.)
        let may_fit = json.len().saturating_sub(in_strings) <= max;
        if may_fit {
            find_all(all);
            if let Some(limit) = level(all, 0, json.len(), max) {
                self.write(json, all, limit, &[], out);
                return Ok(report(Stage::Strings, Some(limit), None));
            }
        }
        let mut ranks = Ranks::new(max, long, protected, core::mem::take(buffers));
        walk(scanner, json, &mut ranks);
        let cap = ranks.fitting();
        ranks.cuts(cap.unwrap_or(0), arrays);
        *buffers = ranks.buffers;
        let removed: usize = arrays.iter().map(|cut| cut.len()).sum();
        if cap.is_none() && !may_fit {
            find_all(all);
        }
        let (strings, least) = if cap.is_some() { (long, LONG) } else { (all, 0) };
        remove_within(strings, arrays);
        match level(strings, least, json.len() - removed, max) {
            Some(limit) => {
                self.write(json, strings, limit, arrays, out);
                let shortened = strings.iter().any(|s| s.len() > limit);
                Ok(report(Stage::Arrays, shortened.then_some(limit), cap.or(Some(0))))
            }
            None => Err(Least { strings, arrays }),
        }
    }

    /// Appends `json` with `strings` cut to `limit`, without `arrays`.
    fn write(&self, json: &[u8], strings: &[Text], limit: usize, arrays: &[Range<usize>], out: &mut Vec<u8>) {
        let mut from = 0;
        let mut arrays = arrays.iter().peekable();
        for string in strings.iter().filter(|s| s.len() > limit) {
            while let Some(cut) = arrays.next_if(|cut| cut.start < string.first()) {
                out.extend_from_slice(&json[from..cut.start]);
                from = cut.end;
            }
            self.write_string(json, string, limit, from, out);
            from = string.first() + string.len();
        }
        for cut in arrays {
            out.extend_from_slice(&json[from..cut.start]);
            from = cut.end;
        }
        out.extend_from_slice(&json[from..]);
    }

    /// Appends `json` from `from` to the end of `string`'s content, which is longer than `limit`.
    fn write_string(&self, json: &[u8], string: &Text, limit: usize, from: usize, out: &mut Vec<u8>) {
        let first = string.first();
        let end = |room: usize| string_boundary(json, first, first + room);
        if self.marker.is_empty() {
            return out.extend_from_slice(&json[from..end(limit)]);
        }
        let marker = |removed: usize| self.marker.replacen("{}", &removed.to_string(), 1);
        // No more bytes can be removed than there are, so this is the most room that the marker can take.
        let end = end(limit.saturating_sub(marker(string.len()).len()));
        let kept = end - first;
        out.extend_from_slice(&json[from..end]);
        out.extend_from_slice(utf8(&marker(string.len() - kept), limit - kept).as_bytes());
    }
}

/// Truncates a JSON document to `max` bytes, appended to `out`, keeping every key and the structure for as
/// long as it can. `None` if it fits: then nothing was appended, and `json` can be used as it is.
///
/// 1. The longest string values are shortened, to one common limit: the largest with which the whole fits.
/// 2. If no limit is small enough, strings are cut to 64 bytes and arrays to one common number of elements:
///    the largest that fits. The strings then take what room is left. If even empty arrays are too much, so
///    are longer strings.
/// 3. If that is not enough either, the end is cut off, as by [`tail`](super::tail()).
///
/// Keys, numbers and literals are never shortened. The first two stages keep what they keep at any depth.
///
/// Cost: one scan for strings of more than 64 bytes and one copy, in most cases; otherwise a pass over all
/// strings, and one over the brackets. It allocates 8 bytes for each string value that it looks at, and up to
/// about 16 for each array element that fits and 28 for each array. [`Shape::truncate_reusing`] keeps that
/// memory for the next document.
///
/// ```
/// let json = br#"{"short":"abc","long":"0123456789","longer":"0123456789abcdef"}"#;
/// let mut out = Vec::new();
/// lapwing::truncate::shape(json, 57, &mut out)?.expect("it has more than 57 bytes");
/// assert_eq!(out, br#"{"short":"abc","long":"0123456789","longer":"0123456789"}"#);
/// out.clear();
/// lapwing::truncate::shape(json, 46, &mut out)?.expect("it has more than 46 bytes");
/// assert_eq!(out, br#"{"short":"abc","long":"0123","longer":"0123"}"#);
/// # Ok::<(), lapwing::truncate::Error>(())
/// ```
///
/// # Errors
///
/// As [`Shape::truncate`].
pub fn shape(json: &[u8], max: usize, out: &mut Vec<u8>) -> Result<Option<Truncation>, Error> {
    Shape::new().truncate(json, max, out)
}

/// The memory that [`Shape::truncate_reusing`] works in.
///
/// It grows to the most that a document needed, which [`shape`] states, and is given back when this is
/// dropped. Nothing that a document leaves in it matters to the next.
#[derive(Default)]
pub struct Scratch {
    /// The string values of more than [`LONG`] bytes.
    long: Vec<Text>,
    /// All string values.
    all: Vec<Text>,
    buffers: Buffers,
    /// What is too much of arrays.
    arrays: Vec<Range<usize>>,
}

impl Scratch {
    /// Without any memory yet.
    pub const fn new() -> Self {
        Self {
            long: Vec::new(),
            all: Vec::new(),
            buffers: Buffers { bytes: Vec::new(), open: Vec::new(), steps: Vec::new() },
            arrays: Vec::new(),
        }
    }
}

impl core::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Scratch").finish_non_exhaustive()
    }
}

/// What shortening strings and arrays comes down to, where that is still too much.
struct Least<'s> {
    strings: &'s [Text],
    arrays: &'s [Range<usize>],
}

/// A string value's content: what is between its quotes.
#[derive(Clone, Copy)]
struct Text {
    first: u32,
    len: u32,
}

impl Text {
    /// `open` and `close` are the positions of the quotes.
    fn between(open: usize, close: usize) -> Self {
        // Inputs of 4 GiB and more were refused.
        Self { first: open as u32 + 1, len: (close - open - 1) as u32 }
    }
    fn first(&self) -> usize {
        self.first as usize
    }
    fn len(&self) -> usize {
        self.len as usize
    }
}

/// The largest limit, `least` or more, so that a document of `total` bytes with `strings` in it has at most
/// `max` bytes when no string is longer; `None` if `least` is already too much.
///
/// Halving an interval: each step is one sum over an array of lengths, which the compiler turns into vector
/// code. For a handful of strings that is faster than filling a histogram, and for thousands as fast, and it
/// is exact.
fn level(strings: &[Text], least: usize, total: usize, max: usize) -> Option<usize> {
    let sum_at = |limit: u32| strings.iter().map(|s| u64::from(s.len.min(limit))).sum::<u64>();
    let whole = sum_at(u32::MAX);
    // What the strings may have.
    let room = (max as u64).checked_sub(total as u64 - whole)?;
    if sum_at(least as u32) > room {
        return None;
    }
    // Fits, and does not or does not matter: no string can have more than the room for all.
    let mut fits = (least as u64).max(room / strings.len().max(1) as u64);
    let mut too_much = room.max(fits) + 1;
    while too_much - fits > 1 {
        let limit = fits + (too_much - fits) / 2;
        if sum_at(limit as u32) <= room { fits = limit } else { too_much = limit }
    }
    Some(fits as usize)
}

/// Whether the string that ends before `end` is a key.
fn is_key(json: &[u8], end: usize) -> bool {
    json[end..].iter().find(|&&b| !is_space(b)) == Some(&b':')
}

/// Removes from `strings` those that begin within one of `ranges`. Both are in order.
fn remove_within(strings: &mut Vec<Text>, mut ranges: &[Range<usize>]) {
    strings.retain(|string| {
        while let [range, rest @ ..] = ranges
            && range.end <= string.first()
        {
            ranges = rest;
        }
        ranges.first().is_none_or(|range| string.first() < range.start)
    });
}

instantiate!(fn long_strings(json: &[u8], found: &mut Vec<Text>) -> usize = long_strings_by);

/// Finds the values of more than [`LONG`] bytes, in order, and returns how many bytes there are in all strings
/// and keys, their opening quotes included. A string that long reaches from one block into the next.
///
/// # Safety
///
/// What `L` wants of the machine.
#[inline(always)]
unsafe fn long_strings_by<L: Lanes>(json: &[u8], found: &mut Vec<Text>) -> usize {
    found.clear();
    let mut in_strings = 0;
    let mut carry = Carry::default();
    let (mut base, mut open) = (0, 0);
    let mut padded = [0; BLOCK];
    while base < json.len() {
        let began_inside = carry.in_string != 0;
        // SAFETY: by this function's contract.
        let strings = unsafe { carry.strings(L::load(block_at(json, base, &mut padded))) };
        if began_inside && strings.quotes != 0 {
            let close = base + strings.quotes.trailing_zeros() as usize;
            if close - open > LONG + 1 && !is_key(json, close + 1) {
                found.push(Text::between(open, close));
            }
        }
        let opened = strings.quotes & strings.inside;
        if opened != 0 {
            open = base + 63 - opened.leading_zeros() as usize;
        }
        in_strings += strings.inside.count_ones() as usize;
        base += BLOCK;
        if strings.inside == u64::MAX && strings.quotes == 0 && base < json.len() {
            // SAFETY: by this function's contract.
            let end = unsafe { skip_string::<L>(json, base, json.len(), carry.escaped) };
            in_strings += end - base;
            base = end;
            carry.escaped = 0;
        }
    }
    in_strings
}

instantiate!(fn all_strings(json: &[u8], found: &mut Vec<Text>) = all_strings_by);

/// Finds all string values that are not empty, in order.
///
/// # Safety
///
/// What `L` wants of the machine.
#[inline(always)]
unsafe fn all_strings_by<L: Lanes>(json: &[u8], found: &mut Vec<Text>) {
    found.clear();
    let mut carry = Carry::default();
    let (mut base, mut open) = (0, 0);
    let mut padded = [0; BLOCK];
    while base < json.len() {
        // SAFETY: by this function's contract.
        let strings = unsafe { carry.strings(L::load(block_at(json, base, &mut padded))) };
        let mut quotes = strings.quotes;
        while quotes != 0 {
            let bit = quotes.trailing_zeros();
            let at = base + bit as usize;
            if strings.inside >> bit & 1 == 1 {
                open = at;
            } else if at > open + 1 && !is_key(json, at + 1) {
                found.push(Text::between(open, at));
            }
            quotes &= quotes - 1;
        }
        base += BLOCK;
        if strings.inside == u64::MAX && strings.quotes == 0 && base < json.len() {
            // SAFETY: by this function's contract.
            base = unsafe { skip_string::<L>(json, base, json.len(), carry.escaped) };
            carry.escaped = 0;
        }
    }
}

/// The ranks in a document.
///
/// A byte's rank is the largest of the positions, counted from 1, of the elements that it is in; 0 outside of
/// all arrays. If no array may have more than n elements, the bytes of rank n and less are kept: that holds
/// for arrays in arrays too. So one walk that adds up the bytes of each rank finds the largest n.
struct Ranks<'a> {
    max: usize,
    buffers: Buffers,
    /// The sum of `buffers.bytes`. Where it exceeds `max`, the last ranks are dropped.
    total: usize,
    /// The largest rank that can still be kept.
    limit: usize,
    /// Bytes before this are counted.
    from: usize,
    /// The rank of what comes now.
    rank: usize,
    /// In what is too much of an array: how many arrays are open inside of that.
    lost: Option<usize>,
    /// Still to come: counted as if they had [`LONG`] bytes.
    long: &'a [Text],
    /// Still to come, or not over: arrays in them are not shortened.
    protected: &'a [Range<usize>],
}

/// What [`Ranks`] fills, in memory that is reused.
#[derive(Default)]
struct Buffers {
    /// How many bytes have each rank, those that can still be kept.
    bytes: Vec<u32>,
    open: Vec<Open>,
    steps: Vec<Step>,
}

/// An open bracket.
struct Open {
    /// The rank around it.
    rank: usize,
    /// The position, from 1, of the element that is being read, in an array that may be shortened; otherwise
    /// 0.
    element: usize,
    /// Whether there is a step in it.
    has_step: bool,
}

/// Where the rank rises in an array, or, as rank 0, where such an array ends.
struct Step {
    at: u32,
    rank: u32,
    depth: u32,
}

impl<'a> Ranks<'a> {
    /// Nothing that is in `buffers` is kept.
    fn new(max: usize, long: &'a [Text], protected: &'a [Range<usize>], mut buffers: Buffers) -> Self {
        buffers.bytes.clear();
        buffers.bytes.push(0);
        buffers.open.clear();
        buffers.steps.clear();
        Self { max, buffers, total: 0, limit: usize::MAX, from: 0, rank: 0, lost: None, long, protected }
    }

    /// The largest number of elements that fits; `None` if not even empty arrays do.
    fn fitting(&self) -> Option<usize> {
        (self.total <= self.max).then(|| self.buffers.bytes.len() - 1)
    }

    /// Finds what is too much if an array may have `limit` elements, in order; nothing inside of what is too
    /// much already.
    fn cuts(&self, limit: usize, found: &mut Vec<Range<usize>>) {
        found.clear();
        let mut lost: Option<&Step> = None;
        for step in &self.buffers.steps {
            match lost {
                Some(first) if step.rank == 0 && step.depth == first.depth => {
                    if first.at < step.at {
                        found.push(first.at as usize..step.at as usize);
                    }
                    lost = None;
                }
                None if step.rank as usize > limit => lost = Some(step),
                _ => {}
            }
        }
    }

    fn is_protected(&mut self, at: usize) -> bool {
        while let [first, rest @ ..] = self.protected
            && first.end <= at
        {
            self.protected = rest;
        }
        self.protected.first().is_some_and(|range| range.start <= at)
    }

    #[inline(always)]
    fn in_array(&self) -> bool {
        self.buffers.open.last().is_some_and(|open| open.element > 0)
    }

    #[inline(always)]
    fn open(&mut self, at: usize, bracket: u8) {
        let is_array = bracket == b'[' && !self.is_protected(at);
        self.buffers.open.push(Open { rank: self.rank, element: usize::from(is_array), has_step: false });
        if is_array && self.rank == 0 {
            self.rise(1, at + 1);
        }
    }

    #[inline(always)]
    fn close(&mut self, at: usize) {
        let Some(open) = self.buffers.open.pop() else { return };
        if open.has_step {
            self.count(at);
            self.rank = open.rank;
            self.buffers.steps.push(Step { at: at as u32, rank: 0, depth: self.buffers.open.len() as u32 });
        }
        self.lost = None;
    }

    /// In an array.
    #[inline(always)]
    fn comma(&mut self, at: usize) {
        if let Some(open) = self.buffers.open.last_mut() {
            open.element += 1;
            if open.element > self.rank {
                let rank = open.element;
                self.rise(rank, at);
            }
        }
    }

    #[inline(always)]
    fn rise(&mut self, rank: usize, at: usize) {
        self.count(at);
        self.rank = rank;
        let depth = self.buffers.open.len() - 1;
        self.buffers.open[depth].has_step = true;
        self.buffers.steps.push(Step { at: at as u32, rank: rank as u32, depth: depth as u32 });
        if rank > self.limit {
            self.lost = Some(0);
        }
    }

    /// Adds the bytes up to `to`, which have the current rank.
    #[inline(always)]
    fn count(&mut self, to: usize) {
        let mut bytes = to - self.from;
        let from = core::mem::replace(&mut self.from, to);
        while let [first, rest @ ..] = self.long
            && first.first() < to
        {
            if first.first() >= from {
                bytes -= first.len() - LONG;
            }
            self.long = rest;
        }
        if self.rank > self.limit {
            return;
        }
        if self.buffers.bytes.len() <= self.rank {
            self.buffers.bytes.resize(self.rank + 1, 0);
        }
        self.buffers.bytes[self.rank] += bytes as u32;
        self.total += bytes;
        while self.total > self.max && self.buffers.bytes.len() > 1 {
            self.total -= self.buffers.bytes.pop().unwrap_or(0) as usize;
            self.limit = self.buffers.bytes.len() - 1;
        }
    }
}

instantiate!(fn walk(json: &[u8], ranks: &mut Ranks<'_>) = walk_by);

/// # Safety
///
/// What `L` wants of the machine.
#[inline(always)]
unsafe fn walk_by<L: Lanes>(json: &[u8], ranks: &mut Ranks<'_>) {
    let mut carry = Carry::default();
    let mut base = 0;
    let mut padded = [0; BLOCK];
    while base < json.len() {
        let bytes = block_at(json, base, &mut padded);
        // SAFETY: by this function's contract.
        let (block, strings, opening, closing, commas) = unsafe {
            let block = L::load(bytes);
            let strings = carry.strings(block);
            let outside = !strings.inside;
            (
                block,
                strings,
                block.eq_folded(b'{') & outside,
                block.eq_folded(b'}') & outside,
                block.eq(b',') & outside,
            )
        };
        let mut left = u64::MAX;
        loop {
            if let Some(nested) = &mut ranks.lost {
                // Only the bracket that closes the array matters, and only square ones to find it.
                // SAFETY: by this function's contract.
                let (opens, closes) =
                    unsafe { (opening & block.eq(b'[') & left, closing & block.eq(b']') & left) };
                let (opened, closed) = (opens.count_ones() as usize, closes.count_ones() as usize);
                if *nested >= closed {
                    *nested = *nested + opened - closed;
                    break;
                }
                let bit = (opens | closes).trailing_zeros();
                if opens >> bit & 1 == 1 {
                    *nested += 1;
                } else if *nested > 0 {
                    *nested -= 1;
                } else {
                    ranks.close(base + bit as usize);
                }
                left = (u64::MAX << bit) << 1;
                continue;
            }
            let wanted = (opening | closing | if ranks.in_array() { commas } else { 0 }) & left;
            if wanted == 0 {
                break;
            }
            let bit = wanted.trailing_zeros();
            let at = base + bit as usize;
            if opening >> bit & 1 == 1 {
                ranks.open(at, bytes[bit as usize % BLOCK]);
            } else if closing >> bit & 1 == 1 {
                ranks.close(at);
            } else {
                ranks.comma(at);
            }
            left = (u64::MAX << bit) << 1;
        }
        base += BLOCK;
        if strings.inside == u64::MAX && strings.quotes == 0 && base < json.len() {
            // SAFETY: by this function's contract.
            base = unsafe { skip_string::<L>(json, base, json.len(), carry.escaped) };
            carry.escaped = 0;
        }
    }
    ranks.count(json.len());
}

/// The values that `names` name (see [`Shape::protect`]), in order; nothing inside of another.
fn protected_ranges(json: &[u8], names: &[&str]) -> Vec<Range<usize>> {
    /// An open bracket, and which member or element of it is being read.
    struct Frame {
        is_object: bool,
        key: Range<usize>,
        element: usize,
    }
    let pointers: Vec<Vec<String>> = names
        .iter()
        .filter_map(|name| name.strip_prefix('/'))
        .map(|pointer| pointer.split('/').map(|step| step.replace("~1", "/").replace("~0", "~")).collect())
        .collect();
    let plain = || names.iter().filter(|name| !name.starts_with('/'));
    let is_step = |frame: &Frame, step: &str| {
        if frame.is_object {
            json[frame.key.clone()] == *step.as_bytes()
        } else {
            step.parse() == Ok(frame.element)
        }
    };
    let is_named = |path: &[Frame]| {
        let member = path.last().filter(|frame| frame.is_object);
        member.is_some_and(|frame| plain().any(|name| json[frame.key.clone()] == *name.as_bytes()))
            || pointers.iter().any(|pointer| {
                pointer.len() == path.len()
                    && path.iter().zip(pointer).all(|(frame, step)| is_step(frame, step))
            })
    };
    let mut found = Vec::new();
    let mut path: Vec<Frame> = Vec::new();
    let mut named_from = None;
    let mut at = 0;
    while at < json.len() {
        let (start, byte) = (at, json[at]);
        at = token_end(json, at);
        match byte {
            b',' => {
                if let Some(frame) = path.last_mut() {
                    frame.element += 1;
                }
            }
            b'}' | b']' => {
                path.pop();
                if let Some((_, start)) = named_from.take_if(|(depth, _)| *depth == path.len()) {
                    found.push(start..at);
                }
            }
            b'"' if path.last().is_some_and(|frame| frame.is_object) && is_key(json, at) => {
                if let Some(frame) = path.last_mut() {
                    frame.key = start + 1..at - 1;
                }
            }
            b':' => {}
            _ if is_space(byte) => {}
            _ => {
                let is_named = named_from.is_none() && is_named(&path);
                if matches!(byte, b'{' | b'[') {
                    if is_named {
                        named_from = Some((path.len(), start));
                    }
                    path.push(Frame { is_object: byte == b'{', key: 0..0, element: 0 });
                } else if is_named {
                    found.push(start..at);
                }
            }
        }
    }
    found
}

/// The end of the token that starts at `at`: a string, a number, a literal, or a single byte.
fn token_end(json: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    if json[at] == b'"' {
        while let Some(step) = memchr::memchr2(b'"', b'\\', &json[end.min(json.len())..]) {
            end += step + 1;
            if json[end - 1] == b'"' {
                return end;
            }
            end += 1;
        }
        return json.len();
    }
    if !is_delimiter(json[at]) {
        end += json[end..].iter().take_while(|&&b| !is_delimiter(b)).count();
    }
    end
}
