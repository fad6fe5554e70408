//! Where the database is: a file, or a PostgreSQL server.

use std::{fmt, path::PathBuf, str::FromStr};

use url::Url;

/// Where the database is. Neither `Debug` nor `Display` shows a password.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// An SQLite file.
    File(PathBuf),
    /// A PostgreSQL database.
    Server(Server),
}

/// A PostgreSQL database, by its URL.
#[derive(Clone, PartialEq, Eq)]
pub struct Server(Url);

/// Why a text names no database. The text may hold a password, so it isn't shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLocation {
    /// Of another kind.
    #[error("the database's URL begins with neither sqlite: nor postgresql:")]
    Scheme,
    /// No file named.
    #[error("the database's URL names no file; write sqlite:PATH")]
    NoFile,
    /// Not a URL.
    #[error("the database's URL is none: {0}")]
    Url(#[from] url::ParseError),
}

impl Server {
    pub(crate) fn url(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for Location {
    type Err = InvalidLocation;

    /// Reads a `DATABASE_URL`: `sqlite:PATH`, `sqlite:///PATH` (relative, as SQLAlchemy has it), `sqlite:////PATH`
    /// (absolute), `postgresql://…` or `postgres://…`. A driver behind a plus sign is ignored.
    fn from_str(text: &str) -> Result<Self, InvalidLocation> {
        let (scheme, rest) = text.split_once(':').ok_or(InvalidLocation::Scheme)?;
        let kind = scheme.split_once('+').map_or(scheme, |(kind, _driver)| kind);
        match kind {
            "sqlite" => {
                let path = rest.strip_prefix("///").or_else(|| rest.strip_prefix("//")).unwrap_or(rest);
                let path = path.split_once('?').map_or(path, |(path, _options)| path);
                if path.is_empty() || path == ":memory:" {
                    Err(InvalidLocation::NoFile)
                } else {
                    Ok(Self::File(path.into()))
                }
            }
            "postgresql" | "postgres" => Ok(Self::Server(Server(Url::parse(&format!("postgresql:{rest}"))?))),
            _ => Err(InvalidLocation::Scheme),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Server(server) => fmt::Display::fmt(server, f),
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Server {
    /// Options may hold secrets too, so no more than server and database are shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgresql://")?;
        if let Some(host) = self.0.host_str() {
            f.write_str(host)?;
        }
        if let Some(port) = self.0.port() {
            write!(f, ":{port}")?;
        }
        f.write_str(self.0.path())
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_urls_of_existing_deployments_are_understood() {
        for (text, shown) in [
            ("sqlite:store.db", "store.db"),
            ("sqlite:/var/lib/store.db", "/var/lib/store.db"),
            ("sqlite:///./store.db", "./store.db"),
            ("sqlite+aiosqlite:////var/lib/store.db?mode=rwc", "/var/lib/store.db"),
            ("postgresql://db.example:5433/shop", "postgresql://db.example:5433/shop"),
            ("postgres+asyncpg://db.example/shop", "postgresql://db.example/shop"),
        ] {
            assert_eq!(text.parse::<Location>().unwrap().to_string(), shown, "{text}");
        }
        for (text, why) in [
            ("mysql://db.example/shop", InvalidLocation::Scheme),
            ("store.db", InvalidLocation::Scheme),
            ("sqlite://", InvalidLocation::NoFile),
            ("sqlite:///:memory:", InvalidLocation::NoFile),
        ] {
            assert_eq!(text.parse::<Location>(), Err(why), "{text}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let location: Location = "postgresql+psycopg2://shop:hunter2@db.example/shop?password=hunter2".parse().unwrap();
        for shown in [format!("{location}"), format!("{location:?}")] {
            assert_eq!(shown, "postgresql://db.example/shop");
        }
    }
}
