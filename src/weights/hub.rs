//! Fetches files of the Hugging Face hub into the cache that its clients share.
//!
//! In the folder of a repository: `blobs/HASH`, the files; `snapshots/COMMIT/FILE`, links to them; `refs/BRANCH`, the commit
//! that a branch was at. A file appears when it is whole and has the hash that it should have.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

use super::find::{Fetched, Places, Source, is_commit};
use crate::error::{Error, Result};
use crate::files::{AtomicFile, write_atomic};

const TIMEOUT: Duration = Duration::from_secs(30);
const MOST_REDIRECTS: usize = 10;

pub(super) fn fetch(
    places: &Places,
    source: &Source,
    progress: &mut dyn FnMut(Fetched),
) -> Result<PathBuf> {
    let url = places.url(source);
    let fail = |why: String| Error::Unavailable {
        what: url.clone(),
        why: format!("{why}; {}", places.without_hub(source)),
    };
    let Some(repository) = places.repository(source) else {
        return Err(fail("there is no folder to keep it in: set HF_HUB_CACHE".into()));
    };
    let Answer { commit, hash, response } = ask(&url).map_err(&fail)?;
    if is_commit(source.revision()) && commit != source.revision() {
        return Err(fail(format!("the hub answers with commit {commit}")));
    }
    let hash = match (source.sha256(), hash) {
        (Some(known), Some(said)) if known != said => {
            return Err(fail(format!("its SHA-256 should be {known}, and the hub says {said}")));
        }
        (Some(known), _) => known.to_string(),
        (None, Some(said)) => said,
        (None, None) => return Err(fail("the hub does not say its SHA-256".into())),
    };

    let blob = repository.join("blobs").join(&hash);
    create(blob.parent())?;
    let mut file = AtomicFile::create(&blob)?;
    log::info!("fetching {url} ({})", source.licence());
    let got = copy(response, &mut file, progress).map_err(|e| match e {
        Failure::Read(e) => fail(format!("it broke off: {e}")),
        Failure::Write(e) => Error::io(&blob, e),
    })?;
    if got != hash {
        return Err(fail(format!("its SHA-256 should be {hash}, got {got}")));
    }
    file.commit()?;
    let snapshot = repository.join("snapshots").join(&commit).join(source.file());
    create(snapshot.parent())?;
    place(&blob, &snapshot).map_err(|e| Error::io(&snapshot, e))?;
    if !is_commit(source.revision()) {
        let branch = repository.join("refs").join(source.revision());
        create(branch.parent())?;
        write_atomic(&branch, |file| file.write_all(commit.as_bytes()))?;
    }
    Ok(snapshot)
}

/// What the hub says of a file, and the file.
struct Answer {
    commit: String,
    /// SHA-256.
    hash: Option<String>,
    response: Response<Body>,
}

/// Follows the hub to a file: it says itself what the file is, and another host has it.
fn ask(url: &str) -> Result<Answer, String> {
    let agent: Agent = Agent::config_builder()
        .max_redirects(0)
        .http_status_as_error(false)
        .https_only(url.starts_with("https:"))
        .timeout_connect(Some(TIMEOUT))
        .timeout_recv_response(Some(TIMEOUT))
        .timeout_per_read(Some(TIMEOUT))
        .user_agent(concat!("invad/", env!("CARGO_PKG_VERSION")))
        .build()
        .into();
    let (mut at, mut commit, mut hash) = (url.to_string(), None, None);
    for _ in 0..=MOST_REDIRECTS {
        let response = agent.get(&at).call().map_err(|e| e.to_string())?;
        let headers = response.headers();
        commit = commit.or_else(|| header(headers, "x-repo-commit", is_commit));
        hash = hash.or_else(|| header(headers, "x-linked-etag", is_sha256));
        match response.status().as_u16() {
            200 => {
                let commit = commit.ok_or("no hub of Hugging Face is there: it names no commit")?;
                return Ok(Answer { commit, hash, response });
            }
            301 | 302 | 303 | 307 | 308 => {
                let to = header(headers, "location", |_| true);
                at = resolved(&at, &to.ok_or("it is somewhere else, and it is not said where")?)?;
            }
            other => return Err(format!("the hub answers with status {other}")),
        }
    }
    Err(format!("it is not there after {MOST_REDIRECTS} redirects"))
}

fn header(headers: &HeaderMap, name: &str, valid: impl Fn(&str) -> bool) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    let value = value.trim_matches('"');
    valid(value).then(|| value.to_string())
}

fn is_sha256(hash: &str) -> bool {
    hash.len() == 64 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The address that `to` is at `from`: as it is, or of the same host.
fn resolved(from: &str, to: &str) -> Result<String, String> {
    let (scheme, rest) = from.split_once("://").unwrap_or_default();
    let host = rest.split('/').next().unwrap_or_default();
    match to {
        _ if to.starts_with("http://") || to.starts_with("https://") => Ok(to.into()),
        _ if to.starts_with('/') && !to.starts_with("//") => Ok(format!("{scheme}://{host}{to}")),
        _ => Err(format!("it is at `{}`, which is no address", to.escape_debug())),
    }
}

enum Failure {
    Read(io::Error),
    Write(io::Error),
}

/// Writes what comes, and returns its SHA-256.
fn copy(
    response: Response<Body>,
    file: &mut AtomicFile,
    progress: &mut dyn FnMut(Fetched),
) -> Result<String, Failure> {
    let body = response.into_body();
    let of = body.content_length();
    let (mut body, mut buffer) = (body.into_reader(), vec![0; 1 << 16]);
    let (mut digest, mut bytes) = (Sha256::new(), 0);
    progress(Fetched { bytes, of });
    loop {
        let read = body.read(&mut buffer).map_err(Failure::Read)?;
        if read == 0 {
            break;
        }
        digest.update(&buffer[..read]);
        file.write_all(&buffer[..read]).map_err(Failure::Write)?;
        bytes += read as u64;
        progress(Fetched { bytes, of });
    }
    Ok(super::hexadecimal(digest.finalize()))
}

fn create(folder: Option<&Path>) -> Result<()> {
    let folder = folder.unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))
}

/// Puts a blob into a snapshot, as a link where there are links.
fn place(blob: &Path, snapshot: &Path) -> io::Result<()> {
    match fs::remove_file(snapshot) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    #[cfg(unix)]
    {
        let name = blob.file_name().unwrap_or_default();
        std::os::unix::fs::symlink(Path::new("../../blobs").join(name), snapshot)
    }
    #[cfg(not(unix))]
    fs::rename(blob, snapshot)
}
