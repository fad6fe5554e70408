//! What people declare and what the operator hands on: `AuthPolicy`, `Session`, and the bundle.

pub mod bundle;
