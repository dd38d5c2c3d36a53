//! Metrics over HTTP: `GET /metrics`, `/healthz` and `/readyz`.
//!
//! Knows what the pools count, and nothing of sessions one by one.
//!
//! | file | what it is |
//! |---|---|
//! | [`http`] | the thread that serves, its connections and their bounds |
//! | [`metrics`] | the text in Prometheus' format |

pub mod http;
pub mod metrics;
