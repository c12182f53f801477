//! `--color`.

use std::ffi::OsString;

use clap::ValueEnum;

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// The colours of help and of errors in arguments, which clap prints while it parses them.
pub(crate) fn help_color(arguments: &[OsString]) -> clap::ColorChoice {
    let mut choice = clap::ColorChoice::Auto;
    let mut arguments = arguments.iter().map(OsString::as_os_str).take_while(|argument| *argument != "--");
    while let Some(argument) = arguments.next() {
        let value = match argument.to_str().and_then(|text| text.strip_prefix("--color")) {
            Some("") => arguments.next().and_then(|value| value.to_str()),
            Some(value) => value.strip_prefix('='),
            None => None,
        };
        match value.and_then(|value| ColorChoice::from_str(value, false).ok()) {
            Some(ColorChoice::Always) => choice = clap::ColorChoice::Always,
            Some(ColorChoice::Never) => choice = clap::ColorChoice::Never,
            Some(ColorChoice::Auto) => choice = clap::ColorChoice::Auto,
            None => {}
        }
    }
    choice
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_has_the_colours_that_are_asked_for() {
        let of = |arguments: &[&str]| {
            let all: Vec<OsString> = arguments.iter().map(OsString::from).collect();
            help_color(&all)
        };
        assert_eq!(of(&["taptrail", "--color", "never", "--help"]), clap::ColorChoice::Never);
        assert_eq!(of(&["taptrail", "trail", "--color=always", "--help"]), clap::ColorChoice::Always);
        for arguments in [
            &["taptrail", "--help"][..],
            &["taptrail", "run", "--", "--color", "never"],
            &["taptrail", "--color"],
            &["taptrail", "--color=often"],
            &["taptrail", "--colors=never"],
        ] {
            assert_eq!(of(arguments), clap::ColorChoice::Auto, "{arguments:?}");
        }
    }
}
