//! The MCP servers of a session: they are looked at before the model is asked, and run the calls of their tools.
//!
//! Recorded: the first request waits for their lists; a server that fails is told of once each time the session goes to work, is
//! tried again the next time, and the session goes on without its tools.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use http::Uri;
use rota_api::{
    agent::{McpServer, ThreadAgent, Tool},
    event::{EventBody, RetryStatus, SessionError, SessionErrorType},
    id::SessionId,
};
use serde_json::Map;

use super::{
    fold::Call,
    permission,
    runner::{Runner, interrupted},
    step::{Left, Step},
    tools, traced,
};
use crate::{
    error::Result,
    gate::Policy,
    limits::{MCP_TOOLS, MCP_TOOLS_OF_ONE},
    mcp::{Called, Connected, Failure, Mcp, McpTool, Of, Using},
};

/// The MCP servers of a session that is at work.
pub(super) struct Servers {
    named: Vec<McpServer>,
    /// `None` where there are none.
    using: Option<Using>,
    /// The hosts that the environment allows.
    reach: Policy,
    /// What the model is offered of them.
    offered: Vec<McpTool>,
    /// Whether they were looked at since the session went to work.
    are_known: bool,
    /// Those that are not tried again before the session goes to work the next time.
    failed: BTreeSet<String>,
    /// Those of which the client was told since the session went to work.
    told: BTreeSet<String>,
}

impl Servers {
    pub(super) fn new(mcp: &Arc<Mcp>, session: &SessionId, reach: Policy, agent: &ThreadAgent) -> Self {
        Self {
            named: agent.mcp_servers.clone(),
            using: (!agent.mcp_servers.is_empty()).then(|| mcp.using(session)),
            reach,
            offered: Vec::new(),
            are_known: false,
            failed: BTreeSet::new(),
            told: BTreeSet::new(),
        }
    }

    /// The tools that the model is offered.
    pub(super) fn offered(&self) -> &[McpTool] {
        &self.offered
    }

    /// The one that the model calls `name`.
    pub(super) fn tool(&self, name: &str) -> Option<&McpTool> {
        self.offered.iter().find(|tool| tool.for_model == name)
    }

    /// Whether one of them is to be looked at before the model is asked.
    fn are_lacking(&self) -> bool {
        let is_lacking = |using: &Using| self.named.iter().any(|server| self.is_tried(server) && using.needs(server));
        self.using.as_ref().is_some_and(|using| !self.are_known || is_lacking(using))
    }

    fn is_tried(&self, server: &McpServer) -> bool {
        !self.failed.contains(&server.name)
    }

    /// Why the environment keeps the session from a server.
    fn blocked(&self, server: &McpServer) -> Option<Failure> {
        let host = server.url.parse::<Uri>().ok().and_then(|url| url.host().map(str::to_ascii_lowercase));
        if host.as_deref().is_some_and(|host| self.reach.allows(host)) {
            return None;
        }
        let host = host.unwrap_or_else(|| server.url.clone());
        Some(Failure::of_connection(format!(
            "its host {host} is blocked by the network policy of the environment, as that was when the session was created: add \
             it to allowed_hosts, or set allow_mcp_servers, for new sessions"
        )))
    }

    /// Sets what the model is offered: what is switched on, in the order of the servers. How many tools are too many.
    fn offer(&mut self, tools: &[Tool]) -> usize {
        let Some(using) = &self.using else { return 0 };
        let mut names = HashSet::new();
        let listed = self.named.iter().flat_map(|server| using.tools(server));
        let is_on = |tool: &McpTool| permission::judge_mcp(tools, &tool.server, &tool.name).is_some();
        let mut offered: Vec<McpTool> =
            listed.filter(is_on).filter(|tool| names.insert(tool.for_model.clone())).collect();
        let left_out = offered.len().saturating_sub(MCP_TOOLS);
        offered.truncate(MCP_TOOLS);
        self.offered = offered;
        left_out
    }

    /// The event that tells of a failure, where the client was not told of that server since the session went to work.
    fn tell(&mut self, server: &str, failure: &Failure) -> Option<EventBody> {
        self.told.insert(server.to_owned()).then(|| {
            let r#type = if failure.is_authentication {
                SessionErrorType::McpAuthenticationFailedError
            } else {
                SessionErrorType::McpConnectionFailedError
            };
            let message = format!("MCP server \"{server}\": {}", failure.why);
            let error = SessionError::new(r#type, message, RetryStatus::Retrying);
            EventBody::SessionError { error: SessionError { mcp_server_name: Some(server.to_owned()), ..error } }
        })
    }
}

impl Runner<'_> {
    /// Whether a server is to be looked at before the model is asked.
    pub(super) fn lacks_servers(&self) -> bool {
        self.servers.are_lacking()
    }

    /// Connects the servers and asks them for their tools, where that is needed. What fails is told, and the session goes on
    /// without; an interrupt is left to the next step.
    pub(super) async fn connect_servers(&mut self) -> Result<bool, Left> {
        if !self.state.running || self.state.open_request.is_some() {
            let work = self.begin();
            self.perform(work).await?;
        }
        let Self { app, lease, servers, .. } = self;
        let Some(using) = &servers.using else { return Ok(false) };
        let of = Of { app, workspace: &lease.workspace, session: &lease.session };
        let wanted = servers.named.iter().filter(|server| servers.is_tried(server) && using.needs(server));
        let (blocked, allowed): (Vec<_>, Vec<_>) = wanted.partition(|server| servers.blocked(server).is_some());
        let mut failures: Vec<(String, Failure)> =
            blocked.into_iter().filter_map(|server| Some((server.name.clone(), servers.blocked(server)?))).collect();
        self.place = None;
        let connected = tokio::select! {
            connected = using.connect(of, &allowed, &servers.named) => Some(connected),
            () = interrupted(app, lease, &mut self.watcher) => None,
        };
        self.place = Some(self.at_work.take(&self.lease.workspace).await);
        let Some(connected) = connected else { return Ok(false) };
        let mut cut = Vec::new();
        for (server, connected) in connected? {
            match connected {
                Connected::Not(failure) => failures.push((server.name.clone(), failure)),
                Connected::With { left_out: 0 } => {}
                Connected::With { left_out } => {
                    let why = format!(
                        "{left_out} of its tools are left out: a server has at most {MCP_TOOLS_OF_ONE}, whose descriptions and schemas \
                         are not too large"
                    );
                    cut.push((server.name.clone(), Failure::of_connection(why)));
                }
            }
        }
        self.servers.are_known = true;
        self.servers.failed.extend(failures.iter().map(|(server, _)| server.clone()));
        let left_out = self.servers.offer(&self.agent.tools);
        if left_out > 0
            && let Some(last) = self.servers.named.last()
        {
            let why = format!("{left_out} tools of MCP servers are left out: an agent has at most {MCP_TOOLS} of them");
            cut.push((last.name.clone(), Failure::of_connection(why)));
        }
        let mut events = Vec::new();
        for (server, failure) in failures.iter().chain(&cut) {
            tracing::info!(session_id = %self.lease.session, server, why = failure.why, "an MCP server is not there, or not whole");
            events.extend(self.servers.tell(server, failure).map(|body| self.event(body)));
        }
        if !events.is_empty() {
            self.perform(Step { events, ..Step::default() }).await?;
        }
        Ok(false)
    }

    /// Runs a call of a tool of a server. Its result is appended whatever it is; an interrupt is left to the next step.
    pub(super) async fn call_server(&mut self, server: &str, call: &Call) -> Result<bool, Left> {
        let not_run = |why: &str| format!("This call was not run: {why}.");
        let Self { app, lease, servers, .. } = self;
        let known = servers.named.iter().find(|known| known.name == *server);
        let is_on = permission::judge_mcp(&self.agent.tools, server, &call.name).is_some();
        let (Some(known), Some(using), true) = (known, &servers.using, is_on) else {
            let text = not_run("the agent does not have this tool any more");
            return self.finish(vec![tools::result(call, &text, true)]).await;
        };
        let none = Map::new();
        let of = Of { app, workspace: &lease.workspace, session: &lease.session };
        self.place = None;
        let span = traced::mcp(app, self.trace, server, call);
        let calling = async {
            match servers.blocked(known) {
                Some(failure) => Called::Failed { may_have_run: false, failure },
                None => using.call(of, known, &call.name, call.input.as_object().unwrap_or(&none)).await,
            }
        };
        let called = tokio::select! {
            called = calling => Some(called),
            () = interrupted(app, lease, &mut self.watcher) => None,
        };
        self.place = self.at_work.take_free(&self.lease.workspace, 1).pop();
        traced::called(span, called.as_ref());
        match called {
            None => {}
            Some(Called::Result { content, is_error }) => {
                self.finish(vec![tools::result_of(call, content, is_error)]).await?;
            }
            Some(Called::Failed { may_have_run, failure }) => {
                let text = if may_have_run {
                    format!("{}. Whether the call did anything is unknown: look before you try again.", failure.why)
                } else {
                    not_run(&failure.why)
                };
                let text = format!("MCP server \"{server}\": {text}");
                let told = self.servers.tell(server, &failure);
                self.finish_told(tools::result(call, &text, true), told).await?;
            }
        }
        if self.place.is_none() {
            self.place = Some(self.at_work.take(&self.lease.workspace).await);
        }
        Ok(false)
    }
}
