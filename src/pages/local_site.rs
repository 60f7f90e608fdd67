//! The runbook as files, for `html/`: the same page, with the values that a gateway has by default. `make html` writes
//! them.

use super::template::{Filled, Values};
use super::{Facts, PublicUrl, built};
use crate::models::{ModelConfig, Models};
use std::collections::BTreeMap;

/// The files by name. They load each other from the folder that they are in.
///
/// # Panics
/// Never: the page is text.
#[must_use]
pub fn files() -> Vec<(&'static str, Vec<u8>)> {
    let configured: BTreeMap<String, ModelConfig> = ModelConfig::built_in().into_iter().collect();
    let models = Models::new(&configured, &["global".to_owned()]);
    let values = Values::new(Facts {
        models: &models,
        locations: &["global".to_owned()],
        public_url: None,
        tls_ends_here: false,
        playground: false,
    });
    let url = PublicUrl::default();
    let page = built::DOCS.plain(&Filled { values: &values, base_url: url.as_str(), ready: true });
    let mut page = String::from_utf8(page).expect("templates and values are text");
    for asset in built::FILES {
        page = page.replace(&format!("/assets/{}/", asset.digest), "");
    }
    // There is no other page here.
    for link in ["/", "/docs"] {
        page = page.replace(&format!("href=\"{link}\""), "href=\"index.html\"");
    }
    let mut files = vec![("index.html", page.into_bytes())];
    let loaded = built::FILES.iter().filter(|asset| asset.name != "playground.js");
    files.extend(loaded.map(|asset| (asset.name, asset.plain())));
    files
}
