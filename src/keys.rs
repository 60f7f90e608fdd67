//! Issued keys: parsed from JSON, held as SHA-256 digests, looked up once per request.

use crate::json::{self, Fields};
use aws_lc_rs::{digest, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::Arc;

/// Shorter keys are refused: they could be guessed.
const MIN_KEY_BYTES: usize = 20;
/// Ids go into every log line.
const MAX_ID_BYTES: usize = 128;
/// Random bytes in a generated key.
const NEW_KEY_BYTES: usize = 32;

type Digest = [u8; digest::SHA256_OUTPUT_LEN];

/// The issued keys. Only digests are held, so nothing here can leak a key.
#[derive(Debug)]
pub struct Keys {
    by_digest: HashMap<Digest, Issued>,
}

#[derive(Debug)]
struct Issued {
    id: Arc<str>,
    enabled: bool,
    /// Whether it may also read the metrics.
    metrics: bool,
}

/// One entry as its owner writes it.
#[derive(Serialize)]
struct EntryJson {
    id: String,
    key: String,
    enabled: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    metrics: bool,
}

impl Keys {
    /// Parses the JSON array of entries.
    ///
    /// # Errors
    /// Every problem of the list, in words that name entries by position and never show a value.
    pub fn parse(json: &str) -> Result<Self, Vec<String>> {
        let entries: Vec<&RawValue> = serde_json::from_str(json).map_err(|error| {
            vec![format!("must be a JSON array of {{\"id\",\"key\",\"enabled\"}}: {}", place(&error))]
        })?;
        let mut problems = Vec::new();
        let mut by_digest = HashMap::with_capacity(entries.len());
        for (index, value) in entries.into_iter().enumerate() {
            let number = index + 1;
            let Some(entry) = parse_entry(value, number, &mut problems) else { continue };
            match by_digest.entry(sha256(entry.key.as_bytes())) {
                Entry::Occupied(_) => problems.push(format!("entry {number}: its 'key' stands twice in the list")),
                Entry::Vacant(slot) => {
                    slot.insert(Issued { id: entry.id.into(), enabled: entry.enabled, metrics: entry.metrics });
                }
            }
        }
        if problems.is_empty() && !by_digest.values().any(|issued| issued.enabled) {
            problems.push("has no enabled key, so nobody could use the gateway".into());
        }
        if problems.is_empty() { Ok(Self { by_digest }) } else { Err(problems) }
    }

    /// The id of the enabled key that a client presented, if there is one.
    #[must_use]
    pub fn authenticate(&self, presented: &[u8]) -> Option<Arc<str>> {
        let issued = self.by_digest.get(&sha256(presented))?;
        issued.enabled.then(|| issued.id.clone())
    }

    /// The id of the enabled key that a client presented, if it may read the metrics.
    #[must_use]
    pub fn authenticate_for_metrics(&self, presented: &[u8]) -> Option<Arc<str>> {
        let issued = self.by_digest.get(&sha256(presented))?;
        (issued.enabled && issued.metrics).then(|| issued.id.clone())
    }

    /// How many keys there are, enabled or not.
    #[must_use]
    pub fn count(&self) -> usize {
        self.by_digest.len()
    }
}

/// One entry, or what is wrong with it.
fn parse_entry(raw: &RawValue, number: usize, problems: &mut Vec<String>) -> Option<EntryJson> {
    let before = problems.len();
    let mut problem = |message: &str| problems.push(format!("entry {number}: {message}"));
    let Ok(fields) = serde_json::from_str::<Fields<'_>>(raw.get()) else {
        problem("must be an object with 'id' and 'key'");
        return None;
    };
    if fields.0.iter().any(|(name, _)| !["id", "key", "enabled", "metrics"].contains(&&**name)) {
        problem("has a field other than 'id', 'key', 'enabled' and 'metrics'");
    }
    if fields.repeated().is_some() {
        problem("has a field that stands twice");
    }
    let mut string = |name: &str| match fields.get(name) {
        None => {
            problem(&format!("'{name}' is missing"));
            None
        }
        Some(value) => {
            let text = json::text(value.get());
            match text.as_deref() {
                None => problem(&format!("'{name}' must be a string")),
                Some("") => problem(&format!("'{name}' is empty")),
                Some(_) => {}
            }
            text.filter(|text| !text.is_empty())
        }
    };
    let (id, key) = (string("id"), string("key"));
    let mut boolean = |name: &str, default| match fields.get(name).map(RawValue::get) {
        None => default,
        Some("true") => true,
        Some("false") => false,
        Some(_) => {
            problem(&format!("'{name}' must be true or false"));
            false
        }
    };
    let (enabled, metrics) = (boolean("enabled", true), boolean("metrics", false));
    if id.as_deref().is_some_and(|id| id.len() > MAX_ID_BYTES || id.chars().any(char::is_control)) {
        problem(&format!("'id' must be at most {MAX_ID_BYTES} bytes without control characters"));
    }
    if key.as_deref().is_some_and(|key| key.len() < MIN_KEY_BYTES) {
        problem(&format!("'key' is shorter than {MIN_KEY_BYTES} characters"));
    }
    if key.as_deref().is_some_and(|key| !key.bytes().all(|byte| byte.is_ascii_graphic())) {
        problem("'key' has a character that a header cannot carry");
    }
    let entry = EntryJson { id: id?.into_owned(), key: key?.into_owned(), enabled, metrics };
    (problems.len() == before).then_some(entry)
}

/// Where JSON broke, without serde's message, which could quote a value.
pub(crate) fn place(error: &serde_json::Error) -> String {
    format!("not so at line {}, column {}", error.line(), error.column())
}

fn sha256(bytes: &[u8]) -> Digest {
    let mut out = [0; digest::SHA256_OUTPUT_LEN];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// A key that was just made: the only key text that the program ever shows, and only through
/// [`reveal`](Self::reveal).
pub struct NewKey(String);

impl NewKey {
    /// A new key: `sk_live_` and 32 random bytes in URL-safe base64.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate() -> Result<Self, aws_lc_rs::error::Unspecified> {
        let mut random = [0; NEW_KEY_BYTES];
        rand::fill(&mut random)?;
        Ok(Self(format!("sk_live_{}", URL_SAFE_NO_PAD.encode(random))))
    }

    /// The key's text, for its owner's eyes.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The entry for `API_KEYS_JSON`.
    #[must_use]
    pub fn entry(&self, id: &str) -> String {
        let entry = EntryJson { id: id.to_owned(), key: self.0.clone(), enabled: true, metrics: false };
        serde_json::to_string(&entry).expect("strings always serialise")
    }
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewKey(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "sk_live_0123456789abcdef";

    fn problems(json: &str) -> String {
        Keys::parse(json).unwrap_err().join("; ")
    }

    #[test]
    fn enabled_keys_admit_and_disabled_ones_do_not() {
        let keys = Keys::parse(&format!(r#"[{{"id":"a","key":"{KEY}"}},{{"id":"a","key":"{KEY}2","enabled":false}}]"#))
            .unwrap();
        assert_eq!(keys.authenticate(KEY.as_bytes()).as_deref(), Some("a"));
        assert_eq!(keys.authenticate(format!("{KEY}2").as_bytes()), None);
        assert_eq!(keys.authenticate(KEY.to_uppercase().as_bytes()), None);
        assert_eq!(keys.authenticate(b""), None);
        assert!(!format!("{keys:?}").contains(KEY));
    }

    #[test]
    fn metrics_are_for_keys_that_say_so() {
        let keys = Keys::parse(&format!(
            r#"[{{"id":"a","key":"{KEY}","metrics":true}},{{"id":"b","key":"{KEY}2"}},{{"id":"c","key":"{KEY}3","metrics":true,"enabled":false}}]"#
        ))
        .unwrap();
        assert_eq!(keys.authenticate_for_metrics(KEY.as_bytes()).as_deref(), Some("a"));
        assert_eq!(keys.authenticate(KEY.as_bytes()).as_deref(), Some("a"));
        for other in ["2", "3", "4"] {
            assert_eq!(keys.authenticate_for_metrics(format!("{KEY}{other}").as_bytes()), None);
        }
        assert!(problems(&format!(r#"[{{"id":"a","key":"{KEY}","metrics":1}}]"#)).contains("'metrics' must be"));
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
        assert!(problems(&format!(r#"[{{"id":"a","key":"{KEY}","x":1}}]"#)).contains("has a field other"));
        assert!(problems(&format!(r#"[{{"id":"a","key":"{KEY}","enabled":"no"}}]"#)).contains("'enabled' must be"));
        assert!(problems(r#"[{"id":"a","key":"sk_live_0123456789 abcdef"}]"#).contains("header cannot carry"));
        assert!(problems(&format!(r#"[{{"id":"a","key":"{KEY}","enabled":false}}]"#)).contains("no enabled key"));
        let twice = problems(&format!(r#"[{{"id":"a","key":"{KEY}"}},{{"id":"b","key":"{KEY}"}}]"#));
        assert!(twice.contains("entry 2: its 'key' stands twice") && !twice.contains(KEY));
    }

    #[test]
    fn generated_keys_are_long_and_distinct() {
        let (one, two) = (NewKey::generate().unwrap(), NewKey::generate().unwrap());
        assert_ne!(one.reveal(), two.reveal());
        assert_eq!(one.reveal().len(), "sk_live_".len() + 43);
        assert!(!format!("{one:?}").contains(one.reveal()));
        let keys = Keys::parse(&format!("[{}]", one.entry("x"))).unwrap();
        assert!(keys.authenticate(one.reveal().as_bytes()).is_some());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic_or_quote_a_key(text in ".{0,200}") {
            if let Err(problems) = Keys::parse(&text) {
                prop_assert!(!problems.is_empty());
            }
            let listed = serde_json::json!([{ "id": text, "key": format!("{text}{KEY}") }]).to_string();
            if let Err(problems) = Keys::parse(&listed) {
                prop_assert!(!problems.join(" ").contains(KEY));
            }
        }
    }
}
