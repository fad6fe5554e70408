//! What people declare and what the operator hands on: `AuthPolicy`, `Session`, and the bundle.
//!
//! A policy's way: text ([`load`]) to the object as it was written ([`policy`]), to the policy that holds ([`effective`]), with
//! what it refers to ([`resolve()`]), to the bundle that verifiers enforce ([`bundle`]) and to what issuers are told beside that
//! ([`key_ring`], [`issue`]). This crate reads files that it is told
//! to and nothing else; it knows no network and no clock.

pub mod bundle;
pub mod check;
pub mod cluster;
pub mod crds;
pub mod dev;
pub mod effective;
pub mod issue;
pub mod key_ring;
pub mod load;
pub mod policy;
pub mod reference;
pub mod references;
pub mod session;
pub mod values;
pub mod yaml;

mod resolve;
mod schema;
mod settings;
mod validation;

pub use crds::{crd_objects, crds};
pub use dev::dev_policy;
pub use resolve::{LoginReferences, resolve, resolve_login};
pub use schema::Problem;
pub use settings::Resolve;
