//! ai-proxy: a gateway from OpenAI-style clients to Gemini on Vertex AI.
pub mod emulator;
