//! The system's randomness.

/// Random bytes. The system's generator doesn't fail once the machine is up; were it to, a process that can't key its hashes
/// must not run.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's randomness works");
    bytes
}

/// Evenly between 0 and 1.
pub(crate) fn random_fraction() -> f64 {
    f64::from(u32::from_le_bytes(random_bytes())) / f64::from(u32::MAX)
}
