//! What upstream has to know of a request's head.

use crate::payload::Form;

/// A head, as far as it has been shown.
#[derive(Debug, Default)]
pub(super) struct Request {
    is_wrong: bool,
    has_fields: bool,
    has_method: bool,
    has_scheme: bool,
    has_authority: bool,
    has_path: bool,
    has_authorization: bool,
    /// The form that its path is of, and that of its bearer.
    pub(super) form: Option<&'static Form>,
    form_of_bearer: Option<&'static Form>,
    /// `content-length`, where there is one.
    pub(super) length: Option<u64>,
}

impl Request {
    /// Takes the next field. Each may be there once, and has to be what Vertex AI would want.
    pub(super) fn show(&mut self, name: &[u8], value: &[u8]) {
        let is_right = match name {
            b":method" => first(&mut self.has_method) && !self.has_fields && value == b"POST",
            b":scheme" => first(&mut self.has_scheme) && !self.has_fields,
            b":path" => {
                self.form = Form::find(|form| value == form.path.as_bytes());
                first(&mut self.has_path) && !self.has_fields
            }
            b":authority" => first(&mut self.has_authority) && !self.has_fields,
            b"authorization" => {
                self.form_of_bearer = Form::find(|form| value == form.bearer.as_bytes());
                first(&mut self.has_authorization)
            }
            b"content-length" => {
                let length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                self.length.is_none() && length.is_some() && {
                    self.length = length;
                    true
                }
            }
            b"te" => value == b"trailers",
            // What is of HTTP/1.1's connections only.
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => false,
            _ => !name.is_empty() && name[0] != b':' && !name.iter().any(u8::is_ascii_uppercase),
        };
        self.has_fields |= !name.starts_with(b":");
        self.is_wrong |= !is_right;
    }

    /// Whether the head that has been shown is whole and right.
    pub(super) fn is_right(&self) -> bool {
        let is_authorized = self.form.is_some() && self.form == self.form_of_bearer;
        !self.is_wrong && self.has_method && self.has_scheme && is_authorized
    }
}

/// Notes that something is there; whether it was not before.
fn first(is_there: &mut bool) -> bool {
    !std::mem::replace(is_there, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{PASSED, REWRITTEN};

    const RIGHT: [(&str, &str); 6] = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", REWRITTEN.path),
        ("authorization", REWRITTEN.bearer),
        ("content-length", "7"),
    ];

    fn is_right<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> bool {
        let mut request = Request::default();
        fields.into_iter().for_each(|(name, value)| request.show(name.as_bytes(), value.as_bytes()));
        request.is_right()
    }

    #[test]
    fn what_is_missing_or_there_twice_is_noticed() {
        assert!(is_right(RIGHT));
        for (at, (name, _)) in RIGHT.into_iter().enumerate() {
            let without = RIGHT.into_iter().filter(|field| field.0 != name);
            let may_be_missing = matches!(name, ":authority" | "content-length");
            assert_eq!(is_right(without), may_be_missing, "{name}");
            let twice = RIGHT.into_iter().flat_map(|field| vec![field; if field.0 == name { 2 } else { 1 }]);
            assert!(!is_right(twice), "{name} twice");
            let other = RIGHT.into_iter().map(|field| if field.0 == name { (name, "other") } else { field });
            assert_eq!(is_right(other), matches!(name, ":authority" | ":scheme"), "another {name}");
            let mut late = RIGHT.to_vec();
            let field = late.remove(at);
            late.push(field);
            assert_eq!(is_right(late), !name.starts_with(':'), "{name} at the end");
        }
    }

    #[test]
    fn a_bearer_is_good_on_its_own_path_only() {
        for (path, bearer, expected) in [
            (REWRITTEN.path, REWRITTEN.bearer, true),
            (PASSED.path, PASSED.bearer, true),
            (REWRITTEN.path, PASSED.bearer, false),
            (PASSED.path, REWRITTEN.bearer, false),
        ] {
            let fields = RIGHT.map(|(name, value)| match name {
                ":path" => (name, path),
                "authorization" => (name, bearer),
                _ => (name, value),
            });
            assert_eq!(is_right(fields), expected, "{path} {bearer}");
        }
    }

    #[test]
    fn fields_that_nobody_sends_over_http2_are_noticed() {
        for (field, expected) in [
            (("accept", "application/json"), true),
            (("te", "trailers"), true),
            (("te", "gzip"), false),
            (("connection", "close"), false),
            (("transfer-encoding", "chunked"), false),
            (("Accept", "application/json"), false),
            ((":protocol", "websocket"), false),
            (("", "nothing"), false),
        ] {
            assert_eq!(is_right(RIGHT.into_iter().chain([field])), expected, "{field:?}");
        }
    }
}
