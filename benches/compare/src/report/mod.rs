//! What a run leaves: tables on the terminal, files of JSON and plots for each scenario, and a README.

pub mod json;
pub mod plot;
pub mod readme;
pub mod table;

use crate::harness::Table;

/// A scenario's name, what it is about, and what came out.
pub type Ran = (&'static str, &'static str, Vec<Table>);

/// Of a scenario's files, and what a link within the README calls its heading.
fn file_name(scenario: &str) -> String {
    scenario.replace([' ', ','], "-").replace("--", "-")
}
