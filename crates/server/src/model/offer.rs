//! Which models the server offers, and who answers for each.

use std::{cmp::Reverse, sync::Arc};

use rota_api::{
    Time,
    model::{Lifecycle, Model as WireModel},
};
use serde_json::{Value, json};

use super::{
    Model, Price,
    messages::Messages,
    openai::OpenAi,
    playbook::Playbook,
    upstream::{Credential, UpstreamConfig},
};
use crate::{
    config::{DEFAULT_MAX_TOKENS, ModelConfig, Provider},
    error::{Error, Result},
};

/// The name of the built-in model.
pub const PLAYBOOK: &str = "playbook";

/// A model on offer.
#[derive(Clone)]
pub struct Offered {
    /// What clients see.
    pub wire: WireModel,
    /// Other names that agents can use for it.
    pub aliases: Vec<String>,
    /// The name that the provider knows it by.
    pub upstream: String,
    /// Most tokens of a reply.
    pub max_tokens: u32,
    /// What it costs, where that is configured.
    pub price: Option<Price>,
    /// Who answers.
    pub provider: Arc<dyn Model>,
}

/// Every model that clients see: the latest first, and those of no known time in the order of the configuration, `playbook`
/// last.
#[derive(Clone)]
pub struct Offer(Arc<Vec<Offered>>);

impl Offer {
    /// The models of a configuration.
    ///
    /// # Errors
    /// When an entry names an environment variable that is not set, or a base URL that is none.
    pub fn new(configs: &[ModelConfig]) -> Result<Self> {
        let mut models = configs.iter().map(offered).collect::<Result<Vec<_>>>()?;
        if models.iter().all(|model| !model.is_named(PLAYBOOK)) {
            models.push(Offered {
                wire: wire(PLAYBOOK, "Playbook (runs the fenced blocks of a message)"),
                aliases: Vec::new(),
                upstream: PLAYBOOK.to_owned(),
                max_tokens: DEFAULT_MAX_TOKENS,
                price: None,
                provider: Arc::new(Playbook),
            });
        }
        models.sort_by_key(|model| Reverse(model.wire.created_at));
        Ok(Self(Arc::new(models)))
    }

    /// These models and one more, `id`, that `provider` answers for.
    #[must_use]
    pub fn and(&self, id: &str, provider: Arc<dyn Model>) -> Self {
        let one_more = Offered {
            wire: wire(id, id),
            aliases: Vec::new(),
            upstream: id.to_owned(),
            max_tokens: DEFAULT_MAX_TOKENS,
            price: None,
            provider,
        };
        Self(Arc::new([&self.0[..], &[one_more]].concat()))
    }

    /// The model with the id or alias `name`, also a retired one.
    pub fn get(&self, name: &str) -> Option<&Offered> {
        self.0.iter().find(|model| model.is_named(name))
    }

    /// The model with the id or alias `name`, unless it is retired: one that can be asked.
    pub fn callable(&self, name: &str) -> Option<&Offered> {
        self.get(name).filter(|model| model.wire.lifecycle != Lifecycle::Retired)
    }

    /// Every model, in the order of the list that clients see.
    pub fn all(&self) -> &[Offered] {
        &self.0
    }

    /// That the model that `field` names can be asked.
    pub fn check(&self, field: &str, name: &str) -> Result<()> {
        if self.callable(name).is_some() {
            return Ok(());
        }
        Err(Error::invalid(match self.get(name) {
            Some(_) => format!("{field}: \"{name}\" is retired; GET /v1/models lists those that can be used"),
            None => format!(
                "{field}: \"{name}\" is not offered by this server; GET /v1/models lists those that are, and \
                 [[models]] in rota.toml adds others"
            ),
        }))
    }
}

impl Offered {
    fn is_named(&self, name: &str) -> bool {
        self.wire.id == name || self.aliases.iter().any(|alias| alias == name)
    }
}

fn wire(id: &str, display_name: &str) -> WireModel {
    WireModel {
        id: id.to_owned(),
        r#type: "model",
        display_name: display_name.to_owned(),
        created_at: Time::from_micros(0),
        lifecycle: Lifecycle::Active,
        deprecated_at: None,
        retires_at: None,
        line: None,
        max_input_tokens: None,
        max_tokens: None,
        capabilities: capabilities(Provider::Playbook),
        allowed_fallback_models: None,
    }
}

/// What a session can use of a model: of one behind an upstream what is passed on to it, whether or not that one model
/// takes it; of the playbook nothing.
fn capabilities(provider: Provider) -> Value {
    let passed_on = provider != Provider::Playbook;
    let is = |supported: bool| json!({ "supported": supported });
    json!({
        "batch": is(false),
        "citations": is(false),
        "code_execution": is(false),
        "compaction": {"supported": false, "summarize": is(false)},
        "context_management": {
            "supported": false,
            "clear_thinking_20251015": is(false),
            "clear_tool_uses_20250919": is(false),
            "compact_20260112": is(false),
        },
        "effort": {
            "supported": passed_on,
            "low": is(passed_on),
            "medium": is(passed_on),
            "high": is(passed_on),
            "xhigh": is(passed_on),
            "max": is(passed_on),
        },
        "image_input": is(passed_on),
        "pdf_input": is(passed_on),
        "server_tools": {"supported": false, "code_execution": is(false), "web_search": is(false)},
        "structured_outputs": is(false),
        "thinking": {
            "supported": false,
            "types": {"adaptive": is(false), "between_tools": is(false), "disabled": is(true), "enabled": is(false)},
        },
    })
}

fn offered(config: &ModelConfig) -> Result<Offered> {
    let display_name = config.display_name.as_deref().unwrap_or(&config.id);
    let provider: Arc<dyn Model> = match config.provider {
        Provider::Playbook => Arc::new(Playbook),
        Provider::Messages => Arc::new(Messages::new(upstream(config)?).map_err(|error| wrong(config, error))?),
        Provider::OpenAi => Arc::new(OpenAi::new(upstream(config)?).map_err(|error| wrong(config, error))?),
    };
    Ok(Offered {
        wire: WireModel {
            capabilities: capabilities(config.provider),
            max_input_tokens: config.max_input_tokens,
            max_tokens: Some(config.max_tokens),
            created_at: config.released_at.unwrap_or(Time::from_micros(0)),
            lifecycle: config.lifecycle,
            deprecated_at: config.deprecated_at,
            retires_at: config.retires_at,
            line: config.line,
            ..wire(&config.id, display_name)
        },
        aliases: config.aliases.clone(),
        upstream: config.upstream.clone().unwrap_or_else(|| config.id.clone()),
        max_tokens: config.max_tokens,
        price: config.price.as_ref().map(Price::new),
        provider,
    })
}

fn upstream(config: &ModelConfig) -> Result<UpstreamConfig> {
    let base_url = config.base_url.clone().unwrap_or_default();
    Ok(UpstreamConfig::new(base_url, credential(config)?))
}

fn credential(config: &ModelConfig) -> Result<Option<Credential>> {
    let Some(variable) = &config.api_key_env else { return Ok(None) };
    let key = std::env::var(variable)
        .map_err(|_| wrong(config, format_args!("the environment variable {variable} is not set")))?;
    let is_bearer = config.bearer || config.provider == Provider::OpenAi;
    Ok(Some(if is_bearer { Credential::Bearer(key) } else { Credential::ApiKey(key) }))
}

fn wrong(config: &ModelConfig, what: impl std::fmt::Display) -> Error {
    Error::invalid(format_args!("models: \"{}\": {what}", config.id))
}
