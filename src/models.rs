//! Model aliases: the short names that clients use, and the Vertex model behind each.

use crate::locations::Route;
use bytes::Bytes;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The `created` of every model object. The gateway has no such date, and a constant keeps the answers of all
/// instances equal: 2025-01-01T00:00:00Z in Unix seconds.
const CREATED: u64 = 1_735_689_600;

/// What the configuration says of one alias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelConfig {
    /// The full Vertex id, `publisher/model`.
    pub vertex_id: String,
    /// Other locations than the default ones.
    pub locations: Option<Vec<String>>,
}

impl ModelConfig {
    /// The aliases that there are without any setting.
    #[must_use]
    pub fn built_in() -> [(String, Self); 2] {
        let at_default = |alias: &str, id: &str| (alias.to_owned(), Self { vertex_id: id.to_owned(), locations: None });
        [at_default("flash", "google/gemini-2.5-flash"), at_default("pro-preview", "google/gemini-3.1-pro-preview")]
    }
}

/// One alias, ready to be used.
#[derive(Debug)]
pub struct Model {
    /// The client's name for it.
    pub alias: Arc<str>,
    /// The Vertex id.
    pub vertex_id: Arc<str>,
    /// The same as a JSON string, quotes included: what takes the place of the client's value.
    pub quoted_id: Bytes,
    /// Where it is served: indices in [`Models::locations`].
    pub route: Arc<Route>,
    /// Whether it refuses tool calls that come back without their thought signature.
    pub needs_signatures: bool,
    /// The model object of `GET /v1/models/{alias}`.
    pub json: Bytes,
}

/// All aliases, built once.
#[derive(Debug)]
pub struct Models {
    /// Sorted by alias.
    models: Vec<Model>,
    locations: Vec<String>,
    all: Offer,
    health_json: Bytes,
}

/// The aliases that a key may use, ready to be told.
#[derive(Debug)]
pub struct Offer {
    /// Sorted.
    aliases: Vec<Arc<str>>,
    names: String,
    list_json: Bytes,
}

impl Offer {
    fn new<'a>(models: impl Iterator<Item = &'a Model>) -> Self {
        let (mut aliases, mut objects) = (Vec::new(), Vec::new());
        for model in models {
            aliases.push(model.alias.clone());
            objects.push(&*model.json);
        }
        Self {
            names: aliases.join(", "),
            list_json: [br#"{"object":"list","data":["#, &*objects.join(&b','), b"]}"].concat().into(),
            aliases,
        }
    }

    /// Whether this alias is among them.
    #[must_use]
    pub fn has(&self, alias: &str) -> bool {
        self.aliases.binary_search_by(|own| (**own).cmp(alias)).is_ok()
    }

    /// The aliases in one line, for error messages.
    #[must_use]
    pub fn names(&self) -> &str {
        &self.names
    }

    /// The body of `GET /v1/models`.
    #[must_use]
    pub fn list_json(&self) -> Bytes {
        self.list_json.clone()
    }
}

#[derive(Serialize)]
struct ModelJson<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'a str,
    vertex_id: &'a str,
}

#[derive(Serialize)]
struct HealthJson<'a> {
    ok: bool,
    models: &'a [&'a str],
}

impl Model {
    /// The same with names that nobody else holds.
    fn copy(&self) -> Self {
        Self {
            alias: Arc::from(&*self.alias),
            vertex_id: Arc::from(&*self.vertex_id),
            quoted_id: Bytes::copy_from_slice(&self.quoted_id),
            route: self.route.clone(),
            json: Bytes::copy_from_slice(&self.json),
            ..*self
        }
    }
}

impl Models {
    /// Builds the table. `default_locations` serve every alias that names none.
    #[must_use]
    pub fn new(configured: &BTreeMap<String, ModelConfig>, default_locations: &[String]) -> Self {
        let mut locations = Vec::new();
        let mut models = Vec::with_capacity(configured.len());
        for (alias, model) in configured {
            let wanted = model.locations.as_deref().unwrap_or(default_locations);
            let index_of = |wanted: &String| {
                locations.iter().position(|known| known == wanted).unwrap_or_else(|| {
                    locations.push(wanted.clone());
                    locations.len() - 1
                })
            };
            let route = Arc::new(Route::new(wanted.iter().map(index_of).collect()));
            let object = ModelJson {
                id: alias,
                object: "model",
                created: CREATED,
                owned_by: model.vertex_id.split('/').next().unwrap_or_default(),
                vertex_id: &model.vertex_id,
            };
            models.push(Model {
                alias: alias.as_str().into(),
                vertex_id: model.vertex_id.as_str().into(),
                quoted_id: to_json(&model.vertex_id),
                needs_signatures: needs_signatures(&model.vertex_id),
                route,
                json: to_json(&object),
            });
        }
        let names: Vec<&str> = configured.keys().map(String::as_str).collect();
        Self {
            all: Offer::new(models.iter()),
            health_json: to_json(&HealthJson { ok: true, models: &names }),
            models,
            locations,
        }
    }

    /// The same for another thread, out of memory of whoever calls: requests take hold of a model's names, and threads that
    /// count who holds one and the same would take its cache line from each other. What is known of locations they share.
    #[must_use]
    pub fn of_another_thread(&self) -> Self {
        let models: Vec<Model> = self.models.iter().map(Model::copy).collect();
        Self {
            all: Offer::new(models.iter()),
            health_json: Bytes::copy_from_slice(&self.health_json),
            models,
            locations: self.locations.clone(),
        }
    }

    /// The model behind an alias.
    #[must_use]
    pub fn resolve(&self, alias: &str) -> Option<&Model> {
        let index = self.models.binary_search_by(|model| (*model.alias).cmp(alias)).ok()?;
        self.models.get(index)
    }

    /// Every location that some alias uses.
    #[must_use]
    pub fn locations(&self) -> &[String] {
        &self.locations
    }

    /// The names of a model's locations, in the order in which they are wanted, with commas between.
    #[must_use]
    pub fn locations_of(&self, model: &Model) -> String {
        let names: Vec<&str> = model.route.locations().map(|location| &*self.locations[location]).collect();
        names.join(", ")
    }

    /// All aliases with what they stand for, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &Model> {
        self.models.iter()
    }

    /// What a key may use that is told nothing else.
    #[must_use]
    pub fn all(&self) -> &Offer {
        &self.all
    }

    /// Those aliases that `is_offered` says.
    #[must_use]
    pub fn offer(&self, is_offered: impl Fn(&str) -> bool) -> Offer {
        Offer::new(self.models.iter().filter(|model| is_offered(&model.alias)))
    }

    /// The body of `GET /health`.
    #[must_use]
    pub fn health_json(&self) -> Bytes {
        self.health_json.clone()
    }
}

/// Whether a text can be an alias.
pub(crate) fn is_alias(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/:@".contains(&byte))
        && text.bytes().any(|byte| byte.is_ascii_alphanumeric())
}

/// Gemini does since version 3.
fn needs_signatures(vertex_id: &str) -> bool {
    let version = vertex_id.split_once('/').and_then(|(_, name)| name.strip_prefix("gemini-"));
    let major = version.and_then(|version| version.split(|c: char| !c.is_ascii_digit()).next());
    major.and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major >= 3)
}

fn to_json<T: Serialize + ?Sized>(value: &T) -> Bytes {
    serde_json::to_vec(value).expect("strings and numbers always serialise").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(vertex_id: &str, locations: Option<&[&str]>) -> ModelConfig {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        ModelConfig { vertex_id: vertex_id.into(), locations: locations.map(names) }
    }

    #[test]
    fn aliases_resolve_and_share_locations() {
        let configured = BTreeMap::from([
            ("pro".to_owned(), config("google/gemini-3.1-pro-preview", Some(&["global", "europe-west4"]))),
            ("flash".to_owned(), config("google/gemini-2.5-flash", None)),
            ("lite".to_owned(), config("google/gemini-2.5-flash-lite", None)),
        ]);
        let models = Models::new(&configured, &["europe-west4".to_owned()]);
        assert_eq!(models.locations(), ["europe-west4", "global"]);
        let route = |alias| models.resolve(alias).unwrap().route.locations().collect::<Vec<_>>();
        assert_eq!((route("pro"), route("lite")), (vec![1, 0], vec![0]));
        assert_eq!(models.locations_of(models.resolve("pro").unwrap()), "global, europe-west4");
        assert_eq!(models.resolve("flash").unwrap().quoted_id, "\"google/gemini-2.5-flash\"");
        assert!(models.resolve("google/gemini-2.5-flash").is_none());
        assert!(models.resolve("").is_none());
        assert_eq!(models.all().names(), "flash, lite, pro");
        assert!(models.all().has("pro") && !models.offer(|alias| alias != "pro").has("pro"));
    }

    #[test]
    fn threads_share_what_is_known_of_locations_and_no_names() {
        let configured = BTreeMap::from([("flash".to_owned(), config("google/gemini-2.5-flash", None))]);
        let models = Models::new(&configured, &["global".to_owned()]);
        let copy = models.of_another_thread();
        let (one, other) = (models.resolve("flash").unwrap(), copy.resolve("flash").unwrap());
        assert!(Arc::ptr_eq(&one.route, &other.route));
        assert!(!Arc::ptr_eq(&one.alias, &other.alias) && one.quoted_id.as_ptr() != other.quoted_id.as_ptr());
        assert_eq!((&one.quoted_id, &one.json), (&other.quoted_id, &other.json));
        assert_eq!((models.all().list_json(), models.health_json()), (copy.all().list_json(), copy.health_json()));
    }

    #[test]
    fn signatures_are_needed_since_gemini_3() {
        for (id, needed) in [
            ("google/gemini-3.1-pro-preview", true),
            ("google/gemini-3-flash-preview", true),
            ("google/gemini-10-pro", true),
            ("google/gemini-2.5-flash", false),
            ("google/gemini-pro", false),
            ("meta/llama-3", false),
        ] {
            assert_eq!(needs_signatures(id), needed, "{id}");
        }
    }

    #[test]
    fn model_objects_are_openais_plus_the_vertex_id() {
        let configured = BTreeMap::from([("flash".to_owned(), config("google/gemini-2.5-flash", None))]);
        let models = Models::new(&configured, &["global".to_owned()]);
        let list: serde_json::Value = serde_json::from_slice(&models.all().list_json()).unwrap();
        let object = &list["data"][0];
        assert_eq!(object["owned_by"], "google");
        assert_eq!(object["vertex_id"], "google/gemini-2.5-flash");
        let one: serde_json::Value = serde_json::from_slice(&models.resolve("flash").unwrap().json).unwrap();
        assert_eq!(&one, object);
        assert_eq!(models.offer(|_| false).list_json(), r#"{"object":"list","data":[]}"#);
        assert_eq!(models.health_json(), r#"{"ok":true,"models":["flash"]}"#);
    }
}
