//! The table of routes: (method, path) to handler.

use crate::App;
use crate::chat;
use crate::error::ApiError;
use crate::http1::{Answer, Exchange, Failure, Head, Method};
use crate::keys::Key;
use crate::{metrics, pages};
use std::sync::Arc;

/// Where a path leads.
enum Route<'a> {
    Splash,
    Docs,
    Playground,
    OpenApi,
    Asset(&'a [u8]),
    Health,
    Ready,
    Metrics,
    Models,
    Model(&'a [u8]),
    Chat,
}

impl<'a> Route<'a> {
    fn find(path: &'a [u8]) -> Option<Self> {
        match path {
            b"/" => Some(Self::Splash),
            b"/docs" => Some(Self::Docs),
            b"/playground" => Some(Self::Playground),
            b"/openapi.json" => Some(Self::OpenApi),
            b"/health" | b"/healthz" => Some(Self::Health),
            b"/readyz" => Some(Self::Ready),
            metrics::PATH => Some(Self::Metrics),
            b"/v1/models" => Some(Self::Models),
            b"/v1/chat/completions" => Some(Self::Chat),
            _ => match path.strip_prefix(b"/v1/models/") {
                Some(alias) => Some(alias).filter(|alias| !alias.is_empty()).map(Self::Model),
                None => path.strip_prefix(b"/assets/").map(Self::Asset),
            },
        }
    }

    /// The methods it answers to, as `allow` writes them.
    fn allowed(&self) -> &'static str {
        match self {
            Self::Chat => "POST",
            _ => "GET, HEAD",
        }
    }

    /// Its name in the log.
    fn name(&self, path: &[u8]) -> &'static str {
        match self {
            Self::Splash => "/",
            Self::Docs => "/docs",
            Self::Playground => "/playground",
            Self::OpenApi => "/openapi.json",
            Self::Asset(_) => "/assets/{digest}/{name}",
            Self::Health if path == b"/health" => "/health",
            Self::Health => "/healthz",
            Self::Ready => "/readyz",
            Self::Metrics => "/metrics",
            Self::Models => "/v1/models",
            Self::Model(_) => "/v1/models/{alias}",
            Self::Chat => "/v1/chat/completions",
        }
    }
}

/// Whether a head asks how the gateway is.
#[must_use]
pub fn is_probe(head: &Head) -> bool {
    matches!(Route::find(&head.shared_path()), Some(Route::Health | Route::Ready))
}

/// Answers one request.
///
/// # Errors
/// The gateway's own error, or how the exchange broke off.
pub async fn answer(app: &Arc<App>, exchange: &mut Exchange<'_>) -> Result<(), Failure> {
    let path = exchange.head.shared_path();
    let mut route = Route::find(&path);
    if matches!(route, Some(Route::Metrics)) {
        // Whoever may not read them finds nothing there.
        exchange.record.key_id = keys_in(app, &exchange.head).find(|key| key.reads_metrics).map(|key| key.id.clone());
        route = route.filter(|_| exchange.record.key_id.is_some());
    }
    route = route.filter(|route| app.pages.has_playground() || !matches!(route, Route::Playground));
    if let Some(route) = &route {
        exchange.record.route = route.name(&path);
    }
    if is_preflight(exchange) {
        return exchange.answer(preflight(&exchange.head)).await;
    }
    let mut key = None;
    if path.starts_with(b"/v1/") || &path[..] == b"/v1" {
        let found = find_key(app, &exchange.head).ok_or(ApiError::InvalidApiKey)?;
        exchange.record.key_id = Some(found.id.clone());
        key = Some(found);
    }
    if exchange.head.expectation_fails {
        return Err(ApiError::Expectation.into());
    }
    let route = route.ok_or(ApiError::NotFound)?;
    let offer = key.as_ref().map_or(app.models.all(), |key| key.offer(&app.models));
    let answer = match (&route, exchange.head.method) {
        (Route::Chat, Method::Post) => {
            let key = key.as_ref().ok_or(ApiError::InvalidApiKey)?;
            return chat::complete(app, exchange, key).await;
        }
        (Route::Chat, _) => return Err(ApiError::MethodNotAllowed(route.allowed()).into()),
        (_, Method::Get | Method::Head) => match route {
            Route::Splash => app.pages.splash(&exchange.head, app.vertex.is_ready()),
            Route::Docs => app.pages.docs(&exchange.head),
            Route::Playground => app.pages.playground(&exchange.head),
            Route::OpenApi => app.pages.openapi(&exchange.head),
            Route::Asset(path) => app.pages.asset(path, &exchange.head).ok_or(ApiError::NotFound)?,
            Route::Health => Answer::json(200, app.models.health_json()),
            Route::Ready if app.vertex.is_ready() => Answer::json(200, pages::READY),
            Route::Ready => return Err(ApiError::CredentialsUnavailable.into()),
            Route::Metrics => metrics::page(app),
            Route::Models => Answer::json(200, offer.list_json()),
            Route::Model(alias) => {
                let aliases = || offer.names().to_owned();
                let model = percent_decoded(alias).and_then(|alias| app.models.resolve(&alias));
                let model = model.ok_or_else(|| ApiError::ModelNotFound { aliases: aliases(), status: 404 })?;
                exchange.record.alias = Some(model.alias.clone());
                if !offer.has(&model.alias) {
                    return Err(ApiError::ModelNotAllowed(aliases()).into());
                }
                Answer::json(200, model.json.clone())
            }
            Route::Chat => return Err(ApiError::MethodNotAllowed(route.allowed()).into()),
        },
        _ => return Err(ApiError::MethodNotAllowed(route.allowed()).into()),
    };
    exchange.answer(answer).await
}

/// The first valid key among all that are presented.
fn find_key(app: &App, head: &Head) -> Option<Arc<Key>> {
    keys_in(app, head).next()
}

/// All valid keys that are presented.
fn keys_in<'a>(app: &'a App, head: &'a Head) -> impl Iterator<Item = Arc<Key>> + 'a {
    let presented = head.values("x-api-key").chain(head.values("authorization").filter_map(bearer));
    presented.filter_map(|presented| app.keys.authenticate(presented))
}

/// What follows the scheme `Bearer`, in any case.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii())
}

/// Whether a browser asks, before the real request, if a page of an allowed origin may send it.
fn is_preflight(exchange: &Exchange<'_>) -> bool {
    exchange.head.method == Method::Options
        && exchange.origin_is_allowed()
        && exchange.head.value("access-control-request-method").is_some()
}

fn preflight(head: &Head) -> Answer {
    // Only what can stand in a list of field names goes back.
    let is_name_list = |value: &[u8]| {
        value.len() <= 1024 && value.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_, ".contains(byte))
    };
    let names = head.value("access-control-request-headers").filter(|value| is_name_list(value));
    let names =
        names.and_then(|names| std::str::from_utf8(names).ok()).unwrap_or("authorization, content-type, x-api-key");
    let fields = vec![
        ("access-control-allow-methods", "GET, HEAD, POST".to_owned()),
        ("access-control-allow-headers", names.to_owned()),
        ("access-control-max-age", "600".to_owned()),
    ];
    Answer { status: 204, content_type: "", fields, vary: "", body: bytes::Bytes::new() }
}

/// Decodes %-escapes; `None` where they or the result are not valid.
fn percent_decoded(text: &[u8]) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'%' {
            let (digits, after) = after.split_at_checked(2)?;
            let digits =
                std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|d| d.is_ascii_hexdigit()))?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
            rest = after;
        } else {
            out.push(byte);
            rest = after;
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearers() {
        assert_eq!(bearer(b"Bearer abc"), Some(&b"abc"[..]));
        assert_eq!(bearer(b"bEARER   abc "), Some(&b"abc"[..]));
        assert_eq!(bearer(b"Basic abc"), None);
        assert_eq!(bearer(b"Bearer"), None);
        assert_eq!(bearer(b""), None);
    }

    #[test]
    fn escapes() {
        assert_eq!(percent_decoded(b"a%2Fb%2fc").as_deref(), Some("a/b/c"));
        for bad in ["%", "%2", "%zz", "%+1", "%ff"] {
            assert_eq!(percent_decoded(bad.as_bytes()), None, "{bad}");
        }
    }
}
