//! Traces: what came of a request or a fire, step by step, for a collector that speaks OTLP. Off unless `[telemetry] otlp_endpoint`
//! names one.
//!
//! A trace has the id that the client's `traceparent` says. Where there is none the id follows from that of the request, or of the
//! session that a schedule started: so whoever runs the session, on whatever server and after whatever restart, adds to the same trace.
//! A client's `traceparent` is known to the server that had the request, for as many requests as it remembers.

mod context;
mod export;
mod otlp;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rota_api::{Time, deployment::DeploymentRun};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::{
    clock::{Clock, Stopwatch},
    config::TelemetryConfig,
    error::Result,
    limits::{TRACE_CONTENT_BYTES, TRACE_CONTEXTS, TRACE_QUEUE, TRACE_QUEUE_OF_CONTENT},
    telemetry,
};

pub use context::Context;
pub use export::Exporter;

/// What notes spans; nothing where no collector is configured.
#[derive(Clone, Default)]
pub struct Traces(Option<Arc<Noting>>);

struct Noting {
    queue: mpsc::Sender<Ended>,
    clock: Clock,
    with_content: bool,
    known: Mutex<Known>,
}

/// What is known of requests that cannot be told from their ids: the newest of them.
#[derive(Default)]
struct Known {
    contexts: HashMap<String, Context>,
    order: VecDeque<String>,
}

/// Which side of a call a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Neither.
    Internal = 1,
    /// The one that is asked.
    Server = 2,
    /// The one that asks.
    Client = 3,
}

/// A step that is under way. It ends when it is dropped.
#[must_use]
pub struct Span(Option<Box<Begun>>);

struct Begun {
    noting: Arc<Noting>,
    watch: Stopwatch,
    span: Ended,
}

/// A step that is over.
#[derive(Debug, Clone)]
struct Ended {
    context: Context,
    parent: Option<[u8; 8]>,
    name: String,
    side: Side,
    began_at: Time,
    seconds: f64,
    attributes: Vec<(&'static str, Value)>,
    error: Option<String>,
}

impl Traces {
    /// What notes spans, and what sends them, for a server that is called `node`.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn new(config: &TelemetryConfig, clock: &Clock, node: &str) -> Result<(Self, Option<Exporter>)> {
        let Some(endpoint) = &config.otlp_endpoint else { return Ok((Self::default(), None)) };
        let (queue, ended) = mpsc::channel(if config.content { TRACE_QUEUE_OF_CONTENT } else { TRACE_QUEUE });
        let exporter = Exporter::new(endpoint, config.otlp_headers_env.as_deref(), node, ended)?;
        let noting = Noting { queue, clock: clock.clone(), with_content: config.content, known: Mutex::default() };
        Ok((Self(Some(Arc::new(noting))), Some(exporter)))
    }

    /// Begins with a request, on behalf of which the client says `traceparent`.
    pub fn request(&self, id: &str, name: impl FnOnce() -> String, traceparent: Option<&str>) -> Span {
        let Some(noting) = &self.0 else { return Span(None) };
        let own = Context::of(id);
        let parent = traceparent.and_then(Context::from_traceparent);
        let context = parent.map_or(own, |parent| Context { span: own.span, ..parent });
        if parent.is_some() {
            noting.remember(id, context);
        }
        noting.begin(context, parent.map(|parent| parent.span), name(), Side::Server)
    }

    /// Where a step goes on that a request began, or that began by itself as `otherwise`.
    pub fn after(&self, request: Option<&str>, otherwise: &str) -> Context {
        let Some(noting) = &self.0 else { return Context::NONE };
        let known = |request: &str| noting.known().contexts.get(request).copied();
        request.map_or_else(|| Context::of(otherwise), |request| known(request).unwrap_or_else(|| Context::of(request)))
    }

    /// Begins a step below `parent`.
    pub fn step(&self, parent: Context, side: Side, name: impl FnOnce() -> String) -> Span {
        let Some(noting) = &self.0 else { return Span(None) };
        noting.begin(parent.below(), Some(parent.span), name(), side)
    }

    /// Begins to start a deployment on behalf of the request that is handled.
    pub fn fire(&self) -> Span {
        let request = telemetry::request();
        self.step(self.after(request.as_deref(), ""), Side::Internal, || "fire".to_owned())
    }

    /// Notes a run that a schedule has started: a trace begins with it.
    pub fn scheduled(&self, run: &DeploymentRun) {
        let (Some(noting), Some(session)) = (&self.0, &run.session_id) else { return };
        let mut span = noting.begin(Context::of(session.as_ref()), None, "fire".to_owned(), Side::Internal);
        span.describe(run);
    }
}

impl Noting {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, request: &str, context: Context) {
        let mut known = self.known();
        if known.contexts.insert(request.to_owned(), context).is_none() {
            known.order.push_back(request.to_owned());
        }
        if known.order.len() > TRACE_CONTEXTS
            && let Some(oldest) = known.order.pop_front()
        {
            known.contexts.remove(&oldest);
        }
    }

    fn begin(self: &Arc<Self>, context: Context, parent: Option<[u8; 8]>, name: String, side: Side) -> Span {
        if !context.is_sampled {
            return Span(None);
        }
        let began_at = self.clock.now();
        let span = Ended { context, parent, name, side, began_at, seconds: 0.0, attributes: Vec::new(), error: None };
        Span(Some(Box::new(Begun { noting: self.clone(), watch: Stopwatch::start(), span })))
    }
}

impl Span {
    /// One that is not noted.
    pub fn none() -> Self {
        Self(None)
    }

    /// Where steps below this one go on.
    pub fn context(&self) -> Context {
        self.0.as_ref().map_or(Context::NONE, |begun| begun.span.context)
    }

    /// Adds what is known of it.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(begun) = &mut self.0 {
            begun.span.attributes.push((key, value.into()));
        }
    }

    /// Adds what was said, where that is noted: as much of it as is kept.
    pub fn say(&mut self, key: &'static str, said: impl FnOnce() -> String) {
        if self.0.as_ref().is_some_and(|begun| begun.noting.with_content) {
            let mut said = said();
            said.truncate(said.floor_char_boundary(TRACE_CONTENT_BYTES));
            self.set(key, said);
        }
    }

    /// Says that it failed: with an error of this type.
    pub fn fail(&mut self, r#type: &str) {
        self.set("error.type", r#type);
        if let Some(begun) = &mut self.0 {
            begun.span.error = Some(r#type.to_owned());
        }
    }

    /// Renames it, once its name is known.
    pub fn rename(&mut self, name: impl FnOnce() -> String) {
        if let Some(begun) = &mut self.0 {
            begun.span.name = name();
        }
    }

    /// Ends a fire that has made `run`. What its session does goes on below it.
    pub fn fired(mut self, run: &DeploymentRun) {
        self.describe(run);
        if let (Some(begun), Some(request)) = (&self.0, telemetry::request()) {
            begun.noting.remember(&request, begun.span.context);
        }
    }

    fn describe(&mut self, run: &DeploymentRun) {
        self.set("rota.deployment.id", run.deployment_id.to_string());
        self.set("rota.run.id", run.id.to_string());
        if let Some(session) = &run.session_id {
            self.set("gen_ai.conversation.id", session.to_string());
        }
        if let Some(error) = &run.error {
            self.fail(error.r#type.as_str());
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(Begun { noting, watch, mut span }) = self.0.take().map(|begun| *begun) else { return };
        span.seconds = watch.seconds();
        // A collector that is away must cost nothing else.
        if noting.queue.try_send(span).is_err() {
            export::dropped(1);
        }
    }
}
