//! The `lapwing` command.
#![deny(missing_docs, clippy::undocumented_unsafe_blocks, unsafe_op_in_unsafe_fn)]

mod relay;
mod truncate;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A lock-free broadcast ring: a slow reader is lapped and told what it lost, a publisher never waits.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Relay(relay::Args),
    Truncate(truncate::Args),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Relay(args) => relay::main(&args),
        Command::Truncate(args) => truncate::main(&args),
    }
}
