//! User profiles: the end customers of a platform, as it describes them.
//!
//! They have four shapes. The beta names of a request say which it has; without one it has the newest.

use serde::{Deserialize, Serialize};

use crate::{
    Time,
    decode::{Decoded, Invalid, Node, Object, Patch},
    fields::{Decode, Nothing, names, types},
    id::UserProfileId,
    metadata::{Changes, MAX_VALUE, Metadata},
};

/// Most characters of a name.
pub const MAX_NAME: usize = 255;
/// Most characters of a reference or a hash.
pub const MAX_REFERENCE: usize = 255;
/// How far ahead of the server's clock a time of the platform may be, in microseconds.
pub const MAX_AHEAD_MICROS: i64 = 60 * 1_000_000;

/// How a request writes and reads profiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// `user-profiles-2026-03-24`: `external_id`.
    March,
    /// `user-profiles-2026-08-18`: `external_id` and `external_user_onboarded_at`.
    August,
    /// `user-profiles-2026-09-04`: `external_user_details`.
    September,
    /// Without a beta name of profiles: the same, with programs and enforcement in place of trust grants.
    General,
}

impl Shape {
    /// The shape that a beta name asks for, where it is one of profiles.
    pub fn of_beta(name: &str) -> Option<Self> {
        match name {
            "user-profiles-2026-03-24" => Some(Self::March),
            "user-profiles-2026-08-18" => Some(Self::August),
            "user-profiles-2026-09-04" => Some(Self::September),
            _ => None,
        }
    }
}

names! {
    /// How the platform uses the API for an entity.
    #[derive(Default)]
    AccessType {
        /// It is an end user of the platform's product.
        #[default]
        "application" => Application,
        /// It is a company that the platform resells access to.
        "passthrough" => Passthrough,
    }
}

names! {
    /// The state of an entity's account on the platform.
    AccountStatus {
        /// It is neither restricted nor barred.
        "active" => Active,
        /// It is restricted and may be restored.
        "suspended" => Suspended,
        /// It is barred.
        "blocked" => Blocked,
    }
}

names! {
    /// What an entity is.
    #[allow(missing_docs, reason = "the names say it")]
    EntityType {
        "individual" => Individual,
        "business" => Business,
        "non_profit" => NonProfit,
        "government" => Government,
    }
}

/// What the platform says of an entity, and nobody verifies. What it did not say is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalUserDetails {
    /// The state of its account.
    pub account_status: Option<AccountStatus>,
    /// Its country: two capital letters, ISO 3166-1 alpha-2.
    pub country: Option<String>,
    /// A hash of its email address.
    pub email_hash: Option<String>,
    /// What it is.
    pub entity_type: Option<EntityType>,
    /// A hash of its name.
    pub name_hash: Option<String>,
    /// When it opened its account.
    pub onboarded_at: Option<Time>,
    /// The platform's own name for it.
    pub reference_id: Option<String>,
}

impl ExternalUserDetails {
    /// What `stored` becomes: what was said now replaces what was said before.
    #[must_use]
    pub fn over(self, stored: Self) -> Self {
        Self {
            account_status: self.account_status.or(stored.account_status),
            country: self.country.or(stored.country),
            email_hash: self.email_hash.or(stored.email_hash),
            entity_type: self.entity_type.or(stored.entity_type),
            name_hash: self.name_hash.or(stored.name_hash),
            onboarded_at: self.onboarded_at.or(stored.onboarded_at),
            reference_id: self.reference_id.or(stored.reference_id),
        }
    }

    /// Reads what a body says, in the fields of its shape.
    fn read(o: &mut Object<'_>, reading: Reading) -> Decoded<Self> {
        let mut details = Self::default();
        match reading.shape {
            Shape::March => details.reference_id = reading.field(o, "external_id", reference)?,
            Shape::August => {
                details.reference_id = reading.field(o, "external_id", reference)?;
                details.onboarded_at = o.needed("external_user_onboarded_at", |n| reading.time(n))?;
            }
            Shape::September | Shape::General => {
                let fields = |n: &Node<'_>| n.object(|o| Self::fields(o, reading));
                details = o.needed("external_user_details", fields)?.unwrap_or_default();
            }
        }
        Ok(details)
    }

    fn fields(o: &mut Object<'_>, reading: Reading) -> Decoded<Self> {
        Ok(Self {
            account_status: reading.field(o, "account_status", Decode::decode)?,
            country: reading.field(o, "country", country)?,
            email_hash: reading.field(o, "email_hash", reference)?,
            entity_type: reading.field(o, "entity_type", Decode::decode)?,
            name_hash: reading.field(o, "name_hash", reference)?,
            onboarded_at: o.needed("onboarded_at", |n| reading.time(n))?,
            reference_id: reading.field(o, "reference_id", reference)?,
        })
    }
}

fn reference(node: &Node<'_>) -> Decoded<String> {
    node.text(1, MAX_REFERENCE)
}

fn country(node: &Node<'_>) -> Decoded<String> {
    let text = node.string()?;
    if text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Ok(text.to_owned());
    }
    Err(node.invalid("value must be a country code of two capital letters, such as US"))
}

/// How a body is read.
#[derive(Debug, Clone, Copy)]
struct Reading {
    shape: Shape,
    now: Time,
    /// Whether null is as good as absent: in a body that creates. What is set cannot be cleared.
    creates: bool,
}

impl Reading {
    fn field<'a, T>(
        self,
        o: &mut Object<'a>,
        name: &'static str,
        read: impl FnOnce(&Node<'a>) -> Decoded<T>,
    ) -> Decoded<Option<T>> {
        if self.creates { o.kept(name, read) } else { o.needed(name, read) }
    }

    fn time(self, node: &Node<'_>) -> Decoded<Time> {
        let at: Time = node.string()?.parse().map_err(|_| node.invalid("Input should be a valid RFC 3339 time"))?;
        if at > self.now.plus_micros(MAX_AHEAD_MICROS) {
            return Err(node.invalid("value must be no more than 1 minute in the future"));
        }
        Ok(at)
    }
}

/// What the platform can change of a profile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserProfileFields {
    /// How it uses the API for the entity.
    pub access_type: AccessType,
    /// What it says of the entity.
    pub details: ExternalUserDetails,
    /// Free pairs.
    pub metadata: Metadata,
    /// The real name of the entity, 1 to [`MAX_NAME`] characters.
    pub name: Option<String>,
}

/// A request that creates or changes a profile.
#[derive(Debug, Clone)]
pub struct UserProfileChanges {
    access_type: Option<AccessType>,
    details: ExternalUserDetails,
    metadata: Changes,
    name: Patch<String>,
}

impl UserProfileChanges {
    /// Reads a body that creates a profile.
    pub fn create(o: &mut Object<'_>, shape: Shape, now: Time) -> Decoded<Self> {
        Self::read(o, Reading { shape, now, creates: true })
    }

    /// Reads a body that changes one. Null clears the name; the details cannot be cleared, and an empty text deletes a
    /// key of the metadata.
    pub fn update(o: &mut Object<'_>, shape: Shape, now: Time) -> Decoded<Self> {
        Self::read(o, Reading { shape, now, creates: false })
    }

    fn read(o: &mut Object<'_>, reading: Reading) -> Decoded<Self> {
        let metadata = o.settable("metadata")?;
        if let Some(node) = &metadata {
            for (_, value) in node.entries()? {
                value.text(usize::from(reading.creates), MAX_VALUE)?;
            }
        }
        // Null keeps it where there is one already.
        let access_type = if reading.creates {
            o.needed("access_type", Decode::decode)
        } else {
            o.kept("access_type", Decode::decode)
        };
        Ok(Self {
            access_type: access_type?,
            details: ExternalUserDetails::read(o, reading)?,
            metadata: Changes::read_with_empty(metadata.map_or(Patch::Keep, Patch::Set))?,
            name: o.patch("name").read(|n| n.text(1, MAX_NAME))?,
        })
    }

    /// What `stored` becomes.
    ///
    /// # Errors
    /// When its metadata would have too many pairs.
    pub fn over(self, stored: UserProfileFields) -> Decoded<UserProfileFields> {
        Ok(UserProfileFields {
            access_type: self.access_type.unwrap_or(stored.access_type),
            details: self.details.over(stored.details),
            metadata: self.metadata.over(&stored.metadata)?,
            name: self.name.over(stored.name),
        })
    }
}

/// A profile in one of its shapes.
#[derive(Debug, Serialize)]
pub struct UserProfile {
    /// Its id.
    pub id: UserProfileId,
    r#type: &'static str,
    #[serde(flatten)]
    shaped: Shaped,
    metadata: Metadata,
    /// The real name of the entity.
    pub name: Option<String>,
    created_at: Time,
    updated_at: Time,
}

/// What differs between the shapes. Programs, trust grants and enforcement are the vendor's: here there are none.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Shaped {
    March {
        external_id: Option<String>,
        trust_grants: Nothing,
    },
    August {
        access_type: AccessType,
        external_id: Option<String>,
        external_user_onboarded_at: Option<Time>,
        trust_grants: Nothing,
    },
    September {
        access_type: AccessType,
        external_user_details: ExternalUserDetails,
        trust_grants: Nothing,
    },
    General {
        access_type: AccessType,
        enforcement_actions: [(); 0],
        enforcement_status: EnforcementStatus,
        external_user_details: ExternalUserDetails,
        programs: Programs,
    },
}

names! {
    /// How far the vendor serves an entity.
    EnforcementStatus {
        /// Without limits: that of every profile here.
        "unrestricted" => Unrestricted,
        /// A check is under review.
        "pending" => Pending,
        /// In part.
        "restricted" => Restricted,
        /// Not at all.
        "banned" => Banned,
    }
}

/// The standing of a profile in the vendor's programs: in none.
#[derive(Debug, Serialize)]
struct Programs {
    cyber: Option<()>,
    efs: Option<()>,
}

impl UserProfile {
    /// The profile `id` as a request of this shape sees it.
    pub fn new(id: UserProfileId, shape: Shape, fields: UserProfileFields, created_at: Time, updated_at: Time) -> Self {
        let UserProfileFields { access_type, details, metadata, name } = fields;
        let trust_grants = Nothing::default();
        let shaped = match shape {
            Shape::March => Shaped::March { external_id: details.reference_id, trust_grants },
            Shape::August => Shaped::August {
                access_type,
                external_id: details.reference_id,
                external_user_onboarded_at: details.onboarded_at,
                trust_grants,
            },
            Shape::September => Shaped::September { access_type, external_user_details: details, trust_grants },
            Shape::General => Shaped::General {
                access_type,
                enforcement_actions: [],
                enforcement_status: EnforcementStatus::Unrestricted,
                external_user_details: details,
                programs: Programs { cyber: None, efs: None },
            },
        };
        Self { id, r#type: "user_profile", shaped, metadata, name, created_at, updated_at }
    }
}

types! {
    /// What the person who opens an action URL does.
    Action {
        /// The end user enrolls in a program.
        "enroll_end_user" => EnrollEndUser,
    }
}

/// Reads a request for an action URL.
pub fn read_action(o: &mut Object<'_>) -> Decoded<Action> {
    Action::decode(&o.required("action")?)
}

/// The keys and buckets of a profile for Claude on Google Cloud's Agent Platform, which this server is no part of: both
/// controls are off.
#[derive(Debug, Serialize)]
pub struct GoogleDataControls {
    /// The label that a bucket would need: it never changes.
    pub bucket_label_value: String,
    /// The control of keys.
    pub cmek: CmekControl,
    /// The control of buckets.
    pub storage: StorageControl,
    /// Always `google_managed_data_controls`.
    pub r#type: &'static str,
    /// When a control last changed: they never do.
    pub updated_at: Time,
    /// The profile.
    pub user_profile_id: UserProfileId,
}

impl GoogleDataControls {
    /// The controls of the profile `id`.
    pub fn new(id: UserProfileId, created_at: Time) -> Self {
        let label = id.as_ref().replace('_', "-").to_lowercase();
        Self {
            bucket_label_value: label,
            cmek: CmekControl { retired_keys: [], r#type: "disabled" },
            storage: StorageControl { retired_buckets: [], r#type: "disabled" },
            r#type: "google_managed_data_controls",
            updated_at: created_at,
            user_profile_id: id,
        }
    }
}

/// Reads a request that changes the controls, and refuses one that turns a control on.
pub fn read_controls(o: &mut Object<'_>) -> Decoded<()> {
    let controls = [o.needed("cmek", read_control)?, o.needed("storage", read_control)?];
    if controls.iter().all(Option::is_none) {
        return Err(Invalid::request("cmek: Field required, or storage, or both"));
    }
    Ok(())
}

fn read_control(node: &Node<'_>) -> Decoded<()> {
    if node.tag_of(&["disabled", "enabled"])? == "enabled" {
        return Err(node.invalid(
            "the control cannot be turned on: this server is no part of Google Cloud's Agent Platform and uses no keys or \
             buckets there",
        ));
    }
    node.object(|o| {
        o.tagged();
        Ok(())
    })
}

/// A control of keys that is off.
#[derive(Debug, Serialize)]
pub struct CmekControl {
    retired_keys: [(); 0],
    r#type: &'static str,
}

/// A control of buckets that is off.
#[derive(Debug, Serialize)]
pub struct StorageControl {
    retired_buckets: [(); 0],
    r#type: &'static str,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{decode::body, id::Id};

    fn now() -> Time {
        Time::from_micros(0)
    }

    fn create(body_text: &Value, shape: Shape) -> Result<UserProfileFields, String> {
        let read = body(body_text, |o| UserProfileChanges::create(o, shape, now()));
        read.and_then(|said| said.over(UserProfileFields::default())).map_err(|error| error.to_string())
    }

    fn update(body_text: &Value, stored: &UserProfileFields) -> Result<UserProfileFields, String> {
        let read = body(body_text, |o| UserProfileChanges::update(o, Shape::General, now()));
        read.and_then(|said| said.over(stored.clone())).map_err(|error| error.to_string())
    }

    #[test]
    fn each_shape_takes_its_own_fields_and_no_others() {
        let details = json!({"external_user_details": {"reference_id": "r", "onboarded_at": "1969-12-31T00:00:00Z"}});
        let (external, onboarded) =
            (json!({"external_id": "r"}), json!({"external_user_onboarded_at": "1969-12-31T00:00:00Z"}));
        for (sent, takes) in [
            (&details, [false, false, true, true]),
            (&external, [true, true, false, false]),
            (&onboarded, [false, true, false, false]),
        ] {
            for (shape, takes) in [Shape::March, Shape::August, Shape::September, Shape::General].into_iter().zip(takes)
            {
                let read = create(sent, shape);
                assert_eq!(read.is_ok(), takes, "{shape:?} {sent}");
                if let Err(message) = read {
                    assert!(message.ends_with(": Extra inputs are not permitted"), "{message}");
                }
            }
        }
    }

    #[test]
    fn the_same_profile_is_told_in_each_shape() {
        let sent = json!({"external_user_details": {"reference_id": "r", "country": "AT"}, "name": "n"});
        let fields = create(&sent, Shape::General).unwrap();
        let told = |shape| {
            let id = UserProfileId::trusted("uprof_a".to_owned());
            serde_json::to_value(UserProfile::new(id, shape, fields.clone(), now(), now())).unwrap()
        };
        let has = |shape, names: &[&str]| {
            let told = told(shape);
            let common = ["id", "type", "metadata", "name", "created_at", "updated_at"];
            assert_eq!(told.as_object().unwrap().len(), common.len() + names.len(), "{told}");
            assert!(common.iter().chain(names).all(|name| told.get(name).is_some()), "{told}");
        };
        has(Shape::March, &["external_id", "trust_grants"]);
        has(Shape::August, &["access_type", "external_id", "external_user_onboarded_at", "trust_grants"]);
        has(Shape::September, &["access_type", "external_user_details", "trust_grants"]);
        let general = ["access_type", "enforcement_actions", "enforcement_status", "external_user_details", "programs"];
        has(Shape::General, &general);
        assert_eq!(told(Shape::August)["external_id"], "r");
        let details = json!({"account_status": null, "country": "AT", "email_hash": null, "entity_type": null,
            "name_hash": null, "onboarded_at": null, "reference_id": "r"});
        assert_eq!(told(Shape::General)["external_user_details"], details);
    }

    #[test]
    fn an_update_replaces_what_it_names_and_clears_no_detail() {
        let sent = json!({"external_user_details": {"reference_id": "r", "country": null}, "name": "n", "metadata": {"a": "1"}});
        let stored = create(&sent, Shape::General).unwrap();
        let sent =
            json!({"external_user_details": {"country": "AT"}, "metadata": {"a": "", "b": "2"}, "access_type": null});
        let changed = update(&sent, &stored).unwrap();
        assert_eq!(changed.details.reference_id.as_deref(), Some("r"));
        assert_eq!(changed.details.country.as_deref(), Some("AT"));
        assert_eq!(changed.metadata, Metadata::from([("b".to_owned(), "2".to_owned())]));
        assert_eq!(update(&json!({"name": null}), &stored).unwrap().name, None);
        assert_eq!(update(&json!({}), &stored).unwrap(), stored);
        let cleared = json!({"external_user_details": {"reference_id": null}});
        assert_eq!(update(&cleared, &stored).unwrap_err(), "external_user_details.reference_id: value cannot be null");
    }

    #[test]
    fn limits_are_held_one_above_and_not_at_them() {
        let details = |name: &str, value: Value| json!({"external_user_details": {name: value}});
        let (at, above) = ("x".repeat(255), "x".repeat(256));
        for name in ["reference_id", "email_hash", "name_hash"] {
            assert!(create(&details(name, json!(at)), Shape::General).is_ok());
            assert!(
                create(&details(name, json!(above)), Shape::General).unwrap_err().starts_with("external_user_details.")
            );
            assert!(create(&details(name, json!("")), Shape::General).is_err());
        }
        assert!(create(&json!({"name": at}), Shape::General).is_ok());
        assert!(create(&json!({"name": above}), Shape::General).unwrap_err().starts_with("name: "));
        for (country, ok) in [("US", true), ("us", false), ("USA", false), ("U1", false)] {
            assert_eq!(create(&details("country", json!(country)), Shape::General).is_ok(), ok, "{country}");
        }
        for (at, ok) in [("1970-01-01T00:01:00Z", true), ("1970-01-01T00:01:00.000001Z", false), ("1970-01-01", false)]
        {
            assert_eq!(create(&details("onboarded_at", json!(at)), Shape::General).is_ok(), ok, "{at}");
        }
        assert!(create(&json!({"metadata": {"a": ""}}), Shape::General).unwrap_err().starts_with("metadata.a: "));
    }

    #[test]
    fn a_control_can_be_turned_off_and_not_on() {
        let read = |sent: Value| body(&sent, read_controls).map_err(|error| error.to_string());
        assert_eq!(read(json!({"cmek": {"type": "disabled"}})), Ok(()));
        assert_eq!(read(json!({"storage": {"type": "disabled"}, "cmek": {"type": "disabled"}})), Ok(()));
        assert!(read(json!({})).unwrap_err().starts_with("cmek: Field required"));
        let on = read(json!({"cmek": {"type": "enabled", "external_key_ids": {"eu": "ekey_1"}}})).unwrap_err();
        assert!(on.starts_with("cmek: the control cannot be turned on"), "{on}");
        assert!(read(json!({"storage": {"type": "disabled", "buckets": {}}})).is_err());
    }
}
