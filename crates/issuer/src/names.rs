//! Names and e-mail addresses as people type them, and as they are compared.

use icu_casemap::CaseMapper;
use icu_normalizer::ComposingNormalizerBorrowed;

/// The longest e-mail address, bytes (RFC 5321 section 4.5.3.1.3, less the angle brackets).
pub const MAX_EMAIL_BYTES: usize = 254;
/// The longest part of an address before the `@`, bytes (RFC 5321 section 4.5.3.1.1).
const MAX_LOCAL_BYTES: usize = 64;
/// The longest user name, characters.
pub const MAX_USERNAME: usize = 64;

/// The longest first or last name, characters.
pub const MAX_PERSON: usize = 100;

/// Why a text is no name or address. Safe to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Not an address.
    #[error("not an e-mail address: one has the form name@domain.example")]
    NotAnAddress,
    /// An address that is too long.
    #[error("an e-mail address has at most 254 bytes, and at most 64 before the @")]
    AddressTooLong,
    /// No characters, or too many.
    #[error("a user name has 1 to 64 characters")]
    NameLength,
    /// What would look like something else.
    #[error("a user name has no @, no white space at either end, and no control or invisible characters")]
    NameCharacters,
    /// A person's name that is no line of text.
    #[error("a name has at most 100 characters, and none that are control characters or turn the writing around")]
    Person,
}

/// What two texts have in common that differ in case, width or composition alone: NFKC, then full case folding, then NFKC
/// (Unicode 3.13, D146). Equal folded texts are one name.
pub fn folded(text: &str) -> String {
    let nfkc = ComposingNormalizerBorrowed::new_nfkc();
    nfkc.normalize(&CaseMapper::new().fold_string(&nfkc.normalize(text))).into_owned()
}

/// The one way of writing a text that looks so or nearly so (NFKC): what stands for it from here on, so that a mail goes to
/// the address that was compared.
pub fn composed(text: &str) -> String {
    ComposingNormalizerBorrowed::new_nfkc().normalize(text).into_owned()
}

/// An e-mail address, as typed less white space around it.
///
/// What a mail server would make of it is its own business: that it arrives is proven by a mail, not by its looks. Refused is
/// only what is certainly none, or could mean something else in a mail's head.
pub fn email(text: &str) -> Result<&str, InvalidName> {
    let text = text.trim();
    if text.len() > MAX_EMAIL_BYTES {
        return Err(InvalidName::AddressTooLong);
    }
    let (local, domain) = text.rsplit_once('@').ok_or(InvalidName::NotAnAddress)?;
    if local.len() > MAX_LOCAL_BYTES {
        return Err(InvalidName::AddressTooLong);
    }
    let in_local = |c: char| c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c);
    let dots = |text: &str| text.starts_with('.') || text.ends_with('.') || text.contains("..");
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_alphanumeric() || c == '-')
    };
    let good = !local.is_empty()
        && local.chars().all(in_local)
        && !dots(local)
        && domain.contains('.')
        && domain.split('.').all(label);
    if good { Ok(text) } else { Err(InvalidName::NotAnAddress) }
}

/// A user name, as typed. It has no `@`, so that no name is another's address.
pub fn username(text: &str) -> Result<&str, InvalidName> {
    let length = text.chars().count();
    if length == 0 || length > MAX_USERNAME {
        return Err(InvalidName::NameLength);
    }
    let folded = folded(text);
    let visible = |c: char| !c.is_control() && !is_invisible(c);
    let good = text.trim() == text
        && text.chars().all(visible)
        && !folded.trim().is_empty()
        // What folds to an @ (U+FF20, U+FE6B) is one.
        && !folded.contains('@');
    if good { Ok(text) } else { Err(InvalidName::NameCharacters) }
}

/// A person's first or last name, as typed less white space around it. Nothing is demanded of it but that it stays in its
/// line: no control characters, and none that turn the writing around it.
pub fn person(text: &str) -> Result<&str, InvalidName> {
    let text = text.trim();
    let turns =
        |c: char| matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if text.chars().count() > MAX_PERSON || text.chars().any(|c| c.is_control() || turns(c)) {
        return Err(InvalidName::Person);
    }
    Ok(text)
}

/// Characters that show nothing and would make two names look alike: formats, fillers, variation selectors, tags.
pub(crate) const fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_differ_in_case_width_or_composition_are_one() {
        for (one, other) in [
            ("Ann@Shop.Example", "ann@shop.example"),
            ("STRASSE", "straße"),
            ("caf\u{e9}", "CAFE\u{301}"),
            ("ann", "\u{ff21}\u{ff2e}\u{ff2e}"),
            ("\u{3a3}\u{3af}\u{3c3}\u{3c5}\u{3c6}\u{3bf}\u{3c2}", "\u{3c3}\u{38a}\u{3c3}\u{3c5}\u{3c6}\u{39f}\u{3c3}"),
        ] {
            assert_eq!(folded(one), folded(other), "{one} {other}");
        }
        // Dots and tags are the mail server's business: some tell such addresses apart.
        for (one, other) in
            [("a.b@shop.example", "ab@shop.example"), ("a+x@shop.example", "a@shop.example"), ("аnn", "ann")]
        {
            assert_ne!(folded(one), folded(other), "{one} {other}");
        }
    }

    #[test]
    fn what_is_certainly_no_address_is_refused() {
        for good in
            ["ann@shop.example", " ann@shop.example\n", "o'neil+tag@sub.shop.example", "ünder@straße.example", "a@b.co"]
        {
            assert_eq!(email(good), Ok(good.trim()), "{good}");
        }
        let long_local = format!("{}@shop.example", "a".repeat(65));
        let long = format!("a@{}example", "aaaaaaaaa.".repeat(25));
        for (bad, why) in [
            ("", InvalidName::NotAnAddress),
            ("ann", InvalidName::NotAnAddress),
            ("@shop.example", InvalidName::NotAnAddress),
            ("ann@", InvalidName::NotAnAddress),
            ("ann@localhost", InvalidName::NotAnAddress),
            ("ann@shop..example", InvalidName::NotAnAddress),
            ("ann@-shop.example", InvalidName::NotAnAddress),
            ("a..b@shop.example", InvalidName::NotAnAddress),
            ("ann@evil@shop.example", InvalidName::NotAnAddress),
            ("ann@shop.example\r\nBcc: all@shop.example", InvalidName::NotAnAddress),
            ("Ann <ann@shop.example>", InvalidName::NotAnAddress),
            ("\"a b\"@shop.example", InvalidName::NotAnAddress),
            ("ann@shop.example,bob@shop.example", InvalidName::NotAnAddress),
            ("ann\0@shop.example", InvalidName::NotAnAddress),
            (&long_local, InvalidName::AddressTooLong),
            (&long, InvalidName::AddressTooLong),
        ] {
            assert_eq!(email(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn a_user_name_shows_what_it_is() {
        for good in ["ann", "Ann Onymous", "安", "o'neil", "'; DROP TABLE users; --", "<script>", "%00", "ann.b-c_d"] {
            assert_eq!(username(good), Ok(good), "{good}");
        }
        for (bad, why) in [
            ("", InvalidName::NameLength),
            (&*"a".repeat(65), InvalidName::NameLength),
            (" ann", InvalidName::NameCharacters),
            ("ann\t", InvalidName::NameCharacters),
            ("an\u{200b}n", InvalidName::NameCharacters),
            ("\u{202e}nna", InvalidName::NameCharacters),
            ("a\nb", InvalidName::NameCharacters),
            ("a\0b", InvalidName::NameCharacters),
            ("ann@shop.example", InvalidName::NameCharacters),
            ("ann\u{ff20}shop.example", InvalidName::NameCharacters),
        ] {
            assert_eq!(username(bad), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn a_person_is_called_anything_that_stays_in_its_line() {
        for good in [
            "",
            "Ann",
            " Ann ",
            "O'Neil",
            "M\u{fc}ller-L\u{fc}denscheidt",
            "\u{646}\u{633}\u{62a}\u{631}\u{646}\u{200c}\u{627}",
            "<b>'; DROP",
            "{{7*7}}",
        ] {
            assert_eq!(person(good), Ok(good.trim()), "{good}");
        }
        for bad in ["a\0b", "a\nb", "a\u{202e}b", "a\u{2028}b", &"a".repeat(101)] {
            assert_eq!(person(bad), Err(InvalidName::Person), "{bad:?}");
        }
    }

    #[test]
    fn an_address_is_written_in_one_way_and_a_mail_goes_there() {
        assert_eq!(composed("bo\u{212a}@shop.example"), "boK@shop.example");
        assert_eq!(composed("\u{fb01}@shop.example"), "fi@shop.example");
        assert_eq!(email(&composed("ann\u{ff20}shop.example")), Ok("ann@shop.example"));
        assert_eq!(email(&composed("ann@shop.example\u{2100}")), Err(InvalidName::NotAnAddress));
    }

    proptest! {
        #[test]
        fn folding_twice_is_folding_once(text in "\\PC{0,40}") {
            let once = folded(&text);
            prop_assert_eq!(folded(&once), once);
        }

        #[test]
        fn any_text_is_judged_without_a_panic(text in ".{0,300}") {
            let _ = (email(&text), username(&text));
        }
    }
}
