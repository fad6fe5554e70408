//! Key ids that begin with a hyphen.
//!
//! A kid is 43 characters of base64url (RFC 7638), one of which is the hyphen: every 64th begins with one and would be read as
//! flags. No option of ours has that form, so whatever has it is a kid and goes where only values stand: behind `--`.

use std::ffi::OsString;

/// The length of a SHA-256 in base64url.
const KID_LENGTH: usize = 43;

/// The arguments with such key ids as values.
pub(crate) fn kids_as_values(arguments: Vec<OsString>) -> Vec<OsString> {
    let end = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
    if !arguments[..end].iter().any(is_hyphened_kid) {
        return arguments;
    }
    let mut arguments = arguments;
    let values = arguments.split_off(end);
    let (kids, mut settled): (Vec<_>, Vec<_>) = arguments.into_iter().partition(is_hyphened_kid);
    settled.push("--".into());
    settled.extend(kids);
    settled.extend(values.into_iter().skip(1));
    settled
}

fn is_hyphened_kid(argument: &OsString) -> bool {
    let text = argument.to_string_lossy();
    let is_of_base64url = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    text.len() == KID_LENGTH && text.starts_with('-') && text.bytes().all(is_of_base64url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kid_that_looks_like_flags_is_a_value() {
        let kid = "-Qf_tEOPyh6K87XTTGK40WmcSDupNpg7GyQT-PKTB3U";
        let settled = |line: &str| {
            let settled = kids_as_values(line.split(' ').map(OsString::from).collect());
            settled.into_iter().map(|a| a.into_string().unwrap()).collect::<Vec<_>>().join(" ")
        };
        for (line, expected) in [
            (format!("c keys revoke {kid} --no-wait"), format!("c keys revoke --no-wait -- {kid}")),
            (format!("c revoke key {kid} -- other"), format!("c revoke key -- {kid} other")),
            (format!("c keys revoke -- {kid}"), format!("c keys revoke -- {kid}")),
            ("c keys revoke Qf -q --no-wait".to_owned(), "c keys revoke Qf -q --no-wait".to_owned()),
        ] {
            assert_eq!(settled(&line), expected);
        }
    }
}
