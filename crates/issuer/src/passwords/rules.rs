//! What a new password must be like.

use std::{collections::HashSet, fmt, sync::Arc};

/// What a policy demands of new passwords (NIST SP 800-63B section 3.1.1.2 where the policy leaves it to us).
#[derive(Clone, Debug)]
pub struct Rules {
    /// The fewest characters (Unicode code points).
    pub min_length: usize,
    /// The most characters.
    pub max_length: usize,
    /// Of each of these at least one character.
    pub require: Vec<CharacterClass>,
    /// Passwords that nobody may have.
    pub breached: Breached,
}

/// A kind of character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CharacterClass {
    /// An upper-case letter of any script.
    Upper,
    /// A lower-case letter of any script.
    Lower,
    /// A decimal digit of any script.
    Digit,
    /// Neither letter, digit nor space.
    Symbol,
}

/// Where known passwords come from.
#[derive(Clone)]
pub enum Breached {
    /// Nowhere.
    Unchecked,
    /// The list of common passwords that is shipped.
    Builtin,
    /// The policy's own list, matched exactly.
    Custom(Arc<HashSet<String>>),
}

/// A rule that a password breaks, to be told to whoever chose it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// It has fewer characters than this.
    TooShort(usize),
    /// It has more characters than this.
    TooLong(usize),
    /// It lacks a character of a class.
    Lacks(CharacterClass),
    /// Too many people have it.
    Common,
    /// It was this account's before, within so many.
    UsedBefore(usize),
}

impl Rules {
    /// Every rule that the password breaks, those that need the account's history aside.
    pub fn violations(&self, password: &str) -> Vec<Violation> {
        let length = password.chars().count();
        let mut broken = Vec::new();
        if length < self.min_length {
            broken.push(Violation::TooShort(self.min_length));
        }
        if length > self.max_length {
            // Whatever else may be wrong with it: no more of it is read.
            return vec![Violation::TooLong(self.max_length)];
        }
        let lacking = self.require.iter().filter(|class| !password.chars().any(|c| class.holds(c)));
        broken.extend(lacking.map(|class| Violation::Lacks(*class)));
        if self.breached.contains(password) {
            broken.push(Violation::Common);
        }
        broken
    }
}

impl CharacterClass {
    fn holds(self, c: char) -> bool {
        match self {
            Self::Upper => c.is_uppercase(),
            Self::Lower => c.is_lowercase(),
            Self::Digit => c.is_numeric(),
            Self::Symbol => !c.is_alphanumeric() && !c.is_whitespace(),
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Upper => "an upper-case letter",
            Self::Lower => "a lower-case letter",
            Self::Digit => "a digit",
            Self::Symbol => "a symbol (neither letter, digit nor space)",
        }
    }
}

impl Breached {
    fn contains(&self, password: &str) -> bool {
        match self {
            Self::Unchecked => false,
            Self::Builtin => passwords::analyzer::is_common_password(password),
            Self::Custom(list) => list.contains(password),
        }
    }
}

impl fmt::Debug for Breached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unchecked => f.write_str("Unchecked"),
            Self::Builtin => f.write_str("Builtin"),
            Self::Custom(list) => write!(f, "Custom({} passwords)", list.len()),
        }
    }
}

impl Violation {
    /// The rule's name, for programs.
    pub const fn rule(self) -> &'static str {
        match self {
            Self::TooShort(_) => "min_length",
            Self::TooLong(_) => "max_length",
            Self::Lacks(CharacterClass::Upper) => "upper",
            Self::Lacks(CharacterClass::Lower) => "lower",
            Self::Lacks(CharacterClass::Digit) => "digit",
            Self::Lacks(CharacterClass::Symbol) => "symbol",
            Self::Common => "common",
            Self::UsedBefore(_) => "history",
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort(least) => write!(f, "use at least {least} characters"),
            Self::TooLong(most) => write!(f, "use at most {most} characters"),
            Self::Lacks(class) => write!(f, "use {}", class.words()),
            Self::Common => f.write_str("choose another one: this is on lists of common passwords"),
            Self::UsedBefore(kept) => write!(f, "choose one that isn't among your last {kept}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(require: &[CharacterClass]) -> Rules {
        Rules { min_length: 8, max_length: 20, require: require.to_vec(), breached: Breached::Builtin }
    }

    #[test]
    fn each_broken_rule_is_told_by_itself() {
        use CharacterClass::{Digit, Lower, Symbol, Upper};
        let all = [Upper, Lower, Digit, Symbol];
        let cases: [(&str, &[&str]); 10] = [
            ("Tr0ub4dor&3", &[]),
            ("Straße-Ünder 9", &[]),
            ("sqrt", &["min_length", "upper", "digit", "symbol"]),
            ("", &["min_length", "upper", "lower", "digit", "symbol"]),
            ("nothing but lower", &["upper", "digit", "symbol"]),
            ("ALL-UPPER-7", &["lower"]),
            ("No digit here!", &["digit"]),
            ("NoSymbol 123", &["symbol"]),
            ("password", &["upper", "digit", "symbol", "common"]),
            ("Much-too-long-for-20-c", &["max_length"]),
        ];
        for (password, expected) in cases {
            let broken: Vec<_> = rules(&all).violations(password).into_iter().map(Violation::rule).collect();
            assert_eq!(broken, expected, "{password}");
        }
        assert_eq!(rules(&[]).violations("correct horse"), []);
    }

    #[test]
    fn lengths_are_counted_in_characters() {
        let rules = rules(&[]);
        assert_eq!(rules.violations("ééééééé"), [Violation::TooShort(8)]);
        assert_eq!(rules.violations(&"é".repeat(20)), []);
        assert_eq!(rules.violations(&"🔑".repeat(21)), [Violation::TooLong(20)]);
    }

    #[test]
    fn a_policy_has_its_own_list_or_none() {
        let custom = Breached::Custom(Arc::new(HashSet::from(["our-company-2026".to_owned()])));
        let of = |breached: &Breached| Rules { breached: breached.clone(), ..rules(&[]) };
        assert_eq!(of(&custom).violations("our-company-2026"), [Violation::Common]);
        assert_eq!(of(&custom).violations("password1"), []);
        assert_eq!(of(&Breached::Unchecked).violations("password1"), []);
        assert_eq!(format!("{custom:?}"), "Custom(1 passwords)");
    }

    #[test]
    fn messages_tell_what_to_do() {
        for (violation, message) in [
            (Violation::TooShort(12), "use at least 12 characters"),
            (Violation::Lacks(CharacterClass::Symbol), "use a symbol (neither letter, digit nor space)"),
            (Violation::UsedBefore(5), "choose one that isn't among your last 5"),
        ] {
            assert_eq!(violation.to_string(), message);
        }
    }
}
