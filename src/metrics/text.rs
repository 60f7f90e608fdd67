//! Prometheus' text format, version 0.0.4.

use super::histogram::Histogram;
use std::fmt::{Display, Write};

/// The format's media type.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A text under way.
#[derive(Debug, Default)]
pub(super) struct Text(String);

/// What a family is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Names and values.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

impl Text {
    /// Begins a family: all its samples follow. `help` has no line end and no backslash.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// One sample.
    pub(super) fn sample(&mut self, name: &str, labels: Labels<'_>, value: impl Display) {
        self.begin(name, labels);
        let _ = writeln!(self.0, "{value}");
    }

    /// A family of one sample.
    pub(super) fn single(&mut self, name: &str, kind: Kind, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// The samples of a histogram, unless it is empty. `unit` is what its values are divided by; `bounds` are spelled in
    /// the unit.
    pub(super) fn histogram(
        &mut self,
        name: &str,
        labels: Labels<'_>,
        histogram: &Histogram,
        bounds: &[&str],
        unit: u64,
    ) {
        let (counts, total, sum) = histogram.read();
        if total == 0 {
            return;
        }
        let bucket = format!("{name}_bucket");
        let with_bound = |bound| [labels, &[("le", bound)]].concat();
        for (count, bound) in counts.into_iter().zip(bounds) {
            self.sample(&bucket, &with_bound(*bound), count);
        }
        self.sample(&bucket, &with_bound("+Inf"), total);
        self.sample(&format!("{name}_sum"), labels, sum as f64 / unit as f64);
        self.sample(&format!("{name}_count"), labels, total);
    }

    /// The whole text.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0.into_bytes()
    }

    fn begin(&mut self, name: &str, labels: Labels<'_>) {
        self.0.push_str(name);
        for (number, (label, value)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"", if number == 0 { '{' } else { ',' });
            for c in value.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        self.0.push_str(if labels.is_empty() { " " } else { "} " });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_spelled_as_prometheus_reads_them() {
        let mut text = Text::default();
        text.single("up", Kind::Gauge, "Whether it is.", 1);
        text.family("seconds", Kind::Histogram, "How long.");
        let histogram = Histogram::new(&[500_000, 2_000_000]);
        histogram.add(250_000);
        histogram.add(5_000_000);
        text.histogram("seconds", &[("a", "x\"\\\n")], &histogram, &["0.5", "2"], 1_000_000);
        text.histogram("seconds", &[], &Histogram::new(&[1]), &["1"], 1);
        let expected = "\
# HELP up Whether it is.
# TYPE up gauge
up 1
# HELP seconds How long.
# TYPE seconds histogram
seconds_bucket{a=\"x\\\"\\\\\\n\",le=\"0.5\"} 1
seconds_bucket{a=\"x\\\"\\\\\\n\",le=\"2\"} 1
seconds_bucket{a=\"x\\\"\\\\\\n\",le=\"+Inf\"} 2
seconds_sum{a=\"x\\\"\\\\\\n\"} 5.25
seconds_count{a=\"x\\\"\\\\\\n\"} 2
";
        assert_eq!(String::from_utf8(text.into_bytes()).unwrap(), expected);
    }
}
