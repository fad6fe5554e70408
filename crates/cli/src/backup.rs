//! `backup` and `restore`: one encrypted file of what `dev` keeps, and back, so that nothing that died since lives again; the
//! same for a database that was put back by other means.

mod archive;
mod elsewhere;
mod reconciling;
mod sealed;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use countersign_feed::{RedisFeed, RedisOptions, RedisUrl};
use countersign_store::{Location, Store};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use self::{
    archive::{FILES, Manifest},
    reconciling::{Known, Reconciled, reconcile},
    sealed::{SealedError, Secret},
};
use crate::{
    Session,
    args::{Backup, Restore, SecretArgs},
    commands::{now, relative},
    consent,
    dev::data_dir::{ContentLock, DATABASE, DataDir},
    failure::{Exit, Failure, chain},
    output::{Block, Report, printable},
};

/// Where a backup is put together in the data directory.
const COPY: &str = "backup.new";

/// `countersign backup`
pub(crate) async fn backup(session: &Session, args: &Backup) -> Result<Exit, Failure> {
    let secret = secret(&args.secret)?;
    let database = database(&args.data_dir)?;
    if !database.exists() {
        return Err(Failure::unable(format!("{}: there is no such database", database.display()))
            .fix("name the directory of `countersign dev` with --data-dir"));
    }
    if args.to.exists() {
        return Err(Failure::unable(format!("{}: is there already", args.to.display())).fix("name another file with --to"));
    }
    if session.common.dry_run {
        return session.printer.dry_run(&format!("write {} to {}", args.data_dir.display(), args.to.display()));
    }
    let failed = |error: &dyn std::fmt::Display| Failure::unable(format!("the backup failed: {error}"));
    let _lock = ContentLock::take_to_copy(&args.data_dir)?;
    // Beside the database, where its content is as well guarded.
    let copy = Scratch::new(&args.data_dir.join(COPY)).map_err(|error| failed(&error))?;
    Store::copy(&database, &copy.path.join(DATABASE)).await.map_err(|error| failed(&chain(&error)))?;
    for name in FILES.into_iter().filter(|name| *name != DATABASE) {
        match fs::copy(args.data_dir.join(name), copy.path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&error)),
            _ => {}
        }
    }
    let bytes = write(&copy.path, &args.to, &secret).map_err(|error| failed(&error))?;
    drop(copy);
    let shown = args.to.display().to_string();
    session.printer.report(&Report {
        document: json!({"file": shown, "bytes": bytes}),
        human: vec![Block::Text(format!("{} holds all of {}: {bytes} bytes", printable(&shown), args.data_dir.display()))],
        names: vec![shown],
    })?;
    Ok(Exit::Done)
}

fn write(from: &Path, to: &Path, secret: &Secret) -> Result<u64, SealedError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let written = pack(from, file, to, secret);
    if written.is_err() {
        // Half a backup is none, and is refused if it stays.
        let _ = fs::remove_file(to);
    }
    written
}

fn pack(from: &Path, file: File, to: &Path, secret: &Secret) -> Result<u64, SealedError> {
    let file = archive::pack(from, file, secret, now())?;
    file.sync_all()?;
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()?;
    Ok(file.metadata()?.len())
}

/// A directory that is gone afterwards, and whose remains from an earlier run that was killed are gone before.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new(path: &Path) -> io::Result<Self> {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::DirBuilder::new().mode(0o700).create(path)?;
        Ok(Self { path: path.to_owned() })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "a copy of the database stays; remove it");
        }
    }
}

/// The database that `dev` uses with this data directory.
fn database(data_dir: &Path) -> Result<PathBuf, Failure> {
    let Some(url) = std::env::var("DATABASE_URL").ok().filter(|url| !url.is_empty()) else {
        return Ok(data_dir.join(DATABASE));
    };
    match url.parse::<Location>() {
        Ok(Location::File(path)) => Ok(path),
        Ok(Location::Server(server)) => Err(Failure::usage(format!("DATABASE_URL: {server} is a PostgreSQL"))
            .fix("back it up with pg_dump, and DATA_DIR/secret.key beside it: see docs/guides/back-up.md")),
        Err(error) => Err(Failure::usage(format!("DATABASE_URL: {error}"))),
    }
}

fn secret(args: &SecretArgs) -> Result<Secret, Failure> {
    let (flag, path) = match (&args.passphrase_file, &args.key_file) {
        (Some(path), None) => ("--passphrase-file", path),
        (None, Some(path)) => ("--key-file", path),
        _ => return Err(Failure::usage("one of --passphrase-file and --key-file is needed")),
    };
    let named = |error: &dyn std::fmt::Display| Failure::usage(format!("{flag} {}: {error}", path.display()));
    let mut content = Zeroizing::new(Vec::new());
    if args.passphrase_file.is_some() && path == Path::new("-") {
        io::stdin().lock().read_to_end(&mut content).map_err(|error| named(&error))?;
    } else {
        File::open(path).and_then(|mut file| file.read_to_end(&mut content)).map_err(|error| named(&error))?;
    }
    let made = if args.key_file.is_some() { Secret::key_file(content) } else { Secret::passphrase(content) };
    made.map_err(|error| named(&error))
}

/// `countersign restore`
pub(crate) async fn restore(session: &Session, args: &Restore) -> Result<Exit, Failure> {
    match (&args.from, &args.database) {
        (Some(from), None) => of_file(session, args, from).await,
        (None, Some(url)) => elsewhere::restore(session, args, url).await,
        _ => Err(Failure::usage("one of --from and --database is needed")),
    }
}

async fn of_file(session: &Session, args: &Restore, from: &Path) -> Result<Exit, Failure> {
    let secret = secret(&args.secret)?;
    let database = database(&args.data_dir)?;
    if database != args.data_dir.join(DATABASE) {
        return Err(Failure::usage("DATABASE_URL names a database elsewhere, and a restore is to the data directory")
            .fix("unset it, restore, and move the database there"));
    }
    let unreadable = |error: &SealedError| Failure::unable(format!("{}: {error}", from.display()));
    if !from.is_file() {
        return Err(Failure::usage(format!("--from {}: there is no such file", from.display())));
    }
    let data_dir = DataDir::open(&args.data_dir)?;
    let staging = data_dir.staging().map_err(|error| Failure::unable(format!("{}: {error}", args.data_dir.display())))?;
    let restored = async {
        let manifest = archive::unpack(from, &staging, &secret).map_err(|error| unreadable(&error))?;
        if session.common.dry_run {
            return Ok((manifest, None));
        }
        let _lock = ContentLock::take(data_dir.path())?;
        let known = known(args, &data_dir).await?;
        let question = format!("Put the backup of {} in the place of {}?", at(&manifest), data_dir.path().display());
        if data_dir.database().exists() {
            consent::confirm(session, &question)?;
        }
        let store = Store::open(&staging.join(DATABASE)).await.map_err(|error| Failure::unable(chain(&error)))?;
        let reconciled = reconcile(&store, known, now()).await;
        let settled = store.settle_file().await;
        store.close().await;
        let reconciled = reconciled?;
        settled.map_err(|error| Failure::unable(chain(&error)))?;
        data_dir.adopt_staging().map_err(|error| Failure::unable(format!("the restore failed: {error}")))?;
        Ok((manifest, Some(reconciled)))
    };
    let done = restored.await;
    if !matches!(done, Ok((_, Some(_))))
        && let Err(error) = data_dir.discard_staging()
    {
        session.printer.warn(&format!("{}: {error}", staging.display()));
    }
    let (manifest, reconciled) = done?;
    report(session, from, &args.data_dir, &manifest, reconciled)
}

fn at(manifest: &Manifest) -> String {
    let made = jiff::Timestamp::from_millisecond(manifest.made_ms).map(|time| time.to_string()).unwrap_or_default();
    format!("{made} ({})", relative(manifest.made(), now()))
}

/// Who knows what was revoked since the backup was made.
async fn known(args: &Restore, data_dir: &DataDir) -> Result<Known, Failure> {
    if args.without_feed {
        return Ok(Known::Nothing);
    }
    let present = if data_dir.database().exists() {
        let path = data_dir.database();
        let opened = Store::open(&path).await.map_err(|error| {
            Failure::unable(format!("{} can't say what was revoked since: {}", path.display(), chain(&error)))
                .fix("name the Redis that knows with --redis, and move that file away; or give --without-feed")
        })?;
        Some(opened)
    } else {
        None
    };
    let redis = known_to_redis(args)?;
    if present.is_none() && redis.is_none() {
        return Err(Failure::usage("nothing here knows what was revoked since the backup was made").fix(
            "name the Redis that `dev` published to with --redis; or give --without-feed, which cuts off everything issued before",
        ));
    }
    Ok(Known::By { present, redis })
}

/// The Redis that is to say what was revoked since, if one is named.
fn known_to_redis(args: &Restore) -> Result<Option<Box<RedisFeed>>, Failure> {
    let url = args.redis.clone().or_else(|| std::env::var("REDIS_URL").ok().filter(|url| !url.is_empty()));
    let Some(url) = url else { return Ok(None) };
    let wrong = |error: &dyn std::fmt::Display| Failure::usage(format!("--redis: {error}"));
    let url: RedisUrl = url.parse().map_err(|error| wrong(&error))?;
    Ok(Some(Box::new(RedisFeed::new(url, RedisOptions::default()).map_err(|error| wrong(&error))?)))
}

fn report(
    session: &Session,
    from: &Path,
    data_dir: &Path,
    manifest: &Manifest,
    reconciled: Option<Reconciled>,
) -> Result<Exit, Failure> {
    let mut document = json!({"made_at": manifest.made().as_secs(), "release": manifest.release});
    let Some(done) = reconciled else {
        document["dry_run"] = json!(true);
        let text = format!("dry run: {} is whole: a backup of {}", from.display(), at(manifest));
        session.printer.report(&Report { document, human: vec![Block::Text(text)], names: Vec::new() })?;
        return Ok(Exit::Done);
    };
    let mut human = vec![Block::Text(format!("{} holds the backup of {}", data_dir.display(), at(manifest)))];
    let names = said_of(&done, &mut document, &mut human);
    session.printer.report(&Report { document, human, names })?;
    Ok(Exit::Done)
}

/// Tells what was done to a copy; the policies in it.
fn said_of(done: &Reconciled, document: &mut Value, human: &mut Vec<Block>) -> Vec<String> {
    let policies: Vec<String> = done.policies.iter().map(ToString::to_string).collect();
    let shown = if policies.is_empty() { "no policy".to_owned() } else { policies.join(", ") };
    human.push(Block::Text(match done.taken_over {
        Some(count) => {
            format!("{count} revocations that the backup doesn't have were taken over: what was revoked stays dead")
        }
        None => format!("everything that was issued before is cut off, under {shown}: tokens, sessions, API keys"),
    }));
    human.push(Block::Text(
        "refresh tokens, mailed links and codes of before are void: people log in again; keys sign anew, older ones verify on"
            .into(),
    ));
    document["policies"] = json!(policies);
    document["revocations_taken_over"] = json!(done.taken_over);
    document["cut_off"] = json!(done.taken_over.is_none());
    policies
}
