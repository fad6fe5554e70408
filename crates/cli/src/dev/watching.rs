//! Following the policies' directory.

use std::{path::Path, sync::Arc, time::Duration};

use countersign_core::names::PolicyName;
use notify::Watcher as _;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{declared::Declaration, policies::PolicySource};

/// An editor writes a file in several steps; this long after the last of them it is read.
const QUIET: Duration = Duration::from_millis(60);
/// How often the directory is looked at, whatever the watch says; also how often withdrawn policies are erased.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Reads the source again whenever it may have changed, and declares what it says. Until `stop`.
pub(crate) async fn follow(mut source: PolicySource, declare: watch::Sender<Arc<Declaration>>, stop: CancellationToken) {
    let (look, mut looks) = mpsc::channel(1);
    let _watcher = source.directory().and_then(|dir| watch_directory(&dir, look.clone()));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            // Never none: a sender is held here.
            _ = looks.recv() => tokio::time::sleep(QUIET).await,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        while looks.try_recv().is_ok() {}
        let before = declare.borrow().clone();
        if let Some(declaration) = source.read_again(&before).await {
            report(&before, &declaration);
            declare.send_replace(Arc::new(declaration));
        }
    }
}

fn watch_directory(dir: &Path, changed: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|e| !e.kind.is_access()) {
            // Full: it will be read anyway.
            let _ = changed.try_send(());
        }
    });
    let watching = watcher.and_then(|mut watcher| {
        watcher.watch(dir, notify::RecursiveMode::Recursive)?;
        Ok(watcher)
    });
    watching
        .map_err(|error| tracing::warn!(directory = %dir.display(), %error, "the directory can't be watched; it is looked at every 2 s"))
        .ok()
}

fn report(before: &Declaration, after: &Declaration) {
    for problem in after.problems.iter().filter(|p| !before.problems.contains(p)) {
        let kept: Vec<&str> = problem.policies.iter().map(PolicyName::as_str).collect();
        tracing::error!(file = %problem.file.display(), kept = kept.join(","), "a policy file is wrong; the last good version stays\n{}", problem.lines.join("\n"));
    }
    for problem in before.problems.iter().filter(|p| after.problems.iter().all(|a| a.file != p.file)) {
        tracing::info!(file = %problem.file.display(), "the policy file is in order again");
    }
    for (name, declared) in &after.policies {
        match before.policies.get(name) {
            None => tracing::info!(policy = %name, "a policy is new"),
            Some(held) if !Arc::ptr_eq(held, declared) => tracing::info!(policy = %name, "the policy changed"),
            Some(_) => {}
        }
    }
}
