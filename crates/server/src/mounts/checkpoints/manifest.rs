//! Pure: the list of the files of a checkpoint, as it is kept, and what of it still holds.
//!
//! The list is one blob and no rows: it is written and read as a whole, and only for its own session. Content is named by its
//! SHA-256 and where it is: a part of a blob, for small files share them. Paths are any bytes; those that are no text, or have a
//! `%`, are written with `%` and two digits.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Write as _,
    io::Read,
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use rota_api::id::BlobId;
use rota_sandbox::{Contents, Entry, FileState, What};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    limits::{CHECKPOINT_LIST_BYTES, CHECKPOINT_PACK_BYTES, CHECKPOINT_SMALL_PACKS},
};

const VERSION: u32 = 1;

/// The files of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    version: u32,
    pub(super) had_shell: bool,
    /// What is not in it although it may matter, in words for people: the first of them, and how many there are.
    pub(super) left_out: Vec<String>,
    pub(super) left_out_count: usize,
    /// Where the content is, with the bytes of each blob.
    pub(super) blobs: Vec<(BlobId, u64)>,
    pub(super) entries: Vec<Kept>,
}

/// What there is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    path: String,
    what: Kind,
    mode: u32,
    owner: (u32, u32),
    /// In nanoseconds since the epoch.
    modified: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Folder,
    Opaque,
    File(Content),
    Same(String),
    Link(String),
    Whiteout,
}

/// The content of a file and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Content {
    /// Its SHA-256, in hexadecimal digits: of the bytes that are kept.
    pub(super) sha256: String,
    /// How long the file is.
    pub(super) size: u64,
    /// How many bytes are kept: fewer, where it has holes.
    pub(super) stored: u64,
    /// The place of its blob among those of the list, and where it begins there.
    pub(super) blob: usize,
    pub(super) at: u64,
    /// Where the bytes belong, with their number, where there are holes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pieces: Option<Vec<(u64, u64)>>,
    /// The number of the file and when anything of it was changed last, at the server that took the checkpoint. Without, a
    /// change may not show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) seen: Option<(u64, i64)>,
}

/// What a file's content is known by.
pub(super) fn seen(state: &FileState) -> (u64, i64) {
    (state.inode, nanos(state.changed_ns))
}

fn nanos(at: i128) -> i64 {
    i64::try_from(at).unwrap_or_default()
}

impl Manifest {
    /// The list of `contents`, whose files have these contents, by their paths.
    pub(super) fn new(
        contents: &Contents,
        mut of: HashMap<Vec<u8>, Content>,
        all_blobs: &[(BlobId, u64)],
        (torn, told): (&[String], usize),
    ) -> Self {
        let mut blobs = Vec::new();
        let mut places = HashMap::new();
        let mut entries = Vec::with_capacity(contents.entries.len());
        let mut gone = HashSet::new();
        for entry in &contents.entries {
            let what = match &entry.what {
                What::Folder { is_opaque: false } => Kind::Folder,
                What::Folder { is_opaque: true } => Kind::Opaque,
                What::Same(first) if gone.contains(first) => continue,
                What::Same(first) => Kind::Same(text(first)),
                What::Link(target) => Kind::Link(text(target)),
                What::Whiteout => Kind::Whiteout,
                What::File { .. } => {
                    let Some(mut content) = of.remove(&entry.path) else {
                        gone.insert(entry.path.clone());
                        continue;
                    };
                    content.blob = match content.stored {
                        0 => 0,
                        _ => *places.entry(content.blob).or_insert_with(|| {
                            blobs.push(all_blobs[content.blob].clone());
                            blobs.len() - 1
                        }),
                    };
                    Kind::File(content)
                }
            };
            let Entry { path, mode, owner, modified_ns, .. } = entry;
            entries.push(Kept { path: text(path), what, mode: *mode, owner: *owner, modified: nanos(*modified_ns) });
        }
        let left_out: Vec<String> = contents.left_out.iter().chain(torn).take(told).cloned().collect();
        Self {
            version: VERSION,
            had_shell: contents.had_shell,
            left_out,
            left_out_count: contents.left_out_count + torn.len(),
            blobs,
            entries,
        }
    }

    /// As it is kept.
    pub(super) fn pack(&self) -> Result<Vec<u8>> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        serde_json::to_writer(&mut packed, self)?;
        packed.finish().map_err(Error::internal)
    }

    /// What is kept.
    ///
    /// # Errors
    /// When it is no list that this server reads.
    pub(super) fn unpack(packed: &[u8]) -> Result<Self> {
        let mut json = Vec::new();
        GzDecoder::new(packed).take(CHECKPOINT_LIST_BYTES).read_to_end(&mut json).map_err(Error::internal)?;
        let manifest: Self = serde_json::from_slice(&json)?;
        if manifest.version != VERSION {
            return Err(Error::internal(format!("version {} of a checkpoint", manifest.version)));
        }
        for (content, _) in manifest.contents() {
            let bytes = match manifest.blobs.get(content.blob) {
                _ if content.stored == 0 => content.at,
                Some((_, bytes)) => *bytes,
                None => return Err(Error::internal("a checkpoint names a blob that it does not list")),
            };
            let pieces = content.pieces.as_deref().unwrap_or(&[]);
            let mut kept = 0_u64;
            for (at, length) in pieces {
                kept = kept.saturating_add(*length);
                if at.saturating_add(*length) > content.size {
                    return Err(Error::internal("a checkpoint has bytes behind the end of a file"));
                }
            }
            let whole = if content.pieces.is_some() { kept } else { content.size };
            if content.stored != whole || content.at.saturating_add(content.stored) > bytes {
                return Err(Error::internal("a checkpoint has more bytes than its blobs"));
            }
        }
        Ok(manifest)
    }

    /// The contents of all files, with their paths. Where nothing is kept of one, its blob is none.
    pub(super) fn contents(&self) -> impl Iterator<Item = (&Content, &str)> {
        self.entries.iter().filter_map(|kept| match &kept.what {
            Kind::File(content) => Some((content, &*kept.path)),
            _ => None,
        })
    }

    /// Forgets how files looked: at another server, or in another folder.
    pub(super) fn forget_seen(&mut self) {
        for kept in &mut self.entries {
            if let Kind::File(content) = &mut kept.what {
                content.seen = None;
            }
        }
    }

    /// What the sandbox is to be given.
    ///
    /// # Errors
    /// When a path is none.
    pub(super) fn restored(&self) -> Result<Vec<Entry>> {
        let entry = |kept: &Kept| {
            let what = match &kept.what {
                Kind::Folder => What::Folder { is_opaque: false },
                Kind::Opaque => What::Folder { is_opaque: true },
                Kind::Same(first) => What::Same(bytes(first)?),
                Kind::Link(target) => What::Link(bytes(target)?),
                Kind::Whiteout => What::Whiteout,
                Kind::File(Content { size, .. }) => {
                    let state = FileState { size: *size, inode: 0, modified_ns: 0, changed_ns: 0 };
                    What::File { state, is_sparse: false }
                }
            };
            let Kept { path, mode, owner, modified, .. } = kept;
            Ok(Entry { path: bytes(path)?, what, mode: *mode, owner: *owner, modified_ns: i128::from(*modified) })
        };
        self.entries.iter().map(entry).collect()
    }

    /// Whether the other one has the same files, with the same content. Where that is and how it was seen does not matter.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        let known = |content: &Content| (content.size, content.stored);
        let same = |(one, other): (&Kept, &Kept)| {
            let is_same = match (&one.what, &other.what) {
                (Kind::File(a), Kind::File(b)) => known(a) == known(b) && a.sha256 == b.sha256 && a.pieces == b.pieces,
                (one, other) => one == other,
            };
            is_same
                && one.path == other.path
                && (one.mode, one.owner, one.modified) == (other.mode, other.owner, other.modified)
        };
        self.had_shell == other.had_shell
            && (&self.left_out, self.left_out_count) == (&other.left_out, other.left_out_count)
            && self.entries.len() == other.entries.len()
            && self.entries.iter().zip(&other.entries).all(same)
    }

    /// Which of its blobs are to be given up, with what is in them kept anew: those of which little is needed any more, and small
    /// ones when there are many.
    pub(super) fn worn(&self) -> HashSet<usize> {
        let mut live: BTreeMap<usize, BTreeMap<u64, u64>> = BTreeMap::new();
        for (content, _) in self.contents() {
            live.entry(content.blob).or_default().insert(content.at, content.stored);
        }
        let of = |blob: usize| live.get(&blob).map_or(0, |parts| parts.values().sum::<u64>());
        let mut worn: HashSet<usize> =
            (0..self.blobs.len()).filter(|blob| of(*blob) * 2 < self.blobs[*blob].1).collect();
        let is_small = |blob: &usize| self.blobs[*blob].1 < CHECKPOINT_PACK_BYTES as u64 / 4;
        let small: Vec<usize> = (0..self.blobs.len()).filter(is_small).collect();
        if small.len() > CHECKPOINT_SMALL_PACKS {
            worn.extend(small);
        }
        worn
    }
}

/// Any bytes as text.
pub(super) fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('%') => text.to_owned(),
        _ => {
            let mut text = String::with_capacity(bytes.len());
            for byte in bytes {
                if byte.is_ascii() && *byte != b'%' {
                    text.push(char::from(*byte));
                } else {
                    let _ = write!(text, "%{byte:02x}");
                }
            }
            text
        }
    }
}

/// The bytes that a text stands for.
pub(super) fn bytes(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or_else(|| Error::internal("a path of a checkpoint is none"))?);
        rest = &after[2..];
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use rota_api::{Time, id::Id};

    use super::*;

    fn content(blob: usize, at: u64, stored: u64) -> Content {
        Content { sha256: format!("{blob}-{at}"), size: stored, stored, blob, at, pieces: None, seen: None }
    }

    fn manifest(blobs: &[u64], contents: Vec<Content>) -> Manifest {
        let id = |i: usize| BlobId::new(Time::from_micros(i as i64));
        let entries = contents.into_iter().enumerate().map(|(i, content)| Kept {
            path: format!("workspace/{i}"),
            what: Kind::File(content),
            mode: 0o644,
            owner: (0, 0),
            modified: 0,
        });
        Manifest {
            version: VERSION,
            had_shell: false,
            left_out: Vec::new(),
            left_out_count: 0,
            blobs: blobs.iter().enumerate().map(|(i, bytes)| (id(i), *bytes)).collect(),
            entries: entries.collect(),
        }
    }

    #[test]
    fn any_path_comes_back_from_its_text() {
        for path in
            [&b"workspace/plain"[..], b"a\nb", b"100%", b"%41", "é".as_bytes(), b"\xff\xfe/x", "é%".as_bytes(), b"\x01"]
        {
            assert_eq!(bytes(&text(path)).unwrap(), path);
        }
        assert_eq!(text("é/x".as_bytes()), "é/x");
        for broken in ["%", "%4", "%zz", "%é"] {
            assert!(bytes(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn what_is_kept_is_read_back_and_what_does_not_fit_together_is_refused() {
        let kept = manifest(&[10], vec![content(0, 0, 4), content(0, 4, 6)]);
        assert_eq!(Manifest::unpack(&kept.pack().unwrap()).unwrap(), kept);
        let holes = Content { size: 100, pieces: Some(vec![(90, 4)]), ..content(0, 0, 4) };
        assert!(Manifest::unpack(&manifest(&[4], vec![holes.clone()]).pack().unwrap()).is_ok());
        for broken in [
            content(1, 0, 4),
            content(0, 7, 4),
            Content { stored: 3, ..content(0, 0, 4) },
            Content { pieces: Some(vec![(98, 4)]), ..holes.clone() },
            Content { pieces: Some(vec![(0, 2)]), ..holes },
            content(0, u64::MAX, 4),
        ] {
            let packed = manifest(&[10], vec![broken.clone()]).pack().unwrap();
            assert!(Manifest::unpack(&packed).is_err(), "{broken:?}");
        }
        assert!(Manifest::unpack(b"no gzip").is_err());
        assert!(Manifest::unpack(&Manifest { version: 2, ..kept }.pack().unwrap()).is_err());
    }

    #[test]
    fn a_blob_of_which_little_is_needed_is_given_up_and_so_are_many_small_ones() {
        let half = manifest(&[100, 100], vec![content(0, 0, 50), content(1, 0, 49), content(1, 0, 49)]);
        assert_eq!(half.worn(), HashSet::from([1]));
        let small = vec![4; CHECKPOINT_SMALL_PACKS + 1];
        let contents = (0..small.len()).map(|blob| content(blob, 0, 4)).collect();
        assert_eq!(manifest(&small, contents).worn().len(), small.len());
        let contents = (0..small.len() - 1).map(|blob| content(blob, 0, 4)).collect();
        assert!(manifest(&small[1..], contents).worn().is_empty());
    }

    #[test]
    fn lists_are_the_same_wherever_their_content_is() {
        let one = manifest(&[10], vec![Content { seen: Some((1, 1)), ..content(0, 0, 4) }]);
        let moved = Content { at: 5, seen: None, ..content(0, 0, 4) };
        assert!(one.is_as(&manifest(&[20], vec![moved.clone()])));
        assert!(!one.is_as(&manifest(&[20], vec![Content { sha256: "other".to_owned(), ..moved }])));
    }
}
