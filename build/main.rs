//! Makes the pages when the program is built: the runbook's Markdown becomes HTML, code gets its colours, diagrams go
//! into the page, and everything that cannot change any more is compressed. `src/pages/` fills in the rest.
//!
//! Nothing of this is in the program: no Markdown, no syntax definition, no compressor.
//!
//! And tells the linker what of the program belongs together.

mod code;
mod linker;
mod runbook;
mod template;

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Where the sources are, from the package's folder.
const WEB: &str = "src/pages/web";
const RUNBOOK: &str = "docs/runbook";

/// The files that pages load, with what to add to each.
const ASSETS: [(&str, &str, &[&str]); 4] = [
    ("site.css", "text/css; charset=utf-8", &["diagram.css"]),
    ("site.js", "text/javascript; charset=utf-8", &[]),
    ("playground.js", "text/javascript; charset=utf-8", &[]),
    ("icon.svg", "image/svg+xml", &[]),
];
const PAGES: [&str; 4] = ["splash.html", "docs.html", "playground.html", "openapi.json"];

fn main() {
    for path in ["build", WEB, RUNBOOK] {
        println!("cargo:rerun-if-changed={path}");
    }
    linker::tell();
    let out = PathBuf::from(variable("OUT_DIR"));
    let mut generated = String::from("// Written by build/main.rs.\n\n");
    let mut paths = Vec::new();

    generated.push_str("static ASSETS: &[Asset] = &[\n");
    for (name, content_type, more) in ASSETS {
        let mut text = read(&Path::new(WEB).join(name));
        for more in more {
            text.push_str(&read(&Path::new(WEB).join(more)));
        }
        let digest = template::digest(text.as_bytes());
        paths.push((name, format!("/assets/{digest}/{name}")));
        generated.push_str(&format!(
            "    Asset {{ name: {name:?}, digest: {digest:?}, content_type: {content_type:?}, text: {} }},\n",
            template::packed(name, text.as_bytes(), &out)
        ));
    }
    generated.push_str("];\n\n");

    let runbook = runbook::Runbook::read(Path::new(RUNBOOK));
    for name in PAGES {
        let mut html = read(&Path::new(WEB).join(name));
        html = html.replace("{{contents}}", &runbook.contents).replace("{{runbook}}", &runbook.html);
        html = html.replace("{{version}}", &variable("CARGO_PKG_VERSION"));
        html = code::highlight_blocks(&html);
        for (asset, path) in &paths {
            html = html.replace(&format!("{{{{{asset}}}}}"), path);
        }
        generated.push_str(&template::write(name, &html, &out));
    }
    fs::write(out.join("pages.rs"), generated).expect("OUT_DIR can be written");
}

#[allow(clippy::disallowed_methods, reason = "cargo speaks to build scripts through the environment")]
fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
