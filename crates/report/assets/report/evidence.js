// From what, how and when the report was made.

const E = DATA.evidence;

function countsList() {
  const c = DATA.counts;
  const chips = [
    [c.sessions, c.sessions === 1 ? "session" : "sessions", ""],
    [c.held, "held by QEMU", "held"],
    [c.still_held, "of these still held", "held"],
    [c.never, "never granted", ""],
    [c.unknown, "not known", c.unknown ? "unsure" : ""],
    [c.findings, c.findings === 1 ? "finding" : "findings", c.findings ? "some" : ""],
    [c.grave, "of these grave", c.grave ? "grave" : ""],
  ];
  document.getElementById("counts").append(
    ...chips.map(([count, text, className]) =>
      element("li", {
        className,
        children: [
          element("strong", { text: count.toLocaleString("en") }),
          element("span", { text: ` ${text}` }),
        ],
      }),
    ),
  );
}

function notices() {
  const box = document.getElementById("notices");
  if (E.left_out.length) {
    box.append(
      element("div", {
        className: "note",
        role: "note",
        "aria-label": "Left out",
        children: [
          element("strong", { text: "Left out" }),
          element("ul", { children: E.left_out.map((text) => element("li", { text: `${text}.` })) }),
        ],
      }),
    );
  }
  const unsure = S.unauthenticated.reduce((sum, one) => sum + one, 0);
  if (unsure > 0) {
    box.append(
      element("div", {
        className: "note",
        role: "note",
        "aria-label": "Not authenticated",
        children: [
          element("strong", { text: plural(unsure, "session") }),
          element("span", {
            text: " marked by * are not authenticated: they rest on a log's text, and any local user can write lines like the kernel's or auditd's there.",
          }),
        ],
      }),
    );
  }
  const incomplete = E.unreadable + E.unread;
  if (incomplete > 0) {
    box.append(
      element("div", {
        className: "note",
        role: "note",
        "aria-label": "Not read",
        children: [
          element("strong", { text: `${plural(incomplete, "line")} could not be read` }),
          element("span", { text: ": what they say is not in this report. See the end of the page." }),
        ],
      }),
    );
  }
}

const bytesText = (bytes) => `${bytes.toLocaleString("en")} ${bytes === 1 ? "byte" : "bytes"}`;

function tableOf(heads, rows, caption) {
  const head = element("tr", { children: heads.map((text) => element("th", { scope: "col", text })) });
  return element("div", {
    className: "wide",
    tabindex: 0,
    role: "region",
    "aria-label": caption,
    children: [
      element("table", {
        children: [
          element("caption", { text: caption }),
          element("thead", { children: [head] }),
          element("tbody", {
            children: rows.map((cells) =>
              element("tr", {
                children: cells.map((cell) =>
                  element("td", { children: [cell instanceof Node ? cell : outside(cell)] }),
                ),
              }),
            ),
          }),
        ],
      }),
    ],
  });
}

function hashCell(file) {
  if (file.sha256) {
    const parts = [element("code", { text: file.sha256 })];
    if (file.changed)
      parts.push(element("p", { text: "It changed while it was read: this is of what it had afterwards." }));
    return element("div", { children: parts });
  }
  return element("span", { children: [outside(file.why || "")] });
}

const rangeText = (from, until) => `${fullText(from)} – ${afterText(from, until)}`;

function zoneText() {
  const names = [...new Set(ZONE.offsets.map((one) => one[2]))].join(", ");
  return names === ZONE.name ? names : `${ZONE.name} (${names})`;
}

function fillEvidence() {
  const body = document.getElementById("evidence-body");
  body.append(
    definitions([
      ["Made by", E.program],
      ["Command", element("code", { children: [outside(E.command)] })],
      ["At", `${fullText(E.generated)} ${offsetAt(E.generated).name}`],
      ["Times", `in ${zoneText()}`],
      [
        "Read",
        `${plural(E.records, "record")} in ${plural(E.lines, "line")}, ${bytesText(E.bytes)} as stored; ${E.duplicates} read twice, ${E.unreadable} unreadable, ${E.unread} in no known shape`,
      ],
    ]),
  );
  body.append(
    tableOf(
      ["Input", "Lines", "Size", "SHA-256 of the bytes as stored", "Hosts"],
      E.files.map((file) => [
        file.path,
        file.lines === null ? "–" : file.lines.toLocaleString("en"),
        file.bytes === null ? "–" : bytesText(file.bytes),
        hashCell(file),
        file.hosts
          .slice(0, 8)
          .map((one) => DATA.hosts[one[0]])
          .join(", ") + (file.hosts.length > 8 ? `, and ${file.hosts.length - 8} more` : "") || "–",
      ]),
      plural(E.files.length, "input"),
    ),
  );
  const rows = DATA.coverage.map((one) => [
    DATA.hosts[one.host],
    some(one.spans.map(([from, until]) => rangeText(from, until))),
    some(one.gaps.map(([from, until]) => rangeText(from, until))),
    some(one.starts.map((time) => fullText(time))),
  ]);
  if (rows.length)
    body.append(
      tableOf(["Host", "Covered by logs", "Gaps", "Boots, and begins of watching"], rows, "What is covered"),
    );
  if (E.warnings.length) {
    body.append(
      element("h3", { text: "Notes and warnings of reading" }),
      element("ul", {
        className: "warnings",
        children: E.warnings.map((text) => element("li", { children: [outside(text)] })),
      }),
    );
  }
}

// How many ranges of time are listed.
const MAX_RANGES = 100;

function some(texts) {
  if (!texts.length) return "none";
  const shown = texts.slice(0, MAX_RANGES).map((text) => element("div", { text }));
  if (texts.length > MAX_RANGES)
    shown.push(element("div", { text: `and ${texts.length - MAX_RANGES} more` }));
  return element("div", { children: shown });
}
