//! One figure: its name, whose it is, its value, and how its runs were spread. The keys are those of
//! `mobula microbenchmark`, and `peer`.

use serde::Serialize;

/// A row as it is printed.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    name: &'static str,
    /// The median of the runs.
    value: f64,
    unit: &'static str,
    better: Better,
    runs: usize,
    /// Nobody: it is our own.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<&'static str>,
}

/// Which direction is good.
#[derive(Debug, Clone, Copy, Serialize)]
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
    pub(crate) fn of(
        name: &'static str,
        unit: &'static str,
        better: Better,
        peer: Option<&'static str>,
        mut samples: Vec<f64>,
    ) -> Row {
        assert!(!samples.is_empty(), "a row needs at least one run");
        samples.sort_by(f64::total_cmp);
        let value = samples[(samples.len() - 1) / 2];
        Row { name, value, unit, better, runs: samples.len(), peer }
    }

    /// The row as a line below [`table_head`].
    pub(crate) fn table_line(&self) -> String {
        let Row { name, value, unit, runs, peer, .. } = self;
        format!("{name:<48}{value:>14.2} {unit:<10}{runs:>8}  {}", peer.unwrap_or("mobula"))
    }
}

/// The names of the columns.
pub(crate) fn table_head() -> String {
    format!("{:<48}{:>14} {:<10}{:>8}  {}", "figure", "value", "unit", "runs", "of")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_json_with_the_agreed_keys() {
        let row = Row::of("ask", "us", Better::Lower, Some("actix"), vec![3.0, 1.0, 2.0]);
        let expect = r#"{"name":"ask","value":2.0,"unit":"us","better":"lower","runs":3,"peer":"actix"}"#;
        assert_eq!(serde_json::to_string(&row).unwrap(), expect);
        let ours = Row::of("ask", "us", Better::Lower, None, vec![1.0]);
        assert!(!serde_json::to_string(&ours).unwrap().contains("peer"));
    }
}
