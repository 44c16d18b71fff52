//! The console: pages for a browser, and signing in to them.
//!
//! The pages are a client of the API like any other. They are built from `console/` in the repository and are part of this
//! program; what is here serves them and knows nothing of what they show.

mod pages;
mod sign_in;

use axum::{
    Router,
    extract::Request,
    middleware::Next,
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use http::{Method, header};

use crate::app::App;

/// Where the console is.
pub const PATH: &str = "/console";

/// The routes of the console. They need no key: what the pages ask for does.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/console/sign-in", get(sign_in::who).post(sign_in::sign_in).delete(sign_in::sign_out))
        .route(PATH, get(pages::page))
        .route("/console/", get(pages::page))
        .route("/console/{*path}", get(pages::page))
}

/// Leads a browser that asks for `/` to the console. Whatever else asks for it is answered as by the API.
pub async fn lead_to(request: Request, next: Next) -> Response {
    if asks_for_pages(&request) { Redirect::to(PATH).into_response() } else { next.run(request).await }
}

fn asks_for_pages(request: &Request) -> bool {
    let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    request.uri().path() == "/"
        && request.method() == Method::GET
        && accept.is_some_and(|accept| accept.contains("text/html"))
}
