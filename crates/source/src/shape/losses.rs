//! Parses messages about lost records, in the kernel's log and from auditd and loggers.

use bstr::ByteSlice as _;
use taptrail_trail::{Content, Gap, GapReason};

use super::stamp;

/// The content of a kernel message that is no audit record: it dropped records (kernel/audit.c), or
/// has just booted.
pub(super) fn of_kernel(text: &[u8]) -> Option<Content> {
    if text.starts_with(b"Linux version ") {
        return Some(Content::Boot);
    }
    if let Some((function, rest)) = text.split_once_str(b": ")
        && matches!(function, b"kauditd_printk_skb" | b"audit_printk_skb")
    {
        let count = rest.trim_ascii_end().strip_suffix(b" callbacks suppressed")?;
        return stamp::number::<u64>(count).map(|_| gap(GapReason::RateLimited));
    }
    if let Some(count) =
        text.strip_prefix(b"** ").and_then(|text| text.strip_suffix(b" printk messages dropped **"))
    {
        return stamp::number::<u64>(count).map(|_| gap(GapReason::RateLimited));
    }
    let text = text.strip_prefix(b"audit: ")?.trim_ascii_end();
    let dropped = text.starts_with(b"audit_lost=")
        || text.starts_with(b"audit_backlog=")
        || matches!(
            text,
            b"backlog limit exceeded"
                | b"rate limit exceeded"
                | b"kauditd hold queue overflow"
                | b"kauditd retry queue overflow"
                | b"out of memory in audit_log_start"
        );
    dropped.then(|| gap(GapReason::Backlog))
}

/// The content of a message from auditd or a dispatcher about itself.
///
/// auditd says that it is *attempting* to resume; only newer versions say that it did. If the
/// attempt fails, it says again that it suspends.
pub(super) fn of_daemon(text: &[u8]) -> Option<Content> {
    if text.starts_with(b"type=") || text.starts_with(b"node=") {
        return None;
    }
    if text.starts_with(b"Audit daemon is suspending logging")
        || text.starts_with(b"Audit daemon") && text.contains_str(b"logging suspended")
    {
        return Some(Content::RecordingStopped(GapReason::Suspended));
    }
    if text.starts_with(b"Audit daemon resumed logging")
        || text.starts_with(b"Audit daemon is attempting to resume logging")
    {
        return Some(Content::RecordingResumed(GapReason::Suspended));
    }
    let full = text.contains_str(b"queue")
        && (text.contains_str(b" full - dropping event") || text.contains_str(b"queue full"))
        // "auditd queue full reporting limit reached": earlier messages reported the loss.
        && !text.contains_str(b"reporting limit reached");
    let lost = text.starts_with(b"dispatch err") && text.contains_str(b"event lost");
    (full || lost).then(|| gap(GapReason::QueueFull))
}

/// The content of a message from journald or rsyslogd about lost messages: of the kernel, which may
/// be audit's, or of any program.
pub(super) fn of_logger(text: &[u8]) -> Option<Content> {
    let counted = |before: &[u8], after: &str| {
        let rest = text.strip_prefix(before)?;
        let count = &rest[..rest.find(after)?];
        stamp::number::<u64>(count)
    };
    let lost = counted(b"Missed ", " kernel messages").is_some()
        // Only losses of programs that write about guests matter.
        || counted(b"Suppressed ", " messages from ").is_some()
            && (text.contains_str(b"virt") || text.contains_str(b"audit"))
        || counted(b"imjournal: ", " messages lost due to rate-limiting").is_some()
        || text.starts_with(b"imuxsock") && text.contains_str(b"due to rate-limiting")
        || text.starts_with(b"imjournal: begin to drop messages due to rate-limiting");
    lost.then(|| gap(GapReason::RateLimited))
}

fn gap(why: GapReason) -> Content {
    Content::Gap(Gap { since: None, serials: None, why })
}

/// `-- Boot 5f1a2b3c4d5e6f708192a3b4c5d6e7f8 --`, which journalctl prints between two boots, and
/// the older `-- Reboot --`: the boot id, if named.
pub(super) fn boot(line: &[u8]) -> Option<Option<u128>> {
    let text = line.strip_prefix(b"-- ")?.trim_ascii_end().strip_suffix(b" --")?;
    match text.strip_prefix(b"Boot ") {
        Some(id) => id128(id).map(Some),
        None => (text == b"Reboot").then_some(None),
    }
}

/// A 128-bit id: 32 hex digits, with dashes or without.
pub(super) fn id128(id: &[u8]) -> Option<u128> {
    matches!(id.len(), 32 | 36).then(|| uuid::Uuid::try_parse_ascii(id).ok())?.map(|id| id.as_u128())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_loss_messages_are_recognized() {
        for (text, why) in [
            ("kauditd_printk_skb: 7 callbacks suppressed", GapReason::RateLimited),
            ("audit_printk_skb: 24 callbacks suppressed", GapReason::RateLimited),
            ("audit: audit_lost=1 audit_rate_limit=0 audit_backlog_limit=64", GapReason::Backlog),
            ("audit: audit_backlog=65 > audit_backlog_limit=64", GapReason::Backlog),
            ("audit: backlog limit exceeded", GapReason::Backlog),
            ("audit: rate limit exceeded", GapReason::Backlog),
            ("audit: kauditd hold queue overflow", GapReason::Backlog),
            ("audit: kauditd retry queue overflow", GapReason::Backlog),
        ] {
            assert_eq!(of_kernel(text.as_bytes()), Some(gap(why)), "{text}");
        }
        assert_eq!(of_kernel(b"Linux version 6.12.0 (x)"), Some(Content::Boot));
        for text in [
            "net_ratelimit: 7 callbacks suppressed",
            "kauditd_printk_skb: many callbacks suppressed",
            "audit: type=1404 audit(1.000:1): enforcing=1",
            "backlog limit exceeded",
            "usb: Linux version ",
        ] {
            assert_eq!(of_kernel(text.as_bytes()), None, "{text}");
        }
    }

    // Shows 10.27.
    #[test]
    fn what_loggers_say_that_they_lost_is_a_gap() {
        for text in [
            "Missed 13 kernel messages",
            "Suppressed 27 messages from libvirtd.service",
            "imjournal: 4711 messages lost due to rate-limiting (20000 allowed within 600 seconds)",
            "imjournal: begin to drop messages due to rate-limiting",
            "imuxsock[pid 812]: begin to drop messages due to rate-limiting",
            "imuxsock lost 12 messages from pid 812 due to rate-limiting",
        ] {
            assert_eq!(of_logger(text.as_bytes()), Some(gap(GapReason::RateLimited)), "{text}");
        }
        for text in ["Missed many kernel messages", "Suppressed 27 messages from ssh.service"] {
            assert_eq!(of_logger(text.as_bytes()), None, "{text}");
        }
        assert_eq!(of_kernel(b"** 12 printk messages dropped **"), Some(gap(GapReason::RateLimited)));
    }

    #[test]
    fn auditds_own_messages_are_recognized() {
        let stopped = Some(Content::RecordingStopped(GapReason::Suspended));
        let resumed = Some(Content::RecordingResumed(GapReason::Suspended));
        let full = Some(gap(GapReason::QueueFull));
        for (text, content) in [
            ("Audit daemon is suspending logging due to low disk space.", &stopped),
            ("Audit daemon is suspending logging due to no space left on logging partition.", &stopped),
            ("Audit daemon is suspending logging due to previously mentioned write error", &stopped),
            ("Audit daemon failed to exec max_log_file_action helper - logging suspended", &stopped),
            ("Audit daemon is attempting to resume logging.", &resumed),
            ("Audit daemon resumed logging.", &resumed),
            ("queue to plugins is full - dropping event", &full),
            ("queue is full - dropping event", &full),
            ("queue to audisp-syslog is full - dropping event", &full),
            ("dispatch err (pipe full) event lost", &full),
            ("auditd queue full reporting limit reached - ending dropped event notifications", &None),
            ("Audit daemon is low on disk space for logging", &None),
            ("Init complete, auditd 3.0.9 listening for events (startup state enable)", &None),
            ("type=X queue full - dropping event", &None),
        ] {
            assert_eq!(&of_daemon(text.as_bytes()), content, "{text}");
        }
    }

    #[test]
    fn a_boot_between_two_lines_may_be_named() {
        let id = 0x5f1a_2b3c_4d5e_6f70_8192_a3b4_c5d6_e7f8;
        assert_eq!(boot(b"-- Boot 5f1a2b3c4d5e6f708192a3b4c5d6e7f8 --"), Some(Some(id)));
        assert_eq!(boot(b"-- Boot 5f1a2b3c-4d5e-6f70-8192-a3b4c5d6e7f8 --\r"), Some(Some(id)));
        assert_eq!(boot(b"-- Reboot --"), Some(None));
        for line in ["-- Boot --", "-- Boot x --", "-- No entries --", "Reboot", "-- Reboot -- x"] {
            assert_eq!(boot(line.as_bytes()), None, "{line}");
        }
    }
}
