//! What the value of an argument can be, by the name that the value has in the help.

use std::ffi::OsStr;
use std::sync::Arc;

use clap::{Arg, Command};
use clap_complete::{ArgValueCompleter, CompletionCandidate};
use taptrail_trail::FindingKind;

use super::host::{Found, Host};
use super::{Native, spec};

/// Times that have a name.
const TIMES: [&str; 10] = [
    "now",
    "recent",
    "today",
    "yesterday",
    "this-hour",
    "this-week",
    "week-ago",
    "this-month",
    "this-year",
    "boot",
];

/// Kinds of devices, which stand for all devices of a kind.
const KINDS: [&str; 5] = ["tun", "macvtap", "vhost-net", "vhost-vdpa", "vhost-user"];

/// The values of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Values {
    /// Anything.
    Free,
    Native(Native),
    OwnGuest,
    Guest,
    GuestOnRecord,
    Mac,
    MacOnRecord,
    Device,
    /// A MAC, a device or a guest.
    Subject,
    Spec,
    Filter,
    Setting,
    ThisHost,
    Pid,
    NetworkNamespace,
    Time,
    Lake,
    Limit,
    Variable,
    FindingKind,
}

/// The command line with what its values can be.
pub(super) fn with_completers(command: Command, host: &Arc<Host>) -> Command {
    let name = command.get_name().to_owned();
    command
        .mut_args(|argument| match values(&name, &argument) {
            Some(values) => {
                let host = Arc::clone(host);
                argument
                    .add(ArgValueCompleter::new(move |current: &OsStr| candidates(values, current, &host)))
            }
            None => argument,
        })
        .mut_subcommands(|command| with_completers(command, host))
}

/// What an argument's values are; `None` if it has none, or the command line's definition lists
/// them. A name that is not known here has no completion, which a test does not allow.
fn values(command: &str, argument: &Arg) -> Option<Values> {
    if !argument.get_action().takes_values() || !argument.get_possible_values().is_empty() {
        return None;
    }
    let name = argument.get_value_names().and_then(|names| names.first())?;
    Some(match name.as_str() {
        "FILE" | "PATH" | "FILE|KEY" | "EXE" | "SOCKET" => Values::Native(Native::Files),
        "DIR" => Values::Native(Native::Directories),
        "USER" => Values::Native(Native::Users),
        "QEMU" => Values::Native(Native::Command),
        "SPEC" => Values::Spec,
        "FILTER" => Values::Filter,
        "KEY=VALUE" if command == "update" => Values::Setting,
        "GUEST" if matches!(command, "nics" | "verify") => Values::Guest,
        "GUEST" => Values::OwnGuest,
        "NAME|UUID" => Values::GuestOnRecord,
        "MAC" if argument.is_positional() => Values::Mac,
        "MAC" => Values::MacOnRecord,
        "DEVICE" => Values::Device,
        "MAC|DEVICE|GUEST" => Values::Subject,
        "HOST" => Values::ThisHost,
        "PID" => Values::Pid,
        "NAME|PATH" => Values::NetworkNamespace,
        "TIME" if matches!(argument.get_id().as_str(), "start" | "end" | "at" | "before") => Values::Time,
        "URL" => Values::Lake,
        "NAME=N" => Values::Limit,
        "NAME[=VALUE]" => Values::Variable,
        "KIND=PROGRAM" | "KIND=URL" => Values::FindingKind,
        "NAME" | "UUID" | "TIME" | "DURATION" | "N" | "FD" | "LINE" | "ROOT" | "COLUMNS" | "NAME[=PATH]"
        | "ADDRESS" | "ADDRESS:PORT" | "DATE" | "CHARACTERS" | "WORD" | "SIZE" | "SPAN" => Values::Free,
        _ => return None,
    })
}

fn candidates(values: Values, current: &OsStr, host: &Host) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return Vec::new() };
    let words = |all: &[&str]| all.iter().map(|word| ((*word).to_owned(), String::new())).collect::<Found>();
    let found = match values {
        Values::Free => Found::new(),
        Values::Native(native) => return vec![native.candidate()],
        Values::OwnGuest => host.own_guests(),
        Values::Guest => host.guests(),
        Values::GuestOnRecord => host.guests_on_record(!current.is_empty()),
        Values::Mac => host.macs(),
        Values::MacOnRecord => host.macs_on_record(),
        Values::Device => devices(host),
        Values::Subject => {
            let mut all = host.guests_on_record(!current.is_empty());
            all.extend(host.macs_on_record());
            all.extend(devices(host));
            all
        }
        Values::Spec => spec::candidates(current, host),
        Values::Setting => spec::settings(current, host),
        Values::Filter => {
            spec::filters().chain(["none".to_owned()]).map(|name| (name, String::new())).collect()
        }
        Values::ThisHost => words(&[&*rustix::system::uname().nodename().to_string_lossy()]),
        Values::Pid => host.pids(),
        Values::NetworkNamespace => names_in("/run/netns"),
        Values::Time => words(&TIMES),
        Values::Lake => words(&["file:///", "s3://", "gs://", "az://"]),
        Values::Limit => words(&["core=", "memlock=", "nofile=", "nproc="]),
        Values::Variable => std::env::vars_os()
            .filter_map(|(name, _)| Some((name.into_string().ok()?, String::new())))
            .collect(),
        Values::FindingKind => {
            let kinds = FindingKind::ALL
                .iter()
                .map(|kind| (format!("{}=", kind.as_str()), kind.summary().to_owned()));
            kinds.chain([("any=".to_owned(), String::new())]).collect()
        }
    };
    let fits = found.into_iter().filter(|(word, _)| word.starts_with(current));
    fits.map(|(word, help)| CompletionCandidate::new(word).help(Some(help.into()))).collect()
}

fn devices(host: &Host) -> Found {
    let mut all = host.devices();
    all.extend(KINDS.map(|kind| (kind.to_owned(), "all of this kind".to_owned())));
    all
}

/// The names of a directory's files.
fn names_in(directory: &str) -> Found {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.map(|name| (name, String::new())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::built_command;

    /// Each argument whose values are not listed by the definition, and not by `values`.
    fn unknown(command: &Command, found: &mut Vec<String>) {
        for argument in command.get_arguments().filter(|argument| argument.get_action().takes_values()) {
            if argument.get_possible_values().is_empty() && values(command.get_name(), argument).is_none() {
                let names = argument.get_value_names().unwrap_or_default();
                found.push(format!("{} --{} {names:?}", command.get_name(), argument.get_id()));
            }
        }
        command.get_subcommands().for_each(|command| unknown(command, found));
    }

    #[test]
    fn it_is_known_what_each_value_can_be() {
        let mut found = Vec::new();
        unknown(&built_command(clap::ColorChoice::Never), &mut found);
        assert!(found.is_empty(), "not known to complete/values.rs: {found:?}");
    }
}
