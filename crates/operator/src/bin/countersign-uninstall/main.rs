//! `countersign-uninstall`: what the chart runs before it deletes the operator.

mod uninstall;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use countersign_api::cluster::SYSTEM_NAMESPACE;
use countersign_process::find_cluster;
use kube::Client;

use self::uninstall::{Released, uninstall};

#[derive(Parser)]
#[command(
    version,
    about = "Ends the operator and takes its finalizers off AuthPolicies and Sessions; these and their keys stay"
)]
struct Flags {
    /// Namespace of the operator
    #[arg(long, value_name = "NAME", default_value = SYSTEM_NAMESPACE, env = "COUNTERSIGN_SYSTEM_NAMESPACE")]
    system_namespace: String,
    /// Which cluster to work in; default: the one that this pod is in, else KUBECONFIG
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Seconds to wait for the operator's pods to end
    #[arg(long, value_name = "SECONDS", default_value_t = 120, env = "COUNTERSIGN_PATIENCE")]
    patience: u64,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    match run(&flags) {
        Ok(Released { policies, sessions }) => {
            println!("took the finalizer off {policies} AuthPolicies and {sessions} Sessions");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("countersign-uninstall: {error:#}");
            ExitCode::from(3)
        }
    }
}

fn run(flags: &Flags) -> anyhow::Result<Released> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("the runtime does not start")?;
    runtime.block_on(async {
        let client = Client::try_from(find_cluster(flags.kubeconfig.as_deref()).await?)?;
        Ok(uninstall(&client, &flags.system_namespace, Duration::from_secs(flags.patience)).await?)
    })
}
