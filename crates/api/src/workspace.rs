//! Workspaces: what keeps the resources of one team from those of another. The bodies of their requests are not
//! [declared](crate::fields): an update refuses null for fields for which a create takes it.

use serde::{Deserialize, Serialize};

use crate::{
    Time,
    decode::{Decoded, Invalid, Node, Object, Patch},
    fields::{Decode, fields, names, types},
    id::WorkspaceId,
    metadata::{self, Changes, Metadata},
};

/// Most characters of a workspace's name.
pub const MAX_NAME: usize = 256;
/// What no tag begins with.
pub const RESERVED_TAGS: &str = "anthropic";
/// Colour of a workspace that nobody gave one.
pub const DISPLAY_COLOR: &str = "#6C5BB9";

/// A workspace as the API shows it.
#[derive(Debug, Serialize)]
pub struct Workspace {
    /// Its id.
    pub id: WorkspaceId,
    /// Always `workspace`.
    pub r#type: &'static str,
    /// A name for people, unique among workspaces that are not archived.
    pub name: String,
    /// A UUID that stands for the workspace where its data is encrypted.
    pub compartment_id: String,
    /// `#` and six hexadecimal digits.
    pub display_color: String,
    /// Where its data and inference may be.
    pub data_residency: DataResidency,
    /// Where what is retained of its inference goes; null where nobody said.
    pub inference_data_privacy: Option<InferenceDataPrivacy>,
    /// Free pairs.
    pub tags: Metadata,
    /// Always null: no key of a customer encrypts a workspace.
    pub external_key_id: Option<()>,
    /// Always null: no user profile is attached to a workspace.
    pub user_profile_id: Option<()>,
    /// When it was created.
    pub created_at: Time,
    /// When it was archived.
    pub archived_at: Option<Time>,
}

/// Where the data and the inference of a workspace may be. It is stored and shown; this server is in one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataResidency {
    /// Which geos a request may name.
    pub allowed_inference_geos: AllowedGeos,
    /// The geo of a request that names none.
    pub default_inference_geo: Geo,
    /// Where data is stored.
    pub workspace_geo: WorkspaceGeo,
}

impl Default for DataResidency {
    fn default() -> Self {
        Self {
            allowed_inference_geos: AllowedGeos::Any(Unrestricted::Unrestricted),
            default_inference_geo: Geo::Global,
            workspace_geo: WorkspaceGeo::Us,
        }
    }
}

/// Which geos a request may name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AllowedGeos {
    /// All of them.
    Any(Unrestricted),
    /// These.
    Some(Vec<Geo>),
}

names! {
    /// The word for all geos.
    Unrestricted {
        /// The only one.
        "unrestricted" => Unrestricted,
    }
}

names! {
    /// Where inference may be.
    Geo {
        /// Anywhere.
        "global" => Global,
        /// In the United States.
        "us" => Us,
    }
}

names! {
    /// Where the data of a workspace is stored.
    WorkspaceGeo {
        /// The only one that the API knows.
        "us" => Us,
    }
}

/// What a request says about [`DataResidency`].
#[derive(Debug, Default)]
pub struct DataResidencyFields {
    allowed_inference_geos: Option<AllowedGeos>,
    default_inference_geo: Option<Geo>,
}

impl DataResidencyFields {
    fn read(node: Option<Node<'_>>, creating: bool) -> Decoded<Self> {
        let Some(node) = node else { return Ok(Self::default()) };
        node.object(|o| {
            if creating {
                o.kept("workspace_geo", WorkspaceGeo::decode)?;
            }
            Ok(Self {
                allowed_inference_geos: o.kept("allowed_inference_geos", read_geos)?,
                default_inference_geo: o.kept("default_inference_geo", Geo::decode)?,
            })
        })
    }

    /// What `stored` becomes.
    ///
    /// # Errors
    /// When the default geo is not among those that are allowed then.
    pub fn over(&self, stored: DataResidency) -> Decoded<DataResidency> {
        let residency = DataResidency {
            allowed_inference_geos: self.allowed_inference_geos.clone().unwrap_or(stored.allowed_inference_geos),
            default_inference_geo: self.default_inference_geo.unwrap_or(stored.default_inference_geo),
            workspace_geo: stored.workspace_geo,
        };
        match &residency.allowed_inference_geos {
            AllowedGeos::Some(geos) if !geos.contains(&residency.default_inference_geo) => {
                Err(Invalid::field("data_residency.default_inference_geo", "must be one of allowed_inference_geos"))
            }
            _ => Ok(residency),
        }
    }
}

fn read_geos(node: &Node<'_>) -> Decoded<AllowedGeos> {
    if node.value().is_string() {
        return Unrestricted::decode(node).map(AllowedGeos::Any);
    }
    node.items(1, Geo::NAMES.len(), Geo::decode).map(AllowedGeos::Some)
}

fields! {
    /// Where what is retained of a workspace's inference goes, and who reviews it. It is stored and shown; this server retains
    /// nothing of the kind.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
    InferenceDataPrivacy,
    /// What a body says about that; a member that it leaves out is kept.
    PrivacyFields {
        /// Whether people review what is retained.
        human_review: Option<HumanReview>, needs = |n| read_review(n).map(Some);
        /// Where what safeguards retain is stored.
        safeguards_storage: Option<InternalStorage>, needs = |n| read_storage(n).map(Some);
        /// Where transcripts are stored.
        transcripts_storage: Option<InternalStorage>, needs = |n| read_storage(n).map(Some);
    }
}

types! {
    /// Whether people review what is retained.
    HumanReview {
        /// They may.
        "enabled" => Enabled,
        /// They may not.
        "disabled" => Disabled,
    }
}

/// A store of the service's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum InternalStorage {
    /// The only one.
    Internal,
}

/// A word that is none is told with those that are.
fn read_review(node: &Node<'_>) -> Decoded<HumanReview> {
    node.tag_of(HumanReview::NAMES)?;
    HumanReview::decode(node)
}

fn read_storage(node: &Node<'_>) -> Decoded<InternalStorage> {
    let tag = node.tag_of(&["internal", "external"])?;
    node.object(|o| {
        o.tagged();
        if tag == "internal" {
            return Ok(InternalStorage::Internal);
        }
        let id = o.required("external_storage_id")?;
        Err(id.invalid(format_args!("{:?} is no store that this server knows: it has no external ones", id.string()?)))
    })
}

/// A create request.
#[derive(Debug)]
pub struct CreateWorkspace {
    /// 1 to [`MAX_NAME`] characters.
    pub name: String,
    /// `#` and six hexadecimal digits.
    pub display_color: String,
    /// Where data and inference may be.
    pub data_residency: DataResidency,
    /// Where what is retained goes.
    pub inference_data_privacy: Option<InferenceDataPrivacy>,
    /// Free pairs.
    pub tags: Metadata,
    /// What a workspace can refer to elsewhere.
    pub references: References,
}

impl CreateWorkspace {
    /// Reads the body of a create request.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        let tags = o.optional("tags");
        if let Some(tags) = &tags {
            check_tags(tags)?;
        }
        Ok(Self {
            name: o.required("name")?.text(1, MAX_NAME)?,
            display_color: match o.optional("display_color") {
                Some(node) => read_color(&node)?,
                None => DISPLAY_COLOR.to_owned(),
            },
            data_residency: DataResidencyFields::read(o.optional("data_residency"), true)?
                .over(DataResidency::default())?,
            inference_data_privacy: o.kept("inference_data_privacy", |n| {
                PrivacyFields::decode(n)?.merged(&InferenceDataPrivacy::default())
            })?,
            tags: metadata::create(tags)?,
            references: References {
                external_key: o.kept("external_key_id", |n| n.text(1, MAX_NAME))?,
                user_profile: o.kept("user_profile_id", |n| n.text(1, MAX_NAME))?,
            },
        })
    }
}

/// What a workspace can refer to elsewhere, unchecked.
#[derive(Debug, Default)]
pub struct References {
    /// The key of a customer that encrypts it.
    pub external_key: Option<String>,
    /// The user profile that its requests act for.
    pub user_profile: Option<String>,
}

/// An update request. `None` keeps what is stored.
#[derive(Debug)]
pub struct UpdateWorkspace {
    /// A new name, 1 to [`MAX_NAME`] characters.
    pub name: Option<String>,
    /// Another colour.
    pub display_color: Option<String>,
    /// Where data and inference may be.
    pub data_residency: DataResidencyFields,
    /// Where what is retained goes; members that are not named stay.
    pub inference_data_privacy: Option<PrivacyFields>,
    /// Pairs to set and to delete.
    pub tags: Changes,
    /// What a workspace can refer to elsewhere.
    pub references: References,
}

impl UpdateWorkspace {
    /// Reads the body of an update request.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        let tags = o.patch("tags");
        if let Patch::Set(tags) = &tags {
            check_tags(tags)?;
        }
        Ok(Self {
            name: o.needed("name", |n| n.text(1, MAX_NAME))?,
            display_color: o.needed("display_color", read_color)?,
            data_residency: DataResidencyFields::read(o.optional("data_residency"), false)?,
            inference_data_privacy: o.needed("inference_data_privacy", PrivacyFields::decode)?,
            tags: Changes::read(tags)?,
            references: References {
                external_key: o.needed("external_key_id", |n| n.text(1, MAX_NAME))?,
                user_profile: o.needed("user_profile_id", |n| n.text(1, MAX_NAME))?,
            },
        })
    }
}

fn check_tags(node: &Node<'_>) -> Decoded<()> {
    match node.entries()?.find(|(key, _)| key.starts_with(RESERVED_TAGS)) {
        Some((key, _)) => {
            Err(node.invalid(format_args!("\"{key}\" begins with \"{RESERVED_TAGS}\", which no key may")))
        }
        None => Ok(()),
    }
}

fn read_color(node: &Node<'_>) -> Decoded<String> {
    let color = node.string()?;
    let digits = color.strip_prefix('#').unwrap_or_default();
    if digits.len() == 6 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Ok(color.to_owned());
    }
    Err(node.invalid("must be \"#\" and six hexadecimal digits, such as \"#6C5BB9\""))
}
