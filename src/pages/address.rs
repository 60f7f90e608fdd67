//! Where clients find the gateway. It stands in pages, and in commands that people paste, so that its grammar is narrow.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The longest `host:port`, in bytes: a name has 253 at most.
const MAX_AUTHORITY_BYTES: usize = 253 + 6;

/// Scheme, host and port: letters, digits and `.-_:[]/` only. `http` is for this machine's own names alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl(String);

impl PublicUrl {
    /// Reads `https://host` with an optional port, or `http://` with a name of this machine itself.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('/').unwrap_or(text);
        let (https, authority) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return None,
        };
        let authority = Authority::parse(authority)?;
        (https || authority.is_this_machine()).then(|| authority.with_scheme(https))
    }

    /// What a request's `host` field says. Any other machine than this one is called by `https`, since TLS ends in front
    /// of the gateway if it does not end here.
    #[must_use]
    pub fn of_host(host: &[u8], tls_ends_here: bool) -> Option<Self> {
        let authority = Authority::parse(std::str::from_utf8(host).ok()?)?;
        let https = tls_ends_here || !authority.is_this_machine();
        Some(authority.with_scheme(https))
    }

    /// The URL, without a slash at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Stands where nobody said where the gateway is.
impl Default for PublicUrl {
    fn default() -> Self {
        Self("https://your-gateway.example".to_owned())
    }
}

struct Authority {
    host: String,
    port: Option<u16>,
}

impl Authority {
    fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_AUTHORITY_BYTES {
            return None;
        }
        let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(Some((address, rest))) => {
                let address: Ipv6Addr = address.parse().ok()?;
                (format!("[{address}]"), rest)
            }
            Some(None) => return None,
            None => {
                let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
                (is_name(name).then(|| name.to_ascii_lowercase())?, port)
            }
        };
        let port = match port.strip_prefix(':') {
            Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().ok().filter(|port| *port != 0)?)
            }
            Some(_) => return None,
            None if port.is_empty() => None,
            None => return None,
        };
        Some(Self { host, port })
    }

    fn is_this_machine(&self) -> bool {
        let address = self.host.trim_matches(['[', ']']);
        self.host == "localhost"
            || self.host.ends_with(".localhost")
            || address.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback())
            || address.parse().is_ok_and(|address: Ipv6Addr| address.is_loopback())
    }

    fn with_scheme(self, https: bool) -> PublicUrl {
        let (scheme, usual) = if https { ("https", 443) } else { ("http", 80) };
        let port = self.port.filter(|port| *port != usual).map(|port| format!(":{port}")).unwrap_or_default();
        PublicUrl(format!("{scheme}://{}{port}", self.host))
    }
}

/// A DNS name or an IPv4 address. Underscores, which names of containers have, harm nobody.
fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of_host(host: &str) -> Option<String> {
        PublicUrl::of_host(host.as_bytes(), false).map(|url| url.0)
    }

    #[test]
    fn only_this_machine_is_called_by_http() {
        for (host, url) in [
            ("ai.example.com", "https://ai.example.com"),
            ("AI.Example.com:443", "https://ai.example.com"),
            ("ai.example.com:8443", "https://ai.example.com:8443"),
            ("10.0.0.7:8080", "https://10.0.0.7:8080"),
            ("[2001:db8::1]", "https://[2001:db8::1]"),
            ("gateway_1:80", "https://gateway_1:80"),
            ("localhost:8080", "http://localhost:8080"),
            ("LOCALHOST", "http://localhost"),
            ("app.localhost:80", "http://app.localhost"),
            ("127.0.0.1:9", "http://127.0.0.1:9"),
            ("127.9.9.9", "http://127.9.9.9"),
            ("[::1]:8080", "http://[::1]:8080"),
            ("localhost.example.com", "https://localhost.example.com"),
            ("127.0.0.1.example.com", "https://127.0.0.1.example.com"),
        ] {
            assert_eq!(of_host(host).as_deref(), Some(url), "{host}");
        }
        let own = |host: &str| PublicUrl::of_host(host.as_bytes(), true).map(|url| url.0);
        assert_eq!(own("localhost:8443").as_deref(), Some("https://localhost:8443"));
        assert_eq!(own("ai.example.com").as_deref(), Some("https://ai.example.com"));
    }

    #[test]
    fn whatever_is_no_host_is_refused() {
        let long = "a.".repeat(200) + "example";
        for host in [
            "", ".", "a..b", "a.", "-a", "a-", "a b", "a/b", "a@b", "a?b", "a#b", "<b>", "a\"", "a'", "a`b`", "$(a)",
            "a;b", "a&b", "a:", "a:0", "a:65536", "a:+1", "a:1:2", "[::1", "[::1]x", "[a]", "::1", "é", "a%20b",
            "a\\b", "a,b", &long, "a\u{0}",
        ] {
            assert_eq!(of_host(host), None, "{host}");
        }
        assert!(PublicUrl::of_host(b"\xff", false).is_none());
    }

    #[test]
    fn settings() {
        let parse = |text| PublicUrl::parse(text).map(|url| url.0);
        assert_eq!(parse("https://ai.example.com").as_deref(), Some("https://ai.example.com"));
        assert_eq!(parse("https://ai.example.com:8443/").as_deref(), Some("https://ai.example.com:8443"));
        assert_eq!(parse("http://localhost:8080").as_deref(), Some("http://localhost:8080"));
        assert_eq!(parse("https://localhost:8443").as_deref(), Some("https://localhost:8443"));
        for bad in [
            "http://ai.example.com",
            "ai.example.com",
            "https://",
            "https:///",
            "https://a/v1",
            "https://a//",
            "https://u:p@a",
            "https://a?b",
            "ftp://a",
            "https://a b",
            "https://<a>",
            "HTTPS://a",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_host_brings_in_what_means_something_elsewhere(host in any::<Vec<u8>>(), text in "[a-z0-9.:\\[\\]-]{0,40}") {
            for (host, tls) in [(&host[..], false), (text.as_bytes(), false), (text.as_bytes(), true)] {
                if let Some(url) = PublicUrl::of_host(host, tls) {
                    prop_assert!(url.0.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]/".contains(&byte)));
                    prop_assert!(url.0.len() <= MAX_AUTHORITY_BYTES + 16);
                    // What is shown says the same when it is read again.
                    prop_assert_eq!(PublicUrl::parse(&url.0), Some(url));
                }
            }
        }
    }
}
