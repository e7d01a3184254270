//! The HTTP port: metrics for Prometheus, health for load balancers and orchestrators.
//!
//! Owns the paths and their meaning.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::metrics::Metrics;
use crate::service::Service;

/// What the pages show.
#[derive(Clone)]
pub(crate) struct Pages {
    pub(crate) service: Arc<Service>,
    pub(crate) metrics: Arc<Metrics>,
    /// Set when the program is about to end.
    pub(crate) draining: Arc<AtomicBool>,
}

/// Starts to serve on `address`; returns the address that it got.
///
/// # Errors
/// When the address cannot be had.
pub(crate) async fn serve(address: SocketAddr, pages: Pages) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .with_state(pages);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, routes).await {
            tracing::error!(%error, "the HTTP server has ended");
        }
    });
    Ok(address)
}

async fn metrics(State(pages): State<Pages>) -> impl IntoResponse {
    let text = pages.metrics.render(&pages.service);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

/// The process is alive.
async fn health() -> &'static str {
    "ok\n"
}

/// Clients can be served: every cluster has a primary, and the program is not about to end.
async fn ready(State(pages): State<Pages>) -> (StatusCode, String) {
    if pages.draining.load(Ordering::Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n".to_owned());
    }
    let mut report = String::new();
    for (name, cluster) in pages.service.clusters().iter() {
        if let topology::Writer::None(reason) = &cluster.watcher.snapshot().writer {
            report += &format!("cluster {name}: {reason}\n");
        }
    }
    if report.is_empty() { (StatusCode::OK, "ready\n".to_owned()) } else { (StatusCode::SERVICE_UNAVAILABLE, report) }
}
