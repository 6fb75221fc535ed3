//! The seed's baseline: a small Go program of the reference's design, in a process of its own.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};

/// Built and started once, and asked by lines.
pub struct Program {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

pub type Go = Arc<Mutex<Program>>;

/// Builds and starts it. To be called before this thread is pinned, which a child would inherit.
///
/// # Errors
///
/// Why it can't be run.
pub fn start() -> Result<Go, String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/go");
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/target/lapwing-compare-go");
    let built = Command::new("go").args(["build", "-o", program, "."]).current_dir(folder).status();
    match built {
        Ok(status) if status.success() => {}
        Ok(status) => return Err(format!("go build: {status}")),
        Err(error) => return Err(format!("go: {error}")),
    }
    let child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| format!("{program}: {error}"))?;
    let (Some(commands), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(String::from("its standard input and output are not there"));
    };
    Ok(Arc::new(Mutex::new(Program { child, commands, answers: BufReader::new(answers) })))
}

impl Program {
    /// Nanoseconds, as the program answers a command for so many events.
    pub fn ask(&mut self, command: &str, events: u64) -> Vec<f64> {
        let mut answer = String::new();
        let asked =
            writeln!(self.commands, "{command} {events}").and_then(|()| self.answers.read_line(&mut answer));
        asked.expect("the Go program runs");
        let numbers = answer.trim().trim_matches(['[', ']']).split(' ');
        numbers.map(|number| number.parse().expect("the Go program answers by numbers")).collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
