//! `migrate`: accounts from another schema. Rows are read and mapped here; what is taken over is the issuer's to decide, which
//! knows passwords, names, roles and sealing keys, and goes on serving meanwhile.

mod field;
mod mapping;
mod opaque;
mod reading;
mod tally;

use std::{path::Path, time::Duration};

use futures_util::StreamExt as _;
use serde_json::{Map, Value, json};

use self::{
    mapping::Mapping,
    reading::{Person, Source},
    tally::{Answered, Progress, Tally},
};
use super::{
    people::{Asking, segment},
    text,
};
use crate::{
    Session,
    args::{Migrate, Reading, Rollback, Schema},
    consent,
    failure::{Exit, Failure},
    output::{Block, Report, Table, printable, write_out},
    target::Intent,
};

/// How many rows, and about how many bytes, one call carries: issuers take 100 rows and 64 KiB.
const BATCH_ROWS: usize = 100;
const BATCH_BYTES: usize = 48 << 10;
/// How long to wait before a call that was refused for now is made again, and how often.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const CALLS: u32 = 9;

/// `countersign migrate …`
pub(crate) async fn migrate(session: &Session, command: Migrate) -> Result<Exit, Failure> {
    match command {
        Migrate::Plan(reading) => work(session, &reading, Mode::Plan).await,
        Migrate::Run(reading) if session.common.dry_run => work(session, &reading, Mode::Plan).await,
        Migrate::Run(reading) => work(session, &reading, Mode::Run).await,
        Migrate::Verify(reading) => work(session, &reading, Mode::Verify).await,
        Migrate::Rollback(args) => rollback(session, &args).await,
        Migrate::Keys(args) => opaque::keys(session, &args).await,
        Migrate::Example { schema } => write_out(example(schema)).map(|()| Exit::Done),
    }
}

/// A mapping to begin with.
pub(super) const fn example(schema: Schema) -> &'static str {
    match schema {
        Schema::FastapiUsers => include_str!("migrate/examples/fastapi-users.yaml"),
        Schema::Supabase => include_str!("migrate/examples/supabase.yaml"),
        Schema::Django => include_str!("migrate/examples/django.yaml"),
        Schema::HomeGrown => include_str!("migrate/examples/home-grown.yaml"),
    }
}

/// What is done with rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Plan,
    Run,
    Verify,
}

impl Mode {
    const fn word(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Run => "run",
            Self::Verify => "verify",
        }
    }

    const fn intent(self) -> Intent {
        match self {
            Self::Plan | Self::Verify => Intent::Look,
            Self::Run => Intent::Change,
        }
    }
}

async fn work(session: &Session, args: &Reading, mode: Mode) -> Result<Exit, Failure> {
    let mapping = Mapping::read(&args.mapping)?;
    let asking = Asking::of(session, mode.intent()).await?;
    let source = Source::open(args, session.common.timeout.0).await?;
    session.printer.remark(&format!("{} as import {}", source.shown, mapping.name));
    let keys = source.keys(&mapping).await?;
    let mut tally = Tally::default();
    let mut progress = Progress::new(session.printer);
    let mut batch = Batch::new(&asking, &mapping.name, &source.shown, mode);
    {
        let mut people = source.people(&mapping, keys);
        while let Some(person) = people.next().await {
            tally.rows += 1;
            batch.take(person?, &mut tally).await?;
            progress.at(tally.rows);
        }
    }
    batch.send(&mut tally, true).await?;
    progress.done();
    source.close().await;
    let around = Map::from_iter([
        ("import".to_owned(), json!(mapping.name)),
        ("mode".to_owned(), json!(mode.word())),
        ("policy".to_owned(), json!(asking.policy().as_str())),
    ]);
    let wrong = ["rejected", "missing", "differs"].into_iter().any(|outcome| tally.count(outcome) > 0);
    session.printer.report(&tally.report(mode.word(), around))?;
    Ok(if wrong { Exit::No } else { Exit::Done })
}

/// Rows on their way to the issuer.
struct Batch<'a> {
    asking: &'a Asking,
    import: &'a str,
    source: &'a str,
    mode: Mode,
    people: Vec<Person>,
    bytes: usize,
}

impl<'a> Batch<'a> {
    fn new(asking: &'a Asking, import: &'a str, source: &'a str, mode: Mode) -> Self {
        Self { asking, import, source, mode, people: Vec::new(), bytes: 0 }
    }

    /// Takes a row, and sends what there is when that is enough.
    async fn take(&mut self, person: Person, told: &mut impl Answered) -> Result<(), Failure> {
        let bytes = match &person.mapped {
            Err(reason) => {
                told.reject(&person, reason);
                return Ok(());
            }
            Ok(mapped) => mapped.told.to_string().len(),
        };
        if bytes > BATCH_BYTES {
            told.reject(&person, "it is larger than an issuer takes");
            return Ok(());
        }
        if self.people.len() == BATCH_ROWS || self.bytes + bytes > BATCH_BYTES {
            self.send(told, false).await?;
        }
        self.bytes += bytes;
        self.people.push(person);
        Ok(())
    }

    async fn send(&mut self, told: &mut impl Answered, last: bool) -> Result<(), Failure> {
        if self.people.is_empty() && !(last && self.mode == Mode::Run) {
            return Ok(());
        }
        let rows: Vec<&Value> =
            self.people.iter().filter_map(|person| person.mapped.as_ref().ok()).map(|mapped| &mapped.told).collect();
        let shown: String = self.source.chars().filter(|c| !c.is_control()).take(64).collect();
        let body = json!({"mode": self.mode.word(), "source": shown, "rows": rows, "finished": last});
        let call = format!("imports/{}/rows", segment(self.import));
        let answer = patiently(self.asking, &call, &body).await?;
        let results = answer["results"].as_array().map(Vec::as_slice).unwrap_or_default();
        if results.len() != self.people.len() {
            return Err(Failure::unable("the issuer did not answer of each row: is it of another release?"));
        }
        for (person, result) in self.people.iter().zip(results) {
            told.settle(person, result);
        }
        self.people.clear();
        self.bytes = 0;
        Ok(())
    }
}

/// Makes a call, again where the issuer refuses it for now: it limits its callers, and its database may be away for a moment.
/// Nothing is done twice by that: rows are known by their keys.
async fn patiently(asking: &Asking, call: &str, body: &Value) -> Result<Value, Failure> {
    let mut pause = FIRST_PAUSE;
    for _ in 1..CALLS {
        let answer = asking.post_for_answer(call, body).await?;
        if !matches!(answer.status, 429 | 503) {
            return answer.success();
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    asking
        .post_for_answer(call, body)
        .await?
        .success()
        .map_err(|failure| Failure { fix: Some("run it again: it goes on where it was".into()), ..failure })
}

async fn rollback(session: &Session, args: &Rollback) -> Result<Exit, Failure> {
    let import = Mapping::read(Path::new(&args.mapping))?.name;
    let dry_run = session.common.dry_run;
    let asking = Asking::of(session, if dry_run { Intent::Look } else { Intent::Change }).await?;
    let of_import = format!("imports/{}", segment(&import));
    let state = asking.get(&of_import, &[]).await?;
    let brought = state["rows"].as_u64().unwrap_or(0);
    if !dry_run {
        let which = if args.force { "whatever became of them since" } else { "but for those used or changed since" };
        let question = format!("Take back import {import} of policy {}: {brought} accounts, {which}?", asking.policy());
        consent::confirm(session, &question)?;
    }
    let (mut removed, mut kept): (u64, Vec<Value>) = (0, Vec::new());
    let mut after = String::new();
    let mut progress = Progress::new(session.printer);
    loop {
        let body = json!({"after": after, "force": args.force, "dry_run": dry_run});
        let page = patiently(&asking, &format!("{of_import}/undo"), &body).await?;
        removed += page["removed"].as_u64().unwrap_or(0);
        kept.extend(page["kept"].as_array().into_iter().flatten().cloned());
        progress.at(removed + u64::try_from(kept.len()).unwrap_or(u64::MAX));
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => break,
        }
    }
    progress.done();
    let verb = if dry_run { "would be removed" } else { "removed" };
    let mut human = vec![Block::Text(format!("import {import}: {removed} accounts {verb}, {} kept", kept.len()))];
    if !kept.is_empty() {
        let mut table = Table::new(&["KEY", "ACCOUNT", "REASON"]);
        for one in &kept {
            table.row(["key", "id", "reason"].into_iter().map(|name| printable(text(one, name)).into()).collect());
        }
        human.push(Block::Table(table));
        human.push(Block::Text("they go with --force, and all that was issued for them ends".into()));
    }
    let names = kept.iter().map(|one| text(one, "id").to_owned()).collect();
    let document =
        json!({"import": import, "policy": asking.policy().as_str(), "removed": removed, "kept": kept, "dry_run": dry_run});
    session.printer.report(&Report { document, human, names })?;
    Ok(Exit::Done)
}
