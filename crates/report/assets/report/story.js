// The story of a session or finding: sentences, and the lines that prove them.

const story = document.getElementById("story");
let storyFrom = null;

function select(item) {
  VIEW.item = item;
  markSelectedRow();
  redraw();
}

function openStory(item) {
  select(item);
  storyFrom =
    document.activeElement && document.activeElement !== document.body ? document.activeElement : scroller;
  const close = element("button", {
    type: "button",
    text: "Close",
    className: "close",
    title: "Close (Escape)",
  });
  close.addEventListener("click", closeStory);
  const body = item.session !== undefined ? sessionStory(item.session) : findingStory(item.finding);
  story.replaceChildren(close, ...body);
  story.hidden = false;
  document.body.classList.add("with-story");
  story.scrollTop = 0;
  story.focus({ preventScroll: true });
  if (story.getBoundingClientRect().top > window.innerHeight * 0.6)
    story.scrollIntoView({ block: "nearest" });
  reveal(item);
}

function closeStory() {
  story.hidden = true;
  document.body.classList.remove("with-story");
  if (storyFrom && storyFrom.isConnected) storyFrom.focus();
  // The table has drawn its rows anew.
  else if (storyFrom && storyFrom.matches("tr")) focusRow();
  else scroller.focus();
}

// The sentences of a holding, with its times in their blanks.
function sentences(holding) {
  const [text, values] = HOLDINGS.told[holding];
  let at = 0;
  const filled = DATA.told[text].replace(/\{([ftp])\}/g, (_, kind) => {
    const value = values[at];
    at += 1;
    return kind === "f" ? fullText(value) : kind === "t" ? clockText(value) : String(value);
  });
  return filled.split("\n");
}

function heading(text, sub) {
  return element("div", {
    className: "story-head",
    children: [
      element("h2", { id: "story-h", children: [outside(text)] }),
      ...sub.map((one) => element("p", { children: [outside(one)] })),
    ],
  });
}

function sessionStory(at) {
  const guest = DATA.guests[S.guest[at]];
  const parts = [heading(guest[0], [`${macOf(at)} on host ${hostOf(at)}`, guest[1]])];
  const facts = [
    ["Opened", timeCell(S.opened[at])],
    ["Granted", timeCell(S.granted[at])],
    ["Released", timeCell(S.released[at])],
    ["State", W.states[S.state[at]] + (S.endedBy[at] >= 0 ? `, by ${W.ends[S.endedBy[at]]}` : "")],
    ["Certainty", W.certainties[S.certainty[at]]],
  ];
  parts.push(definitions(facts));
  const nearer = element("button", { type: "button", text: "Zoom to it" });
  nearer.addEventListener("click", () => zoomTo({ session: at }));
  parts.push(nearer);
  if (S.unauthenticated[at]) {
    parts.push(
      element("p", {
        className: "warn",
        text: "* Not authenticated: a log's text shows it, and any local user can write lines like the kernel's or auditd's there.",
      }),
    );
  }
  const lines = new Set();
  for (let one = holdingFirst[at]; one < holdingFirst[at + 1]; one += 1) {
    const device = DATA.devices[HOLDINGS.device[one]];
    const named = [device[0], device[2], device[3]].filter(Boolean).join(" ");
    parts.push(
      element("section", {
        className: "device",
        children: [
          element("h3", {
            children: [
              outside(device[1] || named),
              element("span", { text: ` ${W.states[HOLDINGS.state[one]]}`, className: "state" }),
            ],
          }),
          element("p", { className: "named", children: [outside(named)] }),
          ...sentences(one).map((text) => element("p", { text })),
          ...(HOLDINGS.more[one]
            ? [element("p", { text: "More records may show it: the first and the last are here." })]
            : []),
        ],
      }),
    );
    HOLDINGS.lines[one].forEach((line) => lines.add(line));
  }
  const findings = findingsOfSession.get(at) || [];
  if (findings.length) {
    parts.push(element("h3", { text: plural(findings.length, "finding") }));
    findings.forEach((finding) => {
      parts.push(findingText(finding));
      FINDINGS.lines[finding].forEach((line) => lines.add(line));
    });
  }
  parts.push(...linesPart([...lines]));
  return parts;
}

function findingText(at) {
  const [kind, meaning, grave] = W.kinds[FINDINGS.kind[at]];
  return element("div", {
    className: `finding ${grave ? "grave" : "notice"}`,
    children: [
      element("p", {
        className: "kind",
        children: [
          element("span", { className: `sev ${grave ? "grave" : "notice"}`, "aria-hidden": "true" }),
          element("strong", { text: kind }),
          element("span", { text: `${grave ? ", grave" : ""}, ${fullText(FINDINGS.time[at])}` }),
        ],
      }),
      element("p", { children: [outside(`${FINDINGS.text[at]}.`)] }),
      element("p", { className: "meaning", text: meaning }),
    ],
  });
}

function findingStory(at) {
  const row = ROWS[FINDINGS.row[at]];
  const about = [
    FINDINGS.mac[at] === null ? null : DATA.macs[FINDINGS.mac[at]],
    `host ${DATA.hosts[row.host]}`,
  ]
    .filter(Boolean)
    .join(" on ");
  const guest = FINDINGS.guest[at];
  const parts = [
    heading(guest === null ? W.kinds[FINDINGS.kind[at]][0] : DATA.guests[guest][0], [
      about,
      ...(guest === null ? [] : [DATA.guests[guest][1]]),
    ]),
    findingText(at),
  ];
  const session = FINDINGS.session[at];
  if (session !== null) {
    const open = element("button", { type: "button", text: "Show its session" });
    open.addEventListener("click", () => openStory({ session }));
    parts.push(open);
  }
  parts.push(...linesPart(FINDINGS.lines[at]));
  return parts;
}

function linesPart(lines) {
  lines.sort((a, b) => DATA.lines.file[a] - DATA.lines.file[b] || DATA.lines.line[a] - DATA.lines.line[b]);
  const items = lines.map((line) => {
    const [serial, raw] = [DATA.lines.serial[line], DATA.lines.raw[line]];
    const place = `${DATA.files[DATA.lines.file[line]]}:${DATA.lines.line[line]}`;
    const mark = DATA.lines.unauthenticated[line] ? " (not authenticated)" : "";
    return element("li", {
      children: [
        element("p", {
          className: "place",
          children: [
            outside(place),
            element("span", { text: `${serial === null ? "" : ` (serial ${serial})`}${mark}` }),
          ],
        }),
        raw === null
          ? element("p", { className: "none", text: "The line's text is not in this report." })
          : element("pre", { tabindex: 0, children: [outside(raw)] }),
      ],
    });
  });
  return [
    element("h3", { text: plural(lines.length, "record") }),
    element("ol", { className: "lines", children: items }),
  ];
}

function definitions(pairs) {
  const list = element("dl");
  for (const [name, text] of pairs) {
    list.append(
      element("dt", { text: name }),
      element("dd", { children: [text instanceof Node ? text : outside(text)] }),
    );
  }
  return list;
}
