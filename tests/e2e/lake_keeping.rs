//! Looking after a lake: `lake compact`, `check`, `findings` and `prune`, with twenty hosts' logs and
//! the real minisign.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::world::{CommandResult, contract};

fn taptrail(arguments: &[&str]) -> CommandResult {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taptrail"));
    command.env("TZ", "UTC").env_remove("TAPTRAIL_LOG").stdin(Stdio::null()).args(arguments);
    CommandResult::from(command.output().unwrap())
}

fn json(schema: &str, arguments: &[&str]) -> Value {
    let value = serde_json::from_str(&taptrail(arguments).stdout).unwrap();
    contract::assert_valid(schema, &value);
    value
}

/// A lake in a directory.
struct Lake {
    directory: tempfile::TempDir,
    url: String,
}

impl Lake {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("tt").tempdir_in("/tmp").unwrap();
        let url = format!("file://{}", directory.path().join("lake").display());
        Self { directory, url }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Archives the logs of one libvirt version, each run as a host.
    fn archive(&self, version: &str) {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/libvirt").join(version);
        for run in std::fs::read_dir(&data).unwrap().map(|run| run.unwrap().path()) {
            let log = run.join("audit.log");
            if log.exists() {
                let host = format!("{version}-{}", run.file_name().unwrap().to_str().unwrap());
                taptrail(&["archive", log.to_str().unwrap(), "--assume-host", &host, "--to", &self.url]).ok();
            }
        }
    }

    /// The objects of a table in the last generation, in order.
    fn objects(&self, table: &str) -> Vec<PathBuf> {
        let mut manifests: Vec<PathBuf> = std::fs::read_dir(self.path("lake/generations"))
            .unwrap()
            .map(|file| file.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .collect();
        manifests.sort();
        let last: Value = serde_json::from_slice(&std::fs::read(manifests.last().unwrap()).unwrap()).unwrap();
        let objects = last["objects"].as_array().unwrap().iter().filter(|object| object["table"] == table);
        objects.map(|object| self.path("lake").join(object["path"].as_str().unwrap())).collect()
    }
}

// Shows 15.10, 15.12.
#[test]
fn an_auditor_verifies_a_lake_with_a_key_and_a_root() {
    let lake = Lake::new();
    // Nothing is there yet, and the URL may be mistyped.
    for command in ["compact", "check", "findings", "prune"] {
        taptrail(&["lake", command, &lake.url]).fails(2, "there is no lake");
    }
    taptrail(&["lake", "sql", &lake.url, "trail"]).fails(2, "there is no lake");
    assert!(!lake.path("lake").exists());
    let (key, public) = (lake.path("lake.key"), lake.path("lake.pub"));
    let (key, public) = (key.to_str().unwrap(), public.to_str().unwrap());
    let made =
        Command::new("/usr/bin/minisign").args(["-G", "-W", "-p", public, "-s", key]).output().unwrap();
    assert!(made.status.success(), "{made:?}");

    lake.archive("libvirt-9.0");
    let done = taptrail(&["lake", "compact", &lake.url, "--sign-key", key]).ok();
    let root = done.stdout.lines().last().unwrap().strip_prefix("Root ").unwrap().to_owned();
    assert!(root.starts_with("1:"), "{root}");
    lake.archive("libvirt-9.0-vhost");
    let second = json("lake-compact", &["lake", "compact", &lake.url, "--sign-key", key, "--json"]);
    assert_eq!(second["derived_hosts"], 0, "{second}");
    let nothing = json("lake-compact", &["lake", "compact", &lake.url, "--json"]);
    assert_eq!(nothing, Value::Null);

    let whole = ["lake", "check", &lake.url, "--key", public, "--root", &root];
    let checked = taptrail(&whole).ok();
    assert!(checked.stdout.starts_with("2 generations, "), "{}", checked.stdout);

    // Without taptrail.
    let generations = lake.path("lake/generations");
    let manifest = generations.join("00000001.json");
    let signature = generations.join(format!("00000001-{}.minisig", &root[2..18]));
    let mut minisign = Command::new("/usr/bin/minisign");
    minisign.args(["-V", "-p", public, "-m"]).arg(&manifest).arg("-x").arg(&signature);
    let verified = minisign.output().unwrap();
    assert!(verified.status.success(), "{verified:?}");
    assert!(String::from_utf8_lossy(&verified.stdout).contains(&root), "{verified:?}");

    // Somebody alters one bit of what was held, and takes a record away.
    let (held, records) = (lake.objects("held").remove(0), lake.objects("records").remove(0));
    let mut bytes = std::fs::read(&held).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&held, bytes).unwrap();
    std::fs::remove_file(&records).unwrap();
    let name = |path: &Path| path.strip_prefix(lake.path("lake")).unwrap().to_str().unwrap().to_owned();
    let found = json("lake-check", &["lake", "check", &lake.url, "--json"]);
    let problems: Vec<(&str, &str)> = found["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| (problem["kind"].as_str().unwrap(), problem["object"].as_str().unwrap()))
        .collect();
    assert_eq!(problems, [("altered", &*name(&held)), ("missing", &*name(&records))]);
    assert_eq!(taptrail(&whole).code(), 1);
    taptrail(&["lake", "check", &lake.url, "--root", "1:xyz"]).fails(2, "is no root of a lake");
}

#[test]
fn a_secret_key_that_others_may_read_signs_nothing() {
    let lake = Lake::new();
    lake.archive("libvirt-9.0-vhost");
    let key = lake.path("lake.key");
    std::fs::write(&key, "untrusted comment: minisign secret key\n").unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let compact = ["lake", "compact", &lake.url, "--sign-key", key.to_str().unwrap()];
    taptrail(&compact).fails(2, "chmod 600");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    taptrail(&compact).fails(2, "is no minisign key");
    assert!(!lake.path("lake/generations").exists());
}

#[test]
fn what_all_hosts_show_is_listed_and_old_days_go() {
    let lake = Lake::new();
    lake.archive("libvirt-9.0");
    lake.archive("libvirt-9.0-vhost");
    taptrail(&["lake", "compact", &lake.url]).ok();
    // The runs were recorded one after the other: most hosts fell silent before the last did.
    let found = taptrail(&["lake", "findings", &lake.url, "--json"]);
    assert_eq!(found.code(), 1, "{}", found.stderr);
    for line in found.stdout.lines() {
        let finding: Value = serde_json::from_str(line).unwrap();
        contract::assert_valid("lake-findings", &finding);
    }
    let none = taptrail(&["lake", "findings", &lake.url, "--kind", "device-number-twice"]);
    assert_eq!((none.code(), &*none.stdout), (0, ""));
    let pruned = json(
        "lake-prune",
        &["lake", "prune", &lake.url, "--before", "2027-01-01", "--grace", "0s", "--json"],
    );
    assert!(pruned["days"].as_u64().unwrap() > 0, "{pruned}");
    assert!(lake.objects("held").is_empty());
    taptrail(&["lake", "check", &lake.url]).ok();
}
