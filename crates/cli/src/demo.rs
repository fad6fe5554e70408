//! `demo`: the story in under a minute, on a real `dev` in this process, with measured figures.

mod load;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::time::timeout;

use self::load::{Load, percentile};
use crate::{
    Session,
    args::{Cli, Command, Demo},
    client::{Address, Answer, Client},
    commands::{now, text},
    dev::{Running, Settings},
    failure::{Exit, Failure},
    output::{Block, Report, Tone, write_out},
};

/// The built-in policy.
const POLICY: &str = "default/dev";
/// Calls of a measured series.
const SERIES: usize = 2000;
/// Revocations of a measured series.
const REVOCATIONS: usize = 50;
/// The people of the story, and their password: it is told on data of its own.
const LOGS_IN: &str = "alice";
const GUESSED_AT: &str = "bob";
const PASSWORD: &str = "Correct-horse-7-battery";
/// The built-in policy locks before this.
const MOST_GUESSES: u32 = 20;
/// How long any one step may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// `countersign demo`
pub(crate) async fn run(session: &Session, args: &Demo) -> Result<Exit, Failure> {
    if session.common.dry_run {
        return dry_run(session, args);
    }
    let temporary = tempfile::tempdir().map_err(|e| Failure::unable(format!("can't make a temporary directory: {e}")))?;
    let data_dir = args.data_dir.clone().unwrap_or_else(|| temporary.path().join("data"));
    let mut story = Story { session, steps: Vec::new(), started: Instant::now() };
    let ended = story.tell(&data_dir).await;
    let exit = match &ended {
        Ok(()) => Exit::Done,
        Err(failure) => {
            story.failed(failure);
            failure.exit
        }
    };
    story.finish(exit)?;
    Ok(exit)
}

/// The steps, in words.
fn dry_run(session: &Session, args: &Demo) -> Result<Exit, Failure> {
    let place = args.data_dir.as_ref().map_or_else(|| "a temporary directory".to_owned(), |dir| dir.display().to_string());
    let steps = [
        ("start", format!("`dev` on free ports, its data in {place}")),
        ("log in", "as a person, by name and password".to_owned()),
        ("mint", "200 tokens over the admin socket".to_owned()),
        ("verify", format!("{SERIES} calls over the Unix socket, and a tampered token")),
        ("rotate", "the signing key while tokens are minted and verified".to_owned()),
        ("revoke", format!("{REVOCATIONS} tokens, each until the verifier refuses it")),
        ("lock out", "somebody who guesses a password".to_owned()),
        ("restart", "and see that the revoked stay revoked, and the locked locked".to_owned()),
    ];
    let lines: Vec<String> = steps.iter().map(|(name, what)| format!("{name:<9}{what}")).collect();
    session.printer.remark(&format!("dry run: would\n  {}", lines.join("\n  ")));
    let would: Vec<Value> = steps.iter().map(|(name, what)| json!({"step": name, "would": what})).collect();
    let document = json!({"dry_run": true, "steps": would});
    session.printer.report(&Report { document, human: Vec::new(), names: Vec::new() })?;
    Ok(Exit::Done)
}

/// What was shown so far.
struct Story<'a> {
    session: &'a Session,
    steps: Vec<Value>,
    started: Instant,
}

/// A running `dev` and how to call it.
struct Stage {
    running: Running,
    admin: Client,
    issuer: Client,
    verifier: Arc<Client>,
}

impl Stage {
    async fn set(data_dir: &std::path::Path) -> Result<Self, Failure> {
        let running = Running::start(settings(data_dir)?).await?;
        if let Some(why) = running.unsettled() {
            return Err(Failure::unable(why));
        }
        let client = |socket: &std::path::Path| Client::new(Address::Socket(socket.to_owned()), None, PATIENCE);
        let admin = client(&running.addresses().admin_socket)?;
        let verifier = Arc::new(client(&running.addresses().socket)?);
        let issuer = Client::new(Address::Url(format!("http://{}", running.addresses().issuer)), None, PATIENCE)?;
        Ok(Self { running, admin, issuer, verifier })
    }

    async fn mint(&self, subject: &str) -> Result<String, Failure> {
        let body = json!({"subject": subject, "roles": ["user"]});
        let minted =
            self.admin.post(&format!("/admin/v1/policies/{POLICY}/tokens"), &body, Duration::ZERO).await?.success()?;
        Ok(text(&minted, "token").to_owned())
    }

    async fn login(&self, name: &str, password: &str) -> Result<Answer, Failure> {
        self.issuer.post("/auth/login", &json!({"username": name, "password": password}), Duration::ZERO).await
    }

    async fn verdict(&self, token: &str) -> Result<String, Failure> {
        verdict(&self.verifier, token).await
    }

    async fn active_kid(&self) -> Result<String, Failure> {
        let keys = self.admin.get(&format!("/admin/v1/policies/{POLICY}/keys")).await?.success()?;
        Ok(text(&keys["status"]["access"], "active_kid").to_owned())
    }
}

/// What the verifier says of a token.
async fn verdict(verifier: &Client, token: &str) -> Result<String, Failure> {
    let answer = verifier.post(&format!("/v1/policies/{POLICY}/verify"), &json!({"token": token}), Duration::ZERO).await?;
    Ok(text(&answer.body, "verdict").to_owned())
}

/// Free ports, nothing from the environment, quiet logs.
fn settings(data_dir: &std::path::Path) -> Result<Settings, Failure> {
    use clap::Parser as _;

    let mut arguments: Vec<std::ffi::OsString> =
        vec!["countersign".into(), "dev".into(), "--data-dir".into(), data_dir.into()];
    for listener in ["verifier", "verifier-health", "issuer", "issuer-health", "admin"] {
        arguments.push(format!("--{listener}-listen=127.0.0.1:0").into());
    }
    let cli = Cli::try_parse_from(arguments).map_err(|e| Failure::usage(e.to_string()))?;
    match cli.command {
        Command::Dev(mut dev) => {
            // The story is told on the built-in policy and the in-process feed, whatever the environment says.
            (dev.policies, dev.redis, dev.default_policy) = (None, None, None);
            Settings::new(&dev, &|_| None, now())
        }
        _ => Err(Failure::usage("dev")),
    }
}

impl Story<'_> {
    async fn tell(&mut self, data_dir: &std::path::Path) -> Result<(), Failure> {
        let started = Instant::now();
        let stage = Stage::set(data_dir).await?;
        self.step(
            "start",
            "verifier, issuer and operator in one process",
            vec![("ready_ms", json!(ms(started.elapsed())))],
        );
        let token = self.log_in(&stage).await?;
        self.mint(&stage).await?;
        self.verify(&stage, &token).await?;
        self.rotate(&stage, &token).await?;
        let dead = self.revoke(&stage).await?;
        self.lock_out(&stage).await?;
        self.restart(stage, data_dir, &token, &dead).await
    }

    /// A person of the story logs in, and is given a token as everybody is.
    async fn log_in(&mut self, stage: &Stage) -> Result<String, Failure> {
        for name in [LOGS_IN, GUESSED_AT] {
            let account = json!({
                "email": format!("{name}@shop.example"), "username": name, "password": PASSWORD, "email_verified": true,
            });
            let path = format!("/admin/v1/policies/{POLICY}/users");
            // Told on the same data a second time, the story has them already.
            let made = stage.admin.post(&path, &account, Duration::ZERO).await?;
            if made.status != 409 {
                made.success()?;
            }
        }
        let at = Instant::now();
        let tokens = stage.login(LOGS_IN, PASSWORD).await?.success()?;
        let took = at.elapsed();
        let figures = vec![("took_ms", json!(ms(took))), ("expires_in", tokens["expires_in"].clone())];
        self.step("log in", "alice, by name and password (Argon2id)", figures);
        Ok(text(&tokens, "access_token").to_owned())
    }

    /// Somebody guesses; the account takes no more guesses for a while, whoever makes them.
    async fn lock_out(&mut self, stage: &Stage) -> Result<(), Failure> {
        let mut guesses = 0;
        let refused = loop {
            let answer = stage.login(GUESSED_AT, "a guess").await?;
            match answer.status {
                401 if guesses < MOST_GUESSES => guesses += 1,
                423 => break answer,
                status => return Err(Failure::no(format!("the issuer answered {status} to guess {}", guesses + 1))),
            }
        };
        let until = refused.body["locked_until"].as_i64().unwrap_or(0) - now().as_secs();
        let figures = vec![("guesses", json!(guesses)), ("locked_for_s", json!(until))];
        self.step("lock out", "mallory guesses bob's password", figures);
        Ok(())
    }

    async fn mint(&mut self, stage: &Stage) -> Result<(), Failure> {
        let mut took = Vec::with_capacity(200);
        for n in 0..200 {
            let at = Instant::now();
            stage.mint(&format!("user-{n}")).await?;
            took.push(at.elapsed());
        }
        self.step(
            "mint",
            "200 signed tokens over the admin socket",
            vec![("p50_ms", json!(ms(percentile(&mut took, 50))))],
        );
        Ok(())
    }

    async fn verify(&mut self, stage: &Stage, token: &str) -> Result<(), Failure> {
        expect(stage, token, "valid").await?;
        let mut took = Vec::with_capacity(SERIES);
        for _ in 0..SERIES {
            let at = Instant::now();
            expect(stage, token, "valid").await?;
            took.push(at.elapsed());
        }
        let mut tampered = token.to_owned();
        tampered.insert(token.len() - 10, 'x');
        let forged = stage.verdict(&tampered).await?;
        if forged == "valid" {
            return Err(Failure::no("a tampered token was accepted"));
        }
        let figures = vec![
            ("calls", json!(SERIES)),
            ("p50_ms", json!(ms(percentile(&mut took, 50)))),
            ("p99_ms", json!(ms(percentile(&mut took, 99)))),
            ("tampered", json!(forged)),
        ];
        self.step("verify", "over the Unix socket, one call after another", figures);
        Ok(())
    }

    async fn rotate(&mut self, stage: &Stage, token: &str) -> Result<(), Failure> {
        let before = stage.active_kid().await?;
        let load = Load::start(&stage.verifier, token);
        let at = Instant::now();
        stage
            .admin
            .post(&format!("/admin/v1/policies/{POLICY}/keys/rotate"), &json!({"ring": "access"}), Duration::ZERO)
            .await?
            .success()?;
        let turned = async {
            // Tokens minted throughout, by whichever key signs, must be good at once.
            loop {
                let fresh = stage.mint("bob").await?;
                expect(stage, &fresh, "valid").await?;
                if stage.active_kid().await? != before {
                    return Ok::<_, Failure>(at.elapsed());
                }
            }
        };
        let took = timeout(PATIENCE, turned).await.map_err(|_| Failure::no("the new key doesn't sign"))??;
        // The old token under the new key, for a while.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (calls, errors) = load.stop().await;
        if let Some(error) = errors.first() {
            return Err(Failure::no(format!(
                "{} of {calls} calls failed while the key was rotated: {error}",
                errors.len()
            )));
        }
        self.step(
            "rotate",
            "the signing key, under load: published, acknowledged, then it signs",
            vec![("calls", json!(calls)), ("errors", json!(0)), ("signs_after_ms", json!(ms(took)))],
        );
        Ok(())
    }

    async fn revoke(&mut self, stage: &Stage) -> Result<String, Failure> {
        let (mut from_return, mut from_call, mut last) = (Vec::new(), Vec::new(), String::new());
        for n in 0..REVOCATIONS {
            let token = stage.mint(&format!("leaver-{n}")).await?;
            expect(stage, &token, "valid").await?;
            let called = Instant::now();
            let path = format!("/admin/v1/policies/{POLICY}/revocations");
            stage.admin.post(&path, &json!({"credential": token, "reason": "demo"}), Duration::ZERO).await?.success()?;
            let returned = Instant::now();
            let refused = async {
                while stage.verdict(&token).await? != "revoked" {}
                Ok::<_, Failure>(())
            };
            timeout(PATIENCE, refused).await.map_err(|_| Failure::no("a revoked token is still accepted"))??;
            from_return.push(returned.elapsed());
            from_call.push(called.elapsed());
            last = token;
        }
        let figures = vec![
            ("revocations", json!(REVOCATIONS)),
            ("refused_after_call_p50_ms", json!(ms(percentile(&mut from_call, 50)))),
            ("refused_after_return_p50_ms", json!(ms(percentile(&mut from_return, 50)))),
            ("refused_after_return_max_ms", json!(ms(percentile(&mut from_return, 100)))),
        ];
        self.step("revoke", "tokens that were good a moment ago", figures);
        Ok(last)
    }

    async fn restart(&mut self, stage: Stage, data_dir: &std::path::Path, live: &str, dead: &str) -> Result<(), Failure> {
        let Stage { running, .. } = stage;
        running.shutdown().await;
        let started = Instant::now();
        let stage = Stage::set(data_dir).await?;
        let ready = started.elapsed();
        expect(&stage, dead, "revoked").await?;
        expect(&stage, live, "valid").await?;
        let locked = stage.login(GUESSED_AT, PASSWORD).await?;
        if locked.status != 423 {
            return Err(Failure::no(format!("the lock did not outlive a restart: the issuer answered {}", locked.status)));
        }
        self.step(
            "restart",
            "the revoked token and the lock stay, the other token lives on",
            vec![("ready_ms", json!(ms(ready)))],
        );
        stage.running.shutdown().await;
        Ok(())
    }

    /// Says at once what a step showed.
    fn step(&mut self, name: &'static str, what: &str, figures: Vec<(&'static str, Value)>) {
        let texts: Vec<String> =
            figures.iter().map(|(name, value)| format!("{} {}", name.replace('_', " "), plain(value))).collect();
        self.line("ok", Tone::Good, name, what, &texts.join(", "));
        let figures: serde_json::Map<_, _> = figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        self.steps.push(json!({"step": name, "ok": true, "figures": figures}));
    }

    fn failed(&mut self, failure: &Failure) {
        self.line("FAILED", Tone::Bad, "", &failure.to_string(), "");
        self.steps.push(json!({"ok": false, "detail": failure.message}));
    }

    fn line(&self, mark: &str, tone: Tone, name: &str, what: &str, figures: &str) {
        let printer = &self.session.printer;
        if !printer.structured() {
            let mark = printer.paint(mark, tone);
            let figures = if figures.is_empty() { String::new() } else { format!("\n              {figures}") };
            // A closed pipe ends the story's telling, not the story.
            let _ = write_out(&format!("{mark}  {name:<10}{what}{figures}\n"));
        }
    }

    fn finish(self, exit: Exit) -> Result<(), Failure> {
        let took = self.started.elapsed();
        let human = vec![Block::Text(format!(
            "{} in {:.1} s",
            if exit == Exit::Done { "Done" } else { "Failed" },
            took.as_secs_f64()
        ))];
        let document = json!({"ok": exit == Exit::Done, "took_ms": ms(took), "steps": self.steps});
        let names = self.steps.iter().map(|s| text(s, "step").to_owned()).collect();
        self.session.printer.report(&Report { document, human, names })
    }
}

async fn expect(stage: &Stage, token: &str, wanted: &str) -> Result<(), Failure> {
    let said = stage.verdict(token).await?;
    if said == wanted { Ok(()) } else { Err(Failure::no(format!("the verifier said {said} where {wanted} was expected"))) }
}

/// Milliseconds with three digits.
fn ms(took: Duration) -> f64 {
    (took.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
