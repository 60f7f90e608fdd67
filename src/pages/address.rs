//! Where clients find the gateway. It stands in pages, and in commands that people paste.

use crate::host::Host;

/// Scheme, host and port, whose grammar is that of [`Host`]. `http` is for this machine's own names alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl(String);

impl PublicUrl {
    /// Reads `https://host` with an optional port, or `http://` with a name of this machine itself.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('/').unwrap_or(text);
        let (https, host) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return None,
        };
        let host = Host::parse(host)?;
        (https || host.is_this_machine()).then(|| Self(host.url(https)))
    }

    /// What a request's `host` field says. Any other machine than this one is called by `https`, since TLS ends in front
    /// of the gateway if it does not end here.
    #[must_use]
    pub fn of_host(field: &[u8], tls_ends_here: bool) -> Option<Self> {
        let host = Host::of_field(field)?;
        Some(Self(host.url(tls_ends_here || !host.is_this_machine())))
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
            ("ai.example.com.", "https://ai.example.com"),
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
        assert_eq!(of_host("a b"), None);
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
                    // What is shown says the same when it is read again.
                    prop_assert_eq!(PublicUrl::parse(&url.0), Some(url));
                }
            }
        }
    }
}
