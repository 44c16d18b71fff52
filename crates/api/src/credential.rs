//! Credentials of vaults: what is known of them, and what is kept secret.

use serde::{Deserialize, Serialize};

use crate::{
    Time,
    decode::{Decoded, Dialect, Invalid, Node, Object},
    environment::read_host,
    fields::types,
    id::{CredentialId, VaultId},
    metadata::{self, Changes, Metadata},
    secret::Secret,
    vault::MAX_DISPLAY_NAME,
};

/// Most characters of a URL.
pub const MAX_URL: usize = 2048;
/// Most characters of an OAuth client's id, scope or resource.
pub const MAX_PARAMETER: usize = 4096;
/// Most characters of the name of a variable.
pub const MAX_SECRET_NAME: usize = 255;
/// Most hosts that a variable is substituted for.
pub const MAX_HOSTS: usize = 16;

/// A credential as the API shows it, without its secrets.
#[derive(Debug, Serialize)]
pub struct Credential {
    /// Its id.
    pub id: CredentialId,
    /// Always `vault_credential`.
    pub r#type: &'static str,
    /// The vault that it is in.
    pub vault_id: VaultId,
    /// A name for people.
    pub display_name: Option<String>,
    /// What it is for and how it is used.
    pub auth: Auth,
    /// Free pairs.
    pub metadata: Metadata,
    /// When it was created.
    pub created_at: Time,
    /// When it was last changed.
    pub updated_at: Time,
    /// When it was archived, and its secrets purged.
    pub archived_at: Option<Time>,
}

/// What a credential is for and how it is used. Its type never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Auth {
    /// An OAuth token for an MCP server.
    McpOauth(McpOauth),
    /// A fixed token for an MCP server.
    StaticBearer(StaticBearer),
    /// A value that is substituted into requests of a sandbox.
    EnvironmentVariable(EnvironmentVariable),
}

/// An OAuth token for an MCP server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct McpOauth {
    /// The server. It never changes.
    pub mcp_server_url: String,
    /// When the token expires; absent when that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// How a new one is got.
    pub refresh: Option<Refresh>,
}

/// How a new access token is got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refresh {
    /// The client. It never changes.
    pub client_id: String,
    /// Who is asked. It never changes.
    pub token_endpoint: String,
    /// How the client says who it is. It never changes.
    pub token_endpoint_auth: TokenEndpointAuth,
    /// The resource that is asked for (RFC 8707).
    pub resource: Option<String>,
    /// The scope that is asked for.
    pub scope: Option<String>,
}

types! {
    /// How an OAuth client says who it is (RFC 6749, section 2.3.1).
    TokenEndpointAuth {
        /// By its id alone.
        "none" => Open,
        /// With HTTP Basic authentication.
        "client_secret_basic" => Basic,
        /// In the body of the request.
        "client_secret_post" => Post,
    }
}

/// A fixed token for an MCP server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaticBearer {
    /// The server. It never changes.
    pub mcp_server_url: String,
}

/// A value that is substituted into requests of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentVariable {
    /// The name of the variable. It never changes.
    pub secret_name: String,
    /// For which hosts.
    pub networking: CredentialNetworking,
    /// Where in a request.
    pub injection_location: InjectionLocation,
}

/// For which hosts a value is substituted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum CredentialNetworking {
    /// For every host that the environment lets the sandbox reach.
    Unrestricted {},
    /// For named hosts.
    Limited {
        /// Host names, `*.` in front for their subdomains.
        allowed_hosts: Vec<String>,
    },
}

/// Where in a request a value is substituted: at least one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InjectionLocation {
    /// In the body.
    pub body: bool,
    /// In the values of headers.
    pub header: bool,
}

/// The secrets of a credential, or those that an update replaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    /// The token that is sent, or the variable's value.
    pub token: Option<Secret>,
    /// What a new token is got with.
    pub refresh_token: Option<Secret>,
    /// What the OAuth client says who it is with.
    pub client_secret: Option<Secret>,
}

impl Secrets {
    /// These over `stored`.
    #[must_use]
    pub fn over(self, stored: Self) -> Self {
        Self {
            token: self.token.or(stored.token),
            refresh_token: self.refresh_token.or(stored.refresh_token),
            client_secret: self.client_secret.or(stored.client_secret),
        }
    }

    /// Each that is there.
    pub fn all(&self) -> impl Iterator<Item = &Secret> {
        [&self.token, &self.refresh_token, &self.client_secret].into_iter().flatten()
    }
}

impl Auth {
    /// The name of its type.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::McpOauth(_) => "mcp_oauth",
            Self::StaticBearer(_) => "static_bearer",
            Self::EnvironmentVariable(_) => "environment_variable",
        }
    }
}

/// A create request.
#[derive(Debug, Clone)]
pub struct CreateCredential {
    /// At most [`MAX_DISPLAY_NAME`] characters.
    pub display_name: Option<String>,
    /// What it is for and how it is used.
    pub auth: Auth,
    /// What is kept secret.
    pub secrets: Secrets,
    /// Free pairs.
    pub metadata: Metadata,
}

impl CreateCredential {
    /// Reads the body of a create request.
    ///
    /// # Errors
    /// When a field is not what it should be; the message names it.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        o.speak(Dialect::Deployments);
        let (auth, secrets) = read_auth(&o.required("auth")?)?;
        let display_name = o.kept("display_name", |n| n.text(0, MAX_DISPLAY_NAME))?;
        Ok(Self { display_name, auth, secrets, metadata: metadata::create(o.optional("metadata"))? })
    }
}

fn read_auth(node: &Node<'_>) -> Decoded<(Auth, Secrets)> {
    let tag = node.tag()?;
    node.object(|o| {
        o.tagged();
        match tag {
            "mcp_oauth" => read_mcp_oauth(o),
            "static_bearer" => {
                let mcp_server_url = read_url(&o.required("mcp_server_url")?)?;
                let token = Some(Secret::decode_token(&o.required("token")?)?);
                Ok((Auth::StaticBearer(StaticBearer { mcp_server_url }), Secrets { token, ..Secrets::default() }))
            }
            "environment_variable" => read_variable(o),
            other => Err(node.wrong_tag(other)),
        }
    })
}

fn read_mcp_oauth(o: &mut Object<'_>) -> Decoded<(Auth, Secrets)> {
    let mcp_server_url = read_url(&o.required("mcp_server_url")?)?;
    let token = Some(Secret::decode_token(&o.required("access_token")?)?);
    let expires_at = o.kept("expires_at", read_time)?;
    let refresh = o.kept("refresh", |node| node.object(read_refresh))?;
    let (refresh, secrets) = refresh.map_or_else(Default::default, |(refresh, secrets)| (Some(refresh), secrets));
    Ok((Auth::McpOauth(McpOauth { mcp_server_url, expires_at, refresh }), Secrets { token, ..secrets }))
}

fn read_refresh(o: &mut Object<'_>) -> Decoded<(Refresh, Secrets)> {
    let client_id = o.required("client_id")?.text(1, MAX_PARAMETER)?;
    let refresh_token = Some(Secret::decode(&o.required("refresh_token")?)?);
    let token_endpoint = read_url(&o.required("token_endpoint")?)?;
    let (token_endpoint_auth, client_secret) = read_endpoint_auth(&o.required("token_endpoint_auth")?, true)?;
    let optional = |node: &Node<'_>| node.text(0, MAX_PARAMETER);
    let resource = o.kept("resource", optional)?.filter(|text| !text.is_empty());
    let scope = o.kept("scope", optional)?.filter(|text| !text.is_empty());
    let refresh = Refresh { client_id, token_endpoint, token_endpoint_auth, resource, scope };
    Ok((refresh, Secrets { token: None, refresh_token, client_secret }))
}

/// The client's authentication with its secret; an update of one without a secret has nothing to say.
fn read_endpoint_auth(node: &Node<'_>, creating: bool) -> Decoded<(TokenEndpointAuth, Option<Secret>)> {
    let tag = node.tag()?;
    let kind = TokenEndpointAuth::from_name(tag).filter(|kind| creating || *kind != TokenEndpointAuth::Open);
    let kind = kind.ok_or_else(|| node.wrong_tag(tag))?;
    node.object(|o| {
        o.tagged();
        let secret = match kind {
            TokenEndpointAuth::Open => None,
            _ if creating => Some(Secret::decode(&o.required("client_secret")?)?),
            _ => o.kept("client_secret", Secret::decode)?,
        };
        Ok((kind, secret))
    })
}

fn read_variable(o: &mut Object<'_>) -> Decoded<(Auth, Secrets)> {
    let secret_name = read_secret_name(&o.required("secret_name")?)?;
    let token = Some(Secret::decode(&o.required("secret_value")?)?);
    let networking = read_networking(&o.required("networking")?)?;
    let location = o.kept("injection_location", read_location)?.unwrap_or_default();
    let injection_location = location.over(InjectionLocation { body: false, header: true })?;
    let variable = EnvironmentVariable { secret_name, networking, injection_location };
    Ok((Auth::EnvironmentVariable(variable), Secrets { token, ..Secrets::default() }))
}

fn read_secret_name(node: &Node<'_>) -> Decoded<String> {
    let name = node.text(1, MAX_SECRET_NAME)?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(is_name) {
        return Err(node.invalid("must be the name of an environment variable: letters, digits and _, no digit first"));
    }
    Ok(name)
}

fn read_networking(node: &Node<'_>) -> Decoded<CredentialNetworking> {
    let tag = node.tag()?;
    node.object(|o| {
        o.tagged();
        match tag {
            "unrestricted" => Ok(CredentialNetworking::Unrestricted {}),
            "limited" => {
                let allowed_hosts = o.required("allowed_hosts")?.items(0, MAX_HOSTS, read_host)?;
                Ok(CredentialNetworking::Limited { allowed_hosts })
            }
            other => Err(node.wrong_tag(other)),
        }
    })
}

/// What a body says about an [`InjectionLocation`]; what it leaves out is kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocationChange {
    body: Option<bool>,
    header: Option<bool>,
}

fn read_location(node: &Node<'_>) -> Decoded<LocationChange> {
    node.object(|o| {
        Ok(LocationChange { body: o.kept("body", Node::boolean)?, header: o.kept("header", Node::boolean)? })
    })
}

impl LocationChange {
    fn over(self, stored: InjectionLocation) -> Decoded<InjectionLocation> {
        let location =
            InjectionLocation { body: self.body.unwrap_or(stored.body), header: self.header.unwrap_or(stored.header) };
        if location.body || location.header {
            return Ok(location);
        }
        Err(Invalid::field("auth.injection_location", "at least one of body and header must be true"))
    }
}

fn read_url(node: &Node<'_>) -> Decoded<String> {
    node.text(1, MAX_URL)
}

fn read_time(node: &Node<'_>) -> Decoded<Time> {
    node.string()?.parse().map_err(|_| node.unreadable("Input should be a valid RFC 3339 time"))
}

/// An update request; what it leaves out, or is null, is kept.
#[derive(Debug, Clone)]
pub struct UpdateCredential {
    /// A new name.
    pub display_name: Option<String>,
    /// What changes of its use and its secrets.
    pub auth: Option<AuthChange>,
    /// Pairs to set and to delete.
    pub metadata: Changes,
}

/// What an update says about an [`Auth`] of the same type, and which secrets it replaces.
#[derive(Debug, Clone)]
pub struct AuthChange {
    of: ChangeOf,
    secrets: Secrets,
}

#[derive(Debug, Clone)]
enum ChangeOf {
    McpOauth { expires_at: Option<Time>, refresh: Option<RefreshChange> },
    StaticBearer,
    EnvironmentVariable { networking: Option<CredentialNetworking>, location: LocationChange },
}

#[derive(Debug, Clone)]
struct RefreshChange {
    /// An empty text clears it.
    scope: Option<String>,
    has_endpoint_auth: bool,
}

impl UpdateCredential {
    /// Reads the body of an update request.
    ///
    /// # Errors
    /// When a field is not what it should be; the message names it.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        o.speak(Dialect::Deployments);
        Ok(Self {
            display_name: o.kept("display_name", |n| n.text(1, MAX_DISPLAY_NAME))?,
            auth: o.kept("auth", read_change)?,
            metadata: Changes::read(o.patch("metadata"))?,
        })
    }
}

fn read_change(node: &Node<'_>) -> Decoded<AuthChange> {
    let tag = node.tag()?;
    node.object(|o| {
        o.tagged();
        match tag {
            "mcp_oauth" => {
                let token = o.kept("access_token", Secret::decode_token)?;
                let expires_at = o.kept("expires_at", read_time)?;
                let refresh = o.kept("refresh", |node| node.object(read_refresh_change))?;
                let (refresh, secrets) =
                    refresh.map_or_else(Default::default, |(change, secrets)| (Some(change), secrets));
                Ok(AuthChange { of: ChangeOf::McpOauth { expires_at, refresh }, secrets: Secrets { token, ..secrets } })
            }
            "static_bearer" => {
                let token = o.kept("token", Secret::decode_token)?;
                Ok(AuthChange { of: ChangeOf::StaticBearer, secrets: Secrets { token, ..Secrets::default() } })
            }
            "environment_variable" => {
                let token = o.kept("secret_value", Secret::decode)?;
                let networking = o.kept("networking", read_networking)?;
                let location = o.kept("injection_location", read_location)?.unwrap_or_default();
                Ok(AuthChange {
                    of: ChangeOf::EnvironmentVariable { networking, location },
                    secrets: Secrets { token, ..Secrets::default() },
                })
            }
            other => Err(node.wrong_tag(other)),
        }
    })
}

fn read_refresh_change(o: &mut Object<'_>) -> Decoded<(RefreshChange, Secrets)> {
    let refresh_token = o.kept("refresh_token", Secret::decode)?;
    let scope = o.kept("scope", |node| node.text(0, MAX_PARAMETER))?;
    let auth = o.kept("token_endpoint_auth", |node| read_endpoint_auth(node, false))?;
    let change = RefreshChange { scope, has_endpoint_auth: auth.is_some() };
    let client_secret = auth.and_then(|(_, secret)| secret);
    Ok((change, Secrets { token: None, refresh_token, client_secret }))
}

impl AuthChange {
    /// The secrets that it replaces.
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// When the token expires from now on, if it says so.
    pub fn expires_at(&self) -> Option<Time> {
        match &self.of {
            ChangeOf::McpOauth { expires_at, .. } => *expires_at,
            _ => None,
        }
    }

    /// What `stored` becomes.
    ///
    /// # Errors
    /// When it is of another type, or has nothing of what is to change.
    pub fn over(&self, stored: &Auth) -> Decoded<Auth> {
        match (&self.of, stored) {
            (ChangeOf::McpOauth { expires_at, refresh }, Auth::McpOauth(stored)) => {
                let refresh = match (refresh, &stored.refresh) {
                    (Some(change), Some(stored)) => Some(change.over(stored)?),
                    (Some(_), None) => {
                        let message = "this credential was created without refresh capability";
                        return Err(Invalid::field("auth.refresh", message));
                    }
                    (None, kept) => kept.clone(),
                };
                let expires_at = expires_at.or(stored.expires_at);
                Ok(Auth::McpOauth(McpOauth { mcp_server_url: stored.mcp_server_url.clone(), expires_at, refresh }))
            }
            (ChangeOf::StaticBearer, Auth::StaticBearer(stored)) => Ok(Auth::StaticBearer(stored.clone())),
            (ChangeOf::EnvironmentVariable { networking, location }, Auth::EnvironmentVariable(stored)) => {
                Ok(Auth::EnvironmentVariable(EnvironmentVariable {
                    secret_name: stored.secret_name.clone(),
                    networking: networking.clone().unwrap_or_else(|| stored.networking.clone()),
                    injection_location: location.over(stored.injection_location)?,
                }))
            }
            _ => Err(Invalid::field("auth.type", "does not match this credential's stored type")),
        }
    }
}

impl RefreshChange {
    fn over(&self, stored: &Refresh) -> Decoded<Refresh> {
        if self.has_endpoint_auth && stored.token_endpoint_auth == TokenEndpointAuth::Open {
            let message = "this credential was created without a client secret";
            return Err(Invalid::field("auth.refresh.token_endpoint_auth", message));
        }
        let scope = match &self.scope {
            None => stored.scope.clone(),
            Some(scope) => Some(scope.clone()).filter(|scope| !scope.is_empty()),
        };
        Ok(Refresh { scope, ..stored.clone() })
    }
}

/// The result of trying a credential at its MCP server.
#[derive(Debug, Serialize)]
pub struct Validation {
    /// Always `vault_credential_validation`.
    pub r#type: &'static str,
    /// The credential.
    pub credential_id: CredentialId,
    /// Its vault.
    pub vault_id: VaultId,
    /// The verdict.
    pub status: ValidationStatus,
    /// Whether it has a refresh token.
    pub has_refresh_token: bool,
    /// The step that failed; null when none did.
    pub mcp_probe: Option<McpProbe>,
    /// The exchange for a new token; null when none was tried.
    pub refresh: Option<RefreshAttempt>,
    /// When it was tried.
    pub validated_at: Time,
}

/// The verdict on a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ValidationStatus {
    /// The MCP server took it.
    Valid,
    /// The MCP server refused it, and no new token helped.
    Invalid,
    /// It could not be told.
    Unknown,
}

/// The step of the Model Context Protocol that failed.
#[derive(Debug, Serialize)]
pub struct McpProbe {
    /// The method, such as `initialize`.
    pub method: String,
    /// What the server answered, if it did.
    pub http_response: Option<HttpResponse>,
}

/// An exchange of a refresh token for a new access token.
#[derive(Debug, Serialize)]
pub struct RefreshAttempt {
    /// How it ended.
    pub status: RefreshStatus,
    /// What the token endpoint answered, where it refused.
    pub http_response: Option<HttpResponse>,
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RefreshStatus {
    /// There is a new access token.
    Succeeded,
    /// The token endpoint refused.
    Failed,
    /// The token endpoint could not be reached.
    ConnectError,
    /// There is no refresh token to exchange.
    NoRefreshToken,
}

/// An answer that was taken down, without what is secret in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HttpResponse {
    /// The status.
    pub status_code: u16,
    /// The `Content-Type`; empty when there was none.
    pub content_type: String,
    /// The beginning of the body.
    pub body: String,
    /// Whether the body goes on.
    pub body_truncated: bool,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::decode::body;

    fn oauth(refresh: &Value) -> Value {
        json!({"auth": {"type": "mcp_oauth", "mcp_server_url": "https://m.example", "access_token": "a", "refresh": refresh}})
    }

    fn created(sent: &Value) -> Decoded<CreateCredential> {
        body(sent, CreateCredential::read)
    }

    #[test]
    fn a_create_request_is_read_strictly_and_secrets_are_kept_apart() {
        let refresh = json!({"client_id": "c", "refresh_token": "r", "token_endpoint": "https://t.example",
            "token_endpoint_auth": {"type": "client_secret_post", "client_secret": "s"}});
        let credential = created(&oauth(&refresh)).unwrap();
        let shown = serde_json::to_value(&credential.auth).unwrap();
        let expected = json!({"type": "mcp_oauth", "mcp_server_url": "https://m.example", "refresh": {"client_id": "c",
            "token_endpoint": "https://t.example", "token_endpoint_auth": {"type": "client_secret_post"}, "resource": null,
            "scope": null}});
        assert_eq!(shown, expected);
        assert_eq!(credential.secrets.all().map(Secret::reveal).collect::<Vec<_>>(), ["a", "r", "s"]);
        let variable = |changes: &Value| {
            let mut auth = json!({"type": "environment_variable", "secret_name": "KEY", "secret_value": "v",
                "networking": {"type": "unrestricted"}});
            auth.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            json!({ "auth": auth })
        };
        let shown = serde_json::to_value(created(&variable(&json!({}))).unwrap().auth).unwrap();
        assert_eq!(shown["injection_location"], json!({"body": false, "header": true}));
        for (sent, message) in [
            (json!({}), "auth: Field required"),
            (json!({"auth": {"type": "x"}}), "Failed to parse request: auth.type: \"x\" is not a valid value"),
            (json!({"auth": {"type": "mcp_oauth"}}), "auth.mcp_server_url: Field required"),
            (json!({"auth": {"type": "static_bearer", "mcp_server_url": "u"}}), "auth.token: Field required"),
            (oauth(&json!({"client_id": "c"})), "auth.refresh.refresh_token: Field required"),
            (
                oauth(&json!({"zz": 1, "client_id": "c", "refresh_token": "r", "token_endpoint": "t",
                "token_endpoint_auth": {"type": "none"}})),
                "Failed to parse request body: unknown field \"zz\"",
            ),
            (variable(&json!({"secret_name": ""})), "auth.secret_name: minimum string length is 1"),
            (
                variable(&json!({"secret_name": "a-b"})),
                "auth.secret_name: must be the name of an environment variable: letters, digits and _, no digit first",
            ),
            (
                variable(&json!({"injection_location": {"header": false}})),
                "auth.injection_location: at least one of body and header must be true",
            ),
            (
                variable(&json!({"networking": {"type": "limited", "allowed_hosts": vec!["a.example"; 17]}})),
                "auth.networking.allowed_hosts: value must contain no more than 16 item(s)",
            ),
            (
                variable(&json!({"networking": {"type": "limited", "allowed_hosts": ["https://a.example"]}})),
                "auth.networking.allowed_hosts.0: must be a host name, with \"*.\" in front for its subdomains",
            ),
        ] {
            assert_eq!(created(&sent).unwrap_err().to_string(), message, "{sent}");
        }
    }

    #[test]
    fn an_update_keeps_what_it_leaves_out_and_changes_no_type() {
        let stored = |sent: &Value| created(sent).unwrap().auth;
        let change = |sent: Value| body(&json!({ "auth": sent }), UpdateCredential::read).unwrap().auth.unwrap();
        let plain = stored(&oauth(&Value::Null));
        let with =
            stored(&oauth(&json!({"client_id": "c", "refresh_token": "r", "token_endpoint": "t", "scope": "one",
            "token_endpoint_auth": {"type": "none"}})));
        let scope = change(json!({"type": "mcp_oauth", "refresh": {"scope": ""}}));
        let Auth::McpOauth(McpOauth { refresh: Some(refresh), .. }) = scope.over(&with).unwrap() else { panic!() };
        assert_eq!((refresh.scope, &*refresh.client_id), (None, "c"));
        let message = |change: &AuthChange, stored: &Auth| change.over(stored).unwrap_err().to_string();
        let expected = "auth.refresh: this credential was created without refresh capability";
        assert_eq!(message(&scope, &plain), expected);
        let other = change(json!({"type": "static_bearer", "token": "t"}));
        assert_eq!(message(&other, &plain), "auth.type: does not match this credential's stored type");
        let secret = change(json!({"type": "mcp_oauth",
            "refresh": {"token_endpoint_auth": {"type": "client_secret_basic", "client_secret": "s"}}}));
        let expected = "auth.refresh.token_endpoint_auth: this credential was created without a client secret";
        assert_eq!(message(&secret, &with), expected);
        let sent = json!({"auth": {"type": "static_bearer", "mcp_server_url": "u"}});
        let refused = body(&sent, UpdateCredential::read).unwrap_err().to_string();
        assert_eq!(refused, "Failed to parse request body: unknown field \"mcp_server_url\"");
    }
}
