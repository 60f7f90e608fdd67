//! `POST /v1/chat/completions`: the steps of a request, in their order. The key has been found before.

use crate::App;
use crate::body::{self, Edit, Inspection};
use crate::error::ApiError;
use crate::http1::{Exchange, Failure};
use crate::keys::Key;
use crate::relay;
use crate::signatures::Notes;
use crate::upstream::{Answer, ChatRequest};
use std::pin::pin;

/// Takes one chat from the client to upstream and its answer back.
///
/// # Errors
/// The gateway's own error, or how the exchange broke off.
pub async fn complete(app: &App, exchange: &mut Exchange<'_>, key: &Key) -> Result<(), Failure> {
    admit(exchange, key)?;
    // In a box, so that what is only needed until the answer begins takes no memory while it streams.
    let asked = Box::pin(ask(app, exchange, key)).await?;
    relay::pass_on(app, exchange, asked).await
}

/// Counts the request among those of its id, or refuses it.
fn admit(exchange: &mut Exchange<'_>, key: &Key) -> Result<(), ApiError> {
    let Some((admission, verdict)) = key.admit() else { return Ok(()) };
    // Also when it is refused: the answer tells what is left.
    exchange.admission = Some(Box::new(admission));
    verdict.inspect_err(|error| {
        let (_, code) = error.status_and_code();
        let which = match error {
            ApiError::TooManyRunning { .. } => "max_concurrent",
            ApiError::TokensUsedUp { .. } => "tokens_per_day",
            _ => "rpm",
        };
        exchange.record.error = Some(format!("{code}: {which}"));
    })
}

/// A question that upstream has begun to answer.
pub struct Asked {
    /// The answer.
    pub answer: Box<Answer>,
    /// What listens to its thought signatures.
    pub listener: Option<Notes>,
}

/// Reads the question, translates it and sends it up.
async fn ask(app: &App, exchange: &mut Exchange<'_>, key: &Key) -> Result<Asked, Failure> {
    if exchange.head.values("content-encoding").any(|encoding| !encoding.eq_ignore_ascii_case(b"identity")) {
        return Err(ApiError::ContentEncoding.into());
    }
    let mut own_time = exchange.record.own_time();
    let mut inspection = Inspection::default();
    let body = {
        // Pinned here and below, since what is handed on is moved from hand to hand.
        let body = pin!(exchange.read_body(app.max_body_bytes, &app.budget, |so_far| inspection.look_ahead(so_far)));
        own_time.leaving_out(body).await?
    };

    let offer = key.offer(&app.models);
    let parsed = inspection.finish(&body, offer.names())?;
    exchange.record.stream = Some(parsed.stream);
    let model = app
        .models
        .resolve(&parsed.model)
        .ok_or_else(|| ApiError::ModelNotFound { aliases: offer.names().to_owned(), status: 400 })?;
    exchange.record.alias = Some(model.alias.clone());
    if !offer.has(&model.alias) {
        return Err(ApiError::ModelNotAllowed(offer.names().to_owned()).into());
    }
    exchange.record.model = Some(model.vertex_id.clone());
    let mut edits = vec![Edit { at: parsed.model_span, with: model.quoted_id.clone() }];
    let (mut listener, mut added_bytes) = (None, None);
    if model.needs_signatures {
        if let Some(messages) = parsed.messages {
            let (missing, restored) = app.signatures.restore(&body, messages, &key.id);
            // They make the body larger than it came, and are held as long.
            let added = missing.iter().map(|edit| edit.with.len()).sum();
            added_bytes = Some(app.budget.reserve(added).ok_or(ApiError::OutOfMemory)?);
            edits.extend(missing);
            exchange.record.signatures = restored;
        }
        listener = app.signatures.listener(&key.id);
    }
    let pieces = body::splice(&body, edits);

    let request = ChatRequest::new(&exchange.head, pieces, (body, added_bytes));
    // The connection's timer has nothing to do until the next head is waited for.
    let mut alarm = exchange.take_alarm();
    let answered = {
        let answered = pin!(app.vertex.forward(&model.route, request, own_time, &mut alarm));
        exchange.unless_interrupted(answered).await?
    };
    exchange.return_alarm(alarm);
    match answered {
        Ok(answer) => Ok(Asked { answer, listener }),
        Err(failure) => {
            exchange.record.upstream_status = failure.status;
            exchange.record.attempts = failure.attempts;
            exchange.record.error = Some(failure.for_log());
            Err(failure.error.into())
        }
    }
}
