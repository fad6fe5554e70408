//! Rules over whole inputs.

use proptest::prelude::*;
use serde_json::json;

use super::*;

struct World {
    roles: Vec<String>,
    scopes: Vec<String>,
    claims: Map<String, Value>,
    request: Request<'static>,
    client: Client<'static>,
    now: UnixMillis,
}

impl World {
    fn new() -> Self {
        let claims = json!({
            "sub": "u-1", "tenant": "acme", "level": 3, "ratio": 0.5, "exp": 1_800_000_300, "nothing": null,
            "groups": ["dev", "ops"], "realm": {"roles": ["a", "b"], "deep": {"er": true}},
        });
        let Value::Object(claims) = claims else { unreachable!("an object") };
        Self {
            roles: vec!["user".into(), "temp".into()],
            scopes: vec!["orders:read".into()],
            claims,
            request: Request {
                method: Some("POST"),
                path: Some("/orders/17"),
                host: Some("shop.example"),
                query: Some("a=1"),
            },
            client: Client {
                ip: Some("::ffff:203.0.113.7".parse().unwrap()),
                user_agent: Some("curl/8"),
                device_id: Some("d-1"),
            },
            now: UnixMillis(1_800_000_000_500),
        }
    }

    fn bare() -> Self {
        Self { request: Request::default(), client: Client::default(), ..Self::new() }
    }

    fn input(&self) -> RuleInput<'_> {
        RuleInput {
            credential: Facts {
                subject: "u-1",
                kind: "access",
                issuer: "https://auth.example",
                roles: &self.roles,
                permissions: &self.scopes,
                scopes: &self.scopes,
                audience: &[],
                amr: &[],
                claims: &self.claims,
            },
            request: self.request.clone(),
            client: self.client.clone(),
            now: self.now,
        }
    }

    fn judge(&self, expression: &str) -> Option<RuleDenial> {
        rule(expression).evaluate(&self.input())
    }
}

fn rule(expression: &str) -> Rules {
    let definition = RuleDef { name: "r".into(), expression: expression.into() };
    Rules::compile(&[definition]).unwrap_or_else(|error| panic!("{expression}: {error}"))
}

fn refused(expression: &str) -> ExpressionError {
    match Expression::compile(expression, Vocabulary::Rule) {
        Ok(_) => panic!("{expression} compiled"),
        Err(error) => error,
    }
}

#[expect(clippy::unnecessary_wraps, reason = "compared with what `evaluate` returns")]
fn denied() -> Option<RuleDenial> {
    Some(RuleDenial { rule: "r".into(), failed: false, missing: Vec::new() })
}

#[expect(clippy::unnecessary_wraps, reason = "compared with what `evaluate` returns")]
fn failed(missing: &[&'static str]) -> Option<RuleDenial> {
    Some(RuleDenial { rule: "r".into(), failed: true, missing: missing.to_vec() })
}

#[test]
fn a_rule_that_is_true_denies_and_one_that_is_false_does_not() {
    let world = World::new();
    for (expression, denies) in [
        ("true", true),
        ("false", false),
        ("'temp' in roles && request.method != 'GET'", true),
        ("'temp' in roles && request.method == 'GET'", false),
        ("subject == 'u-1' && kind == 'access' && issuer.startsWith('https://')", true),
        ("claims.tenant == 'acme'", true),
        ("claims['tenant'] != 'acme'", false),
        ("claims.level > 2 && claims.level <= 3.0", true),
        ("claims.ratio < 1", true),
        ("claims.realm.deep.er", true),
        ("has(claims.nothing)", false),
        ("has(claims.realm.roles) && 'a' in claims.realm.roles", true),
        ("claims.groups.exists(g, g.startsWith('op'))", true),
        ("claims.groups.all(g, g in ['dev', 'ops'])", true),
        ("claims.groups.filter(g, g == 'dev').map(g, g + '!') == ['dev!']", true),
        ("claims.groups.exists_one(g, g == 'dev')", true),
        ("claims.groups.exists(g, claims.realm.roles.exists(r, r == g))", false),
        ("size(audience) == 0 && amr == []", true),
        ("permissions == scopes", true),
        ("request.path.matches('^/orders/[0-9]+$')", true),
        ("matches(request.path, '^/users')", false),
        ("request.host.endsWith('.example') && request.query.contains('a=')", true),
        ("client.ip == '203.0.113.7' && client.user_agent == 'curl/8' && client.device_id == 'd-1'", true),
        ("claims.exp - now == 300", true),
        ("now > 1800000000", false),
        ("now >= 1800000000 && 1800000001 > now", true),
        ("now > timestamp('2027-01-01T00:00:00Z')", true),
        ("timestamp(claims.exp) - now < duration('5m')", true),
        ("now - timestamp(claims.exp) > duration('0s')", false),
        ("now + duration('1h') > timestamp(claims.exp)", true),
        ("now.getHours() == 8 && now.getDayOfWeek() == 5", true),
        ("int(now) == 1800000000", true),
        ("roles.exists(now, now == 'temp')", true),
        ("request.?method.orValue('') == 'POST'", true),
        ("type(claims.level) == int", true),
    ] {
        let expected = if denies { denied() } else { None };
        assert_eq!(world.judge(expression), expected, "{expression}");
    }
}

#[test]
fn what_a_rule_needs_and_the_caller_does_not_send_denies_and_is_named() {
    let bare = World::bare();
    for (expression, expected) in [
        ("request.method != 'GET'", failed(&["request.method"])),
        ("request['method'] != 'GET'", failed(&["request.method"])),
        ("client.ip == '1.2.3.4' || request.path == '/'", failed(&["request.path", "client.ip"])),
        ("'nobody' in roles && request.method != 'GET'", None),
        ("request.method != 'GET' && 'nobody' in roles", None),
        ("request.method == 'GET' || 'temp' in roles", denied()),
        ("has(request.method) && request.method != 'GET'", None),
        ("!has(request.method)", denied()),
        ("request.?method.orValue('GET') != 'GET'", None),
        ("claims.absent == 'x'", failed(&[])),
        ("claims.level == 'three' && claims.level > 'two'", None),
        ("claims.level > 'two'", failed(&[])),
        ("claims.level / 0 == 1", failed(&[])),
        ("claims.tenant", failed(&[])),
    ] {
        assert_eq!(bare.judge(expression), expected, "{expression}");
    }
    let partly = World { request: Request { method: Some("GET"), ..Request::default() }, ..World::bare() };
    assert_eq!(partly.judge("request.method == request.path"), failed(&["request.path"]));
}

#[test]
fn errors_are_absorbed_on_either_side_by_what_decides_anyway() {
    let world = World::new();
    let broken = "claims.absent == 1";
    for (expression, denies) in [
        (format!("({broken}) && false"), false),
        (format!("false && ({broken})"), false),
        (format!("({broken}) || true"), true),
        (format!("({broken}) && true"), true),
        (format!("({broken}) || false"), true),
        (format!("[1, 2].all(x, x == 1 ? {broken} : false)"), false),
        (format!("[1, 2].exists(x, x == 1 ? {broken} : true)"), true),
        (format!("!({broken})"), true),
        (format!("true ? false : {broken}"), false),
    ] {
        assert_eq!(world.judge(&expression).is_some(), denies, "{expression}");
    }
}

#[test]
fn the_first_rule_that_denies_is_the_one_that_is_named() {
    let definition = |name: &str, expression: &str| RuleDef { name: name.into(), expression: expression.into() };
    let rules = Rules::compile(&[
        definition("first", "false"),
        definition("second", "request.method == 'POST'"),
        definition("third", "true"),
    ])
    .unwrap();
    assert_eq!(rules.evaluate(&World::new().input()).unwrap().rule, "second");
    assert!(Rules::compile(&[]).unwrap().is_empty());
    assert!(Rules::default().evaluate(&World::new().input()).is_none());
}

#[test]
fn a_mistake_is_told_when_the_rule_is_compiled() {
    for (expression, expected) in [
        ("role == 'x'", r#"there is no variable "role"; did you mean "roles"?"#),
        ("tenant == 'x'", r#"there is no variable "tenant"; there are subject, kind, issuer"#),
        ("request.metod == 'GET'", r#""request" has no field "metod"; it has method, path, host, query"#),
        ("client['addr'] == ''", r#""client" has no field "addr"; it has ip, user_agent, device_id"#),
        ("request.path.startswith('/')", r#"there is no function "startswith"; did you mean "startsWith"?"#),
        ("frobnicate(subject)", r#"there is no function "frobnicate""#),
        ("_(subject)", r#"there is no function "_""#),
        ("subject", "a rule must be true or false"),
        ("'x'", "a rule must be true or false"),
        ("size(roles)", "a rule must be true or false"),
        ("subject + 'x'", "a rule must be true or false"),
        ("subject ==", "not a CEL expression"),
        ("", "not a CEL expression"),
        ("subject == 'x", "not a CEL expression"),
        ("subject.matches('(')", "the pattern of matches is refused"),
        ("subject.matches(claims.pattern)", "must be a literal string"),
        ("subject.matches('a{1000}{1000}')", "the pattern of matches is refused"),
        ("roles.all(r)", r#""all" is called on a list"#),
        ("Message{a: 1} == subject", "there is no type"),
        ("roles.all(a, roles.all(b, roles.all(c, a == b)))", "nest deeper than two"),
        ("[claims.groups.map(g, claims)].all(x, x == x)", "a map or filter inside"),
        ("claims.groups.map(g, claims.groups.map(h, claims)).all(x, x == x)", "a map or filter inside"),
    ] {
        let message = refused(expression).to_string();
        assert!(message.contains(expected), "{expression}: {message}");
    }
    let long = format!("subject == '{}'", "x".repeat(MAX_EXPRESSION_BYTES));
    assert_eq!(refused(&long), ExpressionError::TooLong(long.len()));
    let many = vec![RuleDef { name: "r".into(), expression: "true".into() }; MAX_RULES + 1];
    assert_eq!(Rules::compile(&many).unwrap_err().index, MAX_RULES);
}

#[test]
fn deep_and_long_expressions_are_refused_before_they_cost_stack() {
    for (open, inner, close) in [("(", "true", ")"), ("[", "1", "]"), ("{'a':", "1", "}")] {
        let times = (MAX_EXPRESSION_BYTES - 10) / (open.len() + close.len());
        let expression = format!("{}{inner}{}", open.repeat(times), close.repeat(times));
        let error = refused(&expression);
        assert!(matches!(error, ExpressionError::TooComplex(_) | ExpressionError::Syntax(_)), "{open}: {error}");
    }
    for link in [".a", "[0]", " + 1", " ? 1 : 1", " - 1"] {
        let expression = format!("claims{}", link.repeat((MAX_EXPRESSION_BYTES - 10) / link.len()));
        let error = refused(&expression);
        assert!(!matches!(error, ExpressionError::UnknownName(_)), "{link}: {error}");
    }
    // Chains of one operator stay flat, and are fine.
    rule(&format!("{}true", "!".repeat(1000)));
    rule(&format!("false{}", " || false".repeat(100)));
}

#[test]
fn loops_over_large_claims_end_and_deny_when_they_would_cost_too_much() {
    let mut world = World::new();
    world.claims.insert("list".into(), json!((0..7000).collect::<Vec<_>>()));
    for (expression, denies) in [
        ("claims.list.exists(x, x == -1)", true),
        ("claims.groups.exists(x, x == 'nobody')", false),
        ("claims.list.all(x, claims.list.all(y, x + y >= 0)) && false", false),
        ("claims.list.exists(x, claims.list.exists(y, x + y == -1))", true),
        ("claims.list.map(x, claims).size() == 0", true),
        ("claims.list.map(x, [claims, claims, claims, claims]).map(x, [x, x, x, x]).map(x, [x, x, x]) == []", true),
    ] {
        // Over budget or not: with an error nobody passes.
        let verdict = world.judge(expression);
        if denies {
            assert!(verdict.is_some(), "{expression}");
        }
    }
    // A loop of ordinary size is far from the budget.
    world.claims.insert("list".into(), json!((0..300).map(|i| format!("group-{i}")).collect::<Vec<_>>()));
    assert_eq!(world.judge("claims.list.exists(g, g == 'admins')"), None);
    assert_eq!(world.judge("claims.list.exists(g, g in ['group-299'])"), denied());
}

/// Fragments that make expressions that are often valid, and often nearly so.
#[test]
fn patterns_over_long_texts_end_and_deny_when_they_would_cost_too_much() {
    // Every byte of this text leads a search into another set of states.
    let text: String =
        (0..16_000u32).map(|i| if i.wrapping_mul(2_654_435_761) >> 13 & 1 == 0 { 'a' } else { 'b' }).collect();
    let mut world = World::new();
    world.claims.insert("text".into(), text.into());
    world.claims.insert("texts".into(), vec!["ab".repeat(400); 40].into());
    let heavy = "claims.text.matches('[ab]*a[ab]{700}c')";
    let begin = std::time::Instant::now();
    for expression in [
        heavy.to_owned(),
        vec![heavy; 20].join(" || "),
        "claims.texts.exists(t, t.matches('[ab]*a[ab]{700}c'))".to_owned(),
        "claims.text.matches('(?:(?:a|b|c){1,30}){1,30}d')".to_owned(),
    ] {
        assert_eq!(world.judge(&expression), failed(&[]), "{expression}");
    }
    assert!(begin.elapsed() < std::time::Duration::from_secs(5), "{:?}", begin.elapsed());
    // What people write is far from the bound.
    for expression in [
        "claims.text.matches('^[ab]+$') && claims.text.matches('b$|a$')",
        "claims.texts.all(t, t.matches('^[ab]{2,}$'))",
        r"request.path.matches(r'^/\w+/\d+$')",
    ] {
        assert_eq!(world.judge(expression), denied(), "{expression}");
    }
}

#[test]
fn a_mapping_knows_no_time() {
    for expression in ["string(claims.exp - now)", "now > 5 ? 'a' : 'b'", "string(now)"] {
        let error = Expression::compile(expression, Vocabulary::Mapping).unwrap_err();
        assert!(matches!(error, ExpressionError::UnknownName(_)), "{expression}: {error}");
    }
}

#[test]
fn names_of_our_own_cannot_be_written_and_a_name_with_a_dot_is_one_name() {
    for expression in ["@budget == 1", "`@budget` == 1", "claims.`@budget` == 1 && @pattern0", "@now_seconds > 1"] {
        assert!(Expression::compile(expression, Vocabulary::Rule).is_err(), "{expression}");
    }
    let mut world = World::new();
    world.claims.insert("a.b".into(), "dotted".into());
    world.claims.insert("a".into(), json!({"b": "nested"}));
    for expression in ["claims['a.b'] == 'dotted'", "claims.a.b == 'nested'", "claims['a']['b'] == 'nested'"] {
        assert_eq!(world.judge(expression), denied(), "{expression}");
    }
}

#[test]
fn arithmetic_at_the_ends_of_its_range_denies_and_never_wraps() {
    let mut world = World::new();
    world.claims.insert("max".into(), i64::MAX.into());
    world.claims.insert("min".into(), i64::MIN.into());
    world.claims.insert("huge".into(), u64::MAX.into());
    for expression in [
        "claims.max + 1 > 0",
        "claims.min - 1 > 0",
        "-claims.min > 0",
        "claims.min / -1 > 0",
        "claims.max * 2 > 0",
        "claims.huge + 1u > 0u",
        "int(claims.huge) > 0",
        "timestamp(claims.max) > now",
        "duration(string(claims.max) + 'h') > duration('1s')",
        "now + duration('9000000h') + duration('9000000000h') > now",
    ] {
        // By an error or by a true value: what may not happen is that it passes, or that the process ends.
        assert!(world.judge(expression).is_some(), "{expression}");
    }
}

fn fragment() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "true",
        "false",
        "null",
        "0",
        "1",
        "-1",
        "9223372036854775807",
        "1u",
        "0.5",
        "1e308",
        "'a'",
        "b'a'",
        "''",
        "[]",
        "{}",
        "subject",
        "roles",
        "scopes",
        "claims",
        "claims.level",
        "claims.groups",
        "claims.absent",
        "claims.realm.roles",
        "request",
        "request.method",
        "request.path",
        "client.ip",
        "now",
        "timestamp('9999-12-31T23:59:59Z')",
        "duration('9223372036s')",
        "timestamp(0)",
        "int",
        "x",
        "optional.none()",
        "claims.?a",
    ])
    .prop_map(str::to_owned);
    leaf.prop_recursive(5, 24, 3, |inner| {
        let op = prop::sample::select(vec!["&&", "||", "==", "!=", "<", "<=", ">", ">=", "+", "-", "*", "/", "%", "in"]);
        let call = prop::sample::select(vec![
            "size",
            "string",
            "int",
            "uint",
            "double",
            "bool",
            "bytes",
            "timestamp",
            "duration",
            "type",
            "dyn",
            "has",
            "!",
            "-",
        ]);
        let method = prop::sample::select(vec![
            "contains",
            "startsWith",
            "endsWith",
            "matches",
            "getHours",
            "getFullYear",
            "getMilliseconds",
            "size",
            "orValue",
            "hasValue",
            "value",
        ]);
        let looping = prop::sample::select(vec!["all", "exists", "exists_one", "map", "filter"]);
        prop_oneof![
            (inner.clone(), op, inner.clone()).prop_map(|(a, o, b)| format!("({a} {o} {b})")),
            (call, inner.clone()).prop_map(|(f, a)| format!("{f}({a})")),
            (inner.clone(), method, prop::option::of(inner.clone()))
                .prop_map(|(a, m, b)| format!("{a}.{m}({})", b.unwrap_or_default())),
            (inner.clone(), looping, inner.clone()).prop_map(|(a, l, b)| format!("{a}.{l}(x, {b})")),
            (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{{{a}: {b}}}")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("{a}[{b}]")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn any_text_compiles_or_is_refused_and_what_compiles_evaluates(text in "\\PC{0,60}|[-a-z0-9 .,()'\\[\\]{}!&|=<>+*/?:\"]{0,120}") {
        for vocabulary in [Vocabulary::Rule, Vocabulary::Mapping] {
            if let Ok(expression) = Expression::compile(&text, vocabulary) {
                let world = World::new();
                let _ = expression.texts(&ClaimScope::new(&world.claims));
            }
        }
    }

    #[test]
    fn well_formed_rules_always_come_to_an_end(expression in fragment()) {
        let compiled = Rules::compile(&[RuleDef { name: "r".into(), expression: format!("({expression}) == true") }]);
        if let Ok(rules) = compiled {
            for world in [World::new(), World::bare()] {
                let once = rules.evaluate(&world.input());
                prop_assert_eq!(once, rules.evaluate(&world.input()));
            }
        }
    }
}
