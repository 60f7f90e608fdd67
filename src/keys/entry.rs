//! The entries of the list of keys as their owner writes them, and the strict reading of them.
//!
//! A key's text is turned into its digest as soon as it is read; nothing that this file returns holds one.

use super::digest::KeyDigest;
use super::generate::NewKey;
use super::limits::Limits;
use crate::json::{self, Fields};
use crate::models::is_alias;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::HashSet;
use std::fmt;

/// Shorter keys are refused: they could be guessed.
pub(super) const MIN_KEY_BYTES: usize = 20;
/// Ids go into every log line.
const MAX_ID_BYTES: usize = 128;
/// An id's last minute is kept in memory, sixteen bytes for each request.
const MAX_RPM: u64 = 100_000;
/// More than one process can hold open.
const MAX_CONCURRENT: u64 = 1_000_000;
/// Far beyond any budget, and far from an overflow.
const MAX_TOKENS_PER_DAY: u64 = 1_000_000_000_000_000;
/// The fields that an entry may have.
const FIELDS: [&str; 11] = [
    "id",
    "key",
    "key_sha256",
    "enabled",
    "expires_at",
    "models",
    "metrics",
    "rpm",
    "max_concurrent",
    "tokens_per_day",
    "tokens_if_unknown",
];

/// One entry, without its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whose key it is. Several entries may have the same.
    pub id: String,
    /// What is known of the key.
    pub digest: KeyDigest,
    /// Whether the list has only the digest, so that it gives nobody a key.
    pub is_hashed: bool,
    /// Whether it admits anybody.
    pub enabled: bool,
    /// From when on it admits nobody.
    pub expires_at: Option<Timestamp>,
    /// The only aliases that it may use.
    pub models: Option<Vec<String>>,
    /// Whether it may also read the metrics.
    pub metrics: bool,
    /// How much it may do.
    pub limits: Limits,
}

impl Entry {
    /// Whether its time is over.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }
}

/// A list that was read without a problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyList(Vec<Entry>);

impl KeyList {
    /// Parses the JSON array of entries.
    ///
    /// # Errors
    /// Every problem of the list, in words that name entries by position and never show a value.
    pub fn parse(json: &str) -> Result<Self, Vec<String>> {
        let (mut problems, mut entries, mut digests) = (Vec::new(), Vec::new(), HashSet::new());
        for (index, raw) in raw_entries(json).map_err(|problem| vec![problem])?.into_iter().enumerate() {
            let number = index + 1;
            let Some(entry) = parse_entry(raw, number, &mut problems) else { continue };
            if !digests.insert(entry.digest) {
                problems.push(format!("entry {number}: its 'key' stands twice in the list"));
            }
            entries.push((number, entry));
        }
        // Ids stand in every log line.
        let is_key = |entry: &Entry| digests.contains(&KeyDigest::of(entry.id.as_bytes()));
        let leaks = entries.iter().filter(|(_, entry)| is_key(entry));
        problems.extend(leaks.map(|(number, _)| format!("entry {number}: 'id' is a key of the list")));
        let entries: Vec<Entry> = entries.into_iter().map(|(_, entry)| entry).collect();
        if problems.is_empty() && entries.is_empty() {
            problems.push("is an empty list and has no enabled key, so nobody could use the gateway".into());
        }
        if problems.is_empty() { Ok(Self(entries)) } else { Err(problems) }
    }

    /// What is wrong with the aliases that the entries name: each must exist.
    #[must_use]
    pub fn unknown_models(&self, exists: impl Fn(&str) -> bool) -> Vec<String> {
        let named = self.0.iter().enumerate();
        let unknown = named.filter(|(_, entry)| entry.models.iter().flatten().any(|alias| !exists(alias)));
        unknown.map(|(index, _)| format!("entry {}: 'models' names an alias that does not exist", index + 1)).collect()
    }

    /// Whether anybody at all could be admitted.
    #[must_use]
    pub fn has_enabled(&self) -> bool {
        self.0.iter().any(|entry| entry.enabled)
    }

    /// All entries, in their order.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }
}

/// The entries as they stand, unread.
pub(super) fn raw_entries(json: &str) -> Result<Vec<&RawValue>, String> {
    if json.starts_with('\u{feff}') {
        return Err("begins with a byte order mark, which JSON has none of: save it as UTF-8 without it".to_owned());
    }
    serde_json::from_str(json)
        .map_err(|error| format!("must be a JSON array of {{\"id\",\"key\",\"enabled\"}}: {}", place(&error)))
}

/// Where JSON broke, without serde's message, which could quote a value.
pub(crate) fn place(error: &serde_json::Error) -> String {
    format!("not so at line {}, column {}", error.line(), error.column())
}

/// One entry, or what is wrong with it.
fn parse_entry(raw: &RawValue, number: usize, problems: &mut Vec<String>) -> Option<Entry> {
    let before = problems.len();
    let Ok(fields) = serde_json::from_str::<Fields<'_>>(raw.get()) else {
        problems.push(format!("entry {number}: must be an object with 'id' and 'key' or 'key_sha256'"));
        return None;
    };
    let mut reader = EntryReader { fields, number, problems };
    if reader.fields.0.iter().any(|(name, _)| !FIELDS.contains(&&**name)) {
        reader.problem("has a field other than 'id', 'key', 'key_sha256', 'enabled', 'expires_at', 'models', 'metrics', 'rpm', 'max_concurrent', 'tokens_per_day' and 'tokens_if_unknown'");
    }
    if reader.fields.repeated().is_some() {
        reader.problem("has a field that stands twice");
    }
    let id = reader.id();
    let digest = reader.digest();
    let has_day = reader.fields.get("tokens_per_day").is_some();
    if !has_day && reader.fields.get("tokens_if_unknown").is_some() {
        reader.problem("'tokens_if_unknown' means nothing without 'tokens_per_day'");
    }
    let entry = Entry {
        enabled: reader.boolean("enabled", true),
        metrics: reader.boolean("metrics", false),
        expires_at: reader.expires_at(),
        models: reader.models(),
        limits: Limits {
            rpm: reader.number("rpm", MAX_RPM).and_then(|number| u32::try_from(number).ok()),
            max_concurrent: reader
                .number("max_concurrent", MAX_CONCURRENT)
                .and_then(|number| u32::try_from(number).ok()),
            tokens_per_day: reader.number("tokens_per_day", MAX_TOKENS_PER_DAY),
            tokens_if_unknown: reader.number("tokens_if_unknown", MAX_TOKENS_PER_DAY),
        },
        is_hashed: reader.fields.get("key").is_none(),
        id: id?,
        digest: digest?,
    };
    (problems.len() == before).then_some(entry)
}

/// An entry's fields with what is wrong with them.
struct EntryReader<'a, 'p> {
    fields: Fields<'a>,
    number: usize,
    problems: &'p mut Vec<String>,
}

impl EntryReader<'_, '_> {
    fn problem(&mut self, message: &str) {
        self.problems.push(format!("entry {}: {message}", self.number));
    }

    /// What `read` makes of a field that is there; `expected` says what would be right.
    fn value<T>(&mut self, name: &str, expected: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let value = read(self.fields.get(name)?.get());
        if value.is_none() {
            self.problem(&format!("'{name}' must be {expected}"));
        }
        value
    }

    fn id(&mut self) -> Option<String> {
        if self.fields.get("id").is_none() {
            self.problem("'id' is missing");
        }
        let id = self.value("id", "a string", |raw| json::text(raw).map(String::from))?;
        let message = id_problem(&id);
        message.iter().for_each(|message| self.problem(message));
        message.is_none().then_some(id)
    }

    fn digest(&mut self) -> Option<KeyDigest> {
        match (self.fields.get("key").is_some(), self.fields.get("key_sha256").is_some()) {
            (true, false) => {}
            (false, true) => {
                let form = "the SHA-256 of a key, as 64 lower-case hexadecimal digits; 'ai-proxy keys hash' prints it";
                return self.value("key_sha256", form, |raw| KeyDigest::from_hex(&json::text(raw)?));
            }
            (true, true) => {
                self.problem("has both 'key' and 'key_sha256'");
                return None;
            }
            (false, false) => {
                self.problem("'key' is missing, or 'key_sha256' in its place");
                return None;
            }
        }
        let judged = self.value("key", "a string", |raw| {
            json::text(raw).map(|key| (KeyDigest::of(key.as_bytes()), key_problems(&key)))
        });
        let (digest, problems) = judged?;
        problems.iter().for_each(|message| self.problem(message));
        problems.is_empty().then_some(digest)
    }

    fn boolean(&mut self, name: &str, default: bool) -> bool {
        let read = |raw: &str| match raw {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        };
        self.value(name, "true or false", read).unwrap_or(default)
    }

    fn expires_at(&mut self) -> Option<Timestamp> {
        let form = "a time by RFC 3339, such as \"2030-12-31T23:59:59Z\"";
        self.value("expires_at", form, |raw| parse_time(&json::text(raw)?))
    }

    fn models(&mut self) -> Option<Vec<String>> {
        self.value("models", "a list of one alias or more, none of them twice", |raw| {
            let aliases: Vec<String> = serde_json::from_str(raw).ok()?;
            let distinct: HashSet<&String> = aliases.iter().collect();
            let can_be = |alias: &String| is_alias(alias) && !NewKey::may_be_in(alias.as_bytes());
            let are_aliases = !aliases.is_empty() && aliases.iter().all(can_be);
            (are_aliases && distinct.len() == aliases.len()).then_some(aliases)
        })
    }

    fn number(&mut self, name: &str, at_most: u64) -> Option<u64> {
        self.value(name, &format!("a whole number from 1 to {at_most}"), |raw| {
            raw.parse().ok().filter(|number| (1..=at_most).contains(number))
        })
    }
}

/// What is wrong with an id.
fn id_problem(id: &str) -> Option<String> {
    if id.is_empty() {
        Some("'id' is empty".into())
    } else if id.len() > MAX_ID_BYTES || id.chars().any(char::is_control) {
        Some(format!("'id' must be at most {MAX_ID_BYTES} bytes without control characters"))
    } else if NewKey::may_be_in(id.as_bytes()) {
        Some("'id' looks like a key, and ids are told".into())
    } else {
        None
    }
}

/// What is wrong with a key.
pub(super) fn key_problems(key: &str) -> Vec<String> {
    if key.is_empty() {
        return vec!["'key' is empty".into()];
    }
    let mut problems = Vec::new();
    if key.len() < MIN_KEY_BYTES {
        problems.push(format!("'key' is shorter than {MIN_KEY_BYTES} characters"));
    }
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        problems.push("'key' has a character that a header cannot carry".into());
    }
    problems
}

/// A time by RFC 3339 and no other of the forms that are around.
#[must_use]
pub fn parse_time(text: &str) -> Option<Timestamp> {
    let (date, rest) = text.split_at_checked(10)?;
    let (time, rest) = rest.split_at_checked(9)?;
    let is_like = |text: &str, form: &str| {
        text.bytes().zip(form.bytes()).all(|(byte, wanted)| match wanted {
            b'0' => byte.is_ascii_digit(),
            wanted => byte == wanted,
        })
    };
    let zone = match rest.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => rest,
    };
    let digits = rest.len() - zone.len();
    let offset = zone.strip_prefix(['+', '-']).filter(|offset| offset.len() == 5);
    let zone_is_right = zone == "Z" || offset.is_some_and(|offset| is_like(offset, "00:00"));
    let shape = is_like(date, "0000-00-00") && is_like(time, "T00:00:00") && digits != 1 && digits <= 10;
    if shape && zone_is_right { text.parse().ok() } else { None }
}

/// What an entry to be written says of its key.
#[derive(Serialize)]
pub enum Secret {
    /// The key itself: whoever reads the list has it.
    #[serde(rename = "key")]
    Plain(String),
    /// Its digest.
    #[serde(rename = "key_sha256")]
    Hashed(KeyDigest),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// An entry to be written.
#[derive(Debug, Serialize)]
pub struct NewEntry {
    /// See [`Entry::id`].
    pub id: String,
    /// The key, or else its digest.
    #[serde(flatten)]
    pub secret: Secret,
    /// See [`Entry::enabled`].
    pub enabled: bool,
    /// See [`Entry::expires_at`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// See [`Entry::models`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    /// See [`Entry::metrics`].
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub metrics: bool,
    /// See [`Entry::limits`].
    #[serde(flatten)]
    pub limits: Limits,
}

impl NewEntry {
    /// An entry that is enabled and may do all.
    #[must_use]
    pub fn new(id: &str, secret: Secret) -> Self {
        Self {
            id: id.to_owned(),
            secret,
            enabled: true,
            expires_at: None,
            models: None,
            metrics: false,
            limits: Limits::default(),
        }
    }

    /// The JSON object, in one line.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers always serialise")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::NewKey;
    use proptest::prelude::*;

    const KEY: &str = "sk_live_0123456789abcdef";

    fn problems(json: &str) -> String {
        KeyList::parse(json).unwrap_err().join("; ")
    }

    fn with(field: &str) -> String {
        format!(r#"[{{"id":"a","key":"{KEY}",{field}}}]"#)
    }

    #[test]
    fn each_mistake_is_named_and_never_shown() {
        assert!(problems(r#"{"id":"a"}"#).contains("JSON array"));
        assert!(problems("[1]").contains("entry 1: must be an object"));
        assert!(problems("[]").contains("no enabled key"));
        assert!(problems(r#"[{"id":"","key":"short"}]"#).contains("'id' is empty; entry 1: 'key' is shorter"));
        assert!(problems(r#"[{"id":"a","key":""}]"#).contains("'key' is empty"));
        assert!(problems(r#"[{"id":"a"}]"#).contains("'key' is missing"));
        assert!(problems(&format!(r#"[{{"id":"a","id":"b","key":"{KEY}"}}]"#)).contains("stands twice"));
        assert!(problems(&format!(r#"[{{"id":5,"key":"{KEY}"}}]"#)).contains("'id' must be a string"));
        assert!(problems(&with(r#""x":1"#)).contains("has a field other"));
        assert!(problems(&with(r#""tokens_if_unknown":1"#)).contains("nothing without 'tokens_per_day'"));
        assert!(problems(&format!("\u{feff}{}", with(r#""rpm":1"#))).contains("byte order mark"));
        // Of a form of its owner's own.
        let own = "correct-horse-battery";
        let leak = problems(&format!(r#"[{{"id":"a"}},{{"id":"{own}","key":"{KEY}"}},{{"id":"b","key":"{own}"}}]"#));
        assert!(leak.contains("entry 2: 'id' is a key of the list") && !leak.contains(own), "{leak}");
        let leak = problems(&format!(r#"[{{"id":"x {KEY}","key":"{KEY}2"}}]"#));
        assert!(leak.contains("entry 1: 'id' looks like a key") && !leak.contains(KEY), "{leak}");
        let leak = problems(&with(&format!(r#""models":["{KEY}"]"#)));
        assert!(leak.contains("'models' must be") && !leak.contains(KEY), "{leak}");
        assert!(problems(&with(r#""enabled":"no""#)).contains("'enabled' must be"));
        assert!(problems(r#"[{"id":"a","key":"sk_live_0123456789 abcdef"}]"#).contains("header cannot carry"));
        let twice = problems(&format!(r#"[{{"id":"a","key":"{KEY}"}},{{"id":"b","key":"{KEY}"}}]"#));
        assert!(twice.contains("entry 2: its 'key' stands twice") && !twice.contains(KEY));
        let digest = KeyDigest::of(KEY.as_bytes()).to_hex();
        assert!(problems(&with(&format!(r#""key_sha256":"{digest}""#))).contains("has both"));
        let twice = problems(&format!(r#"[{{"id":"a","key":"{KEY}"}},{{"id":"b","key_sha256":"{digest}"}}]"#));
        assert!(twice.contains("stands twice in the list"));
        for bad in ["\"\"".to_owned(), format!("\"{}\"", digest.to_uppercase()), "5".to_owned(), "null".to_owned()] {
            let said = problems(&format!(r#"[{{"id":"a","key_sha256":{bad}}}]"#));
            assert!(said.contains("'key_sha256' must be"), "{bad}: {said}");
        }
        for (name, values) in [
            ("expires_at", &["\"tomorrow\"", "5", "null", "\"2030-01-01\"", "\"2030-13-01T00:00:00Z\""][..]),
            ("models", &["[]", "\"flash\"", "[1]", "null", "[\"flash\",\"flash\"]", "[[]]", "[\"\"]"]),
            ("rpm", &["0", "-1", "1.5", "1e3", "\"60\"", "null", "100001", "99999999999999999999999"]),
            ("max_concurrent", &["0", "true", "1000001"]),
            ("tokens_per_day", &["0", "[]", "1000000000000001"]),
            ("tokens_if_unknown", &["0", "-5", "1000000000000001"]),
        ] {
            for value in values {
                let said = problems(&with(&format!("\"{name}\":{value}")));
                assert!(said.contains(&format!("entry 1: '{name}' must be")), "{name}: {value}: {said}");
            }
        }
    }

    #[test]
    fn all_fields_are_read() {
        let list = KeyList::parse(&with(
            r#""expires_at":"2030-12-31T23:59:59.5+01:00","models":["flash"],"rpm":60,"max_concurrent":2,"tokens_per_day":1000,"tokens_if_unknown":9"#,
        ));
        let list = list.unwrap();
        let [entry] = list.entries() else { panic!("one entry") };
        assert_eq!(entry.expires_at.unwrap().to_string(), "2030-12-31T22:59:59.5Z");
        assert_eq!(entry.models.as_deref(), Some(&["flash".to_owned()][..]));
        let limits =
            Limits { rpm: Some(60), max_concurrent: Some(2), tokens_per_day: Some(1000), tokens_if_unknown: Some(9) };
        assert_eq!(entry.limits, limits);
        assert!(!entry.is_hashed && entry.enabled && list.has_enabled());
        assert!(list.unknown_models(|alias| alias == "flash").is_empty());
        assert!(list.unknown_models(|_| false)[0].starts_with("entry 1: 'models' names an alias"));
        assert!(!format!("{list:?}").contains(KEY));
    }

    #[test]
    fn times_are_rfc_3339_and_nothing_else() {
        for good in ["2030-01-01T00:00:00Z", "2030-01-01T00:00:00.123456789-11:30", "2030-06-30T23:59:60Z"] {
            assert!(parse_time(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "2030-01-01",
            "2030-01-01T00:00:00",
            "2030-01-01 00:00:00Z",
            "2030-01-01T00:00Z",
            "2030-01-01T00:00:00.Z",
            "2030-01-01T00:00:00+0100",
            "2030-01-01T00:00:00+01",
            "2030-01-01T00:00:00Z[UTC]",
            "2030-02-30T00:00:00Z",
            "2030-01-01T25:00:00Z",
            "+002030-01-01T00:00:00Z",
            "20300101T000000Z",
            "2030-01-01T00:00:00ä",
        ] {
            assert!(parse_time(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let key = NewKey::generate().unwrap();
        for hashed in [true, false] {
            let mut new = NewEntry::new("a \"b\"", key.secret(hashed));
            new.expires_at = parse_time("2030-01-01T00:00:00Z");
            new.models = Some(vec!["flash".into()]);
            new.limits.rpm = Some(5);
            let json = new.to_json();
            assert_eq!(json.contains(key.reveal()), !hashed);
            let list = KeyList::parse(&format!("[{json}]")).unwrap();
            let entry = &list.entries()[0];
            assert_eq!((entry.is_hashed, &*entry.id, entry.limits), (hashed, "a \"b\"", new.limits));
            assert_eq!((entry.expires_at, &entry.models), (new.expires_at, &new.models));
            assert_eq!(entry.digest, KeyDigest::of(key.reveal().as_bytes()));
            assert!(!format!("{new:?}").contains(key.reveal()));
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic_or_quote_a_key(text in ".{0,200}") {
            if let Err(problems) = KeyList::parse(&text) {
                prop_assert!(!problems.is_empty());
            }
            let listed = serde_json::json!([{ "id": text, "key": format!("{text}{KEY}") }]).to_string();
            if let Err(problems) = KeyList::parse(&listed) {
                prop_assert!(!problems.join(" ").contains(KEY));
            }
            let _ = parse_time(&text);
        }

        #[test]
        fn fields_of_any_form_are_read_or_refused(
            fields in proptest::collection::vec(
                (
                    proptest::sample::select(&FIELDS[..]),
                    proptest::sample::select(&["true", "0", "-1", "1e400", "{}", "[null]", "\"\\ud800\"", "\"x\"", "7", "[\"flash\"]"][..]),
                ),
                0..6,
            ),
        ) {
            let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
            let json = format!("[{{{}}}]", fields.join(", "));
            match KeyList::parse(&json) {
                Ok(list) => prop_assert_eq!(list.entries().len(), 1),
                Err(problems) => prop_assert!(problems.iter().all(|problem| problem.starts_with("entry 1: "))),
            }
        }

        #[test]
        fn no_text_makes_times_panic(text in "(2030-01-01(T00:00:00(\\.5)?)?)?.{0,8}") {
            let _ = parse_time(&text);
        }

        #[test]
        fn times_that_are_read_are_what_they_say(second in 0i64..4_000_000_000, nanosecond in 0i32..1_000_000_000) {
            let time = Timestamp::new(second, nanosecond).unwrap();
            prop_assert_eq!(parse_time(&time.to_string()), Some(time));
        }
    }
}
