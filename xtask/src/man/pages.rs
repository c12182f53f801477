//! The pages that are made from documents, with the sections that a manual page has and a document
//! has not.

use anyhow::Result;
use roff::roman;

use super::markdown::{Links, convert};
use super::text::{Title, begin, see_also, source};

/// A page.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) name: &'static str,
    /// The manual's section.
    pub(super) section: char,
    about: &'static str,
    /// Path of the document, from the root of the repository.
    pub(super) document: &'static str,
    /// Markdown of the sections before the description.
    before: &'static str,
    /// Markdown of the sections behind the document's own.
    after: &'static str,
    see_also: &'static [(&'static str, char)],
}

pub(super) const PAGES: [Page; 4] = [
    Page {
        name: "taptrail.toml",
        section: '5',
        about: "a guest of taptrail, described in a file",
        document: "docs/guest-files.md",
        before: "## Synopsis\n\n**/etc/taptrail/guests/**_NAME_**.toml**\n",
        after: "\
## Files

| File | Says |
|---|---|
| `/etc/taptrail/guests/NAME.toml` | the guest file of taptrail@NAME.service |
| `/run/taptrail/NAME` | the sockets, the lock and the log of the running guest |
",
        see_also: &[("taptrail-run", '1'), ("taptrail-check", '1'), ("taptrail-adopt", '1'), ("systemd.service", '5')],
    },
    Page {
        name: "taptrail-nic-spec",
        section: '7',
        about: "an interface of a guest of taptrail, as a SPEC or as libvirt's XML",
        document: "docs/nic-spec.md",
        before: "",
        after: "",
        see_also: &[("taptrail-attach", '1'), ("taptrail-run", '1'), ("taptrail.toml", '5'), ("ip-link", '8')],
    },
    Page {
        name: "taptrail-records",
        section: '7',
        about: "the audit records that taptrail writes",
        document: "docs/records.md",
        before: "",
        after: "\
## Files

| File | Says |
|---|---|
| `/var/log/audit/audit.log` | the kernel's audit, as auditd(8) writes it |
| `/var/lib/taptrail/ledger.sqlite` | the ledger; `taptrail ledger export` prints its records as an audit log |
",
        see_also: &[
            ("taptrail", '1'),
            ("taptrail-events", '1'),
            ("taptrail-ledger-export", '1'),
            ("taptrail-trail", '1'),
            ("taptrail-watch", '1'),
            ("auditd", '8'),
            ("ausearch", '8'),
        ],
    },
    Page {
        name: "taptrail-bridge-helper",
        section: '8',
        about: "open a tap on a bridge for an unprivileged user's QEMU",
        document: "docs/bridge-helper.md",
        before: "## Synopsis\n\n**taptrail-bridge-helper** [**--use-vnet**] **--br=**_BRIDGE_ **--fd=**_N_\n",
        after: "\
## Options

QEMU and libvirt write them. Of an option that is given twice, the last one counts.

| Option | Says |
|---|---|
| `--br=BRIDGE` | the bridge |
| `--fd=N` | the number of the connected unix socket over which the tap's descriptor is passed |
| `--use-vnet` | frames on the tap have a header of virtio-net in front |

## Exit status

| Code | Says |
|---|---|
| `0` | the descriptor was passed |
| `1` | it was not: the reason is on standard error |

## Files

| File | Says |
|---|---|
| `/etc/qemu/bridge.conf` | the ACL |
| `/dev/net/tun` | the device behind each tap |
",
        see_also: &[
            ("taptrail", '1'),
            ("taptrail-records", '7'),
            ("capabilities", '7'),
            ("ausearch", '8'),
            ("setcap", '8'),
        ],
    },
];

impl Page {
    /// The page, of the document's text.
    pub(super) fn roff(&self, document: &str, version: &str, date: &str) -> Result<String> {
        let (name, section, about) = (self.name, self.section, self.about);
        let mut roff = begin(Title { name, section, version, date, about });
        let mut links = Links::default();
        roff.extend([convert(self.before, &mut links)?]);
        roff.control("SH", ["DESCRIPTION"]);
        roff.extend([convert(document, &mut links)?]);
        roff.extend([convert(self.after, &mut links)?]);
        see_also(&mut roff, self.see_also.iter().copied());
        let documents = links.documents();
        if !documents.is_empty() {
            let list = documents.join(", ");
            roff.control("PP", [])
                .text([roman(format!("The documents of taptrail that this page names: {list}"))]);
        }
        Ok(source(&roff))
    }
}

/// The page that is made from a document, as other pages refer to it.
pub(super) fn page_of(document: &str) -> Option<(&'static str, char)> {
    PAGES
        .iter()
        .find(|page| page.document.ends_with(&format!("/{document}")))
        .map(|page| (page.name, page.section))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::Path;
    use std::process::{Command, Stdio};

    use super::*;

    fn roff(page: &Page) -> String {
        let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(page.document);
        page.roff(&std::fs::read_to_string(document).unwrap(), "1.2.3", "2026-11-30").unwrap()
    }

    /// What a command prints on standard output and standard error, with a text as its input.
    fn through(command: &mut Command, text: &str) -> (String, String) {
        let (stdin, stdout, stderr) = (Stdio::piped(), Stdio::piped(), Stdio::piped());
        let mut child = command.stdin(stdin).stdout(stdout).stderr(stderr).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let text = text.to_owned();
        let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    fn man(options: &[&str]) -> Command {
        let mut man = Command::new("/usr/bin/man");
        man.env("MANWIDTH", "80").env("LC_ALL", "C.UTF-8").args(options).args(["-l", "-"]);
        man
    }

    #[test]
    fn mandoc_and_groff_find_nothing_wrong_with_a_page() {
        for page in &PAGES {
            let roff = roff(page);
            let (said, _) = through(Command::new("/usr/bin/mandoc").args(["-T", "lint"]), &roff);
            assert_eq!(said, "", "{}", page.name);
            let (_, said) = through(&mut man(&["--warnings", "-E", "UTF-8", "-Tutf8", "-Z"]), &roff);
            assert_eq!(said, "", "{}", page.name);
        }
    }

    #[test]
    fn no_section_of_a_page_is_empty_and_no_line_is_too_long() {
        for page in &PAGES {
            let (text, _) = through(&mut man(&["-P", "/bin/cat"]), &roff(page));
            let lines: Vec<&str> = text.lines().collect();
            for wanted in ["NAME", "DESCRIPTION", "SEE ALSO"] {
                assert!(lines.contains(&wanted), "{} has no {wanted}", page.name);
            }
            let indent = |line: &str| line.len() - line.trim_start().len();
            for (at, line) in lines.iter().enumerate().filter(|(_, line)| !line.is_empty()) {
                assert!(line.chars().count() <= 80, "{}: {line}", page.name);
                let next = lines[at + 1..].iter().find(|line| !line.is_empty());
                // The first and the last line are the page's head and foot.
                if indent(line) <= 3 && at > 0 && next.is_some() {
                    assert!(next.is_some_and(|next| indent(next) > indent(line)), "{}: {line}", page.name);
                }
            }
        }
    }

    #[test]
    fn a_page_has_what_its_document_has() {
        let (text, _) = through(
            &mut man(&["-P", "/bin/cat"]),
            &roff(PAGES.iter().find(|page| page.name == "taptrail-records").unwrap()),
        );
        for word in ["held-elsewhere", "VIRT_RESOURCE", "claimed-uuid", "taptrail-bridge-helper(8)", "2501"] {
            assert!(text.contains(word), "{word}");
        }
    }
}
