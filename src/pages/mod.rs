//! The pages for browsers. `build/` renders and compresses what can be known when the program is built; here the
//! running gateway's values are put in between. Nothing secret can reach them: [`Facts`] is all that they know.

mod address;
mod answer;
pub mod local_site;
mod packed;
mod template;

pub use address::PublicUrl;

use crate::http1::{Answer, Head};
use crate::models::{Model, Models};
use packed::{Packed, Part};
use std::iter;
use template::{Template, Values, escaped};

/// The body of `GET /readyz` when the gateway is ready.
pub const READY: &str = r#"{"ready":true}"#;

/// A file that pages load.
#[derive(Debug)]
struct Asset {
    name: &'static str,
    /// Stands in its path, so that a browser can keep it for ever.
    digest: &'static str,
    content_type: &'static str,
    text: Packed,
}

impl Asset {
    fn plain(&'static self) -> Vec<u8> {
        packed::plain(iter::once(Part::Packed(&self.text)))
    }

    fn gzip(&'static self) -> Vec<u8> {
        packed::gzip(iter::once(Part::Packed(&self.text)))
    }
}

mod built {
    use super::Asset;
    use super::packed::Packed;
    use super::template::{Piece, Template, Value};

    include!(concat!(env!("OUT_DIR"), "/pages.rs"));

    pub(super) static FILES: &[Asset] = ASSETS;
}

/// What pages show of the running gateway. Whoever reads them may know all of it.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Aliases and what they stand for.
    pub models: &'a Models,
    /// The default locations.
    pub locations: &'a [String],
    /// Where clients find the gateway, if that is configured.
    pub public_url: Option<&'a PublicUrl>,
    /// Whether clients speak TLS with the gateway itself.
    pub tls_ends_here: bool,
    /// Whether there is a playground.
    pub playground: bool,
}

/// The pages of this gateway.
#[derive(Debug)]
pub struct Pages {
    values: Values,
    public_url: Option<PublicUrl>,
    tls_ends_here: bool,
    playground: bool,
}

impl Pages {
    /// Writes down what the pages show.
    #[must_use]
    pub fn new(facts: Facts<'_>) -> Self {
        Self {
            values: Values::new(facts),
            public_url: facts.public_url.cloned(),
            tls_ends_here: facts.tls_ends_here,
            playground: facts.playground,
        }
    }

    /// Whether there is a playground.
    #[must_use]
    pub fn has_playground(&self) -> bool {
        self.playground
    }

    /// `GET /`; `ready` is whether the gateway could answer a chat now.
    #[must_use]
    pub fn splash(&self, head: &Head, ready: bool) -> Answer {
        self.page(&built::SPLASH, head, ready)
    }

    /// `GET /docs`
    #[must_use]
    pub fn docs(&self, head: &Head) -> Answer {
        self.page(&built::DOCS, head, true)
    }

    /// `GET /playground`
    #[must_use]
    pub fn playground(&self, head: &Head) -> Answer {
        self.page(&built::PLAYGROUND, head, true)
    }

    /// `GET /openapi.json`: what the API is, for programs.
    #[must_use]
    pub fn openapi(&self, head: &Head) -> Answer {
        // It says nothing of where the gateway is: its paths begin where the document is.
        let values = template::Filled { values: &self.values, base_url: "", ready: true };
        answer::document(&built::OPENAPI, &values, head)
    }

    fn page(&self, template: &Template, head: &Head, ready: bool) -> Answer {
        let of_host;
        let base_url = match &self.public_url {
            Some(url) => url,
            None => {
                of_host = head
                    .value("host")
                    .and_then(|host| PublicUrl::of_host(host, self.tls_ends_here))
                    .unwrap_or_default();
                &of_host
            }
        };
        let values = template::Filled { values: &self.values, base_url: base_url.as_str(), ready };
        let vary = if self.public_url.is_some() { "Accept-Encoding" } else { "Accept-Encoding, Host" };
        answer::page(template, &values, vary, head)
    }

    /// `GET /assets/DIGEST/NAME`; `path` begins after `/assets/`.
    #[must_use]
    pub fn asset(&self, path: &[u8], head: &Head) -> Option<Answer> {
        let (digest, name) = std::str::from_utf8(path).ok()?.split_once('/')?;
        let asset = built::FILES.iter().find(|asset| asset.name == name)?;
        Some(answer::asset(asset, digest == asset.digest, head))
    }
}

/// Rows of a table: alias, id, location.
fn alias_rows(models: &Models) -> String {
    let row = |model: &Model| {
        format!(
            "<tr><td><code>{}</code></td><td data-column=\"Vertex id\"><code>{}</code></td>\
             <td data-column=\"location\"><code>{}</code></td></tr>\n",
            escaped(&model.alias),
            escaped(&model.vertex_id),
            escaped(&models.locations_of(model))
        )
    };
    models.iter().map(row).collect()
}
