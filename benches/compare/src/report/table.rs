//! A table of one group, as text; the README shows the same.

use std::fmt::Write;

use crate::harness::{Row, Table};
use crate::rivals::Kind;

pub fn classes(table: &Table) -> Vec<&'static str> {
    let mut classes: Vec<_> = table.rows.iter().map(|row| row.class).collect();
    classes.sort_unstable();
    classes.dedup();
    classes
}

/// The rows of a class, the fastest first.
pub fn of_class<'a>(table: &'a Table, class: &str) -> Vec<&'a Row> {
    let mut rows: Vec<_> = table.rows.iter().filter(|row| row.class == class).collect();
    rows.sort_by(|a, b| a.spread().median.total_cmp(&b.spread().median));
    rows
}

/// The contestants by class and figure. The ratio is to the best rival of the class: `tie` where its quartiles enclose 1.
pub fn text(table: &Table) -> String {
    let Table { scenario, case, what, rows, .. } = table;
    let mut out = String::new();
    let has_latencies = rows.iter().any(|row| row.latencies.is_some());
    let has_losses = rows.iter().any(|row| row.lost.0 > 0);
    let title = format!("{scenario}: {case}");
    _ = write!(out, "{title:<46}{what:>14}{:>20}{:>8}", "quartiles", "ratio");
    if has_latencies {
        _ = write!(out, "{:>10}{:>10}{:>10}{:>10}", "p50", "p99", "p99.9", "max");
    }
    if has_losses {
        _ = write!(out, "{:>8}", "lost");
    }
    for class in classes(table) {
        if !class.is_empty() {
            _ = write!(out, "\n  {class}");
        }
        let best = table.best(Kind::Rival, &[class]);
        for row in of_class(table, class) {
            let mark = match row.kind {
                Kind::Base | Kind::Floor => '-',
                Kind::Ours => '*',
                Kind::Rival => ' ',
            };
            let spread = row.spread();
            let quartiles = format!("{:.2} to {:.2}", spread.q1, spread.q3);
            _ = write!(out, "\n  {mark} {:<42}{:>14.2}{quartiles:>20}", row.name, spread.median);
            if let Some(best) = best {
                let ratio = row.ratio(best);
                let tie = row.name != best.name && ratio.encloses(1.0);
                _ = write!(out, "{:>8.2}{}", ratio.median, if tie { " tie" } else { "    " });
            }
            if let Some(latencies) = &row.latencies {
                for quantile in [0.5, 0.99, 0.999] {
                    _ = write!(out, "{:>10}", latencies.value_at_quantile(quantile));
                }
                _ = write!(out, "{:>10}", latencies.max());
            }
            if has_losses {
                let (lost, of) = row.lost;
                _ = write!(out, "{:>7.2}%", lost as f64 * 100.0 / of.max(1) as f64);
            }
        }
    }
    out.push('\n');
    out
}
