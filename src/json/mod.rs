//! JSON objects as they were written: fields in order, raw, repeated ones included.

mod scan;
mod specials;
mod string;

pub use scan::{Scan, elements, is_name, values};
pub use specials::Specials;
pub use string::{ESCAPE_COUNTS, LONG_STRING_BYTES, Reading, read as read_string};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// The fields of an object. Parsers into structs or maps would hide that one stands twice.
#[derive(Debug)]
pub struct Fields<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Fields<'a> {
    /// The value of a field; the last one where it stands twice, as most parsers take it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(known, _)| known == name).map(|(_, value)| *value)
    }

    /// The first name that stands twice.
    #[must_use]
    pub fn repeated(&self) -> Option<&str> {
        let names = self.0.iter().enumerate();
        let mut repeated = names.filter(|(at, (name, _))| self.0.iter().take(*at).any(|(earlier, _)| earlier == name));
        repeated.next().map(|(_, (name, _))| &**name)
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(name) = map.next_key::<&RawValue>()? {
                    // A lone surrogate in a name is allowed, and such a name is nobody's.
                    let name = text(name.get()).unwrap_or(Cow::Borrowed("\u{fffd}"));
                    fields.push((name, map.next_value()?));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// Any object, of which nothing is kept: for what serde_json says of one that is wrong.
#[derive(Debug)]
pub struct AnyObject;

impl<'de> Deserialize<'de> for AnyObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;

        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = AnyObject;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<AnyObject, A::Error> {
                // Raw, since any other reading of a name has limits that the grammar does not have.
                while map.next_entry::<&RawValue, &RawValue>()?.is_some() {}
                Ok(AnyObject)
            }
        }
        deserializer.deserialize_map(ObjectVisitor)
    }
}

/// The text of a JSON string, borrowed where it has no escapes; `None` for other values and for lone surrogates.
#[must_use]
pub fn text(raw: &str) -> Option<Cow<'_, str>> {
    let inside = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inside.contains('\\') { serde_json::from_str(raw).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inside)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_order_and_their_repetitions() {
        let fields: Fields<'_> = serde_json::from_str(r#"{"b":1,"\u0061":[2 ],"b":"3","\ud800":4}"#).unwrap();
        let names: Vec<_> = fields.0.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["b", "a", "b", "\u{fffd}"]);
        assert_eq!(fields.get("b").unwrap().get(), "\"3\"");
        assert_eq!(fields.get("a").unwrap().get(), "[2 ]");
        assert_eq!(fields.repeated(), Some("b"));
        assert!(serde_json::from_str::<Fields<'_>>("[1]").is_err());
    }

    #[test]
    fn texts() {
        assert_eq!(text(r#""a""#).as_deref(), Some("a"));
        assert_eq!(text(r#""\u0061\n""#).as_deref(), Some("a\n"));
        assert_eq!(text("5"), None);
        assert_eq!(text(r#""\ud800""#), None);
        assert_eq!(text("\""), None);
    }
}
