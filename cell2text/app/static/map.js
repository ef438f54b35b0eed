// The map of cells: drawing, hover, click, lasso, box and keyboard. Gradio runs this file when the component loads, with
// `element`, `props`, `trigger` and `watch`. Everything that comes from a file is written with `textContent`.
const root = element.querySelector(".c2t-map"), canvas = root.querySelector("canvas"), pen = canvas.getContext("2d");
const [tip, say, legend] = [".c2t-tip", ".c2t-say", ".c2t-legend"].map(name => root.querySelector(name));
const STEP = 1.4, REACH = 14, PADDING = 28, CLICK_PIXELS = 4, HIGHEST_ZOOM = 60;
let places = { x: [], y: [], names: [] }, colours = null, map = null;
let selected = new Set(), chosen = -1, cursor = -1, only = null;
let mode = "move", zoom = 1, middle = [0, 0], extent = [1, 1], width = 1, height = 1, drag = null;

const ratio = () => window.devicePixelRatio || 1;
const scale = () => zoom * Math.min((width - 2 * PADDING) / extent[0], (height - 2 * PADDING) / extent[1]);
const at = i => [width / 2 + (places.x[i] - middle[0]) * scale(), height / 2 - (places.y[i] - middle[1]) * scale()];
const radius = () => Math.min(8, Math.max(1.6, 90 / Math.sqrt(places.x.length || 1)) * Math.sqrt(Math.sqrt(zoom)));
const dark = () => Boolean(element.closest(".dark") || document.body.classList.contains("dark"));

function labelOf(i) {
  if (!colours) return "";
  const code = colours.codes[i];
  if (code < 0) return "no value";
  if (colours.kind === "labels") return colours.names[code];
  return (colours.low + (code / 255) * (colours.high - colours.low)).toPrecision(3);
}

function fit() {
  zoom = 1;
  extent = [Math.max(1, ...span(places.x)), Math.max(1, ...span(places.y))];
  middle = [extent[0] / 2, extent[1] / 2];
}

function span(values) {
  let high = 1;
  for (const value of values) high = Math.max(high, value);
  return [high];
}

function dot(i, r) {
  const [x, y] = at(i);
  if (x < -r || y < -r || x > width + r || y > height + r) return;
  pen.moveTo(x + r, y);
  pen.arc(x, y, r, 0, 7);
}

function ring(i, r, lineWidth, colour) {
  pen.beginPath();
  dot(i, r);
  pen.lineWidth = lineWidth;
  pen.strokeStyle = colour;
  pen.stroke();
}

function draw() {
  const box = canvas.getBoundingClientRect();
  [width, height] = [Math.max(1, box.width), Math.max(1, box.height)];
  [canvas.width, canvas.height] = [Math.round(width * ratio()), Math.round(height * ratio())];
  pen.setTransform(ratio(), 0, 0, ratio(), 0, 0);
  pen.clearRect(0, 0, width, height);
  const r = radius(), ink = dark() ? "#ffffff" : "#000000", faded = dark() ? "#3a3f4b" : "#e4e4e4", layers = new Map();
  for (let i = 0; i < places.x.length; i++) {
    const code = colours ? colours.codes[i] : -1;
    const layer = only !== null && code !== only ? faded : code < 0 ? (colours || {}).missing || "#9a9a9a" : colours.colours[code];
    if (!layers.has(layer)) layers.set(layer, []);
    layers.get(layer).push(i);
  }
  const order = [...layers.keys()].sort((a, b) => (b === faded) - (a === faded));
  for (const colour of order) {
    pen.beginPath();
    for (const i of layers.get(colour)) dot(i, r);
    pen.fillStyle = colour;
    pen.fill();
  }
  pen.beginPath();
  for (const i of selected) dot(i, r + 0.8);
  pen.lineWidth = 1.4;
  pen.strokeStyle = ink;
  pen.stroke();
  if (cursor >= 0 && cursor !== chosen) ring(cursor, r + 5, 2, ink);
  if (chosen >= 0) {
    ring(chosen, r + 4, 5, dark() ? "#000000" : "#ffffff");
    ring(chosen, r + 4, 3, dark() ? "#ffb454" : "#b3261e");
  }
  if (drag && drag.path && drag.path.length > 1) {
    pen.beginPath();
    outline(drag.path).forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    pen.closePath();
    pen.setLineDash([5, 4]);
    pen.lineWidth = 1.5;
    pen.strokeStyle = ink;
    pen.stroke();
    pen.setLineDash([]);
  }
}

function outline(path) {
  if (mode !== "box") return path;
  const [[x, y], [u, v]] = [path[0], path[path.length - 1]];
  return [[x, y], [u, y], [u, v], [x, v]];
}

function inside([x, y], path) {
  let is = false;
  for (let i = 0, j = path.length - 1; i < path.length; j = i++) {
    const [a, b] = path[i], [c, d] = path[j];
    if (b > y !== d > y && x < ((c - a) * (y - b)) / (d - b) + a) is = !is;
  }
  return is;
}

function nearest(x, y, reach) {
  let best = -1, least = reach * reach;
  for (let i = 0; i < places.x.length; i++) {
    const [u, v] = at(i), d = (u - x) ** 2 + (v - y) ** 2;
    if (d < least) [best, least] = [i, d];
  }
  return best;
}

function neighbour(from, dx, dy) {
  const [x, y] = from >= 0 ? at(from) : [width / 2, height / 2];
  let best = -1, least = Infinity;
  for (let i = 0; i < places.x.length; i++) {
    if (i === from) continue;
    const [u, v] = at(i), along = (u - x) * dx + (v - y) * dy, across = Math.abs((u - x) * dy) + Math.abs((v - y) * dx);
    if (along <= 0 || across > along) continue;
    const d = along + across;
    if (d < least) [best, least] = [i, d];
  }
  return best;
}

function keepVisible(i) {
  const [x, y] = at(i);
  if (x < PADDING || y < PADDING || x > width - PADDING || y > height - PADDING) middle = [places.x[i], places.y[i]];
}

function pick(i) {
  chosen = cursor = i;
  announce(`Chosen: ${places.names[i]}, ${labelOf(i)}`);
  draw();
  trigger("pick", { point: i });
}

function choose(points, text) {
  selected = new Set(points);
  announce(text || `${selected.size.toLocaleString("en")} cells selected`);
  draw();
  trigger("choose", { points: [...selected] });
}

function announce(text) {
  say.textContent = text;
}

function zoomBy(factor, x = width / 2, y = height / 2) {
  const before = scale();
  zoom = Math.min(HIGHEST_ZOOM, Math.max(0.5, zoom * factor));
  const after = scale();
  middle[0] += (x - width / 2) * (1 / before - 1 / after);
  middle[1] -= (y - height / 2) * (1 / before - 1 / after);
  draw();
}

function setMode(name) {
  mode = name;
  for (const button of root.querySelectorAll("[data-mode]"))
    button.setAttribute("aria-pressed", String(button.dataset.mode === name));
  canvas.style.touchAction = name === "move" ? "pan-y" : "none";
  canvas.style.cursor = name === "move" ? "pointer" : "crosshair";
}

function hover(x, y) {
  const i = nearest(x, y, REACH);
  tip.hidden = i < 0;
  if (i < 0) return;
  tip.replaceChildren();
  for (const [kind, text] of [["b", places.names[i]], ["span", labelOf(i)]]) {
    const part = document.createElement(kind);
    part.textContent = text;
    tip.append(part);
  }
  const [u, v] = at(i), right = u > width / 2;
  tip.style.left = right ? "auto" : `${u + 12}px`;
  tip.style.right = right ? `${width - u + 12}px` : "auto";
  tip.style.top = `${Math.max(0, Math.min(v - 10, height - 60))}px`;
}

function paintLegend() {
  legend.replaceChildren();
  if (!colours) return;
  const title = document.createElement("div");
  title.className = "c2t-legend-title";
  title.textContent = colours.title;
  legend.append(title);
  if (colours.kind === "numbers") {
    const ramp = document.createElement("div"), ends = document.createElement("div");
    ramp.className = "c2t-ramp";
    ramp.style.background = `linear-gradient(to right, ${colours.colours.filter((_, i) => i % 15 === 0).join(",")})`;
    ends.className = "c2t-ends";
    for (const value of [colours.low, colours.high]) {
      const end = document.createElement("span");
      end.textContent = Number(value.toPrecision(4)).toLocaleString("en");
      ends.append(end);
    }
    legend.append(ramp, ends);
    return;
  }
  colours.names.forEach((name, code) => entry(name, code, colours.colours[code], colours.counts[code]));
  const rest = colours.codes.filter(code => code < 0).length;
  if (rest) entry("no value", -1, colours.missing, rest);
}

function entry(name, code, colour, count) {
  const button = document.createElement("button"), swatch = document.createElement("i");
  const label = document.createElement("span"), number = document.createElement("span");
  button.type = "button";
  button.setAttribute("aria-pressed", String(only === code));
  button.dataset.label = name;
  swatch.style.background = colour;
  label.textContent = name;
  number.className = "c2t-count";
  number.textContent = count.toLocaleString("en");
  button.append(swatch, label, number);
  button.addEventListener("click", () => {
    only = only === code ? null : code;
    for (const other of legend.querySelectorAll("button"))
      other.setAttribute("aria-pressed", String(other === button && only !== null));
    root.querySelector("[data-do=label]").hidden = only === null || code < 0;
    announce(only === null ? "All labels shown" : `${name}: ${count.toLocaleString("en")} cells highlighted`);
    draw();
  });
  legend.append(button);
}

const ACTIONS = {
  in: () => zoomBy(STEP),
  out: () => zoomBy(1 / STEP),
  fit: () => { fit(); draw(); },
  clear: () => choose([], "Selection cleared"),
  label: () => trigger("label_cells", { label: colours.names[only] }),
};
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const KEYS = {
  "+": ACTIONS.in, "=": ACTIONS.in, "-": ACTIONS.out, "0": ACTIONS.fit, Escape: ACTIONS.clear,
  Enter: () => { if (cursor >= 0) pick(cursor); },
  " ": () => {
    if (cursor < 0) return;
    const next = new Set(selected);
    if (!next.delete(cursor)) next.add(cursor);
    choose(next);
  },
};

canvas.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const arrow = ARROWS[event.key];
  if (!arrow && !KEYS[event.key]) return;
  event.preventDefault();
  if (!arrow) return KEYS[event.key]();
  const found = neighbour(cursor >= 0 ? cursor : chosen, ...arrow);
  if (found < 0) return announce("No cell in this direction");
  cursor = found;
  keepVisible(found);
  announce(`${places.names[found]}, ${labelOf(found)}${selected.has(found) ? ", selected" : ""}`);
  draw();
});

const spot = event => {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
};
canvas.addEventListener("pointerdown", event => {
  if (event.button) return;
  const from = spot(event);
  drag = { from, middle: [...middle], path: mode === "move" ? null : [from], moved: false };
  canvas.setPointerCapture(event.pointerId);
});
canvas.addEventListener("pointermove", event => {
  const [x, y] = spot(event);
  if (!drag) return hover(x, y);
  const [u, v] = drag.from;
  drag.moved = drag.moved || Math.hypot(x - u, y - v) > CLICK_PIXELS;
  if (drag.path) drag.path.push([x, y]);
  else if (drag.moved) middle = [drag.middle[0] - (x - u) / scale(), drag.middle[1] + (y - v) / scale()];
  tip.hidden = true;
  draw();
});
canvas.addEventListener("pointerup", event => {
  if (!drag) return;
  const { path, moved, from } = drag, area = path && outline(path);
  drag = null;
  if (!moved) {
    const found = nearest(...from, event.pointerType === "touch" ? 2 * REACH : REACH);
    return found >= 0 ? pick(found) : draw();
  }
  if (!area) return;
  const found = places.x.map((_, i) => i).filter(i => (only === null || colours.codes[i] === only) && inside(at(i), area));
  choose(event.shiftKey ? [...selected, ...found] : found);
});
canvas.addEventListener("pointercancel", () => { drag = null; draw(); });
canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
canvas.addEventListener("wheel", event => {
  if (!event.ctrlKey && document.activeElement !== canvas) return;  // the page scrolls until the map has the focus
  event.preventDefault();
  zoomBy(event.deltaY < 0 ? 1.15 : 1 / 1.15, ...spot(event));
}, { passive: false });
root.addEventListener("click", event => {
  const button = event.target.closest("[data-mode], [data-do]");
  if (!button) return;
  if (button.dataset.mode) setMode(button.dataset.mode);
  else ACTIONS[button.dataset.do]();
});

function update() {
  const value = props.value || {};
  if (value.places && value.map !== map) {
    places = value.places;
    map = value.map;
    [chosen, cursor, selected] = [-1, -1, new Set()];
    fit();
  }
  if (value.colours) {
    colours = value.colours;
    only = null;
    root.querySelector("[data-do=label]").hidden = true;
    paintLegend();
  }
  if (value.selected) {
    selected = new Set(value.selected);
    announce(`${value.n_selected.toLocaleString("en")} cells selected`);
  }
  if (Number.isInteger(value.chosen)) {
    chosen = cursor = value.chosen;
    if (chosen >= 0) keepVisible(chosen);
  }
  draw();
  root.dataset.cells = places.x.length;
  root.dataset.chosen = chosen;
  root.dataset.colour = colours ? colours.title : "";
}

root.positionOf = i => {
  const box = canvas.getBoundingClientRect(), [x, y] = at(i);
  return [box.left + x, box.top + y];
};
new ResizeObserver(draw).observe(canvas);
watch("value", update);
setMode("move");
update();
