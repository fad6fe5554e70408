//! What mails say. Nothing in them was typed by whoever caused them, so nobody can use us to send words of their own.

use std::{borrow::Cow, fmt::Write as _};

use lettre::{
    Message,
    message::{
        Body, Mailbox, MultiPart, SinglePart,
        header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue},
    },
};
use uuid::Uuid;

use super::SendError;

/// What a mail is about.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Confirm the address of a new account.
    VerifyAddress {
        /// The page that does.
        link: String,
        /// How long it works, milliseconds.
        valid_for_ms: i64,
    },
    /// Confirm another address of an account.
    ConfirmNewAddress {
        /// The page that does.
        link: String,
        /// How long it works, milliseconds.
        valid_for_ms: i64,
    },
    /// Set a new password.
    ResetPassword {
        /// The page that does.
        link: String,
        /// How long it works, milliseconds.
        valid_for_ms: i64,
    },
    /// Choose a password for an account that an administrator made.
    Invitation {
        /// The page that does.
        link: String,
        /// How long it works, milliseconds.
        valid_for_ms: i64,
    },
    /// Somebody tried to register with the address of an account.
    AlreadyRegistered,
    /// Another address was entered for the account, and waits for its link; told to the present one.
    AddressChangeAsked,
    /// The account has another address now; told to the old one.
    AddressChanged,
    /// A code to log in with.
    SecondFactorCode {
        /// It.
        code: String,
        /// How long it works, milliseconds.
        valid_for_ms: i64,
    },
    /// The account has no second factor any more.
    SecondFactorRemoved,
    /// Codes go to another telephone number.
    PhoneChanged,
    /// The account takes no logins for a while.
    AccountLocked {
        /// For how long, milliseconds.
        for_ms: i64,
    },
}

impl std::fmt::Debug for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.words().subject)
    }
}

/// A mail's content.
pub(crate) struct Letter {
    pub(crate) subject: &'static str,
    pub(crate) text: String,
    pub(crate) html: String,
    /// The link in it.
    pub(crate) link: Option<String>,
}

struct Words<'a> {
    subject: &'static str,
    before: &'static str,
    /// The one line that matters.
    line: Option<&'a str>,
    is_link: bool,
    after: Cow<'static, str>,
}

/// The longest line of a mail, bytes.
const MAX_LINE: usize = 998;

const NOT_YOU: &str = "If it wasn't you, ignore this mail: nothing happens without";

impl Notice {
    /// The mail.
    pub(crate) fn letter(&self) -> Letter {
        let Words { subject, before, line, is_link, after } = self.words();
        let mut text = format!("{before}\n\n");
        let mut html = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{subject}</title></head>\n<body>\n<p>{}</p>\n",
            escaped(before)
        );
        if let Some(line) = line {
            text.push_str(line);
            text.push_str("\n\n");
            let shown = escaped(line);
            let _ = if is_link {
                writeln!(html, "<p><a href=\"{shown}\">{shown}</a></p>")
            } else {
                writeln!(html, "<p><strong>{shown}</strong></p>")
            };
        }
        text.push_str(&after);
        text.push('\n');
        html.push_str("<p>");
        html.push_str(&escaped(&after));
        html.push_str("</p>\n</body></html>\n");
        Letter { subject, text, html, link: line.filter(|_| is_link).map(str::to_owned) }
    }

    fn words(&self) -> Words<'_> {
        let link = |subject, before, link, valid_for_ms: &i64| Words {
            subject,
            before,
            line: Some(link),
            is_link: true,
            after: format!("The link works once, for {}. {NOT_YOU} it.", span(*valid_for_ms)).into(),
        };
        match self {
            Self::VerifyAddress { link: page, valid_for_ms } => link(
                "Confirm your e-mail address",
                "An account was made with this e-mail address. Confirm that it is yours:",
                page,
                valid_for_ms,
            ),
            Self::ConfirmNewAddress { link: page, valid_for_ms } => link(
                "Confirm your new e-mail address",
                "This e-mail address was entered for an account. Confirm that it is yours:",
                page,
                valid_for_ms,
            ),
            Self::ResetPassword { link: page, valid_for_ms } => link(
                "Reset your password",
                "Somebody, probably you, asked for a new password for your account. Choose one here:",
                page,
                valid_for_ms,
            ),
            Self::Invitation { link: page, valid_for_ms } => link(
                "Your new account",
                "An account was made for you. Choose a password for it:",
                page,
                valid_for_ms,
            ),
            Self::AlreadyRegistered => Words {
                subject: "You have an account already",
                before: "Somebody, probably you, tried to make an account with this e-mail address. There is one already.",
                line: None,
                is_link: false,
                after: "Log in with it, or ask for a new password if you have forgotten yours. If it wasn't you, there is \
                        nothing to do: your account is unchanged."
                    .into(),
            },
            Self::AddressChangeAsked => Words {
                subject: "Another e-mail address was entered for your account",
                before: "Somebody, probably you, asked to change the e-mail address of your account. It is changed once the \
                         link that was mailed to the other address is used.",
                line: None,
                is_link: false,
                after: "If it wasn't you, somebody else is logged in to your account: change your password at once. That ends \
                        their session, and the link works no more."
                    .into(),
            },
            Self::AddressChanged => Words {
                subject: "Your e-mail address was changed",
                before: "The e-mail address of your account was changed to another one. Mails will go there from now on.",
                line: None,
                is_link: false,
                after: "If it wasn't you, tell whoever runs this service at once.".into(),
            },
            Self::SecondFactorCode { code, valid_for_ms } => Words {
                subject: "Your code",
                before: "Enter this code to finish logging in:",
                line: Some(code),
                is_link: false,
                after: format!(
                    "It works once, for {}. Nobody who is honest will ever ask you for it. If you aren't logging in, somebody \
                     knows your password: change it.",
                    span(*valid_for_ms)
                )
                .into(),
            },
            Self::SecondFactorRemoved => Words {
                subject: "Your second factor was turned off",
                before: "Logging in to your account takes your password alone from now on.",
                line: None,
                is_link: false,
                after: "If it was neither you nor somebody whom you asked, change your password and tell whoever runs this \
                        service at once."
                    .into(),
            },
            Self::PhoneChanged => Words {
                subject: "Your telephone number was changed",
                before: "Codes to log in to your account with can be sent to another telephone number from now on.",
                line: None,
                is_link: false,
                after: "If it wasn't you, change your password, take the number away and tell whoever runs this service at once."
                    .into(),
            },
            Self::AccountLocked { for_ms } => Words {
                subject: "Your account is locked for a while",
                before: "Too many wrong passwords or codes were entered for your account.",
                line: None,
                is_link: false,
                after: format!(
                    "It takes no new logins for {}. A new password lifts that at once. If it wasn't you, your password has \
                     not been found, but somebody is looking for it.",
                    span(*for_ms)
                )
                .into(),
            },
        }
    }
}

/// A length of time in words, rounded down to what it can at least be relied on for.
fn span(ms: i64) -> String {
    let minutes = (ms / 60_000).max(1);
    let (count, unit) = match minutes {
        m if m >= 2 * 24 * 60 => (m / (24 * 60), "days"),
        m if m >= 2 * 60 => (m / 60, "hours"),
        60 => (1, "hour"),
        1 => (1, "minute"),
        m => (m, "minutes"),
    };
    format!("{count} {unit}")
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

/// The message itself, in plain text and as HTML.
pub(super) fn message(
    from: Mailbox,
    to: Mailbox,
    subject: &'static str,
    text: String,
    html: String,
) -> Result<Message, SendError> {
    let id = format!("<{}@{}>", Uuid::now_v7(), from.email.domain());
    // RFC 3834: nobody's absence answers it.
    let automatic = HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned());
    let builder = Message::builder().from(from).to(to).subject(subject).message_id(Some(id)).raw_header(automatic);
    let part = |kind, content| SinglePart::builder().header(kind).body(body(content));
    let parts = MultiPart::alternative().singlepart(part(ContentType::TEXT_PLAIN, text));
    builder.multipart(parts.singlepart(part(ContentType::TEXT_HTML, html))).map_err(|_| SendError::Message)
}

/// A part as it stands, where the mail's rules let it (RFC 5322 section 2.1.1): a link in a kept mail can then be copied.
fn body(content: String) -> Body {
    if content.is_ascii() && content.lines().all(|line| line.len() <= MAX_LINE) {
        let lines: String = content.lines().flat_map(|line| [line, "\r\n"]).collect();
        Body::dangerous_pre_encoded(lines.into_bytes(), ContentTransferEncoding::SevenBit)
    } else {
        Body::new(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: &str = "https://auth.shop.example/auth/reset-password?token=abc&x=\"<";

    fn notices() -> Vec<Notice> {
        let (link, valid_for_ms) = (LINK.to_owned(), 3_600_000);
        vec![
            Notice::VerifyAddress { link: link.clone(), valid_for_ms },
            Notice::ConfirmNewAddress { link: link.clone(), valid_for_ms },
            Notice::ResetPassword { link: link.clone(), valid_for_ms },
            Notice::Invitation { link, valid_for_ms },
            Notice::AlreadyRegistered,
            Notice::AddressChanged,
            Notice::SecondFactorCode { code: "493817".into(), valid_for_ms: 300_000 },
            Notice::AccountLocked { for_ms: 1_800_000 },
            Notice::SecondFactorRemoved,
            Notice::PhoneChanged,
            Notice::AddressChangeAsked,
        ]
    }

    #[test]
    fn every_mail_says_what_it_must_in_text_and_html() {
        for notice in notices() {
            let Letter { subject, text, html, link } = notice.letter();
            assert!(subject.is_ascii() && !subject.contains(['\r', '\n']), "{subject}");
            assert!(text.lines().all(|line| line.len() < 900), "{subject}");
            assert!(html.contains("</html>") && !html.contains("http-equiv"), "{subject}");
            match &link {
                Some(link) => {
                    assert!(text.contains(&format!("\n{link}\n")), "{subject}: the link stands on a line of its own");
                    assert!(
                        html.contains("href=\"https://auth.shop.example/auth/reset-password?token=abc&amp;x=&quot;&lt;\"")
                    );
                }
                None => assert!(!text.contains("http"), "{subject}"),
            }
        }
        let code = &notices()[6];
        assert!(code.letter().text.contains("\n493817\n"));
        assert!(!format!("{code:?}").contains("493817"), "no code in a log");
        assert!(!format!("{:?}", notices()[2]).contains("abc"), "no link in a log");
    }

    #[test]
    fn a_length_of_time_is_said_as_people_say_it() {
        for (ms, said) in [
            (0, "1 minute"),
            (300_000, "5 minutes"),
            (3_599_999, "59 minutes"),
            (3_600_000, "1 hour"),
            (5_400_000, "90 minutes"),
            (86_400_000, "24 hours"),
            (172_800_000, "2 days"),
        ] {
            assert_eq!(span(ms), said);
        }
    }
}
