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
    ("Run guests", &["run", "check", "attach", "detach", "set-filter", "nics", "list", "events", "stop"]),
    ("Many hosts", &["archive", "lake"]),
    ("Look after it", &["adopt", "recover", "ledger", "schema", "help"]),
];

/// Columns between the left edge and a command's text.
const INDENT: usize = 13;

/// The command line, with its commands in groups.
pub(crate) fn command(color: clap::ColorChoice) -> clap::Command {
    let mut command = Cli::command().color(color);
    // Only a built command has `help`.
    command.build();
    let groups = listed(&command);
    // The template's tags are in braces, and no text of a command has any.
    command.help_template(format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n{groups}\n{{options}}{{after-help}}"
    ))
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
        for command in commands.iter().filter_map(|name| command.find_subcommand(name)) {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(text, "  {name}{:1$}{name:#}{about}", command.get_name(), INDENT - 2);
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
        let mut command = Cli::command();
        command.build();
        let mut all: Vec<&str> = shown(&command).map(clap::Command::get_name).collect();
        all.sort_unstable();
        assert_eq!(grouped, all);
        for command in shown(&command) {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            let is_fit = about.len() <= 80 - INDENT && !about.contains(['{', '}', '\n']);
            assert!(is_fit, "{}: {about}", command.get_name());
        }
    }

    #[test]
    fn the_arguments_contradict_nothing() {
        command(clap::ColorChoice::Auto).debug_assert();
    }
}
