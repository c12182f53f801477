// The same as a table: only the rows that can be seen are in the document.

const gridBox = document.getElementById("grid-box");
const grid = document.getElementById("grid");
const rowsBody = document.getElementById("rows");
const GRID_ROW_HEIGHT = 30;
const manyHosts = DATA.hosts.length > 1;

const timeCell = (time) => (Number.isNaN(time) ? "–" : fullText(time));
const byNumber = (of) => (a, b) => {
  const [x, y] = [of(a), of(b)];
  if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
  return x - y;
};
const byText = (of) => (a, b) => of(a).localeCompare(of(b), "en", { numeric: true });

const COLUMNS = {
  sessions: [
    ...(manyHosts ? [{ name: "Host", text: hostOf, order: byText(hostOf), width: 140 }] : []),
    {
      name: "Guest",
      text: (at) => guestName(S.guest[at]),
      order: byText((at) => guestName(S.guest[at])),
      width: 170,
    },
    { name: "Interface", text: macOf, order: byText(macOf), mono: true, width: 152 },
    { name: "Devices", text: devicesText, order: byText(devicesText), width: 190 },
    {
      name: "Opened",
      text: (at) => timeCell(S.opened[at]),
      order: byNumber((at) => S.opened[at]),
      time: true,
      width: 190,
    },
    {
      name: "Granted",
      text: (at) => timeCell(S.granted[at]),
      order: byNumber((at) => S.granted[at]),
      time: true,
      width: 190,
    },
    {
      name: "Released",
      text: (at) => timeCell(S.released[at]),
      order: byNumber((at) => S.released[at]),
      time: true,
      width: 190,
    },
    { name: "State", text: (at) => W.states[S.state[at]], order: byNumber((at) => S.state[at]), width: 112 },
    {
      name: "Ended by",
      text: (at) => W.ends[S.endedBy[at]] || "–",
      order: byNumber((at) => S.endedBy[at]),
      width: 90,
    },
    {
      name: "Certainty",
      text: (at) => W.certainties[S.certainty[at]] + (S.unauthenticated[at] ? " *" : ""),
      order: byNumber((at) => S.certainty[at]),
      width: 100,
    },
    {
      name: "Findings",
      text: (at) => String((findingsOfSession.get(at) || []).length || "–"),
      order: byNumber((at) => (findingsOfSession.get(at) || []).length),
      width: 92,
    },
  ],
  findings: [
    {
      name: "Time",
      text: (at) => timeCell(FINDINGS.time[at]),
      order: byNumber((at) => FINDINGS.time[at]),
      time: true,
      width: 190,
    },
    {
      name: "Severity",
      text: (at) => (isGrave(at) ? "grave" : "notice"),
      order: byNumber((at) => (isGrave(at) ? 0 : 1)),
      width: 84,
    },
    {
      name: "Kind",
      text: (at) => W.kinds[FINDINGS.kind[at]][0],
      order: byText((at) => W.kinds[FINDINGS.kind[at]][0]),
      width: 180,
    },
    ...(manyHosts
      ? [
          {
            name: "Host",
            text: (at) => DATA.hosts[ROWS[FINDINGS.row[at]].host],
            order: byText((at) => DATA.hosts[ROWS[FINDINGS.row[at]].host]),
            width: 110,
          },
        ]
      : []),
    {
      name: "Guest",
      text: (at) => guestName(FINDINGS.guest[at]) || "–",
      order: byText((at) => guestName(FINDINGS.guest[at])),
      width: 170,
    },
    {
      name: "Interface",
      text: (at) => DATA.macs[FINDINGS.mac[at]] || "–",
      order: byText((at) => DATA.macs[FINDINGS.mac[at]] || ""),
      mono: true,
      width: 152,
    },
    { name: "What", text: (at) => FINDINGS.text[at], order: byText((at) => FINDINGS.text[at]), width: 520 },
  ],
};

const GRID = { kind: "sessions", list: [], sort: null, down: false, focus: 0, from: -1, until: -1 };

const gridItem = (at) => (GRID.kind === "sessions" ? { session: GRID.list[at] } : { finding: GRID.list[at] });

function fillGrid() {
  const columns = COLUMNS[GRID.kind];
  GRID.list = GRID.kind === "sessions" ? Array.from(SHOWN.sessions) : SHOWN.findings.slice();
  if (GRID.kind === "sessions" && !GRID.sort) GRID.list.sort((a, b) => S.begin[a] - S.begin[b]);
  if (GRID.sort) {
    const column = columns.find((one) => one.name === GRID.sort);
    if (column) GRID.list.sort((a, b) => (GRID.down ? -1 : 1) * column.order(a, b) || a - b);
  }
  GRID.focus = Math.min(GRID.focus, Math.max(0, GRID.list.length - 1));
  const heads = columns.map((column) => {
    const order = GRID.sort === column.name ? (GRID.down ? "descending" : "ascending") : "none";
    const head = element("button", { type: "button", text: column.name });
    head.addEventListener("click", () => sortBy(column.name));
    const cell = element("th", { role: "columnheader", scope: "col", "aria-sort": order, children: [head] });
    cell.style.width = `${column.width}px`;
    return cell;
  });
  grid.tHead.replaceChildren(element("tr", { role: "row", "aria-rowindex": 1, children: heads }));
  grid.style.width = `${columns.reduce((sum, column) => sum + column.width, 0)}px`;
  grid.setAttribute("aria-rowcount", GRID.list.length + 1);
  grid.setAttribute("aria-colcount", columns.length);
  document.getElementById("grid-caption").textContent =
    GRID.kind === "sessions"
      ? "Sessions: what one interface of a guest got in one plug"
      : "Findings: errors, gaps and suspicious entries";
  GRID.from = -1;
  const wanted = GRID.list.length * GRID_ROW_HEIGHT + 52;
  gridBox.style.height = `${Math.min(wanted, Math.max(300, Math.round(window.innerHeight * 0.42)))}px`;
  drawGrid();
}

function sortBy(name) {
  GRID.down = GRID.sort === name ? !GRID.down : false;
  GRID.sort = name;
  const focused = document.activeElement && document.activeElement.textContent === name;
  fillGrid();
  if (focused) [...grid.tHead.querySelectorAll("button")].find((one) => one.textContent === name).focus();
}

function drawGrid() {
  const height = gridBox.clientHeight || 300;
  const from = Math.max(0, Math.floor(gridBox.scrollTop / GRID_ROW_HEIGHT) - 8);
  const until = Math.min(GRID.list.length, Math.ceil((gridBox.scrollTop + height) / GRID_ROW_HEIGHT) + 8);
  if (from === GRID.from && until === GRID.until) return;
  const hadFocus = rowsBody.contains(document.activeElement);
  [GRID.from, GRID.until] = [from, until];
  const rows = [];
  for (let at = from; at < until; at += 1) rows.push(gridRow(at));
  rowsBody.replaceChildren(...rows);
  const [above, below] = grid.querySelectorAll(".space td");
  above.style.height = `${from * GRID_ROW_HEIGHT}px`;
  below.style.height = `${(GRID.list.length - until) * GRID_ROW_HEIGHT}px`;
  if (hadFocus) focusRow(false);
  else if (GRID.focus < from || GRID.focus >= until) {
    // The table is reached by Tab wherever it stands.
    if (rows.length) rows[0].tabIndex = 0;
  }
}

function gridRow(at) {
  const item = gridItem(at);
  const value = GRID.list[at];
  const cells = COLUMNS[GRID.kind].map((column) => {
    const text = column.text(value);
    const cell = element("td", {
      role: "gridcell",
      className: column.mono ? "mono" : column.time ? "time" : "",
      children: [outside(text)],
    });
    if (column.name === "Severity")
      cell.prepend(element("span", { className: `sev ${text}`, "aria-hidden": "true" }));
    if (text.length > 20) cell.title = text;
    return cell;
  });
  const row = element("tr", {
    role: "row",
    "aria-rowindex": at + 2,
    tabindex: at === GRID.focus ? 0 : -1,
    children: cells,
  });
  row.setAttribute("aria-selected", sameItem(item, VIEW.item));
  row.addEventListener("click", () => {
    GRID.focus = at;
    openStory(item);
  });
  return row;
}

function focusRow(scroll = true) {
  if (!GRID.list.length) return;
  if (scroll) {
    const [top, head] = [GRID.focus * GRID_ROW_HEIGHT, grid.tHead.offsetHeight];
    if (top < gridBox.scrollTop) gridBox.scrollTop = top;
    else if (top + GRID_ROW_HEIGHT > gridBox.scrollTop + gridBox.clientHeight - head) {
      gridBox.scrollTop = top + GRID_ROW_HEIGHT - gridBox.clientHeight + head;
    }
    drawGrid();
  }
  for (const row of rowsBody.rows)
    row.tabIndex = Number(row.getAttribute("aria-rowindex")) === GRID.focus + 2 ? 0 : -1;
  const row = [...rowsBody.rows].find((one) => one.tabIndex === 0);
  if (row) row.focus({ preventScroll: true });
}

function gridKey(event) {
  const row = event.target.closest("#rows tr");
  if (!row) return;
  const page = Math.max(1, Math.floor(gridBox.clientHeight / GRID_ROW_HEIGHT) - 2);
  const now = Number(row.getAttribute("aria-rowindex")) - 2;
  const to = {
    ArrowDown: now + 1,
    ArrowUp: now - 1,
    PageDown: now + page,
    PageUp: now - page,
    Home: 0,
    End: GRID.list.length - 1,
  }[event.key];
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    openStory(gridItem(now));
  } else if (to !== undefined) {
    event.preventDefault();
    GRID.focus = Math.max(0, Math.min(GRID.list.length - 1, to));
    focusRow();
  }
}

function showTab(kind) {
  GRID.kind = kind;
  GRID.sort = null;
  GRID.focus = 0;
  for (const one of ["sessions", "findings"]) {
    const tab = document.getElementById(`tab-${one}`);
    tab.setAttribute("aria-selected", one === kind);
    tab.tabIndex = one === kind ? 0 : -1;
  }
  gridBox.setAttribute("aria-labelledby", `tab-${kind}`);
  gridBox.scrollTop = 0;
  fillGrid();
}

function markSelectedRow() {
  for (const row of rowsBody.rows) {
    const at = Number(row.getAttribute("aria-rowindex")) - 2;
    row.setAttribute("aria-selected", sameItem(gridItem(at), VIEW.item));
  }
}

function startGrid() {
  gridBox.addEventListener("scroll", drawGrid, { passive: true });
  gridBox.addEventListener("keydown", gridKey);
  const tabs = [document.getElementById("tab-sessions"), document.getElementById("tab-findings")];
  tabs.forEach((tab, at) => {
    tab.addEventListener("click", () => showTab(at === 0 ? "sessions" : "findings"));
    tab.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      tabs[1 - at].focus();
      tabs[1 - at].click();
    });
  });
  new ResizeObserver(drawGrid).observe(gridBox);
}

// On paper: the rows that the filter selects, as many as are of use there.
const MAX_PRINTED_ROWS = 2000;

// The size of the picture on A4 across, in pixels of CSS, with the legend below it.
const PAPER_WIDTH = 1030;
const PAPER_HEIGHT = 390;

function printedTable(kind, list) {
  const columns = COLUMNS[kind];
  const head = element("tr", {
    children: columns.map((column) => element("th", { scope: "col", text: column.name })),
  });
  const rows = list.slice(0, MAX_PRINTED_ROWS).map((value) =>
    element("tr", {
      children: columns.map((column) =>
        element("td", {
          className: column.mono ? "mono" : column.time ? "time" : "",
          children: [outside(column.text(value))],
        }),
      ),
    }),
  );
  const parts = [
    element("h2", { text: kind === "sessions" ? "Sessions" : "Findings" }),
    element("table", {
      children: [element("thead", { children: [head] }), element("tbody", { children: rows })],
    }),
  ];
  if (list.length > MAX_PRINTED_ROWS) {
    parts.push(
      element("p", {
        text: `${plural(list.length - MAX_PRINTED_ROWS, "more row")} are not printed: filter, and print again.`,
      }),
    );
  }
  return parts;
}

function preparePrint() {
  document.documentElement.dataset.print = "";
  const sessions = Array.from(SHOWN.sessions).sort((a, b) => S.begin[a] - S.begin[b]);
  document
    .getElementById("print-rows")
    .replaceChildren(...printedTable("sessions", sessions), ...printedTable("findings", SHOWN.findings));
  recolor();
  layOut(PAPER_WIDTH, PAPER_HEIGHT);
  draw();
}

function endPrint() {
  delete document.documentElement.dataset.print;
  document.getElementById("print-rows").replaceChildren();
  recolor();
  resize();
}
