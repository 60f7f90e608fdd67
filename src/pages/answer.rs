//! Pages and assets as HTTP answers: what browsers may keep, what they may load, and whether they have it already.

use super::Asset;
use super::template::{Filled, Template};
use crate::http1::{Answer, Head};
use bytes::Bytes;

/// Scripts, styles, images and requests of this origin only, none of them inline; not in a frame of anybody.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A page: asked for anew each time, and not sent again while it is the same.
pub(super) fn page(template: &Template, values: &Filled<'_>, vary: &'static str, head: &Head) -> Answer {
    let fields = vec![
        ("content-security-policy", CONTENT_SECURITY_POLICY.to_owned()),
        ("referrer-policy", "no-referrer".to_owned()),
    ];
    filled(template, values, Answer { fields, vary, ..Answer::html(Bytes::new()) }, head)
}

/// A JSON document, kept and asked for in the same way.
pub(super) fn document(template: &Template, values: &Filled<'_>, head: &Head) -> Answer {
    filled(template, values, Answer { vary: "Accept-Encoding", ..Answer::json(200, Bytes::new()) }, head)
}

fn filled(template: &Template, values: &Filled<'_>, mut answer: Answer, head: &Head) -> Answer {
    let gzip = accepts_gzip(head);
    answer.fields.push(("cache-control", "no-cache".to_owned()));
    let body = || if gzip { template.gzip(values) } else { template.plain(values) }.into();
    finish(answer, entity_tag(&template.version(values), gzip), gzip, head, body)
}

/// A file that pages load. Under its own digest it never changes; under that of another version, which an older page
/// may ask for while a new version rolls out, nobody should keep it.
pub(super) fn asset(asset: &'static Asset, is_current: bool, head: &Head) -> Answer {
    let gzip = accepts_gzip(head);
    let cache_control = if is_current { "public, max-age=31536000, immutable" } else { "no-cache" };
    let answer = Answer {
        status: 200,
        content_type: asset.content_type,
        fields: vec![("cache-control", cache_control.to_owned())],
        vary: "Accept-Encoding",
        body: Bytes::new(),
    };
    let body = || Bytes::from(if gzip { asset.gzip() } else { asset.plain() });
    finish(answer, entity_tag(asset.digest, gzip), gzip, head, body)
}

fn finish(mut answer: Answer, tag: String, gzip: bool, head: &Head, body: impl FnOnce() -> Bytes) -> Answer {
    let known = head.values("if-none-match").any(|tags| names(tags, &tag));
    answer.fields.push(("etag", tag));
    if known {
        answer.status = 304;
        answer.content_type = "";
        return answer;
    }
    if gzip {
        answer.fields.push(("content-encoding", "gzip".to_owned()));
    }
    answer.body = body();
    answer
}

/// The two encodings are different bytes, so that they have different tags.
fn entity_tag(version: &str, gzip: bool) -> String {
    format!("\"{version}{}\"", if gzip { "-gz" } else { "" })
}

/// Whether a list of entity tags has this one. Weak ones count: this is a GET. `*`, which stands alone, means any.
fn names(tags: &[u8], tag: &str) -> bool {
    tags.trim_ascii() == b"*"
        || tags
            .split(|byte| *byte == b',')
            .map(<[u8]>::trim_ascii)
            .any(|one| one.strip_prefix(b"W/").unwrap_or(one) == tag.as_bytes())
}

/// Whether gzip is asked for, and no less than what is not encoded.
fn accepts_gzip(head: &Head) -> bool {
    let (mut gzip, mut any, mut identity) = (None, None, None);
    for codings in head.values("accept-encoding") {
        for coding in codings.split(|byte| *byte == b',') {
            let mut parts = coding.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let name = parts.next().unwrap_or_default();
            let weight = parts.find_map(weight).unwrap_or(1.0);
            if name.eq_ignore_ascii_case(b"gzip") || name.eq_ignore_ascii_case(b"x-gzip") {
                gzip = Some(weight);
            } else if name.eq_ignore_ascii_case(b"identity") {
                identity = Some(weight);
            } else if name == b"*" {
                any = Some(weight);
            }
        }
    }
    let gzip = gzip.or(any).unwrap_or(0.0);
    gzip > 0.0 && gzip >= identity.unwrap_or(0.0)
}

/// The value of `q=0.5`, from 0 to 1. What is no number has not been said.
fn weight(parameter: &[u8]) -> Option<f32> {
    let value = parameter.strip_prefix(b"q=").or_else(|| parameter.strip_prefix(b"Q="))?;
    let is_number = value.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
    let weight: f32 = std::str::from_utf8(value).ok().filter(|_| is_number)?.parse().ok()?;
    Some(weight.min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;

    fn head(fields: &str) -> Head {
        Head::take(&mut BytesMut::from(&*format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))).unwrap().unwrap()
    }

    #[test]
    fn gzip_where_it_is_wanted() {
        for (field, wanted) in [
            ("", false),
            ("Accept-Encoding: gzip\r\n", true),
            ("Accept-Encoding: br, GZIP;q=0.5\r\n", true),
            ("Accept-Encoding: br\r\nAccept-Encoding: gzip\r\n", true),
            ("Accept-Encoding: *\r\n", true),
            ("Accept-Encoding: br\r\n", false),
            ("Accept-Encoding: gzip;q=0\r\n", false),
            ("Accept-Encoding: *, gzip; q=0.000\r\n", false),
            ("Accept-Encoding: *;q=0\r\n", false),
            ("Accept-Encoding: identity, gzip2\r\n", false),
            ("Accept-Encoding: ;;,,;q=,\r\n", false),
            ("Accept-Encoding: gzip;q=0, *\r\n", false),
            ("Accept-Encoding: identity;q=0\r\n", false),
            ("Accept-Encoding: identity;q=0, *\r\n", true),
            ("Accept-Encoding: identity, gzip\r\n", true),
            ("Accept-Encoding: identity;q=0.5, gzip;q=1.0\r\n", true),
            ("Accept-Encoding: gzip;q=0.2, identity;q=0.8\r\n", false),
            ("Accept-Encoding: identity;q=0.8\r\nAccept-Encoding: *;q=0.2\r\n", false),
            ("Accept-Encoding: gzip;q=nan\r\n", true),
            ("Accept-Encoding: gzip;q=0.001\r\n", true),
        ] {
            assert_eq!(accepts_gzip(&head(field)), wanted, "{field}");
        }
    }

    #[test]
    fn tags() {
        let tag = entity_tag("abc", true);
        assert_eq!(tag, "\"abc-gz\"");
        for (tags, found) in [
            ("\"abc-gz\"", true),
            ("W/\"abc-gz\"", true),
            ("\"x\", \"abc-gz\"", true),
            ("*", true),
            (" * ", true),
            ("\"a,*,b\"", false),
            ("\"a\",\"abc-gz\",", true),
            ("\"abc\"", false),
            ("abc-gz", false),
            ("", false),
        ] {
            assert_eq!(names(tags.as_bytes(), &tag), found, "{tags}");
        }
    }
}
