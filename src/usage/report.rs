//! The sums of a ledger, as a table for people or as JSON for programs.

use super::{EntryCounts, Histogram, Ledger, SEPARATOR, Sums};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

#[derive(Serialize)]
struct Report<'a> {
    by: Vec<&'static str>,
    since: Option<jiff::Timestamp>,
    until: Option<jiff::Timestamp>,
    entries: EntryCounts,
    prices: Prices<'a>,
    total: Group<'a>,
    groups: Vec<Group<'a>>,
}

#[derive(Serialize)]
struct Prices<'a> {
    date: &'a str,
    source: &'a str,
    currency: &'a str,
}

#[derive(Serialize)]
struct Group<'a> {
    #[serde(flatten)]
    name: BTreeMap<&'static str, Option<&'a str>>,
    requests: u64,
    errors: u64,
    errors_4xx: u64,
    errors_5xx: u64,
    broken: u64,
    client_hung_up: u64,
    unknown_usage: u64,
    prompt_tokens: u64,
    cached_tokens: u64,
    completion_tokens: u64,
    reasoning_tokens: u64,
    duration_ms: Percentiles,
    ttfb_ms: Percentiles,
    /// Of the requests whose usage and price are known.
    estimated_cost: Option<f64>,
    unpriced_requests: u64,
}

#[derive(Serialize)]
struct Percentiles {
    p50: Option<f64>,
    p95: Option<f64>,
    p99: Option<f64>,
}

impl From<&Histogram> for Percentiles {
    fn from(histogram: &Histogram) -> Self {
        let [p50, p95, p99] =
            [50, 95, 99].map(|percent| histogram.percentile(percent).map(|micros| micros as f64 / 1000.0));
        Self { p50, p95, p99 }
    }
}

impl<'a> Group<'a> {
    fn new(name: BTreeMap<&'static str, Option<&'a str>>, sums: &Sums) -> Self {
        Self {
            name,
            requests: sums.requests,
            errors: sums.errors(),
            errors_4xx: sums.errors_4xx,
            errors_5xx: sums.errors_5xx,
            broken: sums.broken,
            client_hung_up: sums.hung_up,
            unknown_usage: sums.unknown_usage,
            prompt_tokens: sums.prompt,
            cached_tokens: sums.cached,
            completion_tokens: sums.answer,
            reasoning_tokens: sums.thinking,
            duration_ms: (&sums.duration).into(),
            ttfb_ms: (&sums.first_byte).into(),
            // Fractions of a cent's millionth are noise of the sum.
            estimated_cost: sums.known_cost().map(|cost| (cost * 1e9).round() / 1e9),
            unpriced_requests: sums.unpriced,
        }
    }
}

impl Ledger {
    /// The groups in the order of their names.
    fn sorted(&self) -> Vec<(Vec<&str>, &Sums)> {
        let groups = self.groups.iter();
        let mut groups: Vec<_> = groups.map(|(name, sums)| (name.split(SEPARATOR).collect::<Vec<_>>(), sums)).collect();
        groups.sort_by(|(one, _), (two, _)| one.cmp(two));
        groups
    }

    /// The report as JSON, with a line feed.
    #[must_use]
    pub fn to_json(&self) -> String {
        let by: Vec<&'static str> = self.question.by.iter().map(|dimension| dimension.name()).collect();
        let groups = self.sorted().into_iter().map(|(parts, sums)| {
            let parts = parts.into_iter().map(|part| Some(part).filter(|part| !part.is_empty()));
            Group::new(by.iter().copied().zip(parts).collect(), sums)
        });
        let prices = &self.question.prices;
        let report = Report {
            since: self.question.since,
            until: self.question.until,
            entries: self.entries,
            prices: Prices { date: &prices.date, source: &prices.source, currency: &prices.currency },
            total: Group::new(BTreeMap::new(), &self.total),
            groups: if by.is_empty() { Vec::new() } else { groups.collect() },
            by,
        };
        let mut json = serde_json::to_string_pretty(&report).expect("strings and numbers always serialise");
        json.push('\n');
        json
    }

    /// The report as a table, with notes below it.
    #[must_use]
    pub fn to_table(&self) -> String {
        let prices = &self.question.prices;
        let by = &self.question.by;
        let mut rows: Vec<Vec<String>> = Vec::new();
        let columns = ["requests", "errors", "unknown", "prompt", "cached", "answer", "thinking", "p50", "p95", "p99"];
        let head = by.iter().map(|dimension| dimension.name()).chain(columns);
        rows.push(head.map(str::to_owned).chain([format!("cost {}", clean(&prices.currency))]).collect());
        if !by.is_empty() {
            for (parts, sums) in self.sorted() {
                let parts = parts.into_iter().map(|part| if part.is_empty() { "-".to_owned() } else { clean(part) });
                rows.push(parts.chain(cells(sums)).collect());
            }
        }
        let mut total = vec![String::new(); by.len()];
        if let Some(first) = total.first_mut() {
            "total".clone_into(first);
        }
        total.extend(cells(&self.total));
        rows.push(total);
        let mut table = aligned(&rows, by.len());
        self.append_notes(&mut table);
        table
    }

    /// What the numbers do not say by themselves.
    fn append_notes(&self, out: &mut String) {
        let (total, entries, prices) = (&self.total, &self.entries, &self.question.prices);
        out.push('\n');
        let mut note = |text: &str, number: u64| {
            if number > 0 {
                let _ = writeln!(out, "{text}: {}", grouped(number));
            }
        };
        note("Requests of unknown usage, whose tokens and cost are missing above", total.unknown_usage);
        note(
            "Requests of models without a price, whose cost is missing above (--prices FILE gives one)",
            total.unpriced,
        );
        note("Requests whose client hung up, which is no error", total.hung_up);
        note("Requests before --since or not before --until", entries.out_of_range);
        note("Requests to other routes", entries.other_requests);
        note("Entries that are no request of the gateway", entries.skipped);
        let _ = writeln!(
            out,
            "The cost is an estimate by prices of {}, thinking billed as answer. Percentiles are of answered requests, within 1 %.",
            clean(&prices.date)
        );
    }
}

fn cells(sums: &Sums) -> Vec<String> {
    let counts =
        [sums.requests, sums.errors(), sums.unknown_usage, sums.prompt, sums.cached, sums.answer, sums.thinking];
    let percentiles = [50, 95, 99].map(|percent| sums.duration.percentile(percent).map_or("-".to_owned(), latency));
    let cost = sums.known_cost().map_or("?".to_owned(), |cost| {
        // Not all of it is known.
        let more = if sums.unknown_usage + sums.unpriced > 0 { "+?" } else { "" };
        format!("{cost:.4}{more}")
    });
    counts.map(grouped).into_iter().chain(percentiles).chain([cost]).collect()
}

/// Columns side by side: the first ones to the left, the numbers to the right.
fn aligned(rows: &[Vec<String>], left: usize) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let gap = if column > 0 { "  " } else { "" };
            let _ =
                if column < left { write!(line, "{gap}{cell:<width$}") } else { write!(line, "{gap}{cell:>width$}") };
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// `1234567` as `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn latency(micros: u64) -> String {
    match micros {
        0..10_000 => format!("{:.1}ms", micros as f64 / 1e3),
        10_000..1_000_000 => format!("{}ms", micros / 1000),
        1_000_000..100_000_000 => format!("{:.1}s", micros as f64 / 1e6),
        _ => format!("{}s", micros / 1_000_000),
    }
}

/// A text from the log, without what could steer a terminal or turn a line around.
fn clean(text: &str) -> String {
    let steers = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if steers(c) { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Dimension, Prices, Question};
    use super::*;

    fn line(time: &str, key: &str, status: u16, rest: &str) -> String {
        format!(
            r#"{{"message":"POST /v1/chat/completions {status}","time":"{time}","request_id":"r","key_id":{key},"alias":"flash","model":"google/gemini-2.5-flash","status":{status},"duration_ms":1500,"ttfb_ms":2,{rest}}}"#
        )
    }

    fn ledger(by: &str, since: Option<&str>) -> Ledger {
        let question = Question {
            by: Dimension::parse_list(by).unwrap(),
            since: since.map(|time| time.parse().unwrap()),
            until: None,
            prices: Prices::embedded(),
        };
        let mut ledger = Ledger::new(question);
        let known =
            r#""prompt_tokens":1000000,"completion_tokens":1000,"reasoning_tokens":234567,"outcome":"completed""#;
        let lines = [
            line("2026-11-26T23:59:59.9Z", "\"a\"", 200, known),
            line("2026-11-27T00:00:00Z", "\"a\"", 200, known),
            line("2026-11-27T10:00:00Z", "\"b\\u001b[2J\"", 200, r#""prompt_tokens":null,"outcome":"client_hung_up""#),
            line("2026-11-27T10:00:01Z", "null", 401, r#""error":"invalid_api_key","outcome":"rejected""#),
            line("2026-11-27T10:00:01Z", "\"a\"", 504, r#""error":"upstream_timeout","outcome":"rejected""#),
            line("2026-11-27T10:00:02Z", "\"a\"", 200, &known.replace("completed", "upstream_broke"))
                .replace("2.5-flash", "x"),
            line("2026-11-27T10:00:02Z", "\"a\"", 200, known).replace("POST /v1/chat/completions", "GET /health"),
            "no line of ours".to_owned(),
        ];
        ledger.read(lines.join("\n").as_bytes(), |_, _| {}).unwrap();
        ledger
    }

    #[test]
    fn the_table_is_aligned_and_says_what_is_missing() {
        let table = ledger("key,day", None).to_table();
        let expected = "\
key    day         requests  errors  unknown     prompt  cached  answer  thinking   p50   p95   p99  cost USD
-      2026-11-27         1       1        0          0       0       0         0     -     -     -    0.0000
a      2026-11-26         1       0        0  1,000,000       0   1,000   234,567  1.5s  1.5s  1.5s    0.8889
a      2026-11-27         3       2        1  2,000,000       0   2,000   469,134  1.5s  1.5s  1.5s  0.8889+?
b?[2J  2026-11-27         1       0        1          0       0       0         0  1.5s  1.5s  1.5s         ?
total                     6       3        2  3,000,000       0   3,000   703,701  1.5s  1.5s  1.5s  1.7778+?

Requests of unknown usage, whose tokens and cost are missing above: 2
Requests of models without a price, whose cost is missing above (--prices FILE gives one): 1
Requests whose client hung up, which is no error: 1
Requests to other routes: 1
Entries that are no request of the gateway: 1
The cost is an estimate by prices of 2026-11-26, thinking billed as answer. Percentiles are of answered requests, within 1 %.
";
        assert_eq!(table, expected);
    }

    #[test]
    fn json_has_all_the_sums() {
        let report: serde_json::Value =
            serde_json::from_str(&ledger("day,key", Some("2026-11-27T00:00:00Z")).to_json()).unwrap();
        let entries = serde_json::json!({"read":8,"chats":5,"out_of_range":1,"other_requests":1,"skipped":1});
        assert_eq!(report["entries"], entries);
        assert_eq!(report["by"], serde_json::json!(["day", "key"]));
        let groups = report["groups"].as_array().unwrap();
        let names: Vec<_> = groups.iter().map(|group| (group["day"].as_str(), group["key"].as_str())).collect();
        let day = Some("2026-11-27");
        assert_eq!(names, [(day, None), (day, Some("a")), (day, Some("b\u{1b}[2J"))]);
        let of_a = &groups[1];
        assert_eq!((&of_a["requests"], &of_a["errors"], &of_a["broken"]), (&3.into(), &2.into(), &1.into()));
        assert_eq!((&of_a["reasoning_tokens"], &of_a["unpriced_requests"]), (&469_134.into(), &1.into()));
        assert_eq!(of_a["estimated_cost"], 0.888_917_5);
        assert_eq!(groups[2]["estimated_cost"], serde_json::Value::Null);
        assert_eq!(report["total"]["requests"], 5);
        assert!((report["total"]["duration_ms"]["p99"].as_f64().unwrap() / 1500.0 - 1.0).abs() < 0.008);
        let total: serde_json::Value = serde_json::from_str(&ledger("total", None).to_json()).unwrap();
        assert_eq!((&total["groups"], &total["total"]["requests"]), (&serde_json::json!([]), &6.into()));
        assert_eq!(ledger("total", None).to_table().lines().nth(1).unwrap().split_whitespace().next(), Some("6"));
    }

    #[test]
    fn dimensions() {
        for (by, names) in [
            ("month", vec!["2026-11"]),
            ("hour", vec!["2026-11-26T23", "2026-11-27T00", "2026-11-27T10"]),
            ("alias", vec!["flash"]),
            ("model", vec!["google/gemini-2.5-flash", "google/gemini-x"]),
            ("status", vec!["200", "401", "504"]),
            ("outcome", vec!["client_hung_up", "completed", "rejected", "upstream_broke"]),
        ] {
            let ledger = ledger(by, None);
            assert_eq!(ledger.sorted().iter().map(|(name, _)| name[0]).collect::<Vec<_>>(), names, "{by}");
        }
        assert!(Dimension::parse_list("key,nothing").is_err());
        assert!(Dimension::parse_list("key,key").is_err());
        assert!(Dimension::parse_list("").is_err());
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(["0", "999", "1,000", "12,345,678"], [0, 999, 1000, 12_345_678].map(grouped));
        assert_eq!(["0.0ms", "9.9ms", "10ms", "1.0s", "100s"], [0, 9_900, 10_900, 1_000_000, 100_900_000].map(latency));
    }
}
