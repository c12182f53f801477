//! What the definition of the command line does not say: variables, files and other pages that
//! belong to a command. Which command has which follows from its options.

use clap::Command;
use taptrail_bridge_helper::broker;
use taptrail_guest::filter::FILTERS_DIR;

/// A word and what it means.
pub(super) type Entry = (String, String);

fn has(command: &Command, option: &str) -> bool {
    command.get_arguments().any(|argument| argument.get_id() == option)
}

fn entry(word: &str, meaning: &str) -> Entry {
    (word.to_owned(), meaning.to_owned())
}

/// The default of an option, such as of --state-dir.
fn default(command: &Command, option: &str) -> String {
    let argument = command.get_arguments().find(|argument| argument.get_id() == option);
    let value = argument.and_then(|argument| argument.get_default_values().first());
    value.map(|value| value.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The variables of the environment: those of options first.
pub(super) fn environment(command: &Command) -> Vec<Entry> {
    let mut all = Vec::new();
    for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
        if let (Some(variable), Some(long)) = (argument.get_env(), argument.get_long()) {
            all.push((variable.to_string_lossy().into_owned(), format!("The same as `--{long}`.")));
        }
    }
    all.push(entry(
        "TAPTRAIL_LOG",
        "What is logged to standard error, instead of `--verbose` and `--quiet`: a level (`error`, `warn`, `info`, \
         `debug`, `trace`), or levels of parts, such as `warn,taptrail_guest=trace`.",
    ));
    all.push(entry(
        "NO_COLOR",
        "If it is set and not empty, no colours are used, unless `--color` asks for them.",
    ));
    if !supervises(command) && command.get_name() != "watch" {
        all.push(entry(
        "TAPTRAIL_PAGER, PAGER",
        "The pager for long answers on a terminal, without a shell's characters; the first that is set counts. \
         `cat`, or nothing, is no pager. With sudo(8), only less(1) is run.",
    ));
    }
    if uses_lake(command) {
        all.push(entry(
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY",
            "Credentials of the object store at s3://…",
        ));
        all.push(entry(
            "AWS_REGION, AWS_ENDPOINT_URL",
            "Its region, and its endpoint if it is not Amazon's.",
        ));
        all.push(entry("GOOGLE_*, AZURE_*", "Credentials of the object store at gs://… or az://…"));
    }
    if has(command, "sign_key") {
        all.push(entry(
            "CREDENTIALS_DIRECTORY",
            "The directory of the service's credentials, as systemd sets it: its file `lake.key` is the key without \
             `--sign-key`.",
        ));
    }
    if has(command, "utc") {
        all.push(entry("TZ", "The zone of times without `--utc`."));
    }
    if supervises(command) || command.get_name() == "watch" {
        all.push(entry(
            "NOTIFY_SOCKET, WATCHDOG_USEC",
            "The service manager's socket and the watchdog's interval, as systemd sets them.",
        ));
    }
    all
}

/// The files and directories.
pub(super) fn files(command: &Command) -> Vec<Entry> {
    let mut all = Vec::new();
    let words = command.get_bin_name().unwrap_or_default();
    if !words.starts_with("taptrail lake") && words != "taptrail schema" {
        let ledger = format!("{}/ledger.sqlite", default(command, "state_dir"));
        all.push((ledger, "The ledger: guests, records, devices and steps of this host.".to_owned()));
    }
    let run = default(command, "run_dir");
    if asks_a_guest(command)
        || supervises(command)
        || matches!(command.get_name(), "taptrail" | "list" | "recover")
    {
        all.push((format!("{run}/GUEST/api"), "The socket of the API of the guest's supervisor.".to_owned()));
        all.push((format!("{run}/GUEST/log"), "The output of a guest in the background.".to_owned()));
    }
    if matches!(command.get_name(), "taptrail" | "run" | "check") {
        all.push(entry("/etc/taptrail/guests/NAME.toml", "Guest files, as taptrail@.service reads them."));
    }
    if matches!(command.get_name(), "taptrail" | "run" | "check" | "attach" | "set-filter" | "update") {
        all.push(entry(FILTERS_DIR, "Filters of one's own, as NAME.xml or NAME.toml."));
    }
    if has(command, "log") || command.get_name() == "taptrail" {
        all.push(entry(
            "/var/log/audit/audit.log",
            "The audit log, unless auditd.conf(5) names another one.",
        ));
    }
    if command.get_name() == "watch" {
        all.push(entry("/run/libvirt/qemu", "Where libvirt keeps the state of running guests."));
        all.push(entry(broker::SOCKET, "With `--bridge-taps`: the socket to which bridge helpers connect."));
    }
    all
}

/// Pages of other sections that a command's page refers to, in the order of their sections.
pub(super) fn pages(command: &Command) -> Vec<(&'static str, char)> {
    let root = command.get_name() == "taptrail";
    let mut all = Vec::new();
    if root || matches!(command.get_name(), "run" | "check") {
        all.push(("taptrail.toml", '5'));
    }
    if root || has(command, "nic") {
        all.push(("taptrail-nic-spec", '7'));
    }
    if root || has(command, "log") || supervises(command) || matches!(command.get_name(), "export" | "events")
    {
        all.push(("taptrail-records", '7'));
    }
    if root {
        all.push(("taptrail-bridge-helper", '8'));
    }
    if root || has(command, "log") {
        all.push(("ausearch", '8'));
    }
    all
}

/// Whether the command is about one guest, whose supervisor it asks.
pub(super) fn asks_a_guest(command: &Command) -> bool {
    command.get_positionals().any(|argument| argument.get_id() == "guest")
}

fn supervises(command: &Command) -> bool {
    has(command, "background")
}

fn uses_lake(command: &Command) -> bool {
    ["lake", "to", "url"].iter().any(|option| has(command, option))
}
