//! The issuer's own routes as clients call them, in one process.

mod accounts;
mod administration;
mod asking;
mod attacks;
mod browser;
mod document;
mod emergency;
mod ending;
mod home;
mod imports;
mod limited;
mod login;
mod new_passwords;
mod notices;
mod operating;
mod outages;
mod requests;
pub(crate) mod rig;
mod second_factor;
mod services;
mod taken_over;
mod trail;
