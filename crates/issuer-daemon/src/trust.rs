//! Whose signatures count, followed.

use std::{sync::Arc, time::Duration};

use countersign_process::TrustFile;
pub(crate) use countersign_process::Trusted;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Follows the file until `stop`.
pub(crate) async fn follow(mut file: TrustFile, trusted: watch::Sender<Arc<Trusted>>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let digest = trusted.borrow().digest;
        if let Some(found) = file.changed(digest) {
            tracing::info!(kids = ?found.kids, "other keys are trusted to sign rings and bundles");
            trusted.send_replace(Arc::new(found));
        }
    }
}
