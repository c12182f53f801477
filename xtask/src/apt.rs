//! Packages of Debian's archives, fetched and unpacked beside the system's own package management:
//! other sources, no installation, nothing of the system's changed, no root needed.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

const ARCHIVE: &str = "http://deb.debian.org";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Debian's name for the machine that this program and the virtual machine run on.
pub(crate) const AMD64: &str = "amd64";

/// apt's tools with their own state, in a directory.
#[derive(Debug)]
pub(crate) struct Apt {
    dir: PathBuf,
    architecture: String,
}

impl Apt {
    /// Reads what is in these suites today for machines of this architecture.
    pub(crate) fn update(dir: &Path, architecture: &str, suites: &[&str]) -> Result<Self> {
        ensure!(
            Path::new(KEYRING).exists(),
            "{KEYRING} is missing: install the package debian-archive-keyring"
        );
        for below in ["lists/partial", "cache/archives/partial", "packages"] {
            fs::create_dir_all(dir.join(below))?;
        }
        fs::write(dir.join("sources.list"), sources(architecture, suites))?;
        fs::write(dir.join("preferences"), PREFERENCES)?;
        let apt = Self { dir: dir.to_owned(), architecture: architecture.to_owned() };
        run(apt.tool("apt-get").args(["-qq", "update"]))?;
        Ok(apt)
    }

    /// The package's newest version.
    pub(crate) fn version(&self, package: &str) -> Result<String> {
        let shown = self.show(package)?;
        field(&shown, "Version").map(str::to_owned).with_context(|| format!("{package} has no version"))
    }

    /// Fetches the package and those of the same build that it needs; unpacks them all into a
    /// directory.
    pub(crate) fn unpack(&self, package: &str, into: &Path) -> Result<()> {
        let mut known = BTreeSet::new();
        let mut pending = vec![package.to_owned()];
        while let Some(package) = pending.pop() {
            if !known.insert(package.clone()) {
                continue;
            }
            let shown = self.show(&package)?;
            let of = |name| field(&shown, name).unwrap_or_default();
            pending.extend(same_build(of("Depends"), of("Version")));
        }
        let packages = self.dir.join("packages");
        run(self.tool("apt-get").args(["-qq", "download"]).args(&known).current_dir(&packages))?;
        unpack_all(&packages, into)
    }

    /// Fetches these packages with everything that they depend on, and unpacks them all into a
    /// directory. None is configured: what their scripts would have done is left to the caller.
    pub(crate) fn unpack_system(&self, packages: &[&str], into: &Path) -> Result<()> {
        let options = ["-qq", "install", "--yes", "--download-only", "--no-install-recommends"];
        run(self.tool("apt-get").args(options).args(packages))?;
        unpack_all(&self.dir.join("cache/archives"), into)
    }

    /// The description of the package's newest version.
    fn show(&self, package: &str) -> Result<String> {
        run(self.tool("apt-cache").args(["show", "--no-all-versions", package]))
    }

    /// One of apt's programs that sees nothing of the system's sources and packages.
    fn tool(&self, program: &str) -> Command {
        let setting = |name: &str, value: &dyn AsRef<OsStr>| {
            let mut setting = OsString::from(name);
            setting.push("=");
            setting.push(value);
            setting
        };
        let mut command = Command::new(program);
        for setting in [
            setting("Dir::Etc::SourceList", &self.dir.join("sources.list")),
            setting("Dir::Etc::SourceParts", &"/dev/null"),
            setting("Dir::Etc::Preferences", &self.dir.join("preferences")),
            setting("Dir::Etc::PreferencesParts", &"/dev/null"),
            setting("Dir::State", &self.dir),
            setting("Dir::State::Lists", &self.dir.join("lists")),
            setting("Dir::State::status", &"/dev/null"),
            setting("Dir::Cache", &self.dir.join("cache")),
            // The user `_apt` may not be able to write here.
            setting("APT::Sandbox::User", &"root"),
            setting("APT::Architecture", &self.architecture),
            setting("APT::Architectures", &self.architecture),
            // There is no package database that another process could change.
            setting("Debug::NoLocking", &"true"),
            setting("Acquire::Languages", &"none"),
            // Without it, an archive that can't be reached is no error to `apt-get update`.
            setting("APT::Update::Error-Mode", &"any"),
        ] {
            command.arg("-o").arg(setting);
        }
        command
    }
}

/// Unpacks all packages of a directory into another one, and removes them.
fn unpack_all(packages: &Path, into: &Path) -> Result<()> {
    for file in fs::read_dir(packages)? {
        let file = file?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            unpack(&file, into).with_context(|| format!("Can't unpack {}", file.display()))?;
            fs::remove_file(file)?;
        }
    }
    Ok(())
}

/// Unpacks one package. `dpkg-deb -x` would replace a link to a directory, such as `/bin`, by a
/// directory of the package.
fn unpack(package: &Path, into: &Path) -> Result<()> {
    let mut opened = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("Can't run dpkg-deb")?;
    let files = opened.stdout.take().context("dpkg-deb has no output")?;
    let options = ["--extract", "--keep-directory-symlink", "--preserve-permissions", "--directory"];
    let unpacked = run(Command::new("tar").args(options).arg(into).stdin(files));
    let status = opened.wait()?;
    unpacked?;
    ensure!(status.success(), "dpkg-deb ended with {status}");
    Ok(())
}

/// apt_preferences(5) by which the newest version of all suites is taken. apt would take none from
/// backports by itself.
const PREFERENCES: &str = "Package: *\nPin: release o=Debian*\nPin-Priority: 500\n";

/// sources.list(5) of these suites.
fn sources(architecture: &str, suites: &[&str]) -> String {
    let line = |suite: &&str| {
        let archive = if suite.ends_with("-security") { "debian-security" } else { "debian" };
        format!("deb [arch={architecture} signed-by={KEYRING}] {ARCHIVE}/{archive} {suite} main\n")
    };
    suites.iter().map(line).collect()
}

/// One field of what `apt-cache show` shows.
fn field<'a>(shown: &'a str, name: &str) -> Option<&'a str> {
    shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// The packages in a field of dependencies that are of the very same version: the parts of one
/// kernel.
fn same_build(depends: &str, version: &str) -> Vec<String> {
    let wanted = format!("(= {version})");
    let one = |dependency: &str| {
        let (name, rest) = dependency.trim().split_once(' ')?;
        (rest == wanted).then(|| name.to_owned())
    };
    depends.split(',').filter_map(one).collect()
}

/// Runs a tool, and returns its output, or its error output as an error.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("Can't run {program}"))?;
    if !output.status.success() {
        bail!("{program} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "\
Package: linux-image-7.2.11+deb13-amd64
Version: 7.2.11-1~bpo13+1
Depends: dracut | linux-initramfs-tool, linux-base (>= 4.3~), linux-binary-7.2.11+deb13-amd64 (= 7.2.11-1~bpo13+1), \
linux-modules-7.2.11+deb13-amd64 (= 7.2.11-1~bpo13+1)
Description: Linux";

    #[test]
    fn only_parts_of_the_same_kernel_are_fetched_with_it() {
        let version = field(SHOWN, "Version").unwrap();
        assert_eq!(
            same_build(field(SHOWN, "Depends").unwrap(), version),
            ["linux-binary-7.2.11+deb13-amd64", "linux-modules-7.2.11+deb13-amd64"]
        );
        assert_eq!(field(SHOWN, "Pack"), None);
    }

    #[test]
    fn a_security_suite_is_in_its_own_archive() {
        let sources = sources("arm64", &["stable", "stable-security"]);
        assert!(sources.starts_with("deb [arch=arm64 signed-by="), "{sources}");
        assert!(sources.contains("debian.org/debian stable main\n"), "{sources}");
        assert!(sources.contains("debian.org/debian-security stable-security main\n"), "{sources}");
    }

    #[test]
    fn a_tool_that_fails_is_named_with_its_complaint() {
        let said = run(Command::new("sh").args(["-c", "echo no such package >&2; exit 100"])).unwrap_err();
        assert_eq!(said.to_string(), "sh failed: no such package");
    }
}
