//! One figure: its name, its value, and how its runs were spread.

use serde::Serialize;

/// A row as it is printed: `{"name", "value", "unit", "better", "p50", "p99", "runs"}`.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    name: String,
    /// The median of the runs.
    value: f64,
    unit: &'static str,
    better: Better,
    /// Median and 99th percentile of the runs, in `unit`; the 99th on the worse side, whichever that is.
    p50: f64,
    p99: f64,
    runs: usize,
}

/// Which direction is good.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    Higher,
    Lower,
}

impl Row {
    /// A row from the samples of its runs, each in `unit`.
    ///
    /// # Panics
    /// Without samples: a figure that was not measured has no row.
    pub(crate) fn of(name: impl Into<String>, unit: &'static str, better: Better, mut samples: Vec<f64>) -> Row {
        assert!(!samples.is_empty(), "a row needs at least one run");
        samples.sort_by(f64::total_cmp);
        if better == Better::Higher {
            samples.reverse();
        }
        // The nearest-rank percentile: the smallest sample that `percent` of the samples do not exceed.
        let at = |percent: usize| samples[(samples.len() * percent).div_ceil(100) - 1];
        Row { name: name.into(), value: at(50), unit, better, p50: at(50), p99: at(99), runs: samples.len() }
    }

    /// The row as a line below [`table_head`].
    pub(crate) fn table_line(&self) -> String {
        let Row { name, value, unit, p50, p99, runs, .. } = self;
        format!("{name:<48}{value:>14.2} {unit:<10}{p50:>14.2}{p99:>14.2}{runs:>8}")
    }
}

/// The names of the columns.
pub(crate) fn table_head() -> String {
    format!("{:<48}{:>14} {:<10}{:>14}{:>14}{:>8}", "figure", "value", "unit", "p50", "p99", "runs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_look_at_the_worse_side() {
        let samples = || (1..=200).rev().map(f64::from).collect();
        let lower = Row::of("latency", "us", Better::Lower, samples());
        assert_eq!((lower.value, lower.p50, lower.p99, lower.runs), (100.0, 100.0, 198.0, 200));
        let higher = Row::of("rate", "1/s", Better::Higher, samples());
        assert_eq!((higher.p50, higher.p99), (101.0, 3.0));
        assert_eq!(Row::of("once", "s", Better::Lower, vec![4.0]).p99, 4.0);
    }

    #[test]
    fn a_row_is_json_with_the_agreed_keys() {
        let row = Row::of("latency", "us", Better::Lower, vec![1.5]);
        let expect = r#"{"name":"latency","value":1.5,"unit":"us","better":"lower","p50":1.5,"p99":1.5,"runs":1}"#;
        assert_eq!(serde_json::to_string(&row).unwrap(), expect);
        assert_eq!(row.table_line().len(), table_head().len());
    }
}
