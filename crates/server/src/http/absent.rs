//! What is answered where no operation is: the words of the API, and which parts of it this server does not serve.

use http::{Method, Uri};

use super::operations;
use crate::error::Error;

/// The answer of a server that has no part of the API.
pub(super) async fn nothing() -> Error {
    Error::NotFound("Not found".to_owned())
}

/// The answer to a path that nothing is at.
pub(super) async fn not_found(uri: Uri) -> Error {
    let path = uri.path();
    Error::NotFound(match operations::not_served(path) {
        Some(what) => format!("Not found: this server does not serve {what}"),
        None if ["/v1/deployments/", "/v1/dreams/"].iter().any(|beginning| path.starts_with(beginning)) => {
            "Not Found".to_owned()
        }
        None => "Not found".to_owned(),
    })
}

/// The answer to a method that a path does not have. Agents cannot be deleted, which the API says as if there were nothing.
pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> Error {
    let of_an_agent = || uri.path().strip_prefix("/v1/agents/").is_some_and(|id| !id.contains('/'));
    if method == Method::DELETE && of_an_agent() {
        return Error::NotFound("not found".to_owned());
    }
    Error::MethodNotAllowed
}
