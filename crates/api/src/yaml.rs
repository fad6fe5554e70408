//! YAML as kubectl reads it, with the line of every value.
//!
//! kubectl reads YAML 1.1: `yes`, `off` and `n` are booleans, `0777` is octal, `1_000` a number. A file accepted here must be
//! accepted there and mean the same, so scalars are resolved by those rules, duplicate keys are errors, and anchors, aliases
//! and merge keys work, within bounds that keep a small file from growing into a large one.

mod halves;
mod scalar;

use std::{borrow::Cow, collections::BTreeMap};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use serde_json::{Map, Value};

/// How large a file may be.
pub const MAX_FILE_BYTES: usize = 3 << 20;
/// How deep values may nest.
const MAX_DEPTH: usize = 64;
/// How many values a file may hold, aliases counted as often as they stand, anchors twice, long texts by their length.
const MAX_VALUES: usize = 200_000;
/// How long a key may be.
const MAX_KEY_BYTES: usize = 1024;
/// Texts count as one value for each time that they are so long.
const BYTES_PER_VALUE: usize = 256;

/// One YAML document.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Its content as JSON.
    pub value: Value,
    /// Keys that are read here as they are meant, and by kubectl as booleans: line and key.
    pub(crate) boolean_keys: Vec<(u32, String)>,
    lines: Lines,
}

/// The line on which a value begins, and those of what is in it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Lines {
    line: u32,
    members: BTreeMap<String, Lines>,
    items: Vec<Lines>,
}

/// Why a text is not YAML that can be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct SyntaxError {
    /// Counted from 1.
    pub line: u32,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Document {
    /// The line, counted from 1, on which the value at `path` (`spec.roles[0].name`) begins; for a path that isn't there, of
    /// its nearest parent.
    pub fn line_of(&self, path: &str) -> u32 {
        let (mut at, mut path) = (&self.lines, path);
        while let Some((inner, rest)) = at.step(path) {
            (at, path) = (inner, rest);
        }
        at.line.max(1)
    }
}

impl Lines {
    const fn of(line: u32) -> Self {
        Self { line, members: BTreeMap::new(), items: Vec::new() }
    }

    /// The value that the beginning of a path leads to, and the rest of the path.
    fn step<'p>(&self, path: &'p str) -> Option<(&Self, &'p str)> {
        if let Some(place) = path.strip_prefix('[') {
            let (index, rest) = place.split_once(']')?;
            return Some((self.items.get(index.parse::<usize>().ok()?)?, rest));
        }
        let path = path.strip_prefix('.').unwrap_or(path);
        // Names may hold dots and brackets themselves: the longest that is there.
        let mut end = path.len();
        loop {
            if let Some(inner) = self.members.get(&path[..end]) {
                return Some((inner, &path[end..]));
            }
            end = path[..end].rfind(['.', '['])?;
        }
    }
}

/// Reads all documents of a file. Empty ones are left out.
pub fn parse(text: &str) -> Result<Vec<Document>, SyntaxError> {
    if text.len() > MAX_FILE_BYTES {
        return Err(SyntaxError { line: 1, message: "the file is over 3 MiB".into() });
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = &*halves::joined(text);
    let mut reader = Reader { parser: Parser::new_from_str(text), values: 0, boolean_keys: Vec::new() };
    let mut documents = Vec::new();
    loop {
        match reader.next()? {
            (Event::StreamEnd, _) => return Ok(documents),
            (Event::DocumentStart(_), _) => {
                if let Some(document) = reader.document()? {
                    documents.push(document);
                }
            }
            _ => {}
        }
    }
}

/// Whether a text that stands unquoted in YAML is read as that text.
pub(crate) fn plain_means_text(text: &str) -> bool {
    scalar::resolve(text).is_some_and(|value| value.is_string())
}

/// A value with the lines of all that is in it.
#[derive(Clone)]
struct Node {
    value: Value,
    lines: Lines,
    /// How many values it counts for.
    size: usize,
    /// How deep those nest.
    height: usize,
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    values: usize,
    boolean_keys: Vec<(u32, String)>,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), SyntaxError> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(syntax(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn document(&mut self) -> Result<Option<Document>, SyntaxError> {
        let mut anchors = BTreeMap::new();
        let event = self.next()?;
        if matches!(event.0, Event::DocumentEnd) {
            return Ok(None);
        }
        let node = self.node(event, 0, &mut anchors)?;
        let boolean_keys = std::mem::take(&mut self.boolean_keys);
        if node.value.is_null() {
            return Ok(None);
        }
        Ok(Some(Document { value: node.value, boolean_keys, lines: node.lines }))
    }

    fn node(
        &mut self,
        (event, span): (Event<'t>, Span),
        depth: usize,
        anchors: &mut BTreeMap<usize, Node>,
    ) -> Result<Node, SyntaxError> {
        let line = line_at(&span);
        if depth > MAX_DEPTH {
            return Err(error(line, TOO_DEEP));
        }
        let (anchor, node) = match event {
            Event::Alias(id) => {
                let node = anchors.get(&id).cloned().ok_or_else(|| error(line, "an alias stands inside its own anchor"))?;
                self.count(node.size, line)?;
                if depth + node.height > MAX_DEPTH {
                    return Err(error(line, TOO_DEEP));
                }
                return Ok(node);
            }
            Event::Scalar(text, style, anchor, tag) => {
                let size = 1 + text.len() / BYTES_PER_VALUE;
                self.count(size, line)?;
                let value = scalar_value(&text, style, tag.as_deref(), line)?;
                (anchor, Node { value, lines: Lines::of(line), size, height: 0 })
            }
            Event::SequenceStart(anchor, _) => (anchor, self.sequence(line, depth, anchors)?),
            Event::MappingStart(anchor, _) => (anchor, self.mapping(line, depth, anchors)?),
            _ => return Err(error(line, "a value was expected here")),
        };
        if anchor != 0 {
            self.count(node.size, line)?;
            anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn sequence(&mut self, line: u32, depth: usize, anchors: &mut BTreeMap<usize, Node>) -> Result<Node, SyntaxError> {
        self.count(1, line)?;
        let (mut items, mut lines, mut size, mut height) = (Vec::new(), Lines::of(line), 1, 0);
        loop {
            let event = self.next()?;
            if matches!(event.0, Event::SequenceEnd) {
                return Ok(Node { value: Value::Array(items), lines, size, height });
            }
            let node = self.node(event, depth + 1, anchors)?;
            size += node.size;
            height = height.max(1 + node.height);
            lines.items.push(node.lines);
            items.push(node.value);
        }
    }

    fn mapping(&mut self, line: u32, depth: usize, anchors: &mut BTreeMap<usize, Node>) -> Result<Node, SyntaxError> {
        self.count(1, line)?;
        let (mut members, mut lines, mut size, mut height) = (Map::new(), Lines::of(line), 1, 0);
        let mut merged: Vec<(u32, Value)> = Vec::new();
        loop {
            let event = self.next()?;
            if matches!(event.0, Event::MappingEnd) {
                break;
            }
            let key_line = line_at(&event.1);
            // kubectl reads an unquoted `y` as true in keys too. In one it can only be meant as text: the `y` of an EC key.
            let bare = match &event.0 {
                Event::Scalar(text, ScalarStyle::Plain, _, None) if matches!(&**text, "y" | "Y" | "n" | "N") => {
                    Some(text.to_string())
                }
                _ => None,
            };
            let is_merge = matches!(&event.0, Event::Scalar(text, ScalarStyle::Plain, _, None) if *text == "<<");
            let key = self.node(event, depth + 1, anchors)?;
            let value_event = self.next()?;
            let mut node = self.node(value_event, depth + 1, anchors)?;
            size += key.size + node.size;
            height = height.max(1 + node.height);
            if is_merge {
                merged.push((key_line, node.value));
                continue;
            }
            if let Some(bare) = &bare {
                self.boolean_keys.push((key_line, bare.clone()));
            }
            let key =
                bare.or_else(|| key_text(&key.value)).ok_or_else(|| error(key_line, "a key must be a single value"))?;
            if key.len() > MAX_KEY_BYTES {
                return Err(error(key_line, "a key is longer than 1,024 bytes"));
            }
            if members.contains_key(&key) {
                return Err(error(key_line, &format!("{key:?} is given twice; keep one")));
            }
            node.lines.line = key_line;
            lines.members.insert(key.clone(), node.lines);
            members.insert(key, node.value);
        }
        for (at, value) in merged {
            merge(&mut members, value, at)?;
        }
        Ok(Node { value: Value::Object(members), lines, size, height })
    }

    fn count(&mut self, values: usize, line: u32) -> Result<(), SyntaxError> {
        self.values += values;
        if self.values > MAX_VALUES { Err(error(line, "the file holds more than 200,000 values")) } else { Ok(()) }
    }
}

/// Members that are there win over merged ones.
fn merge(members: &mut Map<String, Value>, value: Value, line: u32) -> Result<(), SyntaxError> {
    match value {
        Value::Object(more) => {
            for (key, value) in more {
                members.entry(key).or_insert(value);
            }
            Ok(())
        }
        Value::Array(list) if list.iter().all(Value::is_object) => {
            list.into_iter().try_for_each(|item| merge(members, item, line))
        }
        _ => Err(error(line, "<< takes a mapping or a list of mappings")),
    }
}

/// The key that JSON has for a YAML key.
fn key_text(key: &Value) -> Option<String> {
    match key {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(key.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn scalar_value(text: &str, style: ScalarStyle, tag: Option<&Tag>, line: u32) -> Result<Value, SyntaxError> {
    match tag {
        // `!` alone and `!!str` say: text, whatever it looks like.
        Some(tag) if tag.suffix == "str" || (tag.handle == "!" && tag.suffix.is_empty()) => {
            Ok(Value::String(text.to_owned()))
        }
        Some(tag) if tag.is_yaml_core_schema() => {
            let plain = scalar::resolve(text).ok_or_else(|| error(line, "the number is not one that JSON has"))?;
            let fits = match (&*tag.suffix, &plain) {
                ("bool", Value::Bool(_)) | ("null", Value::Null) | ("float", Value::Number(_)) => true,
                ("int", Value::Number(n)) => n.is_i64() || n.is_u64(),
                _ => false,
            };
            if fits { Ok(plain) } else { Err(error(line, &format!("the value is no !!{}", tag.suffix))) }
        }
        // A tag of one's own makes a text of it, as it does for kubectl.
        Some(_) => Ok(Value::String(text.to_owned())),
        None if style == ScalarStyle::Plain => {
            scalar::resolve(text).ok_or_else(|| error(line, "the number is not one that JSON has; quote it if it is text"))
        }
        None => Ok(Value::String(Cow::Borrowed(text).into_owned())),
    }
}

const TOO_DEEP: &str = "values nest deeper than 64";

fn line_at(span: &Span) -> u32 {
    u32::try_from(span.start.line()).unwrap_or(u32::MAX)
}

fn error(line: u32, message: &str) -> SyntaxError {
    SyntaxError { line, message: message.to_owned() }
}

fn syntax(found: &ScanError) -> SyntaxError {
    SyntaxError { line: u32::try_from(found.marker().line()).unwrap_or(u32::MAX).max(1), message: found.info().to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn one(text: &str) -> Value {
        let mut documents = parse(text).unwrap();
        assert_eq!(documents.len(), 1, "{text}");
        documents.remove(0).value
    }

    #[test]
    fn scalars_mean_what_they_mean_to_kubectl() {
        for (text, value) in [
            ("yes", json!(true)),
            ("Off", json!(false)),
            ("n", json!(false)),
            ("TRUE", json!(true)),
            ("tRUE", json!("tRUE")),
            ("'yes'", json!("yes")),
            ("!!str yes", json!("yes")),
            ("!mine yes", json!("yes")),
            ("~", json!(null)),
            ("null", json!(null)),
            ("12", json!(12)),
            ("-1_000", json!(-1000)),
            ("0x1F", json!(31)),
            ("0777", json!(511)),
            ("0o17", json!(15)),
            ("0b101", json!(5)),
            ("1.5e3", json!(1500)),
            ("50.0", json!(50)),
            (".5", json!(0.5)),
            ("15m", json!("15m")),
            ("1.2.3", json!("1.2.3")),
            ("2027-03-01T00:00:00Z", json!("2027-03-01T00:00:00Z")),
            ("2001-01-01", json!("2001-01-01")),
            ("08", json!(8)),
            ("-", json!([null])),
        ] {
            assert_eq!(one(&format!("a: {text}\n").replace("a: -\n", "a:\n-\n"))["a"], value, "{text}");
        }
        assert_eq!(parse("a: .inf").unwrap_err().line, 1);
    }

    #[test]
    fn every_value_knows_its_line() {
        let text = "a: 1\nb:\n  c:\n  - d: x\n    e: y\n  - z\n---\n# empty\n---\nf: 2\n";
        let documents = parse(text).unwrap();
        assert_eq!(documents.len(), 2);
        for (path, line) in
            [("a", 1), ("b", 2), ("b.c", 3), ("b.c[0].d", 4), ("b.c[0].e", 5), ("b.c[1]", 6), ("b.c[1].no.such", 6)]
        {
            assert_eq!(documents[0].line_of(path), line, "{path}");
        }
        assert_eq!(documents[1].line_of("f"), 10);
    }

    #[test]
    fn anchors_and_merges_work_and_a_small_file_cannot_grow_large() {
        let text = "base: &b {x: 1, y: 2}\nmore:\n  <<: *b\n  y: 3\nsame: *b\n";
        assert_eq!(one(text), json!({"base": {"x": 1, "y": 2}, "more": {"x": 1, "y": 3}, "same": {"x": 1, "y": 2}}));
        let row = |i: usize| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(", "));
        let bomb: String =
            std::iter::once("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned()).chain((1..9).map(row)).collect();
        assert_eq!(parse(&bomb).unwrap_err().message, "the file holds more than 200,000 values");
        let long_text = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a,".repeat(190_000));
        assert_eq!(parse(&long_text).unwrap_err().message, "the file holds more than 200,000 values");
        let anchors = (0..60).map(|i| format!("&a{i} [")).collect::<Vec<_>>().concat();
        let anchored = format!("{anchors}{}{}", "x,".repeat(20_000), "]".repeat(60));
        assert_eq!(parse(&anchored).unwrap_err().message, "the file holds more than 200,000 values");
        let long_key = format!("? {}\n: [{}]\n", "k".repeat(1 << 20), "x,".repeat(190_000));
        assert_eq!(parse(&long_key).unwrap_err().message, "a key is longer than 1,024 bytes");
        let deep_path =
            format!("{}[{}]{}", format!("{{{}: ", "k".repeat(1000)).repeat(60), "x,".repeat(190_000), "}".repeat(60));
        assert!(parse(&deep_path).is_ok());
    }

    #[test]
    fn aliases_do_not_nest_deeper_than_what_stands_in_their_place_might() {
        let (open, close) = ("[".repeat(30), "]".repeat(30));
        let two = format!("a: &a {open}x{close}\nb: &b {open}*a{close}\n");
        assert!(parse(&two).is_ok());
        assert_eq!(parse(&format!("{two}c: {open}*b{close}\n")).unwrap_err(), error(3, "values nest deeper than 64"));
        let rung = |i: usize| format!("a{i}: &a{i} [*a{}]\n", i - 1);
        let ladder = ["a0: &a0 [x]\n".to_owned()].into_iter().chain((1..600).map(rung)).collect::<Vec<_>>().concat();
        assert_eq!(parse(&ladder).unwrap_err().message, "values nest deeper than 64");
    }

    #[test]
    fn a_name_with_dots_has_a_line_too() {
        let document = &parse("m:\n  a.b/c: 1\n  a:\n    b/c: 2\n").unwrap()[0];
        assert_eq!((document.line_of("m.a.b/c"), document.line_of("m.a"), document.line_of("m.a.x")), (2, 3, 3));
        assert_eq!((document.line_of("nowhere"), document.line_of("")), (1, 1));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, line, word) in [
            ("a: 1\nb: 2\na: 3\n", 3, "given twice"),
            ("a: 1\n  b: 2\n", 2, ""),
            ("a: [1, 2\n", 2, ""),
            ("~: x\n", 1, "key"),
            ("{[1]: 2}\n", 1, "key"),
            ("a: &x [*x]\n", 1, ""),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.line.abs_diff(line) <= 1 && error.message.contains(word), "{text:?}: {error}");
        }
        let deep = "[".repeat(100) + &"]".repeat(100);
        assert_eq!(parse(&deep).unwrap_err().message, "values nest deeper than 64");
    }
}
