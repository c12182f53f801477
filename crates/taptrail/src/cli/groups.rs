//! The commands by what they are for, as `taptrail --help` lists them.

use std::fmt::Write as _;

use clap::CommandFactory as _;

use super::Cli;

/// A heading, and the names of the commands below it.
pub(crate) type Group = (&'static str, &'static [&'static str]);

/// Each group's heading, and its commands in the order shown.
const GROUPS: [Group; 5] = [
    ("Read logs", &["summary", "trail", "who", "guests", "findings", "explain", "report", "serve", "top"]),
    ("Check this host", &["doctor", "verify", "watch"]),
    (
        "Run guests",
        &["run", "check", "attach", "detach", "update", "set-filter", "nics", "list", "events", "stop"],
    ),
    ("Many hosts", &["archive", "lake"]),
    ("Look after it", &["adopt", "recover", "ledger", "schema", "help"]),
];

/// Columns between the left edge and a command's text.
const INDENT: usize = 13;

/// What clap says of its own `help`, which only a built command has.
const HELP_ABOUT: &str = "Print this message or the help of the given subcommand(s)";

/// The command line, with its commands in groups. It is not built: parsing builds the command that was
/// given, and to build all of them takes longer than many a command's work.
pub(crate) fn command(color: clap::ColorChoice) -> clap::Command {
    let command = Cli::command().color(color);
    let groups = listed(&command);
    // The template's tags are in braces, and no text of a command has any.
    command.help_template(format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n{groups}\n{{options}}{{after-help}}"
    ))
}

/// The same, built: with `help`, and each command with the options of those above it.
pub(crate) fn built_command(color: clap::ColorChoice) -> clap::Command {
    let mut command = command(color);
    command.build();
    command
}

/// The groups, in the order shown.
pub(crate) fn groups() -> &'static [Group] {
    &GROUPS
}

fn listed(command: &clap::Command) -> String {
    let heading = command.get_styles().get_header();
    let name = command.get_styles().get_literal();
    let mut text = String::new();
    for (group, commands) in GROUPS {
        let _ = writeln!(text, "\n{heading}{group}:{heading:#}");
        for of in commands {
            let about = match command.find_subcommand(of) {
                Some(of) => of.get_about().map(ToString::to_string).unwrap_or_default(),
                None => HELP_ABOUT.to_owned(),
            };
            let _ = writeln!(text, "  {name}{of:0$}{name:#}{about}", INDENT - 2);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(command: &clap::Command) -> impl Iterator<Item = &clap::Command> {
        command.get_subcommands().filter(|command| !command.is_hide_set())
    }

    #[test]
    fn each_command_is_in_one_group() {
        let mut grouped: Vec<&str> =
            GROUPS.iter().flat_map(|(_, commands)| commands.iter().copied()).collect();
        grouped.sort_unstable();
        let command = built_command(clap::ColorChoice::Never);
        let mut all: Vec<&str> = shown(&command).map(clap::Command::get_name).collect();
        all.sort_unstable();
        assert_eq!(grouped, all);
        for command in shown(&command) {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            let is_fit = about.len() <= 80 - INDENT && !about.contains(['{', '}', '\n']);
            assert!(is_fit, "{}: {about}", command.get_name());
            assert_eq!(command.get_name() == "help", about == HELP_ABOUT, "{about}");
        }
    }

    #[test]
    fn the_arguments_contradict_nothing() {
        command(clap::ColorChoice::Auto).debug_assert();
    }
}
