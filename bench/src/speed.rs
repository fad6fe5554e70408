//! Answers per second of server CPU time, each against the echo server on the same kind of socket.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::{
    admin::Admin,
    http1::{self, Client, Target},
    load::{self, Measured},
    plan::Effort,
    report::{Bar, Figure},
    rig::{Dev, Echo, POLICY, Redis, Start, Verifier},
    signing::{Algorithm, Keys},
};

const PART: &str = "speed: answers per server CPU second, the echo's, ratio";
const CONNECTIONS: [usize; 3] = [1, 16, 64];
const TOKENS: [usize; 2] = [1, 10_000];
/// Tokens of one batch.
const BATCH: usize = 100;

/// A call to measure.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Verify,
    Authorize,
}

impl Call {
    const fn name(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Authorize => "authorize",
        }
    }

    /// A request for a token.
    pub(crate) fn request(self, token: &str) -> Vec<u8> {
        match self {
            Self::Verify => {
                let body = json!({"token": token}).to_string();
                http1::request("POST", &format!("/v1/policies/{POLICY}/verify"), &[], Some(body.as_bytes()))
            }
            Self::Authorize => {
                let bearer = format!("Bearer {token}");
                http1::request("GET", &format!("/v1/policies/{POLICY}/authorize"), &[("authorization", &bearer)], None)
            }
        }
    }
}

/// How many bytes the answer to a request says: its body, or, where there is none (`authorize`), its `X-Auth-…` lines. The
/// echo server answers a body of that size.
pub(crate) fn answer_bytes(target: &Target, request: &[u8]) -> Result<usize> {
    let (status, head, body) = Client::connect(target)?.call(request)?;
    if status != 200 {
        bail!("{status}: {}", String::from_utf8_lossy(&body));
    }
    if !body.is_empty() {
        return Ok(body.len());
    }
    let lines = head.split_inclusive(|byte| *byte == b'\n');
    Ok(lines.filter(|line| line.get(..7).is_some_and(|name| name.eq_ignore_ascii_case(b"x-auth-"))).map(<[u8]>::len).sum())
}

pub(crate) fn measure(effort: &Effort, figures: &mut Vec<Figure>) -> Result<()> {
    let keys = Keys::generate()?;
    let redis = Redis::start()?;
    let dev = Dev::start(&redis, &keys, 0)?;
    let (verifier, _) = Verifier::start(&Start { bundles: &dev.bundles(), redis: &redis, pinned: true, under: &[] })?;
    verifier.wait_until_fresh(0)?;
    let mut admin = Admin::connect(&dev.admin()?, POLICY)?;
    let most = if effort.rounds == 1 { 500 } else { TOKENS[1] };
    eprintln!("minting {most} tokens");
    let tokens = (0..most).map(|number| admin.mint(&format!("user-{number}"))).collect::<Result<Vec<_>>>()?;
    let bench = Bench { effort, verifier: &verifier, scratch: tempfile::tempdir()? };
    bench.cached(&tokens, figures)?;
    bench.batches(&tokens, figures)?;
    bench.uncached(&keys, figures)
}

struct Bench<'a> {
    effort: &'a Effort,
    verifier: &'a Verifier,
    scratch: tempfile::TempDir,
}

impl Bench<'_> {
    fn cached(&self, tokens: &[String], figures: &mut Vec<Figure>) -> Result<()> {
        for call in [Call::Verify, Call::Authorize] {
            let size = answer_bytes(&self.verifier.socket(), &call.request(&tokens[0]))?;
            let echo = Echo::start(size, &[])?;
            for distinct in TOKENS {
                let distinct = distinct.min(tokens.len());
                let requests = self.scratch.path().join("requests");
                load::write_requests(
                    &requests,
                    &tokens[..distinct].iter().map(|token| call.request(token)).collect::<Vec<_>>(),
                )?;
                for (kind, target, echo_target) in
                    [("unix", self.verifier.socket(), echo.socket()), ("tcp", self.verifier.tcp()?, echo.tcp())]
                {
                    for connections in CONNECTIONS {
                        let (mut ours, mut echoes) = (Vec::new(), Vec::new());
                        for _ in 0..self.effort.rounds {
                            let run =
                                |target: &Target, pid| load(target, pid, connections, &requests, Some(self.effort.millis));
                            echoes.push(run(&echo_target, echo.pid())?.per_cpu_second());
                            ours.push(run(&target, self.verifier.pid())?.per_cpu_second());
                        }
                        let (ours, echoes) = (median(ours), median(echoes));
                        let name = format!("cached {}, {kind}, {connections} connections, {distinct} tokens", call.name());
                        eprintln!("{name}: {:.2}", ours / echoes);
                        figures.push(
                            Figure::new(PART, name, ours, "answers").against(echoes, ours / echoes).bar(Bar::AtLeast(0.80)),
                        );
                    }
                }
            }
        }
        Ok(())
    }

    fn batches(&self, tokens: &[String], figures: &mut Vec<Figure>) -> Result<()> {
        let requests = self.scratch.path().join("requests");
        let items: Vec<_> = tokens.iter().take(BATCH).map(|token| json!({"token": token})).collect();
        let body = json!({"items": items}).to_string();
        let path = format!("/v1/policies/{POLICY}/verify-batch");
        let batch = http1::request("POST", &path, &[], Some(body.as_bytes()));
        let singles: Vec<_> = tokens.iter().take(BATCH).map(|token| Call::Verify.request(token)).collect();
        let (mut batched, mut single) = (Vec::new(), Vec::new());
        for _ in 0..self.effort.rounds {
            load::write_requests(&requests, &singles)?;
            let run = || load(&self.verifier.socket(), self.verifier.pid(), 16, &requests, Some(self.effort.millis));
            single.push(run()?.per_cpu_second());
            load::write_requests(&requests, std::slice::from_ref(&batch))?;
            #[expect(clippy::cast_precision_loss, reason = "a small constant")]
            batched.push(run()?.per_cpu_second() * BATCH as f64);
        }
        let (batched, single) = (median(batched), median(single));
        figures.push(
            Figure::new(PART, format!("tokens in batches of {BATCH}, against single calls"), batched, "tokens")
                .against(single, batched / single)
                .bar(Bar::AtLeast(10.0)),
        );
        Ok(())
    }

    fn uncached(&self, keys: &Keys, figures: &mut Vec<Figure>) -> Result<()> {
        let requests = self.scratch.path().join("requests");
        for algorithm in Algorithm::ALL {
            let bare = keys.bare_verification(algorithm, 5)?.as_secs_f64();
            let mut number = 0;
            let mut ratios = Vec::new();
            let (mut ours, mut floors) = (Vec::new(), Vec::new());
            let size =
                answer_bytes(&self.verifier.socket(), &Call::Verify.request(&keys.token(algorithm, usize::MAX / 2)?))?;
            let echo = Echo::start(size, &[])?;
            for _ in 0..self.effort.rounds {
                // Every token is sent once: none of them can be cached.
                let fresh = (0..self.effort.uncached)
                    .map(|_| {
                        number += 1;
                        keys.token(algorithm, number).map(|token| Call::Verify.request(&token))
                    })
                    .collect::<Result<Vec<_>>>()?;
                load::write_requests(&requests, &fresh)?;
                let echoed = load(&echo.socket(), echo.pid(), 16, &requests, None)?.per_cpu_second();
                let verified = load(&self.verifier.socket(), self.verifier.pid(), 16, &requests, None)?.per_cpu_second();
                let floor = 1.0 / (1.0 / echoed + bare);
                ratios.push(floor / verified);
                ours.push(verified);
                floors.push(floor);
            }
            let name =
                format!("uncached {} (bare: {:.1} µs): cost against echo + bare verify", algorithm.name(), bare * 1e6);
            let ratio = median(ratios);
            eprintln!("{name}: {ratio:.2}");
            figures.push(
                Figure::new(PART, name, median(ours), "answers").against(median(floors), ratio).bar(Bar::AtMost(1.15)),
            );
        }
        Ok(())
    }
}

/// Runs the load generator as a process of its own.
pub(crate) fn load(
    target: &Target,
    pid: u32,
    connections: usize,
    requests: &Path,
    millis: Option<u64>,
) -> Result<Measured> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("load").arg("--target").arg(target.to_string()).arg("--server-pid").arg(pid.to_string());
    command.arg("--connections").arg(connections.to_string()).arg("--requests").arg(requests);
    if let Some(millis) = millis {
        command.arg("--millis").arg(millis.to_string());
    }
    let output = command.output().context("could not start the load generator")?;
    if !output.status.success() {
        bail!("the load generator failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
