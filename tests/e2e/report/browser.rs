//! A browser without a window, driven over the DevTools protocol.
//!
//! The protocol is JSON with a zero byte behind each message, on two pipes that the browser has as
//! descriptors 3 and 4 (`--remote-debugging-pipe`).

use crate::world::OwnedChild;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// How long the browser may take for anything.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A browser with one page.
pub(crate) struct Browser {
    _child: OwnedChild,
    to: ChildStdin,
    from: Receiver<Value>,
    next: u64,
    session: Option<String>,
    /// What the page complained of: exceptions, errors on its console, violations of its policy.
    complaints: Vec<String>,
    _profile: TempDir,
}

impl Browser {
    /// A browser with an empty page of this size.
    pub(crate) fn start(width: u32, height: u32) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut child = Command::new("/bin/sh")
            .args(["-c", "exec chromium \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", "sh"])
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"])
            .args(["--force-color-profile=srgb", "--enable-precise-memory-info", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (to, out) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (send, from) = channel();
        std::thread::spawn(move || {
            for message in BufReader::new(out).split(0) {
                let Ok(message) = message else { break };
                if send.send(serde_json::from_slice(&message).unwrap()).is_err() {
                    break;
                }
            }
        });
        let (next, session, complaints) = (0, None, Vec::new());
        let mut browser =
            Self { _child: child.into(), to, from, next, session, complaints, _profile: profile };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attached = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", attached);
        browser.session = Some(session["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log", "Network", "Performance"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser.size(width, height);
        browser
    }

    pub(crate) fn size(&mut self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size);
    }

    /// Opens a page from its file, and waits until its script has drawn it.
    pub(crate) fn open(&mut self, page: &Path) {
        self.open_url(&format!("file://{}", page.display()));
    }

    /// The same from an address.
    pub(crate) fn open_url(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url }));
        self.wait_for("document.documentElement?.dataset.ready !== undefined");
    }

    /// Sends a command, and waits for its result.
    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
        let message = self.answer(method, params);
        assert!(message["error"].is_null(), "{method}: {message}");
        message["result"].clone()
    }

    /// Sends a command, and waits for its answer: a result or an error.
    fn answer(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let mut message = json!({ "id": self.next, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).unwrap();
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let message = self.from.recv_timeout(left);
            let message = message
                .unwrap_or_else(|error| panic!("{method}: {error} (chromium is needed: scripts/setup test)"));
            if message["id"] == json!(self.next) {
                return message;
            }
            self.note(&message);
        }
    }

    fn note(&mut self, event: &Value) {
        let params = &event["params"];
        match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => self.complaints.push(params["exceptionDetails"].to_string()),
            Some("Log.entryAdded") if params["entry"]["level"] == "error" => {
                self.complaints.push(params["entry"].to_string());
            }
            Some("Runtime.consoleAPICalled") => self.complaints.push(params.to_string()),
            // The page itself is the only thing that is ever loaded.
            Some("Network.requestWillBeSent") if params["type"] != "Document" => {
                self.complaints.push(format!("request: {}", params["request"]["url"]));
            }
            Some("Page.javascriptDialogOpening") => self.complaints.push(format!("dialog: {params}")),
            _ => {}
        }
    }

    /// What the page complained of so far.
    pub(crate) fn complaints(&mut self) -> &[String] {
        // Events that were sent before come before this answer.
        self.eval("1");
        &self.complaints
    }

    /// The value of an expression of JavaScript; a promise's once it is fulfilled.
    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let done = self.call("Runtime.evaluate", params);
        assert!(done["exceptionDetails"].is_null(), "{expression}: {done}");
        done["result"]["value"].clone()
    }

    /// Waits until an expression is true, on whatever page is loaded by then.
    pub(crate) fn wait_over_loads(&mut self, condition: &str) {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            // While a page is being replaced, there is nothing to evaluate it in.
            let params = json!({ "expression": condition, "returnByValue": true });
            if self.answer("Runtime.evaluate", params)["result"]["result"]["value"] == json!(true) {
                return;
            }
            assert!(Instant::now() < deadline, "never: {condition}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The text of the first element that a selector names.
    pub(crate) fn text(&mut self, selector: &str) -> String {
        let text = self.eval(&format!("document.querySelector({}).textContent", json!(selector)));
        text.as_str().unwrap().to_owned()
    }

    /// How many elements a selector names.
    pub(crate) fn count(&mut self, selector: &str) -> u64 {
        self.eval(&format!("document.querySelectorAll({}).length", json!(selector))).as_u64().unwrap()
    }

    pub(crate) fn wait_for(&mut self, condition: &str) {
        let deadline = Instant::now() + TIMEOUT;
        while self.eval(condition) != json!(true) {
            assert!(Instant::now() < deadline, "never: {condition}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until what was asked for before has been drawn.
    pub(crate) fn settle(&mut self) {
        self.eval("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))");
    }

    /// Presses a key, as a person does. `text` is what it types.
    pub(crate) fn key(&mut self, key: &str) {
        let named = |code: u32| (json!(code), Value::Null);
        let (code, text) = match key {
            "Enter" => (json!(13), json!("\r")),
            "Escape" => named(27),
            "Tab" => named(9),
            "ArrowLeft" => named(37),
            "ArrowUp" => named(38),
            "ArrowRight" => named(39),
            "ArrowDown" => named(40),
            "End" => named(35),
            "Home" => named(36),
            text => (json!(0), json!(text)),
        };
        let mut down = json!({ "type": "keyDown", "key": key, "windowsVirtualKeyCode": code });
        if !text.is_null() {
            down["text"] = text;
        }
        self.call("Input.dispatchKeyEvent", down);
        let up = json!({ "type": "keyUp", "key": key, "windowsVirtualKeyCode": code });
        self.call("Input.dispatchKeyEvent", up);
        self.settle();
    }

    pub(crate) fn type_text(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
        self.settle();
    }

    pub(crate) fn mouse(&mut self, kind: &str, (x, y): (f64, f64), more: Value) {
        let mut event = json!({ "type": kind, "x": x, "y": y });
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.call("Input.dispatchMouseEvent", event);
    }

    pub(crate) fn click(&mut self, at: (f64, f64)) {
        let button = json!({ "button": "left", "clickCount": 1 });
        self.mouse("mousePressed", at, button.clone());
        self.mouse("mouseReleased", at, button);
        self.settle();
    }

    /// The middle of an element, which is scrolled into view.
    pub(crate) fn middle(&mut self, selector: &str) -> (f64, f64) {
        let [left, top, width, height] = self.place(selector);
        (left + width / 2.0, top + height / 2.0)
    }

    /// Left, top, width and height of an element, which is scrolled into view.
    pub(crate) fn place(&mut self, selector: &str) -> [f64; 4] {
        let script = format!(
            "(() => {{ const e = document.querySelector({}); e.scrollIntoView({{ block: 'nearest' }}); \
             const b = e.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; }})()",
            json!(selector)
        );
        let place = self.eval(&script);
        [0, 1, 2, 3].map(|at| place[at].as_f64().unwrap())
    }

    pub(crate) fn color_scheme(&mut self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
        self.settle();
    }

    /// The page as a PNG, in base 64.
    pub(crate) fn screenshot(&mut self) -> String {
        let shot = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        shot["data"].as_str().unwrap().to_owned()
    }
}
