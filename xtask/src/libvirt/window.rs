//! The part of a log that belongs to one scenario.

/// The lines of an audit log between the record that has the first mark and the one that has the
/// last, without these. None if a mark is not there.
pub(super) fn between(log: &str, first: &str, last: &str) -> Option<String> {
    let mut lines = log.split_inclusive('\n');
    lines.by_ref().find(|line| has(line, first))?;
    let mut inside = String::new();
    for line in lines {
        if has(line, last) {
            return Some(inside);
        }
        inside.push_str(line);
    }
    None
}

/// Whether a line has this mark as a whole word.
fn has(line: &str, mark: &str) -> bool {
    line.split([' ', '=', '\'', '"']).any(|word| word == mark)
}

/// The lines of libvirt's own log with its audit records, warnings and errors.
pub(super) fn audited(log: &str) -> String {
    let marks = [" : virDomainAudit", ": warning : ", ": error : "];
    let wanted = |line: &&str| marks.iter().any(|mark| line.contains(mark));
    log.split_inclusive('\n').filter(wanted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_what_lies_between_its_marks() {
        let log =
            "a\nmsg='begin-1 exe=x'\nb\nc\nmsg='end-1 exe=x'\nmsg='begin-11 exe=x'\nd\nmsg='end-11 x'\n";
        assert_eq!(between(log, "begin-1", "end-1").as_deref(), Some("b\nc\n"));
        assert_eq!(between(log, "begin-11", "end-11").as_deref(), Some("d\n"));
        assert_eq!(between(log, "begin-2", "end-2"), None);
        assert_eq!(between(log, "begin-11", "end-1"), None);
    }

    #[test]
    fn of_libvirts_log_audits_and_warnings_are_kept() {
        let log = "\
2026-11-25 20:00:00.000+0000: 9: info : libvirt version: 9.0.0
2026-11-25 20:00:01.000+0000: 9: info : virDomainAuditNetDevice:318 : success=yes virt=kvm
2026-11-25 20:00:02.000+0000: 9: info : qemuProcessStart:1 : nothing of interest
2026-11-25 20:00:03.000+0000: 9: warning : qemuInterfaceOpenVhostNet:762 : Unable to open vhost-net.
2026-11-25 20:00:04.000+0000: 9: error : qemuProcessReportLogError:1 : internal error
";
        let kept: Vec<_> = audited(log).lines().map(|line| line[24..].to_owned()).collect();
        assert_eq!(kept.len(), 3, "{kept:?}");
    }
}
