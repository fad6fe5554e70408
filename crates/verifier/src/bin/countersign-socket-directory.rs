//! `countersign-socket-directory DIR UID GID`: gives the directory that a kubelet made as root's to the verifier.
//!
//! Runs as root with the capability to change owners and no other, before the verifier, and ends. The directory is opened once
//! and never followed through a symbolic link: whoever had it before can't lead the change elsewhere.

use std::{fs::Permissions, os::fd::OwnedFd, os::unix::fs::PermissionsExt as _, process::ExitCode};

use rustix::fs::{Gid, Mode, OFlags, Uid};

/// Everyone may go in and connect; only its owner may put a socket there.
const MODE: u32 = 0o755;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, uid, gid] = arguments.as_slice() else { return usage("three arguments are needed") };
    let (Ok(uid), Ok(gid)) = (uid.parse::<u32>(), gid.parse::<u32>()) else { return usage("UID and GID are numbers") };
    if uid == u32::MAX || gid == u32::MAX {
        return usage("UID and GID are below 4294967295");
    }
    match give(directory, uid, gid) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("countersign-socket-directory: {directory}: {error}");
            ExitCode::from(3)
        }
    }
}

fn usage(what: &str) -> ExitCode {
    eprintln!("countersign-socket-directory: {what}\nusage: countersign-socket-directory DIR UID GID");
    ExitCode::from(2)
}

fn give(directory: &str, uid: u32, gid: u32) -> std::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened: OwnedFd = rustix::fs::open(directory, flags, Mode::empty())?;
    let present = rustix::fs::fstat(&opened)?;
    // The mode first: it takes more than this process has to change it on what is another's.
    if present.st_mode & 0o7777 != MODE {
        if present.st_uid != rustix::process::getuid().as_raw() {
            let own = (rustix::process::getuid(), rustix::process::getgid());
            rustix::fs::fchown(&opened, Some(own.0), Some(own.1))?;
        }
        std::fs::File::from(opened.try_clone()?).set_permissions(Permissions::from_mode(MODE))?;
    }
    if (present.st_uid, present.st_gid) != (uid, gid) || rustix::fs::fstat(&opened)?.st_uid != uid {
        rustix::fs::fchown(&opened, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn the_directory_is_the_verifier_s_and_open_to_all_whatever_it_was() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("socket");
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        // Only root may give to others.
        let to = if uid == 0 { 65532 } else { uid };
        for mode in [0o700, 0o755, 0o777, 0o1777] {
            std::fs::create_dir(&directory).unwrap();
            std::fs::set_permissions(&directory, Permissions::from_mode(mode)).unwrap();
            for _ in 0..2 {
                give(directory.to_str().unwrap(), to, gid).unwrap();
                let after = std::fs::metadata(&directory).unwrap();
                assert_eq!((after.uid(), after.gid(), after.mode() & 0o7777), (to, gid, MODE), "{mode:o}");
            }
            std::fs::remove_dir(&directory).unwrap();
        }
    }

    #[test]
    fn a_symbolic_link_or_a_file_in_its_place_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let (link, file) = (parent.path().join("link"), parent.path().join("file"));
        std::os::unix::fs::symlink(parent.path(), &link).unwrap();
        std::fs::write(&file, "").unwrap();
        let uid = rustix::process::getuid().as_raw();
        for path in [link, file, parent.path().join("absent")] {
            assert!(give(path.to_str().unwrap(), uid, uid).is_err(), "{}", path.display());
        }
    }
}
