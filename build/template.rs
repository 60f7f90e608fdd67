//! A page as it is put into the program: the pieces between the values that only the running gateway knows, each
//! plain and compressed. Compressed pieces end on a byte and refer to nothing before them, so that a gzip of the whole
//! page is these with the values, uncompressed, in between.

use flate2::write::GzEncoder;
use flate2::{Compress, Compression, FlushCompress};
use std::fmt::Write as _;
use std::fs;
use std::hash::Hasher;
use std::io::Write as _;
use std::path::Path;

/// How a value is called in templates and Markdown, and in `src/pages/template.rs`.
const VALUES: [(&str, &str); 9] = [
    ("{{base_url}}", "BaseUrl"),
    ("{{location}}", "Location"),
    ("{{aliases}}", "Aliases"),
    ("{{models}}", "Models"),
    ("{{status}}", "Status"),
    ("{{playground}}", "Playground"),
    ("{{playground_setting}}", "PlaygroundSetting"),
    ("{{first_alias}}", "FirstAlias"),
    ("{{alias_names}}", "AliasNames"),
];

/// Writes the pieces of a page into files, and returns the constant that names them.
pub(crate) fn write(name: &str, html: &str, out: &Path) -> String {
    let constant = name.split('.').next().unwrap_or_default().to_uppercase();
    let digest = digest(html.as_bytes());
    let mut source =
        format!("pub(super) static {constant}: Template = Template {{\n    digest: {digest:?},\n    pieces: &[\n");
    let mut rest = html;
    let mut number = 0;
    while !rest.is_empty() {
        let next = VALUES.iter().filter_map(|(mark, value)| Some((rest.find(mark)?, mark, value))).min();
        let (text, after) = match next {
            Some((at, mark, _)) => (&rest[..at], &rest[at + mark.len()..]),
            None => (rest, ""),
        };
        assert!(!text.contains("{{"), "{name}: no such value: {:.40}", &text[text.find("{{").unwrap_or(0)..]);
        if !text.is_empty() {
            let file = format!("{name}.{number}");
            number += 1;
            fs::write(out.join(&file), text).expect("OUT_DIR can be written");
            fs::write(out.join(format!("{file}.deflated")), deflated(text.as_bytes())).expect("OUT_DIR can be written");
            writeln!(
                source,
                "        Piece::Text {{ plain: include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{file}\")), \
                 deflated: include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{file}.deflated\")) }},"
            )
            .expect("a string can be written to");
        }
        if let Some((_, _, value)) = next {
            writeln!(source, "        Piece::Value(Value::{value}),").expect("a string can be written to");
        }
        rest = after;
    }
    source.push_str("    ],\n};\n\n");
    source
}

/// A piece of a deflate stream that stands on its own and ends on a byte.
fn deflated(text: &[u8]) -> Vec<u8> {
    let mut compress = Compress::new(Compression::best(), false);
    let mut out = Vec::with_capacity(text.len() + 64);
    compress.compress_vec(text, &mut out, FlushCompress::Sync).expect("memory can be compressed");
    assert_eq!(compress.total_in(), text.len() as u64, "all of it is in");
    assert!(out.ends_with(&[0, 0, 0xff, 0xff]), "a sync flush ends so");
    out
}

pub(crate) fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text).expect("memory can be written");
    encoder.finish().expect("memory can be written")
}

/// Tells versions of a file apart.
pub(crate) fn digest(text: &[u8]) -> String {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(text);
    format!("{:016x}", hasher.finish())
}
