//! Passwords: what a good one is, how they are kept, and how much of the machine their hashing may take.
//!
//! Whose password it is, and what follows from a wrong one, is decided elsewhere.

mod hash;
mod legacy;
mod memory;
mod pool;
mod rules;

pub use hash::{Argon2idCost, Match, UnusableHash, check_hash};
pub use pool::{Overloaded, Pool};
pub use rules::{Breached, CharacterClass, Rules, Violation};
