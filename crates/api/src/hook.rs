//! Hooks of deployments: addresses at which others start them. They are Rota's own.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Time,
    decode::{Decoded, Node, Object},
    fields::{Kind, OneOf, Text, Whole, described, names},
    id::{DeploymentId, HookId, RunId, StartId},
    occurrence::OccurrenceReason,
    secret::Secret,
};

/// Most characters of a name.
pub const MAX_NAME: usize = 256;
/// Least and most characters of a secret that a caller brings.
pub const SECRET: (usize, usize) = (16, 255);
/// Deliveries that a hook takes in a minute, unless it says otherwise.
pub const PER_MINUTE: u32 = 60;
/// The most that it can say.
pub const MAX_PER_MINUTE: u32 = 6000;
/// For how long the former secret of a hook is taken beside the new one, unless a rotation says otherwise, in seconds: a day.
pub const OVERLAP_SECONDS: u32 = 86_400;
/// The longest that it can say: a week.
pub const MAX_OVERLAP_SECONDS: u32 = 604_800;

/// What is said where Slack's secret is missing.
pub const SLACK_HAS_ITS_OWN: &str = "Field required: Slack gives each app its own, the signing secret of the app";

names! {
    /// How a sender shows that it knows the secret.
    #[derive(JsonSchema)]
    HookScheme {
        /// The signature of Standard Webhooks: `webhook-id`, `webhook-timestamp` and `webhook-signature`.
        "standard" => Standard,
        /// That of GitHub, and of others that do as it does: `x-hub-signature-256`.
        "github" => Github,
        /// That of Slack: `x-slack-signature` and `x-slack-request-timestamp`.
        "slack" => Slack,
        /// The secret itself: `authorization: Bearer`.
        "bearer" => Bearer,
    }
}

/// A hook as the API shows it: never with its secret.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Hook {
    /// Its id.
    pub id: HookId,
    /// Always `hook`.
    pub r#type: &'static str,
    /// The deployment that it starts.
    pub deployment_id: DeploymentId,
    /// A name for people; empty when none was given.
    pub name: String,
    /// How a sender shows that it knows the secret.
    pub scheme: HookScheme,
    /// Where to send, below the server's own address.
    pub path: String,
    /// Deliveries that it takes in a minute.
    pub max_per_minute: u32,
    /// When it last took one.
    pub last_delivery_at: Option<Time>,
    /// Until when what is signed with the secret before the last rotation is taken too; null where there is no such secret.
    pub former_secret_until: Option<Time>,
    /// When it was created.
    pub created_at: Time,
}

/// A hook that has a new secret: it was just made, or the secret was rotated.
#[derive(Serialize, JsonSchema)]
pub struct NewHook {
    /// What the API shows of it later.
    #[serde(flatten)]
    pub hook: Hook,
    /// The secret. Nothing else ever shows it.
    pub secret: String,
}

described! {
    /// What a hook is made of.
    #[derive(Debug, Clone, PartialEq, Eq)]
    HookFields,
    /// A create request.
    CreateHook {
        /// A name for people.
        name: String, keeps as Text(0, MAX_NAME);
        /// How a sender shows that it knows the secret.
        scheme: HookScheme, required as OneOf(HookScheme::NAMES);
        /// The secret, where the sender has one already.
        secret: Secret, clears as OwnSecret;
        /// Deliveries that it takes in a minute.
        max_per_minute: u32, keeps as Whole(1, i64::from(MAX_PER_MINUTE));
    }
}

impl HookFields {
    /// Reads the body of a create request.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        let nothing_said =
            Self { name: String::new(), scheme: HookScheme::Standard, secret: None, max_per_minute: PER_MINUTE };
        let fields = CreateHook::read(o)?.merged(&nothing_said)?;
        if fields.scheme == HookScheme::Slack && fields.secret.is_none() {
            return Err(o.invalid("secret", SLACK_HAS_ITS_OWN));
        }
        Ok(fields)
    }
}

described! {
    /// What a rotation asks for.
    #[derive(Debug, Clone, PartialEq, Eq)]
    Rotation,
    /// A request for a new secret.
    RotateHook {
        /// The new secret, where the sender has one already.
        secret: Secret, clears as OwnSecret;
        /// For how many seconds the secret before is taken too; 0 ends it at once.
        overlap_seconds: u32, keeps as Whole(0, i64::from(MAX_OVERLAP_SECONDS));
    }
}

impl Rotation {
    /// Reads the body of a request to rotate.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        RotateHook::read(o)?.merged(&Self { secret: None, overlap_seconds: OVERLAP_SECONDS })
    }
}

struct OwnSecret;

impl Kind<Secret> for OwnSecret {
    fn read(&self, node: &Node<'_>) -> Decoded<Secret> {
        let secret = Secret::decode_token(node)?;
        if (SECRET.0..=SECRET.1).contains(&secret.reveal().chars().count()) {
            return Ok(secret);
        }
        Err(node.invalid(format_args!("a secret has {} to {} characters", SECRET.0, SECRET.1)))
    }

    fn schema(&self) -> Value {
        json!({"type": "string", "minLength": SECRET.0, "maxLength": SECRET.1})
    }
}

names! {
    /// What became of a delivery.
    #[derive(JsonSchema)]
    HookOutcome {
        /// It created a session.
        "started" => Started,
        /// It has a run, and that has an error.
        "failed" => Failed,
        /// It is run when a session of the deployment has come to rest.
        "queued" => Queued,
        /// The deployment's policy did not let it run.
        "skipped" => Skipped,
        /// It asks for nothing: it is the sender's trial of the address.
        "ignored" => Ignored,
    }
}

/// What a sender is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HookAnswer {
    /// What became of it.
    pub outcome: HookOutcome,
    /// Why it was skipped.
    pub reason: Option<OccurrenceReason>,
    /// Its run.
    pub run_id: Option<RunId>,
    /// The planned start that it waits as.
    pub start_id: Option<StartId>,
}

/// A delivery and what became of it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct HookDelivery {
    /// Always `hook_delivery`.
    pub r#type: &'static str,
    /// The hook.
    pub hook_id: HookId,
    /// The sender's own id of it; null where it sent none.
    pub delivery_id: Option<String>,
    /// What became of it.
    #[serde(flatten)]
    pub answer: HookAnswer,
    /// Whether it was sent before: then this is the answer of that time.
    pub repeated: bool,
}

/// What Slack wants to be answered to its trial of an address.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SlackChallenge {
    /// What it sent.
    pub challenge: String,
}
