//! What JSON may write and YAML can't read.

use std::borrow::Cow;

/// A text in which characters that JSON writes as two halves (`\ud83d\udd11`) stand as themselves: YAML knows no such halves. kubectl
/// takes for JSON what begins with a brace.
pub(super) fn joined(text: &str) -> Cow<'_, str> {
    let may_have_halves = text.trim_start().starts_with('{') && (text.contains(r"\ud") || text.contains(r"\uD"));
    if !may_have_halves {
        return text.into();
    }
    let mut joined = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        joined.push_str(before);
        rest = if let Some(character) = pair(escape) {
            joined.push(character);
            &escape[2 * HALF..]
        } else {
            // With whatever is escaped, which may be a backslash.
            let length = escape.chars().take(2).map(char::len_utf8).sum();
            joined.push_str(&escape[..length]);
            &escape[length..]
        };
    }
    joined.push_str(rest);
    joined.into()
}

/// How long `\ud83d` is.
const HALF: usize = 6;

/// The character whose halves a text begins with.
fn pair(text: &str) -> Option<char> {
    let unit = |text: &str| u16::from_str_radix(text.strip_prefix(r"\u")?.get(..HALF - 2)?, 16).ok();
    let halves = [unit(text)?, unit(text.get(HALF..)?)?];
    let character = char::decode_utf16(halves).next()?.ok()?;
    (character > '\u{ffff}').then_some(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_joined_in_json_and_nothing_else_is_touched() {
        for (text, expected) in [
            (r#"{"a": "\ud83d\uDD11é\ud83d\udd11"}"#, r#"{"a": "🔑é🔑"}"#),
            (" \n{\"a\": \"\\ud83d\\udd11\\n\"}", " \n{\"a\": \"🔑\\n\"}"),
            (r#"{"a": "\\ud83d\udd11"}"#, r#"{"a": "\\ud83d\udd11"}"#),
            (r#"{"a": "\\\ud83d\udd11"}"#, r#"{"a": "\\🔑"}"#),
            (r#"{"a": "\ud83d\u0041 \ud83d \udd11\ud83d"}"#, r#"{"a": "\ud83d\u0041 \ud83d \udd11\ud83d"}"#),
            (r#"{"a": "\u00e9\ud83é\"#, r#"{"a": "\u00e9\ud83é\"#),
            (r#"a: "\ud83d\udd11""#, r#"a: "\ud83d\udd11""#),
        ] {
            assert_eq!(joined(text), expected, "{text}");
        }
    }

    #[test]
    fn a_file_of_json_is_read_with_every_character_it_may_write() {
        let text = "{\"audiences\": [\"\\ud83d\\udd11\"],\n\"issuer\": 1}";
        let documents = crate::yaml::parse(text).unwrap();
        assert_eq!(documents[0].value["audiences"][0], "🔑");
        assert_eq!(documents[0].line_of("issuer"), 2);
    }
}
