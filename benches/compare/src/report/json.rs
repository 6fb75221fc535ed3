//! A file for each scenario.

use std::path::Path;
use std::{fs, io};

use serde_json::{Value, json};

use crate::harness::{Row, Table};

fn row(row: &Row) -> Value {
    let latencies = row.latencies.as_ref().map(|latencies| {
        let of = |quantile| latencies.value_at_quantile(quantile);
        let curve: Vec<_> = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0].map(|q| json!([q, of(q)])).into();
        json!({ "count": latencies.len(), "curve": curve, "max": latencies.max() })
    });
    json!({
        "name": row.name,
        "kind": row.kind,
        "class": row.class,
        "ns": row.spread(),
        "rounds": row.rounds,
        "lost": row.lost.0,
        "lost_of": row.lost.1,
        "latencies": latencies,
    })
}

/// Writes the tables of a scenario.
///
/// # Errors
///
/// Those of the file system.
pub fn write(folder: &Path, scenario: &str, tables: &[Table]) -> io::Result<()> {
    let tables: Vec<_> = tables
        .iter()
        .map(|table| {
            let rows: Vec<_> = table.rows.iter().map(row).collect();
            json!({ "case": table.case, "x": table.x, "unit": table.what, "rows": rows, "goals": table.verdicts })
        })
        .collect();
    fs::create_dir_all(folder)?;
    let text = serde_json::to_string(&json!({ "scenario": scenario, "tables": tables }))?;
    fs::write(folder.join(super::file_name(scenario) + ".json"), text + "\n")
}
