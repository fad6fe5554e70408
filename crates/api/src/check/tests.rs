//! Warnings, references and trials.

use std::collections::BTreeMap;

use countersign_core::{
    digest::sha256,
    jose::{Algorithm, base64url},
    keys::SigningKey,
};
use serde_json::Value;
use zeroize::Zeroizing;

use super::*;
use crate::{
    bundle::{BuildInput, BundleIssuerKeys, FetchedKeys, VerifySecrets, build, compile},
    load::load_text,
    references::{ReferenceError, ReferenceKind},
};

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

/// References held in memory: `secrets/NAME/KEY`.
#[derive(Default)]
struct Held(BTreeMap<String, Vec<u8>>);

impl Held {
    fn with(mut self, path: &str, value: impl Into<Vec<u8>>) -> Self {
        self.0.insert(path.to_owned(), value.into());
        self
    }
}

impl References for Held {
    fn value(&self, kind: ReferenceKind, name: &str, key: &str) -> Result<Zeroizing<Vec<u8>>, ReferenceError> {
        let folder = if kind == ReferenceKind::Secret { "secrets" } else { "configmaps" };
        let place = format!("{folder}/{name}/{key}");
        self.0.get(&place).cloned().map(Zeroizing::new).ok_or(ReferenceError::NotFound { place })
    }
}

fn written(lines: &str) -> String {
    format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: AuthPolicy\nmetadata: {{name: shop}}\nspec:\n  issuer: https://i\n  audiences: [a]\n{lines}"
    )
}

fn policy(lines: &str) -> Loaded {
    let text = written(lines);
    let loaded = load_text("f.yaml", &text);
    assert_eq!(loaded.diagnostics, [], "{text}");
    loaded
}

fn told(loaded: &Loaded, references: &Held) -> Vec<String> {
    check(loaded, Some(references), NOW).iter().map(ToString::to_string).collect()
}

fn token(claims: &Value) -> String {
    let part = |value: &Value| base64url::encode(value.to_string());
    format!("{}.{}.{}", part(&json!({"alg": "EdDSA", "typ": "at+jwt"})), part(claims), base64url::encode("not a signature"))
}

#[test]
fn what_is_likely_not_meant_is_warned_about() {
    for (lines, expected) in [
        (
            "  trustedIssuers: [{name: a, issuer: 'https://a', audiences: ['*']}]\n",
            "f.yaml:7: warning: spec.trustedIssuers[0].audiences: the audience is not checked",
        ),
        (
            "  trustedIssuers: [{name: a, issuer: 'https://a', notAfter: 2020-01-01T00:00:00Z}]\n",
            "f.yaml:7: warning: spec.trustedIssuers[0].notAfter: has passed",
        ),
        (
            "  declaredSessions: {roles: [ghost]}\n",
            "spec.declaredSessions.roles: not defined in spec.roles, so without any permission: ghost",
        ),
        ("  login: {registration: {defaultRoles: [ghost]}}\n", "spec.login.registration.defaultRoles: not defined"),
        (
            "  rules: [{name: r, expression: request.method != 'GET'}]\n",
            "spec.rules[0].expression: denies every call that doesn't send request.method",
        ),
        (
            "  rules: [{name: r, expression: claims.tenant == 'x'}]\n",
            "spec.rules[0].expression: can't be evaluated on a token without roles",
        ),
        (
            "  rules: [{name: r, expression: \"!('admin' in roles)\"}]\n",
            "spec.rules[0].expression: denies even a token without roles",
        ),
    ] {
        let told = told(&policy(lines), &Held::default());
        assert!(told.len() == 1 && told[0].contains(expected), "{lines}: {told:?}");
    }
    let fine = "  roles: [{name: user}]\n  rules: [{name: r, expression: \"'temp' in roles && request.method != 'GET'\"}]\n  login: {registration: {defaultRoles: [user]}}\n";
    assert_eq!(told(&policy(fine), &Held::default()), [""; 0]);
}

#[test]
fn two_policies_of_one_issuer_are_warned_about() {
    let one = |name: &str| {
        format!(
            "apiVersion: countersign.dev/v1alpha1\nkind: AuthPolicy\nmetadata: {{name: {name}}}\nspec: {{issuer: https://i, audiences: [a]}}\n---\n"
        )
    };
    let loaded = load_text("f.yaml", &(one("a") + &one("b")));
    assert_eq!(told(&loaded, &Held::default()), ["f.yaml:9: warning: spec.issuer: policy default/a has the same issuer"]);
}

#[test]
fn sessions_are_held_against_their_policy_and_against_each_other() {
    let session = |name: &str, spec: &str| {
        format!(
            "---\napiVersion: countersign.dev/v1alpha1\nkind: Session\nmetadata: {{name: {name}}}\nspec: {{policyRef: {{name: shop}}, {spec}}}\n"
        )
    };
    let shop = "apiVersion: countersign.dev/v1alpha1\nkind: AuthPolicy\nmetadata: {name: shop}\nspec: {issuer: https://i, audiences: [a], declaredSessions: {roles: [r]}, roles: [{name: r}]}\n";
    for (sessions, expected) in [
        (session("a", "subject: svc-a, secret: {name: s}, roles: [r], audiences: [a]"), vec![]),
        (
            session("a", "subject: a, secret: {name: s}, roles: [x]"),
            vec![
                "f.yaml:9: spec.subject: must begin with \"svc-\"",
                "f.yaml:9: spec.roles: not among the policy's declaredSessions.roles: x",
            ],
        ),
        (
            session("a", "subject: svc-a, secret: {name: s}, tokenTTL: 1h"),
            vec!["f.yaml:9: spec.tokenTTL: is 1h, longer than the policy's tokens.accessTTL; set at most 15m"],
        ),
        (
            session("a", "subject: svc-a, secret: {name: s}, tokenTTL: 30s, renewBefore: 9s"),
            vec!["f.yaml:9: spec.tokenTTL: tokenTTL must be"],
        ),
        (session("A", "subject: svc-a, secret: {name: s}"), vec!["f.yaml:8: metadata.name: default/A is not a name"]),
        (
            session("a", "subject: svc-a, secret: {name: s}") + &session("a", "subject: svc-a, secret: {name: t}"),
            vec!["f.yaml:8: metadata.name: default/a stands twice", "f.yaml:13: metadata.name: default/a stands twice"],
        ),
        (
            session("a", "subject: svc-a, secret: {name: s}") + &session("b", "subject: svc-a, secret: {name: s}"),
            vec![
                "f.yaml:9: spec.secret.name: default/s is written by two sessions",
                "f.yaml:14: spec.secret.name: default/s is written by two sessions",
            ],
        ),
        (
            session("a", "subject: svc-a, secret: {name: s}").replace("name: shop", "name: other"),
            vec!["f.yaml:9: warning: spec.policyRef.name: policy default/other isn't in these files"],
        ),
    ] {
        let told = told(&load_text("f.yaml", &format!("{shop}{sessions}")), &Held::default());
        let as_expected = told.iter().zip(&expected).all(|(told, expected)| told.starts_with(expected));
        assert!(told.len() == expected.len() && as_expected, "{sessions}: {told:#?}");
    }
}

const LEGACY: &str = "  trustedIssuers: [{name: legacy, algorithms: [HS256], secretKeyRef: {name: s, key: k}, notAfter: 2030-01-01T00:00:00Z}]\n";
const MIRRORED: &str = "  trustedIssuers: [{name: m, issuer: 'https://m', algorithms: [EdDSA], jwks: {configMapKeyRef: {name: c, key: jwks.json}}}]\n";
const OPAQUE: &str = "  opaqueKeys: {secretKeyRefs: [{name: o, key: keys.json}]}\n";

#[test]
fn what_a_policy_refers_to_must_be_there_and_strong() {
    let secret = |value: &str| Held::default().with("secrets/s/k", value);
    let set = |value: &str| Held::default().with("configmaps/c/jwks.json", value);
    let keys = |value: &str| Held::default().with("secrets/o/keys.json", value);
    for (lines, held, expected) in [
        (LEGACY, Held::default(), "f.yaml:7: spec.trustedIssuers[0].secretKeyRef: there is no secrets/s/k"),
        (LEGACY, secret("short"), "spec.trustedIssuers[0].secretKeyRef: the secret has 5 bytes: at least 32 are needed"),
        (
            LEGACY,
            secret("0123456789abcdef0123456789abcdef\n"),
            "warning: spec.trustedIssuers[0].secretKeyRef: the secret ends with a line feed",
        ),
        (MIRRORED, Held::default(), "spec.trustedIssuers[0].jwks.configMapKeyRef: there is no configmaps/c/jwks.json"),
        (MIRRORED, set("{}"), "the key set is not a JSON object with a list named keys"),
        (MIRRORED, set(r#"{"keys": [], "keys": []}"#), "the key set is refused"),
        (
            MIRRORED,
            set(r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}"#),
            "the key is a point of small order",
        ),
        (OPAQUE, Held::default(), "spec.opaqueKeys.secretKeyRefs[0]: there is no secrets/o/keys.json"),
        (OPAQUE, keys("[{}]"), "spec.opaqueKeys.secretKeyRefs[0]: is not a JSON list of keys"),
    ] {
        let told = told(&policy(lines), &held);
        assert!(told.len() == 1 && told[0].contains(expected), "{lines}: {told:?}");
    }
    assert_eq!(told(&policy(LEGACY), &secret("0123456789abcdef0123456789abcdef")), [""; 0]);
}

#[test]
fn what_a_wrong_policy_refers_to_is_looked_at_all_the_same() {
    let both = told(&load_text("f.yaml", &written(&format!("{LEGACY}  audience: [x]\n"))), &Held::default());
    assert_eq!(both.len(), 2, "{both:?}");
    assert!(both.iter().any(|line| line.contains("spec.audience:")), "{both:?}");
    assert!(both.iter().any(|line| line.contains("there is no secrets/s/k")), "{both:?}");
    // A list that is wrong itself says enough.
    let one = told(&load_text("f.yaml", &written(&LEGACY.replace("name: legacy", "nmae: legacy"))), &Held::default());
    assert!(!one.is_empty() && !one.iter().any(|line| line.contains("secrets/s/k")), "{one:?}");
}

#[test]
fn what_is_accepted_and_does_nothing_or_cannot_be_fetched_is_warned_of() {
    let emergency = |end: &str, roles: &str| format!("  emergency: {{mode: Enabled, notAfter: {end}, roles: {roles}}}\n");
    let fetched = |url: &str| {
        format!("  trustedIssuers: [{{name: a, issuer: 'https://a.example', jwks: {{url: '{url}'}}, audiences: [x]}}]\n")
    };
    for (lines, expected) in [
        (emergency("2099-01-01T00:00:00Z", "[]"), Some("spec.emergency.roles: is empty")),
        (emergency("2020-01-01T00:00:00Z", "[]"), Some("spec.emergency.notAfter: has passed")),
        (emergency("2099-01-01T00:00:00Z", "[boss]"), Some("spec.emergency.roles: not defined in spec.roles")),
        (fetched("http://127.0.0.1:9/jwks"), Some("--allow-private-issuers")),
        (fetched("https://10.0.0.7/jwks"), Some("--jwks-allow-private")),
        (fetched("https://localhost/jwks"), Some("spec.trustedIssuers[0].jwks.url: ")),
        (fetched("https://a.example/jwks"), None),
    ] {
        let told = told(&policy(&lines), &Held::default());
        match expected {
            None => assert_eq!(told, [""; 0], "{lines}"),
            Some(part) => {
                assert!(told.len() == 1 && told[0].contains("warning: ") && told[0].contains(part), "{lines}: {told:?}");
            }
        }
    }
}

#[test]
fn a_policy_with_its_references_becomes_a_bundle_that_compiles() {
    let key = SigningKey::generate(Algorithm::EdDSA).unwrap();
    let set = json!({"keys": [key.public_jwk()]}).to_string();
    let opaque = json!([{"sha256": hex::encode(sha256(b"old-key")), "subject": "svc"}]).to_string();
    let held = Held::default()
        .with("secrets/s/k", "0123456789abcdef0123456789abcdef")
        .with("configmaps/c/jwks.json", set)
        .with("secrets/o/keys.json", opaque);
    let inline = format!(
        ", {{name: i, issuer: 'https://in', algorithms: [EdDSA], jwks: {{inline: {{keys: [{}]}}}}}}",
        json!(key.public_jwk())
    );
    let discovered = ", {name: d, issuer: 'https://d', audiences: ['*'], maxTTL: 1h, claimMappings: {roles: {expression: claims.r, prefix: 'd:'}}}]\n";
    let (legacy, mirrored) =
        (LEGACY.replace("}]\n", "}"), MIRRORED.replace("  trustedIssuers: [", ", ").replace("}]\n", "}"));
    let lines = format!(
        "{legacy}{mirrored}{inline}{discovered}{OPAQUE}  roles: [{{name: admin, permissions: ['*']}}]\n  keys: {{revoked: [{{kid: lost}}]}}\n"
    );
    let loaded = policy(&lines);
    let policy = &loaded.policies[0];
    let (resolved, odd) = resolve(&policy.effective, &held).unwrap();
    assert_eq!(odd, []);
    let input = |generation| BuildInput {
        name: &policy.name,
        uid: "u",
        generation,
        policy: &policy.effective,
        keys: Vec::new(),
        resolved: &resolved,
        revoked: policy.effective.revoked_keys(&policy.name),
    };
    let (bundle, secrets) = build(input(1));
    let section = bundle.verify.as_ref().unwrap();
    assert_eq!(section.trusted_issuers.len(), 4);
    assert!(matches!(section.trusted_issuers[0].keys, BundleIssuerKeys::Secret));
    assert!(matches!(section.trusted_issuers[1].keys, BundleIssuerKeys::Jwks(_)));
    assert!(matches!(section.trusted_issuers[2].keys, BundleIssuerKeys::Jwks(_)));
    assert!(matches!(section.trusted_issuers[3].keys, BundleIssuerKeys::Fetch { url: None }));
    assert_eq!(
        (&section.trusted_issuers[2].audiences, &section.trusted_issuers[3].audiences),
        (&Some(vec!["a".to_owned()]), &None)
    );
    assert_eq!(section.trusted_issuers[3].max_ttl_ms, Some(3_600_000));
    assert_eq!((bundle.revoked.len(), bundle.revoked[0].id.as_str()), (1, "lost"));

    let secrets = secrets.unwrap();
    assert_eq!(section.secrets_sha256.as_deref(), Some(secrets.sha256().as_str()));
    let read = VerifySecrets::parse(secrets.to_json().as_bytes(), &secrets.sha256()).unwrap();
    let compiled = compile(&bundle, Some(&read), &FetchedKeys::new()).unwrap();
    assert!(compiled.skipped.is_empty());
    assert_eq!(compiled.policy.opaque.unwrap().lookup("old-key").unwrap().subject, "svc");
    // Nothing but the generation moves when nothing was edited.
    assert_eq!(build(input(2)).0.verify, bundle.verify);
}

#[test]
fn rules_are_tried_on_a_token_one_by_one() {
    let loaded = policy(
        "  roles: [{name: user, permissions: ['orders:*']}]
  trustedIssuers: [{name: k, issuer: 'https://k', claimMappings: {subject: {claim: uid}, roles: {claim: groups, prefix: 'k:'}}}]
  rules:
  - {name: reads, expression: \"'user' in roles && request.method != 'GET'\"}
  - {name: tenant, expression: \"has(claims.tenant) && claims.tenant == 'bad'\"}
  - {name: level, expression: claims.level > 3}
",
    );
    let policy = &loaded.policies[0].effective;
    let tried = |claims: &Value, method| {
        let request = Request { method, ..Request::default() };
        try_token(policy, &token(claims), request, Client::default(), NOW)
    };
    let own = json!({"iss": "https://i", "sub": "u", "roles": ["user"], "tenant": "bad", "level": 3, "scope": "x y"});
    let trial = tried(&own, Some("GET")).unwrap();
    assert_eq!((trial.kind, trial.subject.as_str()), ("access", "u"));
    assert_eq!((trial.permissions, trial.scopes), (vec!["orders:*".to_owned()], vec!["x".to_owned(), "y".to_owned()]));
    let outcomes: Vec<_> = trial.rules.into_iter().map(|t| t.outcome).collect();
    assert_eq!(outcomes, [Outcome::Passes, Outcome::Denies, Outcome::Passes]);

    let outcomes: Vec<_> = tried(&own, None).unwrap().rules.into_iter().map(|t| t.outcome).collect();
    assert_eq!(outcomes[0], Outcome::Fails { missing: vec!["request.method"] });

    let foreign = json!({"iss": "https://k", "uid": "7", "groups": ["g"]});
    let trial = tried(&foreign, Some("GET")).unwrap();
    assert_eq!((trial.kind, trial.subject.as_str(), trial.roles), ("external", "7", vec!["k:g".to_owned()]));
    assert_eq!(trial.rules[2].outcome, Outcome::Fails { missing: vec![] });

    assert_eq!(tried(&json!({"iss": "https://x", "sub": "u"}), None), Err(TrialError::UntrustedIssuer("https://x".into())));
    assert!(matches!(tried(&json!({"iss": "https://i", "roles": 1, "sub": "u"}), None), Err(TrialError::InvalidClaims(_))));
    assert!(matches!(
        try_token(policy, "nonsense", Request::default(), Client::default(), NOW),
        Err(TrialError::Malformed(_))
    ));
}

#[test]
fn the_effective_policy_reads_back_as_the_same_policy() {
    for text in [include_str!("../../assets/every-field.yaml"), crate::dev::DEV_POLICY] {
        let loaded = load_text("f.yaml", text);
        let mut shown = json!({"apiVersion": "countersign.dev/v1alpha1", "kind": "AuthPolicy", "metadata": {"name": "p"}});
        shown["spec"] = json!(loaded.policies[0].effective);
        let shown = crate::crds::to_yaml(&shown);
        let again = load_text("shown.yaml", &shown);
        assert_eq!(again.diagnostics, [], "{shown}");
        assert_eq!(again.policies[0].effective, loaded.policies[0].effective);
        assert!(shown.contains("accessTTL: \"15m\""), "{shown}");
    }
}
