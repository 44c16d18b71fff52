//! Repositories as resources: which hosts they may be of, their sealed tokens, and which of a session's are in their places.
//!
//! A deployment has the tokens of its repositories sealed for itself, and each session that it starts has its own. What is
//! shown of a repository is with the other resources.

use rota_api::{
    id::{DeploymentId, SessionId, SessionResourceId, WorkspaceId},
    repository::{self, Checkout, Repository, WORKSPACE},
    secret::Secret,
    session::Resource,
};
use zeroize::Zeroizing;

use crate::{
    app::App,
    config::GitConfig,
    db::{Row, Tx, vals},
    error::{Error, Result},
    resources::session_secrets::owner_of_token,
    vault::{DataKey, Owner},
};

/// In whose words a URL is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Those of sessions.
    BySession,
    /// Those of deployments.
    ByDeployment,
}

/// The repositories among resources, each with its place.
fn among(resources: &[Resource]) -> impl Iterator<Item = (i64, &Repository)> {
    (0..).zip(resources).filter_map(|(place, resource)| match resource {
        Resource::GithubRepository(repository) => Some((place, repository)),
        _ => None,
    })
}

/// That every repository is of a host that the configuration allows.
///
/// # Errors
/// The refusal, in recorded words.
pub fn check(git: &GitConfig, resources: &[Resource], asked: Asked) -> Result<()> {
    for (_, Repository { url, .. }) in among(resources) {
        if repository::parts(url).is_some_and(|(host, _)| git.allows(host)) {
            continue;
        }
        let forms: Vec<String> = git.hosts.iter().map(|host| format!("https://{host}/{{owner}}/{{repo}}")).collect();
        if forms.is_empty() {
            return Err(Error::invalid(
                "resources: this server mounts no repositories: its configuration allows no host",
            ));
        }
        let forms = forms.join(" or ");
        return Err(Error::invalid(match asked {
            Asked::BySession => format!(
                "Invalid `github_repository` resource: invalid github_repository url: must be {forms} with no .git suffix"
            ),
            Asked::ByDeployment => {
                format!("validate deployment resources: invalid GitHub repository URL: repo URL must be {forms}")
            }
        }));
    }
    Ok(())
}

/// The key under which tokens of resources are sealed; `None` where there are none.
pub async fn key(app: &App, workspace: &WorkspaceId, resources: &[Resource]) -> Result<Option<DataKey>> {
    match among(resources).next() {
        Some(_) => app.vault.key(&app.db, workspace).await.map(Some),
        None => Ok(None),
    }
}

fn sealed(key: Option<&DataKey>, owner: Owner<'_>, repository: &Repository) -> Result<String> {
    let token = repository.authorization_token.as_ref().zip(key);
    let (token, key) = token.ok_or_else(|| Error::internal("a repository has no token"))?;
    key.seal(owner, token.reveal().as_bytes())
}

fn opened(key: &DataKey, owner: Owner<'_>, sealed: &str) -> Result<Secret> {
    let bytes: Zeroizing<Vec<u8>> = key.open(owner, sealed)?;
    Ok(Secret::new(std::str::from_utf8(&bytes).map_err(Error::internal)?.to_owned()))
}

fn of_a_deployment(id: &str) -> Owner<'_> {
    Owner { kind: "deployment_repository", id }
}

/// Keeps the tokens of what a deployment mounts from now on, and forgets those of what it did.
pub fn keep_tokens(
    tx: &mut Tx<'_>,
    key: Option<&DataKey>,
    workspace: &WorkspaceId,
    deployment: &str,
    resources: &[Resource],
) -> Result<()> {
    forget_of_deployment(tx, workspace, deployment)?;
    for (place, repository) in among(resources) {
        let token = sealed(key, of_a_deployment(&format!("{deployment}/{place}")), repository)?;
        tx.add(
            "INSERT INTO deployment_repositories (workspace_id, deployment_id, place, token) VALUES ($1, $2, $3, $4)",
            vals![workspace, deployment, place, &token],
        )?;
    }
    Ok(())
}

/// Forgets the tokens of a deployment.
pub fn forget_of_deployment(tx: &mut Tx<'_>, workspace: &WorkspaceId, deployment: &str) -> Result<()> {
    tx.send(
        "DELETE FROM deployment_repositories WHERE workspace_id = $1 AND deployment_id = $2",
        vals![workspace, deployment],
    )
}

/// Whether there are repositories among resources.
pub fn are_among(resources: &[Resource]) -> bool {
    among(resources).next().is_some()
}

/// The tokens of a deployment's repositories, each with its place among the resources.
pub fn tokens(
    tx: &mut Tx<'_>,
    key: &DataKey,
    workspace: &WorkspaceId,
    deployment: &DeploymentId,
) -> Result<Vec<(usize, Secret)>> {
    let sql = "SELECT place, token FROM deployment_repositories WHERE workspace_id = $1 AND deployment_id = $2";
    let sealed = tx.all(sql, vals![workspace, deployment], |row| Ok((row.int(0)?, row.text(1)?)))?;
    let open = |(place, token): (i64, String)| {
        let token = opened(key, of_a_deployment(&format!("{deployment}/{place}")), &token)?;
        Ok((usize::try_from(place).map_err(Error::internal)?, token))
    };
    sealed.into_iter().map(open).collect()
}

/// Gives a session one of its repositories, at a path below `/workspace`.
pub fn attach(
    tx: &mut Tx<'_>,
    key: Option<&DataKey>,
    (workspace, session): (&WorkspaceId, &SessionId),
    (place, resource): (i64, &SessionResourceId),
    path: &str,
    repository: &Repository,
) -> Result<()> {
    let token = sealed(key, owner_of_token(resource.as_ref()), repository)?;
    let checkout = repository.checkout.as_ref().map(serde_json::to_string).transpose()?;
    tx.add(
        "INSERT INTO session_repositories (workspace_id, session_id, place, resource_id, url, path, checkout, token, skipped)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, '[]')",
        vals![workspace, session, place, resource, &repository.url, path, checkout.as_deref(), &token],
    )
}

/// Gives a repository of a session another token. Whether the session has that repository.
pub fn replace_token(
    tx: &mut Tx<'_>,
    key: &DataKey,
    (workspace, session): (&WorkspaceId, &str),
    resource: &str,
    token: &Secret,
) -> Result<bool> {
    let sealed = key.seal(owner_of_token(resource), token.reveal().as_bytes())?;
    tx.changes(
        "UPDATE session_repositories SET token = $4, failure = NULL
         WHERE workspace_id = $1 AND session_id = $2 AND resource_id = $3",
        vals![workspace, session, resource, &sealed],
    )
}

/// Takes a repository from a session.
pub fn remove(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &str, resource: &str) -> Result<()> {
    tx.send(
        "DELETE FROM session_repositories WHERE workspace_id = $1 AND session_id = $2 AND resource_id = $3",
        vals![workspace, session, resource],
    )
}

/// Forgets the tokens of a session that has ended, and with them its repositories.
pub fn forget_of_session(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId) -> Result<()> {
    tx.send("DELETE FROM session_repositories WHERE workspace_id = $1 AND session_id = $2", vals![workspace, session])
}

/// A repository that a session has.
#[derive(Debug, Clone)]
pub struct SessionRepository {
    /// Its id among the session's resources.
    pub resource: SessionResourceId,
    /// Where it is.
    pub url: String,
    /// Where it is mounted, below `/workspace`.
    pub path: String,
    /// What is checked out.
    pub checkout: Option<Checkout>,
    /// The server that was about to put a clone in its place.
    pub placing_on: Option<String>,
    /// The server that has it there.
    pub placed_on: Option<String>,
    /// Why it is not there, for people, as of the last try.
    pub failure: Option<String>,
    token: String,
}

impl SessionRepository {
    /// Where it is mounted, in full.
    pub fn mount_path(&self) -> String {
        format!("{WORKSPACE}/{}", self.path)
    }

    /// The token with which it is cloned.
    pub fn token(&self, key: &DataKey) -> Result<Secret> {
        opened(key, owner_of_token(self.resource.as_ref()), &self.token)
    }
}

/// The repositories of a session, in their order.
pub fn of_session(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId) -> Result<Vec<SessionRepository>> {
    let sql = "SELECT resource_id, url, path, checkout, token, placing_on, placed_on, failure FROM session_repositories
         WHERE workspace_id = $1 AND session_id = $2 ORDER BY place";
    tx.all(sql, vals![workspace, session], from_row)
}

fn from_row(row: &Row<'_>) -> Result<SessionRepository> {
    Ok(SessionRepository {
        resource: row.id("resource_id")?,
        url: row.text("url")?,
        path: row.text("path")?,
        checkout: row.opt_json("checkout")?,
        placing_on: row.opt_text("placing_on")?,
        placed_on: row.opt_text("placed_on")?,
        failure: row.opt_text("failure")?,
        token: row.text("token")?,
    })
}

/// Notes that the server `node` is about to put a clone in its place. Whether the session still has the repository.
pub fn is_placing(tx: &mut Tx<'_>, session: &SessionId, resource: &SessionResourceId, node: &str) -> Result<bool> {
    tx.changes(
        "UPDATE session_repositories SET placing_on = $3 WHERE session_id = $1 AND resource_id = $2",
        vals![session, resource, node],
    )
}

/// Notes that something else had the place.
pub fn is_not_placed(tx: &mut Tx<'_>, session: &SessionId, resource: &SessionResourceId) -> Result<()> {
    tx.send(
        "UPDATE session_repositories SET placing_on = NULL WHERE session_id = $1 AND resource_id = $2",
        vals![session, resource],
    )
}

/// Notes that it is there, at which commit, and which of its skills are not announced and why.
pub fn is_placed(
    tx: &mut Tx<'_>,
    session: &SessionId,
    resource: &SessionResourceId,
    node: &str,
    (commit, skipped): (Option<&str>, &[String]),
) -> Result<bool> {
    tx.changes(
        "UPDATE session_repositories SET placed_on = $3, commit_id = $4, skipped = $5, failure = NULL
         WHERE session_id = $1 AND resource_id = $2",
        vals![session, resource, node, commit, &serde_json::to_string(skipped)?],
    )
}

/// Notes why it is not there.
pub fn has_failed(tx: &mut Tx<'_>, session: &SessionId, resource: &SessionResourceId, failure: &str) -> Result<()> {
    tx.send(
        "UPDATE session_repositories SET failure = $3 WHERE session_id = $1 AND resource_id = $2",
        vals![session, resource, failure],
    )
}

/// Which skills of its repositories a session is not told of, and why.
pub fn skipped_skills(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &SessionId) -> Result<Vec<String>> {
    let sql = "SELECT skipped FROM session_repositories WHERE workspace_id = $1 AND session_id = $2 AND skipped <> '[]'
         ORDER BY place";
    let skipped: Vec<Vec<String>> = tx.all(sql, vals![workspace, session], |row| row.json(0))?;
    Ok(skipped.into_iter().flatten().collect())
}
