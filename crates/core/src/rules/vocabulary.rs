//! The names that an expression may use.

use cel::common::ast::operators as ops;

/// What an expression is for, and so which names it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vocabulary {
    /// A rule: everything about credential, request and client. Its value is a boolean.
    Rule,
    /// A claim mapping: `claims` alone. Its value is a string, or a list of strings for roles and scopes.
    Mapping,
}

/// The variables that a rule sees.
const RULE_VARIABLES: [&str; 12] = [
    "subject",
    "kind",
    "issuer",
    "roles",
    "permissions",
    "scopes",
    "audience",
    "amr",
    "claims",
    "request",
    "client",
    "now",
];

/// What a caller may or may not send.
pub(super) const CALLER_SENDS: [(&str, &str, &str); 7] = [
    ("request", "method", "request.method"),
    ("request", "path", "request.path"),
    ("request", "host", "request.host"),
    ("request", "query", "request.query"),
    ("client", "ip", "client.ip"),
    ("client", "user_agent", "client.user_agent"),
    ("client", "device_id", "client.device_id"),
];

/// Names of types, for `type(x) == string`.
const TYPES: [&str; 11] =
    ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint", "optional_type"];

/// Functions and methods of the standard library, without operators and macros.
const FUNCTIONS: [&str; 37] = [
    "bool",
    "bytes",
    "contains",
    "double",
    "duration",
    "dyn",
    "endsWith",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getFullYear",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getSeconds",
    "hasValue",
    "int",
    "matches",
    "none",
    "of",
    "ofNonZeroValue",
    "or",
    "orValue",
    "size",
    "startsWith",
    "string",
    "timestamp",
    "type",
    "uint",
    "value",
    "all",
    "exists",
    "exists_one",
    "filter",
    "map",
];

/// What operators and macros parse to.
const OPERATORS: [&str; 20] = [
    ops::CONDITIONAL,
    ops::LOGICAL_AND,
    ops::LOGICAL_OR,
    ops::LOGICAL_NOT,
    ops::SUBSTRACT,
    ops::ADD,
    ops::MULTIPLY,
    ops::DIVIDE,
    ops::MODULO,
    ops::EQUALS,
    ops::NOT_EQUALS,
    ops::GREATER_EQUALS,
    ops::LESS_EQUALS,
    ops::GREATER,
    ops::LESS,
    ops::NEGATE,
    ops::INDEX,
    ops::OPT_INDEX,
    ops::OPT_SELECT,
    ops::IN,
];

impl Vocabulary {
    /// The variables that exist.
    pub(super) fn variables(self) -> &'static [&'static str] {
        match self {
            Self::Rule => &RULE_VARIABLES,
            Self::Mapping => &["claims"],
        }
    }

    /// Whether a name that no loop binds means something.
    pub(super) fn knows_name(self, name: &str) -> bool {
        self.variables().contains(&name) || TYPES.contains(&name) || name == "optional"
    }
}

/// The fields of `request` or `client`.
pub(super) fn fields_of(variable: &str) -> Option<Vec<&'static str>> {
    let fields: Vec<_> = CALLER_SENDS.iter().filter(|(v, _, _)| *v == variable).map(|(_, field, _)| *field).collect();
    if fields.is_empty() { None } else { Some(fields) }
}

/// Whether a call means something.
pub(super) fn knows_function(name: &str) -> bool {
    OPERATORS.contains(&name) || name == ops::NOT_STRICTLY_FALSE || FUNCTIONS.contains(&name)
}

/// The known name that is closest to an unknown one, if any is close.
pub fn closest<'n>(wrong: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    known
        .into_iter()
        .map(|name| (distance(wrong, name), name))
        .filter(|(d, name)| *d <= 2 && *d < name.len())
        .min_by_key(|(d, _)| *d)
        .map(|(_, name)| name)
}

/// The function that is closest to an unknown one.
pub(super) fn closest_function(wrong: &str) -> Option<&'static str> {
    closest(wrong, FUNCTIONS)
}

/// Insertions, deletions and replacements (Levenshtein) between two short names, capitals aside.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_ascii_lowercase().into_bytes(), b.to_ascii_lowercase().into_bytes());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
