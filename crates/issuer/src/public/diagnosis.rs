//! What stands between somebody and being let in: every gate, its state, and what opens it.
//!
//! The gates of a token, an account and an address are told where one is named; those of the system always.

mod account;
mod system;
mod token;

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::{
    addresses::networks_around,
    call::Call,
    problem::{Failed, Problem},
};

/// Whom or what to look at.
#[derive(Deserialize, ToSchema)]
#[schema(as = DiagnoseRequest)]
pub(crate) struct Diagnosed {
    token: Option<String>,
    /// Id, name or e-mail address.
    user_id: Option<String>,
    #[schema(inline, value_type = Option<crate::openapi::shapes::Address>)]
    ip: Option<String>,
}

/// One thing that lets somebody through or doesn't.
struct Gate {
    name: &'static str,
    open: bool,
    detail: String,
    /// What opens it; said where it is shut.
    fix: String,
}

impl Gate {
    fn new(name: &'static str, open: bool, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, open, detail: detail.into(), fix: fix.into() }
    }

    fn shown(&self) -> Value {
        let fix = (!self.open).then_some(&self.fix);
        json!({"gate": self.name, "open": self.open, "detail": self.detail, "fix": fix})
    }
}

/// A command of the toolkit about this policy.
fn command(call: &Call, words: &str) -> String {
    format!("countersign {words} --policy {}", call.policy.name)
}

/// Every gate of what is named, and of the system. Looking is no try and no use: nothing is counted or recorded.
pub(crate) async fn diagnosis(call: &Call, asked: &Diagnosed) -> Result<Value, Failed> {
    let ip = asked.ip.as_deref().map(str::parse::<IpAddr>).transpose();
    let ip = ip.map_err(|_| Problem::validation("ip is not an address"))?;
    let mut gates = Vec::new();
    if let Some(token) = &asked.token {
        gates.extend(token::gates(call, token.trim(), ip).await?);
    }
    if let Some(user) = &asked.user_id {
        gates.extend(account::gates(call, user).await?);
    }
    if let Some(ip) = ip {
        gates.push(blocks(call, ip).await?);
        if call.policy.login.is_some() {
            gates.extend(account::rate_limits(call, asked.user_id.as_deref(), ip).await?);
        }
    }
    if gates.is_empty() {
        return Err(Problem::validation("name what to look at: token, user_id (id, name or e-mail address) or ip").into());
    }
    gates.extend(system::gates(call).await?);
    let open = gates.iter().all(|gate| gate.open);
    let gates: Vec<Value> = gates.iter().map(Gate::shown).collect();
    Ok(json!({"policy": call.policy.name, "open": open, "gates": gates}))
}

async fn blocks(call: &Call, ip: IpAddr) -> Result<Gate, Failed> {
    let block = call.store().blocked(&call.policy.name, &networks_around(ip), call.now().await?).await?;
    Ok(match block {
        None => Gate::new("address", true, format!("{ip} is not blocked"), ""),
        Some(block) => {
            let detail = format!("{} is blocked until {}: {}", block.network, block.expires, block.reason);
            Gate::new("address", false, detail, command(call, &format!("blocks remove {}", block.network)))
        }
    })
}
