//! One field of a mapping: how a row's text becomes a value.

use std::collections::BTreeMap;

/// What a field is made of.
#[derive(Clone, Debug, Default)]
pub(super) struct Field {
    from: From,
    /// What stands for what.
    pub(super) map: BTreeMap<String, Vec<String>>,
    /// What stands for nothing.
    pub(super) default: Option<Vec<String>>,
    /// What stands between the items of a list.
    pub(super) separator: Option<String>,
}

#[derive(Clone, Debug)]
enum From {
    Column(usize),
    Value(String),
}

impl Default for From {
    fn default() -> Self {
        Self::Value(String::new())
    }
}

/// A row as it was read.
pub(super) type Texts = [Option<String>];

impl Field {
    /// The column at a place of the row.
    pub(super) fn of_column(place: usize) -> Self {
        Self { from: From::Column(place), ..Self::default() }
    }

    /// The same for every row.
    pub(super) fn of_value(value: String) -> Self {
        Self { from: From::Value(value), ..Self::default() }
    }

    fn raw<'r>(&'r self, row: &'r Texts) -> Option<&'r str> {
        let text = match &self.from {
            From::Column(place) => row.get(*place)?.as_deref()?,
            From::Value(value) => value,
        };
        Some(text).filter(|text| !text.trim().is_empty())
    }

    /// A text, if there is one.
    pub(super) fn text(&self, row: &Texts) -> Option<String> {
        match self.raw(row) {
            Some(raw) => self.map.get(raw).map_or_else(|| Some(raw.to_owned()), |mapped| mapped.first().cloned()),
            None => self.default.as_ref().and_then(|default| default.first().cloned()),
        }
    }

    /// A list, if there is any.
    pub(super) fn list(&self, row: &Texts) -> Option<Vec<String>> {
        let items = self.raw(row).map(|raw| self.items(raw)).unwrap_or_default();
        let mapped: Vec<String> =
            items.into_iter().flat_map(|item| self.map.get(&item).cloned().unwrap_or_else(|| vec![item])).collect();
        if mapped.is_empty() { self.default.clone() } else { Some(mapped) }
    }

    /// The items of a JSON list, a PostgreSQL array, or a text with separators.
    fn items(&self, raw: &str) -> Vec<String> {
        if let Ok(items) = serde_json::from_str::<Vec<String>>(raw) {
            return items;
        }
        let array = raw.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let parts: Vec<&str> = match (array, &self.separator) {
            (Some(inner), _) => inner.split(',').collect(),
            (None, Some(separator)) => raw.split(separator.as_str()).collect(),
            (None, None) => vec![raw],
        };
        parts.into_iter().map(|part| part.trim().trim_matches('"').to_owned()).filter(|part| !part.is_empty()).collect()
    }

    /// Yes or no, if it is said.
    pub(super) fn flag(&self, row: &Texts, name: &str) -> Result<Option<bool>, String> {
        let Some(text) = self.text(row) else { return Ok(None) };
        let is = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(&text));
        if is(&["true", "t", "1", "yes", "y", "on"]) {
            Ok(Some(true))
        } else if is(&["false", "f", "0", "no", "n", "off"]) {
            Ok(Some(false))
        } else {
            Err(format!("{name}: is neither true nor false; say in its `map` what stands for which"))
        }
    }

    /// Yes or no, which a row must say, or the field's default for it: nobody is taken for active by saying nothing.
    pub(super) fn certain_flag(&self, row: &Texts, name: &str) -> Result<bool, String> {
        let said = self.flag(row, name)?;
        said.ok_or_else(|| format!("{name}: is empty; say by its `default` what that stands for"))
    }

    /// A time in seconds since the Unix epoch, if it is said. Without an offset it is UTC.
    pub(super) fn time(&self, row: &Texts, name: &str) -> Result<Option<i64>, String> {
        /// What can only be milliseconds: in seconds it would be the year 5138.
        const MILLISECONDS: i64 = 100_000_000_000;
        let Some(text) = self.text(row) else { return Ok(None) };
        let text = text.trim();
        if let Ok(number) = text.parse::<i64>() {
            return Ok(Some(if number.abs() >= MILLISECONDS { number.div_euclid(1000) } else { number }));
        }
        let with_offset = text.parse::<jiff::Timestamp>().ok();
        let civil = || text.parse::<jiff::civil::DateTime>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
        match with_offset.or_else(|| civil().map(|zoned| zoned.timestamp())) {
            Some(time) => Ok(Some(time.as_second())),
            None => Err(format!("{name}: is no time")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> [Option<String>; 1] {
        [Some(text.to_owned())]
    }

    #[test]
    fn lists_are_read_as_other_schemas_write_them() {
        let mut field = Field::of_column(0);
        field.map.insert("superuser".into(), vec!["admin".into(), "user".into()]);
        field.default = Some(vec!["user".into()]);
        field.separator = Some(",".into());
        for (text, expected) in [
            ("editor", vec!["editor"]),
            ("superuser", vec!["admin", "user"]),
            ("editor, superuser", vec!["editor", "admin", "user"]),
            ("[\"a\", \"b\"]", vec!["a", "b"]),
            ("{a,\"b\"}", vec!["a", "b"]),
            ("", vec!["user"]),
            ("[]", vec!["user"]),
            ("{}", vec!["user"]),
        ] {
            assert_eq!(field.list(&row(text)).unwrap(), expected, "{text}");
        }
        assert_eq!(field.list(&[None]).unwrap(), ["user"]);
        assert_eq!(Field::of_column(0).list(&[None]), None);
    }

    #[test]
    fn flags_and_times_are_read_as_other_schemas_write_them() {
        let field = Field::of_column(0);
        for (text, expected) in [("1", Some(true)), ("false", Some(false)), ("T", Some(true)), (" ", None)] {
            assert_eq!(field.flag(&row(text), "active"), Ok(expected), "{text}");
        }
        assert!(field.flag(&row("perhaps"), "active").is_err());
        let mut active = Field::of_column(0);
        assert_eq!(active.certain_flag(&row("f"), "active"), Ok(false));
        for nothing in [[None], row("")] {
            assert!(active.certain_flag(&nothing, "active").unwrap_err().contains("`default`"));
        }
        active.default = Some(vec!["true".into()]);
        assert_eq!(active.certain_flag(&[None], "active"), Ok(true));
        for text in [
            "1700000000",
            "1700000000000",
            "2023-11-14T22:13:20Z",
            "2023-11-14 22:13:20",
            "2023-11-14 22:13:20.123456",
            "2023-11-14 22:13:20.5+00",
            "2023-11-15 00:13:20+02:00",
        ] {
            assert_eq!(field.time(&row(text), "createdAt"), Ok(Some(1_700_000_000)), "{text}");
        }
        assert!(field.time(&row("yesterday"), "createdAt").is_err());
    }
}
