//! What people declare and what the operator hands on: `AuthPolicy`, `Session`, and the bundle.

pub mod bundle;
pub mod policy;
pub mod session;
mod settings;
pub mod values;
pub mod references;
pub mod yaml;
