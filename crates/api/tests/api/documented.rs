//! The resources that the documentation shows.

use std::{
    fs,
    path::{Path, PathBuf},
};

use countersign_api::{
    check::check,
    load::{Severity, load_text},
};
use countersign_core::time::UnixMillis;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

/// The YAML of a page that is a resource of ours, whole; each with its line.
fn resources(page: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((line, _)) = lines.find(|(_, line)| *line == "```yaml") {
        let block: Vec<&str> = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
        if block.iter().any(|line| line.starts_with("apiVersion: countersign.dev/")) {
            found.push((line + 2, block.join("\n")));
        }
    }
    found
}

fn pages(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            pages(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

#[test]
fn every_resource_that_the_documentation_shows_is_a_good_one() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = vec![root.join("README.md")];
    pages(&root.join("docs"), &mut files);
    // What stands on one page belongs together: a session and its policy.
    let mut shown = 0;
    for file in files {
        let found = resources(&fs::read_to_string(&file).unwrap());
        shown += found.len();
        let whole: Vec<String> = found.iter().map(|(_, text)| text.clone()).collect();
        if whole.is_empty() {
            continue;
        }
        let told = check(&load_text("page", &whole.join("\n---\n")), None, NOW);
        let errors: Vec<String> = told.iter().filter(|d| d.severity == Severity::Error).map(ToString::to_string).collect();
        let lines: Vec<usize> = found.iter().map(|(line, _)| *line).collect();
        assert!(errors.is_empty(), "{}, the blocks at lines {lines:?}: {errors:#?}", file.display());
    }
    assert!(shown >= 2, "the blocks were found: {shown}");
}
