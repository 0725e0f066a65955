//! Where weights of backbones are: on this machine, or published.

use std::borrow::Cow;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The address of the hub, unless another is set.
const PUBLIC: &str = "https://huggingface.co";

/// How a file of weights may end, in the order in which they are looked for.
const ENDINGS: [&str; 4] = ["safetensors", "pth", "pt", "bin"];

/// A file of weights in a repository of the Hugging Face hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    name: Cow<'static, str>,
    repository: Cow<'static, str>,
    file: Cow<'static, str>,
    licence: Cow<'static, str>,
    revision: Option<Cow<'static, str>>,
    sha256: Option<Cow<'static, str>>,
}

impl Source {
    const fn published(name: &'static str, repository: &'static str) -> Self {
        Self {
            name: Cow::Borrowed(name),
            repository: Cow::Borrowed(repository),
            file: Cow::Borrowed("model.safetensors"),
            licence: Cow::Borrowed("Apache-2.0"),
            revision: None,
            sha256: None,
        }
    }

    /// The weights of the backbone `name`: a file in the root of a repository (`owner/name`), and what it may be used under.
    pub fn new(
        name: impl Into<String>,
        repository: impl Into<String>,
        file: impl Into<String>,
        licence: impl Into<String>,
    ) -> Self {
        Self {
            name: Cow::Owned(name.into()),
            repository: Cow::Owned(repository.into()),
            file: Cow::Owned(file.into()),
            licence: Cow::Owned(licence.into()),
            revision: None,
            sha256: None,
        }
    }

    /// Of this commit, rather than of the newest.
    pub fn at_revision(mut self, commit: impl Into<String>) -> Self {
        self.revision = Some(Cow::Owned(commit.into()));
        self
    }

    /// The SHA-256 of the file, in hexadecimal. Without, what is fetched is held to the one that the hub says.
    pub fn with_sha256(mut self, sha256: impl Into<String>) -> Self {
        self.sha256 = Some(Cow::Owned(sha256.into().to_lowercase()));
        self
    }

    /// The backbone.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Owner and name of the repository.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The file in the repository.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// What the weights may be used under.
    pub fn licence(&self) -> &str {
        &self.licence
    }

    /// The commit, or the branch of the newest.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// The SHA-256 of the file, if it is known here.
    pub fn sha256(&self) -> Option<&str> {
        self.sha256.as_deref()
    }
}

/// What is published of the backbones of this crate, each with its licence.
///
/// No commit and no hash is given: what is fetched is the newest, held to the hash that the hub says of it.
pub const SOURCES: [Source; 9] = [
    Source::published("efficientnet-b4", "timm/tf_efficientnet_b4.aa_in1k"),
    Source::published("vit-b16", "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k"),
    Source::published("dino-vit-b16", "timm/vit_base_patch16_224.dino"),
    Source::published("dinov2-vits14", "facebook/dinov2-small"),
    Source::published("dinov2-vitb14", "facebook/dinov2-base"),
    Source::published("dinov2-vitl14", "facebook/dinov2-large"),
    Source::published("dinov2-vits14-reg", "facebook/dinov2-with-registers-small"),
    Source::published("dinov2-vitb14-reg", "facebook/dinov2-with-registers-base"),
    Source::published("dinov2-vitl14-reg", "facebook/dinov2-with-registers-large"),
];

/// How much of a file has been fetched, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fetched {
    /// So far.
    pub bytes: u64,
    /// In all, if the hub says so.
    pub of: Option<u64>,
}

/// Where weights are looked for.
#[derive(Clone, Debug)]
pub struct Places {
    /// Of files NAME.safetensors, NAME.pth, NAME.pt or NAME.bin.
    folders: Vec<PathBuf>,
    /// Of the hub's clients, this one among them.
    cache: Option<PathBuf>,
    /// The address of the hub, without a slash at its end.
    endpoint: String,
    offline: bool,
}

impl Default for Places {
    /// What the environment says: the folder `INVAD_WEIGHTS`, then that of the user's data (`~/.local/share/invad/weights`);
    /// the hub's cache as its own clients have it (`HF_HUB_CACHE`, `HF_HOME`, `~/.cache/huggingface/hub`), its address
    /// (`HF_ENDPOINT`), and whether it may not be asked (`HF_HUB_OFFLINE`).
    fn default() -> Self {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = |below: &str| env::home_dir().map(|home| home.join(below));
        let data = set("XDG_DATA_HOME").or_else(|| set("LOCALAPPDATA"));
        let data = data.or_else(|| home(".local/share")).map(|data| data.join("invad/weights"));
        let cache = set("HF_HUB_CACHE").or_else(|| {
            let hub = set("HF_HOME").or_else(|| Some(set("XDG_CACHE_HOME")?.join("huggingface")));
            Some(hub.or_else(|| home(".cache/huggingface"))?.join("hub"))
        });
        let offline = env::var("HF_HUB_OFFLINE").unwrap_or_default().to_uppercase();
        Self {
            folders: set("INVAD_WEIGHTS").into_iter().chain(data).collect(),
            cache,
            endpoint: env::var("HF_ENDPOINT").unwrap_or_default(),
            offline: false,
        }
        .offline(matches!(&offline[..], "1" | "ON" | "YES" | "TRUE"))
        .or_public()
    }
}

impl Places {
    /// These folders only, and this cache of the hub at `endpoint`.
    pub fn new(
        folders: impl IntoIterator<Item = PathBuf>,
        cache: impl Into<PathBuf>,
        endpoint: impl Into<String>,
    ) -> Self {
        Self {
            folders: folders.into_iter().collect(),
            cache: Some(cache.into()),
            endpoint: endpoint.into(),
            offline: false,
        }
        .or_public()
    }

    /// Whether the hub may not be asked.
    pub fn offline(self, offline: bool) -> Self {
        Self { offline, ..self }
    }

    fn or_public(mut self) -> Self {
        self.endpoint.truncate(self.endpoint.trim_end_matches('/').len());
        if self.endpoint.is_empty() {
            self.endpoint = PUBLIC.into();
        }
        self
    }

    /// The file of a source: in one of the folders, in the hub's cache, or, with the feature `hub`, fetched into that,
    /// while `progress` is told of it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] that says where it was looked for and where it can be had, or why it could not be fetched;
    /// [`Error::File`] if a file is where a folder of weights should be; [`Error::Io`] if it cannot be written.
    pub fn find(&self, source: &Source, progress: &mut dyn FnMut(Fetched)) -> Result<PathBuf> {
        if let Some(path) = self.in_folders(&source.name)?.or_else(|| self.cached(source)) {
            return Ok(path);
        }
        if self.offline {
            return Err(self.missing(source, "the hub is not asked while HF_HUB_OFFLINE is set"));
        }
        self.fetch(source, progress)
    }

    /// A file of these folders.
    fn in_folders(&self, name: &str) -> Result<Option<PathBuf>> {
        if let Some(file) = self.folders.iter().find(|folder| folder.is_file()) {
            let reason = format!(
                "this is a file; have INVAD_WEIGHTS name a folder that has {}",
                files(name)
            );
            return Err(Error::file(file, reason));
        }
        let files =
            |folder: &PathBuf| ENDINGS.map(|ending| folder.join(format!("{name}.{ending}")));
        Ok(self.folders.iter().flat_map(files).find(|path| path.is_file()))
    }

    /// The folder of a repository in the hub's cache.
    pub(super) fn repository(&self, source: &Source) -> Option<PathBuf> {
        let folder = format!("models--{}", source.repository.replace('/', "--"));
        Some(self.cache.as_ref()?.join(folder))
    }

    /// What the hub's cache has.
    fn cached(&self, source: &Source) -> Option<PathBuf> {
        let repository = self.repository(source)?;
        let revision = source.revision();
        let commit = match is_commit(revision) {
            true => revision.to_string(),
            false => fs::read_to_string(repository.join("refs").join(revision)).ok()?,
        };
        let commit = Some(commit.trim()).filter(|commit| is_commit(commit))?;
        let path = repository.join("snapshots").join(commit).join(&*source.file);
        path.is_file().then_some(path)
    }

    #[cfg(feature = "hub")]
    fn fetch(&self, source: &Source, progress: &mut dyn FnMut(Fetched)) -> Result<PathBuf> {
        super::hub::fetch(self, source, progress)
    }

    #[cfg(not(feature = "hub"))]
    fn fetch(&self, source: &Source, _: &mut dyn FnMut(Fetched)) -> Result<PathBuf> {
        Err(self.missing(source, "this build lacks the feature `hub`, which fetches it"))
    }

    fn missing(&self, source: &Source, why: &str) -> Error {
        let (mut why, url) = (format!("{why}; {}", self.looked(&source.name)), self.url(source));
        if let Some(repository) = self.repository(source) {
            write!(why, ", nor is it in {}", repository.display()).expect("a String takes all");
        }
        let place = self.place(source);
        write!(why, ": copy {url} to {place} ({})", source.licence).expect("a String takes all");
        unavailable(&source.name, why)
    }

    /// What to do where the hub does not give a file.
    #[cfg(feature = "hub")]
    pub(super) fn without_hub(&self, source: &Source) -> String {
        let hub = match &self.endpoint[..] {
            PUBLIC => String::new(),
            set => format!("HF_ENDPOINT is set to `{set}` (without it the hub is {PUBLIC}); or "),
        };
        let place = self.place(source);
        format!(
            "{hub}copy the file to {place}, or another folder INVAD_WEIGHTS; with HF_HUB_OFFLINE=1 no hub is asked"
        )
    }

    /// Where a file is found before the hub is asked for it.
    fn place(&self, source: &Source) -> String {
        let ending = Path::new(&*source.file).extension().unwrap_or_default().display();
        let folder = self.folders.first().map(PathBuf::as_path).unwrap_or(Path::new(""));
        folder.join(format!("{}.{ending}", source.name)).display().to_string()
    }

    fn looked(&self, name: &str) -> String {
        let folders: Vec<_> = self.folders.iter().map(|f| f.display().to_string()).collect();
        format!("there is no {} in {}", files(name), folders.join(" or "))
    }

    /// Where the hub has it.
    pub(super) fn url(&self, source: &Source) -> String {
        let Source { repository, file, .. } = source;
        format!("{}/{repository}/resolve/{}/{file}", self.endpoint, source.revision())
    }
}

/// The names of the files that are looked for.
fn files(name: &str) -> String {
    format!("{name}.{{{}}}", ENDINGS.join(","))
}

fn unavailable(name: &str, why: String) -> Error {
    Error::Unavailable { what: format!("a file with the weights of `{name}`"), why }
}

/// Whether this names a commit rather than a branch.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The file with the weights of a backbone, as [`Places::default`] says where: NAME.safetensors, NAME.pth, NAME.pt or NAME.bin
/// in a folder of weights; what [`SOURCES`] says of it, in the cache of the Hugging Face hub, or, with the feature `hub`,
/// fetched into that. A name with a folder in it (`./net.pth`) is that of a file.
///
/// ```no_run
/// # fn main() -> invad::Result<()> {
/// use invad::weights::{self, Weights};
///
/// let weights = Weights::open(weights::find("dinov2-vitb14")?)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Unavailable`] that says where it was looked for and where it can be had, or why it could not be fetched;
/// [`Error::File`] if INVAD_WEIGHTS is a file; [`Error::Io`] if it cannot be written, or a file of that name is not there.
pub fn find(name: &str) -> Result<PathBuf> {
    find_with(name, &mut |_| {})
}

/// As [`find`], and `progress` is told of what is fetched.
///
/// # Errors
/// As [`find`].
pub fn find_with(name: &str, progress: &mut dyn FnMut(Fetched)) -> Result<PathBuf> {
    let path = Path::new(name);
    if path.components().count() > 1 {
        return match fs::metadata(path) {
            Ok(_) => Ok(path.into()),
            Err(e) => Err(Error::io(path, e)),
        };
    }
    let places = Places::default();
    match SOURCES.iter().find(|source| source.name == name) {
        Some(source) => places.find(source, progress),
        None => places.in_folders(name)?.ok_or_else(|| {
            let known: Vec<_> = SOURCES.iter().map(|source| source.name.to_string()).collect();
            let (looked, known) = (places.looked(name), known.join(", "));
            unavailable(
                name,
                format!(
                    "{looked}: put such a file there, or set INVAD_WEIGHTS to the folder that has one; docs/backbones.md \
                     says where each is had (by their names are fetched {known})"
                ),
            )
        }),
    }
}
