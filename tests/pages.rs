//! The pages for browsers, as they are on the wire: what they show, what browsers may keep and load, and that nothing
//! hostile gets in and nothing secret out. How they look and work is `tests/pages/`.
mod support;

use flate2::read::GzDecoder;
use serde_json::Value;
use std::io::Read;
use support::{
    DISABLED_KEY, End, Gateway, KEY, Metadata, Request, Response, SECOND_KEY, TokenAnswer, Upstream, run, until,
};

const PAGES: [&str; 3] = ["/", "/docs", "/playground"];
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Stands where nobody has said where the gateway is.
const SOMEWHERE: &str = "https://your-gateway.example";

fn start() -> (Upstream, Gateway) {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).env("PLAYGROUND", "on").start();
    // Pages say whether a bearer is held: what is compared must not be of two times.
    until("a bearer", || (gateway.get("/readyz").status == 200).then_some(()));
    (upstream, gateway)
}

fn text(answer: &Response) -> String {
    assert_eq!(answer.end, End::Complete);
    String::from_utf8(answer.body.clone()).expect("a page is text")
}

fn zipped(path: &str) -> Request {
    Request::get(path).header("accept-encoding", "gzip, deflate, br, zstd")
}

fn unzipped(body: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    GzDecoder::new(body).read_to_end(&mut plain).expect("a gzip");
    plain
}

/// The values of an attribute.
fn attributes<'a>(html: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!(" {name}=\"");
    html.split(&start).skip(1).map(|rest| rest.split('"').next().unwrap_or_default()).collect()
}

/// The files that a page loads.
fn assets(html: &str) -> Vec<&str> {
    let mut paths = attributes(html, "src");
    paths.extend(attributes(html, "href").into_iter().filter(|path| path.starts_with("/assets/")));
    paths
}

fn with_host(path: &str, host: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")
}

/// A page as a client sees it that calls the gateway by this name.
fn shown_to(gateway: &Gateway, path: &str, host: &str) -> Response {
    let mut client = gateway.client();
    client.send(with_host(path, host));
    client.response()
}

#[test]
fn pages_load_nothing_from_elsewhere_and_nothing_inline() {
    let (_upstream, gateway) = start();
    for path in PAGES {
        let answer = gateway.get(path);
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!(answer.header("content-security-policy"), Some(POLICY));
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("cache-control"), Some("no-cache"));
        assert_eq!(answer.header("vary"), Some("Accept-Encoding, Host"));
        let html = text(&answer);
        for inline in
            ["<style", " style=", "<script>", "javascript:", " onclick=", " onload=", "{{", "<base", "<iframe"]
        {
            assert!(!html.contains(inline), "{path} has {inline}");
        }
        let loaded = assets(&html);
        assert!(loaded.len() >= 3, "{path}: {loaded:?}");
        for asset in loaded {
            assert!(asset.starts_with("/assets/"), "{path} loads {asset}");
            let answer = gateway.get(asset);
            assert_eq!(answer.status, 200, "{asset}");
            assert!(!text(&answer).contains("@import"), "{asset}");
        }
    }
}

#[test]
fn assets_may_be_kept_for_ever_under_their_own_name() {
    let (_upstream, gateway) = start();
    let html = text(&gateway.get("/docs"));
    let kinds =
        [(".css", "text/css; charset=utf-8"), (".js", "text/javascript; charset=utf-8"), (".svg", "image/svg+xml")];
    for (end, kind) in kinds {
        let path = assets(&html).into_iter().find(|path| path.ends_with(end)).expect("each kind is loaded");
        let answer = gateway.get(path);
        assert_eq!(answer.header("content-type"), Some(kind));
        assert_eq!(answer.header("cache-control"), Some("public, max-age=31536000, immutable"));
        assert_eq!(answer.header("vary"), Some("Accept-Encoding"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(gateway.log_of(&answer)["httpRequest"]["requestUrl"], "/assets/{digest}/{name}");
        // An older page asks for an older version.
        let (_, name) = path.rsplit_once('/').expect("a path");
        let other = gateway.get(&format!("/assets/0123456789abcdef/{name}"));
        assert_eq!((other.status, other.header("cache-control")), (200, Some("no-cache")));
        assert_eq!(other.body, answer.body);
    }
    for path in [
        "/assets",
        "/assets/",
        "/assets/x",
        "/assets/x/y",
        "/assets/x/../site.css",
        "/assets/x/site.css/",
        "/assets/%ff/site.css.gz",
    ] {
        gateway.get(path).assert_error(404, "not_found");
    }
}

#[test]
fn what_a_browser_has_is_not_sent_again() {
    let (_upstream, gateway) = start();
    let html = text(&gateway.get("/docs"));
    let mut paths = PAGES.to_vec();
    paths.extend(assets(&html));
    for path in paths {
        let mut tags = Vec::new();
        for request in [Request::get(path), zipped(path)] {
            let full = gateway.request(&request);
            let tag = full.header("etag").expect("a tag").to_owned();
            let mut client = gateway.client();
            let again = client.request(&request.clone().header("if-none-match", &format!("\"x\", W/{tag}")));
            assert_eq!((again.status, again.body.len()), (304, 0), "{path}");
            assert_eq!(again.header("etag"), Some(&*tag));
            for name in ["cache-control", "vary", "content-security-policy"] {
                assert_eq!(again.header(name), full.header(name), "{path}: {name}");
            }
            assert_eq!(again.header("content-length"), None);
            // The connection lives on, and knows that there was no body.
            let other = client.request(&request.clone().header("if-none-match", "\"x\""));
            assert_eq!((other.status, &other.body), (200, &full.body));
            tags.push(tag);
        }
        assert_ne!(tags[0], tags[1], "{path}: other bytes, another tag");
    }
}

#[test]
fn pages_are_compressed_where_the_client_asks() {
    let (_upstream, gateway) = start();
    let html = text(&gateway.get("/docs"));
    let mut paths = PAGES.to_vec();
    paths.extend(assets(&html));
    for path in paths {
        let plain = gateway.get(path);
        assert_eq!(plain.header("content-encoding"), None);
        let gzip = gateway.request(&zipped(path));
        assert_eq!(gzip.header("content-encoding"), Some("gzip"));
        assert_eq!(gzip.header("content-length"), Some(&*gzip.body.len().to_string()));
        assert!(unzipped(&gzip.body) == plain.body, "{path}");
        assert!(gzip.body.len() < plain.body.len(), "{path}");
        let head = gateway.client().request(&Request::new("HEAD", path).header("accept-encoding", "gzip"));
        assert_eq!(head.header("content-length"), gzip.header("content-length"));
        assert_eq!(head.header("etag"), gzip.header("etag"));
    }
}

#[test]
fn pages_are_small() {
    let (_upstream, gateway) = start();
    for (page, most) in [("/", 30_000), ("/docs", 150_000), ("/playground", 30_000)] {
        let html = text(&gateway.get(page));
        let mut paths = assets(&html);
        paths.push(page);
        let answers: Vec<Response> = paths.iter().map(|path| gateway.request(&zipped(path))).collect();
        let sum: usize = answers.iter().map(|answer| answer.body.len() + answer.head.len()).sum();
        assert!(sum < most, "{page} with all that it loads is {sum} bytes");
    }
}

#[test]
fn the_host_of_the_request_is_shown() {
    let (_upstream, gateway) = start();
    for (host, url) in [
        ("ai.example.com", "https://ai.example.com"),
        ("AI.example.com:8443", "https://ai.example.com:8443"),
        ("localhost:8080", "http://localhost:8080"),
        ("127.0.0.1", "http://127.0.0.1"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("192.168.0.9:8080", "https://192.168.0.9:8080"),
    ] {
        let html = text(&shown_to(&gateway, "/docs", host));
        assert!(html.contains(&format!("{url}/v1</code>")), "{host}");
        assert!(!html.contains("your-gateway.example"), "{host}");
    }
    let tags: Vec<_> =
        ["a.example", "b.example"].map(|host| shown_to(&gateway, "/", host).header("etag").map(str::to_owned)).into();
    assert_ne!(tags[0], tags[1]);
}

#[test]
fn a_hostile_host_gets_nowhere() {
    let (_upstream, gateway) = start();
    for host in [
        "<script>alert(1)</script>",
        "evil\"onmouseover=\"x",
        "evil.example/path",
        "evil.example#x",
        "user@evil.example",
        "$(touch/x)",
        "`id`",
        "evil.example;id",
        "evil.example:99999",
        "evil example",
        "-evil.example",
        "evil..example",
        &format!("{}.evil.example", "a".repeat(300)),
        "ev\u{131}l.example",
    ] {
        for path in PAGES {
            let answer = shown_to(&gateway, path, host);
            let page = text(&answer);
            assert!(!page.contains("evil") && !page.contains("alert(") && !page.contains("touch"), "{host}");
            // What no host can be written with is refused.
            if answer.status == 400 {
                answer.assert_error(400, "bad_request");
                continue;
            }
            assert_eq!(answer.status, 200, "{host}");
            if path != "/playground" {
                assert!(page.contains(SOMEWHERE), "{host}");
            }
        }
    }
    // Nor one that is not there, as HTTP/1.0 allows.
    let mut client = gateway.client();
    client.send("GET /docs HTTP/1.0\r\n\r\n");
    assert!(text(&client.response()).contains(SOMEWHERE));
    // Other fields say where it is as little: anybody can send them.
    let request =
        Request::get("/docs").header("x-forwarded-host", "evil.example").header("forwarded", "host=evil.example");
    assert!(!text(&gateway.request(&request)).contains("evil.example"));
}

#[test]
fn a_configured_address_is_shown_whatever_the_host() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).env("PUBLIC_URL", "https://ai.example.com/").start();
    for path in ["/", "/docs"] {
        let one = gateway.get(path);
        assert_eq!(one.header("vary"), Some("Accept-Encoding"));
        assert!(text(&one).contains("https://ai.example.com/v1"));
        let other = shown_to(&gateway, path, "evil.example");
        assert_eq!(other.header("etag"), one.header("etag"));
        assert_eq!(other.body, one.body);
    }
}

#[test]
fn addresses_that_are_none_are_refused_at_start() {
    let message = "must be https:// with a host and an optional port, without a path; http:// for localhost only";
    for url in ["http://ai.example.com", "ai.example.com", "https://ai.example.com/v1", "https://a:b@x", "https://"] {
        let output = run(&["check"], &[("API_KEYS_JSON", &support::gateway::keys_json()), ("PUBLIC_URL", url)]);
        assert_eq!(output.status.code(), Some(64), "{url}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), format!("PUBLIC_URL: {message}\n"));
    }
    let output = run(&["check"], &[("API_KEYS_JSON", &support::gateway::keys_json()), ("PLAYGROUND", "yes")]);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "PLAYGROUND: must be 'on' or 'off'\n");
}

#[test]
fn the_running_configuration_is_shown() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream)
        .env("GOOGLE_CLOUD_LOCATION", "europe-west4")
        .env("MODEL_CHEAP_ID", "google/gemini-2.5-flash-lite")
        .env("MODEL_CHEAP_LOCATION", "us-central1")
        .start();
    let (splash, docs) = (text(&gateway.get("/")), text(&gateway.get("/docs")));
    for page in [&splash, &docs] {
        for word in ["europe-west4", "cheap", "google/gemini-2.5-flash-lite", env!("CARGO_PKG_VERSION")] {
            assert!(page.contains(word), "{word}");
        }
    }
    assert!(docs.contains("us-central1"));
    assert_eq!(docs.matches("<th scope=\"col\">alias</th>").count(), 1);
}

#[test]
fn the_start_page_says_whether_the_gateway_is_ready() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    upstream.then(|exchange| exchange.answer("200 OK", "content-type: application/json\r\n", "{}"));
    assert_eq!(gateway.chat(support::CHAT).status, 200);
    assert!(text(&gateway.get("/")).contains(">ready<"));
    let metadata = Metadata::answering(TokenAnswer::Error(404, ""));
    let gateway = Gateway::before(&upstream).metadata(&metadata).start();
    assert!(text(&gateway.get("/")).contains(">no Google credentials yet<"));
}

#[test]
fn nothing_secret_is_shown() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream)
        .env("PLAYGROUND", "on")
        .env("GOOGLE_CLOUD_PROJECT", "canary-project")
        .env("CORS_ALLOW_ORIGINS", "https://canary-origin.example")
        .start();
    let upstream_address = gateway_upstream(&upstream);
    let html = text(&gateway.get("/docs"));
    let mut paths = PAGES.to_vec();
    paths.push("/openapi.json");
    paths.extend(assets(&html));
    for path in paths {
        let request = Request::get(path).key(KEY).header("x-api-key", SECOND_KEY).header("cookie", "canary-cookie");
        for answer in [gateway.get(path), gateway.request(&request)] {
            let shown = format!("{}{}", answer.head, text(&answer));
            for secret in [
                KEY,
                SECOND_KEY,
                DISABLED_KEY,
                "tester",
                "retired",
                "canary-",
                &*upstream_address,
                "GCE_METADATA_HOST=",
                "ya29.",
            ] {
                assert!(!shown.contains(secret), "{path} shows {secret}");
            }
        }
    }
}

fn gateway_upstream(upstream: &Upstream) -> String {
    use support::gateway::Target;
    upstream.base_url().trim_start_matches("http://").to_owned()
}

#[test]
fn the_playground_is_off_unless_it_is_switched_on() {
    let upstream = Upstream::queued();
    for setting in ["off", ""] {
        let gateway = Gateway::before(&upstream).env("PLAYGROUND", setting).start();
        for method in ["GET", "HEAD", "POST"] {
            assert_eq!(gateway.request(&Request::new(method, "/playground").body("")).status, 404, "{method}");
        }
        for path in ["/", "/docs"] {
            assert!(!text(&gateway.get(path)).contains("href=\"/playground\""));
        }
    }
    let gateway = Gateway::before(&upstream).env("PLAYGROUND", "on").start();
    assert!(text(&gateway.get("/")).contains("href=\"/playground\""));
    gateway.request(&Request::new("POST", "/playground").body("")).assert_error(405, "method_not_allowed");
}

#[test]
fn every_error_code_is_explained() {
    let (_upstream, gateway) = start();
    let docs = text(&gateway.get("/docs")).replace("<wbr>", "");
    let source = include_str!("../src/error.rs");
    let codes: Vec<&str> = source
        .lines()
        .filter_map(|line| {
            line.trim().strip_prefix("Self::")?.split_once("=> (")?.1.split_once(", \"")?.1.split('"').next()
        })
        .collect();
    assert!(codes.len() > 20, "{codes:?}");
    for code in codes {
        assert!(docs.contains(&format!("<code>{code}</code>")), "{code}");
    }
}

#[test]
fn origins_are_told_apart_too() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).env("CORS_ALLOW_ORIGINS", "https://app.example").start();
    assert_eq!(gateway.get("/docs").header("vary"), Some("Origin, Accept-Encoding, Host"));
}

#[test]
fn pages_are_logged_by_their_route() {
    let (_upstream, gateway) = start();
    for path in PAGES {
        let answer = gateway.get(&format!("{path}?key={KEY}"));
        let line: Value = gateway.log_of(&answer);
        assert_eq!(line["httpRequest"]["requestUrl"], path);
    }
}
