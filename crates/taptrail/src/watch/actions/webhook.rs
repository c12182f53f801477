//! Calls a webhook for a finding: POST of one JSON object.

use std::fs;
use std::str::FromStr;
use std::time::Duration;

use taptrail_trail::FindingKind;
use ureq::Agent;
use ureq::http::Uri;
use ureq::tls::{RootCerts, TlsConfig};

use super::Action;

/// How long one call may take, from the look-up of its host to the end of its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Attempts, and the pause before the second one; it is longer each time.
const MAX_ATTEMPTS: u32 = 3;
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The URL of a webhook.
#[derive(Clone)]
pub(crate) struct Url {
    uri: String,
    /// The part that may be logged: the path may have a secret.
    shown: String,
    agent: Agent,
    pause: Duration,
}

impl std::fmt::Debug for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Url").field(&self.shown).finish()
    }
}

impl FromStr for Url {
    type Err = String;

    /// An `http` or `https` address, or `@FILE` with one in its first line.
    fn from_str(text: &str) -> Result<Self, String> {
        let address = match text.strip_prefix('@') {
            Some(file) => {
                fs::read_to_string(file).map_err(|error| format!("{file} can't be read: {error}"))?
            }
            None => text.to_owned(),
        };
        let address = address.lines().next().unwrap_or_default().trim();
        let uri: Uri = address.parse().map_err(|_| "it is no address like https://HOST/PATH".to_owned())?;
        let (Some(scheme @ ("http" | "https")), Some(host)) = (uri.scheme_str(), uri.authority()) else {
            return Err("it is no address like https://HOST/PATH".to_owned());
        };
        if host.as_str().contains('@') {
            return Err("names and passwords in an address are not used".to_owned());
        }
        let shown = format!("{scheme}://{host}/…");
        Ok(Self { uri: uri.to_string(), shown, agent: agent(), pause: RETRY_DELAY })
    }
}

/// An agent that checks certificates against the host's authorities, as they are at its first call.
fn agent() -> Agent {
    Agent::config_builder()
        .timeout_global(Some(REQUEST_TIMEOUT))
        // Only the configured host gets the finding.
        .max_redirects(0)
        .proxy(None)
        .user_agent(concat!("taptrail/", env!("CARGO_PKG_VERSION")))
        .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build())
        .build()
        .new_agent()
}

impl Action for Url {
    fn run(&mut self, _: FindingKind, json: &str) -> Result<(), String> {
        let mut pause = self.pause;
        for left in (0..MAX_ATTEMPTS).rev() {
            let Err(error) = self.call(json) else { return Ok(()) };
            // The host's authorities may change while we run for months.
            self.agent = agent();
            if left == 0 {
                return Err(format!("{}: {error}", self.shown));
            }
            std::thread::sleep(pause);
            pause *= 4;
        }
        Ok(())
    }
}

impl Url {
    fn call(&self, json: &str) -> Result<(), ureq::Error> {
        let answer = self.agent.post(&self.uri).content_type("application/json").send(json)?;
        // The body of the answer is not read.
        if answer.status().is_success() {
            Ok(())
        } else {
            Err(ureq::Error::StatusCode(answer.status().as_u16()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// Answers with these statuses, one for each connection, and returns what was sent.
    fn serve(statuses: &'static [&'static str]) -> (String, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/hook?token=secret", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            statuses
                .iter()
                .map(|status| {
                    let (stream, _) = listener.accept().unwrap();
                    let mut reader = BufReader::new(stream);
                    let (mut head, mut length) = (String::new(), 0);
                    loop {
                        let start = head.len();
                        reader.read_line(&mut head).unwrap();
                        let line = head[start..].trim().to_ascii_lowercase();
                        if let Some(value) = line.strip_prefix("content-length:") {
                            length = value.trim().parse().unwrap();
                        }
                        if line.is_empty() {
                            break;
                        }
                    }
                    let mut body = vec![0; length];
                    reader.read_exact(&mut body).unwrap();
                    let mut stream = reader.into_inner();
                    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                        .unwrap();
                    head + std::str::from_utf8(&body).unwrap()
                })
                .collect()
        });
        (address, server)
    }

    fn call(address: &str) -> Result<(), String> {
        let mut url: Url = address.parse().unwrap();
        url.pause = Duration::from_millis(1);
        url.run(FindingKind::LogGap, r#"{"kind":"finding"}"#)
    }

    #[test]
    fn the_finding_is_posted_as_json() {
        let (address, server) = serve(&["204 No Content"]);
        assert_eq!(call(&address), Ok(()));
        let sent = server.join().unwrap().remove(0);
        assert!(sent.starts_with("POST /hook?token=secret HTTP/1.1\r\n"), "{sent}");
        assert!(sent.to_ascii_lowercase().contains("content-type: application/json"), "{sent}");
        assert!(sent.ends_with("\r\n\r\n{\"kind\":\"finding\"}"), "{sent}");
    }

    // Shows 13.29.
    #[test]
    fn a_webhook_that_fails_is_tried_again_and_named_without_its_secret() {
        let (address, server) = serve(&["503 No", "200 OK"]);
        assert_eq!(call(&address), Ok(()));
        assert_eq!(server.join().unwrap().len(), 2);
        let (address, server) = serve(&["500 No", "404 No", "302 Found"]);
        let error = call(&address).unwrap_err();
        server.join().unwrap();
        assert!(error.starts_with("http://127.0.0.1:") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn only_an_address_is_taken_and_a_file_may_have_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "https://example.org/x?token=1\n").unwrap();
        let url: Url = format!("@{}", file.path().display()).parse().unwrap();
        assert_eq!(
            (url.uri.as_str(), format!("{url:?}")),
            ("https://example.org/x?token=1", "Url(\"https://example.org/…\")".to_owned())
        );
        for none in [
            "",
            "example.org",
            "ftp://example.org/",
            "https://",
            "https://user:word@example.org/",
            "@/no/file",
        ] {
            assert!(none.parse::<Url>().is_err(), "{none}");
        }
    }
}
