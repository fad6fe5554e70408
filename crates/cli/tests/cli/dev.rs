//! `dev`: what it keeps, what it cleans up, what it refuses.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    process::Stdio,
    sync::mpsc,
};

use serde_json::Value;

use crate::rig::{Dev, PATIENCE, alone, countersign, eventually, run_with};

fn is(status: i32, verdict: &str) -> (i32, String) {
    (status, verdict.to_owned())
}

#[test]
fn a_token_is_minted_verified_revoked_and_refused() {
    let dev = Dev::start();
    let token = dev.mint(&["--subject", "alice", "--role", "user"]);
    assert_eq!(dev.verdict(&token, &["--permission", "orders:read"]), is(0, "valid"));
    assert_eq!(dev.verdict(&token, &["--permission", "orders:write"]), is(1, "denied"));
    let revoked = dev.run(&["revoke", "subject", "alice", "--reason", "left"]);
    assert_eq!(revoked.line(), "revoked subject alice; enforced on 1 of 1 verifiers");
    assert!(revoked.err.contains("policy default/dev"), "the target is named: {revoked:?}");
    assert_eq!(dev.verdict(&token, &[]), is(1, "revoked"));
    let later = dev.mint(&["--subject", "alice"]);
    assert_eq!(dev.verdict(&later, &[]), is(0, "valid"));
}

#[test]
fn keys_and_revocations_survive_kill_9() {
    let mut dev = Dev::start();
    let (live, dead) = (dev.mint(&["--subject", "alice"]), dev.mint(&["--subject", "bob"]));
    assert_eq!(dev.run_with(&["revoke", "token", "-"], &dead).status, 0);
    let kid = |dev: &Dev| dev.run(&["keys", "list", "-o", "json"]).json()["status"]["access"]["active_kid"].clone();
    let before = kid(&dev);
    dev.restart();
    assert_eq!(kid(&dev), before);
    assert_eq!(dev.verdict(&live, &[]), is(0, "valid"));
    assert_eq!(dev.verdict(&dead, &[]), is(1, "revoked"));
}

#[test]
fn the_data_directory_is_its_owner_s_alone_and_git_s_never() {
    let dev = Dev::start();
    let mode = |name: &str| std::fs::metadata(dev.data().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("."), 0o700);
    for name in ["admin.sock", "countersign.db"] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    assert_eq!(std::fs::read_to_string(dev.data().join(".gitignore")).unwrap(), "*\n");
    let addresses = dev.addresses();
    for name in ["verifier", "verifier_health", "issuer", "issuer_health", "admin", "socket", "admin_socket"] {
        assert!(addresses[name].is_string(), "{name}: {addresses}");
    }
}

#[test]
fn a_second_dev_on_the_same_data_is_told_who_has_it() {
    let dev = Dev::start();
    let second = run_with(dev.command(), "");
    assert_eq!(second.status, 3, "{second:?}");
    assert!(second.err.contains("another `countersign dev` uses it (process "), "{second:?}");
    assert!(second.err.contains("--data-dir"), "{second:?}");
    assert_eq!(dev.run(&["status", "-o", "name"]).line(), "default/dev");
}

#[test]
fn a_port_that_is_taken_is_named_with_its_flag_and_the_way_out() {
    let dev = Dev::start();
    for (flag, address) in [("--issuer-listen", "issuer"), ("--admin-listen", "admin"), ("--verifier-listen", "verifier")] {
        let taken = dev.addresses()[address].as_str().unwrap().to_owned();
        let mut arguments = vec!["dev".to_owned(), "--data-dir=d".to_owned(), format!("{flag}={taken}")];
        for listener in ["verifier", "verifier-health", "issuer", "issuer-health", "admin"] {
            let other = format!("--{listener}-listen");
            if other != flag {
                arguments.push(format!("{other}=127.0.0.1:0"));
            }
        }
        let said = alone(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(said.status, 3, "{said:?}");
        assert!(said.err.contains(flag) && said.err.contains(&taken), "{said:?}");
    }
}

#[test]
fn it_ends_in_order_when_asked_to() {
    let mut dev = Dev::start();
    assert_eq!(dev.terminate(), 0, "{}", dev.said());
    for name in ["admin.sock", "verifier.sock", "addresses.json"] {
        assert!(!dev.data().join(name).exists(), "{name} is left behind");
    }
    let said = dev.run(&["status"]);
    assert_eq!(said.status, 3, "{said:?}");
    assert!(said.err.contains("start `countersign dev`"), "{said:?}");
}

#[test]
fn an_audit_log_on_standard_output_has_that_for_itself() {
    let dev = Dev::unstarted();
    let mut command = dev.command();
    let mut child = command.args(["--audit-log", "stdout"]).stdout(Stdio::piped()).stderr(dev.log()).spawn().unwrap();
    let (tell, lines) = mpsc::channel();
    let out = BufReader::new(child.stdout.take().unwrap());
    let reading = std::thread::spawn(move || out.lines().for_each(|line| tell.send(line.unwrap()).unwrap()));
    let first = lines.recv_timeout(PATIENCE);
    let shown = first.is_ok().then(|| eventually("addresses are shown", || dev.said().contains("demo user").then_some(())));
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success() && shown.is_some(), "{first:?}: {}", dev.said());
    let events: Vec<Value> =
        first.into_iter().chain(lines.iter()).map(|line| serde_json::from_str(&line).unwrap()).collect();
    reading.join().unwrap();
    assert!(events.iter().any(|event| event["event_type"] == "USER_CREATED"), "{events:?}");
    assert!(events.iter().zip(1..).all(|(event, place)| event["place"] == place), "{events:?}");
}

#[test]
fn mistakes_on_the_command_line_are_usage_errors_that_name_their_flag() {
    for (arguments, named) in [
        (&["dev", "--verifier-listen", "nonsense"][..], "--verifier-listen"),
        (&["dev", "--admin-listen", "0.0.0.0:0"], "--admin-listen"),
        (&["dev", "--redis", "http://x"], "--redis"),
        (&["dev", "--policies", "/nonexistent/policies"], "/nonexistent/policies"),
        (&["dev", "--default-policy", "Shop"], "--default-policy"),
        (&["dev", "--audit-log", "/var/log/"], "--audit-log"),
        (&["dev", "--no-such-flag"], "--no-such-flag"),
    ] {
        let said = alone(arguments);
        assert_eq!(said.status, 2, "{said:?}");
        assert!(said.err.contains(named), "{named}: {said:?}");
    }
}

#[test]
fn with_a_certificate_the_ports_speak_tls() {
    let directory = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let (cert, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    let dev = Dev::with(&["--tls-cert", cert, "--tls-key", key], &[]);
    let token = dev.mint(&["--subject", "operator", "--role", "admin"]);
    let bearer = dev.path().join("bearer");
    std::fs::write(&bearer, &token).unwrap();
    let port = |name: &str| dev.addresses()[name].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
    for (scheme, status) in [("https", 0), ("http", 3)] {
        let run = |arguments: &[&str], input: &str| {
            let mut command = countersign();
            command.args(arguments).current_dir(dev.path()).env("SSL_CERT_FILE", cert);
            run_with(command, input).status
        };
        let verifier = format!("{scheme}://localhost:{}", port("verifier"));
        assert_eq!(run(&["verify", "-", "--policy", "default/dev", "--server", &verifier], &token), status, "{scheme}");
        let admin = format!("{scheme}://localhost:{}", port("admin"));
        let list = ["keys", "list", "--policy", "default/dev", "--server", &admin, "--bearer-token-file", "bearer"];
        assert_eq!(run(&list, ""), status, "{scheme}");
    }
    let half = alone(&["dev", "--tls-cert", cert]);
    assert_eq!(half.status, 2);
    assert!(half.err.contains("--tls-key"), "{half:?}");
    let swapped = alone(&["dev", "--tls-cert", key, "--tls-key", cert]);
    assert_eq!(swapped.status, 2);
    assert!(swapped.err.contains("--tls-cert"), "{swapped:?}");
}

#[test]
fn the_demo_shows_every_step_and_ends_well() {
    let said = alone(&["demo", "-o", "json"]);
    assert_eq!(said.status, 0, "{said:?}");
    let told = said.json();
    let steps: Vec<&str> = told["steps"].as_array().unwrap().iter().map(|s| s["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["start", "log in", "mint", "verify", "rotate", "revoke", "lock out", "restart"]);
    let rotate = &told["steps"][4]["figures"];
    assert!(rotate["calls"].as_u64().unwrap() > 100 && rotate["errors"] == 0, "{told}");
}
