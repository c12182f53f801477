//! Decides which requests are answered.
//!
//! A page of another site can have the browser send requests to a loopback address, and by a name
//! that resolves to it (DNS rebinding) read the answers. So a request must name this server in
//! `Host`, and if it has an `Origin`, that must be this server.

use std::net::SocketAddr;

use axum::http::{HeaderMap, HeaderValue, Uri, header};
use ring::digest::{Digest, SHA256, digest};

/// The shortest token, in characters.
const MIN_TOKEN_CHARS: usize = 16;

/// The cookie in which a browser keeps the token.
const COOKIE: &str = "taptrail-token";

/// What clients must show.
#[derive(Debug)]
pub(super) struct Token {
    text: String,
    /// Compared instead of the text: the time that takes shows nothing of it.
    digest: Digest,
}

impl Token {
    pub(super) fn new(text: &str) -> anyhow::Result<Self> {
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte));
        anyhow::ensure!(
            plain && text.len() >= MIN_TOKEN_CHARS,
            "The token must have at least {MIN_TOKEN_CHARS} characters of A-Z, a-z, 0-9, -, _, . and ~"
        );
        Ok(Self { text: text.to_owned(), digest: digest(&SHA256, text.as_bytes()) })
    }

    /// A random one.
    pub(super) fn random() -> Self {
        let text = uuid::Uuid::new_v4().simple().to_string();
        Self { digest: digest(&SHA256, text.as_bytes()), text }
    }

    /// The token itself.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    fn is(&self, shown: &str) -> bool {
        digest(&SHA256, shown.as_bytes()).as_ref() == self.digest.as_ref()
    }
}

/// The decision on a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is answered.
    Answered,
    /// It has the token in its address: the browser gets it as a cookie.
    GivesToken,
    /// It names another server.
    WrongHost,
    /// It comes from another site's page.
    WrongOrigin,
    /// It has no token, or another.
    NoToken,
}

#[derive(Debug)]
pub(super) struct Guard {
    /// What `Host` may be.
    hosts: Vec<String>,
    token: Option<Token>,
}

impl Guard {
    pub(super) fn new(address: SocketAddr, names: &[String], token: Option<Token>) -> Self {
        let port = address.port();
        let mut hosts = vec![address.to_string()];
        if address.ip().is_loopback() {
            hosts.extend([format!("localhost:{port}"), format!("127.0.0.1:{port}"), format!("[::1]:{port}")]);
        }
        for name in names {
            // Behind a proxy the port is another one.
            hosts.extend([name.to_ascii_lowercase(), format!("{}:{port}", name.to_ascii_lowercase())]);
        }
        Self { hosts, token }
    }

    pub(super) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Verdict {
        let text =
            |value: Option<&HeaderValue>| value.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut all = headers.get_all(header::HOST).iter();
        let host = text(all.next()).map(|host| host.to_ascii_lowercase());
        let known = |host: &str| self.hosts.iter().any(|known| known == host);
        if all.next().is_some() || !host.as_deref().is_some_and(known) {
            return Verdict::WrongHost;
        }
        if headers.contains_key(header::ORIGIN) {
            let origin = text(headers.get(header::ORIGIN)).unwrap_or_default().to_ascii_lowercase();
            let from = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            if !from.is_some_and(known) {
                return Verdict::WrongOrigin;
            }
        }
        let Some(token) = &self.token else { return Verdict::Answered };
        let bearer = text(headers.get(header::AUTHORIZATION));
        let bearer = bearer.as_deref().and_then(|value| value.strip_prefix("Bearer "));
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut cookies =
            cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let cookie = cookies.find(|(name, _)| *name == COOKIE).map(|(_, value)| value);
        if bearer.or(cookie).is_some_and(|shown| token.is(shown)) {
            return Verdict::Answered;
        }
        let query = uri.query().unwrap_or_default();
        let given = query.split('&').find_map(|pair| pair.strip_prefix("token="));
        if given.is_some_and(|given| token.is(given)) { Verdict::GivesToken } else { Verdict::NoToken }
    }

    /// The cookie with the token; none if there is no token.
    pub(super) fn cookie(&self) -> Option<String> {
        let token = self.token.as_ref()?;
        Some(format!("{COOKIE}={}; Path=/; HttpOnly; SameSite=Strict", token.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn guard(address: &str, names: &[&str], token: Option<&str>) -> Guard {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        Guard::new(address.parse().unwrap(), &names, token.map(|token| Token::new(token).unwrap()))
    }

    fn check(guard: &Guard, uri: &str, headers: &[(&str, &str)]) -> Verdict {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(header::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        guard.check(&uri.parse().unwrap(), &map)
    }

    #[test]
    fn only_this_server_is_meant() {
        let here = guard("127.0.0.1:7420", &["kvm1.example.org"], None);
        for (host, verdict) in [
            ("127.0.0.1:7420", Verdict::Answered),
            ("LOCALHOST:7420", Verdict::Answered),
            ("[::1]:7420", Verdict::Answered),
            ("kvm1.example.org", Verdict::Answered),
            ("evil.example.org:7420", Verdict::WrongHost),
            ("127.0.0.1", Verdict::WrongHost),
            ("127.0.0.1:80", Verdict::WrongHost),
        ] {
            assert_eq!(check(&here, "/", &[("host", host)]), verdict, "{host}");
        }
        assert_eq!(check(&here, "/", &[]), Verdict::WrongHost);
        let twice = [("host", "127.0.0.1:7420"), ("host", "evil")];
        assert_eq!(check(&here, "/", &twice), Verdict::WrongHost);
    }

    #[test]
    fn a_page_of_another_site_is_refused() {
        let here = guard("127.0.0.1:7420", &[], None);
        for (origin, verdict) in [
            ("http://127.0.0.1:7420", Verdict::Answered),
            ("http://evil.example.org", Verdict::WrongOrigin),
            ("http://127.0.0.1:7420.evil.example.org", Verdict::WrongOrigin),
            ("null", Verdict::WrongOrigin),
        ] {
            let headers = [("host", "127.0.0.1:7420"), ("origin", origin)];
            assert_eq!(check(&here, "/", &headers), verdict, "{origin}");
        }
    }

    #[test]
    fn a_token_is_shown_in_the_address_once_and_then_as_a_cookie() {
        let here = guard("192.0.2.7:7420", &[], Some(TOKEN));
        let host = ("host", "192.0.2.7:7420");
        assert_eq!(check(&here, "/", &[host]), Verdict::NoToken);
        assert_eq!(check(&here, "/?token=0123456789abcdeX", &[host]), Verdict::NoToken);
        assert_eq!(check(&here, &format!("/?token={TOKEN}"), &[host]), Verdict::GivesToken);
        let cookie = here.cookie().unwrap();
        let pair = cookie.split(';').next().unwrap();
        assert_eq!(check(&here, "/", &[host, ("cookie", &format!("a=b; {pair}"))]), Verdict::Answered);
        let bearer = format!("Bearer {TOKEN}");
        assert_eq!(check(&here, "/", &[host, ("authorization", &bearer)]), Verdict::Answered);
        assert_eq!(check(&here, "/", &[host, ("authorization", "Bearer x")]), Verdict::NoToken);
    }

    #[test]
    fn a_random_token_is_another_each_time() {
        let (one, other) = (Token::random(), Token::random());
        assert!(one.is(one.text()) && !one.is(other.text()));
        assert!(Token::new(one.text()).is_ok());
    }

    #[test]
    fn a_token_that_is_short_or_would_need_quoting_is_refused() {
        for text in ["", "short", "0123456789abcde", "0123456789abcdef;", "0123456789abcdef "] {
            assert!(Token::new(text).is_err(), "{text}");
        }
    }
}
