//! `restore --database`: a database that was put back by other means (`pg_restore`, a snapshot of a volume, a replica that lags)
//! is told what it missed, in place.

use std::time::Duration;

use countersign_core::time::UnixMillis;
use countersign_store::{Location, Store, StoreError};
use serde_json::json;
use tokio::time::{Instant, interval};

use super::{
    known_to_redis,
    reconciling::{Known, Reconciled, reconcile},
    said_of,
};
use crate::{
    Session,
    args::Restore,
    commands::now,
    consent,
    dev::data_dir::lock_around,
    failure::{Exit, Failure, chain},
    output::{Block, Report},
};

/// How long others' connections may take to go: a server notices a little later that one was closed.
const GOING: Duration = Duration::from_secs(3);
/// How often it is asked meanwhile.
const ASKED_EVERY: Duration = Duration::from_millis(100);

/// Makes the database at `url` safe to use.
pub(super) async fn restore(session: &Session, args: &Restore, url: &str) -> Result<Exit, Failure> {
    let location: Location = url.parse().map_err(|error| Failure::usage(format!("--database: {error}")))?;
    let _lock = match &location {
        Location::File(path) if !path.is_file() => {
            return Err(Failure::usage(format!("--database: {}: there is no such file", path.display())));
        }
        Location::File(path) => lock_around(path)?,
        Location::Server(_) => None,
    };
    let failed = |error: StoreError| Failure::unable(format!("{location}: {}", chain(&error)));
    let others = others_that_stay(&location).await.map_err(failed)?;
    if others > 0 {
        return Err(Failure::unable(format!("{location} is in use: {others} others are connected to it as the same user"))
            .fix("stop every issuer and `dev` on it, and a pooler's connections; start them again afterwards"));
    }
    let known = if args.without_feed { Known::Nothing } else { Known::By { present: None, redis: known_to_redis(args)? } };
    if matches!(known, Known::By { redis: None, .. }) {
        return Err(Failure::usage(format!("{location} doesn't know what was revoked since it was copied")).fix(
            "name the Redis that its issuers publish to with --redis; or give --without-feed, which cuts off everything issued before",
        ));
    }
    if session.common.dry_run {
        return session
            .printer
            .dry_run(&format!("void refresh tokens and mailed links in {location}, and take over what was revoked"));
    }
    consent::confirm(session, &format!("Void every refresh token and mailed link in {location}?"))?;
    let store = Store::connect(&location).await.map_err(failed)?;
    let done = async {
        // By whichever clock is ahead: what was issued by the other must not outlive a cut-off.
        let now: UnixMillis = store.database_now().await.map_err(failed)?.max(now());
        reconcile(&store, known, now).await
    };
    let done = done.await;
    store.close().await;
    report(session, &location, &done?)
}

/// How many others are connected, and not just on their way out.
async fn others_that_stay(location: &Location) -> Result<u64, StoreError> {
    let (until, mut ticks) = (Instant::now() + GOING, interval(ASKED_EVERY));
    loop {
        ticks.tick().await;
        let others = Store::others_on(location).await?;
        if others == 0 || Instant::now() >= until {
            return Ok(others);
        }
    }
}

fn report(session: &Session, location: &Location, done: &Reconciled) -> Result<Exit, Failure> {
    let mut document = json!({"database": location.to_string()});
    let mut human = vec![Block::Text(format!("{location} may be used"))];
    let names = said_of(done, &mut document, &mut human);
    session.printer.report(&Report { document, human, names })?;
    Ok(Exit::Done)
}
