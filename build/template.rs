//! A page as it is put into the program: the pieces between the values that only the running gateway knows, each
//! compressed. They end on a byte and refer to nothing before them, so that a gzip of the whole page is these with the
//! values, uncompressed, in between.

use flate2::{Compress, Compression, Crc, FlushCompress};
use std::fmt::Write as _;
use std::fs;
use std::hash::Hasher;
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
            writeln!(source, "        Piece::Text({}),", packed(&file, text.as_bytes(), out))
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

/// Writes a text into a file, compressed, and returns the constant that has it.
pub(crate) fn packed(file: &str, text: &[u8], out: &Path) -> String {
    fs::write(out.join(file), deflated(text)).expect("OUT_DIR can be written");
    let mut crc = Crc::new();
    crc.update(text);
    format!(
        "Packed {{ deflated: include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{file}\")), length: {}, crc: {} }}",
        text.len(),
        crc.sum()
    )
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

/// Tells versions of a file apart.
pub(crate) fn digest(text: &[u8]) -> String {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(text);
    format!("{:016x}", hasher.finish())
}
