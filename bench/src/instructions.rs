//! Instructions and allocations per cached verify, counted under valgrind: figures that a busy machine can't disturb.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    admin::Admin,
    http1::{Client, Target},
    plan::Effort,
    report::Figure,
    rig::{Dev, Echo, POLICY, Redis, Start, Verifier},
    signing::Keys,
    speed::{Call, answer_bytes},
};

const PART: &str = "instructions and allocations of a call, the echo's, ratio";
/// Two runs that differ in calls alone: their difference is the calls'.
const CALLS: [u32; 2] = [200, 1_200];

pub(crate) fn measure(_: &Effort, figures: &mut Vec<Figure>) -> Result<()> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("skipped: instructions and allocations (valgrind is not installed)");
        return Ok(());
    }
    let redis = Redis::start()?;
    let dev = Dev::start(&redis, &Keys::generate()?, 0)?;
    let token = Admin::connect(&dev.admin()?, POLICY)?.mint("counted")?;
    let request = Call::Verify.request(&token);
    let scratch = tempfile::tempdir()?;
    let bundles = dev.bundles();
    for tool in [Tool::Callgrind, Tool::Memcheck] {
        let mut counts = [[0; 2]; 2];
        let mut size = 0;
        for (at, calls) in CALLS.into_iter().enumerate() {
            let output = scratch.path().join(format!("{tool:?}-{calls}"));
            let under = tool.arguments(&output);
            let (verifier, _) = Verifier::start(&Start { bundles: &bundles, redis: &redis, pinned: true, under: &under })?;
            verifier.wait_until_fresh(0)?;
            size = answer_bytes(&verifier.socket(), &request)?;
            call(&verifier.socket(), &request, calls)?;
            verifier.terminate()?;
            counts[0][at] = tool.read(&output)?;
        }
        for (at, calls) in CALLS.into_iter().enumerate() {
            let output = scratch.path().join(format!("{tool:?}-echo-{calls}"));
            let echo = Echo::start(size, &tool.arguments(&output))?;
            call(&echo.socket(), &request, calls)?;
            echo.terminate()?;
            counts[1][at] = tool.read(&output)?;
        }
        let [ours, echo] = counts.map(|[few, many]| per_call(few, many));
        figures.push(
            Figure::new(PART, format!("{} per cached verify", tool.counted()), ours, tool.counted())
                .against(echo, ours / echo),
        );
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts of a short run fit a double's 53 bits")]
fn per_call(few: u64, many: u64) -> f64 {
    many.saturating_sub(few) as f64 / f64::from(CALLS[1] - CALLS[0])
}

fn call(target: &Target, request: &[u8], calls: u32) -> Result<()> {
    let mut client = Client::connect(target)?;
    for _ in 0..calls {
        let (status, ..) = client.call(request)?;
        if status != 200 {
            bail!("status {status} under valgrind");
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
enum Tool {
    Callgrind,
    Memcheck,
}

impl Tool {
    const fn counted(self) -> &'static str {
        match self {
            Self::Callgrind => "instructions",
            Self::Memcheck => "allocations",
        }
    }

    fn arguments(self, output: &Path) -> Vec<String> {
        let output = output.display();
        let arguments = match self {
            Self::Callgrind => [
                "valgrind".to_owned(),
                "--tool=callgrind".to_owned(),
                format!("--callgrind-out-file={output}"),
                "--quiet".to_owned(),
            ],
            Self::Memcheck => [
                "valgrind".to_owned(),
                "--tool=memcheck".to_owned(),
                format!("--log-file={output}"),
                "--leak-check=no".to_owned(),
            ],
        };
        arguments.into()
    }

    /// The count that a finished run left behind.
    fn read(self, output: &Path) -> Result<u64> {
        let text = fs::read_to_string(output).context("valgrind left no result")?;
        let number = match self {
            Self::Callgrind => text.lines().find_map(|line| line.strip_prefix("totals: ")),
            Self::Memcheck => text.lines().find_map(|line| line.split("total heap usage: ").nth(1)?.split(' ').next()),
        };
        number
            .context("valgrind's result holds no total")?
            .trim()
            .replace(',', "")
            .parse()
            .context("valgrind's total is no number")
    }
}
