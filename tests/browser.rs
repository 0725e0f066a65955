//! The report in a real browser: it renders on desktop and phone, light and dark, loads nothing,
//! writes nothing to the console, fits its window, and has no accessibility violation that axe
//! finds.
//!
//! Needs Chromium or Chrome (`INVAD_BROWSER`, or one on the path), else the tests are ignored, and
//! fail with `INVAD_REQUIRE_BROWSER=1`. `INVAD_AXE` names axe-core's `axe.min.js` (`npm install
//! axe-core`), without which the accessibility tests are ignored. `INVAD_REPORT` names another page
//! to test. Screenshots are in the target folder, `tmp/browser`.

mod support;

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};

use base64::Engine;
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};

const BROWSERS: [&str; 5] =
    ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "microsoft-edge"];

fn main() -> ExitCode {
    let browser = browser();
    if browser.is_none() {
        let required = env::var_os("INVAD_REQUIRE_BROWSER").is_some_and(|v| v == "1");
        let why = "no Chromium is on the path; install one, or name it in INVAD_BROWSER";
        eprintln!("{}: {why}", if required { "error" } else { "ignored" });
        if required {
            return ExitCode::FAILURE;
        }
    }
    let axe = env::var_os("INVAD_AXE").map(PathBuf::from);
    if browser.is_some() && axe.is_none() {
        eprintln!("accessibility ignored: INVAD_AXE names no axe.min.js");
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser");
    fs::create_dir_all(&folder).expect("a folder for screenshots");
    let page = env::var_os("INVAD_REPORT").map(PathBuf::from).unwrap_or_else(|| {
        let page = folder.join("report.html");
        support::report::report().write(&page).expect("a report");
        page
    });
    let page = page.canonicalize().expect("INVAD_REPORT should name a page");

    let mut trials = Vec::new();
    for (device, width, height) in [("desktop", 1280, 900), ("phone", 390, 844)] {
        for scheme in ["light", "dark"] {
            let view = View {
                browser: browser.clone().unwrap_or_default(),
                page: page.clone(),
                width,
                height,
                phone: device == "phone",
                scheme,
            };
            let name = format!("{device} {scheme}");
            let shot = folder.join(format!("{device}-{scheme}.png"));
            let shown = view.clone();
            trials.push(
                Trial::test(format!("{name}: renders"), move || renders(&shown, &shot))
                    .with_ignored_flag(browser.is_none()),
            );
            let ignored = browser.is_none() || axe.is_none();
            let axe = axe.clone().unwrap_or_default();
            trials.push(
                Trial::test(format!("{name}: accessible"), move || accessible(&view, &axe))
                    .with_ignored_flag(ignored),
            );
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A browser that answers.
fn browser() -> Option<PathBuf> {
    let named = env::var_os("INVAD_BROWSER").map(PathBuf::from);
    let answers = |browser: &PathBuf| {
        let mut command = Command::new(browser);
        let status = command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    match named {
        Some(browser) => Some(browser),
        // Its pipe for commands is opened by a Unix shell.
        None if cfg!(unix) => BROWSERS.into_iter().map(PathBuf::from).find(answers),
        None => None,
    }
}

/// How the page is looked at.
#[derive(Clone)]
struct View {
    browser: PathBuf,
    page: PathBuf,
    width: u32,
    height: u32,
    phone: bool,
    scheme: &'static str,
}

fn renders(view: &View, shot: &Path) -> Result<(), Failed> {
    let mut tab = Tab::open(view)?;
    let width = tab.evaluate("document.documentElement.scrollWidth")?;
    let wide = "[...document.querySelectorAll('body *')].filter(e => !e.closest('.wide, .hidden, .skip, svg') && \
                e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80)).slice(0, 5)";
    if width.as_u64() > Some(view.width.into()) {
        return Err(format!("{width} pixels wide: {}", tab.evaluate(wide)?).into());
    }
    // Every embedded picture can be decoded.
    let decoded = tab.evaluate(
        "Promise.all([...document.querySelectorAll('svg image')].map(async e => { const i = new Image(); \
         i.src = e.getAttribute('href'); await i.decode(); return i.naturalWidth > 0; })).then(all => \
         all.every(Boolean) ? all.length : -1)",
    )?;
    let entries = tab.evaluate("document.querySelectorAll('article').length")?;
    if entries.as_u64() == Some(0) || decoded.as_i64() < Some(2) {
        return Err(format!("{entries} entries, {decoded} pictures").into());
    }
    let visible = "[...document.querySelectorAll('article')].filter(e => e.offsetParent)";
    let filtered = tab.evaluate(&format!(
        "document.getElementById('show-wrong').click(); var wrong = {visible}; \
         document.getElementById('show-all').click(); \
         [wrong.every(e => e.classList.contains('wrong')), wrong.length, {visible}.length]"
    ))?;
    if filtered[0] != true || filtered[2] != entries {
        return Err(format!("the filter shows {filtered} of {entries}").into());
    }
    fs::write(shot, tab.screenshot(false)?)?;
    let dark = image::open(shot)?.into_luma8();
    let mean = dark.iter().map(|&v| f64::from(v)).sum::<f64>() / dark.len() as f64;
    if (mean < 100.0) != (view.scheme == "dark") {
        return Err(format!("mean brightness {mean:.0} of a {} page", view.scheme).into());
    }
    fs::write(shot.with_extension("whole.png"), tab.screenshot(true)?)?;
    tab.close(&view.page)
}

fn accessible(view: &View, axe: &Path) -> Result<(), Failed> {
    let mut tab = Tab::open(view)?;
    tab.evaluate(&format!("{}; 0", fs::read_to_string(axe)?))?;
    let violations = tab.evaluate(
        "axe.run(document, { resultTypes: ['violations'] }).then(r => r.violations.map(v => v.id + ': ' + v.help + ': ' + \
         v.nodes.slice(0, 3).map(n => n.html.slice(0, 120) + ' ' + n.failureSummary).join(' | ')))",
    )?;
    match violations.as_array().map(Vec::len) {
        Some(0) => tab.close(&view.page),
        _ => Err(format!("{violations:#}").into()),
    }
}

/// A page in a browser, spoken to by the DevTools protocol over a pipe: messages of JSON that end
/// in 0.
struct Tab {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    session: Option<String>,
    sent: u64,
    /// Everything that came and was no answer.
    events: Vec<Value>,
    _profile: tempfile::TempDir,
}

impl Tab {
    fn open(view: &View) -> Result<Self, Failed> {
        let profile = tempfile::tempdir()?;
        // The browser reads commands from 3 and answers on 4.
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 1>&2"])
            .arg(&view.browser)
            .args(["--headless", "--remote-debugging-pipe", "--no-first-run", "--hide-scrollbars"])
            .args(["--disable-gpu", "--no-sandbox", "--disable-dev-shm-usage"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let to = child.stdin.take().expect("piped");
        let from = BufReader::new(child.stdout.take().expect("piped"));
        let mut tab =
            Self { child, to, from, session: None, sent: 0, events: Vec::new(), _profile: profile };
        let target = tab.call("Target.createTarget", json!({ "url": "about:blank" }))?;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = tab.call("Target.attachToTarget", attach)?;
        tab.session = attached["sessionId"].as_str().map(String::from);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            tab.call(&format!("{domain}.enable"), json!({}))?;
        }
        let metrics = json!({ "width": view.width, "height": view.height,
            "deviceScaleFactor": if view.phone { 2 } else { 1 }, "mobile": view.phone });
        tab.call("Emulation.setDeviceMetricsOverride", metrics)?;
        let media =
            json!({ "features": [{ "name": "prefers-color-scheme", "value": view.scheme }] });
        tab.call("Emulation.setEmulatedMedia", media)?;
        tab.call("Page.navigate", json!({ "url": format!("file://{}", view.page.display()) }))?;
        tab.wait_for("Page.loadEventFired")?;
        Ok(tab)
    }

    /// Nothing but the page was asked for, and nothing was written to the console.
    fn close(mut self, page: &Path) -> Result<(), Failed> {
        let own = format!("file://{}", page.display());
        for event in &self.events {
            let params = &event["params"];
            match event["method"].as_str().unwrap_or_default() {
                "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded" => {
                    return Err(format!("on the console: {params}").into());
                }
                "Network.requestWillBeSent" => {
                    let url = params["request"]["url"].as_str().unwrap_or_default();
                    if url != own && !url.starts_with("data:") {
                        return Err(format!("asked for {url}").into());
                    }
                }
                _ => {}
            }
        }
        self.call("Browser.close", json!({})).ok();
        Ok(())
    }

    fn call(&mut self, method: &str, params: Value) -> Result<Value, Failed> {
        self.sent += 1;
        let mut message = json!({ "id": self.sent, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.to.write_all(message.to_string().as_bytes())?;
        self.to.write_all(&[0])?;
        self.to.flush()?;
        loop {
            let answer = self.read()?;
            if answer["id"] == json!(self.sent) {
                return match answer.get("error") {
                    Some(error) => Err(format!("{method}: {error}").into()),
                    None => Ok(answer["result"].clone()),
                };
            }
            self.events.push(answer);
        }
    }

    fn wait_for(&mut self, method: &str) -> Result<(), Failed> {
        while !self.events.iter().any(|event| event["method"] == method) {
            let event = self.read()?;
            self.events.push(event);
        }
        Ok(())
    }

    fn read(&mut self) -> Result<Value, Failed> {
        let mut message = Vec::new();
        self.from.read_until(0, &mut message)?;
        if message.pop() != Some(0) {
            return Err("the browser has ended".into());
        }
        Ok(serde_json::from_slice(&message)?)
    }

    fn evaluate(&mut self, expression: &str) -> Result<Value, Failed> {
        let params =
            json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let result = self.call("Runtime.evaluate", params)?;
        match result.get("exceptionDetails") {
            Some(details) => Err(format!("{expression:.100}: {details}").into()),
            None => Ok(result["result"]["value"].clone()),
        }
    }

    /// As PNG; of the window or of the whole page.
    fn screenshot(&mut self, whole: bool) -> Result<Vec<u8>, Failed> {
        let params = json!({ "captureBeyondViewport": whole });
        let shot = self.call("Page.captureScreenshot", params)?;
        let data = shot["data"].as_str().unwrap_or_default();
        Ok(base64::engine::general_purpose::STANDARD.decode(data)?)
    }
}

impl Drop for Tab {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
