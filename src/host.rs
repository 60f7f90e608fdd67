//! A host with an optional port, as a request's `host` field and `PUBLIC_URL` have it. It comes from anybody and goes into
//! pages, into commands that people paste, and into redirects, so that its grammar is narrow.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The longest DNS name, in bytes.
const MAX_NAME_BYTES: usize = 253;
/// The longest `host:port`, in bytes, with the dot that a name may end in.
const MAX_BYTES: usize = MAX_NAME_BYTES + ".:65535".len();

/// A DNS name, an IPv4 address, or an IPv6 address in brackets: letters, digits and `.-_:[]` only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// In lower case, without the dot that ends a full name.
    pub name: String,
    /// Never zero.
    pub port: Option<u16>,
}

impl Host {
    /// Reads `host` or `host:port`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_BYTES {
            return None;
        }
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']')?;
                let address: Ipv6Addr = address.parse().ok()?;
                (format!("[{address}]"), port)
            }
            None => {
                let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
                let name = name.strip_suffix('.').unwrap_or(name);
                (is_name(name).then(|| name.to_ascii_lowercase())?, port)
            }
        };
        let port = match port.strip_prefix(':') {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().ok().filter(|port| *port != 0)?)
            }
            None if port.is_empty() => None,
            _ => return None,
        };
        Some(Self { name, port })
    }

    /// Reads a request's `host` field.
    #[must_use]
    pub fn of_field(value: &[u8]) -> Option<Self> {
        Self::parse(std::str::from_utf8(value).ok()?)
    }

    /// Whether it can only mean the machine that it is written on.
    #[must_use]
    pub fn is_this_machine(&self) -> bool {
        let address = self.name.trim_matches(['[', ']']);
        self.name == "localhost"
            || self.name.ends_with(".localhost")
            || address.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback())
            || address.parse().is_ok_and(|address: Ipv6Addr| address.is_loopback())
    }

    /// A URL without a path, and without the port that is the scheme's own.
    #[must_use]
    pub fn url(&self, https: bool) -> String {
        let (scheme, usual) = if https { ("https", 443) } else { ("http", 80) };
        let port = self.port.filter(|port| *port != usual).map(|port| format!(":{port}")).unwrap_or_default();
        format!("{scheme}://{}{port}", self.name)
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
    text.len() <= MAX_NAME_BYTES && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_and_addresses() {
        for (text, name, port) in [
            ("gateway.example", "gateway.example", None),
            ("Gateway.Example:80", "gateway.example", Some(80)),
            ("gateway.example.:443", "gateway.example", Some(443)),
            ("gateway_1", "gateway_1", None),
            ("127.0.0.1:8080", "127.0.0.1", Some(8080)),
            ("[::1]:80", "[::1]", Some(80)),
            ("[2001:DB8:0::1]", "[2001:db8::1]", None),
        ] {
            assert_eq!(Host::parse(text), Some(Host { name: name.into(), port }), "{text}");
        }
    }

    #[test]
    fn whatever_is_no_host_is_refused() {
        let long = "a.".repeat(200) + "example";
        for text in [
            "", ".", "..", ":80", "a..b", "a..", "-a", "a-", "a b", "a/b", "a@b", "a?b", "a#b", "<b>", "a\"", "a'",
            "a`b`", "$(a)", "a;b", "a&b", "a:", "a:b", "a:0", "a:65536", "a:+1", "a:1:2", "[::1", "[::1]x", "[a]",
            "[a@b]", "[::1%a]", "::1", "é", "a%20b", "a\\b", "a,b", &long, "a\u{0}", "a\r\nb",
        ] {
            assert_eq!(Host::parse(text), None, "{text}");
        }
        assert_eq!(Host::of_field(b"\xff"), None);
    }

    proptest! {
        #[test]
        fn no_host_leads_elsewhere(bytes in any::<Vec<u8>>(), text in "[a-zA-Z0-9.:\\[\\]_-]{0,40}") {
            for field in [&bytes[..], text.as_bytes()] {
                let Some(host) = Host::of_field(field) else { continue };
                for https in [true, false] {
                    let url: http::Uri = host.url(https).parse().unwrap();
                    prop_assert_eq!(url.host(), Some(&*host.name));
                    prop_assert_eq!(url.path(), "/");
                    prop_assert!(url.query().is_none());
                }
                // What is written says the same when it is read again.
                let port = host.port.map(|port| format!(":{port}")).unwrap_or_default();
                prop_assert_eq!(Host::parse(&format!("{}{port}", host.name)), Some(host));
            }
        }
    }
}
