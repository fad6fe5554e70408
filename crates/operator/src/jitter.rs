//! Waits that don't all end together.

use std::time::Duration;

/// A random fraction in [0, 1).
pub(crate) fn random_fraction() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness everyone is merely in step.
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        return 0.5;
    }
    f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}

/// `wait`, give or take a quarter.
pub(crate) fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.75 + 0.5 * random_fraction())
}

/// 128 random bits, in hex. `None` when the system gives none.
pub(crate) fn random_id() -> Option<String> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jittered_wait_is_off_by_a_quarter_at_most() {
        for _ in 0..1000 {
            let wait = jittered(Duration::from_secs(100));
            assert!((75..=125).contains(&wait.as_secs()), "{wait:?}");
        }
    }
}
