// How bars and marks look, here and in the legend: by pattern and shape first, colour second.

const AXIS_HEIGHT = 44;
const HOST_HEIGHT = 30;
const GUEST_HEIGHT = 24;
const LANE_HEIGHT = 28;
const BAR_HEIGHT = 12;
// Below a lane's middle is its bar, above it its findings.
const BAR_SHIFT = 4;
const FINDING_SHIFT = -8;

const COLORS = {};

// Colours as the style sheet has them now: light, dark, or those of the system.
function readColors() {
  const style = getComputedStyle(document.documentElement);
  for (const name of [
    "page",
    "panel",
    "stripe",
    "text",
    "muted",
    "line",
    "grid",
    "accent",
    "focus",
    "gap",
    "boot",
    "cover",
    "grave",
    "notice",
    "definitive",
    "inferred",
    "ambiguous",
    "doubtful",
    "incomplete",
  ]) {
    COLORS[name] = style.getPropertyValue(`--${name}`).trim();
  }
  PATTERNS.clear();
}

const PATTERNS = new Map();

// A repeated tile; its lines are drawn on `size` times `size` pixels.
function pattern(context, key, size, draw) {
  const scale = context.getTransform().a || 1;
  const name = `${key}@${scale}`;
  if (!PATTERNS.has(name)) {
    const tile = document.createElement("canvas");
    tile.width = tile.height = Math.round(size * scale);
    const on = tile.getContext("2d");
    on.scale(tile.width / size, tile.height / size);
    draw(on, size);
    const made = context.createPattern(tile, "repeat");
    made.setTransform(new DOMMatrix().scale(size / tile.width));
    PATTERNS.set(name, made);
  }
  return PATTERNS.get(name);
}

function diagonal(on, size, color, width, both = false) {
  on.strokeStyle = color;
  on.lineWidth = width;
  on.beginPath();
  for (const shift of [-size, 0, size]) {
    on.moveTo(shift, size);
    on.lineTo(shift + size, 0);
    if (both) {
      on.moveTo(shift, 0);
      on.lineTo(shift + size, size);
    }
  }
  on.stroke();
}

// The time between open and grant: hatched, in the certainty's colour.
function hatch(context, color) {
  return pattern(context, `hatch ${color}`, 5, (on, size) => diagonal(on, size, color, 1.3));
}

// What lies over a bar's colour to show how sure it is.
const BASIS = {
  definitive: null,
  inferred: (context) =>
    pattern(context, "inferred", 4, (on) => {
      on.fillStyle = COLORS.page;
      on.globalAlpha = 0.5;
      on.fillRect(0, 1.5, 4, 1);
    }),
  ambiguous: (context) =>
    pattern(context, "ambiguous", 6, (on, size) => {
      on.globalAlpha = 0.75;
      diagonal(on, size, COLORS.page, 1.2, true);
    }),
  incomplete: (context) =>
    pattern(context, "incomplete", 7, (on) => {
      on.fillStyle = COLORS.page;
      on.globalAlpha = 0.85;
      on.fillRect(5, 0, 2, 7);
    }),
  doubtful: (context) =>
    pattern(context, "doubtful", 6, (on) => {
      on.fillStyle = COLORS.page;
      on.globalAlpha = 0.75;
      on.fillRect(0, 0, 3, 3);
      on.fillRect(3, 3, 3, 3);
    }),
};

const basisColor = (certainty) => COLORS[W.certainties[certainty]];

function drawCertain(context, x, y, width, certainty) {
  context.fillStyle = basisColor(certainty);
  context.fillRect(x, y, width, BAR_HEIGHT);
  const over = BASIS[W.certainties[certainty]];
  if (over && width > 2) {
    context.fillStyle = over(context);
    context.fillRect(x, y, width, BAR_HEIGHT);
  }
}

function drawOpening(context, x, y, width, certainty) {
  const color = basisColor(certainty);
  context.fillStyle = width > 3 ? hatch(context, color) : color;
  context.fillRect(x, y, width, BAR_HEIGHT);
  if (width > 3) {
    context.strokeStyle = color;
    context.lineWidth = 1;
    context.strokeRect(x + 0.5, y + 0.5, Math.max(0, width - 1), BAR_HEIGHT - 1);
  }
}

// Possibly held: half as high, an outline of dashes.
function drawPossibly(context, x, y, width, certainty) {
  const [top, height] = [y + BAR_HEIGHT / 2 - 3, 6];
  context.fillStyle = context.strokeStyle = basisColor(certainty);
  context.globalAlpha = 0.16;
  context.fillRect(x, top, width, height);
  context.globalAlpha = 1;
  context.lineWidth = 1;
  context.setLineDash([3, 2]);
  context.strokeRect(x + 0.5, top + 0.5, Math.max(0, width - 1), height - 1);
  context.setLineDash([]);
}

function path(context, points, close = true) {
  context.beginPath();
  points.forEach(([x, y], at) => (at === 0 ? context.moveTo(x, y) : context.lineTo(x, y)));
  if (close) context.closePath();
}

function halo(context, draw) {
  context.lineJoin = "round";
  context.lineWidth = 4;
  context.strokeStyle = COLORS.page;
  draw();
  context.stroke();
}

// A failed open: a cross.
function drawFailed(context, x, y) {
  const draw = () => {
    context.beginPath();
    context.moveTo(x - 3.5, y - 3.5);
    context.lineTo(x + 3.5, y + 3.5);
    context.moveTo(x + 3.5, y - 3.5);
    context.lineTo(x - 3.5, y + 3.5);
  };
  halo(context, draw);
  context.strokeStyle = COLORS.grave;
  context.lineWidth = 2;
  draw();
  context.stroke();
}

// A grave finding: a filled diamond. Another: a hollow triangle.
function drawFinding(context, x, y, grave) {
  const points = grave
    ? [
        [x, y - 6],
        [x + 6, y],
        [x, y + 6],
        [x - 6, y],
      ]
    : [
        [x, y - 5],
        [x + 5.2, y + 4],
        [x - 5.2, y + 4],
      ];
  halo(context, () => path(context, points));
  path(context, points);
  context.lineWidth = 1.6;
  if (grave) {
    context.fillStyle = COLORS.grave;
    context.fill();
    context.fillStyle = COLORS.page;
    context.fillRect(x - 0.8, y - 3.2, 1.6, 4);
    context.fillRect(x - 0.8, y + 1.7, 1.6, 1.6);
  } else {
    context.fillStyle = COLORS.page;
    context.fill();
    context.strokeStyle = COLORS.notice;
    context.stroke();
  }
}

// What ended a session, behind its bar.
const END_MARKS = {
  // Unplugged: the plug drawn back.
  detach: (context, x, y) => {
    path(context, [
      [x + 2, y],
      [x + 8, y - 4.5],
      [x + 8, y + 4.5],
    ]);
    context.fill();
  },
  // The guest ended: a square, as on a recorder.
  stop: (context, x, y) => context.fillRect(x + 2, y - 3.5, 7, 7),
  close: (context, x, y) => {
    context.fillRect(x + 2, y - 5, 2, 10);
    context.fillRect(x + 6, y - 5, 2, 10);
  },
  revoke: (context, x, y) => {
    context.beginPath();
    context.arc(x + 6.5, y, 4, 0, 7);
    context.moveTo(x + 3.7, y + 2.8);
    context.lineTo(x + 9.3, y - 2.8);
    context.stroke();
  },
  // Nobody saw the end: hollow.
  unseen: (context, x, y) => {
    context.strokeRect(x + 2.75, y - 3.25, 6.5, 6.5);
  },
  // No end: it goes on.
  held: (context, x, y) => {
    path(
      context,
      [
        [x - 8, y - 4],
        [x - 3, y],
        [x - 8, y + 4],
      ],
      false,
    );
    context.strokeStyle = COLORS.page;
    context.lineWidth = 2;
    context.stroke();
  },
};

function drawEnd(context, x, y, word) {
  context.fillStyle = context.strokeStyle = COLORS.text;
  context.lineWidth = 1.5;
  (END_MARKS[word] || END_MARKS.unseen)(context, x, y);
}

const LEGEND = [
  ["Open to grant", (context) => drawOpening(context, 2, 4, 30, W.certainties.indexOf("inferred"))],
  ...["definitive", "inferred", "ambiguous", "incomplete", "doubtful"].map((word) => [
    `Held: ${word}`,
    (context) => drawCertain(context, 2, 4, 30, W.certainties.indexOf(word)),
  ]),
  ["Possibly held", (context) => drawPossibly(context, 2, 4, 30, W.certainties.indexOf("incomplete"))],
  [
    "Still held",
    (context) => {
      drawCertain(context, 2, 4, 30, W.certainties.indexOf("inferred"));
      drawEnd(context, 32, 10, "held");
    },
  ],
  ["Unplugged", (context) => drawEnd(context, 11, 10, "detach")],
  ["Guest ended", (context) => drawEnd(context, 11, 10, "stop")],
  ["Closed", (context) => drawEnd(context, 11, 10, "close")],
  ["Revoked", (context) => drawEnd(context, 11, 10, "revoke")],
  ["End not seen", (context) => drawEnd(context, 11, 10, "unseen")],
  ["Failed open", (context) => drawFailed(context, 17, 10)],
  ["Grave finding", (context) => drawFinding(context, 17, 10, true)],
  ["Other finding", (context) => drawFinding(context, 17, 10, false)],
  ["Covered by logs", (context) => drawCover(context, 2, 32, 10)],
  ["Gap in the log", (context) => drawGap(context, 8, 1, 18, 18)],
  ["Boot, or begin of watching", (context) => drawBoot(context, 17, 1, 18)],
];

function drawCover(context, from, until, y) {
  context.fillStyle = COLORS.cover;
  context.fillRect(from, y - 2, Math.max(1, until - from), 4);
}

function drawGap(context, x, y, width, height) {
  context.fillStyle = COLORS.gap;
  context.fillRect(x, y, Math.max(1.5, width), height);
  context.fillStyle = pattern(context, "gap", 8, (on, size) => {
    on.globalAlpha = 0.35;
    diagonal(on, size, COLORS.muted, 1);
  });
  context.fillRect(x, y, Math.max(1.5, width), height);
}

function drawBoot(context, x, y, height) {
  context.strokeStyle = COLORS.boot;
  context.lineWidth = 1.5;
  context.setLineDash([5, 2, 1, 2]);
  context.beginPath();
  context.moveTo(Math.round(x) + 0.5, y);
  context.lineTo(Math.round(x) + 0.5, y + height);
  context.stroke();
  context.setLineDash([]);
}

function sizeCanvas(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  const [w, h] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  return context;
}

function drawLegend() {
  const box = document.getElementById("legend");
  if (!box.children.length) {
    box.append(
      ...LEGEND.map(([text]) =>
        element("span", {
          role: "listitem",
          children: [element("canvas", { "aria-hidden": "true" }), element("span", { text })],
        }),
      ),
    );
  }
  LEGEND.forEach(([, draw], at) => {
    const context = sizeCanvas(box.children[at].firstChild, 34, 20);
    context.clearRect(0, 0, 34, 20);
    draw(context);
  });
}
