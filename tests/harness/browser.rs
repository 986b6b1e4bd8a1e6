//! A real browser: Debian's chromium without a window, driven by its chromedriver.
//!
//! Every call is bounded, and both programs end with the test. This file does not know the pages.

use std::{
    env, fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use thirtyfour::prelude::*;
use tokio::{runtime::Runtime, time::timeout};

use super::{DEADLINE, POLL, Process, leave_out};

/// This variable is set if tests with a browser must not be left out.
const REQUIRED: &str = "LOCKSTEP_BROWSER_REQUIRED";

/// This variable is set if checks by axe-core must not be left out.
const AXE_REQUIRED: &str = "LOCKSTEP_AXE_REQUIRED";

/// How long one command to the browser may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// The script that every page runs first: it keeps the browser's complaints, and all its requests,
/// of which a browser would keep 250.
const OBSERVER: &str = "window.complaints = [];
    performance.setResourceTimingBufferSize(1e6);
    addEventListener('securitypolicyviolation', e =>
        complaints.push('CSP: ' + e.violatedDirective + ' ' + e.blockedURI));
    addEventListener('error', e => complaints.push('error: ' + (e.message || e.target.src)), true);
    addEventListener('unhandledrejection', e => complaints.push('rejection: ' + e.reason));";

/// A browser with one page.
#[derive(Debug)]
pub(crate) struct Browser {
    driver: Option<WebDriver>,
    runtime: Runtime,
    // Dropped before the folder below it.
    _chromedriver: Process,
    _profile: TempDir,
}

impl Browser {
    /// Starts a browser; none if the machine has none, with a note of the reason.
    pub(crate) fn new() -> Option<Self> {
        let missing = ["chromium", "chromedriver"]
            .into_iter()
            .find(|program| Command::new(program).arg("--version").output().is_err());
        if let Some(missing) = missing {
            let reason =
                format!("there is no {missing}; on Debian, install chromium and chromium-driver");
            leave_out(REQUIRED, "pages in a browser", &reason);
            return None;
        }
        let profile = tempfile::Builder::new().prefix("lockstep-browser-").tempdir().unwrap();
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").env("HOME", profile.path()).env("TMPDIR", profile.path());
        let chromedriver = Process::start("chromedriver", &mut command);
        let line = chromedriver.wait_for_line("started successfully on port ");
        let port = line.rsplit(' ').next().unwrap().trim_end_matches('.').to_owned();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        // The client needs a crypto provider, although nothing here uses TLS.
        let _there_already =
            tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        let capabilities = capabilities(profile.path()).unwrap();
        let connecting = WebDriver::new(format!("http://127.0.0.1:{port}"), capabilities);
        let driver = runtime.block_on(async { timeout(DEADLINE, connecting).await });
        let driver = driver.expect("the browser starts within the deadline").unwrap();
        let browser =
            Self { driver: Some(driver), runtime, _chromedriver: chromedriver, _profile: profile };
        browser.cdp("Page.addScriptToEvaluateOnNewDocument", json!({ "source": OBSERVER }));
        Some(browser)
    }

    fn driver(&self) -> &WebDriver {
        self.driver.as_ref().expect("taken only when it is dropped")
    }

    /// Runs a command within [`COMMAND_TIMEOUT`].
    fn wait<T>(&self, command: impl Future<Output = WebDriverResult<T>>) -> WebDriverResult<T> {
        let done = self.runtime.block_on(async { timeout(COMMAND_TIMEOUT, command).await });
        done.expect("the browser answers a command in time")
    }

    /// Opens a page, and waits until it has loaded.
    pub(crate) fn open(&self, url: &str) {
        self.wait(self.driver().goto(url)).unwrap();
    }

    /// The return value of the body of a JavaScript function.
    pub(crate) fn eval(&self, script: &str) -> Value {
        let evaluated = self.wait(self.driver().execute(script, Vec::new()));
        evaluated.unwrap_or_else(|error| panic!("{script}: {error}")).json().clone()
    }

    /// Waits until a JavaScript expression is neither null nor false, and returns its value.
    pub(crate) fn wait_for(&self, expression: &str) -> Value {
        let begun = Instant::now();
        let script = format!("return {expression}");
        loop {
            let value = self.eval(&script);
            if !matches!(value, Value::Null | Value::Bool(false)) {
                return value;
            }
            let shown = || self.eval("return document.body.innerText");
            assert!(
                begun.elapsed() < DEADLINE,
                "never true: {expression}; the page is: {}",
                shown()
            );
            std::thread::sleep(POLL);
        }
    }

    /// The visible text of the first element of a CSS selector.
    pub(crate) fn text(&self, selector: &str) -> String {
        let found = self.eval(&format!(
            "return document.querySelector({})?.innerText ?? ''",
            Value::from(selector)
        ));
        found.as_str().unwrap_or_default().to_owned()
    }

    /// Clicks the first element of a CSS selector with the mouse.
    pub(crate) fn click(&self, selector: &str) {
        let clicked = async { self.driver().find(By::Css(selector)).await?.click().await };
        self.wait(clicked).unwrap_or_else(|error| panic!("{selector}: {error}"));
    }

    /// Presses keys in the element that has the focus; see [`Key`].
    pub(crate) fn press(&self, keys: impl Into<TypingData>) {
        let keys = keys.into();
        let pressed = async { self.driver().action_chain().send_keys(keys).perform().await };
        self.wait(pressed).unwrap();
    }

    /// Draws from point to point with the button of the mouse down, in pixels from the centre of the
    /// first element of a CSS selector.
    pub(crate) fn draw(&self, selector: &str, points: &[(i64, i64)]) {
        let drawn = async {
            let element = self.driver().find(By::Css(selector)).await?;
            element.scroll_into_view().await?;
            let mut chain = self.driver().action_chain();
            for (index, (x, y)) in points.iter().enumerate() {
                chain = chain.move_to_element_with_offset(&element, *x, *y);
                if index == 0 {
                    chain = chain.click_and_hold();
                }
            }
            chain.release().perform().await
        };
        self.wait(drawn).unwrap_or_else(|error| panic!("{selector}: {error}"));
    }

    /// A command of the Chrome DevTools Protocol.
    pub(crate) fn cdp(&self, method: &str, parameters: Value) -> Value {
        let sent = self.wait(self.driver().cdp().send_raw(method, parameters));
        sent.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// Prefers light or dark pages from now on.
    pub(crate) fn prefer(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.cdp("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Sets the size of the window in pixels; a small width emulates a phone.
    pub(crate) fn resize(&self, width: u32, height: u32) {
        let is_phone = width < 600;
        let metrics = json!({
            "width": width, "height": height, "mobile": is_phone,
            "deviceScaleFactor": if is_phone { 2 } else { 1 },
        });
        self.cdp("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// The browser's complaints since the page was opened: violations of its policy, errors.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let kept = self.eval("return window.complaints");
        let kept = kept.as_array().expect("kept since the page was opened");
        let text = |complaint: &Value| complaint.as_str().unwrap_or_default().to_owned();
        kept.iter().map(text).collect()
    }

    /// Asserts with axe-core that the page has no serious accessibility faults. Left out with a note if
    /// there is no axe-core.
    pub(crate) fn assert_accessible(&self, name: &str) {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../.axe/node_modules/axe-core/axe.min.js");
        let Ok(axe) = fs::read_to_string(path) else {
            let reason = "there is no .axe; `cargo xtask test` fetches it where npm is installed";
            return leave_out(AXE_REQUIRED, "accessibility of pages, by axe-core", reason);
        };
        // Evaluated through the DevTools, because the page's policy would not load the script.
        self.cdp("Runtime.evaluate", json!({ "expression": axe }));
        let found = self.eval(
            "return axe.run(document, { resultTypes: ['violations'] }).then(found => found.violations
                 .filter(one => ['serious', 'critical'].includes(one.impact))
                 .map(one => `${one.id}: ${one.nodes.map(node => `${node.html} ${node.failureSummary}`)}`))",
        );
        assert_eq!(found, json!([]), "{name}");
        // A planted fault must be found.
        let planted = self.eval(
            "const fault = document.body.appendChild(document.createElement('button'));
             return axe.run(fault, { runOnly: ['button-name'] })
                 .then(found => { fault.remove(); return found.violations.length; })",
        );
        assert_eq!(planted, 1, "axe-core finds nothing against a button without a name");
    }

    /// The addresses of all requests over the network since the last call.
    pub(crate) fn requests(&self) -> Vec<String> {
        let entries = self.wait(self.driver().get_log("performance")).unwrap();
        let address = |message: &str| {
            let message: Value = serde_json::from_str(message).ok()?;
            let message = &message["message"];
            let is_request = message["method"] == "Network.requestWillBeSent";
            let url = message["params"]["request"]["url"].as_str()?.to_owned();
            // The browser's internal pages need no network.
            let is_sent = ["http", "ws", "ftp"].iter().any(|scheme| url.starts_with(scheme));
            (is_request && is_sent).then_some(url)
        };
        entries.iter().filter_map(|entry| address(&entry.message)).collect()
    }

    /// Writes a picture of the page into the folder LOCKSTEP_SCREENSHOTS, if this is set.
    pub(crate) fn picture(&self, name: &str) {
        let Some(folder) = env::var_os("LOCKSTEP_SCREENSHOTS") else { return };
        let folder = Path::new(&folder);
        fs::create_dir_all(folder).unwrap();
        let png = self.wait(self.driver().screenshot_as_png()).unwrap();
        fs::write(folder.join(format!("{name}.png")), png).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(driver) = self.driver.take() {
            let quit = async { timeout(COMMAND_TIMEOUT, driver.quit()).await };
            let _ended_with_its_driver = self.runtime.block_on(quit);
        }
    }
}

fn capabilities(profile: &Path) -> WebDriverResult<Capabilities> {
    let mut capabilities = DesiredCapabilities::chrome();
    capabilities.set_binary("/usr/bin/chromium")?;
    let folder = format!("--user-data-dir={}", profile.join("profile").display());
    // As root, chromium cannot use its sandbox; in a container, /dev/shm is small.
    for argument in ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", &folder] {
        capabilities.add_arg(argument)?;
    }
    // A browser does not know the run's own certificate authority.
    capabilities.set("acceptInsecureCerts", true)?;
    capabilities.set("goog:loggingPrefs", json!({ "performance": "ALL" }))?;
    Ok(capabilities.into())
}
