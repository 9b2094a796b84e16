//! Colours, by what they mean.

/// What a piece of text says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Style {
    /// Nothing special.
    #[default]
    Plain,
    /// A heading.
    Head,
    /// All is well.
    Good,
    /// It needs attention, or is on its way.
    Fair,
    /// It is broken.
    Bad,
    /// Of little interest.
    Dim,
}

impl Style {
    /// `text` with the codes of the style, or as it is.
    pub fn paint(self, colours: bool, text: &str) -> String {
        let code = match self {
            Style::Plain => return text.to_owned(),
            _ if !colours => return text.to_owned(),
            Style::Head => "1",
            Style::Good => "32",
            Style::Fair => "33",
            Style::Bad => "1;31",
            Style::Dim => "2",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}
