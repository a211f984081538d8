//! The stages of a test run, what each took, and its budget: a slow stage is seen the day it becomes slow.
//!
//! A budget is for a machine of 2 cores with nothing built; over it is told, not failed, since a loaded machine is no bug.

use std::time::{Duration, Instant};

/// The stages that have run, in order.
#[derive(Default)]
pub(crate) struct Stages {
    rows: Vec<Row>,
}

struct Row {
    name: &'static str,
    took: Duration,
    budget: Duration,
}

impl Stages {
    /// Runs `work` as the stage `name`.
    pub(crate) fn run<T>(&mut self, name: &'static str, budget_minutes: u64, work: impl FnOnce() -> T) -> T {
        println!("== {name}");
        let start = Instant::now();
        let done = work();
        self.rows.push(Row { name, took: start.elapsed(), budget: Duration::from_secs(budget_minutes * 60) });
        done
    }

    /// One line per stage: seconds taken, seconds allowed.
    pub(crate) fn table(&self) -> String {
        let mut table = format!("{:<14}{:>8}{:>10}\n", "stage", "seconds", "budget");
        for Row { name, took, budget } in &self.rows {
            let verdict = if took > budget { "  over budget" } else { "" };
            table += &format!("{name:<14}{:>8.1}{:>10}{verdict}\n", took.as_secs_f64(), budget.as_secs());
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_each_stage_and_marks_the_slow_one() {
        let mut stages = Stages::default();
        assert_eq!(stages.run("tests", 8, || 5), 5);
        stages.run("fuzz", 0, || std::thread::sleep(Duration::from_millis(1)));
        let table = stages.table();
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[1].starts_with("tests") && lines[1].ends_with("480"), "{table}");
        assert!(lines[2].starts_with("fuzz") && lines[2].ends_with("over budget"), "{table}");
    }
}
