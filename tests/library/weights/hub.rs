//! Weights of a hub, which is a server on this machine.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use invad::weights::{Fetched, Source};
use sha2::{Digest, Sha256};

use super::find::{COMMIT, places, source};
use super::*;

/// Answers each request for a path with what a function says, until it is dropped.
struct Server {
    address: String,
    asked: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn new(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (asked, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, end) = (asked.clone(), ended.clone());
        let thread = thread::spawn(move || {
            for connection in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    break;
                }
                count.fetch_add(1, Ordering::SeqCst);
                let mut connection = connection.unwrap();
                let mut lines = BufReader::new(&mut connection).lines().map(Result::unwrap);
                let first = lines.next().unwrap();
                while !lines.next().unwrap().is_empty() {}
                let path = first.split(' ').nth(1).unwrap();
                // The client may have hung up.
                connection.write_all(&answer(path)).ok();
            }
        });
        Self { address, asked, ended, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        TcpStream::connect(self.address.strip_prefix("http://").unwrap()).ok();
        self.thread.take().unwrap().join().ok();
    }
}

fn response(status: &str, headers: &str, len: usize, body: &[u8]) -> Vec<u8> {
    let head =
        format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {len}\r\nConnection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn body() -> Vec<u8> {
    (0..300_000u32).flat_map(|i| i.to_le_bytes()).collect()
}

fn hash() -> String {
    Sha256::digest(body()).iter().map(|byte| format!("{byte:02x}")).collect()
}

const URL: &str = "/owner/net-b16/resolve/main/model.safetensors";

/// What the hub says of a file: that another host has it.
fn said(headers: &str) -> Vec<u8> {
    response("302 Found", &format!("Location: /cdn/file\r\n{headers}"), 0, b"")
}

fn of(hash: &str) -> String {
    format!("X-Repo-Commit: {COMMIT}\r\nX-Linked-Etag: \"{hash}\"\r\n")
}

/// A server that answers as the hub does, but for the file itself.
fn with_file(file: impl Fn() -> Vec<u8> + Send + 'static) -> Server {
    Server::new(move |path| match path {
        URL => said(&of(&hash())),
        "/cdn/file" => file(),
        other => response("404 Not Found", "", 0, other.as_bytes()),
    })
}

#[test]
fn fetched_once() {
    let folder = tempdir().unwrap();
    let server = with_file(|| response("200 OK", "", body().len(), &body()));
    let places = places(folder.path(), &server.address);
    let mut progress = Vec::new();
    let path = places.find(&source(), &mut |fetched| progress.push(fetched)).unwrap();
    let repository = folder.path().join("hub/models--owner--net-b16");
    assert_eq!(path, repository.join("snapshots").join(COMMIT).join("model.safetensors"));
    assert!(std::fs::read(&path).unwrap() == body());
    let kept = std::fs::canonicalize(&path).unwrap();
    assert!(!cfg!(unix) || kept.ends_with(Path::new("blobs").join(hash())), "{kept:?}");
    assert_eq!(std::fs::read_to_string(repository.join("refs/main")).unwrap(), COMMIT);
    assert!(progress.iter().all(|fetched: &Fetched| fetched.of == Some(body().len() as u64)));
    assert!(progress.is_sorted_by_key(|fetched| fetched.bytes));
    assert_eq!((progress[0].bytes, progress.last().unwrap().bytes), (0, body().len() as u64));
    assert_eq!(server.asked.load(Ordering::SeqCst), 2);

    // Neither asked again nor needed.
    drop(server);
    let again = places.find(&source(), &mut |_| panic!("it is fetched again")).unwrap();
    assert_eq!(again, path);
    let again = places.offline(true).find(&source().at_revision(COMMIT), &mut |_| {}).unwrap();
    assert_eq!(again, path);
}

/// A commit and a hash that are known beforehand, of a hub that serves files itself and tells no hash.
#[test]
fn pinned() {
    let folder = tempdir().unwrap();
    let server = Server::new(|path| {
        assert_eq!(path, URL.replace("main", COMMIT));
        response("200 OK", &format!("X-Repo-Commit: {COMMIT}\r\n"), body().len(), &body())
    });
    let source = source().at_revision(COMMIT).with_sha256(hash().to_uppercase());
    let places = places(folder.path(), &format!("{}/", server.address));
    let path = places.find(&source, &mut |_| {}).unwrap();
    assert!(std::fs::read(path).unwrap() == body());
    assert!(!folder.path().join("hub/models--owner--net-b16/refs").exists());
}

/// Asserts that nothing is fetched for this reason, and nothing kept.
#[track_caller]
fn refused(server: &Server, source: &Source, reason: &str) {
    let folder = tempdir().unwrap();
    let error = places(folder.path(), &server.address).find(source, &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    let text = error.to_string();
    assert!(text.starts_with(&format!("{}/owner/net-b16/resolve/", server.address)), "{text}");
    assert!(text.contains(reason), "`{text}` should contain `{reason}`");
    let files = walkdir::WalkDir::new(folder.path()).into_iter().map(Result::unwrap);
    let files: Vec<_> = files.filter(|entry| !entry.file_type().is_dir()).collect();
    assert!(files.is_empty(), "{files:?}");
}

#[test]
fn what_is_not_as_it_should_be() {
    let other = with_file(|| response("200 OK", "", 5, b"other"));
    refused(&other, &source(), &format!("its SHA-256 should be {}, got ", hash()));
    let cut = with_file(|| response("200 OK", "", body().len(), &body()[..200_000]));
    refused(&cut, &source(), "it broke off");
    let good = || with_file(|| response("200 OK", "", body().len(), &body()));
    refused(&good(), &source().with_sha256("0".repeat(64)), "and the hub says");
    let old = source().at_revision(COMMIT.replace('0', "f"));
    refused(&good(), &old, "the hub answers with status 404");
    let fails = with_file(|| response("503 Service Unavailable", "", 0, b""));
    refused(&fails, &source(), "the hub answers with status 503");

    let say = |headers: &'static str| {
        Server::new(move |path| match path {
            URL => said(headers),
            _ => response("200 OK", "", 0, b""),
        })
    };
    refused(&say(""), &source(), "it names no commit");
    refused(&say("X-Repo-Commit: ../../x\r\n"), &source(), "it names no commit");
    let commit = "X-Repo-Commit: 0123456789abcdef0123456789abcdef01234567\r\n";
    refused(&say(commit), &source(), "the hub does not say its SHA-256");
    let around = Server::new(|_| said(""));
    refused(&around, &source(), "it is not there after 10 redirects");
    let nowhere =
        Server::new(|_| response("302 Found", "Location: file:///etc/passwd\r\n", 0, b""));
    refused(&nowhere, &source(), "`file:///etc/passwd`, which is no address");
}

/// What the user may have set wrongly, and how to go without.
#[test]
fn a_hub_that_is_not_there() {
    let address = with_file(Vec::new).address.clone();
    for address in [&address[..], "nonsense", "https://nowhere.invalid"] {
        let folder = tempdir().unwrap();
        let error = places(folder.path(), address).find(&source(), &mut |_| {}).unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
        let (text, file) = (error.to_string(), folder.path().join("ours/net.safetensors"));
        let set = format!("HF_ENDPOINT is set to `{address}` (without it the hub is https://");
        let copy = format!("copy the file to {}", file.display());
        for part in [&set[..], &copy, "INVAD_WEIGHTS", "HF_HUB_OFFLINE=1"] {
            assert!(text.contains(part), "`{text}` should contain `{part}`");
        }
    }
}

#[test]
fn offline_it_is_not_asked() {
    let folder = tempdir().unwrap();
    let server = with_file(|| response("200 OK", "", body().len(), &body()));
    let places = places(folder.path(), &server.address).offline(true);
    let error = places.find(&source(), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("HF_HUB_OFFLINE"), "{error}");
    assert_eq!(server.asked.load(Ordering::SeqCst), 0);
}
