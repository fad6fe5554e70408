//! Clocks that step, both ways. The verifier's wall clock is moved under it; everybody else's stays.

use std::time::Duration;

use serde_json::json;

use super::World;
use crate::{
    forge,
    rig::{Clock, PATIENCE, Verifier, VerifierOptions, eventually},
};

/// A verifier of a world, and the clock that it goes by.
struct Stepped {
    verifier: Verifier,
    clock: Clock,
}

impl Stepped {
    fn start(world: &World) -> Self {
        let clock = Clock::start();
        let mut verifier = Verifier::with(
            &world.dev.bundles(),
            VerifierOptions { redis: Some(world.redis.url()), environment: clock.environment(), ..Default::default() },
        );
        verifier.wait_until_fresh();
        Self { verifier, clock }
    }

    fn step(&self, seconds: i64) {
        self.clock.set(seconds);
    }

    fn says(&self, token: &str, wanted: (u16, &str)) {
        eventually(&format!("the verifier says {wanted:?}"), PATIENCE, || {
            let said = self.verifier.verify("strict", token);
            ((said.0, said.1.as_str()) == wanted).then_some(())
        });
    }

    /// The verdict stays what it is for a while: long enough for a lease and a sweep.
    fn goes_on_saying(&self, token: &str, wanted: (u16, &str)) {
        let until = std::time::Instant::now() + Duration::from_secs(3);
        while std::time::Instant::now() < until {
            let said = self.verifier.verify("strict", token);
            assert_eq!((said.0, said.1.as_str()), wanted);
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }
}

#[test]
fn a_clock_set_back_revives_no_token() {
    let world = World::start();
    let stepped = Stepped::start(&world);
    let now = forge::now();
    let partner = &world.policies.partner;
    let expired = partner.token_of("EdDSA", &partner.claims_with(json!({"iat": now - 600, "exp": now - 120})));
    stepped.says(&expired, (401, "expired"));
    stepped.says(&world.live, (200, "valid"));
    stepped.step(-3600);
    stepped.goes_on_saying(&expired, (401, "expired"));
    stepped.says(&world.live, (200, "valid"));
    stepped.says(&world.dead, (401, "revoked"));
}

#[test]
fn a_clock_set_back_at_a_start_without_redis_revives_no_token() {
    let mut world = World::start();
    let mut stepped = Stepped::start(&world);
    let now = forge::now();
    let partner = &world.policies.partner;
    let expired = partner.token_of("EdDSA", &partner.claims_with(json!({"iat": now - 600, "exp": now - 120})));
    stepped.says(&expired, (401, "expired"));
    stepped.verifier.process().signal(rustix::process::Signal::TERM);
    assert!(stepped.verifier.process().wait(PATIENCE).success());
    world.redis.kill();
    stepped.step(-3600);
    stepped.verifier.restart();
    assert_eq!(stepped.verifier.verify("strict", &expired), (401, "expired".to_owned()), "the feed's time is on disk");
    assert_eq!(stepped.verifier.verify("strict", &world.dead), (401, "revoked".to_owned()));
}

#[test]
fn a_clock_set_forward_forgets_no_revocation_and_is_itself_forgotten() {
    let world = World::start();
    let stepped = Stepped::start(&world);
    stepped.says(&world.live, (200, "valid"));
    // Far past everything's expiry, and the hour beyond it: nothing may be purged on this clock's word alone.
    stepped.step(5 * 3600);
    stepped.says(&world.live, (401, "expired"));
    stepped.goes_on_saying(&world.dead, (401, "expired"));
    stepped.step(0);
    stepped.says(&world.live, (200, "valid"));
    stepped.says(&world.dead, (401, "revoked"));
}
