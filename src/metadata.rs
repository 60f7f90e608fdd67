//! What the gateway itself asks the metadata server: which project it runs in, and for `check` as whom.

use crate::config::{is_address, parse_project};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, sleep, timeout};

/// On Google Cloud it answers in milliseconds; elsewhere the name does not resolve.
const TIMEOUT: Duration = Duration::from_secs(3);
/// At the start of an instance it may be late by some seconds, on GKE with workload identity above all. So long it is
/// asked again, where there is one: where its name does not resolve, the gateway runs elsewhere.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause before it is asked again.
const PAUSE: Duration = Duration::from_millis(500);
/// What it says of these is short, in bytes.
const MAX_ANSWER_BYTES: usize = 1024;

/// The project that the metadata server names, if there is one.
pub(crate) async fn project(host: &str) -> Option<String> {
    ask(host, "/computeMetadata/v1/project/project-id").await.as_deref().and_then(parse_project)
}

/// The same when the metadata server may not be ready yet.
pub(crate) async fn project_at_start(host: &str) -> Option<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let project = project(host).await;
        if project.is_some() || !resolves(host).await || Instant::now() + PAUSE >= deadline {
            return project;
        }
        sleep(PAUSE).await;
    }
}

/// Where it tells the address of the machine's service account.
pub(crate) const SERVICE_ACCOUNT: &str = "/computeMetadata/v1/instance/service-accounts/default/email";

/// The machine's name and zone, if it is one.
pub(crate) async fn machine(host: &str) -> Option<(String, String)> {
    let is_name =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let name = ask(host, "/computeMetadata/v1/instance/name").await?;
    // projects/NUMBER/zones/ZONE
    let zone = ask(host, "/computeMetadata/v1/instance/zone").await?;
    let zone = zone.rsplit('/').next().unwrap_or_default().to_owned();
    (is_name(&name) && is_name(&zone)).then_some((name, zone))
}

/// The address of the machine's service account, if there is one.
pub(crate) async fn service_account(host: &str) -> Option<String> {
    let address = ask(host, SERVICE_ACCOUNT).await?;
    is_address(&address).then_some(address)
}

async fn ask(host: &str, path: &str) -> Option<String> {
    timeout(TIMEOUT, fetch(host, path)).await.ok()?
}

async fn resolves(host: &str) -> bool {
    let Some(address) = with_port(host) else { return false };
    matches!(timeout(TIMEOUT, lookup_host(address)).await, Ok(Ok(_)))
}

fn with_port(host: &str) -> Option<String> {
    let has_port = host.parse::<http::uri::Authority>().ok()?.port().is_some();
    Some(if has_port { host.to_owned() } else { format!("{host}:80") })
}

async fn fetch(host: &str, path: &str) -> Option<String> {
    let stream = TcpStream::connect(with_port(host)?).await.ok()?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    let task = tokio::spawn(connection);
    let request =
        Request::get(path).header("host", host).header("metadata-flavor", "Google").body(Empty::<Bytes>::new()).ok()?;
    let response = sender.send_request(request).await.ok()?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await.ok()?.to_bytes();
    task.abort();
    let text = std::str::from_utf8(&body).ok()?.trim();
    status.is_success().then(|| text.to_owned())
}
