//! `taptrail complete`, which is hidden: what can stand at the cursor of a command line. The scripts
//! in packaging/completions ask for it, and know no command and no option themselves.
//!
//! The definition of the command line says what can stand there. Names of guests, MACs, interfaces
//! and devices are those of this moment, as far as the user may see them. A key press is no time
//! for a message or for waiting: what can't be read, or not at once, is left out.
//!
//! Each line of the answer is a word, and behind a tab its meaning. A line that begins with a tab
//! says what the shell itself completes: `files`, `directories`, `users`, `command`.

mod bash;
mod host;
mod spec;
mod values;

use std::ffi::OsString;
use std::sync::Arc;

use clap_complete::CompletionCandidate;
use clap_complete::engine;

use self::host::Host;
use crate::CommandResult;
use crate::cli::{self, Complete, Shell};
use crate::output::print;

pub(crate) fn complete(arguments: &Complete) -> CommandResult {
    let text = match arguments.shell {
        Shell::Bash => {
            let line = arguments.words.first().map(|line| line.to_string_lossy());
            bash::answer(&line.unwrap_or_default(), &arguments.breaks)
        }
        Shell::Zsh | Shell::Fish => answer(&arguments.words),
    };
    print(&text)
}

/// What the shell completes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Native {
    Files,
    Directories,
    Users,
    /// The command line of another program.
    Command,
}

/// In front of the name of a [`Native`] that goes through the engine as a candidate.
const NATIVE: char = '\u{1}';

impl Native {
    const ALL: [Self; 4] = [Self::Files, Self::Directories, Self::Users, Self::Command];

    fn as_str(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Directories => "directories",
            Self::Users => "users",
            Self::Command => "command",
        }
    }

    fn candidate(self) -> CompletionCandidate {
        CompletionCandidate::new(format!("{NATIVE}{}", self.as_str()))
    }

    /// Reads a candidate back; the engine may have put the option's name before it.
    fn read(candidate: &str) -> Option<Self> {
        let (_, name) = candidate.split_once(NATIVE)?;
        Self::ALL.into_iter().find(|native| native.as_str() == name)
    }
}

/// What can stand at the cursor.
#[derive(Debug, Default)]
struct Candidates {
    native: Option<Native>,
    /// Whole words, and what they mean.
    words: Vec<(String, Option<String>)>,
}

impl Candidates {
    /// `words` are those up to the cursor.
    fn of(words: &[OsString]) -> Self {
        let Some(current) = words.last().filter(|_| words.len() > 1) else { return Self::default() };
        let host = Arc::new(Host::of(words));
        let mut command = values::with_completers(cli::command(clap::ColorChoice::Never), &host);
        let found = engine::complete(&mut command, words.to_vec(), words.len() - 1, None).unwrap_or_default();
        let mut candidates = Self::default();
        for candidate in found {
            let Some(word) = candidate.get_value().to_str() else { continue };
            if let Some(native) = Native::read(word) {
                candidates.native = Some(native);
            } else if !word.is_empty() && !word.contains(char::is_control) {
                let help = candidate.get_help().map(|help| summary(&help.to_string()));
                candidates.words.push((word.to_owned(), help.filter(|help| !help.is_empty())));
            }
        }
        if current.as_encoded_bytes().starts_with(b"-") && !candidates.words.is_empty() {
            // The shell would complete files that begin with a hyphen.
            candidates.native = None;
        }
        // An option's name only where one was begun, or where nothing else can stand.
        if current.is_empty() {
            let is_option = |(word, _): &(String, _)| word.starts_with('-');
            let others = candidates.native.is_some() || !candidates.words.iter().all(is_option);
            candidates.words.retain(|word| !others || !is_option(word));
        }
        candidates
    }
}

/// The first part of a text, which says what something is; shells have one line for it.
fn summary(text: &str) -> String {
    let text = text.lines().next().unwrap_or_default().replace(char::is_control, " ").replace('`', "");
    let ends = [": ", "; ", ". ", " (", " ["].iter().filter_map(|end| text.find(end));
    text[..ends.min().unwrap_or(text.len())].to_owned()
}

/// The answer for shells that know words themselves.
fn answer(words: &[OsString]) -> String {
    let candidates = Candidates::of(words);
    let native = candidates.native.map(|native| format!("\t{}\n", native.as_str()));
    let words = candidates.words.into_iter().map(|(word, help)| match help {
        Some(help) => format!("{word}\t{help}\n"),
        None => format!("{word}\n"),
    });
    native.into_iter().chain(words).collect()
}
