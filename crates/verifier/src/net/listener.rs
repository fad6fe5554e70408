//! Listening sockets.

use std::{
    fmt, fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixSocket, UnixStream};

/// Connections that the kernel holds for us, should we be slow to accept.
const BACKLOG: u32 = 4096;

/// The longest path that a Unix socket can have on Linux.
const MAX_SOCKET_PATH: usize = 107;

/// Why a socket can't be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A TCP address.
    #[error("cannot listen on {address}: {source}")]
    Tcp {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A path.
    #[error("cannot listen on the socket {}: {source}", path.display())]
    Unix {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A path that no socket can have.
    #[error("the socket path {} is longer than {MAX_SOCKET_PATH} bytes, the system's limit: choose a shorter one", .0.display())]
    PathTooLong(PathBuf),
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// A process of this machine, on the Unix socket.
    Local {
        /// Its user.
        uid: u32,
    },
    /// An address, IPv4-in-IPv6 mapped to IPv4.
    Remote(IpAddr),
}

impl Peer {
    /// Whose budget it uses: users on the socket; addresses on TCP, IPv6 by its /64, which one caller has whole.
    pub(crate) fn budget_key(self) -> u128 {
        const LOCAL: u128 = 1 << 127;
        const V4: u128 = 1 << 126;
        match self {
            Self::Local { uid } => LOCAL | u128::from(uid),
            Self::Remote(IpAddr::V4(ip)) => V4 | u128::from(u32::from(ip)),
            Self::Remote(IpAddr::V6(ip)) => u128::from(ip) >> 64,
        }
    }
}

/// A bound socket.
pub(crate) enum Bound {
    /// An address.
    Tcp(TcpListener),
    /// A path.
    Unix(UnixListener, SocketFile),
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => write!(f, "{address}"),
                Err(_) => f.write_str("a closed socket"),
            },
            Self::Unix(_, file) => write!(f, "{}", file.path.display()),
        }
    }
}

/// An accepted connection.
pub(crate) enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Bound {
    /// Listens on an address.
    pub(crate) fn tcp(address: SocketAddr) -> Result<Self, BindError> {
        let bind = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)
        };
        bind().map(Self::Tcp).map_err(|source| BindError::Tcp { address, source })
    }

    /// Listens on a path. Binds under another name and renames over, so that the path always leads to a listener: an older
    /// process that still owns it keeps what its clients have begun.
    pub(crate) fn unix(path: &Path) -> Result<Self, BindError> {
        // Two pods that share the directory may have the same process id.
        let mut random = [0; 4];
        aws_lc_rs::rand::fill(&mut random).expect("the system's randomness works");
        let temporary = path.with_file_name(format!(".{:x}-{:08x}", std::process::id(), u32::from_ne_bytes(random)));
        if path.as_os_str().len().max(temporary.as_os_str().len()) > MAX_SOCKET_PATH {
            return Err(BindError::PathTooLong(path.to_owned()));
        }
        let bind = || {
            if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
                fs::create_dir_all(directory)?;
            }
            match fs::remove_file(&temporary) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let socket = UnixSocket::new_stream()?;
            socket.bind(&temporary)?;
            let listener = socket.listen(BACKLOG)?;
            // Apps of every user may ask; who may reach the socket is up to its directory.
            fs::set_permissions(&temporary, fs::Permissions::from_mode(0o666))?;
            let inode = fs::metadata(&temporary)?;
            fs::rename(&temporary, path)?;
            Ok(Self::Unix(listener, SocketFile { path: path.to_owned(), device: inode.dev(), inode: inode.ino() }))
        };
        bind().map_err(|source| {
            let _ = fs::remove_file(&temporary);
            BindError::Unix { path: path.to_owned(), source }
        })
    }

    /// The address it got.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    /// The next connection, and who is there.
    pub(crate) async fn accept(&self) -> io::Result<(Accepted, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // An answer is one small write; waiting for more to send with it only delays it.
                stream.set_nodelay(true)?;
                Ok((Accepted::Tcp(stream), Peer::Remote(peer.ip().to_canonical())))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let uid = stream.peer_cred()?.uid();
                Ok((Accepted::Unix(stream), Peer::Local { uid }))
            }
        }
    }

    /// Takes the socket's name away, so that clients find whoever comes next (or nobody). What is in the backlog stays.
    pub(crate) fn unlink(&self) {
        if let Self::Unix(_, file) = self {
            file.remove_if_ours();
        }
    }
}

/// A socket's place in the file system, with the inode by which we know our own.
pub(crate) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn remove_if_ours(&self) {
        let ours = fs::metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == (self.device, self.inode));
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(socket = %self.path.display(), %error, "the socket could not be removed");
        }
    }
}
