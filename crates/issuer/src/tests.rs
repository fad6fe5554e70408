//! The issuer's own routes as clients call them, in one process.

mod login;
mod rig;
