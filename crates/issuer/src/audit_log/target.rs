//! The audit log's target, and the thread that writes to it: a write may take for ever, and nobody else waits for it.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::AsFd as _,
        unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::Path,
    sync::mpsc,
    thread,
};

use tokio::sync::oneshot;

use super::AuditLog;

/// What became of a text.
#[derive(Debug)]
pub(super) struct Written {
    /// How much of it was written, in whole lines.
    pub(super) bytes: usize,
    /// Why not all.
    pub(super) failed: Option<io::Error>,
}

/// The thread of a target; begun with the first text.
pub(super) struct Thread {
    log: AuditLog,
    texts: Option<mpsc::SyncSender<Asked>>,
}

/// A text, and who wants to know what became of it.
type Asked = (String, oneshot::Sender<Written>);

impl fmt::Display for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.log {
            AuditLog::Stdout => f.write_str("stdout"),
            AuditLog::File(path) => path.display().fmt(f),
        }
    }
}

impl Thread {
    pub(super) const fn of(log: AuditLog) -> Self {
        Self { log, texts: None }
    }

    /// Writes lines, however long that takes. What was written of a line that didn't get through is not written again when
    /// the next text begins with that line.
    pub(super) async fn write(&mut self, lines: String) -> Written {
        let failed = |error| Written { bytes: 0, failed: Some(error) };
        let texts = match self.texts() {
            Ok(texts) => texts,
            Err(error) => return failed(error),
        };
        let (tell, told) = oneshot::channel();
        let taken = texts.try_send((lines, tell)).is_ok();
        if taken && let Ok(written) = told.await {
            return written;
        }
        self.texts = None;
        failed(io::Error::other("the thread that writes has ended"))
    }

    fn texts(&mut self) -> io::Result<&mpsc::SyncSender<Asked>> {
        if self.texts.is_none() {
            // One at a time: the next text comes when it was told what became of this one.
            let (sender, texts) = mpsc::sync_channel::<Asked>(1);
            let mut target = Target { log: self.log.clone(), open: None, torn: None };
            // Not a task: the process can end although it is stuck.
            thread::Builder::new().name("audit-log".into()).spawn(move || {
                while let Ok((text, tell)) = texts.recv() {
                    // Nobody wants to know when the process ends.
                    let _ = tell.send(target.write(&text));
                }
            })?;
            self.texts = Some(sender);
        }
        self.texts.as_ref().ok_or_else(|| io::Error::other("no thread"))
    }
}

struct Target {
    log: AuditLog,
    open: Option<File>,
    torn: Option<Torn>,
}

/// A line of which only a part was written.
#[derive(Debug, PartialEq, Eq)]
struct Torn {
    line: String,
    written: usize,
}

/// Who may read a file that is made: its owner and its group, to which a log shipper can belong.
const MODE: u32 = 0o640;

impl Target {
    fn write(&mut self, text: &str) -> Written {
        let Self { log, open, torn } = self;
        let mut bytes = 0;
        let done = follow(log, open, torn).and_then(|file| {
            let put = put(file, text, torn, &mut bytes);
            // What is noted as written must outlive the machine's end; else it is written again.
            let synced = file.metadata().and_then(|kind| if kind.is_file() { file.sync_data() } else { Ok(()) });
            synced.inspect_err(|_| bytes = 0)?;
            put
        });
        match done {
            Ok(()) => Written { bytes, failed: None },
            Err(error) => Written { bytes, failed: Some(error) },
        }
    }
}

/// The target, opened when it isn't, and opened anew when another file, or none, has its name.
fn follow<'f>(log: &AuditLog, open: &'f mut Option<File>, torn: &mut Option<Torn>) -> io::Result<&'f mut File> {
    if let (AuditLog::File(path), Some(file)) = (log, open.as_ref()) {
        let held = file.metadata()?;
        let found = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            found => Some(found?),
        };
        let same = found.is_some_and(|found| (found.dev(), found.ino()) == (held.dev(), held.ino()));
        if !same {
            *open = None;
        }
        // Somebody emptied it, after a copy.
        if !same || (held.is_file() && held.len() == 0) {
            *torn = None;
        }
    }
    match open {
        Some(file) => Ok(file),
        none => Ok(none.insert(match log {
            // Past the lock and the buffer of what the process prints.
            AuditLog::Stdout => File::from(io::stdout().as_fd().try_clone_to_owned()?),
            AuditLog::File(path) => opened(path)?,
        })),
    }
}

fn opened(path: &Path) -> io::Result<File> {
    let regular = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        found => found?.is_file(),
    };
    let mut file = OpenOptions::new().read(regular).append(true).create(true).mode(MODE).open(path)?;
    let length = if regular { file.metadata()?.len() } else { 0 };
    if let Some(last) = length.checked_sub(1) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, last)?;
        // A process was killed in the middle of a line.
        if byte != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

/// Writes lines; `whole` is how much of them was written in whole lines. Goes on where a line was torn: in it when the lines
/// begin with it, else after its end.
fn put(out: &mut impl Write, text: &str, torn: &mut Option<Torn>, whole: &mut usize) -> io::Result<()> {
    let mut begun = 0;
    if let Some(Torn { line, written }) = torn {
        if text.starts_with(line.as_str()) {
            begun = *written;
        } else {
            push(out, line.as_bytes(), written)?;
        }
    }
    let done = push(out, text.as_bytes(), &mut begun);
    *whole = text.as_bytes()[..begun].iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    let line = text[*whole..].split_inclusive('\n').next().filter(|_| begun > *whole);
    *torn = line.map(|line| Torn { line: line.to_owned(), written: begun - *whole });
    done
}

/// Writes bytes from `written` on, which rises with what was.
fn push(out: &mut impl Write, bytes: &[u8], written: &mut usize) -> io::Result<()> {
    while *written < bytes.len() {
        match out.write(&bytes[*written..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(more) => *written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, and then none.
    struct Room {
        left: usize,
        taken: Vec<u8>,
    }

    impl Write for Room {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.left);
            if taken == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.left -= taken;
            self.taken.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn whatever_room_there_is_each_line_is_written_once_and_whole() {
        let lines = ["{\"a\":1}\n", "{\"b\":\"ä\"}\n", "{}\n"];
        let text = lines.concat();
        for room in 0..=text.len() {
            let mut out = Room { left: room, taken: Vec::new() };
            let (mut torn, mut whole) = (None, 0);
            let first = put(&mut out, &text, &mut torn, &mut whole);
            assert_eq!(first.is_ok(), room == text.len());
            assert!(whole <= room && (whole == 0 || text[..whole].ends_with('\n')), "{room}: {whole}");
            assert_eq!(torn.is_some(), whole < room);
            out.left = usize::MAX;
            let (rest, mut more) = (&text[whole..], 0);
            put(&mut out, rest, &mut torn, &mut more).unwrap();
            assert_eq!((torn, more), (None, rest.len()));
            assert_eq!(String::from_utf8(out.taken).unwrap(), text, "{room}");
        }
    }

    #[test]
    fn a_torn_line_ends_before_others_follow() {
        let mut out = Room { left: 3, taken: Vec::new() };
        let (mut torn, mut whole) = (None, 0);
        put(&mut out, "first\n", &mut torn, &mut whole).unwrap_err();
        out.left = 2;
        put(&mut out, "second\n", &mut torn, &mut whole).unwrap_err();
        assert_eq!((&torn, whole), (&Some(Torn { line: "first\n".into(), written: 5 }), 0));
        out.left = usize::MAX;
        put(&mut out, "second\n", &mut torn, &mut whole).unwrap();
        assert_eq!((String::from_utf8(out.taken).unwrap().as_str(), whole, torn), ("first\nsecond\n", 7, None));
    }

    #[test]
    fn a_file_that_ends_within_a_line_goes_on_with_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        fs::write(&path, "whole\nto").unwrap();
        let mut target = Target { log: AuditLog::File(path.clone()), open: None, torn: None };
        let written = target.write("next\n");
        assert!(written.failed.is_none() && written.bytes == 5, "{written:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole\nto\nnext\n");
    }

    #[test]
    fn a_file_that_was_renamed_removed_or_emptied_is_gone_on_with_by_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let mut target = Target { log: AuditLog::File(path.clone()), open: None, torn: None };
        let mut write = |line: &str| assert!(target.write(line).failed.is_none());
        write("1\n");
        let rotated = directory.path().join("audit.jsonl.1");
        fs::rename(&path, &rotated).unwrap();
        write("2\n");
        assert_eq!(
            (fs::read_to_string(&rotated).unwrap().as_str(), fs::read_to_string(&path).unwrap().as_str()),
            ("1\n", "2\n")
        );
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777 & !MODE, 0, "nobody else reads it");
        fs::remove_file(&path).unwrap();
        write("3\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "3\n");
        OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
        write("4\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "4\n", "without a hole before it");
    }
}
