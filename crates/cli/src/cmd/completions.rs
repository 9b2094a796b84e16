//! `stead completions`

use clap_complete::Shell;

use crate::context::Context;
use crate::error::Result;

/// Print a completion script for a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  stead completions bash > ~/.local/share/bash-completion/completions/stead
  stead completions zsh  > ~/.zfunc/_stead
  stead completions fish > ~/.config/fish/completions/stead.fish")]
pub struct Args {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::definition(), "stead", &mut script);
    context.output.raw(&script)
}
