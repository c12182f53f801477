//! One command's page.

use clap::builder::Styles;
use clap::builder::styling::Style;
use clap::{Arg, ArgAction, Command};
use roff::{Inline, Roff, bold, italic, roman};

use super::notes::{self, Block, EXAMPLES, EXIT_CODES, Notes};
use super::text::{Title, begin, entry, example, inline, paragraph, paragraphs, see_also, source};
use super::{places, shown};
use crate::cli::command_groups;

/// The page of a command of `root`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page<'a> {
    pub(super) root: &'a Command,
    pub(super) command: &'a Command,
    /// As year, month and day.
    pub(super) date: &'a str,
}

impl Page<'_> {
    /// The page's name: the command's words with hyphens between them.
    pub(super) fn name(self) -> String {
        self.words().replace(' ', "-")
    }

    /// The command as it is called.
    fn words(self) -> String {
        self.command.get_bin_name().unwrap_or_else(|| self.command.get_name()).to_owned()
    }

    /// The page's text.
    pub(super) fn roff(self) -> String {
        let (name, about) = (self.name(), uncapital(&self.about()));
        let version = self.root.get_version().unwrap_or_default();
        let title = Title { name: &name, section: '1', version, date: self.date, about: &about };
        let mut roff = begin(title);
        roff.control("SH", ["SYNOPSIS"]).text(self.usage());
        let notes = self.notes();
        self.description(&mut roff, &notes);
        self.commands(&mut roff);
        self.options(&mut roff);
        let (examples, others): (Vec<_>, Vec<_>) = notes
            .iter()
            .filter(|notes| notes.heading.is_some())
            .partition(|notes| notes.heading.as_deref() == Some(EXAMPLES));
        let is_codes = |notes: &&Notes| notes.heading.as_deref() == Some(EXIT_CODES);
        for notes in others.iter().filter(|notes| !is_codes(notes)) {
            section(&mut roff, notes.heading.as_deref().unwrap_or_default());
            blocks(&mut roff, &notes.blocks);
        }
        section(&mut roff, "Exit status");
        match others.iter().copied().find(is_codes) {
            Some(codes) => blocks(&mut roff, &codes.blocks),
            None => blocks(&mut roff, &self.general_codes()),
        }
        list(&mut roff, "Environment", places::environment(self.command));
        list(&mut roff, "Files", places::files(self.command));
        if !examples.is_empty() {
            section(&mut roff, EXAMPLES);
            examples.iter().for_each(|notes| blocks(&mut roff, &notes.blocks));
        }
        let (commands, pages) = (self.related(), places::pages(self.command));
        let commands = commands.iter().map(|name| (name.as_str(), '1'));
        see_also(&mut roff, commands.chain(pages));
        source(&roff)
    }

    fn about(self) -> String {
        self.command.get_about().map(ToString::to_string).unwrap_or_default()
    }

    /// The usage as `--help` has it.
    fn usage(self) -> Vec<Inline> {
        let styles = Styles::plain().literal(Style::new().bold()).placeholder(Style::new().italic());
        let usage = self.command.clone().styles(styles).render_usage().ansi().to_string();
        let text = usage.trim_start_matches("Usage:").trim_start();
        styled(text)
    }

    fn description(self, roff: &mut Roff, notes: &[Notes]) {
        section(roff, "Description");
        let long = self.command.get_long_about().map(ToString::to_string);
        let about = self.about();
        let text = long.as_deref().unwrap_or(&about);
        let mut parts = text.split("\n\n");
        // The first line is no sentence in --help.
        paragraph(
            roff,
            &format!("{}.", parts.next().unwrap_or_default().replace('\n', " ").trim_end_matches('.')),
        );
        parts.for_each(|part| paragraph(roff, &part.replace('\n', " ")));
        for notes in notes.iter().filter(|notes| notes.heading.is_none()) {
            blocks(roff, &notes.blocks);
        }
    }

    /// The exit codes of a command whose help has none: those of the program that it can have.
    fn general_codes(self) -> Vec<Block> {
        let asks_a_guest = places::asks_a_guest(self.command);
        let all = notes::parse(&after_help(self.root));
        let codes = all.into_iter().filter(|notes| notes.heading.as_deref() == Some(EXIT_CODES));
        let mut blocks: Vec<Block> = codes.flat_map(|notes| notes.blocks).collect();
        for block in &mut blocks {
            if let Block::List(entries) = block {
                // 4 is a query's; what else 1 may be belongs to commands with exit codes of their own.
                entries.retain(|(code, _)| code != "4" && (code != "3" || asks_a_guest));
                for (_, meaning) in entries.iter_mut().filter(|(code, _)| code == "1") {
                    meaning.truncate(meaning.find(',').unwrap_or(meaning.len()));
                }
            }
        }
        blocks.retain(|block| matches!(block, Block::List(_)) || self.command.get_name() == "run");
        blocks
    }

    fn notes(self) -> Vec<Notes> {
        notes::parse(&after_help(self.command))
    }

    /// The commands below this one; those of the program in their groups.
    fn commands(self, roff: &mut Roff) {
        if shown(self.command).next().is_none() {
            return;
        }
        section(roff, "Commands");
        let listed = |roff: &mut Roff, command: &Command| {
            let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).replace(' ', "-");
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            entry(roff, vec![bold(name), roman("(1)")], &about);
        };
        if self.command.get_name() != self.root.get_name() {
            shown(self.command).for_each(|command| listed(roff, command));
            return;
        }
        for (group, names) in command_groups() {
            roff.control("SS", [*group]);
            let commands = names.iter().filter_map(|name| shown(self.root).find(|of| of.get_name() == *name));
            commands.for_each(|command| listed(roff, command));
        }
    }

    fn options(self, roff: &mut Roff) {
        let shown: Vec<&Arg> =
            self.command.get_arguments().filter(|argument| !argument.is_hide_set()).collect();
        let (positional, options): (Vec<&Arg>, Vec<&Arg>) =
            shown.iter().partition(|argument| argument.is_positional());
        if !positional.is_empty() {
            section(roff, "Arguments");
            positional.into_iter().for_each(|argument| self::argument(roff, argument));
        }
        section(roff, "Options");
        let mut headings: Vec<Option<&str>> = Vec::new();
        for option in &options {
            if !headings.contains(&option.get_help_heading()) {
                headings.push(option.get_help_heading());
            }
        }
        // Options without a heading come first, as in --help.
        headings.sort_by_key(Option::is_some);
        for heading in headings {
            if let Some(heading) = heading {
                roff.control("SS", [heading]);
            }
            let of = options.iter().filter(|option| option.get_help_heading() == heading);
            of.for_each(|option| argument(roff, option));
        }
    }

    /// The pages of the program and of the commands of the same group or command.
    fn related(self) -> Vec<String> {
        let words = self.words();
        // The program's page has a list of all commands.
        let Some((parent, name)) = words.rsplit_once(' ') else { return Vec::new() };
        let root = self.root.get_name();
        let mut commands = vec![root.to_owned()];
        if parent == root {
            let group = command_groups().iter().find(|(_, names)| names.contains(&name));
            let names = group.into_iter().flat_map(|(_, names)| names.iter());
            let names = names.filter(|of| **of != name && **of != "help");
            commands.extend(names.map(|of| format!("{root}-{of}")));
        } else {
            commands.push(parent.replace(' ', "-"));
            let parent = shown(self.root).find(|of| of.get_bin_name() == Some(parent));
            let siblings = parent.into_iter().flat_map(shown).filter_map(Command::get_bin_name);
            commands.extend(siblings.filter(|of| *of != words).map(|of| of.replace(' ', "-")));
        }
        commands
    }
}

/// Text with the escape sequences of [`Page::usage`]'s styles.
fn styled(text: &str) -> Vec<Inline> {
    let mut parts = Vec::new();
    for (n, part) in text.split("\u{1b}[").enumerate() {
        let (style, text) = if n == 0 { ("0", part) } else { part.split_once('m').unwrap_or(("0", part)) };
        if text.is_empty() {
            continue;
        }
        // A usage of several lines has each on a line of its own.
        for (n, line) in text.split('\n').enumerate() {
            if n > 0 {
                parts.push(Inline::LineBreak);
            }
            let line = if n > 0 { line.trim_start() } else { line };
            match style {
                _ if line.is_empty() => {}
                "1" => parts.push(bold(line)),
                "3" => parts.push(italic(line)),
                _ => parts.push(roman(line)),
            }
        }
    }
    parts
}

fn after_help(command: &Command) -> String {
    let text = command.get_after_long_help().or_else(|| command.get_after_help());
    text.map(ToString::to_string).unwrap_or_default()
}

fn section(roff: &mut Roff, heading: &str) {
    roff.control("SH", [heading.to_uppercase().as_str()]);
}

fn list(roff: &mut Roff, heading: &str, entries: Vec<places::Entry>) {
    if entries.is_empty() {
        return;
    }
    section(roff, heading);
    entries.into_iter().for_each(|(word, meaning)| entry(roff, vec![bold(word)], &meaning));
}

fn blocks(roff: &mut Roff, blocks: &[Block]) {
    for block in blocks {
        match block {
            Block::Paragraph(text) => paragraph(roff, text),
            Block::Example(lines) => {
                roff.control("PP", []);
                example(roff, true, lines.iter().map(String::as_str));
            }
            Block::List(entries) => {
                entries.iter().for_each(|(word, meaning)| entry(roff, vec![bold(word)], meaning));
            }
        }
    }
}

/// An option or a positional argument, with its text as `--help` has it.
fn argument(roff: &mut Roff, argument: &Arg) {
    roff.control("TP", []).text(tag(argument));
    let help = argument.get_long_help().or_else(|| argument.get_help());
    let mut text = help.map(ToString::to_string).unwrap_or_default();
    let mut add = |name: &str, values: Vec<String>| {
        if !values.is_empty() {
            text.push_str(&format!(" [{name}: {}]", values.join(", ")));
        }
    };
    let takes_value = argument.get_action().takes_values();
    if takes_value && !argument.is_hide_default_value_set() {
        let defaults = argument.get_default_values();
        add("default", defaults.iter().map(|value| value.to_string_lossy().into_owned()).collect());
    }
    let aliases = argument.get_visible_aliases().unwrap_or_default();
    add("aliases", aliases.iter().map(|alias| format!("--{alias}")).collect());
    if let Some(variable) = argument.get_env() {
        add("env", vec![variable.to_string_lossy().into_owned()]);
    }
    paragraphs(roff, &text);
    let values = argument.get_possible_values();
    let values: Vec<_> = values.iter().filter(|value| !value.is_hide_set()).collect();
    if !takes_value || argument.is_hide_possible_values_set() || values.is_empty() {
        return;
    }
    if values.iter().all(|value| value.get_help().is_none()) {
        let names: Vec<&str> = values.iter().map(|value| value.get_name()).collect();
        roff.control("IP", []).text(inline(&format!("One of {}.", names.join(", "))));
        return;
    }
    roff.control("RS", []);
    for value in values {
        let meaning = value.get_help().map(ToString::to_string).unwrap_or_default();
        entry(roff, vec![bold(value.get_name())], &meaning);
    }
    roff.control("RE", []);
}

/// How an argument is written.
fn tag(argument: &Arg) -> Vec<Inline> {
    let names =
        argument.get_value_names().map(|names| names.iter().map(|name| name.as_str()).collect::<Vec<_>>());
    let value = names.map_or_else(|| argument.get_id().as_str().to_uppercase(), |names| names.join(" "));
    let several = argument.get_num_args().is_some_and(|range| range.max_values() > 1);
    if argument.is_positional() {
        let mut tag = vec![italic(value)];
        if several {
            tag.push(roman("..."));
        }
        return tag;
    }
    let mut tag = Vec::new();
    if let Some(short) = argument.get_short() {
        tag.push(bold(format!("-{short}")));
    }
    if let Some(long) = argument.get_long() {
        if !tag.is_empty() {
            tag.push(roman(", "));
        }
        tag.push(bold(format!("--{long}")));
    }
    if matches!(argument.get_action(), ArgAction::Count) {
        tag.push(roman("..."));
    }
    if argument.get_action().takes_values() {
        let optional = argument.get_num_args().is_some_and(|range| range.min_values() == 0);
        let (before, after) = match (optional, argument.is_require_equals_set()) {
            (true, true) => ("[=", "]"),
            (true, false) => (" [", "]"),
            (false, true) => ("=", ""),
            (false, false) => (" ", ""),
        };
        tag.extend([roman(before), italic(value), roman(after)]);
        tag.retain(|part| *part != roman(""));
    }
    tag
}

/// With a small letter first, unless a name or an abbreviation is first.
fn uncapital(text: &str) -> String {
    let mut characters = text.chars();
    match (characters.next(), characters.clone().next()) {
        (Some(first), Some(second)) if second.is_lowercase() => {
            first.to_lowercase().chain(characters).collect()
        }
        _ => text.to_owned(),
    }
}
