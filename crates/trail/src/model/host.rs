/// Whether two names are of one host: auditd may write `web1.example.org` where syslog writes
/// `web1`. Two different domains are two hosts.
pub fn is_same_host(a: &str, b: &str) -> bool {
    let (long, short) = if a.len() > b.len() { (a, b) } else { (b, a) };
    let domain = long.strip_prefix(short);
    domain.is_some_and(|domain| domain.is_empty() || (domain.starts_with('.') && !short.contains('.')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_name_may_have_its_domain() {
        for (a, b, same) in [
            ("web1", "web1", true),
            ("web1", "web1.example.org", true),
            ("web1.example.org", "web1", true),
            ("web1", "web10", false),
            ("web1.example.org", "web1.example.com", false),
            ("web1.example", "web1.example.org", false),
            ("?", "web1", false),
        ] {
            assert_eq!(is_same_host(a, b), same, "{a} {b}");
        }
    }
}
