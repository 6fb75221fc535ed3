//! The `lapwing` command.
#![deny(missing_docs, clippy::undocumented_unsafe_blocks, unsafe_op_in_unsafe_fn)]

// Visible in the whole crate for the fuzz targets, which take this file in.
pub(crate) mod generate;
pub(crate) mod input;
pub(crate) mod listen;
pub(crate) mod pace;
pub(crate) mod pipeline;
pub(crate) mod progress;
pub(crate) mod publish;
pub(crate) mod relay;
pub(crate) mod replay;
#[cfg(feature = "s2")]
pub(crate) mod s2;
#[cfg(feature = "serve")]
pub(crate) mod serve;
pub(crate) mod setup;
pub(crate) mod sinks;
pub(crate) mod stop;
pub(crate) mod tail;
pub(crate) mod tell;
pub(crate) mod truncate;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
pub(crate) use tell::tell;

/// A lock-free broadcast bus for telemetry events: a slow reader is lapped and told what it lost, a publisher never waits.
#[derive(Parser)]
#[command(version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    Relay(relay::Args),
    Replay(replay::Args),
    Tail(tail::Args),
    Truncate(truncate::Args),
    Completions(generate::Completions),
    Man(generate::Man),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Relay(args) => relay::main(args),
        Command::Replay(args) => replay::main(args),
        Command::Tail(args) => tail::main(&args),
        Command::Truncate(args) => truncate::main(&args),
        Command::Completions(args) => generate::completions(&args),
        Command::Man(args) => generate::man(&args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn no_two_arguments_have_one_name() {
        let mut command = Cli::command();
        command.build();
        for command in command.get_subcommands() {
            let mut names: Vec<_> = command.get_arguments().map(|argument| argument.get_id()).collect();
            names.sort();
            let count = names.len();
            names.dedup();
            assert_eq!(names.len(), count, "{names:?}");
        }
        command.debug_assert(); // which looks at nothing in a release build
    }
}
