//! The policies' reconciler.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::{
    history::History,
    registry::Request,
    run::{Context, PartError},
};

/// Works until the process ends.
pub(crate) async fn run(
    context: Context,
    mut inbox: mpsc::Receiver<Request>,
    history: Arc<History>,
) -> Result<(), PartError> {
    loop {
        tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            asked = inbox.recv() => match asked {
                Some(Request::End { done, .. }) => drop(done.send(())),
                Some(Request::WentBack) => history.renew().await?,
                Some(_) => {}
                None => return Ok(()),
            }
        }
    }
}
