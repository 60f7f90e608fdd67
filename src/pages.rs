//! The pages for browsers, rendered once at start. Nothing secret can reach them: their input is the table of models
//! and the configuration's public words.

use crate::models::Models;
use bytes::Bytes;

/// The body of `GET /readyz` when the gateway is ready.
pub const READY: &str = r#"{"ready":true}"#;

const SPLASH: &str = include_str!("pages/splash.html");
const DOCS: &str = include_str!("pages/docs.html");

/// The rendered pages.
#[derive(Debug)]
pub struct Pages {
    /// `GET /`
    pub splash: Bytes,
    /// `GET /docs`
    pub docs: Bytes,
}

impl Pages {
    /// Fills the running configuration into the templates.
    #[must_use]
    pub fn render(models: &Models, location: &str) -> Self {
        let rows: String = models
            .iter()
            .map(|model| {
                let id = String::from_utf8_lossy(&model.quoted_id);
                format!(
                    "<tr><td><code>{}</code></td><td><code>{}</code></td></tr>",
                    escaped(&model.alias),
                    escaped(id.trim_matches('"'))
                )
            })
            .collect();
        let fill = |template: &str| {
            let page = template
                .replace("{{version}}", env!("CARGO_PKG_VERSION"))
                .replace("{{location}}", &escaped(location))
                .replace("{{models}}", &rows);
            Bytes::from(page)
        };
        Self { splash: fill(SPLASH), docs: fill(DOCS) }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
