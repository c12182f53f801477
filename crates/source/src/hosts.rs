//! Assigns a host to lines that name none.
//!
//! auditd writes no host name by default. Files in one directory belong to one host; several
//! directories belong to several hosts, each named by the parts in which the paths differ. The
//! usual log directories below a host's root count as one: `h1/var/log/audit/audit.log` and
//! `h1/var/log/syslog` are of host `h1`.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use compact_str::CompactString;
use taptrail_trail::is_same_host;

/// Host of lines that name none, if it is not known.
pub(crate) const UNKNOWN: &str = "?";

/// The file name that stands for standard input.
const STDIN: &str = "-";

/// Directories in which a host keeps logs, below its root: they do not distinguish hosts.
const LOG_DIRECTORIES: [&str; 8] = ["audit", "libvirt", "qemu", "journal", "taptrail", "log", "lib", "var"];

/// The host of each input's lines that name none.
#[derive(Debug, Clone)]
pub struct Hosts {
    /// Names given for files and directories.
    assumed: Vec<(PathBuf, Arc<str>)>,
    /// The name given for all others.
    all: Option<Arc<str>>,
    /// The root directories of several hosts, each with its name.
    roots: Vec<(PathBuf, Arc<str>)>,
}

impl Default for Hosts {
    /// All lines that name no host are of one unknown host (`?`).
    fn default() -> Self {
        Self { assumed: Vec::new(), all: None, roots: Vec::new() }
    }
}

impl Hosts {
    /// All lines that name no host are of this one.
    pub fn one(name: impl Into<Arc<str>>) -> Self {
        Self { all: Some(name.into()), ..Self::default() }
    }

    /// The hosts of these files. `assumed` names the hosts of some files or directories, and `all`
    /// that of all others. Without `all`, each directory is a host, if there are several.
    pub fn of<'a>(
        paths: impl IntoIterator<Item = &'a Path>,
        assumed: Vec<(PathBuf, Arc<str>)>,
        all: Option<Arc<str>>,
    ) -> Self {
        let assumed = assumed.into_iter().map(|(path, name)| (absolute(&path), name)).collect();
        let mut hosts = Self { assumed, all, roots: Vec::new() };
        if hosts.all.is_some() {
            return hosts;
        }
        let mut roots: Vec<PathBuf> =
            paths.into_iter().filter(|path| hosts.assumed(path).is_none()).map(root).collect();
        roots.sort();
        roots.dedup();
        if roots.len() > 1 {
            let shared = shared(&roots);
            hosts.roots = roots
                .into_iter()
                .map(|root| {
                    if root == Path::new(STDIN) {
                        return (root, Arc::from(STDIN));
                    }
                    let own = root.components().filter(|part| matches!(part, Component::Normal(_)));
                    let name: PathBuf = own.skip(shared).collect();
                    let name = Arc::from(name.display().to_string().as_str());
                    (root, name)
                })
                .collect();
        }
        hosts
    }

    /// The host of a file's lines that name none.
    pub fn of_path(&self, path: &Path) -> Arc<str> {
        if let Some(name) = self.assumed(path).or(self.all.as_ref()) {
            return Arc::clone(name);
        }
        let root = root(path);
        match self.roots.binary_search_by(|(of, _)| of.cmp(&root)) {
            Ok(at) => Arc::clone(&self.roots[at].1),
            Err(_) => Arc::from(UNKNOWN),
        }
    }

    /// A path whose host was given but that is neither one of these paths nor a directory of one.
    pub fn unused<'a>(&self, paths: impl Iterator<Item = &'a Path>) -> Option<&Path> {
        let paths: Vec<_> = paths.map(absolute).collect();
        let is_used = |of: &Path| paths.iter().any(|path| path.starts_with(of));
        self.assumed.iter().map(|(of, _)| of.as_path()).find(|of| !is_used(of))
    }

    /// Whether the caller gave the host of a file's lines that name none.
    pub(crate) fn is_given(&self, path: &Path) -> bool {
        self.assumed(path).or(self.all.as_ref()).is_some()
    }

    /// The name given for all lines.
    pub(crate) fn all(&self) -> Option<&Arc<str>> {
        self.all.as_ref()
    }

    /// The host of standard input's lines that name none.
    pub(crate) fn of_stdin(&self) -> Arc<str> {
        self.of_path(Path::new(STDIN))
    }

    /// Whether hosts are named after directories.
    pub fn has_directory_hosts(&self) -> bool {
        !self.roots.is_empty()
    }

    fn assumed(&self, path: &Path) -> Option<&Arc<str>> {
        if self.assumed.is_empty() {
            return None;
        }
        let path = absolute(path);
        let named = self.assumed.iter().filter(|(of, _)| path.starts_with(of));
        named.max_by_key(|(of, _)| of.components().count()).map(|(_, name)| name)
    }
}

/// Host names found in other lines of the same directory: `audit.log` names no host, and `syslog`
/// beside it does.
#[derive(Debug, Default)]
pub(crate) struct ObservedNames {
    /// The name in the first lines; `None` if they have several.
    names: HashMap<Arc<str>, Option<Arc<str>>>,
    /// The names that were used.
    given: HashSet<Arc<str>>,
}

impl ObservedNames {
    /// Adds a name that a line of an unnamed host has.
    pub(crate) fn add(&mut self, host: &Arc<str>, name: CompactString) {
        if name.starts_with("localhost") {
            return;
        }
        match self.names.get_mut(host) {
            None => {
                self.names.insert(Arc::clone(host), Some(name.as_str().into()));
            }
            Some(known) => *known = known.take().filter(|known| is_same_host(known, &name)),
        }
    }

    /// The name of an unnamed host, if its other logs have one.
    pub(crate) fn resolve(&mut self, host: &Arc<str>) -> Arc<str> {
        let Some(name) = self.names.get(host).and_then(Option::as_ref) else { return Arc::clone(host) };
        if !self.given.contains(name) {
            self.given.insert(Arc::clone(name));
        }
        Arc::clone(name)
    }

    /// Whether a host's name was taken from other logs.
    pub(crate) fn is_observed(&self, name: &Arc<str>) -> bool {
        self.given.contains(name)
    }
}

/// Whether a directory of this name is one in which a host keeps logs, and no host's root.
pub(crate) fn is_log_directory(name: &OsStr) -> bool {
    LOG_DIRECTORIES.iter().any(|place| *place == name)
}

/// The root of the host that has this path: its directory, without the usual log directories.
fn root(path: &Path) -> PathBuf {
    if path == Path::new(STDIN) {
        return path.to_owned();
    }
    let path = absolute(path);
    let mut root = path.parent().map(Path::to_owned).unwrap_or_default();
    while let Some(Component::Normal(name)) = root.components().next_back()
        && is_log_directory(name)
    {
        root.pop();
    }
    root
}

fn absolute(path: &Path) -> PathBuf {
    match path == Path::new(STDIN) {
        true => path.to_owned(),
        false => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
    }
}

/// Number of path components that all directories share. The last one of each is always kept.
fn shared(roots: &[PathBuf]) -> usize {
    let directories: Vec<Vec<_>> = roots
        .iter()
        .filter(|root| *root != Path::new(STDIN))
        .map(|root| root.components().filter(|part| matches!(part, Component::Normal(_))).collect())
        .collect();
    let Some((first, others)) = directories.split_first() else { return 0 };
    let shortest = directories.iter().map(Vec::len).min().unwrap_or_default();
    let same = |other: &Vec<_>| first.iter().zip(other).take_while(|(a, b)| a == b).count();
    others.iter().map(same).min().unwrap_or(usize::MAX).min(shortest.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(paths: &[&str]) -> Vec<String> {
        let hosts = Hosts::of(paths.iter().map(Path::new), Vec::new(), None);
        paths.iter().map(|path| hosts.of_path(Path::new(path)).to_string()).collect()
    }

    #[test]
    fn files_of_one_directory_are_one_unknown_hosts() {
        assert_eq!(named(&["/a/audit.log", "/a/audit.log.1", "/a/libvirtd.log"]), ["?"; 3]);
        assert_eq!(named(&["-"]), ["?"]);
    }

    #[test]
    fn directories_are_hosts_named_by_their_differing_parts() {
        assert_eq!(named(&["/logs/h1/audit.log", "/logs/h2/audit.log"]), ["h1", "h2"]);
        assert_eq!(named(&["/l/r1/h1/audit.log", "/l/r2/h1/audit.log"]), ["r1/h1", "r2/h1"]);
        assert_eq!(named(&["/l/audit.log", "/l/h1/audit.log"]), ["l", "l/h1"]);
        assert_eq!(named(&["/l/audit.log", "-"]), ["l", "-"]);
        assert_eq!(named(&["/l/h1/audit.log", "-"]), ["h1", "-"]);
    }

    #[test]
    fn the_usual_log_directories_of_a_host_are_one_hosts() {
        let paths = ["/var/log/audit/audit.log", "/var/log/libvirt/libvirtd.log", "/var/log/syslog"];
        assert_eq!(named(&paths), ["?"; 3]);
        let paths = ["/x/h1/var/log/audit/audit.log", "/x/h1/var/log/syslog", "/x/h2/audit/audit.log"];
        assert_eq!(named(&paths), ["h1", "h1", "h2"]);
    }

    #[test]
    fn names_that_are_given_count() {
        let paths = ["/l/a/audit.log", "/l/b/audit.log", "/l/b/c/audit.log"].map(Path::new);
        let assumed = vec![("/l/b".into(), "web2".into()), ("/l/b/c".into(), "web3".into())];
        let hosts = Hosts::of(paths, assumed.clone(), None);
        assert_eq!(paths.map(|path| hosts.of_path(path).to_string()), ["?", "web2", "web3"]);
        let hosts = Hosts::of(paths, assumed, Some("web1".into()));
        assert_eq!(paths.map(|path| hosts.of_path(path).to_string()), ["web1", "web2", "web3"]);
    }
}
