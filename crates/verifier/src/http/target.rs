//! The path that rules see: one meaning for each text.

use std::borrow::Cow;

use super::problem::Problem;

/// A request target, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    /// Percent-decoded once, dot segments resolved.
    pub(crate) path: Cow<'a, str>,
    /// As it was sent; empty without a `?`.
    pub(crate) query: &'a str,
    /// Of an absolute target.
    pub(crate) host: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// Reads an origin-form (`/path?query`) or absolute target. What servers are known to read in different ways (an encoded
    /// slash, a backslash, a NUL) is refused.
    pub(crate) fn parse(target: &'a str) -> Result<Self, Problem> {
        // Some servers end the path there, others take it for part of the path; no honest client sends one (RFC 9112 section 3.2).
        if target.contains('#') {
            return Err(Problem::invalid("the original request's target holds a fragment"));
        }
        let (host, rest) = match target.split_once("://") {
            Some(("http" | "https", rest)) => {
                let end = rest.find(['/', '?']).unwrap_or(rest.len());
                (Some(&rest[..end]), if end == rest.len() { "/" } else { &rest[end..] })
            }
            _ => (None, target),
        };
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, query),
            // Known, and empty: a rule that looks at it isn't told that nobody sent it.
            None => (rest, ""),
        };
        let path = if path.is_empty() && host.is_some() { "/" } else { path };
        Ok(Self { path: normalised(path)?, query, host })
    }
}

/// A path percent-decoded once, with its dot segments resolved (RFC 3986 section 5.2.4).
pub(crate) fn normalised(path: &str) -> Result<Cow<'_, str>, Problem> {
    if path == "*" {
        return Ok(Cow::Borrowed(path));
    }
    if !path.starts_with('/') {
        return Err(Problem::invalid("the original request's path does not begin with a slash"));
    }
    let decoded = decode(path)?;
    if decoded.split('/').any(|segment| matches!(segment, "." | "..")) {
        Ok(Cow::Owned(without_dot_segments(&decoded)))
    } else {
        Ok(decoded)
    }
}

fn decode(path: &str) -> Result<Cow<'_, str>, Problem> {
    const AMBIGUOUS: &str = "the original request's path holds an encoded slash, a backslash or a NUL";
    if path.bytes().any(|b| matches!(b, b'\\' | 0)) {
        return Err(Problem::invalid(AMBIGUOUS));
    }
    if !path.contains('%') {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = percent_decoded(path.as_bytes(), false)
        .ok_or_else(|| Problem::invalid("the original request's path is badly percent-encoded"))?;
    let slashes = |bytes: &[u8]| memchr::memchr_iter(b'/', bytes).count();
    if slashes(&decoded) != slashes(path.as_bytes()) || decoded.iter().any(|b| matches!(b, b'\\' | 0)) {
        return Err(Problem::invalid(AMBIGUOUS));
    }
    let text = String::from_utf8(decoded).map_err(|_| Problem::invalid("the original request's path is not UTF-8"))?;
    Ok(Cow::Owned(text))
}

/// Undoes percent-encoding (and `+` for a space, in forms). `None` where a `%` isn't followed by two hex digits.
pub(crate) fn percent_decoded(text: &[u8], form: bool) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let digit = |b: &u8| char::from(*b).to_digit(16);
                let value = digit(bytes.next()?)? * 16 + digit(bytes.next()?)?;
                u8::try_from(value).ok()?
            }
            b'+' if form => b' ',
            other => other,
        });
    }
    Some(out)
}

/// The pairs of a form or a query, decoded. `None` where one is badly encoded or not UTF-8.
pub(crate) fn form_pairs(text: &[u8]) -> Option<Vec<(String, String)>> {
    let decode = |part: &[u8]| String::from_utf8(percent_decoded(part, true)?).ok();
    text.split(|b| *b == b'&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let at = memchr::memchr(b'=', pair).unwrap_or(pair.len());
            Some((decode(&pair[..at])?, decode(pair.get(at + 1..).unwrap_or_default())?))
        })
        .collect()
}

fn without_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_in_directory = false;
    for segment in path.split('/').skip(1) {
        ends_in_directory = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            other => kept.push(other),
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in &kept {
        out.push('/');
        out.push_str(segment);
    }
    if ends_in_directory || out.is_empty() {
        out.push('/');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_meaning() {
        for (sent, seen) in [
            ("/", "/"),
            ("/orders", "/orders"),
            ("/a%20b", "/a b"),
            ("/a/../b", "/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/./b/", "/a/b/"),
            ("/../../x", "/x"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/%25%32%65", "/%2e"),
            ("/a+b", "/a+b"),
            ("//a", "//a"),
            ("*", "*"),
        ] {
            assert_eq!(normalised(sent).as_deref(), Ok(seen), "{sent}");
        }
        for refused in ["", "a", "/a%2fb", "/a%2Fb", "/a\\b", "/a%5cb", "/a%00", "/%", "/%4", "/%zz", "/%ff"] {
            assert_eq!(normalised(refused).unwrap_err().status, 400, "{refused}");
        }
    }

    #[test]
    fn a_target_may_be_absolute() {
        let target = Target::parse("https://shop.example/a?b=c").unwrap();
        assert_eq!((&*target.path, target.query, target.host), ("/a", "b=c", Some("shop.example")));
        let bare = Target::parse("http://shop.example").unwrap();
        assert_eq!((&*bare.path, bare.query, bare.host), ("/", "", Some("shop.example")));
        assert_eq!(&*Target::parse("http://h?x").unwrap().path, "/");
    }

    #[test]
    fn a_fragment_is_refused_wherever_it_stands() {
        for target in ["/admin#x", "/a?b#c", "http://h#/a", "#"] {
            assert_eq!(Target::parse(target).unwrap_err().status, 400, "{target}");
        }
        assert_eq!(&*Target::parse("/admin%23x").unwrap().path, "/admin#x");
    }

    #[test]
    fn forms_are_decoded() {
        let pairs = form_pairs(b"a=b+c&d=%C3%A9&e&f=").unwrap();
        let expected = [("a", "b c"), ("d", "é"), ("e", ""), ("f", "")];
        assert_eq!(pairs, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert_eq!(form_pairs(b"a=%f"), None);
        assert_eq!(form_pairs(b"a=%ff"), None);
    }
}
