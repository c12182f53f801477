//! The page in a browser: what people see, press and click.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::browser::Browser;
use super::{attach, data, detach, open, record, report, stderr};

/// A page about the tests' guests with vhost-net on one host, in a directory of its own.
fn page() -> (TempDir, PathBuf) {
    let folder = data().join("libvirt/libvirt-9.0-vhost-plug");
    let mut logs: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path().join("audit.log")).collect();
    logs.sort();
    written(&logs, &["--utc", "--assume-host", "kvm1"])
}

fn written(logs: &[PathBuf], more: &[&str]) -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let target = directory.path().join("report.html");
    let done = report(&target, logs, more);
    assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
    (directory, target)
}

fn of_log(text: &str, more: &[&str]) -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let log = directory.path().join("audit.log");
    fs::write(&log, text).unwrap();
    written(&[log], more)
}

/// Moves the mouse over the picture, row by row, until something is under it; returns its place.
fn find_bar(browser: &mut Browser) -> (f64, f64) {
    let [left, top, width, height] = browser.place("#canvas");
    let mut y = top + 60.0;
    while y < top + height {
        let mut x = left + width * 0.25;
        while x < left + width {
            browser.mouse("mouseMoved", (x, y), json!({}));
            if browser.eval("!document.getElementById('tip').hidden") == json!(true)
                && browser.text("#tip").contains("52:54:00")
            {
                return (x, y);
            }
            x += 8.0;
        }
        y += 9.0;
    }
    panic!("no bar is in the picture");
}

/// A screenshot for people, where TAPTRAIL_SCREENSHOTS names a directory.
fn keep(browser: &mut Browser, name: &str) {
    let shot = browser.screenshot();
    assert!(shot.len() > 10_000);
    if let Some(directory) = std::env::var_os("TAPTRAIL_SCREENSHOTS") {
        fs::write(Path::new(&directory).join(format!("{name}.png.base64")), shot).unwrap();
    }
}

#[test]
fn a_page_is_searched_zoomed_and_read_without_a_complaint() {
    let (_directory, page) = page();
    let mut browser = Browser::start(1440, 1000);
    browser.open(&page);
    assert_eq!(
        browser.text("#counts"),
        "52 sessions41 held by QEMU2 of these still held9 never granted2 not known69 findings17 of these grave"
    );
    assert_eq!(browser.text("#shown"), "52 sessions, 69 findings");
    keep(&mut browser, "light");

    // The mouse: the tip, a click, the wheel, a drag.
    let all = browser.text("#window");
    let bar = find_bar(&mut browser);
    browser.click(bar);
    assert_eq!(browser.eval("document.activeElement.id"), "story");
    let story = browser.text("#story");
    for part in ["QEMU (pid", "Opened at 2026-11-25", "audit.log:", "(serial ", "type=VIRT_RESOURCE"] {
        assert!(story.contains(part), "{part}: {story}");
    }
    keep(&mut browser, "story");
    browser.key("Escape");
    assert_eq!(browser.eval("document.getElementById('story').hidden"), true);
    let bar = find_bar(&mut browser);
    browser.mouse("mouseWheel", bar, json!({ "deltaX": 0, "deltaY": -400 }));
    browser.settle();
    let zoomed = browser.text("#window");
    assert_ne!(zoomed, all);
    browser.mouse("mousePressed", bar, json!({ "button": "left", "clickCount": 1 }));
    browser.mouse("mouseMoved", (bar.0 + 120.0, bar.1), json!({ "button": "left", "buttons": 1 }));
    browser.mouse("mouseReleased", (bar.0 + 120.0, bar.1), json!({ "button": "left", "clickCount": 1 }));
    browser.settle();
    let dragged = browser.text("#window");
    assert_ne!(dragged, zoomed);
    for (button, changes) in
        [("#zoom-in", true), ("#zoom-out", true), ("#zoom-fit", true), ("#zoom-fit", false)]
    {
        let before = browser.text("#window");
        let at = browser.middle(button);
        browser.click(at);
        assert_eq!(browser.text("#window") != before, changes, "{button}");
    }
    assert_eq!(browser.text("#window"), all);

    // The filter.
    let search = browser.middle("#f-text");
    browser.click(search);
    browser.type_text("03-hotplug released");
    browser.wait_for("document.getElementById('shown').textContent.startsWith('3 sessions')");
    assert_eq!(browser.count("#rows tr"), 3);
    browser.eval("document.getElementById('f-reset').click()");
    browser.wait_for("document.getElementById('shown').textContent === '52 sessions, 69 findings'");
    let choose = |browser: &mut Browser, id: &str, value: &str| {
        browser.eval(&format!(
            "(() => {{ const e = document.getElementById('{id}'); e.value = '{value}'; \
             e.dispatchEvent(new Event('change', {{ bubbles: true }})); return e.value; }})()"
        ))
    };
    let mac = browser.eval("document.querySelector('#f-mac option:nth-child(3)').value");
    choose(&mut browser, "f-mac", mac.as_str().unwrap());
    assert_eq!(browser.count("#rows tr"), 1);
    browser.eval("document.getElementById('f-reset').click()");
    browser.wait_for("document.getElementById('shown').textContent === '52 sessions, 69 findings'");
    assert_eq!(choose(&mut browser, "f-kind", "grave"), "grave");
    let shown = browser.text("#shown");
    assert!(shown.contains("17 findings of 52 and 69 match"), "{shown}");
    browser.eval("document.getElementById('f-text').value = 'nothing has this name'");
    choose(&mut browser, "f-device", "tun");
    assert_eq!(browser.eval("document.getElementById('empty').hidden"), false);

    // The evidence.
    let evidence = browser.text("#evidence");
    for part in ["taptrail 0.", "report -o", "SHA-256", "16 inputs", "What is covered", "kvm1"] {
        assert!(evidence.contains(part), "{part}: {evidence}");
    }
    assert_eq!(browser.complaints(), &[] as &[String]);
}

#[test]
fn a_page_is_used_by_the_keyboard_alone() {
    let (_directory, page) = page();
    let mut browser = Browser::start(1280, 900);
    browser.open(&page);
    let focused = "document.activeElement.id || document.activeElement.closest('[id]')?.id || ''";
    let mut visited = Vec::new();
    for _ in 0..40 {
        browser.key("Tab");
        let at = browser.eval(focused).as_str().unwrap().to_owned();
        if visited.last() != Some(&at) {
            visited.push(at);
        }
    }
    for part in
        ["f-text", "f-host", "f-reset", "zoom-in", "scroller", "tab-sessions", "rows", "evidence-body"]
    {
        // Clear has nothing to do, and is left out.
        assert_eq!(visited.iter().any(|at| at == part), part != "f-reset", "{part}: {visited:?}");
    }

    // The timeline.
    browser.eval("document.getElementById('scroller').focus()");
    let all = browser.text("#window");
    browser.key("+");
    let near = browser.text("#window");
    browser.key("ArrowRight");
    let right = browser.text("#window");
    browser.key("ArrowLeft");
    assert_eq!(browser.text("#window"), near);
    browser.key("-");
    browser.key("0");
    assert_eq!(browser.text("#window"), all);
    assert!(all != near && near != right);
    browser.key("n");
    browser.key("n");
    let said = browser.text("#said");
    assert!(said.contains("52:54:00:77") || said.contains("finding"), "{said}");
    browser.key("z");
    assert_ne!(browser.text("#window"), all);
    browser.key("Enter");
    assert_eq!(browser.eval("document.activeElement.id"), "story");
    browser.key("Escape");
    assert_eq!(browser.eval("document.activeElement.id"), "scroller");
    let top = browser.eval("document.getElementById('scroller').scrollTop");
    browser.key("End");
    assert_ne!(browser.eval("document.getElementById('scroller').scrollTop"), top);

    // The table: rows that are not in the document yet are reached, too.
    browser.eval("document.querySelector('#rows tr').focus()");
    browser.key("End");
    assert_eq!(browser.eval("document.activeElement.getAttribute('aria-rowindex')"), "53");
    browser.key("ArrowUp");
    browser.key("Enter");
    assert_eq!(browser.eval("document.activeElement.id"), "story");
    assert_eq!(
        browser.eval("document.querySelector('#rows [aria-selected=true]').getAttribute('aria-rowindex')"),
        "52"
    );
    browser.key("Escape");
    browser.key("Home");
    assert_eq!(browser.eval("document.activeElement.getAttribute('aria-rowindex')"), "2");
    browser.eval("document.getElementById('tab-sessions').focus()");
    browser.key("ArrowRight");
    assert_eq!(browser.eval("document.activeElement.id"), "tab-findings");
    assert_eq!(browser.eval("document.getElementById('grid').getAttribute('aria-rowcount')"), "70");
    assert_eq!(browser.complaints(), &[] as &[String]);
}

#[test]
fn hostile_names_are_text() {
    let names = [
        "</script><script>window.pwned=1</script>",
        "<img src=x onerror=window.pwned=2>",
        "\"'><svg onload=window.pwned=3>",
        "evil\u{202e}txt.exe",
        "\u{1b}[31mred\u{7}",
        "a\u{2028}b\u{2029}c",
        "{{data}}${window.pwned=4}",
        "<!--<script>",
        "\u{5d0}\u{5d1}\u{5d2} 1",
        "__proto__",
    ];
    let mut text = String::new();
    let mut serial = 1;
    for (guest, name) in (1..).zip(names) {
        let mac = format!("52:54:00:00:00:{guest:02x}");
        let second = 1_795_460_000 + 10 * guest;
        for (at, what) in [open(&mac), attach(&mac), detach(&mac)].iter().enumerate() {
            text.push_str(&record(second + at as u64, serial, name, guest, what));
            serial += 1;
        }
    }
    let host = "<b>h</b>\u{202e}";
    let (_directory, page) = of_log(&text, &["--utc", "--assume-host", host]);
    let mut browser = Browser::start(1280, 900);
    browser.open(&page);
    let scripts = browser.count("script");
    assert_eq!(scripts, 3);
    let table = browser.text("#rows");
    for shown in [
        "</script><script>window.pwned=1</script>",
        "evil\\u{202e}txt.exe",
        "\\u{1b}[31mred\\u{7}",
        "a\\u{2028}b\\u{2029}c",
        "{{data}}${window.pwned=4}",
        "__proto__",
    ] {
        assert!(table.contains(shown), "{shown}: {table}");
    }
    for nth in 0..names.len() {
        browser.eval(&format!("document.querySelectorAll('#rows tr')[{nth}].click()"));
        assert!(browser.text("#story").contains("type=VIRT_RESOURCE"));
        let tip = find_bar(&mut browser);
        browser.click(tip);
    }
    for name in ["script", "img", "<b>"] {
        browser.eval("document.getElementById('f-text').focus()");
        browser.type_text(name);
    }
    browser.eval("window.dispatchEvent(new Event('beforeprint'))");
    assert_eq!(browser.eval("window.pwned === undefined && Object.prototype.pwned === undefined"), true);
    assert_eq!((browser.count("script"), browser.count("img, b, svg")), (scripts, 0));
    let invisible = browser
        .eval("/[\\u0000-\\u0008\\u001b\\u200b-\\u200f\\u2028-\\u202e]/.test(document.body.innerText)");
    assert_eq!(invisible, false);
    assert_eq!(browser.complaints(), &[] as &[String]);
}

#[test]
fn dark_light_and_paper_differ() {
    let (_directory, page) = page();
    let mut browser = Browser::start(1440, 900);
    browser.color_scheme("light");
    browser.open(&page);
    let middle = "(() => { const c = document.getElementById('canvas'); \
                  return [...c.getContext('2d').getImageData(c.width - 4, 4, 1, 1).data]; })()";
    assert_eq!(browser.eval(middle), json!([255, 255, 255, 255]));
    let light = browser.screenshot();
    browser.color_scheme("dark");
    assert_eq!(browser.eval(middle), json!([18, 23, 31, 255]));
    let dark = browser.screenshot();
    assert_ne!(light, dark);
    keep(&mut browser, "dark");
    // Paper is white, and has every row, whatever the screen is.
    browser.eval("window.dispatchEvent(new Event('beforeprint'))");
    browser.call("Emulation.setEmulatedMedia", json!({ "media": "print" }));
    assert_eq!(browser.eval(middle), json!([255, 255, 255, 255]));
    assert_eq!(browser.count("#print-rows tbody tr"), 52 + 69);
    let seen = "['#print-rows', '#canvas', '#evidence'].every((s) => document.querySelector(s).getClientRects().length) \
                && ['#filters', '#grid-box', '.buttons'].every((s) => !document.querySelector(s).getClientRects().length)";
    assert_eq!(browser.eval(seen), true);
    keep(&mut browser, "paper");
    browser.eval("window.dispatchEvent(new Event('afterprint'))");
    assert_eq!(browser.count("#print-rows tbody tr"), 0);
    let paper = browser.call("Page.printToPDF", json!({ "preferCSSPageSize": true }));
    assert!(paper["data"].as_str().unwrap().starts_with("JVBERi0"));
    assert_eq!(browser.complaints(), &[] as &[String]);
}

#[test]
fn nothing_keeps_people_from_using_a_page() {
    let (_directory, page) = page();
    let axe = fs::read_to_string(data().join("vendor/axe.min.js")).unwrap();
    for (scheme, width) in [("light", 1440), ("dark", 1440), ("light", 420)] {
        let mut browser = Browser::start(width, 900);
        browser.color_scheme(scheme);
        browser.open(&page);
        browser.eval(&format!("{axe}; 1"));
        for opened in [false, true] {
            if opened {
                browser.eval("document.querySelector('#rows tr').click()");
            }
            let found = browser.eval(
                "axe.run(document, { resultTypes: ['violations'] }).then((all) => all.violations.map((one) => \
                 ({ id: one.id, impact: one.impact, nodes: one.nodes.map((node) => node.html).slice(0, 5) })))",
            );
            let bad = |one: &&Value| one["impact"] == "serious" || one["impact"] == "critical";
            let serious: Vec<_> = found.as_array().unwrap().iter().filter(bad).collect();
            assert!(serious.is_empty(), "{scheme} {width}: {serious:#?}");
        }
    }
}

#[test]
fn fifty_thousand_sessions_are_drawn_and_searched() {
    const GUESTS: u64 = 500;
    const ROUNDS: u64 = 100;
    let mut events = Vec::new();
    for round in 0..ROUNDS {
        for guest in 0..GUESTS {
            let mac = format!("52:54:00:01:{:02x}:{:02x}", guest / 256, guest % 256);
            let second = 1_795_000_000 + round * 5000 + guest * 4;
            for (at, what) in [open(&mac), attach(&mac), detach(&mac)].iter().enumerate() {
                events.push((second + at as u64 * (300 + guest), guest, what.clone()));
            }
        }
    }
    // In the order of time, as a log is.
    events.sort();
    let numbered = (1..).zip(&events);
    let text: String = numbered
        .map(|(serial, (time, guest, what))| record(*time, serial, &format!("web{guest}"), *guest, what))
        .collect();
    let begun = Instant::now();
    let (_directory, page) = of_log(&text, &["--utc", "--extract"]);
    let (size, took) = (fs::metadata(&page).unwrap().len(), begun.elapsed());
    let mut browser = Browser::start(1440, 900);
    let begun = Instant::now();
    browser.open(&page);
    let ready = begun.elapsed();
    assert_eq!(browser.text("#shown"), "50,000 sessions, 0 findings");
    let paint = browser.eval("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? -1");
    // A hundred steps to the right at a zoom that shows much, each frame's time.
    let frames = browser.eval(
        "(async () => { const s = document.getElementById('scroller'); s.focus(); const press = (key) => \
         s.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true })); \
         press('+'); const times = []; let last = performance.now(); \
         for (let n = 0; n < 100; n += 1) { press(n % 40 < 20 ? 'ArrowRight' : 'ArrowLeft'); \
         await new Promise((done) => requestAnimationFrame(done)); \
         const now = performance.now(); times.push(now - last); last = now; } \
         times.sort((a, b) => a - b); return [times[50], times[95], times[99]]; })()",
    );
    let filter = browser.eval(
        "(async () => { const e = document.getElementById('f-text'); e.value = 'web499'; const at = performance.now(); \
         e.dispatchEvent(new Event('input')); while (!document.getElementById('shown').textContent.startsWith('100 ')) \
         await new Promise((done) => setTimeout(done, 1)); return performance.now() - at; })()",
    );
    assert_eq!(browser.text("#shown"), "100 sessions, 0 findings of 50,000 and 0 match");
    browser.call("HeapProfiler.collectGarbage", json!({}));
    let heap = browser.eval("performance.memory.usedJSHeapSize");
    eprintln!(
        "50,000 sessions: written in {took:.1?}, {size} bytes; ready after {ready:.1?}, first paint after {paint} ms; \
         a frame of panning (median, 95th of 100, longest): {frames} ms; filter {filter} ms; heap {heap} bytes"
    );
    assert_eq!(browser.complaints(), &[] as &[String]);
}
