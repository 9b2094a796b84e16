//! `stead completions`

use clap_complete::Shell;

use crate::completion;
use crate::context::Context;
use crate::error::Result;

/// Print a completion script for a shell.
///
/// What is completed is asked for while you type: commands and flags, the machines that are known, mounts, processes, and
/// the files of machines that are connected.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  echo 'source <(stead completions bash)' >> ~/.bashrc
  echo 'source <(stead completions zsh)' >> ~/.zshrc
  echo 'stead completions fish | source' >> ~/.config/fish/config.fish")]
pub struct Args {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    let script = completion::script(&args.shell.to_string())?;
    context.output.raw(&script)
}
