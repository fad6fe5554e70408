//! What enforcing costs, and how it grows with policies and verifiers.
//!
//! The control plane and the operator are real. The verifiers acknowledge what they hold and give no verdicts: many of them are
//! one process (`countersign-simulated-fleet`), in the names of the pods that the API server lists.

use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::{
    figures::{Figures, percentile, publish},
    world::policy,
};
use crate::rig::{
    Api, Counts, Installation, Operator, PATIENCE, SimulatedFleet, Write, Writes, condition, eventually_every, object_path,
    report,
};

/// `POLICIESxVERIFIERS`, with commas between several.
const SIZES: &str = "COUNTERSIGN_SCALE";
/// How many seconds nothing should happen.
const IDLE: &str = "COUNTERSIGN_SCALE_IDLE";
/// How many namespaces the policies are spread over.
const NAMESPACES: usize = 10;
/// Who applies at once.
const APPLIERS: usize = 8;
/// How long anything about all policies may take.
const ALL: Duration = Duration::from_mins(30);
const EDITS: usize = 5;
const ALL_POLICIES: &str = "/apis/countersign.dev/v1alpha1/authpolicies";

#[derive(Clone, Copy, Debug)]
struct Size {
    policies: usize,
    verifiers: usize,
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn all_policies_are_enforced_on_all_verifiers_and_what_has_not_changed_is_not_written() {
    let sizes = std::env::var(SIZES).unwrap_or_else(|_| "30x10".to_owned());
    let idle = std::env::var(IDLE).map_or(3, |seconds| seconds.parse().unwrap());
    let runs: Vec<Figures> = sizes
        .split(',')
        .map(|size| {
            let (policies, verifiers) = size.trim().split_once('x').expect("POLICIESxVERIFIERS");
            let size = Size { policies: policies.parse().unwrap(), verifiers: verifiers.parse().unwrap() };
            Scene::new(size).measure(Duration::from_secs(idle))
        })
        .collect();
    publish("simulated verifiers, one operator", &runs);
}

/// Everything of one size.
struct Scene {
    operator: Operator,
    fleet: SimulatedFleet,
    writes: Writes,
    installation: Installation,
    size: Size,
    edits: usize,
}

impl Scene {
    fn new(size: Size) -> Self {
        let began = Instant::now();
        let installation = Installation::start(size.verifiers, 1);
        report(&format!("{} verifier pods are Ready after {:?}", size.verifiers, began.elapsed()));
        let operator = installation.operator(0);
        let mut fleet = installation.simulate_verifiers(size.verifiers);
        fleet.wait_until_acknowledged(&installation.redis);
        for number in 0..NAMESPACES {
            installation.api().namespace(&namespace(number));
        }
        let writes = installation.writes_from_now();
        Self { operator, fleet, writes, installation, size, edits: 0 }
    }

    fn measure(mut self, idle: Duration) -> Figures {
        let Size { policies, verifiers } = self.size;
        let mut figures = Figures::default();
        figures.add("policies", policies);
        figures.add("verifiers", verifiers);

        let cpu_before = self.operator.process().cpu_ms();
        let (applied, enforced) = self.apply_all();
        figures.add_time("all_applied_s", applied);
        figures.add_time("all_enforced_s", enforced);
        let cpu = self.operator.process().cpu_ms() - cpu_before;
        figures.add_ratio("operator_cpu_ms_per_policy", cpu, policies);
        let written = Counts::of(&self.quiet());
        report(&format!("{policies} policies on {verifiers} verifiers: enforced after {enforced:?}; writes: {written}"));
        figures.add_ratio("status_writes_per_policy", written.of_kind("authpolicies/status"), policies);
        figures.add_ratio("bundle_writes_per_policy", written.of_kind("configmaps"), policies);
        figures.add_ratio("ring_writes_per_policy", written.of_kind("secrets"), policies);
        figures.add_ratio("finalizer_writes_per_policy", written.of_kind("authpolicies"), policies);
        figures.add_ratio("events_per_policy", written.of_kind("events"), policies);
        let (memory, peak) = self.operator.process().memory_kib();
        figures.add("operator_memory_mib", memory / 1024);
        figures.add("operator_peak_memory_mib", peak / 1024);

        let mut edits: Vec<Duration> = (0..EDITS).map(|_| self.edit()).collect();
        edits.sort();
        let written = Counts::of(&self.quiet());
        assert_eq!(written.of_kind("configmaps"), EDITS as u64, "an edit moves one bundle: {written}");
        assert!(written.of_kinds("authpolicies") <= 2 * EDITS as u64, "{written}");
        figures.add_time("edit_enforced_median_s", percentile(&edits, 50));
        figures.add_time("edit_enforced_longest_s", percentile(&edits, 100));
        figures.add_ratio("writes_per_edit", written.0.values().sum(), EDITS);

        let (began, cpu_before) = (Instant::now(), self.operator.process().cpu_ms());
        eventually_every(Duration::from_millis(100), "time passes", idle * 2 + PATIENCE, || {
            (began.elapsed() >= idle).then_some(())
        });
        let written = self.writes.take();
        let leases = written.iter().filter(|write| write.is_heartbeat()).count();
        let others = Counts::of(written.iter().filter(|write| !write.is_heartbeat()));
        assert_eq!(others, Counts::default(), "in {idle:?} without a change: {others}");
        figures.add_time("idle_s", idle);
        figures.add("idle_writes_of_the_lease", leases);
        figures.add("idle_other_writes", others.0.values().sum::<u64>());
        let cpu = self.operator.process().cpu_ms() - cpu_before;
        let seconds = usize::try_from(began.elapsed().as_secs()).unwrap();
        figures.add_ratio("idle_operator_cpu_ms_per_s", cpu, seconds);

        self.operator.stop();
        let began = Instant::now();
        self.operator = self.installation.operator(0);
        self.edit();
        figures.add_time("operator_restarted_and_edit_enforced_s", began.elapsed());
        let (policies_written, others) = self.writes_besides_the_edit();
        assert_eq!(policies_written, 0, "a restart of the operator writes no AuthPolicy");
        figures.add("operator_restart_writes_of_policies", policies_written);
        figures.add("operator_restart_other_writes", others);
        figures.add("restarted_operator_memory_mib", self.operator.process().memory_kib().0 / 1024);

        let began = Instant::now();
        self.fleet.restart();
        self.fleet.wait_until_acknowledged(&self.installation.redis);
        self.edit();
        figures.add_time("verifiers_restarted_and_edit_enforced_s", began.elapsed());
        let (policies_written, others) = self.writes_besides_the_edit();
        assert_eq!(policies_written, 0, "a restart of every verifier writes no AuthPolicy");
        assert_eq!(others, 0, "nor anything else");
        figures.add("verifiers_restart_writes_of_policies", policies_written);
        figures.add("verifiers_restart_other_writes", others);
        self.fleet.process().assert_running();
        figures
    }

    fn api(&self) -> Api {
        self.installation.api()
    }

    /// Applies all policies: how long that takes, and how long until all are enforced.
    fn apply_all(&self) -> (Duration, Duration) {
        let began = Instant::now();
        std::thread::scope(|scope| {
            for applier in 0..APPLIERS {
                scope.spawn(move || {
                    let api = self.api();
                    (applier..self.size.policies).step_by(APPLIERS).for_each(|number| api.create(&declared(number)));
                });
            }
        });
        let applied = began.elapsed();
        // Looking at ten thousand takes the API server a while.
        let pause = Duration::from_millis(20 + self.size.policies as u64 / 5);
        eventually_every(pause, "all policies are enforced", ALL, || {
            let states = self.api().column(ALL_POLICIES, "Enforced");
            (states.len() == self.size.policies && states.iter().all(|state| state == "True")).then_some(())
        });
        (applied, began.elapsed())
    }

    /// Edits the first policy; how long until that is enforced.
    fn edit(&mut self) -> Duration {
        self.edits += 1;
        let change = json!({"spec": {"roles": [{"name": "user", "permissions": [format!("orders:read-{}", self.edits)]}]}});
        let (api, path) = (self.api(), object_path(&declared(0)));
        let began = Instant::now();
        let generation = api.merge(&path, &change)["metadata"]["generation"].clone();
        eventually_every(Duration::from_millis(5), "the edit is enforced", ALL, || {
            let enforced = condition(&api.object(&path)?, "Enforced");
            (enforced["status"] == "True" && enforced["observedGeneration"] == generation).then_some(())
        });
        began.elapsed()
    }

    /// Waits until nothing has been written for a while; what has been.
    fn quiet(&mut self) -> Vec<Write> {
        let pause = Duration::from_millis(1000 + self.size.policies as u64 / 2);
        let mut all = Vec::new();
        let mut last = Instant::now();
        eventually_every(Duration::from_millis(50), "nothing more is written", ALL, || {
            let new: Vec<Write> = self.writes.take().into_iter().filter(|write| !write.is_heartbeat()).collect();
            if !new.is_empty() {
                last = Instant::now();
                all.extend(new);
            }
            (last.elapsed() > pause).then_some(())
        });
        all
    }

    /// How many AuthPolicies and other objects were written since the last look, the edited policy's own left out.
    fn writes_besides_the_edit(&mut self) -> (u64, u64) {
        let edited = declared(0);
        let hash = hex::encode(&digest(&SHA256, format!("{}/p-0", namespace(0)).as_bytes()).as_ref()[..16]);
        let own = |write: &Write| {
            write.namespace == edited["metadata"]["namespace"] && write.name.starts_with("p-0")
                || write.name.ends_with(&hash)
                || write.what == "events" && write.namespace == edited["metadata"]["namespace"]
        };
        let written: Vec<Write> = self.quiet().into_iter().filter(|write| !own(write)).collect();
        let counts = Counts::of(&written);
        if !written.is_empty() {
            report(&format!("  written besides: {counts}"));
        }
        let policies = counts.of_kinds("authpolicies");
        (policies, counts.0.values().sum::<u64>() - policies)
    }
}

fn namespace(number: usize) -> String {
    format!("scale-{}", number % NAMESPACES)
}

fn declared(number: usize) -> Value {
    policy(&namespace(number), &format!("p-{number}"))
}
