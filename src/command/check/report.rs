//! What a check has found, for people and for machines.

use serde::Serialize;
use std::fmt::Write;

/// How good or bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// As it should be.
    Ok,
    /// It works, or may work again by itself.
    Warning,
    /// It does not work.
    Failure,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Finding {
    check: String,
    verdict: Verdict,
    detail: String,
    /// What to do, as a command where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
    /// Until the first byte of an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    ttfb_ms: Option<u64>,
}

impl Finding {
    pub(super) fn ok(check: &str, detail: impl Into<String>) -> Self {
        Self { check: check.to_owned(), verdict: Verdict::Ok, detail: detail.into(), remedy: None, ttfb_ms: None }
    }

    pub(super) fn warning(check: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warning, remedy: Some(remedy.into()), ..Self::ok(check, detail) }
    }

    pub(super) fn failure(check: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Failure, remedy: Some(remedy.into()), ..Self::ok(check, detail) }
    }

    pub(super) fn is_ok(&self) -> bool {
        self.verdict == Verdict::Ok
    }

    /// What was well, with a reservation.
    pub(super) fn but(self, reservation: &str, remedy: &str) -> Self {
        let detail = format!("{}, {reservation}", self.detail);
        Self { verdict: Verdict::Warning, detail, remedy: Some(remedy.to_owned()), ..self }
    }

    /// Says where it was said.
    pub(super) fn said_within(self, place: &str) -> Self {
        Self { detail: format!("{place}{}", self.detail), ..self }
    }

    pub(super) fn after(self, ttfb_ms: u64) -> Self {
        Self { ttfb_ms: Some(ttfb_ms), ..self }
    }
}

/// All findings, in their order.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    findings: Vec<Finding>,
}

impl Report {
    /// In its words nothing is left that a terminal takes for a command, or that turns the order of letters around.
    pub(super) fn add(&mut self, mut finding: Finding) {
        finding.detail = plain(&finding.detail);
        finding.remedy = finding.remedy.as_deref().map(plain);
        self.findings.push(finding);
    }

    /// Gives a failure a remedy that is known only now.
    pub(super) fn advise(&mut self, check: &str, remedy: &str) {
        let failed = |finding: &&mut Finding| finding.verdict == Verdict::Failure && finding.check == check;
        if let Some(finding) = self.findings.iter_mut().find(failed) {
            finding.remedy = Some(plain(remedy));
        }
    }

    /// Whether nothing has failed.
    pub(super) fn is_well(&self) -> bool {
        self.findings.iter().all(|finding| finding.verdict != Verdict::Failure)
    }

    /// A line for each finding, and below it what to do.
    pub(super) fn to_text(&self) -> String {
        let width = self.findings.iter().map(|finding| finding.check.chars().count()).max().unwrap_or(0);
        let mut out = String::new();
        for finding in &self.findings {
            let verdict = match finding.verdict {
                Verdict::Ok => "ok  ",
                Verdict::Warning => "WARN",
                Verdict::Failure => "FAIL",
            };
            let _ = writeln!(out, "{verdict}  {:width$}  {}", finding.check, finding.detail);
            if let Some(remedy) = &finding.remedy {
                let _ = writeln!(out, "      {:width$}  -> {remedy}", "");
            }
        }
        out
    }

    /// One JSON object.
    pub(super) fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Whole<'a> {
            ok: bool,
            findings: &'a [Finding],
        }
        let whole = Whole { ok: self.is_well(), findings: &self.findings };
        let mut text = serde_json::to_string_pretty(&whole).expect("strings and numbers always serialise");
        text.push('\n');
        text
    }
}

/// One line of what can be seen: of control characters and those that set a direction only a blank is left.
pub(super) fn plain(text: &str) -> String {
    let is_seen = |c: char| {
        !c.is_control()
            && !matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars().map(|c| if is_seen(c) { c } else { ' ' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_turns_a_line_around() {
        let mut report = Report::default();
        report.add(Finding::failure("flash", "a\u{202e}b\u{2066}c\u{1b}[31m", "d\u{2069}e\nf"));
        assert_eq!(
            (report.findings[0].detail.as_str(), report.findings[0].remedy.as_deref()),
            ("a b c [31m", Some("d e f"))
        );
    }

    #[test]
    fn a_warning_is_no_failure_and_both_say_what_to_do() {
        let mut report = Report::default();
        report.add(Finding::ok("project", "p"));
        report.add(Finding::warning("flash", "busy", "try again").after(12));
        assert!(report.is_well());
        report.add(Finding::failure("clock", "wrong", "sudo timedatectl set-ntp true"));
        assert!(!report.is_well());
        let text = report.to_text();
        assert!(text.contains("ok    project  p\n"), "{text}");
        assert!(text.contains("WARN  flash    busy\n               -> try again\n"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(json["ok"], false);
        assert_eq!(json["findings"][1]["verdict"], "warning");
        assert_eq!(json["findings"][1]["ttfb_ms"], 12);
        assert!(json["findings"][0].get("remedy").is_none());
    }
}
