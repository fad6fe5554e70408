//! The issuer's own routes as clients call them, in one process.

mod accounts;
mod administration;
mod browser;
mod emergency;
mod login;
mod new_passwords;
mod operating;
mod rig;
mod second_factor;
mod services;
