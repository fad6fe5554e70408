//! A mail server, as far as a sender can tell.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tempfile::TempDir;

use super::{super::service::Service, Mails};

/// It takes every mail and keeps it as a file.
pub(crate) struct MailServer {
    service: Service,
    mails: Mails,
    _directory: TempDir,
}

impl MailServer {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (to, count) = (directory.path().to_owned(), Arc::<AtomicU64>::default());
        let service = Service::start(move |connection| {
            let next = || to.join(count.fetch_add(1, Ordering::Relaxed).to_string());
            // A sender that goes away is none of ours.
            let _ = take(connection, &next);
        });
        Self { service, mails: Mails::of(directory.path().to_owned()), _directory: directory }
    }

    pub(crate) fn mails(&self) -> &Mails {
        &self.mails
    }

    /// The variables by which a program sends through it.
    pub(crate) fn environment(&self) -> [(String, String); 4] {
        let (host, port) = self.service.address().split_once(':').unwrap();
        [("SMTP_HOST", host), ("SMTP_PORT", port), ("SMTP_TLS", "none"), ("SMTP_FROM_EMAIL", "no-reply@shop.example")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
    }
}

/// Takes one mail after the other (RFC 5321); `None` when the sender is gone.
fn take(connection: TcpStream, next: &dyn Fn() -> PathBuf) -> Option<()> {
    let mut reader = BufReader::new(connection);
    reader.get_mut().write_all(b"220 mail.example\r\n").ok()?;
    loop {
        let command = line(&mut reader)?.to_ascii_uppercase();
        let answer = match command.get(..4)? {
            "DATA" => {
                reader.get_mut().write_all(b"354 go on\r\n").ok()?;
                keep(&mut reader, &next())?;
                "250 taken"
            }
            "QUIT" => "221 good bye",
            _ => "250 well",
        };
        reader.get_mut().write_all(format!("{answer}\r\n").as_bytes()).ok()?;
    }
}

/// Writes a mail under a name that no reader of `*.eml` knows, then gives it its own.
fn keep(reader: &mut BufReader<TcpStream>, path: &Path) -> Option<()> {
    let mut mail = String::new();
    loop {
        let line = line(reader)?;
        if line == ".\r\n" {
            break;
        }
        mail.push_str(line.strip_prefix('.').unwrap_or(&line));
    }
    fs::write(path, mail).ok()?;
    fs::rename(path, path.with_extension("eml")).ok()
}

fn line(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    (reader.read_line(&mut line).ok()? > 0).then_some(line)
}
