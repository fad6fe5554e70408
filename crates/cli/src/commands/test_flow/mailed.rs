//! The mail that shows an address to be its owner's, where `dev` keeps mails as files.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How often the outbox is looked into.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A mailed token and the file that it is in.
pub(super) struct Mailed {
    pub(super) token: String,
    pub(super) file: PathBuf,
}

/// Waits for a mail to `email` with a link that verifies it; none when `patience` is over.
pub(super) async fn wait_for(outbox: &Path, email: &str, patience: Duration) -> io::Result<Option<Mailed>> {
    let until = Instant::now() + patience;
    loop {
        if let Some(mailed) = look(outbox, email)? {
            return Ok(Some(mailed));
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The latest of such mails.
fn look(outbox: &Path, email: &str) -> io::Result<Option<Mailed>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(outbox)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "eml") {
            files.push(path);
        }
    }
    // Their names sort by time.
    files.sort();
    for file in files.into_iter().rev() {
        if let Some(token) = token_in(&fs::read_to_string(&file)?, email) {
            return Ok(Some(Mailed { token, file }));
        }
    }
    Ok(None)
}

/// The token of the link in a mail to this address.
fn token_in(mail: &str, email: &str) -> Option<String> {
    let to = mail.lines().take_while(|line| !line.is_empty()).find_map(|line| line.strip_prefix("To: "))?;
    if !to.trim_matches(['<', '>']).eq_ignore_ascii_case(email) {
        return None;
    }
    let link = mail.lines().find(|line| line.starts_with("http") && line.contains("verify"))?;
    let (_, token) = link.split_once("token=")?;
    let end = token.find(['&', '#']).unwrap_or(token.len());
    Some(token[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_link_that_verifies_this_address_is_taken() {
        let mail = |to: &str, link: &str| format!("From: <a@b.example>\r\nTo: {to}\r\n\r\nHello\r\n{link}\r\n");
        let verify = "http://127.0.0.1:7490/auth/verify-email?token=abc_-9";
        for (to, link, wanted) in [
            ("<ann@shop.example>", verify, Some("abc_-9")),
            ("ann@shop.example", "https://shop.example/verify?token=abc&x=1", Some("abc")),
            ("bob@shop.example", verify, None),
            ("ann@shop.example", "http://127.0.0.1:7490/auth/reset-password?token=abc", None),
        ] {
            assert_eq!(token_in(&mail(to, link), "ann@shop.example").as_deref(), wanted, "{to} {link}");
        }
    }
}
