//! Texts as parts of a URL.

use std::fmt::Write as _;

/// A text as one segment of a path, or one value of a query: only what is unreserved stands for itself (RFC 3986 section 2.3).
pub fn segment(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string can't fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_its_segment() {
        for (text, expected) in [
            ("alice@shop.example/../x?\u{e9}", "alice%40shop.example%2F..%2Fx%3F%C3%A9"),
            ("a-Z_0.9~", "a-Z_0.9~"),
            ("a\r\nb&c=d%20", "a%0D%0Ab%26c%3Dd%2520"),
            ("", ""),
        ] {
            assert_eq!(segment(text), expected);
        }
    }
}
