//! What packagers want: completions for shells, and manual pages.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory;

use crate::{Cli, tell};

/// Write completions for a shell to standard output.
#[derive(clap::Args)]
#[command(after_help = "Example: lapwing completions bash > /etc/bash_completion.d/lapwing")]
pub struct Completions {
    /// The shell.
    shell: clap_complete::Shell,
}

/// Write the manual pages into a directory, one for each command.
#[derive(clap::Args)]
#[command(after_help = "Example: lapwing man /usr/local/share/man/man1")]
pub struct Man {
    /// The directory. It has to be there.
    dir: PathBuf,
}

pub fn completions(args: &Completions) -> ExitCode {
    // In memory first: clap panics when its writer fails.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "lapwing", &mut script);
    let mut out = io::stdout().lock();
    match out.write_all(&script).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell!("cannot write the completions: {error}");
            ExitCode::FAILURE
        }
    }
}

pub fn man(args: &Man) -> ExitCode {
    match clap_mangen::generate_to(Cli::command(), &args.dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell!("cannot write manual pages to {}: {error}", args.dir.display());
            ExitCode::FAILURE
        }
    }
}
