//! Scores images that are sent over HTTP.

mod common;

use std::io::Cursor;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Parser;
use common::options::{Judging, at_least_one};
use common::{note, say};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use image::ImageReader;
use invad::data::decode_image;
use invad::detect::{ScoreOptions, Scored};
use invad::{Detector, Device, Error, Result};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

/// Scores images that are sent over HTTP
///
/// POST /score with an image file as the body answers {"score", "threshold", "is_anomalous",
/// "is_unfamiliar"}, and with ?map=true also {"map": {"side", "values"}}, the anomaly map row by row: how far
/// each cell stands out, the mean of the image being 0. An image is unfamiliar that as a whole is unlike all good
/// ones (another part, another view, no light): its score says little. GET /healthz answers 200 while
/// images are scored. What is wrong with a request is answered as {"error"}: 400 what is no image, 408 a
/// request that takes too long, 413 one that is too large, 503 with Retry-After while too many wait.
/// Images that wait are scored together.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  On this machine's port 8080:
    cargo run --release --example service -- --detector out/quickstart/detector.safetensors
    curl --data-binary @part.png http://127.0.0.1:8080/score
  For others, calibrated for one category:
    cargo run --release --example service -- --detector out/quickstart/detector.safetensors \\
      --listen 0.0.0.0:8080 --category cup

There is no encryption and no access control: put it behind a server that has them.

SIGTERM or Ctrl-C stops it: requests that are under way are answered, others refused.

Exit codes:
  0    stopped
  1    failure
  2    wrong usage")]
struct Options {
    /// Detector file, as `train` and `quickstart` write it
    #[arg(long, value_name = "FILE")]
    detector: PathBuf,
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The category of the images, which calibrates their scores [default: for each image that which it
    /// is likeliest of]
    #[arg(long, value_name = "CATEGORY")]
    category: Option<String>,
    #[command(flatten)]
    judging: Judging,
    /// Largest image file, in bytes
    #[arg(long, value_name = "N", default_value = "16000000", value_parser = at_least_one())]
    max_bytes: usize,
    /// Largest image, in pixels
    #[arg(long, value_name = "N", default_value_t = 25_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    max_pixels: u64,
    /// Images that may be received or wait at a time; more are refused
    #[arg(long, value_name = "N", default_value = "32", value_parser = at_least_one())]
    queue: usize,
    /// Seconds in which a request must have been received
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Where to compute: cpu, cuda, cuda:N or best
    #[arg(long, default_value = "best")]
    device: Device,
}

/// Connections at a time.
const CONNECTIONS: usize = 256;
/// Images scored together.
const BATCH: usize = 8;
/// What requests under way have left when the service is stopped.
const LAST_REQUESTS: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let options = Options::parse();
    common::run(|| serve(options))
}

fn serve(options: Options) -> Result<ExitCode> {
    options.device.require()?;
    let detector = Detector::load(&options.detector)?.to_device(options.device)?;
    let scoring = options.judging.options(options.category.clone());
    // What is wrong with the options shows before the first request.
    detector.score_with(&[], &scoring)?;
    let (queue, jobs) = mpsc::channel(options.queue);
    let max_pixels = options.max_pixels;
    let scorer = thread::spawn(move || score_jobs(&detector, &scoring, max_pixels, jobs));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Error::Unavailable { what: "a thread".into(), why: e.to_string() })?;
    runtime.block_on(listen(&options, queue))?;
    // Connections that did not end in time hold the queue.
    runtime.shutdown_background();
    scorer.join().map_err(|_| Error::Unavailable {
        what: "scoring".into(),
        why: "its thread has failed".into(),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Takes connections until the process is asked to stop, and then until all requests are answered.
async fn listen(options: &Options, queue: mpsc::Sender<Job>) -> Result<()> {
    let failed = |e| Error::io(options.listen.to_string(), e);
    let listener = TcpListener::bind(options.listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let stop = stop_signal().map_err(failed)?;
    tokio::pin!(stop);
    say(format!("listening on http://{address}"));

    let limits = Limits { bytes: options.max_bytes, time: Duration::from_secs(options.timeout) };
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await.expect("never closed");
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            next = next => next,
            () = &mut stop => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            // Too many open files, or a client that has gone away.
            Err(e) => {
                log::warn!("a connection failed: {e}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let queue = queue.clone();
        let answer = service_fn(move |request| answer(request, queue.clone(), limits));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.time)
            .serve_connection(TokioIo::new(stream), answer);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(e) = connection.await {
                log::debug!("a connection ended: {e}");
            }
            drop(place);
        });
    }
    drop((listener, queue));
    note("stopping");
    if timeout(LAST_REQUESTS, graceful.shutdown()).await.is_err() {
        log::warn!("requests were cut off");
    }
    Ok(())
}

/// Ready when the process is asked to stop.
#[cfg(unix)]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    Ok(async {
        tokio::signal::ctrl_c().await.ok();
    })
}

#[derive(Clone, Copy)]
struct Limits {
    bytes: usize,
    time: Duration,
}

/// An image to score.
struct Job {
    file: Bytes,
    reply: oneshot::Sender<Result<Scored, Failure>>,
}

/// A request that is not answered with a score.
struct Failure {
    status: StatusCode,
    reason: String,
    header: Option<(HeaderName, &'static str)>,
}

impl Failure {
    fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into(), header: None }
    }

    fn with(self, name: HeaderName, value: &'static str) -> Self {
        Self { header: Some((name, value)), ..self }
    }
}

type Answer = Response<Full<Bytes>>;

async fn answer(
    request: Request<Incoming>,
    queue: mpsc::Sender<Job>,
    limits: Limits,
) -> Result<Answer, std::convert::Infallible> {
    let answered = match (request.method(), request.uri().path()) {
        (&Method::POST, "/score") => score(request, queue, limits).await,
        (&Method::GET | &Method::HEAD, "/healthz") if !queue.is_closed() => {
            Ok(json!({"status": "ok"}))
        }
        (&Method::GET | &Method::HEAD, "/healthz") => Err(broken()),
        (_, "/score") => {
            Err(Failure::new(StatusCode::METHOD_NOT_ALLOWED, "use POST").with(ALLOW, "POST"))
        }
        (_, "/healthz") => {
            Err(Failure::new(StatusCode::METHOD_NOT_ALLOWED, "use GET").with(ALLOW, "GET, HEAD"))
        }
        _ => Err(Failure::new(StatusCode::NOT_FOUND, "there are /score and /healthz")),
    };
    Ok(match answered {
        Ok(value) => response(StatusCode::OK, &value),
        Err(Failure { status, reason, header }) => {
            let mut response = response(status, &json!({"error": reason}));
            if let Some((name, value)) = header {
                response.headers_mut().insert(name, value.parse().expect("a valid header"));
            }
            response
        }
    })
}

fn response(status: StatusCode, value: &Value) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(format!("{value}\n"))));
    *response.status_mut() = status;
    let json = "application/json".parse().expect("a valid header");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

fn broken() -> Failure {
    Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "images are no longer scored")
}

/// Receives an image and waits for its score.
async fn score(
    request: Request<Incoming>,
    queue: mpsc::Sender<Job>,
    limits: Limits,
) -> Result<Value, Failure> {
    let map = match request.uri().query() {
        None | Some("map=false") => false,
        Some("map=true") => true,
        Some(_) => {
            return Err(Failure::new(
                StatusCode::BAD_REQUEST,
                "expected ?map=true, ?map=false or neither",
            ));
        }
    };
    let too_large = || {
        let reason = format!("the file has more than {} bytes", limits.bytes);
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, reason).with(CONNECTION, "close")
    };
    if request.body().size_hint().lower() > limits.bytes as u64 {
        return Err(too_large());
    }
    // Before the image is received, so that the memory of all is bounded.
    let place = match queue.try_reserve() {
        Ok(place) => place,
        Err(mpsc::error::TrySendError::Closed(())) => return Err(broken()),
        Err(mpsc::error::TrySendError::Full(())) => {
            let refused = Failure::new(StatusCode::SERVICE_UNAVAILABLE, "too many images wait");
            discard(request.into_body(), limits).await;
            return Err(refused.with(RETRY_AFTER, "1"));
        }
    };
    let body = Limited::new(request.into_body(), limits.bytes).collect();
    let file = match timeout(limits.time, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(e)) if e.is::<LengthLimitError>() => return Err(too_large()),
        Ok(Err(e)) => return Err(Failure::new(StatusCode::BAD_REQUEST, e.to_string())),
        Err(_) => {
            let reason = "the image did not arrive in time";
            let failure = Failure::new(StatusCode::REQUEST_TIMEOUT, reason);
            return Err(failure.with(CONNECTION, "close"));
        }
    };
    let (reply, scored) = oneshot::channel();
    place.send(Job { file, reply });
    let scored = scored.await.map_err(|_| broken())??;
    let mut answer = json!({
        "score": scored.score,
        "threshold": scored.threshold,
        "is_anomalous": scored.is_anomalous,
        "is_unfamiliar": scored.is_unfamiliar,
    });
    if map {
        answer["map"] = json!({"side": scored.map.side(), "values": scored.map.values()});
    }
    Ok(answer)
}

/// Receives a body and keeps nothing of it: a client that is still sending when its connection is closed
/// does not get to see the answer.
async fn discard(body: Incoming, limits: Limits) {
    let mut body = Limited::new(body, limits.bytes);
    let rest = async { while let Some(Ok(_)) = body.frame().await {} };
    timeout(limits.time, rest).await.ok();
}

/// Scores images, those that wait together, until no more can come.
fn score_jobs(
    detector: &Detector,
    options: &ScoreOptions,
    max_pixels: u64,
    mut jobs: mpsc::Receiver<Job>,
) {
    while let Some(first) = jobs.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(job) = jobs.try_recv()
        {
            batch.push(job);
        }
        let (mut images, mut replies) = (Vec::new(), Vec::new());
        for Job { file, reply } in batch {
            if reply.is_closed() {
                continue;
            }
            match decode(&file, max_pixels) {
                Ok(image) => {
                    images.push(image);
                    replies.push(reply);
                }
                Err(failure) => drop(reply.send(Err(failure))),
            }
        }
        match detector.score_with(&images, options) {
            Ok(scored) => {
                for (reply, scored) in replies.into_iter().zip(scored) {
                    reply.send(Ok(scored)).ok();
                }
            }
            // One image may be what the detector fails on.
            Err(_) => {
                for (image, reply) in images.iter().zip(replies) {
                    let scored = detector.score_with(std::slice::from_ref(image), options);
                    let scored = scored.map(|mut scored| scored.remove(0)).map_err(|e| {
                        log::error!("{e}");
                        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string())
                    });
                    reply.send(scored).ok();
                }
            }
        }
    }
}

fn decode(file: &[u8], max_pixels: u64) -> Result<image::RgbImage, Failure> {
    let size = ImageReader::new(Cursor::new(file))
        .with_guessed_format()
        .ok()
        .and_then(|reader| reader.into_dimensions().ok());
    if let Some((width, height)) = size
        && u64::from(width) * u64::from(height) > max_pixels
    {
        let reason = format!("{width}×{height} is more than {max_pixels} pixels");
        return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, reason));
    }
    decode_image("image", file).map_err(|e| {
        let how =
            "the body should be the image file itself, as `curl --data-binary @part.png` sends it";
        Failure::new(StatusCode::BAD_REQUEST, format!("{e}; {how}"))
    })
}
