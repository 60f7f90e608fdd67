//! Clients that all ask, and later all read their answers.

use super::Turn;
use super::connection::Connection;
use std::net::SocketAddr;

pub(crate) struct Batch(Vec<Connection>);

impl Batch {
    /// Opens so many connections, to each of these in turn.
    pub(crate) async fn open(targets: &[SocketAddr], count: usize) -> Result<Self, String> {
        let mut connections = Vec::with_capacity(count);
        for target in targets.iter().cycle().take(count) {
            connections.push(Connection::open(*target).await?);
        }
        Ok(Self(connections))
    }

    /// Sends a question on each of them.
    pub(crate) async fn ask(&mut self, turn: &Turn) -> Result<(), String> {
        for connection in &mut self.0 {
            connection.send(&turn.question.request).await?;
        }
        Ok(())
    }

    /// Reads an answer from each of them.
    pub(crate) async fn read_answers(&mut self, turn: &Turn) -> Result<(), String> {
        for connection in &mut self.0 {
            connection.read_answer(&turn.answer).await?;
        }
        Ok(())
    }
}
