//! lapwing and its rivals on the same work, in one run.
//!
//! `cargo run --release -- [FILTER] [--only NAME] [--quick | --test] [--out FOLDER]`: FILTER is part of a scenario's
//! name, NAME the beginning of a contestant's, to profile it alone. A full run writes `benches/README.md` and files of
//! JSON and SVG to `benches/results`; any other one only where `--out` says.

mod harness;
mod report;
mod rivals;
mod scenarios;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use harness::Effort;

const USAGE: &str = "usage: lapwing-compare [FILTER] [--only NAME] [--quick | --test] [--out FOLDER]";

fn main() -> ExitCode {
    let (mut filter, mut only, mut effort, mut out) = (None, None, None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => effort = Some(Effort::QUICK),
            "--test" => effort = Some(Effort::TEST),
            "--only" if only.is_none() => only = arguments.next(),
            "--out" if let Some(folder) = arguments.next() => out = Some(PathBuf::from(folder)),
            _ if !argument.starts_with('-') && filter.is_none() => filter = Some(argument),
            _ => {
                eprintln!("{argument}: {USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    if filter.is_none() && only.is_none() && effort.is_none() {
        out = out.or_else(|| Some(PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))));
    }
    match run(filter.as_deref(), only.as_deref(), effort.unwrap_or(Effort::FULL), out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(filter: Option<&str>, only: Option<&str>, effort: Effort, out: Option<PathBuf>) -> Result<(), String> {
    let start = Instant::now();
    let go = rivals::go::start();
    let of_go = match &go {
        Ok(_) => String::from("run"),
        Err(why) => format!("NOT RUN: {why}"),
    };
    println!("Go program: {of_go}\n");
    harness::pin(harness::HERE);
    let mut ran = Vec::new();
    for scenarios::Scenario { name, about, groups } in scenarios::all(go.as_ref().ok()) {
        if filter.is_some_and(|filter| !name.contains(filter)) {
            continue;
        }
        let mut tables = Vec::new();
        for make in groups {
            let mut group = make();
            group.contestants.retain(|contestant| only.is_none_or(|only| contestant.name.starts_with(only)));
            let table = harness::run(group, effort);
            println!("{}", report::table::text(&table));
            tables.push(table);
        }
        ran.push((name, about, tables));
    }
    if ran.is_empty() {
        return Err(format!("no scenario's name has {:?} in it", filter.unwrap_or_default()));
    }
    if let Some(out) = out {
        let failed = |error| format!("{}: {error}", out.display());
        for scenario @ (name, _, tables) in &ran {
            report::json::write(&out.join("results"), name, tables).map_err(failed)?;
            report::plot::write(&out.join("results"), scenario).map_err(failed)?;
        }
        std::fs::write(out.join("README.md"), report::readme::text(&ran, &of_go)).map_err(failed)?;
    }
    println!("{} s in all", start.elapsed().as_secs());
    ran.iter()
        .flat_map(|(.., tables)| tables)
        .flat_map(|table| &table.verdicts)
        .for_each(|verdict| println!("{verdict}"));
    Ok(())
}
