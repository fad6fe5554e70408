//! What a process tells of itself: the flags of its log and its traces, and what they mean.

use std::{ffi::OsString, io::IsTerminal as _};

use countersign_telemetry::{Endpoint, Format, InvalidEndpoint};
use tracing_subscriber::{EnvFilter, filter::ParseError};

use crate::{Failure, InvalidLogLevel, log_filter, variables::is_given};

const LOG_LEVEL: &str = "log-level";
const OTLP_ENDPOINT: &str = "otlp-endpoint";

/// Flags whose variable has a name that every program knows, each with the one that it has beside that as all our flags have.
pub(crate) const OUR_VARIABLES: [(&str, &str); 2] =
    [(LOG_LEVEL, "COUNTERSIGN_LOG_LEVEL"), (OTLP_ENDPOINT, "COUNTERSIGN_OTLP_ENDPOINT")];

/// The flags of log and traces.
#[derive(Clone, Debug, clap::Args)]
pub struct TellingFlags {
    /// Collector that gets traces (OTLP over HTTP), as http://otel-collector:4318; without it none are made (also from
    /// COUNTERSIGN_OTLP_ENDPOINT, which counts more)
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
    /// Least severe messages to log: error, warn, info, debug, trace or off, or per module as `info,hyper=warn` (also
    /// from COUNTERSIGN_LOG_LEVEL, which counts more)
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "LOG_LEVEL")]
    pub log_level: String,
    /// Log lines as `text` or `json`
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"], env = "COUNTERSIGN_LOG_FORMAT")]
    pub log_format: String,
}

/// What is logged, and where traces go.
#[derive(Debug)]
pub struct Telling {
    pub(crate) filter: EnvFilter,
    pub(crate) format: Format,
    pub(crate) collector: Option<Endpoint>,
}

/// What is wrong with the flags.
#[derive(Debug, thiserror::Error)]
pub enum TellingError {
    /// Not a level.
    #[error("--log-level: {0}")]
    LogLevel(#[from] InvalidLogLevel),
    /// A level, and not of anything.
    #[error("--log-level: {0}")]
    Filter(#[from] ParseError),
    /// Not a collector.
    #[error("--otlp-endpoint: {0}")]
    Collector(#[from] InvalidEndpoint),
}

impl TellingError {
    /// The flag that it is about.
    pub const fn flag(&self) -> &'static str {
        match self {
            Self::LogLevel(_) | Self::Filter(_) => LOG_LEVEL,
            Self::Collector(_) => OTLP_ENDPOINT,
        }
    }
}

impl Telling {
    /// What the flags of `command` say, and variables in their place.
    pub fn of(flags: &TellingFlags, command: &clap::Command) -> Result<Self, Failure> {
        let arguments: Vec<OsString> = std::env::args_os().collect();
        let ours = |flag: &str| our_variable(flag, &arguments, &|name| std::env::var(name).ok());
        let mut flags = flags.clone();
        if let Some((_, level)) = ours(LOG_LEVEL) {
            flags.log_level = level;
        }
        if let Some((_, endpoint)) = ours(OTLP_ENDPOINT) {
            flags.otlp_endpoint = Some(endpoint);
        }
        Self::try_from(&flags).map_err(|error| match ours(error.flag()) {
            Some((variable, _)) => Failure::Variable { variable: variable.to_owned(), error: error.to_string() },
            None => Failure::of_flag(command, Some(error.flag()), error),
        })
    }
}

/// The variable of ours that gives a flag its value, and the value: where the arguments don't have the flag.
fn our_variable(
    flag: &str,
    arguments: &[OsString],
    set: &dyn Fn(&str) -> Option<String>,
) -> Option<(&'static str, String)> {
    let (_, variable) = OUR_VARIABLES.into_iter().find(|(known, _)| *known == flag)?;
    let value = set(variable).filter(|value| !value.is_empty() && !is_given(flag, arguments))?;
    Some((variable, value))
}

impl TryFrom<&TellingFlags> for Telling {
    type Error = TellingError;

    fn try_from(flags: &TellingFlags) -> Result<Self, TellingError> {
        let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        // An empty variable says nothing.
        let collector = flags.otlp_endpoint.as_deref().filter(|endpoint| !endpoint.is_empty());
        Ok(Self {
            filter: EnvFilter::try_new(log_filter(&flags.log_level)?)?,
            format: if flags.log_format == "json" { Format::Json } else { Format::Text { colours } },
            collector: collector.map(str::parse).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        telling: TellingFlags,
    }

    #[test]
    fn each_mistake_names_its_flag_and_an_empty_collector_is_none() {
        let telling = |arguments: &[&str]| {
            let flags = Flags::try_parse_from(["process"].iter().chain(arguments)).unwrap();
            Telling::try_from(&flags.telling)
        };
        for (arguments, named) in
            [(&["--log-level", "bogus"][..], "log-level"), (&["--otlp-endpoint", "otel-collector:4318"], "otlp-endpoint")]
        {
            let error = telling(arguments).unwrap_err();
            assert_eq!(error.flag(), named);
            assert!(error.to_string().starts_with(&format!("--{named}: ")), "{error}");
        }
        let plain = telling(&["--otlp-endpoint=", "--log-format", "json"]).unwrap();
        assert_eq!((plain.collector, plain.format), (None, Format::Json));
        assert_eq!(plain.filter.to_string(), "info");
    }

    #[test]
    fn each_flag_has_a_variable_of_ours_too_and_what_is_typed_counts_more() {
        let set = |name: &str| (name == "COUNTERSIGN_LOG_LEVEL").then(|| "debug".to_owned());
        for (flag, arguments, found) in [
            ("log-level", &[][..], Some(("COUNTERSIGN_LOG_LEVEL", "debug".to_owned()))),
            ("log-level", &["--log-level", "warn"], None),
            ("log-level", &["--log-level=warn"], None),
            ("otlp-endpoint", &[], None),
            ("log-format", &[], None),
        ] {
            let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
            assert_eq!(our_variable(flag, &arguments, &set), found, "{flag} {arguments:?}");
        }
    }
}
