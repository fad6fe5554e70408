//! The account that the built-in policy begins with, so that there is somebody to log in as.

use std::{fs, io, path::PathBuf, time::Duration};

use serde_json::json;

use super::{Running, builtin, data_dir::write_atomically};
use crate::{
    client::{Address, Client},
    credential::fresh_password,
    failure::Failure,
};

/// Its name.
const NAME: &str = "demo";
/// Its address, which nobody has (RFC 2606).
const EMAIL: &str = "demo@countersign.example";
/// How long making it may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The account, and where its password is kept.
pub(super) struct DemoUser {
    pub(super) name: &'static str,
    /// As it was at the first start.
    pub(super) password: String,
    pub(super) password_file: PathBuf,
}

/// The demo user of the built-in policy: made at the first start. None when there are policies of one's own, or it was erased,
/// or somebody else has its name.
pub(super) async fn demo_user(running: &Running) -> Result<Option<DemoUser>, Failure> {
    if !running.is_built_in() {
        return Ok(None);
    }
    let admin = Client::new(Address::Socket(running.addresses().admin_socket.clone()), None, PATIENCE)?;
    let users = format!("/admin/v1/policies/{}/users", builtin::name());
    let password_file = running.data_dir().join("demo-password");
    let failed = |error: io::Error| Failure::unable(format!("{}: {error}", password_file.display()));
    let password = match fs::read_to_string(&password_file) {
        Ok(password) => admin.get(&format!("{users}/{NAME}")).await?.ok().then_some(password),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let password = password(running)?;
            let body = json!({"username": NAME, "email": EMAIL, "password": password, "email_verified": true});
            let made = admin.post(&users, &body, Duration::ZERO).await?;
            match made.status {
                201 => {
                    write_atomically(&password_file, password.as_bytes()).map_err(failed)?;
                    Some(password)
                }
                409 => None,
                _ => return Err(made.failure()),
            }
        }
        Err(error) => return Err(failed(error)),
    };
    Ok(password.map(|password| DemoUser { name: NAME, password, password_file }))
}

/// Random, and as long as the policy wants it.
fn password(running: &Running) -> Result<String, Failure> {
    let declaration = running.declaration();
    let login = declaration.policies.get(&builtin::name()).and_then(|declared| declared.effective.login.as_ref());
    fresh_password(login.map_or(0, |login| login.passwords.min_length as usize))
}
