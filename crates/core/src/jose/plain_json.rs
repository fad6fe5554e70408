//! JSON objects as nearly every issuer writes them, read in one pass that copies nothing.
//!
//! Plain means: no white space, no escapes, whole numbers alone, few members, and the names within inner objects ascending, so
//! that none can be there twice. Such a text is its own canonical form. Of anything else (errors included) this reader says
//! `None`, and [`strict_json`](super::strict_json) decides.

use std::ops::Range;

use serde_json::Value;

use super::MAX_DEPTH;

/// Members of a plain object.
const MAX_MEMBERS: usize = 32;

/// Digits of a plain number: every such number is an `i64`, and exact as a whole.
const MAX_DIGITS: usize = 18;

/// Where a member of an object is in its text: the name without its quotes, the value whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: Range<usize>,
    pub(crate) value: Range<usize>,
}

/// The members of a plain object by name, no name twice.
pub(crate) fn members(json: &str) -> Option<Vec<Member>> {
    let mut reader = Reader { text: json, at: 0 };
    let mut members: Vec<Member> = Vec::with_capacity(16);
    reader.object(|name, value| {
        members.push(Member { name, value });
        members.len() <= MAX_MEMBERS
    })?;
    reader.end()?;
    // By bytes, which is the order of strings too.
    let name = |member: &Member| &json.as_bytes()[member.name.clone()];
    members.sort_unstable_by(|a, b| name(a).cmp(name(b)));
    let twice = members.windows(2).any(|pair| name(&pair[0]) == name(&pair[1]));
    (!twice).then_some(members)
}

/// The value of a plain text that is no object and holds none.
pub(crate) fn value(json: &str) -> Option<Value> {
    let mut reader = Reader { text: json, at: 0 };
    let value = reader.flat_value()?;
    reader.end()?;
    Some(value)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    /// An object; `member` says whether to go on.
    fn object(&mut self, mut member: impl FnMut(Range<usize>, Range<usize>) -> bool) -> Option<()> {
        self.expect(b'{')?;
        if self.peek()? == b'}' {
            return self.expect(b'}');
        }
        loop {
            let name = self.string()?;
            self.expect(b':')?;
            let start = self.at;
            self.skip_value(MAX_DEPTH - 1)?;
            if !member(name, start..self.at) {
                return None;
            }
            if self.is_last(b'}')? {
                return Some(());
            }
        }
    }

    fn skip_value(&mut self, levels_left: usize) -> Option<()> {
        match self.peek()? {
            b'"' => self.string().map(|_| ()),
            b'{' => self.skip_object(levels_left.checked_sub(1)?),
            b'[' => {
                let levels_left = levels_left.checked_sub(1)?;
                self.expect(b'[')?;
                if self.peek()? == b']' {
                    return self.expect(b']');
                }
                loop {
                    self.skip_value(levels_left)?;
                    if self.is_last(b']')? {
                        return Some(());
                    }
                }
            }
            b't' => self.word("true"),
            b'f' => self.word("false"),
            b'n' => self.word("null"),
            _ => self.number().map(|_| ()),
        }
    }

    fn skip_object(&mut self, levels_left: usize) -> Option<()> {
        self.expect(b'{')?;
        if self.peek()? == b'}' {
            return self.expect(b'}');
        }
        let mut before: Option<Range<usize>> = None;
        loop {
            let name = self.string()?;
            if before.is_some_and(|before| self.text[before] >= self.text[name.clone()]) {
                return None;
            }
            before = Some(name);
            self.expect(b':')?;
            self.skip_value(levels_left)?;
            if self.is_last(b'}')? {
                return Some(());
            }
        }
    }

    /// A value without objects and lists within lists.
    fn flat_value(&mut self) -> Option<Value> {
        if self.peek()? != b'[' {
            return self.scalar();
        }
        self.expect(b'[')?;
        let mut items = Vec::new();
        if self.peek()? == b']' {
            self.expect(b']')?;
            return Some(Value::Array(items));
        }
        loop {
            items.push(self.scalar()?);
            if self.is_last(b']')? {
                return Some(Value::Array(items));
            }
        }
    }

    fn scalar(&mut self) -> Option<Value> {
        Some(match self.peek()? {
            b'"' => {
                let inner = self.string()?;
                Value::String(self.text[inner].to_owned())
            }
            b't' => self.word("true").map(|()| Value::Bool(true))?,
            b'f' => self.word("false").map(|()| Value::Bool(false))?,
            b'n' => self.word("null").map(|()| Value::Null)?,
            _ => {
                let digits = self.number()?;
                self.text[digits].parse::<i64>().ok()?.into()
            }
        })
    }

    /// A string without escapes: what is between its quotes.
    fn string(&mut self) -> Option<Range<usize>> {
        self.expect(b'"')?;
        let start = self.at;
        self.at += first_special(&self.text.as_bytes()[start..])?;
        let inner = start..self.at;
        self.expect(b'"')?;
        Some(inner)
    }

    /// A whole number. What may follow one, a fraction or an exponent among it, is the caller's to refuse.
    fn number(&mut self) -> Option<Range<usize>> {
        let start = self.at;
        let negative = self.peek()? == b'-';
        self.at += usize::from(negative);
        let first = self.at;
        let digits = self.text.as_bytes()[first..].iter().take_while(|b| b.is_ascii_digit()).count();
        let leads_with_zero = self.text.as_bytes().get(first) == Some(&b'0');
        if digits == 0 || digits > MAX_DIGITS || leads_with_zero && (digits > 1 || negative) {
            return None;
        }
        self.at += digits;
        Some(start..self.at)
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let found = self.text.as_bytes()[self.at..].starts_with(word.as_bytes());
        self.at += word.len();
        found.then_some(())
    }

    /// Whether `close` is next, and not another comma.
    fn is_last(&mut self, close: u8) -> Option<bool> {
        let byte = self.peek()?;
        self.at += 1;
        if byte == close { Some(true) } else { (byte == b',').then_some(false) }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        let found = self.peek()? == byte;
        self.at += 1;
        found.then_some(())
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn end(&self) -> Option<()> {
        (self.at == self.text.len()).then_some(())
    }
}

/// Whether a text can stand between a JSON string's quotes as it is.
pub fn needs_no_escape(text: &str) -> bool {
    first_special(text.as_bytes()).is_none()
}

/// The place of the first quote, backslash or control character; eight bytes are looked at a time.
fn first_special(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGH: u64 = ONES * 0x80;
    let below = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word & HIGH;
    let equal = |word: u64, byte: u8| below(word ^ (ONES * u64::from(byte)), 1);

    let (words, rest) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // A borrow can only set marks above a true one: the lowest is always right.
        let marks = below(word, 0x20) | equal(word, b'"') | equal(word, b'\\');
        if marks != 0 {
            return Some(at * 8 + marks.trailing_zeros() as usize / 8);
        }
    }
    let special = |b: &u8| *b < 0x20 || matches!(*b, b'"' | b'\\');
    rest.iter().position(special).map(|at| words.len() * 8 + at)
}
