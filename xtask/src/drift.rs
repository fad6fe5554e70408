//! `cargo xtask drift`: what is generated from code must be what is committed.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::run;

#[derive(Args, Default)]
pub(crate) struct Options {
    /// Write the files instead of comparing.
    #[arg(long)]
    write: bool,
}

/// A committed file, and the arguments of `countersign` that print it.
const GENERATED: &[(&str, &[&str])] = &[("crds/countersign.dev.yaml", &["crds"])];

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut drifted = Vec::new();
    for (path, arguments) in GENERATED {
        let wanted = run::output(run::cargo().args(["run", "--quiet", "--package", "countersign", "--"]).args(*arguments))?;
        let file: PathBuf = run::root().join(path);
        if options.write {
            fs::create_dir_all(file.parent().context("generated files lie in directories")?)?;
            fs::write(&file, &wanted).with_context(|| format!("could not write {path}"))?;
            eprintln!("xtask: wrote {path}");
        } else if fs::read(&file).unwrap_or_default() != wanted {
            drifted.push(*path);
        }
    }
    if !drifted.is_empty() {
        bail!("not what the code generates: {}; run `cargo xtask drift --write` and commit", drifted.join(", "));
    }
    Ok(())
}
