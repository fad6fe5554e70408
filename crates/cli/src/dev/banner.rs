//! What is printed when everything is up: addresses, and calls to paste.

use serde_json::json;

use super::{Running, demo_user::DemoUser};
use crate::{
    failure::Failure,
    output::{Block, Printer, Report, Table},
};

/// Prints it.
pub(super) fn print(printer: Printer, running: &Running, demo: Option<&DemoUser>) -> Result<(), Failure> {
    let addresses = running.addresses();
    let declaration = running.declaration();
    for problem in &declaration.problems {
        printer.warn(&format!(
            "{} is wrong; the last good version serves\n{}",
            problem.file.display(),
            problem.lines.join("\n")
        ));
    }
    if let Some(why) = running.unsettled() {
        printer.warn(&format!("not everything is ready: {why}"));
    }
    let mut table = Table::new(&["", ""]);
    let http = if running.tls() { "https" } else { "http" };
    let mut line = |what: &str, value: String| table.row(vec![what.into(), value.into()]);
    line("verifier", format!("{http}://{}", addresses.verifier));
    line("", format!("unix:{}", addresses.socket.display()));
    line("health", format!("http://{}  (issuer: http://{})", addresses.verifier_health, addresses.issuer_health));
    line("issuer", format!("{http}://{}", addresses.issuer));
    line("admin", format!("unix:{}", addresses.admin_socket.display()));
    line("", format!("{http}://{}", addresses.admin));
    line("feed", running.feed_server().to_owned());
    line("data", running.data_dir().display().to_string());
    let names: Vec<String> = declaration.policies.keys().map(ToString::to_string).collect();
    line("policies", if names.is_empty() { "none yet".into() } else { names.join(", ") });
    if let Some(demo) = demo {
        line("demo user", format!("{}, password {}", demo.name, demo.password));
    }
    let policy = declaration.default.as_ref().map_or("default/dev", |d| d.as_str());
    let calls = match demo {
        Some(demo) => demo_calls(running, policy, demo),
        None => calls(running, policy),
    };
    let human = vec![Block::Table(table), Block::Text(calls)];
    let demo = demo.map(|demo| json!({"username": demo.name, "password_file": demo.password_file}));
    let document =
        json!({"addresses": addresses, "policies": names, "default_policy": declaration.default, "demo_user": demo});
    printer.report(&Report { document, human, names })
}

fn calls(running: &Running, policy: &str) -> String {
    let addresses = running.addresses();
    let socket = shell(&addresses.socket.display().to_string());
    format!(
        "\nTry it:\n  export COUNTERSIGN_SERVER={}\n  \
         TOKEN=$(countersign token mint -q --policy {policy} --subject alice --role user)\n  \
         curl --unix-socket {socket} --json '{{\"token\":\"'$TOKEN'\"}}' http://localhost/v1/policies/{policy}/verify\n  \
         countersign revoke subject alice --policy {policy}\n  \
         countersign verify --policy {policy} --explain $TOKEN\n",
        shell(&format!("unix:{}", addresses.admin_socket.display()))
    )
}

/// A login and what it is good for, each line as it stands.
fn demo_calls(running: &Running, policy: &str, demo: &DemoUser) -> String {
    let addresses = running.addresses();
    let socket = shell(&addresses.socket.display().to_string());
    let server = shell(&format!("unix:{}", addresses.admin_socket.display()));
    let issuer = format!("{}://{}", if running.tls() { "https" } else { "http" }, addresses.issuer);
    let password = shell(&demo.password_file.display().to_string());
    let DemoUser { name, .. } = demo;
    format!(
        "\nTry it:\n  export COUNTERSIGN_SERVER={server}\n  \
         TOKEN=$(curl -s --json '{{\"username\":\"{name}\",\"password\":\"'$(cat {password})'\"}}' {issuer}/auth/login \
         | sed 's/.*\"access_token\":\"\\([^\"]*\\).*/\\1/')\n  \
         curl -s -H \"Authorization: Bearer $TOKEN\" {issuer}/users/me\n  \
         curl -s --unix-socket {socket} --json '{{\"token\":\"'$TOKEN'\"}}' http://localhost/v1/policies/{policy}/verify\n  \
         curl -s -X POST -H \"Authorization: Bearer $TOKEN\" {issuer}/auth/logout\n  \
         echo $TOKEN | countersign verify --policy {policy} --explain -\n"
    )
}

/// Quoted where a shell would read it otherwise.
fn shell(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-:=".contains(&b);
    if text.bytes().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}
