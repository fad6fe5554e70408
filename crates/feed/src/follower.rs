//! Keeps a [`FeedState`] true.
//!
//! One task per process. It writes a lease every heartbeat, and from the answer learns which epoch the server is in and where
//! its tail is. It pages the live set upward from its own position, then follows the tail; what it can't vouch for, it says
//! at once. The set counts as complete as of the moment a lease was *sent*, once the tail that the server's answer named has
//! been reached: that server took our write, so it is the one that writers publish to.

mod reading;
mod saved;
mod saver;

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{lease::Ack, server::FeedServer, state::FeedState};

use self::{reading::Reading, saved::SavedState, saver::Saver};

/// How a process follows the feed.
#[derive(Clone, Debug)]
pub struct FollowerConfig {
    /// The reader's name, unique in the fleet.
    pub name: String,
    /// Where set, position and server time are kept. Absent: nothing survives the process.
    pub data_dir: Option<PathBuf>,
    /// How often a lease is written; also the resolution of ages.
    pub heartbeat: Duration,
    /// How long a lease is good for, and a set counts as fresh after its last confirmation.
    pub lease_ttl: Duration,
    /// The longest random wait before the live set is read again after a gap, so that a fleet doesn't come at once.
    pub resync_jitter: Duration,
    /// The longest wait between tries to reach a server that is away.
    pub max_backoff: Duration,
    /// How often changes are saved, at most.
    pub save_interval: Duration,
    /// Entries of one page.
    pub page_size: usize,
}

impl FollowerConfig {
    /// The ordinary settings.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            data_dir: None,
            heartbeat: Duration::from_millis(500),
            lease_ttl: Duration::from_secs(5),
            resync_jitter: Duration::from_millis(250),
            max_backoff: Duration::from_secs(2),
            save_interval: Duration::from_secs(5),
            page_size: 10_000,
        }
    }

    /// With a directory to save to.
    #[must_use]
    pub fn saved_in(mut self, data_dir: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(data_dir.into());
        self
    }
}

/// Why following could not begin.
#[derive(Debug, thiserror::Error)]
pub enum FollowerError {
    /// The directory to save to can't be made or written.
    #[error("the directory {dir} can't be used to save revocations: {source}")]
    DataDir {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The task that follows. Dropping it ends the task without a last save.
#[derive(Debug)]
pub struct Follower {
    name: String,
    server: Arc<dyn FeedServer>,
    state: Arc<FeedState>,
    ack: watch::Sender<Option<Ack>>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Follower {
    /// Starts from what is saved, never fresh until the server is reached, and follows `server`. Must be called within a Tokio
    /// runtime. The first lease carries no acknowledgement, so an earlier run's is withdrawn first thing.
    pub fn spawn(server: Arc<dyn FeedServer>, config: FollowerConfig) -> Result<Self, FollowerError> {
        let (files, state) = match &config.data_dir {
            Some(dir) => {
                let (files, state) =
                    SavedState::open(dir).map_err(|source| FollowerError::DataDir { dir: dir.clone(), source })?;
                (Some(files), state)
            }
            None => (None, FeedState::empty()),
        };
        let state = Arc::new(state);
        state.set_fresh_for(config.lease_ttl);
        let (ack, acks) = watch::channel(None);
        let stop = CancellationToken::new();
        let mut tasks = Vec::new();
        if let Some(files) = files {
            let saver = Saver::new(files, Arc::clone(&state), config.save_interval);
            tasks.push(tokio::spawn(saver.run(stop.clone())));
        }
        let name = config.name.clone();
        let reading = Reading::new(Arc::clone(&server), config, Arc::clone(&state), acks);
        tasks.push(tokio::spawn(reading.run(stop.clone())));
        Ok(Self { name, server, state, ack, stop, tasks })
    }

    /// The reader's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The server that is followed.
    pub const fn server(&self) -> &Arc<dyn FeedServer> {
        &self.server
    }

    /// What is known.
    pub const fn state(&self) -> &Arc<FeedState> {
        &self.state
    }

    /// What this process has applied and saved; written with the next lease, at once. `None` withdraws it.
    pub fn set_ack(&self, ack: Option<Ack>) {
        self.ack.send_if_modified(|held| {
            let changes = *held != ack;
            if changes {
                *held = ack;
            }
            changes
        });
    }

    /// Stops, after a last save, and takes the lease away.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        for task in std::mem::take(&mut self.tasks) {
            let _ = task.await;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
