//! Requests to the authority, on the connections that lead to upstream too: one each, since they are few.

use crate::upstream::{Stream, connect};
use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::ClientConfig;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long one request may take in all.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// An authority's answers are a few kilobytes; more is none.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// Sends requests and reads answers whole.
pub(super) struct Client(Arc<ClientConfig>);

impl Client {
    pub(super) fn new(tls: Arc<ClientConfig>) -> Self {
        Self(tls)
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let tls = self.0.clone();
        Box::pin(async move {
            let answer = timeout(REQUEST_TIMEOUT, send(request, tls)).await;
            answer.unwrap_or_else(|_| Err(Error::Str("no answer from the authority in time")))
        })
    }
}

async fn send(mut request: Request<BodyWrapper<Bytes>>, tls: Arc<ClientConfig>) -> Result<BytesResponse, Error> {
    let uri = request.uri().clone();
    let host = uri.host().filter(|_| uri.scheme_str() == Some("https"));
    let host = host.ok_or(Error::Str("an https URL of the authority"))?;
    let response = match connect(host, uri.port_u16().unwrap_or(443), Some(&tls)).await.map_err(boxed)? {
        Stream::Tls2(tls) => {
            let (mut sender, connection) =
                http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.map_err(boxed)?;
            tokio::spawn(connection);
            sender.send_request(request).await.map_err(boxed)?
        }
        Stream::Tls1(tls) => {
            let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or(host);
            let authority = HeaderValue::from_str(authority).map_err(http::Error::from)?;
            request.headers_mut().insert(HOST, authority);
            *request.uri_mut() = uri.path_and_query().map(|path| path.as_str()).unwrap_or("/").parse()?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await.map_err(boxed)?;
            tokio::spawn(connection);
            sender.send_request(request).await.map_err(boxed)?
        }
        Stream::Plain(_) => return Err(Error::Str("an https URL of the authority")),
    };
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(Error::Other)?.to_bytes();
    Ok(BytesResponse::from(Response::from_parts(parts, Full::new(body))))
}

fn boxed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Other(Box::new(error))
}
