//! Whose lines those are that name no host.
//!
//! auditd writes no host's name unless its configuration asks for one. Files of one directory are one
//! host's, and directories are several hosts', each named by what tells them apart. What a host keeps in
//! several places of its `/var` is one host's all the same: `h1/var/log/audit/audit.log` and
//! `h1/var/log/syslog`.

use std::collections::{HashMap, HashSet};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use compact_str::CompactString;

/// The host of lines that name none, where nobody says whose they are.
pub(crate) const UNKNOWN: &str = "?";

/// Standard input, as a file's name.
const STDIN: &str = "-";

/// Where a host keeps its logs below its root: the end of a directory's path that does not part hosts.
const PLACES: [&str; 8] = ["audit", "libvirt", "qemu", "journal", "taptrail", "log", "lib", "var"];

/// The host of each input's lines that name none.
#[derive(Debug, Clone)]
pub struct Hosts {
    /// Names given for files and directories.
    assumed: Vec<(PathBuf, Arc<str>)>,
    /// The name given for all others.
    all: Option<Arc<str>>,
    /// The roots of several hosts, each with its name.
    roots: Vec<(PathBuf, Arc<str>)>,
}

impl Default for Hosts {
    /// All lines that name no host are of one, which is not known (`?`).
    fn default() -> Self {
        Self { assumed: Vec::new(), all: None, roots: Vec::new() }
    }
}

impl Hosts {
    /// All lines that name no host are of this one.
    pub fn one(name: impl Into<Arc<str>>) -> Self {
        Self { all: Some(name.into()), ..Self::default() }
    }

    /// The hosts of these files. `assumed` names those of some files or directories, and `all` that of
    /// all others; without it, each directory is a host, unless there is only one.
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

    /// A path whose host was given, and that is none of these or a directory of one.
    pub fn unused<'a>(&self, paths: impl Iterator<Item = &'a Path>) -> Option<&Path> {
        let paths: Vec<_> = paths.map(absolute).collect();
        let is_used = |of: &Path| paths.iter().any(|path| path.starts_with(of));
        self.assumed.iter().map(|(of, _)| of.as_path()).find(|of| !is_used(of))
    }

    /// Whether the host of a file's lines that name none was given.
    pub(crate) fn is_given(&self, path: &Path) -> bool {
        self.assumed(path).or(self.all.as_ref()).is_some()
    }

    /// The one name that was given for all.
    pub(crate) fn all(&self) -> Option<&Arc<str>> {
        self.all.as_ref()
    }

    /// The host of standard input's lines that name none.
    pub(crate) fn of_stdin(&self) -> Arc<str> {
        self.of_path(Path::new(STDIN))
    }

    /// Whether there are several directories, each taken for a host.
    pub fn are_directories(&self) -> bool {
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

/// How hosts are called whose lines name none, by other lines of the same directory: `audit.log` has no name, and
/// `syslog` beside it has one.
#[derive(Debug, Default)]
pub(crate) struct OwnNames {
    /// The name that the first lines tell; none where they tell several.
    told: HashMap<Arc<str>, Option<Arc<str>>>,
    /// The names that were given.
    given: HashSet<Arc<str>>,
}

impl OwnNames {
    /// A line among those of a host without a name names this one.
    pub(crate) fn tells(&mut self, host: &Arc<str>, name: CompactString) {
        if name.starts_with("localhost") {
            return;
        }
        match self.told.get_mut(host) {
            None => {
                self.told.insert(Arc::clone(host), Some(name.as_str().into()));
            }
            Some(told) => *told = told.take().filter(|told| is_same(told, &name)),
        }
    }

    /// What a host without a name is called.
    pub(crate) fn of(&mut self, host: &Arc<str>) -> Arc<str> {
        let Some(name) = self.told.get(host).and_then(Option::as_ref) else { return Arc::clone(host) };
        if !self.given.contains(name) {
            self.given.insert(Arc::clone(name));
        }
        Arc::clone(name)
    }

    /// Whether a host is called so by other lines than its own.
    pub(crate) fn has(&self, name: &Arc<str>) -> bool {
        self.given.contains(name)
    }
}

/// Whether two names are of one host: auditd may write `web1.example.org` where syslog writes `web1`.
pub(crate) fn is_same(a: &str, b: &str) -> bool {
    let (long, short) = if a.len() > b.len() { (a, b) } else { (b, a) };
    long.strip_prefix(short).is_some_and(|domain| domain.is_empty() || domain.starts_with('.'))
}

/// The directory that holds all that one host keeps of logs.
fn root(path: &Path) -> PathBuf {
    if path == Path::new(STDIN) {
        return path.to_owned();
    }
    let path = absolute(path);
    let mut root = path.parent().map(Path::to_owned).unwrap_or_default();
    while let Some(Component::Normal(name)) = root.components().next_back()
        && PLACES.iter().any(|place| *place == name)
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

/// How many names all directories begin with; the last of each is always told.
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
    fn directories_are_hosts_named_by_what_tells_them_apart() {
        assert_eq!(named(&["/logs/h1/audit.log", "/logs/h2/audit.log"]), ["h1", "h2"]);
        assert_eq!(named(&["/l/r1/h1/audit.log", "/l/r2/h1/audit.log"]), ["r1/h1", "r2/h1"]);
        assert_eq!(named(&["/l/audit.log", "/l/h1/audit.log"]), ["l", "l/h1"]);
        assert_eq!(named(&["/l/audit.log", "-"]), ["l", "-"]);
        assert_eq!(named(&["/l/h1/audit.log", "-"]), ["h1", "-"]);
    }

    #[test]
    fn what_a_host_keeps_in_several_places_is_one_hosts() {
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

    #[test]
    fn a_hosts_name_may_have_its_domain() {
        for (a, b, same) in [
            ("web1", "web1", true),
            ("web1", "web1.example.org", true),
            ("web1.example.org", "web1", true),
            ("web1", "web10", false),
            ("web1.example.org", "web1.example.com", false),
            (UNKNOWN, "web1", false),
        ] {
            assert_eq!(is_same(a, b), same, "{a} {b}");
        }
    }
}
