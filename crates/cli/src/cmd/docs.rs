//! `stead docs`

use clap::Subcommand;

use crate::context::Context;
use crate::error::Result;

/// Print the documents that are made from this program.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    document: Document,
}

#[derive(Debug, Subcommand)]
enum Document {
    /// docs/cli.md
    Cli,
    /// docs/api.md
    Api,
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    let text = match args.document {
        Document::Cli => crate::docs::cli::text(),
        Document::Api => crate::docs::api::text(),
    };
    context.output.raw(text.as_bytes())
}
