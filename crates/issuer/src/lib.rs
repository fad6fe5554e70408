//! The login side of Countersign: mints tokens, ends them, and publishes the keys that verify them.
//!
//! [`Minter`] signs; [`Revoker`] writes what ends to the store and the feed and tells when every verifier enforces it; the
//! admin API and the issuer's own routes put both on HTTP ([`serve`]). The state of keys is decided elsewhere: this crate is
//! handed rings and never changes one. It must not know of Kubernetes or of files other than its sockets.

mod activity;
mod actor;
mod addresses;
mod admin;
mod audit;
mod audit_log;
mod bearer;
mod body;
mod call;
mod client;
mod closing;
mod cookies;
mod csrf;
mod emergency;
mod erasing;
mod fleet;
mod guard;
mod health;
mod housekeeping;
mod issued;
mod lanes;
mod limits;
mod lockout;
mod mail;
mod metrics;
mod minter;
pub mod names;
mod notices;
mod openapi;
mod opening;
pub mod passwords;
mod policies;
mod problem;
mod public;
mod recent;
mod revoker;
mod rotations;
pub mod sealing;
mod second_factor;
mod secrets;
mod serving;
mod sms;
pub mod totp;

#[cfg(test)]
mod tests;

pub use countersign_jwks::Reach;

pub use activity::SessionActivity;
pub use admin::{Authority, Caller, NotAdmitted, Right};
pub use audit_log::{AuditLog, InvalidAuditLog};
pub use emergency::UseAudit;
pub use erasing::erase_people;
pub use fleet::{Enforcement, Fleet, Verifier};
pub use health::{Health, METRICS};
pub use housekeeping::{AuditRetention, InvalidRetention};
pub use mail::{Delivery, InvalidSmtp, Kept, MailCounts, Mailer, Outbox, SmtpSettings, SmtpTls};
pub use minter::{MintError, MintRequest, Minted, Minter};
pub use policies::{
    BundleWrite, Confirmation, IssuerPolicy, Lives, LoginPolicy, OpaqueEnd, OwnKeys, Policies, RingView, Signer,
    SignsWhile, TokenSettings, TrustedIssuerName,
};
pub use revoker::{InvalidRevocation, RevocationRequest, RevokeError, Revoked, Revoker};
pub use secrets::Secrets;
pub use serving::{
    AdminSocket, Issuer, IssuerConfig, KeyOperator, Listeners, RingChoice, RotateError, ServeError, StatusSource, Vouched,
};
pub use sms::SmsSender;
