//! `html/`, the runbook for reading without a gateway, is what `make html` would write now.

use std::fs;
use std::path::Path;

#[test]
fn html_is_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("html");
    let mut expected: Vec<&str> = vec!["serve.py"];
    for (name, content) in ai_proxy::pages::local_site::files() {
        let there = fs::read(folder.join(name)).unwrap_or_default();
        assert!(there == content, "html/{name} is not what docs/runbook and src/pages/web make of it: run `make html`");
        expected.push(name);
    }
    let mut there: Vec<String> = fs::read_dir(folder)
        .expect("html/ is there")
        .map(|entry| entry.expect("a folder can be read").file_name().into_string().expect("names are UTF-8"))
        .collect();
    there.sort();
    expected.sort_unstable();
    assert_eq!(there, expected);
}
