use super::socket::word;

/// The kernel's audit status (`struct audit_status`, linux/audit.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditStatus {
    /// Records are logged (`auditctl -e 1` or `-e 2`).
    pub enabled: bool,
    /// The configuration can't change until the next boot (`auditctl -e 2`).
    pub locked: bool,
    /// The process that receives the records, usually auditd. Without one the kernel prints records
    /// to its own log, rate-limited, and multicasts them: no program stores them.
    pub daemon: Option<u32>,
    /// Records per second before the kernel drops some; 0 is no limit.
    pub rate_limit: u32,
    /// Records that may wait for the daemon; 0 is no limit.
    pub backlog_limit: u32,
    /// Records waiting now.
    pub backlog: u32,
    /// Records lost since boot: backlog or rate limit exceeded, or no memory.
    pub lost: u32,
}

impl AuditStatus {
    /// Parses at least eight 32-bit words; newer kernels append more.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let enabled = word(payload, 4)?;
        Some(Self {
            enabled: enabled != 0,
            locked: enabled == 2,
            daemon: Some(word(payload, 12)?).filter(|pid| *pid != 0),
            rate_limit: word(payload, 16)?,
            backlog_limit: word(payload, 20)?,
            lost: word(payload, 24)?,
            backlog: word(payload, 28)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_eight_words_and_maybe_more() {
        let words = [0_u32, 2, 1, 812, 100, 8192, 3, 4, 0x7f, 15000];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let status = AuditStatus::parse(&bytes).unwrap();
        assert_eq!(
            status,
            AuditStatus {
                enabled: true,
                locked: true,
                daemon: Some(812),
                rate_limit: 100,
                backlog_limit: 8192,
                lost: 3,
                backlog: 4
            }
        );
        assert_eq!(AuditStatus::parse(&bytes[..31]), None);
    }
}
