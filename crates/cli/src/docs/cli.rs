//! `docs/cli.md`: the help of every command.

/// The width of a line of help in the document.
const COLUMNS: usize = 100;

/// The document.
pub fn text() -> String {
    let mut definition = crate::cmd::definition().term_width(COLUMNS);
    definition.build();
    let mut text =
        String::from("# The command line\n\nMade from the program's own help by `cargo xtask docs`.\n");
    write(&mut text, "stead", definition);
    text
}

fn write(text: &mut String, name: &str, mut command: clap::Command) {
    let help = command.render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    text.push_str(&format!("\n## {name}\n\n```text\n{}\n```\n", help.join("\n").trim_end()));
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        write(text, &format!("{name} {}", inner.get_name()), inner.clone().term_width(COLUMNS));
    }
}
