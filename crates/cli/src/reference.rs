//! The reference of the command line, made from what `--help` says.

use clap::CommandFactory as _;

use crate::args::Cli;

/// Which cluster is meant, and what one has to be allowed there.
const ON_A_CLUSTER: &str = include_str!("reference/cluster.md");

/// `docs/cli.md`: every command's long help, in the order of `--help`, and what holds on a cluster.
pub fn reference() -> String {
    let mut text = String::from(
        "# The command line\n\nGenerated from `countersign --help`; a test compares. Common options stand with the first command and \
         hold for all; what commands do and need on a cluster stands [at the end](#on-a-cluster).\n",
    );
    let mut root = quiet_about_this_environment(Cli::command().term_width(100));
    root.build();
    section(&mut text, &mut root, true);
    text.push_str(ON_A_CLUSTER);
    text
}

fn section(text: &mut String, command: &mut clap::Command, root: bool) {
    let name = command.get_bin_name().unwrap_or("countersign").to_owned();
    let mut shown = command.clone();
    if !root {
        shown = shown.mut_args(|arg| if arg.is_global_set() { arg.hide(true) } else { arg });
    }
    let help = shown.render_long_help().to_string();
    let lines: Vec<&str> = help.trim_end().lines().map(str::trim_end).collect();
    text.extend(["\n## `", &name, "`\n\n```text\n", &lines.join("\n"), "\n```\n"]);
    // `help` has every command below it once more.
    for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
        section(text, sub, false);
    }
}

/// The values that variables have where this runs are nobody's business.
fn quiet_about_this_environment(command: clap::Command) -> clap::Command {
    command.mut_args(|arg| arg.hide_env_values(true)).mut_subcommands(quiet_about_this_environment)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
        assert!(
            Cli::try_parse_from(["countersign", "revoke", "all", "--wait=5s", "-n", "shop", "--policy", "shop"]).is_ok()
        );
        assert!(Cli::try_parse_from(["countersign", "revoke", "all", "--wait=5s", "--no-wait"]).is_err());
    }
}
