//! A mail server: how to reach it, and handing it a mail.

use std::{collections::BTreeMap, fmt, net::IpAddr, time::Duration};

use countersign_jwks::{OutboundError, Reach};
use lettre::{
    Message,
    message::Mailbox,
    transport::smtp::{
        authentication::{Credentials, DEFAULT_MECHANISMS},
        client::{AsyncSmtpConnection, TlsParameters},
        extension::ClientId,
    },
};
use tokio::net::ToSocketAddrs;
use zeroize::Zeroizing;

use super::SendError;

/// How long each step with the server may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The port for mails of programs (RFC 6409), and the same in TLS from the first byte (RFC 8314).
const SUBMISSION: u16 = 587;
const SUBMISSIONS: u16 = 465;

/// Whether what is said to a mail server is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmtpTls {
    /// By STARTTLS, or nothing is sent.
    Required,
    /// By STARTTLS if the server offers it.
    Opportunistic,
    /// From the first byte.
    Implicit,
    /// Not at all.
    None,
}

/// How to reach a mail server. `Debug` hides the password.
#[derive(Clone, PartialEq, Eq)]
pub struct SmtpSettings {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// User name and password, if it wants any.
    pub login: Option<(String, Zeroizing<String>)>,
    /// Encryption.
    pub tls: SmtpTls,
    /// The sender, unless a policy names one.
    pub from: Option<String>,
}

/// What is wrong with a mail server's settings. Repeats no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {what}")]
pub struct InvalidSmtp {
    /// The variable, or the Secret's key.
    pub name: &'static str,
    /// What is wrong.
    pub what: &'static str,
}

/// What the same settings are called in different places.
struct Names {
    host: &'static str,
    port: &'static str,
    user: &'static str,
    password: &'static str,
    tls: &'static str,
    from: Option<&'static str>,
}

const VARIABLES: Names = Names {
    host: "SMTP_HOST",
    port: "SMTP_PORT",
    user: "SMTP_USER",
    password: "SMTP_PASSWORD",
    tls: "SMTP_TLS",
    from: Some("SMTP_FROM_EMAIL"),
};

const KEYS: Names = Names { host: "host", port: "port", user: "username", password: "password", tls: "tls", from: None };

impl SmtpSettings {
    /// From environment variables: `SMTP_HOST`, `SMTP_PORT`, `SMTP_USER`, `SMTP_PASSWORD`, `SMTP_TLS`, `SMTP_FROM_EMAIL`.
    /// Absent without a host. Empty counts as unset.
    pub fn from_variables(read: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, InvalidSmtp> {
        let read = |name: &str| read(name).map(Zeroizing::new);
        if given(&read, VARIABLES.host).is_none() { Ok(None) } else { parse(&VARIABLES, read).map(Some) }
    }

    /// From a policy's Secret, with the keys `host`, `port`, `username`, `password` and `tls`.
    pub fn from_secret(secret: &BTreeMap<String, Zeroizing<String>>) -> Result<Self, InvalidSmtp> {
        parse(&KEYS, |key| secret.get(key).cloned())
    }

    /// The sender: the one that is set, or the user, where that is an address.
    pub(super) fn sender(&self) -> Option<&str> {
        let user = self.login.as_ref().map(|(user, _)| user.as_str()).filter(|user| user.contains('@'));
        self.from.as_deref().or(user)
    }

    /// Hands a mail over. With a reach, to no address beyond it: a policy's server may be anything that its author wrote down.
    pub(super) async fn send(&self, message: &Message, reach: Option<Reach>) -> Result<(), SendError> {
        let handed_over = tokio::time::timeout(TIMEOUT * 4, self.hand_over(message, reach)).await;
        let (mut server, sent) = handed_over.unwrap_or(Err(SendError::Unreachable("took too long")))?;
        // What it took it has, whether or not it answers to the farewell.
        let _ = tokio::time::timeout(TIMEOUT, server.abort()).await;
        sent
    }

    async fn hand_over(
        &self,
        message: &Message,
        reach: Option<Reach>,
    ) -> Result<(AsyncSmtpConnection, Result<(), SendError>), SendError> {
        let mut server = match reach {
            None => self.connect((self.host.as_str(), self.port)).await?,
            // What was looked at is what is connected to, under the name that was written down.
            Some(reach) => {
                self.connect(&reach.addresses(&self.host, self.port).await.map_err(|error| beyond(&error))?[..]).await?
            }
        };
        let sent = self.converse(&mut server, message).await;
        Ok((server, sent.map_err(|error| failure(&error))))
    }

    async fn connect(&self, to: impl ToSocketAddrs) -> Result<AsyncSmtpConnection, SendError> {
        let hello = ClientId::default();
        let parameters =
            || TlsParameters::new(self.host.clone()).map_err(|_| SendError::Unreachable("can't be spoken TLS with"));
        let from_the_start = if self.tls == SmtpTls::Implicit { Some(parameters()?) } else { None };
        let connected = AsyncSmtpConnection::connect_tokio1(to, Some(TIMEOUT), &hello, from_the_start, None).await;
        let mut server = connected.map_err(|error| failure(&error))?;
        let upgrades = match self.tls {
            SmtpTls::Required => true,
            SmtpTls::Opportunistic => server.can_starttls(),
            SmtpTls::Implicit | SmtpTls::None => false,
        };
        if upgrades {
            server.starttls(parameters()?, &hello).await.map_err(|error| failure(&error))?;
        }
        Ok(server)
    }

    async fn converse(
        &self,
        server: &mut AsyncSmtpConnection,
        message: &Message,
    ) -> Result<(), lettre::transport::smtp::Error> {
        if let Some((user, password)) = &self.login {
            let credentials = Credentials::new(user.clone(), password.to_string());
            server.auth(DEFAULT_MECHANISMS, &credentials).await?;
        }
        server.send(message.envelope(), &message.formatted()).await.map(drop)
    }
}

/// Why none of a server's addresses is connected to.
fn beyond(error: &OutboundError) -> SendError {
    match error {
        OutboundError::PrivateAddress => SendError::Forbidden("private or loopback: --smtp-allow-private permits those"),
        OutboundError::MetadataAddress => {
            SendError::Forbidden("link-local, or another at which clouds serve metadata: that is never connected to")
        }
        OutboundError::NotHttps | OutboundError::Transport(_) => SendError::Unreachable("has no address"),
    }
}

/// What a failure was, without the server's own words: they may repeat the recipient.
fn failure(error: &lettre::transport::smtp::Error) -> SendError {
    match error.status() {
        Some(code) if error.is_permanent() => SendError::Refused(code.to_string()),
        Some(_) => SendError::Unreachable("can't take the mail now"),
        None if error.is_timeout() => SendError::Unreachable("took too long"),
        None if error.is_tls() => SendError::Unreachable("can't be spoken TLS with"),
        None if error.is_client() => SendError::Refused("what this client can't do".to_owned()),
        None => SendError::Unreachable("can't be reached"),
    }
}

fn given(read: &impl Fn(&str) -> Option<Zeroizing<String>>, name: &str) -> Option<Zeroizing<String>> {
    read(name).filter(|value| !value.is_empty())
}

fn parse(names: &Names, read: impl Fn(&str) -> Option<Zeroizing<String>>) -> Result<SmtpSettings, InvalidSmtp> {
    fn wrong<T>(name: &'static str, what: &'static str) -> Result<T, InvalidSmtp> {
        Err(InvalidSmtp { name, what })
    }
    let text = |name: &'static str| match given(&read, name) {
        Some(value) if value.chars().any(char::is_control) => wrong(name, "has control characters"),
        value => Ok(value.map(|value| value.trim().to_owned())),
    };
    let Some(host) = text(names.host)?.filter(|host| !host.is_empty()) else {
        return wrong(names.host, "is missing");
    };
    if host.contains(['/', ':', '@', ' ']) && host.parse::<IpAddr>().is_err() {
        return wrong(names.host, "is neither a host's name nor an address");
    }
    let tls = match text(names.tls)?.map(|word| word.to_ascii_lowercase()).as_deref() {
        None if is_loopback(&host) => SmtpTls::Opportunistic,
        None | Some("required") => SmtpTls::Required,
        Some("opportunistic") => SmtpTls::Opportunistic,
        Some("implicit") => SmtpTls::Implicit,
        Some("none") => SmtpTls::None,
        Some(_) => return wrong(names.tls, "is none of required, opportunistic, implicit and none"),
    };
    let port = match text(names.port)?.map(|port| port.parse::<u16>()) {
        None if tls == SmtpTls::Implicit => SUBMISSIONS,
        None => SUBMISSION,
        Some(Ok(port)) if port > 0 => port,
        Some(_) => return wrong(names.port, "is no port"),
    };
    let login = match (text(names.user)?, given(&read, names.password)) {
        (None, None) => None,
        (Some(user), Some(password)) => Some((user, password)),
        (Some(_), None) => return wrong(names.password, "is missing, though there is a user name"),
        (None, Some(_)) => return wrong(names.user, "is missing, though there is a password"),
    };
    let from = names.from.map(|name| Ok::<_, InvalidSmtp>((name, text(name)?))).transpose()?;
    let from = match from {
        Some((name, Some(from))) if from.parse::<Mailbox>().is_err() => return wrong(name, "is no sender of a mail"),
        Some((_, from)) => from,
        None => None,
    };
    Ok(SmtpSettings { host, port, login, tls, from })
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

impl fmt::Debug for SmtpSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, login, tls, from } = self;
        let login = login.as_ref().map(|(user, _)| user);
        write!(f, "SmtpSettings({host}:{port}, login: {login:?}, tls: {tls:?}, from: {from:?})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Result<Option<SmtpSettings>, InvalidSmtp> {
        SmtpSettings::from_variables(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn a_server_is_encrypted_unless_it_is_this_machine_or_told_otherwise() {
        for (pairs, tls, port) in [
            (&[("SMTP_HOST", "mail.example")][..], SmtpTls::Required, 587),
            (&[("SMTP_HOST", "localhost"), ("SMTP_PORT", "1025")], SmtpTls::Opportunistic, 1025),
            (&[("SMTP_HOST", "127.0.0.1"), ("SMTP_TLS", "required")], SmtpTls::Required, 587),
            (&[("SMTP_HOST", "::1")], SmtpTls::Opportunistic, 587),
            (&[("SMTP_HOST", "mail.example"), ("SMTP_TLS", "Implicit")], SmtpTls::Implicit, 465),
            (&[("SMTP_HOST", "mail.example"), ("SMTP_TLS", "none"), ("SMTP_PORT", "25")], SmtpTls::None, 25),
        ] {
            let found = variables(pairs).unwrap().unwrap();
            assert_eq!((found.tls, found.port), (tls, port), "{pairs:?}");
        }
        assert_eq!(variables(&[("SMTP_HOST", ""), ("SMTP_PORT", "x")]), Ok(None));
    }

    #[test]
    fn what_is_wrong_is_named_and_no_value_repeated() {
        const HOST: (&str, &str) = ("SMTP_HOST", "mail.example");
        for (pairs, name) in [
            (&[("SMTP_HOST", "smtp://mail.example")][..], "SMTP_HOST"),
            (&[HOST, ("SMTP_PORT", "0")], "SMTP_PORT"),
            (&[HOST, ("SMTP_PORT", "mail")], "SMTP_PORT"),
            (&[HOST, ("SMTP_TLS", "yes")], "SMTP_TLS"),
            (&[HOST, ("SMTP_USER", "ann")], "SMTP_PASSWORD"),
            (&[HOST, ("SMTP_PASSWORD", "s3cret")], "SMTP_USER"),
            (&[HOST, ("SMTP_USER", "a\r\nb"), ("SMTP_PASSWORD", "s3cret")], "SMTP_USER"),
            (&[HOST, ("SMTP_FROM_EMAIL", "nobody")], "SMTP_FROM_EMAIL"),
            (&[HOST, ("SMTP_FROM_EMAIL", "a@b.example\r\nBcc: x@y.example")], "SMTP_FROM_EMAIL"),
        ] {
            let error = variables(pairs).unwrap_err();
            assert_eq!(error.name, name, "{pairs:?}");
            assert!(!error.to_string().contains("s3cret"));
        }
        let good = variables(&[HOST, ("SMTP_USER", "ann"), ("SMTP_PASSWORD", "s3cret")]).unwrap().unwrap();
        assert!(!format!("{good:?}").contains("s3cret"), "{good:?}");
    }

    #[test]
    fn a_policy_s_secret_says_the_same_in_other_words() {
        let secret = |pairs: &[(&str, &str)]| {
            let secret = pairs.iter().map(|(k, v)| ((*k).to_owned(), Zeroizing::new((*v).to_owned()))).collect();
            SmtpSettings::from_secret(&secret)
        };
        let found =
            secret(&[("host", "mail.example"), ("username", "ann"), ("password", "x"), ("tls", "implicit")]).unwrap();
        assert_eq!((found.port, found.login.is_some(), found.from), (465, true, None));
        assert_eq!(secret(&[]).unwrap_err().to_string(), "host: is missing");
    }

    proptest! {
        #[test]
        fn no_setting_s_text_makes_it_panic(values in prop::array::uniform6(".{0,20}")) {
            let names = ["SMTP_HOST", "SMTP_PORT", "SMTP_USER", "SMTP_PASSWORD", "SMTP_TLS", "SMTP_FROM_EMAIL"];
            let pairs: Vec<(&str, &str)> = names.into_iter().zip(values.iter().map(String::as_str)).collect();
            if let Ok(Some(found)) = variables(&pairs) {
                prop_assert!(found.port > 0 && !found.host.is_empty());
                prop_assert!(found.from.is_none_or(|from| !from.contains(['\r', '\n'])));
            }
        }
    }
}
