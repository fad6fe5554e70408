//! Where policies come from, and how they come into force.

pub(crate) mod directory;
mod enforced;
pub(crate) mod held;
pub(crate) mod keeper;
pub(crate) mod kubernetes;
pub(crate) mod saved;
pub(crate) mod status;

pub(crate) use countersign_jwks as jwks;
