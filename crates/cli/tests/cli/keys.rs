//! `keys`.

use crate::rig::{Dev, eventually, policy};

#[test]
fn a_rotation_signs_with_another_key_and_earlier_tokens_stay_valid() {
    let dev = Dev::start();
    let before = dev.mint(&["--subject", "alice"]);
    let rotated = dev.run(&["keys", "rotate"]);
    assert_eq!(rotated.status, 0, "{rotated:?}");
    assert!(rotated.out.contains("signs, after"), "{rotated:?}");
    let after = dev.mint(&["--subject", "alice"]);
    let kid = |token: &str| dev.run_with(&["token", "inspect", "-", "-o", "json"], token).json()["header"]["kid"].clone();
    assert_ne!(kid(&before), kid(&after));
    for token in [&before, &after] {
        assert_eq!(dev.verdict(token, &[]), (0, "valid".into()));
    }
    let rings = dev.run(&["keys", "list", "-o", "json"]).json();
    let states: Vec<&str> =
        rings["rings"]["access"].as_array().unwrap().iter().map(|k| k["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["Retiring", "Active"]);
}

#[test]
fn a_revoked_key_ends_what_it_signed_and_another_takes_its_place() {
    let dev = Dev::start();
    let before = dev.mint(&["--subject", "alice"]);
    let kid = dev.run_with(&["token", "inspect", "-", "-o", "json"], &before).json()["header"]["kid"]
        .as_str()
        .unwrap()
        .to_owned();
    let revoked = dev.run(&["keys", "revoke", &kid, "--reason", "leaked"]);
    assert_eq!(revoked.status, 0, "{revoked:?}");
    assert!(revoked.err.contains("every access token that it signed is refused"), "said beforehand: {revoked:?}");
    assert_eq!(dev.verdict(&before, &[]), (1, "revoked".into()));
    let after = eventually("another key signs", || {
        let minted = dev.run(&["token", "mint", "--subject", "alice"]);
        (minted.status == 0).then(|| minted.out.trim_end().to_owned())
    });
    assert_eq!(dev.verdict(&after, &[]), (0, "valid".into()));
    assert_eq!(dev.verdict(&before, &[]), (1, "revoked".into()));
}

#[test]
fn a_dry_run_says_what_it_would_do_and_does_nothing() {
    let dev = Dev::start();
    let token = dev.mint(&["--subject", "alice"]);
    let keys = dev.run(&["keys", "list", "-o", "name"]).out;
    for arguments in
        [&["keys", "rotate"][..], &["revoke", "subject", "alice"], &["revoke", "all"], &["token", "mint", "--subject", "x"]]
    {
        let said = dev.run(&[arguments, &["--dry-run"]].concat());
        assert_eq!((said.status, said.out.as_str()), (0, ""), "{said:?}");
        assert!(said.err.contains("dry run: would"), "{said:?}");
        let said = dev.run(&[arguments, &["--dry-run", "-o", "json"]].concat());
        assert_eq!(said.json()["dry_run"], true, "{said:?}");
    }
    assert_eq!(dev.run(&["keys", "list", "-o", "name"]).out, keys);
    assert_eq!(dev.verdict(&token, &[]), (0, "valid".into()));
    let said = dev.run(&["dev", "--dry-run", "--data-dir", "elsewhere"]);
    assert!(said.status == 0 && said.err.contains("dry run: would start"), "{said:?}");
    assert!(!dev.path().join("elsewhere").exists());
}

#[test]
fn a_new_value_of_revision_or_annotation_rotates_once_and_a_restart_not_again() {
    let annotated = |value: &str| {
        policy("shop", "")
            .replace("namespace: shop}", &format!("namespace: shop, annotations: {{countersign.dev/rotate: {value}}}}}"))
    };
    let mut dev = Dev::on_policies(&[("shop.yaml", &policy("shop", ""))]);
    let active = |dev: &Dev| dev.run(&["keys", "list", "-o", "json"]).json()["status"]["access"]["active_kid"].clone();
    let mut kid = active(&dev);
    for (what, text) in [
        ("an annotation", annotated("one")),
        ("another", annotated("two")),
        ("a revision", policy("shop", "  keys: {rotation: {revision: \"2\"}}\n")),
    ] {
        dev.write("shop.yaml", &text);
        kid = eventually(what, || Some(active(&dev)).filter(|now| *now != kid));
    }
    dev.restart();
    assert_eq!(active(&dev), kid);
}
