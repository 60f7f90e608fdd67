//! A page's pieces, put together with the values between them.

use super::packed::{self, Packed, Part};
use super::{Facts, alias_rows};
use std::hash::Hasher;

/// A page as `build/template.rs` writes it.
#[derive(Debug)]
pub(super) struct Template {
    /// Tells versions of the pieces apart.
    pub(super) digest: &'static str,
    pub(super) pieces: &'static [Piece],
}

#[derive(Debug)]
pub(super) enum Piece {
    Text(Packed),
    Value(Value),
}

/// What only the running gateway knows. `build/template.rs` has the names that templates use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Where clients find the gateway.
    BaseUrl,
    /// The default location.
    Location,
    /// Rows of a table: alias, id, location.
    Aliases,
    /// Items of a list: alias and id.
    Models,
    /// Whether a chat would be answered.
    Status,
    /// A link to the playground, where there is one.
    Playground,
    /// `on` or `off`.
    PlaygroundSetting,
    /// An alias that exists: `flash` as a rule.
    FirstAlias,
    /// All aliases, as they stand between the first and the last quotation mark of a JSON array.
    AliasNames,
}

/// The values that stay the same while the gateway runs, as HTML.
#[derive(Debug)]
pub(super) struct Values {
    location: String,
    aliases: String,
    models: String,
    first_alias: String,
    alias_names: String,
    playground: bool,
}

const READY: &str = r#"<span class="ready">ready</span>"#;
const NOT_READY: &str = r#"<span class="waiting">no Google credentials yet</span>"#;
const PLAYGROUND: &str = r#"<a href="/playground">Playground</a>"#;

impl Values {
    pub(super) fn new(facts: Facts<'_>) -> Self {
        let item = |model: &crate::models::Model| {
            format!(
                "<li><code>{}</code> <span class=\"to\">{}</span></li>\n",
                escaped(&model.alias),
                escaped(&model.vertex_id)
            )
        };
        let first = facts.models.resolve("flash").or_else(|| facts.models.iter().next());
        Self {
            location: escaped(&facts.locations.join(", ")),
            aliases: alias_rows(facts.models),
            models: facts.models.iter().map(item).collect(),
            first_alias: first.map(|model| escaped(&model.alias)).unwrap_or_default(),
            // An alias has no character that JSON would escape.
            alias_names: facts.models.iter().map(|model| &*model.alias).collect::<Vec<_>>().join("\",\""),
            playground: facts.playground,
        }
    }
}

/// The values for one answer.
pub(super) struct Filled<'a> {
    pub(super) values: &'a Values,
    /// Needs no escaping: its grammar has nothing that HTML knows.
    pub(super) base_url: &'a str,
    pub(super) ready: bool,
}

impl Filled<'_> {
    fn get(&self, value: Value) -> &str {
        match value {
            Value::BaseUrl => self.base_url,
            Value::Location => &self.values.location,
            Value::Aliases => &self.values.aliases,
            Value::Models => &self.values.models,
            Value::Status => {
                if self.ready {
                    READY
                } else {
                    NOT_READY
                }
            }
            Value::Playground => {
                if self.values.playground {
                    PLAYGROUND
                } else {
                    ""
                }
            }
            Value::PlaygroundSetting => {
                if self.values.playground {
                    "on"
                } else {
                    "off"
                }
            }
            Value::FirstAlias => &self.values.first_alias,
            Value::AliasNames => &self.values.alias_names,
        }
    }
}

impl Template {
    /// Tells apart all that this template can become.
    pub(super) fn version(&self, values: &Filled<'_>) -> String {
        let mut hasher = std::hash::DefaultHasher::new();
        for piece in self.pieces {
            if let Piece::Value(value) = piece {
                hasher.write(values.get(*value).as_bytes());
                hasher.write_u8(0xff);
            }
        }
        format!("{}-{:016x}", self.digest, hasher.finish())
    }

    /// The page.
    pub(super) fn plain(&self, values: &Filled<'_>) -> Vec<u8> {
        packed::plain(self.parts(values))
    }

    /// The page as a gzip file.
    pub(super) fn gzip(&self, values: &Filled<'_>) -> Vec<u8> {
        packed::gzip(self.parts(values))
    }

    fn parts<'a>(&self, values: &'a Filled<'_>) -> impl Iterator<Item = Part<'a>> + Clone {
        self.pieces.iter().map(|piece| match piece {
            Piece::Text(text) => Part::Packed(text),
            Piece::Value(value) => Part::Text(values.get(*value)),
        })
    }
}

/// Text as HTML, also inside of an attribute.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::built;
    use super::*;
    use flate2::read::GzDecoder;
    use proptest::prelude::*;
    use std::io::Read;

    fn values(aliases: &str) -> Values {
        Values {
            location: "global".into(),
            aliases: aliases.into(),
            models: aliases.into(),
            first_alias: "flash".into(),
            alias_names: "flash".into(),
            playground: true,
        }
    }

    fn unzipped(gzip: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        // A decoder that finds the checksum or the length wrong says so.
        GzDecoder::new(gzip).read_to_end(&mut plain).unwrap();
        plain
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn gzip_is_the_same_page(aliases in ".{0,300}", times in 0_usize..300, base_url in "https://[a-z]{1,60}", ready: bool) {
            // Now and then larger than a stored block.
            let values = values(&aliases.repeat(times));
            for template in [&built::SPLASH, &built::DOCS, &built::PLAYGROUND, &built::OPENAPI] {
                let filled = Filled { values: &values, base_url: &base_url, ready };
                let plain = template.plain(&filled);
                prop_assert!(unzipped(&template.gzip(&filled)) == plain);
                prop_assert!(!plain.windows(2).any(|two| two == b"{{") || values.aliases.contains("{{"));
            }
        }
    }

    #[test]
    fn every_value_makes_another_version() {
        let values = values("x");
        let version = |base_url, ready| built::SPLASH.version(&Filled { values: &values, base_url, ready });
        assert_eq!(version("https://a", true), version("https://a", true));
        assert_ne!(version("https://a", true), version("https://b", true));
        assert_ne!(version("https://a", true), version("https://a", false));
    }

    #[test]
    fn assets_are_the_same_compressed() {
        for asset in built::FILES {
            assert!(unzipped(&asset.gzip()) == asset.plain(), "{}", asset.name);
        }
    }
}
