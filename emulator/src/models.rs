//! The models that the endpoint knows, and which of them are to be had where.

/// Where a model is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Served {
    Everywhere,
    /// Previews: only at location `global`.
    Globally,
}

/// The models that Google lists for this API, as of September 2026.
const MODELS: [(&str, Served); 11] = [
    ("gemini-2.5-flash", Served::Everywhere),
    ("gemini-2.5-pro", Served::Everywhere),
    ("gemini-3-flash-preview", Served::Globally),
    ("gemini-3-pro-preview", Served::Globally),
    ("gemini-3.1-flash-lite", Served::Everywhere),
    ("gemini-3.1-pro-preview", Served::Globally),
    ("gemini-3.5-flash", Served::Everywhere),
    ("gemini-3.5-flash-lite", Served::Everywhere),
    ("gemini-3.6-flash", Served::Everywhere),
    ("gemini-3.7-flash", Served::Everywhere),
    ("gemini-3.8-flash", Served::Everywhere),
];

/// A model that can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Model {
    id: &'static str,
}

impl Model {
    /// Finds a publisher's model at a location.
    pub(super) fn find(publisher: &str, id: &str, location: &str) -> Option<Self> {
        if publisher != "google" || !is_location(location) {
            return None;
        }
        let &(id, served) = MODELS.iter().find(|(known, _)| *known == id)?;
        (served == Served::Everywhere || location == "global").then_some(Self { id })
    }

    /// The name with its publisher, as answers give it.
    pub(super) fn name(self) -> String {
        format!("google/{}", self.id)
    }

    /// The name without its publisher.
    pub(super) fn id(self) -> &'static str {
        self.id
    }

    /// Gemini 3 and later: function calls carry a signature that must come back.
    pub(super) fn signs_calls(self) -> bool {
        self.id.starts_with("gemini-3")
    }

    /// Whether it thinks without being asked to.
    pub(super) fn thinks(self) -> bool {
        self.signs_calls() || self.id.contains("-pro")
    }

    /// Whether `reasoning_effort: "minimal"` is refused.
    pub(super) fn refuses_minimal_thinking(self) -> bool {
        matches!(self.id, "gemini-3.7-flash" | "gemini-3.8-flash")
    }
}

/// `global`, `us`, `eu`, or the form of a region's name.
fn is_location(location: &str) -> bool {
    if matches!(location, "global" | "us" | "eu") {
        return true;
    }
    let Some((_, place)) = location.split_once('-') else {
        return false;
    };
    place.ends_with(|c: char| c.is_ascii_digit())
        && location.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn previews_are_global_only() {
        let found = |id, location| Model::find("google", id, location).is_some();
        assert!(found("gemini-2.5-flash", "us-central1"));
        assert!(found("gemini-2.5-flash", "eu"));
        assert!(found("gemini-3.1-pro-preview", "global"));
        assert!(!found("gemini-3.1-pro-preview", "us-central1"));
        assert!(!found("gemini-2.5-flash", "narnia"));
        assert!(!found("gemini-1.0-pro", "global"));
        assert_eq!(Model::find("meta", "gemini-2.5-flash", "global"), None);
    }
}
