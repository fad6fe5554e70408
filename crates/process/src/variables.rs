//! Which environment variables a command line knows: to say whose a wrong value is, and which name is misspelt.

use std::{collections::BTreeSet, ffi::OsString};

/// What every variable of Countersign's flags begins with.
const PREFIX: &str = "COUNTERSIGN_";

/// How many letters apart two names may be for one to be a slip of the other.
const A_SLIP: usize = 3;

/// The variable that gave a flag its value: the one of `--long`, where the arguments don't have that flag.
pub fn variable_behind(command: &clap::Command, long: &str, arguments: &[OsString]) -> Option<String> {
    if is_given(long, arguments) {
        return None;
    }
    let variable = variable_of(command, long)?;
    std::env::var_os(&variable).is_some().then_some(variable)
}

/// Whether the arguments have the flag `--long`.
pub(crate) fn is_given(long: &str, arguments: &[OsString]) -> bool {
    let flag = format!("--{long}");
    arguments
        .iter()
        .filter_map(|argument| argument.to_str())
        .any(|argument| argument.strip_prefix(&flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('=')))
}

fn variable_of(command: &clap::Command, long: &str) -> Option<String> {
    let own = command.get_arguments().find(|arg| arg.get_long() == Some(long)).and_then(clap::Arg::get_env);
    let own = own.and_then(|name| name.to_str()).map(str::to_owned);
    own.or_else(|| command.get_subcommands().find_map(|sub| variable_of(sub, long)))
}

/// The variables of a command line and of everything below it.
pub fn known_variables(command: &clap::Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter_map(clap::Arg::get_env).filter_map(|name| name.to_str()).map(str::to_owned);
    own.chain(command.get_subcommands().flat_map(known_variables)).collect()
}

/// What to warn of: names of ours in the environment that nobody knows, each with the name that may be meant.
pub fn unknown_variables(known: &BTreeSet<String>, names: impl IntoIterator<Item = String>) -> Vec<String> {
    let ours = names.into_iter().filter(|name| name.starts_with(PREFIX) && !known.contains(name) && !is_kubelet_s(name));
    let sentence = |name: String| {
        let nearest = known.iter().map(|other| (distance(&name, other), other)).min();
        match nearest.filter(|(apart, other)| *apart <= A_SLIP || name.starts_with(other.as_str())) {
            Some((_, other)) => format!("{name} in the environment means nothing; is {other} meant?"),
            None => format!("{name} in the environment means nothing"),
        }
    };
    ours.map(sentence).collect()
}

/// A kubelet tells every container of the Services in its namespace: `NAME_SERVICE_HOST`, `NAME_PORT_443_TCP_ADDR` and such.
fn is_kubelet_s(name: &str) -> bool {
    name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name.split_once("_PORT_").is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Letters to put in, leave out or change from one text to the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let changed = before + usize::from(from != *to);
            before = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(before + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use clap::{Arg, Command};

    use super::*;

    fn command() -> Command {
        let flag = |long: &'static str, variable: &'static str| Arg::new(long).long(long).env(variable);
        Command::new("one")
            .arg(flag("listen", "COUNTERSIGN_LISTEN"))
            .arg(flag("redis", "COUNTERSIGN_REDIS"))
            .subcommand(Command::new("below").arg(flag("log-level", "LOG_LEVEL")))
    }

    #[test]
    fn a_misspelt_name_is_told_and_a_kubelet_s_is_not() {
        let known = known_variables(&command());
        assert!(known.contains("COUNTERSIGN_LISTEN") && known.contains("LOG_LEVEL"));
        let warned = |name: &str| unknown_variables(&known, [name.to_owned()]);
        for (name, said) in [
            ("COUNTERSIGN_LISTN", Some("COUNTERSIGN_LISTEN")),
            ("COUNTERSIGN_REDIS_URL", Some("COUNTERSIGN_REDIS")),
            ("COUNTERSIGN_ENTIRELY_ELSE", Some("means nothing")),
            ("COUNTERSIGN_LISTEN", None),
            ("COUNTERSIGN_VERIFIER_SERVICE_HOST", None),
            ("COUNTERSIGN_VERIFIER_SERVICE_PORT_HTTP", None),
            ("COUNTERSIGN_VERIFIER_PORT", None),
            ("COUNTERSIGN_VERIFIER_PORT_7480_TCP_ADDR", None),
            ("PATH", None),
        ] {
            match (warned(name).as_slice(), said) {
                ([], None) => {}
                ([one], Some(said)) => assert!(one.contains(name) && one.contains(said), "{one}"),
                (other, _) => panic!("{name}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_flag_that_was_given_is_nobody_else_s() {
        let command = command();
        assert_eq!(variable_of(&command, "listen").as_deref(), Some("COUNTERSIGN_LISTEN"));
        let given = [OsString::from("--listen=x")];
        assert_eq!(variable_behind(&command, "listen", &given), None);
    }
}
