//! Which models the server offers, and who answers for each.

use std::{cmp::Reverse, sync::Arc};

use rota_api::{
    Time,
    model::{Lifecycle, Model as WireModel},
};
use serde_json::{Value, json};

use super::{
    Model, Price, Route,
    look::{self, Looked},
    messages::{Messages, Thinking},
    openai::{OpenAi, ReasoningField},
    playbook::Playbook,
    queue::Queue,
    upstream::{Credential, UpstreamConfig},
};
use crate::{
    config::{AdaptiveThinking, DEFAULT_MAX_TOKENS, ModelConfig, Provider, ReasoningFieldConfig, ThinkingConfig},
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
    /// Who answers: its own upstream, and then its fallbacks.
    pub(super) routes: Vec<Arc<Route>>,
}

/// Every model that clients see: the latest first, and those of no known time in the order of the configuration, `playbook`
/// last.
#[derive(Clone)]
pub struct Offer {
    models: Arc<Vec<Offered>>,
    /// The entries of the configuration, with who answers for each.
    upstreams: Arc<Vec<(ModelConfig, Arc<dyn Model>)>>,
    /// Who waits for each of them, in the same order.
    queues: Arc<Vec<Arc<Queue>>>,
}

impl Offer {
    /// The models of a configuration.
    ///
    /// # Errors
    /// When an entry names an environment variable that is not set, or a base URL that is none.
    pub fn new(configs: &[ModelConfig]) -> Result<Self> {
        Self::with(configs, |_| None)
    }

    /// The models of a configuration that takes the place of another one. What is known of an upstream stays known where nothing
    /// says that it is another one now.
    ///
    /// # Errors
    /// Those of [`Self::new`].
    pub fn after(before: &Self, configs: &[ModelConfig]) -> Result<Self> {
        let known = |config: &ModelConfig| {
            let place = before.upstreams.iter().position(|(earlier, _)| is_same_upstream(earlier, config))?;
            before.queues.get(place).cloned()
        };
        Self::with(configs, known)
    }

    fn with(configs: &[ModelConfig], known: impl Fn(&ModelConfig) -> Option<Arc<Queue>>) -> Result<Self> {
        let upstreams =
            configs.iter().map(|config| Ok((config.clone(), provider(config)?))).collect::<Result<Vec<_>>>()?;
        let queue = |config: &ModelConfig| {
            known(config).unwrap_or_else(|| Arc::new(Queue::new(config.concurrency, config.requests_per_second)))
        };
        let routes: Vec<Arc<Route>> = upstreams
            .iter()
            .map(|(config, provider)| Arc::new(route(config, provider.clone(), queue(config))))
            .collect();
        let queues = routes.iter().map(|route| route.queue.clone()).collect();
        let of_fallback = |name: &String| routes.iter().find(|route| route.name == *name).cloned();
        let offered = |(config, own): (&ModelConfig, &Arc<Route>)| Offered {
            wire: configured(config),
            aliases: config.aliases.clone(),
            routes: [own.clone()].into_iter().chain(config.fallbacks.iter().filter_map(of_fallback)).collect(),
        };
        let mut models: Vec<Offered> = configs.iter().zip(&routes).map(offered).collect();
        if models.iter().all(|model| !model.is_named(PLAYBOOK)) {
            let wire = wire(PLAYBOOK, "Playbook (runs the fenced blocks of a message)");
            models.push(Offered { wire, ..plain(PLAYBOOK, Arc::new(Playbook)) });
        }
        models.sort_by_key(|model| Reverse(model.wire.created_at));
        Ok(Self { models: Arc::new(models), upstreams: Arc::new(upstreams), queues: Arc::new(queues) })
    }

    /// These models and one more, `id`, that `provider` answers for.
    #[must_use]
    pub fn and(&self, id: &str, provider: Arc<dyn Model>) -> Self {
        let models = [&self.models[..], &[plain(id, provider)]].concat();
        Self { models: Arc::new(models), ..self.clone() }
    }

    /// Looks at each upstream, without asking a model anything: whether it is there and takes the key.
    pub async fn look(&self) -> Vec<Looked> {
        look::look(self.upstreams.to_vec()).await
    }

    /// The model with the id or alias `name`, also a retired one.
    pub fn get(&self, name: &str) -> Option<&Offered> {
        self.models.iter().find(|model| model.is_named(name))
    }

    /// The model with the id or alias `name`, unless it is retired: one that can be asked.
    pub fn callable(&self, name: &str) -> Option<&Offered> {
        self.get(name).filter(|model| model.wire.lifecycle != Lifecycle::Retired)
    }

    /// Every model, in the order of the list that clients see.
    pub fn all(&self) -> &[Offered] {
        &self.models
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

/// What models of the server's own speak.
const OWN: &str = "rota";

/// A model without a configuration.
fn plain(id: &str, provider: Arc<dyn Model>) -> Offered {
    let route = Route {
        name: id.to_owned(),
        model: id.to_owned(),
        speaks: OWN,
        max_tokens: DEFAULT_MAX_TOKENS,
        price: None,
        provider,
        queue: Arc::new(Queue::new(None, None)),
    };
    Offered { wire: wire(id, id), aliases: Vec::new(), routes: vec![Arc::new(route)] }
}

fn provider(config: &ModelConfig) -> Result<Arc<dyn Model>> {
    let wrong = |error| wrong(config, error);
    Ok(match config.provider {
        Provider::Playbook => Arc::new(Playbook),
        Provider::Messages => {
            let thinking = config.thinking.map(|thinking| match thinking {
                ThinkingConfig::Named(AdaptiveThinking::Adaptive) => Thinking::Adaptive,
                ThinkingConfig::Budget(tokens) => Thinking::Budget(tokens),
            });
            let version = config.api_version.as_deref();
            Arc::new(Messages::speaking(version, thinking, upstream(config)?).map_err(wrong)?)
        }
        Provider::OpenAi => {
            let reasoning = config.reasoning_field.map(|field| match field {
                ReasoningFieldConfig::ReasoningContent => ReasoningField::ReasoningContent,
                ReasoningFieldConfig::Reasoning => ReasoningField::Reasoning,
            });
            Arc::new(OpenAi::new(upstream(config)?, reasoning).map_err(wrong)?)
        }
    })
}

/// Whether two entries are asked at the same place with the same limits.
fn is_same_upstream(one: &ModelConfig, other: &ModelConfig) -> bool {
    let limits = |config: &ModelConfig| (config.concurrency, config.requests_per_second);
    let place = |config: &ModelConfig| (config.id.clone(), config.base_url.clone(), config.api_key_env.clone());
    limits(one) == limits(other) && place(one) == place(other)
}

fn route(config: &ModelConfig, provider: Arc<dyn Model>, queue: Arc<Queue>) -> Route {
    Route {
        name: config.id.clone(),
        model: config.upstream.clone().unwrap_or_else(|| config.id.clone()),
        speaks: match config.provider {
            Provider::Messages => "anthropic",
            Provider::OpenAi => "openai",
            Provider::Playbook => OWN,
        },
        max_tokens: config.max_tokens,
        price: config.price.as_ref().map(Price::new),
        provider,
        queue,
    }
}

/// What clients see of an entry of the configuration.
fn configured(config: &ModelConfig) -> WireModel {
    let display_name = config.display_name.as_deref().unwrap_or(&config.id);
    let mut capabilities = capabilities(config.provider);
    if let Some(thinking) = config.thinking {
        let kind = match thinking {
            ThinkingConfig::Named(AdaptiveThinking::Adaptive) => "adaptive",
            ThinkingConfig::Budget(_) => "enabled",
        };
        capabilities["thinking"]["supported"] = json!(true);
        capabilities["thinking"]["types"][kind]["supported"] = json!(true);
    }
    WireModel {
        capabilities,
        max_input_tokens: config.max_input_tokens,
        max_tokens: Some(config.max_tokens),
        created_at: config.released_at.unwrap_or(Time::from_micros(0)),
        lifecycle: config.lifecycle,
        deprecated_at: config.deprecated_at,
        retires_at: config.retires_at,
        line: config.line,
        ..wire(&config.id, display_name)
    }
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
