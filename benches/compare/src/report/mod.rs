//! What a run leaves: tables on the terminal, files of JSON and plots for each scenario, and a README.

pub mod json;
pub mod plot;
pub mod readme;
pub mod table;

/// Of a scenario's files, and what a link within the README calls its heading.
fn file_name(scenario: &str) -> String {
    scenario.replace([' ', ','], "-").replace("--", "-")
}
