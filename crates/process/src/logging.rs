//! Which messages are logged, by the names that people know from elsewhere too. For every process of Countersign alike.

/// The words for levels, and what they mean here.
const LEVELS: [(&str, &str); 10] = [
    ("off", "off"),
    ("error", "error"),
    ("critical", "error"),
    ("fatal", "error"),
    ("warn", "warn"),
    ("warning", "warn"),
    ("info", "info"),
    ("debug", "debug"),
    ("trace", "trace"),
    ("notset", "trace"),
];

/// A text that says not what to log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no level: say error, warn, info, debug, trace or off (the words WARNING and CRITICAL are known too), or one per \
     module as `info,hyper=warn`"
)]
pub struct InvalidLogLevel(String);

/// A level, or levels per module, as a `tracing` filter. A bare word that is no level is an error: a filter would take it for
/// a module's name, and log nothing else.
pub fn log_filter(text: &str) -> Result<String, InvalidLogLevel> {
    let wrong = || InvalidLogLevel(text.to_owned());
    let parts: Option<Vec<String>> =
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(directive).collect();
    match parts {
        Some(parts) if !parts.is_empty() => Ok(parts.join(",")),
        _ => Err(wrong()),
    }
}

fn directive(part: &str) -> Option<String> {
    match part.rsplit_once('=') {
        None => level(part).map(str::to_owned),
        Some((module, word)) => {
            let is_path = !module.is_empty() && module.bytes().all(|b| b.is_ascii_alphanumeric() || b"_:-".contains(&b));
            level(word.trim()).filter(|_| is_path).map(|level| format!("{module}={level}"))
        }
    }
}

fn level(word: &str) -> Option<&'static str> {
    LEVELS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(_, level)| *level)
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::EnvFilter;

    use super::*;

    #[test]
    fn a_level_is_known_by_every_name_that_it_has() {
        for (text, filter) in [
            ("info", "info"),
            ("WARNING", "warn"),
            ("Warn", "warn"),
            ("CRITICAL", "error"),
            ("off", "off"),
            ("info,hyper=WARNING", "info,hyper=warn"),
            (" warn , countersign_feed::redis=debug ,", "warn,countersign_feed::redis=debug"),
        ] {
            assert_eq!(log_filter(text).as_deref(), Ok(filter), "{text}");
            assert!(EnvFilter::try_new(filter).is_ok(), "{filter}");
        }
    }

    #[test]
    fn a_word_that_is_no_level_is_refused_and_never_taken_for_a_module() {
        for text in ["", ",", "bogus", "loud", "=loud=", "info,bogus", "hyper=loud", "=info", "a b=info", "hyper="] {
            assert_eq!(log_filter(text), Err(InvalidLogLevel(text.to_owned())));
        }
    }
}
