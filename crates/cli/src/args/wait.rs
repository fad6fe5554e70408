//! `--wait`, whose value must be joined to it.
//!
//! `--wait` alone is allowed, so what follows it after a space is another argument: `revoke subject alice --wait 30s` would
//! end the tokens of a subject called `30s`. Nobody means that.

use std::ffi::OsString;

use crate::span::Span;

/// What is wrong with a command line that has a length of time after `--wait `.
pub(crate) fn separated_wait(arguments: &[OsString]) -> Option<String> {
    let options = arguments.iter().take_while(|argument| *argument != "--");
    let following = arguments.iter().skip(1);
    options.zip(following).find_map(|(argument, next)| {
        let next = next.to_str()?;
        let is_length = argument == "--wait" && next.parse::<Span>().is_ok();
        is_length
            .then(|| format!("--wait takes its value after `=`: write --wait={next} (or name the ID {next} before it)"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_after_wait_is_no_id() {
        let wrong = |line: &str| separated_wait(&line.split(' ').map(OsString::from).collect::<Vec<_>>()).is_some();
        for line in ["c revoke all --wait 30s", "c revoke subject alice --wait 5m bob", "c keys revoke --wait 1m30s KID"] {
            assert!(wrong(line), "{line}");
        }
        for line in [
            "c revoke all --wait=30s",
            "c revoke all --wait",
            "c revoke subject 30s --wait",
            "c revoke subject --wait alice 30s",
            "c revoke subject alice -- --wait 30s",
        ] {
            assert!(!wrong(line), "{line}");
        }
    }
}
