//! The service as its clients see it.

use std::io::{BufRead, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Child;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::support::numbers::Numbers;

/// A service that ends with the test.
struct Service {
    child: Child,
    address: String,
}

impl Service {
    fn start(args: &[&str]) -> Self {
        let mut command = program("service");
        command.arg("--detector").arg(&shared().detector).args(["--listen", "127.0.0.1:0"]);
        let mut child =
            command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").unwrap().to_string();
        Self { child, address }
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_nodelay(true).unwrap();
        Client(BufReader::new(stream))
    }

    fn post(&self, path: &str, body: &[u8]) -> Answer {
        self.connect().post(path, body)
    }

    #[track_caller]
    fn is_healthy(&self) {
        let mut client = self.connect();
        client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
        let answer = client.answer();
        assert_eq!((answer.status, &answer.json["status"]), (200, &"ok".into()));
    }

    /// Asks the service to stop; what it printed, once it has.
    fn stop(mut self, signal: &str) -> Ran {
        let kill = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let code = self.child.wait().unwrap().code().expect("an exit code");
        assert!(!stderr.contains("panicked"), "{stderr}");
        Ran { code, stdout: String::new(), stderr }
    }

    #[cfg(target_os = "linux")]
    fn memory(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A connection, kept for several requests.
struct Client(BufReader<TcpStream>);

struct Answer {
    status: u16,
    head: String,
    json: Value,
}

impl Client {
    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    fn post(&mut self, path: &str, body: &[u8]) -> Answer {
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
        self.send(head.as_bytes());
        self.send(body);
        self.answer()
    }

    fn answer(&mut self) -> Answer {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(self.0.read_line(&mut head).unwrap() > 0, "the answer ends early: {head:?}");
        }
        let head = head.to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        self.0.read_exact(&mut body).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, json: serde_json::from_slice(&body).unwrap(), head }
    }
}

fn png(image: RgbImage) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

#[test]
fn scores_as_the_program_does() {
    let Shared { data, detector, .. } = shared();
    let out = TempDir::new().unwrap();
    let good = data.join("nut/test/good/0.png");
    let dent = data.join("nut/test/dent/0.png");
    let options = ["--category", "nut"];
    let mut command = score(detector, out.path());
    command.args(options).arg("--no-pictures").paths(&[&good, &dent]).run().expect(0);
    let service = Service::start(&options);
    service.is_healthy();
    for (line, path) in json_lines(out.path().join("scores.jsonl")).iter().zip([good, dent]) {
        let answer = service.post("/score", &fs::read(path).unwrap());
        assert_eq!(answer.status, 200);
        assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
        for (ours, theirs) in [
            ("score", "score"),
            ("threshold", "threshold"),
            ("is_anomalous", "anomalous"),
            ("is_unfamiliar", "unfamiliar"),
        ] {
            assert_eq!(answer.json[ours], line[theirs]);
        }
        assert_eq!(answer.json.as_object().unwrap().len(), 4);
    }
    let answer = service.post("/score?map=true", &png(part(1)));
    assert_eq!(answer.json["map"]["side"], 16);
    assert_eq!(answer.json["map"]["values"].as_array().unwrap().len(), 256);
    assert_eq!(service.stop("-TERM").code, 0);
}

#[test]
fn bad_requests_get_an_answer() {
    let service = Service::start(&["--max-bytes", "20000", "--max-pixels", "10000"]);
    let whole = png(part(1));
    let refused = |answer: Answer, status: u16, says: &str| {
        assert_eq!(answer.status, status, "{}", answer.json);
        assert!(answer.json["error"].as_str().unwrap().contains(says), "{}", answer.json);
        answer
    };
    let mut tried = 0;
    for (body, status, says) in [
        (&b""[..], 400, "the file is empty"),
        (b"not a picture", 400, "PNG, JPEG, BMP, TIFF and WebP are supported"),
        (b"not a picture", 400, "the body should be the image file itself"),
        (&whole[..whole.len() / 2], 400, "damaged"),
        (&png(RgbImage::new(101, 100)), 413, "101×100 is more than 10000 pixels"),
        (&[0; 20_001], 413, "more than 20000 bytes"),
    ] {
        refused(service.post("/score", body), status, says);
        tried += 1;
    }
    refused(service.post("/score?category=nut", &whole), 400, "expected ?map=true");
    refused(service.post("/", &whole), 404, "/score");
    for (request, status, says, header) in [
        ("GET /score HTTP/1.1\r\nHost: x\r\n\r\n", 405, "use POST", "allow: post"),
        ("DELETE /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 405, "use GET", "allow: get"),
        // Refused before it comes.
        (
            "POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
            413,
            "more than 20000 bytes",
            "connection: close",
        ),
    ] {
        let mut client = service.connect();
        client.send(request.as_bytes());
        let answer = refused(client.answer(), status, says);
        assert!(answer.head.contains(header), "{}", answer.head);
        tried += 1;
    }
    // A body that does not say how long it is.
    let mut client = service.connect();
    client.send(b"POST /score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send(format!("{:x}\r\n", 20_001).as_bytes());
    client.send(&[7; 20_001]);
    client.send(b"\r\n");
    refused(client.answer(), 413, "more than 20000 bytes");
    // What is no HTTP at all.
    for bytes in [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"\r\n\r\n", b"GET\r\n\r\n", &[0xFF; 4096]]
    {
        let mut client = service.connect();
        client.send(bytes);
        client.0.get_mut().shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        // It may be cut off.
        client.0.read_to_end(&mut rest).ok();
        tried += 1;
    }
    // Bytes that are changed.
    let mut numbers = Numbers::new(1000);
    for _ in 0..300 {
        let mut body = whole.clone();
        for _ in 0..=numbers.below(4) {
            let at = numbers.below(body.len());
            body[at] = numbers.below(256) as u8;
        }
        let answer = service.post("/score", &body);
        assert!(matches!(answer.status, 200 | 400 | 413), "{}", answer.json);
        tried += 1;
    }
    service.is_healthy();
    assert_eq!(service.post("/score", &whole).status, 200);
    println!("| bad requests to `service` | {tried} requests | all answered or closed | 0 | 0 |");
}

#[test]
fn slow_clients_are_not_waited_for() {
    let service = Service::start(&["--timeout", "1", "--queue", "2"]);
    let start = Instant::now();
    // One that stops in the head, one that stops in the body.
    let mut head = service.connect();
    head.send(b"POST /score HTTP/1.1\r\nHost");
    let mut body = service.connect();
    body.send(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc");
    // Meanwhile others are served.
    assert_eq!(service.post("/score", &png(part(1))).status, 200);
    let answer = body.answer();
    assert_eq!(
        (answer.status, &answer.json["error"]),
        (408, &"the image did not arrive in time".into())
    );
    let mut rest = Vec::new();
    head.0.read_to_end(&mut rest).unwrap();
    assert!(start.elapsed() < Duration::from_secs(20));
    // Clients that go away before they have their answer.
    for _ in 0..20 {
        let mut client = service.connect();
        let png = png(part(1));
        client.send(
            format!("POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", png.len())
                .as_bytes(),
        );
        client.send(&png);
    }
    let start = Instant::now();
    while service.post("/score", &png(part(1))).status != 200 {
        assert!(start.elapsed() < Duration::from_secs(20), "it does not recover");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn too_many_at_once_are_refused_and_a_stop_answers_the_rest() {
    let service = Service::start(&["--queue", "2"]);
    let large = png(RgbImage::from_fn(1500, 1500, |x, y| Rgb([x as u8, y as u8, (x ^ y) as u8])));
    let (served, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let answer = service.post("/score", &large);
                match answer.status {
                    200 => served.fetch_add(1, Ordering::Relaxed),
                    503 => {
                        assert!(answer.head.contains("retry-after: 1"), "{}", answer.head);
                        assert_eq!(answer.json["error"], "too many images wait");
                        refused.fetch_add(1, Ordering::Relaxed)
                    }
                    _ => panic!("{}", answer.json),
                };
            });
        }
        service.is_healthy();
    });
    let (served, refused) = (served.into_inner(), refused.into_inner());
    assert!(served > 0 && refused > 0 && served + refused == 16, "{served} and {refused}");

    // A request that is being received is answered after the signal; a connection without one is closed.
    let mut idle = service.connect();
    idle.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(idle.answer().status, 200);
    let mut client = service.connect();
    let length = large.len();
    client.send(
        format!(
            "POST /score HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        )
        .as_bytes(),
    );
    let mut go_on = [0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
    client.0.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    let address = service.address.clone();
    let stopped = thread::spawn(move || service.stop("-INT"));
    assert_eq!(idle.0.read_to_end(&mut Vec::new()).unwrap(), 0);
    client.send(&large);
    assert_eq!(client.answer().status, 200);
    let ran = stopped.join().unwrap();
    assert_eq!((ran.code, ran.stderr.as_str()), (0, "stopping\n"));
    assert!(TcpStream::connect(address).is_err());
    println!(
        "| overload of `service` | 16 requests | {served} scored, {refused} refused | 0 | 0 |"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn under_load_without_an_error_or_growth() {
    use std::sync::atomic::AtomicBool;

    const CLIENTS: u32 = 6;
    let seconds = effort("INVAD_LOAD_SECONDS", 6);
    let service = Service::start(&[]);
    let images: Vec<_> = (0..CLIENTS).map(|n| png(part(n))).collect();
    let expected: Vec<_> = images.iter().map(|i| service.post("/score", i).json).collect();
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut memory = Vec::new();
    thread::scope(|scope| {
        for first in 0..CLIENTS as usize {
            let (service, images, expected, stop, done) =
                (&service, &images, &expected, &stop, &done);
            scope.spawn(move || {
                let mut client = service.connect();
                for n in (first..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                    let n = n % images.len();
                    let answer = client.post("/score", &images[n]);
                    assert_eq!((answer.status, &answer.json), (200, &expected[n]));
                    done.fetch_add(1, Ordering::Relaxed);
                    if n == 0 {
                        client = service.connect();
                    }
                }
            });
        }
        for _ in 0..10 {
            thread::sleep(Duration::from_secs_f64(seconds as f64 / 10.0));
            memory.push(service.memory());
        }
        stop.store(true, Ordering::Relaxed);
    });
    let done = done.into_inner();
    // Memory for a number of images scored together that has not come before is taken once, at any
    // time; what is lost with each request shows in every tenth of the time.
    let mut growth: Vec<_> = memory[4..].windows(2).map(|m| m[1].saturating_sub(m[0])).collect();
    growth.sort_unstable();
    let growth = growth[growth.len() / 2];
    assert!(done > seconds, "{done} requests");
    assert!(growth < 1 << 10, "{growth} kB more in a tenth of the time: {memory:?}");
    assert_eq!(service.stop("-TERM").code, 0);
    println!(
        "| load of `service` from {CLIENTS} clients for {seconds} s | {done} requests | {done} \
         scored alike, {growth} kB of memory more in a tenth of the time | 0 | 0 |"
    );
}
