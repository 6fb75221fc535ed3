use super::scan::{BLOCK, Carry, Lanes, Scanner, Strings, block_at, instantiate, skip_string};
use super::utf8::boundary;
use super::{Error, MAX_DEPTH, Stage, Truncation, check};
use alloc::vec::Vec;

/// Where [`tail`] cuts, and what to append there.
///
/// The truncated document is `&json[..cut.keep()]` followed by `cut.closers()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailCut {
    keep: usize,
    in_string: bool,
    /// How many brackets are open, and which of them are an object's, from the outermost in the lowest bit.
    depth: u8,
    objects: u128,
}

impl TailCut {
    /// How many bytes of the input are kept.
    pub fn keep(&self) -> usize {
        self.keep
    }

    /// What is appended to them: a quote if the cut is inside a string, and then what closes the brackets
    /// that are still open. Or `null`, if nothing of the input could be kept.
    pub fn closers(&self) -> impl Iterator<Item = u8> + use<> {
        let null = if self.keep == 0 { "null" } else { "" };
        let quote = self.in_string.then_some(b'"');
        let objects = self.objects;
        let brackets = (0..self.depth).rev().map(move |depth| [b']', b'}'][(objects >> depth) as usize % 2]);
        null.bytes().chain(quote).chain(brackets)
    }

    const NULL: Self = Self { keep: 0, in_string: false, depth: 0, objects: 0 };

    fn stage(&self) -> Stage {
        if self.keep == 0 { Stage::Null } else { Stage::Tail }
    }

    fn report(&self, original_len: usize) -> Truncation {
        Truncation { original_len, stage: self.stage(), string_limit: None, array_limit: None }
    }
}

/// Where to cut `json` so that it has at most `max` bytes and is still valid: as much of its beginning as
/// fits.
///
/// `None` if it fits already. Strings may be shortened. Keys, numbers and literals may not: what does not fit
/// whole is left out, and a key goes with its value. What lies deeper than [`MAX_DEPTH`] is cut off there. A
/// larger budget never keeps less. If nothing fits, the result is `null`.
///
/// Cost: one scan of the first `max` bytes, constant stack, no allocation.
///
/// ```
/// let json = br#"{"id":7,"text":"a long story","tags":[1,2]}"#;
/// let cut = lapwing::truncate::tail(json, 24)?.expect("it is longer than 24 bytes");
/// assert_eq!(&json[..cut.keep()], br#"{"id":7,"text":"a long"#);
/// assert!(cut.closers().eq(*br#""}"#));
/// # Ok::<(), lapwing::truncate::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::InputTooLarge`] for inputs of 4 GiB and more, [`Error::BudgetTooSmall`] if the input does not fit
/// and `max` cannot hold `null` either.
#[inline]
pub fn tail(json: &[u8], max: usize) -> Result<Option<TailCut>, Error> {
    tail_with(Scanner::best(), json, max)
}

/// [`tail`] with a scanner of choice. Not part of the stable interface.
#[doc(hidden)]
#[inline]
pub fn tail_with(scanner: Scanner, json: &[u8], max: usize) -> Result<Option<TailCut>, Error> {
    Ok(if check(json, max)? { None } else { Some(cut(scanner, json, max)) })
}

/// [`tail`], applied to `json` itself. `None` if it fits and was left as it is.
///
/// Allocates nothing: the result is never longer than the input.
///
/// ```
/// let mut json = br#"[1,2,{"three":3}]"#.to_vec();
/// lapwing::truncate::tail_in_place(&mut json, 9)?.expect("it is longer than 9 bytes");
/// assert_eq!(json, b"[1,2,{}]");
/// # Ok::<(), lapwing::truncate::Error>(())
/// ```
///
/// # Errors
///
/// As [`tail`]; `json` is as it was.
pub fn tail_in_place(json: &mut Vec<u8>, max: usize) -> Result<Option<Truncation>, Error> {
    Ok(tail(json, max)?.map(|cut| {
        let report = cut.report(json.len());
        json.truncate(cut.keep);
        json.extend(cut.closers());
        report
    }))
}

/// [`tail`], appended to `out`. `None` if `json` fits: then nothing was appended, and it can be used as it
/// is.
///
/// # Errors
///
/// As [`tail`]; `out` is as it was.
pub fn tail_into(json: &[u8], max: usize, out: &mut Vec<u8>) -> Result<Option<Truncation>, Error> {
    Ok(tail(json, max)?.map(|cut| write(json, &cut, out)))
}

/// Appends what `cut` leaves of `json`.
pub(super) fn write(json: &[u8], cut: &TailCut, out: &mut Vec<u8>) -> Truncation {
    out.extend_from_slice(&json[..cut.keep]);
    out.extend(cut.closers());
    cut.report(json.len())
}

instantiate!(pub(super) fn cut(json: &[u8], max: usize) -> TailCut = cut_by);

/// The brackets that are open.
struct Open {
    /// From the outermost: 1 for an object, 0 for an array. From `depth` up they mean nothing; the last eight
    /// never do.
    objects: [u8; MAX_DEPTH + 9],
    /// At most [`MAX_DEPTH`]; a stray closing bracket, which only invalid input has, wraps.
    depth: u8,
}

/// For eight brackets in a row, by which of them close: how many that were open before they close, and which
/// of them stay open. So eight brackets cost the same whatever they are, without a branch to mispredict.
static NET: [(u8, u8); 256] = {
    let mut table = [(0, 0); 256];
    let mut closing = 0;
    while closing < 256 {
        let (mut closed, mut stay, mut bit) = (0, 0_u8, 0);
        while bit < 8 {
            if closing >> bit & 1 == 0 {
                stay |= 1 << bit;
            } else if stay == 0 {
                closed += 1;
            } else {
                stay &= !(1 << (7 - stay.leading_zeros()));
            }
            bit += 1;
        }
        table[closing] = (closed, stay);
        closing += 1;
    }
    table
};

impl Open {
    /// The brackets of a block, in order. The caller has seen to it that they cannot go deeper than
    /// [`MAX_DEPTH`].
    ///
    /// # Safety
    ///
    /// What `L` wants of the machine.
    #[inline(always)]
    unsafe fn apply<L: Lanes>(&mut self, bytes: &[u8; BLOCK], block: L, closing: u64, brackets: u64) {
        // With few, one by one is faster.
        if !L::HAS_BIT_MOVES || brackets.count_ones() <= 3 {
            return self.apply_one_by_one(bytes, closing, brackets);
        }
        // SAFETY: by this function's contract.
        let (mut closed, mut opened) =
            unsafe { (L::extract(closing, brackets), L::extract(block.eq(b'{'), brackets)) };
        let mut depth = self.depth;
        let mut count = brackets.count_ones();
        loop {
            let (closes, stay) = NET[closed as usize % 256];
            let stay = u64::from(stay) & ((1 << count.min(8)) - 1);
            // SAFETY: as above.
            let kinds = unsafe { L::spread(L::extract(opened, stay)) };
            let Some(below) = depth.checked_sub(closes) else {
                // Only invalid input closes more than it opened.
                return self.apply_one_by_one(bytes, closing, brackets);
            };
            let first = usize::from(below) % (MAX_DEPTH + 1);
            self.objects[first..first + 8].copy_from_slice(&kinds.to_le_bytes());
            depth = below + stay.count_ones() as u8;
            if count <= 8 {
                break;
            }
            count -= 8;
            closed >>= 8;
            opened >>= 8;
        }
        self.depth = depth;
    }

    #[inline(always)]
    fn apply_one_by_one(&mut self, bytes: &[u8; BLOCK], closing: u64, brackets: u64) {
        let mut depth = self.depth;
        let mut left = brackets;
        while left != 0 {
            let at = left.trailing_zeros();
            // If it closes, the next one that opens writes over this.
            self.objects[usize::from(depth) % (MAX_DEPTH + 1)] = u8::from(bytes[at as usize % BLOCK] == b'{');
            depth = depth.wrapping_add(1).wrapping_sub((closing >> at) as u8 % 2 * 2);
            left &= left - 1;
        }
        self.depth = depth;
    }

    /// Whether the bracket at this depth is an object's.
    fn is_object_at(&self, depth: u8) -> bool {
        self.objects[usize::from(depth) % (MAX_DEPTH + 1)] == 1
    }

    fn is_object(&self) -> bool {
        self.depth > 0 && self.is_object_at(self.depth - 1)
    }
}

/// A position that the cut cannot lie behind, and what is known there.
struct Limit {
    at: usize,
    /// Whether `at` is inside a string: after its opening quote, not after its closing one.
    in_string: bool,
    /// The last opening quote before `at`, if there is one.
    quote: usize,
}

/// The cut of `json`, which is longer than `max`.
///
/// To keep the first `p` bytes at depth `d` costs `p + d` bytes, one more inside a string. `p + d` never
/// decreases: an opening bracket adds 2, a closing one nothing. So blocks are only counted until one ends
/// beyond the budget, and only that one is looked at bracket by bracket.
///
/// # Safety
///
/// What `L` wants of the machine.
#[inline(always)]
unsafe fn cut_by<L: Lanes>(json: &[u8], max: usize) -> TailCut {
    let mut open = Open { objects: [0; MAX_DEPTH + 9], depth: 0 };
    let mut carry = Carry::default();
    let mut base = 0;
    let mut quote = 0;
    let mut padded = [0; BLOCK];
    loop {
        let before = carry;
        let bytes = block_at(json, base, &mut padded);
        // SAFETY: by this function's contract.
        let (block, Strings { quotes, inside }) = unsafe {
            let block = L::load(bytes);
            (block, carry.strings::<L>(block))
        };
        // SAFETY: as above.
        let (opening, closing) =
            unsafe { (block.eq_folded(b'{') & !inside, block.eq_folded(b'}') & !inside) };
        let brackets = opening | closing;
        let count = brackets.count_ones();
        let depth = u32::from(open.depth);
        let depth_after = depth + 2 * opening.count_ones() - count.min(depth + 2 * opening.count_ones());
        if base + BLOCK + depth_after as usize > max || depth + count > MAX_DEPTH as u32 {
            let block = LastBlock {
                base,
                bytes,
                opening,
                closing,
                quotes,
                inside,
                in_string: before.in_string != 0,
                quote,
            };
            if let Some(cut) = block.cut(json, max, &mut open) {
                return cut;
            }
        } else {
            // SAFETY: as above.
            unsafe { open.apply(bytes, block, closing, brackets) };
        }
        let opened = quotes & inside;
        if opened != 0 {
            quote = base + 63 - opened.leading_zeros() as usize;
        }
        base += BLOCK;
        if inside == u64::MAX && quotes == 0 {
            // The string costs its closing quote, and the depth is that of its beginning.
            let to = max.saturating_sub(usize::from(open.depth) + 1);
            if base < to {
                // SAFETY: by this function's contract.
                base = unsafe { skip_string::<L>(json, base, to, carry.escaped) };
                carry.escaped = 0;
                if base == to {
                    return Limit { at: to, in_string: true, quote }.cut(json, max, &open);
                }
            }
        }
    }
}

/// A block that may hold the cut.
struct LastBlock<'a> {
    base: usize,
    bytes: &'a [u8; BLOCK],
    opening: u64,
    closing: u64,
    quotes: u64,
    inside: u64,
    /// Whether it begins inside a string.
    in_string: bool,
    /// The last opening quote before it.
    quote: usize,
}

impl LastBlock<'_> {
    /// The cut, or `None` if all of the block fits; then its brackets are in `open`.
    #[inline(never)]
    fn cut(&self, json: &[u8], max: usize, open: &mut Open) -> Option<TailCut> {
        if usize::from(open.depth) > MAX_DEPTH {
            // Only invalid input closes more than it opened.
            return Some(TailCut::NULL);
        }
        let mut left = self.opening | self.closing;
        while left != 0 {
            let bit = left.trailing_zeros() as usize;
            let at = self.base + bit;
            if at + usize::from(open.depth) > max {
                break;
            }
            if self.opening >> bit & 1 == 1 {
                if usize::from(open.depth) == MAX_DEPTH || at + 2 + usize::from(open.depth) > max {
                    return Some(self.limit(at).cut(json, max, open));
                }
                open.objects[usize::from(open.depth) % (MAX_DEPTH + 1)] = u8::from(self.bytes[bit] == b'{');
                open.depth += 1;
            } else {
                if open.depth == 0 {
                    // Only invalid input closes what is not open: the document ends here.
                    return Some(self.limit(at).cut(json, max, open));
                }
                open.depth -= 1;
            }
            left &= left - 1;
        }
        let end = self.base + BLOCK;
        let depth = usize::from(open.depth);
        (end + depth > max).then(|| self.limit(max - depth).cut(json, max, open))
    }

    /// What is known at `at`, which is in the block or at its end.
    fn limit(&self, at: usize) -> Limit {
        let before = at - self.base;
        let mask = if before == BLOCK { u64::MAX } else { (1 << before) - 1 };
        let opened = self.quotes & self.inside & mask;
        Limit {
            at,
            in_string: if before == 0 { self.in_string } else { self.inside >> (before - 1) & 1 == 1 },
            quote: if opened == 0 { self.quote } else { self.base + 63 - opened.leading_zeros() as usize },
        }
    }
}

impl Limit {
    /// The last cut that is not behind this. It has the same depth: there is no bracket between the two, but
    /// the one that the cut may lie directly behind.
    #[inline(never)]
    fn cut(&self, json: &[u8], max: usize, open: &Open) -> TailCut {
        let depth = usize::from(open.depth);
        if depth > MAX_DEPTH {
            return TailCut::NULL;
        }
        if self.in_string && !is_key(json, self.quote, open) {
            // Not before `at`, where the string did not end yet, unless the closing quote is what does not
            // fit.
            let end = self.at.min(max - depth - 1);
            if end > self.quote {
                return build(string_boundary(json, self.quote + 1, end), true, open);
            }
        }
        let keep = if self.in_string { before_value(json, self.quote) } else { self.value_end(json, open) };
        match keep {
            Some(keep) => build(keep, false, open),
            None => TailCut::NULL,
        }
    }

    /// Outside strings: the end of the last value that is complete, or just behind an opening bracket.
    fn value_end(&self, json: &[u8], open: &Open) -> Option<usize> {
        let end = before_space(json, self.at);
        match *json[..end].last()? {
            b'"' if is_key(json, self.quote, open) => before_value(json, self.quote),
            b'{' | b'[' | b'}' | b']' | b'"' => Some(end),
            b',' | b':' => before_value(json, end),
            _ if end < self.at || json.get(self.at).is_none_or(|&b| is_delimiter(b)) => Some(end),
            _ => {
                let scalar = json[..end].iter().rposition(|&b| is_delimiter(b)).map_or(0, |p| p + 1);
                before_value(json, scalar)
            }
        }
    }
}

/// `at` is where a key or a value starts, or where it could: the position where the document can be cut so
/// that neither it, nor the comma before it, nor the key that it belongs to remains.
fn before_value(json: &[u8], at: usize) -> Option<usize> {
    let end = before_space(json, at);
    match *json[..end].last()? {
        b',' => Some(before_space(json, end - 1)),
        b':' => {
            let key_end = before_space(json, end - 1);
            // The quotes inside of a key are escaped, so that the next one that is not is its first byte.
            let mut quote = key_end.checked_sub(1)?;
            loop {
                quote = json[..quote].iter().rposition(|&b| b == b'"')?;
                if !is_escaped(&json[..quote]) {
                    break;
                }
            }
            before_value(json, quote)
        }
        _ => Some(end),
    }
}

fn is_key(json: &[u8], quote: usize, open: &Open) -> bool {
    match json[..before_space(json, quote)].last() {
        Some(b'{') => true,
        Some(b',') => open.is_object(),
        _ => false,
    }
}

fn build(keep: usize, in_string: bool, open: &Open) -> TailCut {
    let objects = (0..open.depth).map(|depth| u128::from(open.is_object_at(depth)) << depth).sum();
    TailCut { keep, in_string, depth: open.depth, objects }
}

pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Ends a number or a literal.
pub(super) fn is_delimiter(byte: u8) -> bool {
    is_space(byte) || matches!(byte, b',' | b':' | b'[' | b']' | b'{' | b'}' | b'"')
}

/// Back over white space.
fn before_space(json: &[u8], at: usize) -> usize {
    json[..at].iter().rposition(|&b| !is_space(b)).map_or(0, |p| p + 1)
}

/// Whether the byte behind `before` is escaped: an odd number of backslashes precedes it.
fn is_escaped(before: &[u8]) -> bool {
    before.iter().rev().take_while(|&&b| b == b'\\').count() % 2 == 1
}

/// The last position in `first..=at` where a string's content, which starts at `first`, may end: not inside a
/// character, an escape or a surrogate pair.
pub(super) fn string_boundary(json: &[u8], first: usize, at: usize) -> usize {
    let at = boundary(json, first, at);
    let at = escape_around(json, first, at).unwrap_or(at);
    // Between the two escapes of a pair? A backslash that is escaped itself begins none.
    let is_surrogate = |p: usize, thirds: &[u8]| match json.get(p..p + 4) {
        Some([b'\\', b'u', b'd' | b'D', third]) => thirds.contains(third),
        _ => false,
    };
    if at >= first + 6
        && is_surrogate(at - 6, b"89abAB")
        && is_surrogate(at, b"cdefCDEF")
        && !is_escaped(&json[first..at - 6])
    {
        return at - 6;
    }
    at
}

/// If `at` is inside an escape: where that begins.
fn escape_around(json: &[u8], first: usize, at: usize) -> Option<usize> {
    // The longest escape has six bytes, so its backslash is among the five before `at`.
    let near = first.max(at.saturating_sub(5));
    let backslash = near + json[near..at].iter().rposition(|&b| b == b'\\')?;
    if is_escaped(&json[first..backslash]) {
        return None;
    }
    let length = if json.get(backslash + 1) == Some(&b'u') { 6 } else { 2 };
    (backslash + length > at).then_some(backslash)
}
