//! Asking a person, where there is one.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use crate::{Session, failure::Failure};

/// Asks on a terminal; the answer, trimmed. None where there is no terminal to ask on.
pub(crate) fn ask(question: &str) -> Result<Option<String>, Failure> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(None);
    }
    let mut line = String::new();
    write!(std::io::stderr(), "{question} ")
        .and_then(|()| std::io::stdin().lock().read_line(&mut line))
        .map_err(|e| Failure::usage(format!("can't ask: {e}")))?;
    Ok(Some(line.trim().to_owned()))
}

/// Asks for consent on a terminal; elsewhere only `--yes` is consent.
pub(crate) fn confirm(session: &Session, question: &str) -> Result<(), Failure> {
    if session.common.yes {
        return Ok(());
    }
    match ask(&format!("{question} [y/N]"))?.as_deref() {
        Some("y" | "Y" | "yes") => Ok(()),
        Some(_) => Err(Failure::no("nothing was changed")),
        None => Err(Failure::usage(format!("{question} There is no terminal to ask on")).fix("say yes with --yes")),
    }
}
