//! The arguments of `taptrail complete`.

use std::ffi::OsString;

use clap::{Args, ValueEnum};

/// Print what can stand at the cursor of a command line, for a shell's completion
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  taptrail complete fish -- taptrail stop w")]
pub(crate) struct Complete {
    /// Shell that asks
    #[arg(value_enum)]
    pub(crate) shell: Shell,

    /// Characters at which bash splits words (COMP_WORDBREAKS)
    #[arg(long, value_name = "CHARACTERS", default_value = "", hide_default_value = true)]
    pub(crate) breaks: String,

    /// The words up to the cursor, the last one perhaps empty; bash gives the line up to the cursor
    #[arg(last = true, value_name = "WORD")]
    pub(crate) words: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}
