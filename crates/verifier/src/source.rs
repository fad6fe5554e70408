//! Where policies come from, and how they come into force.

pub(crate) mod directory;
pub(crate) mod held;
pub(crate) mod keeper;
pub(crate) mod saved;

pub(crate) use countersign_jwks as jwks;
