//! `keys rotate`.

use std::time::{Duration, Instant};

use countersign_core::names::PolicyName;
use serde_json::{Value, json};

use crate::{
    Session,
    args::{RingChoice, Rotate},
    client::Client,
    cluster::{
        Cluster,
        following::Followed,
        rings::{self, Ring},
    },
    commands::text,
    failure::{Exit, Failure},
    output::{Block, Report, printable},
    span::rough,
    target::{self, Intent, Target},
};

/// How often a server is asked how far a rotation is.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The rings before a rotation and after it.
struct Rotation {
    before: Value,
    after: Value,
}

impl Rotation {
    /// The key that signs now, when it is another one than before.
    fn new_key(&self, ring: Ring) -> Option<String> {
        active(&self.after, ring).filter(|kid| Some(kid) != active(&self.before, ring).as_ref())
    }
}

/// The key of a ring that signs.
fn active(body: &Value, ring: Ring) -> Option<String> {
    let keys = body["rings"][ring.member()].as_array()?;
    keys.iter().find(|k| text(k, "state") == "Active").map(|k| text(k, "kid").to_owned())
}

/// `countersign keys rotate`
pub(crate) async fn rotate(session: &Session, args: &Rotate) -> Result<Exit, Failure> {
    let target = target::find(session, Intent::Change).await?;
    let policy = target.policy(session).await?;
    target.announce(session, &policy);
    let (word, rings): (_, &[Ring]) = match args.ring {
        RingChoice::Access => ("access", &[Ring::Access]),
        RingChoice::ApiKey => ("api-key", &[Ring::ApiKey]),
        RingChoice::All => ("all", &Ring::ALL),
    };
    let wait = if args.no_wait { Duration::ZERO } else { args.wait.0 };
    let started = Instant::now();
    let rotation = match &target {
        Target::Server(_) if session.common.dry_run => {
            return session.printer.dry_run(&format!("rotate {word} of {policy}"));
        }
        Target::Server(client) => on_server(client, &policy, word, rings, wait).await?,
        Target::Cluster(cluster) => {
            let value = jiff::Timestamp::now().to_string();
            let object = cluster.policy(&policy).await?;
            if object.data["spec"]["issuer"].is_null() {
                return Err(Failure::usage(format!("policy {policy} has no issuer of its own, and so no keys to rotate")));
            }
            let before = rings::document(&policy, &object);
            let object = cluster.request_rotation(&policy, rings, &value, session.common.dry_run).await?;
            if session.common.dry_run {
                return session.printer.dry_run(&format!("rotate {word} of {policy}; {cluster} accepts it"));
            }
            let deadline = tokio::time::Instant::now() + wait;
            let looking = |object: &_| {
                let now = Rotation { before: before.clone(), after: rings::document(&policy, object) };
                rings.iter().all(|ring| now.new_key(*ring).is_some()).then_some(())
            };
            let followed = if wait.is_zero() {
                Followed { object, found: None }
            } else {
                follow(session, cluster, &policy, object, deadline, looking).await?
            };
            Rotation { after: rings::document(&policy, &followed.object), before }
        }
    };
    report(session, args, rings, rotation, started.elapsed())
}

/// Follows the policy, and says what is waited for as it changes.
async fn follow(
    session: &Session,
    cluster: &Cluster,
    policy: &PolicyName,
    object: kube::core::DynamicObject,
    deadline: tokio::time::Instant,
    mut found: impl FnMut(&kube::core::DynamicObject) -> Option<()>,
) -> Result<Followed<()>, Failure> {
    let mut said = String::new();
    let look = |object: &kube::core::DynamicObject| {
        let found = found(object);
        let ready = rings::condition(object, "KeysReady");
        if let Some(remark) = ready.remark().filter(|remark| found.is_none() && *remark != said) {
            session.printer.remark(&format!("waiting: {}", printable(&remark)));
            said = remark;
        }
        found
    };
    let followed = cluster.follow(policy, object, deadline, look).await;
    followed.map_err(|failure| Failure { message: format!("asked for; but {}", failure.message), ..failure })
}

async fn on_server(
    client: &Client,
    policy: &PolicyName,
    word: &str,
    rings: &[Ring],
    wait: Duration,
) -> Result<Rotation, Failure> {
    let path = format!("/admin/v1/policies/{policy}/keys");
    let before = client.get(&path).await?.success()?;
    client.post(&format!("{path}/rotate"), &json!({"ring": word}), Duration::ZERO).await?.success()?;
    let started = Instant::now();
    let mut rotation = Rotation { after: before.clone(), before };
    loop {
        rotation.after = client.get(&path).await?.success()?;
        let signing = rings.iter().all(|ring| rotation.new_key(*ring).is_some());
        if signing || started.elapsed() >= wait {
            return Ok(rotation);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn report(session: &Session, args: &Rotate, rings: &[Ring], rotation: Rotation, took: Duration) -> Result<Exit, Failure> {
    let mut human = Vec::new();
    let mut names = Vec::new();
    for ring in rings {
        if let Some(kid) = rotation.new_key(*ring) {
            let took = rough(i64::try_from(took.as_millis()).unwrap_or(i64::MAX));
            human.push(Block::Text(format!("{}: {} signs, after {took}", ring.word(), printable(&kid))));
            names.push(kid);
            continue;
        }
        let why = text(&rotation.after["status"][ring.member()]["waiting"], "detail");
        let why = if why.is_empty() { "not yet: `countersign keys list` says why".to_owned() } else { printable(why) };
        let still = match active(&rotation.after, *ring) {
            Some(kid) => format!("{} still signs", printable(&kid)),
            None => "no key signs".to_owned(),
        };
        human.push(Block::Text(format!("{}: {still}; {why}", ring.word())));
    }
    let done = args.no_wait || names.len() == rings.len();
    session.printer.report(&Report { document: rotation.after, human, names })?;
    Ok(if done { Exit::Done } else { Exit::Unable })
}
