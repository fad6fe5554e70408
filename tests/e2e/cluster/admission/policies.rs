//! Specifications of AuthPolicies.

use serde_json::{Value, json};

use super::{Case, GOOD, REMOVED, blames};

pub(super) fn minimal() -> Value {
    json!({"audiences": ["shop-api"], "issuer": "https://auth.shop.example"})
}

pub(super) fn cases() -> Vec<Case> {
    [whole(), issuers(), trusted(), tokens_and_keys(), access(), login(), shapes()].concat()
}

/// An entry of `trustedIssuers` that is good, with something changed.
fn foreign(patch: &Value) -> Value {
    let entry = json!({"name": "keycloak", "issuer": "https://kc.example/realms/shop", "algorithms": ["RS256"],
        "jwks": {"url": "https://kc.example/certs"}});
    json!({"trustedIssuers": [merged(entry, patch)]})
}

/// The same with a symmetric key.
fn legacy(patch: &Value) -> Value {
    let entry = json!({"name": "legacy", "algorithms": ["HS256"], "secretKeyRef": {"name": "legacy-jwt", "key": "secret"},
        "notAfter": "2099-03-01T00:00:00Z"});
    json!({"trustedIssuers": [merged(entry, patch)]})
}

/// A policy without an issuer of its own, which trusts another.
fn verifying_only(more: &Value) -> Value {
    let mut spec = foreign(&json!({}));
    spec["issuer"] = REMOVED.into();
    super::merge(&mut spec, more);
    spec
}

fn merged(mut entry: Value, patch: &Value) -> Value {
    super::merge(&mut entry, patch);
    entry
}

fn whole() -> Vec<Case> {
    vec![
        ("the least", json!({}), GOOD),
        (
            "everything",
            json!({
                "tokens": {"algorithm": "EdDSA", "accessTTL": "15m", "refreshTTL": "720h", "refreshRotation": "OnUse",
                    "refreshGrace": "10s", "apiKeyMaxTTL": "2160h", "clockSkew": "30s"},
                "keys": {"rotation": {"interval": "720h", "apiKeyInterval": "2160h", "prepublish": "10m", "revision": "2"},
                    "revoked": [{"kid": "k1", "reason": "leaked"}], "onUnacknowledged": "Proceed", "ackTimeout": "5m", "absentAfter": "10m"},
                "revocation": {"maxStaleness": "5m", "onStale": "Allow", "maxEntries": 1000},
                "roles": [{"name": "admin", "permissions": ["*"], "inherits": ["user"]}, {"name": "user", "permissions": ["orders:read"]}],
                "rules": [{"name": "temp", "expression": "'temp' in roles && request.method != 'GET'", "effect": "Deny"}],
                "clientAddresses": {"allow": ["203.0.113.0/24"], "deny": ["2001:db8::/32"]},
                "verificationRateLimit": {"limit": 100, "window": "1m"},
                "trustedIssuers": [
                    {"name": "keycloak", "issuer": "https://kc.example/realms/shop", "audiences": ["shop-api"], "algorithms": ["RS256"],
                        "jwks": {"url": "https://kc.example/certs"}, "maxTTL": "24h",
                        "claimMappings": {"subject": {"claim": "sub"}, "scopes": {"claim": "scope"},
                            "roles": {"expression": "claims.realm_access.roles", "prefix": "kc:", "allow": ["kc:user"]}}},
                    {"name": "legacy", "audiences": ["*"], "algorithms": ["HS256"], "secretKeyRef": {"name": "legacy-jwt", "key": "secret"},
                        "notAfter": "2099-03-01T00:00:00Z", "match": [{"claim": "type", "value": "access"}]},
                ],
                "opaqueKeys": {"secretKeyRefs": [{"name": "old-api-keys", "key": "keys.json"}]},
                "emergency": {"mode": "Enabled", "notAfter": "2099-01-01T00:00:00Z", "maxTTL": "1h", "roles": ["admin"]},
                "declaredSessions": {"subjectPrefix": "svc-", "roles": ["user"]},
                "retainAfterDelete": "168h",
                "login": {
                    "sessions": {"maxConcurrent": 5, "onLimit": "EvictIdle", "idleTimeout": "168h", "absoluteTimeout": "720h",
                        "rememberMe": {"idleTimeout": "720h", "absoluteTimeout": "2160h"}, "binding": {"ip": "Observe", "device": "StepUp"}},
                    "lockout": {"mode": "Enabled", "maxFailures": 5, "window": "15m", "duration": "30m", "backoffFactor": 2, "maxDuration": "24h"},
                    "passwords": {"minLength": 12, "maxLength": 128, "require": ["Upper", "Digit"], "history": 5,
                        "breachedPasswords": {"mode": "Custom", "configMapKeyRef": {"name": "words", "key": "list"}},
                        "argon2id": {"memory": "19Mi", "iterations": 2, "parallelism": 1}},
                    "mfa": {"mode": "Required", "totp": {"issuerName": "Shop", "digits": 6, "period": "30s", "skew": 1}, "backupCodes": 10},
                    "registration": {"mode": "Closed", "emailVerification": "Optional", "defaultRoles": ["user"]},
                    "rateLimits": {"login": {"perAddress": {"limit": 10, "window": "1m"}}},
                    "addressBlocking": {"mode": "Disabled"},
                    "cookies": {"mode": "Enabled", "prefix": "__Secure-cs_", "sameSite": "None", "domain": "shop.example"},
                    "mail": {"from": "Shop <no-reply@shop.example>", "verifyURL": "https://shop.example/v?t={token}", "smtpSecretRef": {"name": "smtp"}},
                    "sms": {"url": "https://sms.example/send", "signingSecretKeyRef": {"name": "sms", "key": "secret"}},
                    "cors": {"allowedOrigins": ["https://shop.example"], "allowCredentials": true},
                    "clients": [{"clientID": "billing", "secretKeyRef": {"name": "billing", "key": "secret"}, "scopes": ["orders:read"]}],
                    "rollout": {"percentage": 10, "subjects": ["ann"]},
                },
            }),
            GOOD,
        ),
    ]
}

fn issuers() -> Vec<Case> {
    let issuer = |value: &str| json!({"issuer": value});
    vec![
        ("an issuer with a path", issuer("https://auth.example/realms/shop"), GOOD),
        ("http to this machine", issuer("http://localhost:7490"), GOOD),
        ("http to this machine by address", issuer("http://127.0.0.1:7490/x"), GOOD),
        ("http to this machine by IPv6 address", issuer("http://[::1]:7490"), GOOD),
        ("http to others", issuer("http://auth.example"), blames("issuer")),
        ("http to others who pretend", issuer("http://localhost.example"), blames("issuer")),
        ("http to others behind user information", issuer("http://localhost:80@example"), blames("issuer")),
        ("a slash at the end", issuer("https://auth.example/"), blames("issuer")),
        ("a query", issuer("https://auth.example?x=1"), blames("issuer")),
        ("a fragment", issuer("https://auth.example#x"), blames("issuer")),
        ("no scheme", issuer("auth.example"), blames("issuer")),
        ("another scheme", issuer("ftp://auth.example"), blames("issuer")),
        ("a blank", issuer("https://auth example"), blames("issuer")),
        ("an empty issuer", issuer(""), blames("issuer")),
        ("a long issuer", issuer(&format!("https://{}", "a".repeat(256))), blames("issuer")),
        ("nobody's tokens", json!({"issuer": REMOVED}), blames("trustedIssuers")),
        ("nobody's tokens, with an empty list", json!({"issuer": REMOVED, "trustedIssuers": []}), blames("trustedIssuers")),
        ("login without an issuer", verifying_only(&json!({"login": {}})), blames("login")),
        (
            "emergency without an issuer",
            verifying_only(&json!({"emergency": {"mode": "Enabled", "notAfter": "2099-01-01T00:00:00Z"}})),
            blames("emergency"),
        ),
        ("only others' tokens", verifying_only(&json!({})), GOOD),
        ("no audiences", json!({"audiences": REMOVED}), blames("audiences")),
        ("an empty list of audiences", json!({"audiences": []}), blames("audiences")),
        ("an empty audience", json!({"audiences": [""]}), blames("audiences")),
        ("any audience", json!({"audiences": ["*"]}), blames("audiences")),
        (
            "seventeen audiences",
            json!({"audiences": (0..17).map(|n| format!("a{n}")).collect::<Vec<_>>()}),
            blames("audiences"),
        ),
    ]
}

fn trusted() -> Vec<Case> {
    let second =
        json!({"name": "second", "issuer": "https://kc.example/realms/shop", "jwks": {"url": "https://x.example/jwks"}});
    let two = |other: Value| {
        let mut spec = foreign(&json!({}));
        spec["trustedIssuers"].as_array_mut().unwrap().push(other);
        spec
    };
    let eleven: Vec<Value> =
        (0..17).map(|n| json!({"name": format!("n{n}"), "issuer": format!("https://i{n}.example")})).collect();
    vec![
        ("keys by discovery", foreign(&json!({"jwks": REMOVED})), GOOD),
        ("keys by discovery from what is no address", foreign(&json!({"jwks": REMOVED, "issuer": "kc"})), blames("issuer")),
        ("an issuer that is no address, with keys", foreign(&json!({"issuer": "joe"})), GOOD),
        (
            "keys of a ConfigMap",
            foreign(&json!({"jwks": {"url": REMOVED, "configMapKeyRef": {"name": "kc", "key": "jwks.json"}}})),
            GOOD,
        ),
        (
            "keys inline",
            foreign(
                &json!({"jwks": {"url": REMOVED, "inline": {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}}, "algorithms": ["EdDSA"]}),
            ),
            GOOD,
        ),
        ("keys from nowhere", foreign(&json!({"jwks": {"url": REMOVED}})), blames("jwks")),
        (
            "keys from two places",
            foreign(&json!({"jwks": {"configMapKeyRef": {"name": "kc", "key": "jwks.json"}}})),
            blames("jwks"),
        ),
        (
            "a private key",
            foreign(
                &json!({"jwks": {"url": REMOVED, "inline": {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}]}}, "algorithms": ["EdDSA"]}),
            ),
            blames("keys"),
        ),
        ("inline keys that are no set", foreign(&json!({"jwks": {"url": REMOVED, "inline": {}}})), blames("keys")),
        ("keys over http", foreign(&json!({"jwks": {"url": "http://kc.example/certs"}})), blames("url")),
        ("keys from this machine over http", foreign(&json!({"jwks": {"url": "http://127.0.0.1:8080/certs"}})), GOOD),
        (
            "keys from the metadata service over http",
            foreign(&json!({"jwks": {"url": "http://169.254.169.254/latest"}})),
            blames("url"),
        ),
        ("keys from a file", foreign(&json!({"jwks": {"url": "file:///etc/passwd"}})), blames("url")),
        ("an entry without a name", foreign(&json!({"name": REMOVED})), blames("name")),
        ("a name with capitals", foreign(&json!({"name": "Keycloak"})), blames("name")),
        ("no algorithm", foreign(&json!({"algorithms": []})), blames("algorithms")),
        ("the algorithm none", foreign(&json!({"algorithms": ["none"]})), blames("algorithms")),
        ("both kinds of algorithms", foreign(&json!({"algorithms": ["RS256", "HS256"]})), blames("algorithms")),
        ("a symmetric algorithm with public keys", foreign(&json!({"algorithms": ["HS256"]})), blames("secretKeyRef")),
        ("any audience", foreign(&json!({"audiences": ["*"]})), GOOD),
        ("any audience, and one", foreign(&json!({"audiences": ["*", "shop-api"]})), blames("audiences")),
        ("no audience", foreign(&json!({"audiences": []})), blames("audiences")),
        (
            "the policy's own issuer again",
            foreign(&json!({"issuer": "https://auth.shop.example"})),
            blames("trustedIssuers"),
        ),
        ("one issuer twice", two(second.clone()), blames("trustedIssuers")),
        (
            "one name twice",
            two(merged(second.clone(), &json!({"name": "keycloak", "issuer": "https://second.example"}))),
            blames("trustedIssuers"),
        ),
        ("two issuers", two(merged(second, &json!({"issuer": "https://second.example"}))), GOOD),
        ("seventeen issuers", json!({"trustedIssuers": eleven}), blames("trustedIssuers")),
        ("a life without length", foreign(&json!({"maxTTL": "0s"})), blames("maxTTL")),
        (
            "a subject from two places",
            foreign(&json!({"claimMappings": {"subject": {"claim": "a", "expression": "claims.a"}}})),
            blames("subject"),
        ),
        ("roles from nowhere", foreign(&json!({"claimMappings": {"roles": {"prefix": "kc:"}}})), blames("roles")),
        (
            "scopes from two places",
            foreign(&json!({"claimMappings": {"scopes": {"claim": "a", "expression": "claims.a"}}})),
            blames("scopes"),
        ),
        ("a time that has passed", foreign(&json!({"notAfter": "2001-01-01T00:00:00Z"})), GOOD),
        ("a day that isn't", foreign(&json!({"notAfter": "2027-02-30T00:00:00Z"})), blames("notAfter")),
        ("a day without a time", foreign(&json!({"notAfter": "2027-03-01"})), blames("notAfter")),
        ("a symmetric key", legacy(&json!({})), GOOD),
        ("a symmetric key for ever", legacy(&json!({"notAfter": REMOVED})), blames("notAfter")),
        ("a symmetric key and public ones", legacy(&json!({"jwks": {"url": "https://kc.example/certs"}})), blames("jwks")),
        ("a symmetric key for an asymmetric algorithm", legacy(&json!({"algorithms": ["RS256"]})), blames("secretKeyRef")),
        ("a symmetric key for the algorithm by default", legacy(&json!({"algorithms": REMOVED})), blames("secretKeyRef")),
        (
            "a Secret of another namespace",
            legacy(&json!({"secretKeyRef": {"namespace": "kube-system"}})),
            blames("namespace"),
        ),
        ("a Secret by a path", legacy(&json!({"secretKeyRef": {"name": "../other/secret"}})), blames("secretKeyRef.name")),
        ("a key by a path", legacy(&json!({"secretKeyRef": {"key": "../secret"}})), blames("secretKeyRef.key")),
        ("tokens without iss, and asymmetric keys", foreign(&json!({"issuer": REMOVED})), blames("issuer")),
        (
            "two entries for tokens without iss",
            json!({"trustedIssuers": [legacy(&json!({}))["trustedIssuers"][0], legacy(&json!({"name": "older"}))["trustedIssuers"][0]]}),
            blames("trustedIssuers"),
        ),
        ("a number to match", legacy(&json!({"match": [{"claim": "v", "value": 2}]})), GOOD),
        (
            "a claim to match twice",
            legacy(&json!({"match": [{"claim": "v", "value": 2}, {"claim": "v", "value": 3}]})),
            blames("match"),
        ),
        (
            "opaque keys of four Secrets",
            json!({"opaqueKeys": {"secretKeyRefs": (0..4).map(|n| json!({"name": format!("k{n}"), "key": "k"})).collect::<Vec<_>>()}}),
            blames("secretKeyRefs"),
        ),
    ]
}

fn tokens_and_keys() -> Vec<Case> {
    let tokens = |name: &str, value: Value| json!({"tokens": {name: value}});
    let keys = |patch: Value| json!({"keys": patch});
    vec![
        ("another algorithm", tokens("algorithm", json!("PS256")), GOOD),
        ("a symmetric algorithm", tokens("algorithm", json!("HS256")), blames("algorithm")),
        ("an algorithm in small letters", tokens("algorithm", json!("eddsa")), blames("algorithm")),
        ("an access token for a day", json!({"tokens": {"accessTTL": "24h"}}), GOOD),
        ("an access token for longer", json!({"tokens": {"accessTTL": "24h1s"}}), blames("accessTTL")),
        ("an access token for no time", tokens("accessTTL", json!("0s")), blames("accessTTL")),
        ("a negative time", tokens("accessTTL", json!("-15m")), blames("accessTTL")),
        ("a fraction of a time", tokens("accessTTL", json!("1.5h")), blames("accessTTL")),
        ("days", tokens("refreshTTL", json!("30d")), blames("refreshTTL")),
        ("a time without a unit", tokens("refreshTTL", json!("720")), blames("refreshTTL")),
        ("a time in several units", tokens("refreshTTL", json!("1h30m10s500ms")), GOOD),
        ("a unit twice, as GEP-2257 allows", tokens("refreshTTL", json!("1h1h")), GOOD),
        ("an empty time", tokens("refreshTTL", json!("")), blames("refreshTTL")),
        (
            "a refresh token that ends first",
            json!({"tokens": {"accessTTL": "2h", "refreshTTL": "1h"}}),
            blames("refreshTTL"),
        ),
        ("clocks far apart", tokens("clockSkew", json!("6m")), blames("clockSkew")),
        ("clocks alike", tokens("clockSkew", json!("0s")), GOOD),
        ("a long grace", tokens("refreshGrace", json!("1h")), blames("refreshGrace")),
        ("refreshing by a word that isn't one", tokens("refreshRotation", json!("Always")), blames("refreshRotation")),
        ("published before its own interval", keys(json!({"rotation": {"interval": "5m"}})), blames("prepublish")),
        (
            "published as long before as it signs",
            keys(json!({"rotation": {"interval": "1h", "prepublish": "1h"}})),
            blames("prepublish"),
        ),
        (
            "API keys' interval shorter than prepublish",
            keys(json!({"rotation": {"apiKeyInterval": "5m"}})),
            blames("prepublish"),
        ),
        (
            "rotation by the minute",
            keys(json!({"rotation": {"interval": "1m", "apiKeyInterval": "1m", "prepublish": "10s"}})),
            GOOD,
        ),
        ("an empty revision", keys(json!({"rotation": {"revision": ""}})), blames("revision")),
        ("a revision as a number", keys(json!({"rotation": {"revision": 2}})), blames("revision")),
        ("less patience than half an absence", keys(json!({"ackTimeout": "4m"})), blames("ackTimeout")),
        ("as much patience as half an absence", keys(json!({"ackTimeout": "30s", "absentAfter": "1m"})), GOOD),
        ("a key revoked twice", keys(json!({"revoked": [{"kid": "a"}, {"kid": "a"}]})), blames("revoked")),
        ("no key revoked by name", keys(json!({"revoked": [{"reason": "leaked"}]})), blames("kid")),
        ("neither waiting nor going on", keys(json!({"onUnacknowledged": "Ignore"})), blames("onUnacknowledged")),
        ("never stale", json!({"revocation": {"maxStaleness": "0s"}}), blames("maxStaleness")),
        ("no revocations at all", json!({"revocation": {"maxEntries": 0}}), blames("maxEntries")),
        ("emergency without an end", json!({"emergency": {"mode": "Enabled"}}), blames("notAfter")),
        (
            "a long emergency",
            json!({"emergency": {"mode": "Enabled", "notAfter": "2099-01-01T00:00:00Z", "maxTTL": "48h"}}),
            blames("maxTTL"),
        ),
        ("kept for no time after deletion", json!({"retainAfterDelete": "0s"}), GOOD),
    ]
}

fn access() -> Vec<Case> {
    let rule = |expression: &str| json!({"rules": [{"name": "r", "expression": expression}]});
    vec![
        ("permissions with wildcards", json!({"roles": [{"name": "a", "permissions": ["orders:*", "*:read", "*"]}]}), GOOD),
        ("half a wildcard", json!({"roles": [{"name": "a", "permissions": ["orders:re*"]}]}), blames("permissions")),
        (
            "an empty word in a permission",
            json!({"roles": [{"name": "a", "permissions": ["orders::read"]}]}),
            blames("permissions"),
        ),
        ("a role twice", json!({"roles": [{"name": "a"}, {"name": "a"}]}), blames("roles")),
        ("a role with a blank", json!({"roles": [{"name": "a b"}]}), blames("name")),
        ("a rule", rule("'temp' in roles"), GOOD),
        ("an empty rule", rule(""), blames("expression")),
        ("a long rule", rule(&"a".repeat(1025)), blames("expression")),
        (
            "a rule that allows",
            json!({"rules": [{"name": "r", "expression": "true", "effect": "Allow"}]}),
            blames("effect"),
        ),
        (
            "a rule twice",
            json!({"rules": [{"name": "r", "expression": "true"}, {"name": "r", "expression": "false"}]}),
            blames("rules"),
        ),
        (
            "seventeen rules",
            json!({"rules": (0..17).map(|n| json!({"name": format!("r{n}"), "expression": "true"})).collect::<Vec<_>>()}),
            blames("rules"),
        ),
        ("an address that is no network", json!({"clientAddresses": {"allow": ["203.0.113.0/33"]}}), blames("allow")),
        ("an address in words", json!({"clientAddresses": {"deny": ["localhost"]}}), blames("deny")),
        ("a single address", json!({"clientAddresses": {"deny": ["203.0.113.9/32"]}}), GOOD),
        ("a limit of none", json!({"verificationRateLimit": {"limit": 0, "window": "1m"}}), blames("limit")),
        ("a limit without a window", json!({"verificationRateLimit": {"limit": 1}}), blames("window")),
        ("a limit in no time", json!({"verificationRateLimit": {"limit": 1, "window": "10ms"}}), blames("window")),
    ]
}

fn login() -> Vec<Case> {
    let login = |patch: Value| json!({"login": patch});
    vec![
        ("login with every default", login(json!({})), GOOD),
        ("no session at a time", login(json!({"sessions": {"maxConcurrent": 0}})), blames("maxConcurrent")),
        ("a session that ends before its token", login(json!({"sessions": {"idleTimeout": "15m"}})), blames("idleTimeout")),
        (
            "a token that outlives its session",
            merged(login(json!({"sessions": {"idleTimeout": "1h"}})), &json!({"tokens": {"accessTTL": "2h"}})),
            blames("idleTimeout"),
        ),
        ("idle for longer than it lives", login(json!({"sessions": {"idleTimeout": "800h"}})), blames("absoluteTimeout")),
        (
            "remembered for a shorter time than idle",
            login(json!({"sessions": {"rememberMe": {"absoluteTimeout": "700h"}}})),
            blames("absoluteTimeout"),
        ),
        (
            "remembered no longer than a token",
            merged(
                login(json!({"sessions": {"rememberMe": {"idleTimeout": "1h"}}})),
                &json!({"tokens": {"accessTTL": "1h"}}),
            ),
            blames("idleTimeout"),
        ),
        ("bound by a word that isn't one", login(json!({"sessions": {"binding": {"ip": "Strict"}}})), blames("binding.ip")),
        ("locked for longer than the longest", login(json!({"lockout": {"duration": "48h"}})), blames("maxDuration")),
        ("locked by no failure", login(json!({"lockout": {"maxFailures": 0}})), blames("maxFailures")),
        ("lockout off", login(json!({"lockout": {"mode": "Disabled"}})), GOOD),
        ("lockout off by a boolean", login(json!({"lockout": {"mode": false}})), blames("lockout.mode")),
        ("passwords longer than the longest", login(json!({"passwords": {"minLength": 200}})), blames("minLength")),
        ("a class of characters that isn't one", login(json!({"passwords": {"require": ["Emoji"]}})), blames("require")),
        (
            "breached passwords of one's own from nowhere",
            login(json!({"passwords": {"breachedPasswords": {"mode": "Custom"}}})),
            blames("configMapKeyRef"),
        ),
        (
            "breached passwords of one's own, unasked",
            login(json!({"passwords": {"breachedPasswords": {"configMapKeyRef": {"name": "a", "key": "b"}}}})),
            blames("configMapKeyRef"),
        ),
        ("memory in words", login(json!({"passwords": {"argon2id": {"memory": "lots"}}})), blames("memory")),
        (
            "second factors required and off",
            login(json!({"mfa": {"mode": "Disabled", "requiredForRoles": ["admin"]}})),
            blames("requiredForRoles"),
        ),
        ("codes that change by the second", login(json!({"mfa": {"totp": {"period": "1s"}}})), blames("period")),
        ("a challenge for a day", login(json!({"mfa": {"challengeTTL": "24h"}})), blames("challengeTTL")),
        ("a cookie's domain with a host's prefix", login(json!({"cookies": {"domain": "shop.example"}})), blames("domain")),
        ("a prefix with a blank", login(json!({"cookies": {"prefix": "a b"}})), blames("prefix")),
        (
            "cookies of other sites without Secure",
            login(json!({"cookies": {"prefix": "cs_", "sameSite": "None"}})),
            blames("sameSite"),
        ),
        (
            "a page without the token",
            login(json!({"mail": {"verifyURL": "https://shop.example/verify"}})),
            blames("verifyURL"),
        ),
        (
            "a page for a reset without the token",
            login(json!({"mail": {"resetURL": "https://shop.example/reset"}})),
            blames("resetURL"),
        ),
        ("a sender that is none", login(json!({"mail": {"from": "Shop"}})), blames("from")),
        ("a header in the sender", login(json!({"mail": {"from": "a@b.example\r\nBcc: c@d.example"}})), blames("from")),
        (
            "codes over http",
            login(json!({"sms": {"url": "http://sms.example", "signingSecretKeyRef": {"name": "a", "key": "b"}}})),
            blames("url"),
        ),
        ("codes that nobody signs", login(json!({"sms": {"url": "https://sms.example"}})), blames("signingSecretKeyRef")),
        ("any origin", login(json!({"cors": {"allowedOrigins": ["*"]}})), GOOD),
        (
            "any origin with credentials",
            login(json!({"cors": {"allowedOrigins": ["*"], "allowCredentials": true}})),
            blames("allowedOrigins"),
        ),
        (
            "an origin with a path",
            login(json!({"cors": {"allowedOrigins": ["https://shop.example/x"]}})),
            blames("allowedOrigins"),
        ),
        (
            "a client twice",
            login(
                json!({"clients": [{"clientID": "a", "secretKeyRef": {"name": "a", "key": "b"}}, {"clientID": "a", "secretKeyRef": {"name": "c", "key": "d"}}]}),
            ),
            blames("clients"),
        ),
        ("more than everybody", login(json!({"rollout": {"percentage": 101}})), blames("percentage")),
        ("fewer than nobody", login(json!({"rollout": {"percentage": -1}})), blames("percentage")),
        ("half a per cent", login(json!({"rollout": {"percentage": 0.5}})), blames("percentage")),
        (
            "a limit in no time",
            login(json!({"rateLimits": {"api": {"perSubject": {"limit": 1, "window": "0s"}}}})),
            blames("window"),
        ),
    ]
}

fn shapes() -> Vec<Case> {
    vec![
        ("an unknown field", json!({"audience": ["shop-api"]}), blames("audience")),
        ("an unknown field deep down", json!({"tokens": {"accessTtl": "15m"}}), blames("accessTtl")),
        ("a text for a list", json!({"audiences": "shop-api"}), blames("audiences")),
        ("a list for an object", json!({"tokens": []}), blames("tokens")),
        ("a number for a text", json!({"issuer": 7}), blames("issuer")),
        ("a text for a number", json!({"revocation": {"maxEntries": "1000"}}), blames("maxEntries")),
        ("a text for a boolean", json!({"login": {"addressBlocking": {"verifiers": "true"}}}), blames("verifiers")),
        ("a null for what is required", json!({"audiences": null}), blames("audiences")),
        ("a null in a list", json!({"audiences": [null]}), blames("audiences")),
        ("an empty object", json!({"tokens": {}, "keys": {}, "revocation": {}}), GOOD),
    ]
}
