//! `/metrics`, as a scraper reads it.
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::{Client, Request};

/// The samples of a page by their name with labels, as they are spelled.
pub(crate) fn samples(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let samples = lines.map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
        (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("no value: {line}")))
    });
    let mut found = BTreeMap::new();
    for (name, value) in samples {
        assert_eq!(found.insert(name.clone(), value), None, "{name} stands twice");
    }
    found
}

#[track_caller]
pub(crate) fn sample(samples: &BTreeMap<String, f64>, name: &str) -> f64 {
    *samples.get(name).unwrap_or_else(|| panic!("no {name} in {samples:#?}"))
}

pub(crate) fn scrape(address: SocketAddr) -> BTreeMap<String, f64> {
    let answer = Client::connect(address).request(&Request::get("/metrics"));
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/plain; version=0.0.4; charset=utf-8")));
    let page = std::str::from_utf8(&answer.body).expect("text");
    judge(page);
    samples(page)
}

/// What `promtool check metrics` would say of a page: its grammar, and what it complains about besides.
#[track_caller]
pub(crate) fn judge(page: &str) {
    assert!(page.ends_with('\n'), "the last line has an end");
    let is_name = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            && text.starts_with(|c: char| c.is_ascii_lowercase())
    };
    let mut families = BTreeSet::new();
    let (mut family, mut kind, mut helped) = ("", "", "");
    // The buckets of the histogram under way: its other labels, and the last bound and count.
    let mut buckets: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').expect("a text");
            assert!(is_name(name) && !text.contains('\\') && text.ends_with('.'), "{line}");
            helped = name;
        } else if let Some(told) = line.strip_prefix("# TYPE ") {
            (family, kind) = told.split_once(' ').expect("a type");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(family == helped && families.insert(family), "{line}: a family stands once, with its help");
            assert_eq!(kind == "counter", family.ends_with("_total"), "{line}");
            buckets.clear();
        } else {
            let (name, rest) = line.split_at(line.find(['{', ' ']).expect("a value"));
            let (labels, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.rsplit_once("} ").expect("an end of labels"),
                None => ("", &rest[1..]),
            };
            let value: f64 = value.parse().expect("a number");
            assert!(value >= 0.0 && value.is_finite(), "{line}");
            let suffix = name.strip_prefix(family).unwrap_or_else(|| panic!("{line} is of another family"));
            assert_eq!(kind == "histogram", ["_bucket", "_sum", "_count"].contains(&suffix), "{line}");
            assert!(suffix.is_empty() || kind == "histogram", "{line}");
            let mut names = BTreeSet::new();
            let mut rest = labels;
            let mut bound = None;
            while !rest.is_empty() {
                let (label, after) = rest.split_once("=\"").expect("a label");
                let bytes = after.as_bytes();
                let end = (0..bytes.len()).find(|at| {
                    bytes[*at] == b'"' && bytes[..*at].iter().rev().take_while(|b| **b == b'\\').count() % 2 == 0
                });
                let (text, after) = after.split_at(end.expect("a label's end"));
                assert!(is_name(label) && names.insert(label), "{label} in {line}");
                if label == "le" {
                    bound = Some(if text == "+Inf" { f64::INFINITY } else { text.parse().expect("a bound") });
                }
                rest = after[1..].strip_prefix(',').unwrap_or(&after[1..]);
            }
            assert_eq!(bound.is_some(), suffix == "_bucket", "{line}");
            let others: Vec<&str> = labels.split(",le=").take(1).collect();
            match (suffix, bound) {
                (_, Some(bound)) => {
                    let last = buckets.insert(others[0].to_owned(), (bound, value));
                    assert!(last.is_none_or(|(b, count)| b < bound && count <= value), "{line}: not in order");
                }
                ("_count", None) => assert_eq!(buckets.get(labels), Some(&(f64::INFINITY, value)), "{line}"),
                _ => {}
            }
        }
    }
}
