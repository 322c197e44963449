"use strict";
const report = /*report*/ null;
const { run, bins, failures } = report;
const $ = (id) => document.getElementById(id);
const canvas = $("chart"), tip = $("tip"), pen = canvas.getContext("2d");
const length = bins.failed.length;
const toBin = (at) => (at - run.started) / bins.seconds;
const short = (tag) => tag.slice(0, 7);
const clock = (bin) => {
  const tenths = Math.round(bin * bins.seconds * 10), minutes = Math.floor(tenths / 600);
  return `${minutes}:${((tenths % 600) / 10).toFixed(1).padStart(4, "0")}`;
};
const steps = run.scenarios.flatMap((s) => s.steps.map((step) => ({ name: step.name, bin: toBin(step.at) })));
const countOf = (release, bin) => release.counts[bin - release.first] || 0;
const total = (bin) => bins.untagged[bin] + bins.failed[bin] + bins.releases.reduce((n, r) => n + countOf(r, bin), 0);

let view = [0, length], cursor = null, dragFrom = null, colours = {};
const layout = { band: 0, labels: 30, bars: 96, marks: 300, latency: 338, axis: 428, end: 450 };
const left = 46;
const width = () => canvas.clientWidth - left;
const toX = (bin) => left + (bin - view[0]) / (view[1] - view[0]) * width();
const fromX = (x) => view[0] + (x - left) / width() * (view[1] - view[0]);

// Bars are at least two pixels wide. When zoomed out, a bar shows the mean of several bins.
function groupBins() {
  const size = Math.max(1, Math.ceil((view[1] - view[0]) / (width() / 2)));
  const from = Math.floor(view[0] / size) * size, groups = [];
  for (let bin = from; bin < Math.min(view[1], length); bin += size) {
    const end = Math.min(bin + size, length), group = { bin, end, parts: bins.releases.map(() => 0), rest: 0, failed: 0, max: 0, p99: 0 };
    for (let i = bin; i < end; i++) {
      bins.releases.forEach((release, n) => { group.parts[n] += countOf(release, i); });
      group.rest += bins.untagged[i];
      group.failed += bins.failed[i];
      group.max = Math.max(group.max, bins.max_ms[i]);
      group.p99 = Math.max(group.p99, bins.p99_ms[i]);
    }
    group.all = group.rest + group.failed + group.parts.reduce((a, b) => a + b, 0);
    groups.push(group);
  }
  return groups;
}

function truncate(text, room) {
  if (pen.measureText(text).width <= room) return text;
  while (text && pen.measureText(text + "…").width > room) text = text.slice(0, -1);
  return text && text + "…";
}

function line(x1, y1, x2, y2, colour, thick = 1, dash = []) {
  pen.strokeStyle = colour; pen.lineWidth = thick; pen.setLineDash(dash);
  pen.beginPath(); pen.moveTo(x1, y1); pen.lineTo(x2, y2); pen.stroke(); pen.setLineDash([]);
}

function write(text, x, y, colour, align = "left", font = "12px system-ui, sans-serif") {
  pen.font = font; pen.fillStyle = colour; pen.textAlign = align; pen.textBaseline = "middle"; pen.fillText(text, x, y);
}

function drawScenarios(palette) {
  run.scenarios.forEach((scenario, n) => {
    const x1 = Math.max(left, toX(toBin(scenario.started))), x2 = Math.min(left + width(), toX(toBin(scenario.ended)));
    if (x2 <= x1) return;
    pen.fillStyle = palette.band;
    pen.fillRect(x1, layout.band, x2 - x1, 24);
    if (n % 2) { pen.globalAlpha = .55; pen.fillRect(x1, 24, x2 - x1, layout.axis - 24); pen.globalAlpha = 1; }
    const good = scenario.passed && !scenario.figures.failed;
    pen.fillStyle = good ? palette.fine : palette.alarm;
    pen.fillRect(x1, layout.band, x2 - x1 - 1, 3);
    line(x1, layout.band, x1, layout.axis, palette.line);
    pen.font = "12px system-ui, sans-serif";
    const whole = (good ? "" : "✗ ") + scenario.name, room = x2 - x1 - 10;
    write(room < 60 && truncate(whole, room) !== whole ? truncate(String(n + 1), room) : truncate(whole, room), x1 + 6, layout.band + 14, good ? palette.ink : palette.alarm);
  });
}

function drawSteps(palette) {
  const ends = [left, left, left, left];
  pen.font = "11.5px system-ui, sans-serif";
  const seen = steps.filter((step) => step.bin >= view[0] && step.bin < view[1]);
  const named = seen.length * 60 < width() * ends.length; // otherwise the names overlap
  for (const step of seen) {
    const x = toX(step.bin);
    const long = pen.measureText(step.name).width + 8, before = x + long > left + width();
    const row = named ? ends.findIndex((end) => (before ? x - long : x) >= end) : -1;
    line(x, row < 0 ? layout.labels + 56 : layout.labels + row * 14 + 2, x, layout.axis, palette.step, 1, [2, 3]);
    if (row < 0) continue;
    ends[row] = before ? x : x + long;
    write(step.name, before ? x - 4 : x + 4, layout.labels + row * 14 + 8, palette.step, before ? "right" : "left", "11.5px system-ui, sans-serif");
  }
}

function drawBars(palette, groups) {
  const floor = layout.marks - 4, height = floor - layout.bars;
  const most = groups.reduce((most, g) => Math.max(most, g.all / (g.end - g.bin)), 1);
  const tick = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find((n) => most / n <= 4) || 2000;
  for (let n = 0; n <= most; n += tick) {
    const y = floor - n / most * height;
    line(left, y, left + width(), y, palette.line);
    write(n, left - 6, y, palette.quiet, "right", "11px system-ui, sans-serif");
  }
  for (const g of groups) {
    const x1 = Math.max(left, toX(g.bin)), x2 = toX(g.end), gap = x2 - x1 > 5 ? 1 : 0;
    let y = floor;
    const stack = (count, colour) => {
      const tall = count / (g.end - g.bin) / most * height;
      y -= tall; pen.fillStyle = colour; pen.fillRect(x1, y, x2 - x1 - gap, tall);
    };
    g.parts.forEach((count, n) => { if (count) stack(count, palette.releases[n]); });
    stack(g.rest, palette.rest);
    stack(g.failed, palette.alarm);
  }
}

function drawLatency(palette, groups) {
  const floor = layout.axis - 4, height = floor - layout.latency - 4;
  const decades = Math.max(2, Math.ceil(Math.log10(bins.max_ms.reduce((most, ms) => Math.max(most, ms), 1))));
  const toY = (ms) => floor - Math.max(0, Math.log10(Math.max(1, ms))) / decades * height;
  for (let n = 0; n <= decades; n++) {
    line(left, toY(10 ** n), left + width(), toY(10 ** n), palette.line);
    write(n < 3 ? `${10 ** n} ms` : `${10 ** (n - 3)} s`, left - 4, toY(10 ** n), palette.quiet, "right", "10.5px system-ui, sans-serif");
  }
  pen.fillStyle = palette.slow;
  for (const g of groups) {
    const x1 = Math.max(left, toX(g.bin));
    if (g.all) pen.fillRect(x1, toY(g.max), toX(g.end) - x1, floor - toY(g.max));
  }
  pen.strokeStyle = palette.slowest; pen.lineWidth = 1.5; pen.beginPath();
  groups.forEach((g, n) => {
    const x = Math.max(left, toX((g.bin + g.end) / 2));
    if (g.all && n && groups[n - 1].all) pen.lineTo(x, toY(g.p99)); else pen.moveTo(x, toY(g.p99));
  });
  pen.stroke();
}

// Failure marks have the same width at every zoom level. Marks close to each other share a flag with their count.
function drawFailures(palette) {
  let flag = null;
  const drawFlag = () => {
    if (!flag) return;
    const x = (flag.from + flag.to) / 2, y = layout.marks + 11, text = String(flag.count);
    pen.font = "bold 12px system-ui, sans-serif";
    const half = Math.max(9, pen.measureText(text).width / 2 + 6), middle = Math.min(Math.max(x, left + half), left + width() - half);
    pen.fillStyle = palette.alarm; pen.beginPath(); pen.roundRect(middle - half, y - 9, half * 2, 18, 9); pen.fill();
    write(text, middle, y + .5, palette.card, "center", "bold 12px system-ui, sans-serif");
  };
  bins.failed.forEach((count, bin) => {
    if (!count || bin < Math.floor(view[0]) || bin >= view[1]) return;
    const x = Math.max(left, toX(bin + .5));
    line(x, 26, x, layout.axis, palette.alarm, 2);
    if (flag && x - flag.to < 24) { flag.to = x; flag.count += count; } else { drawFlag(); flag = { from: x, to: x, count }; }
  });
  drawFlag();
}

function drawAxis(palette) {
  const seconds = (view[1] - view[0]) * bins.seconds, minStep = seconds / Math.max(2, width() / 90);
  const every = [.1, .2, .5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600].find((n) => n >= minStep) || 1200;
  for (let s = Math.ceil(view[0] * bins.seconds / every) * every; s <= view[1] * bins.seconds; s += every) {
    const x = toX(s / bins.seconds);
    line(x, layout.axis, x, layout.axis + 4, palette.quiet);
    const text = every < 1 ? clock(s / bins.seconds) : clock(s / bins.seconds).slice(0, -2);
    write(text, Math.min(Math.max(x, left + 12), left + width() - 14), layout.axis + 13, palette.quiet, "center", "11px system-ui, sans-serif");
  }
}

function drawCaption(palette) {
  const text = "longest (bars), p99 (line)", font = "11px system-ui, sans-serif";
  pen.font = font; pen.fillStyle = palette.card;
  pen.fillRect(left, layout.latency - 14, pen.measureText(text).width + 8, 15);
  write(text, left + 3, layout.latency - 6, palette.quiet, "left", font);
}

function draw() {
  const scale = window.devicePixelRatio || 1, groups = groupBins();
  canvas.style.height = `${layout.end}px`;
  canvas.width = canvas.clientWidth * scale; canvas.height = layout.end * scale;
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  drawScenarios(colours); drawBars(colours, groups); drawLatency(colours, groups); drawSteps(colours); drawCaption(colours); drawFailures(colours); drawAxis(colours);
  if (cursor !== null && dragFrom !== null) {
    pen.fillStyle = colours.releases[0] || colours.ink; pen.globalAlpha = .18;
    pen.fillRect(Math.min(cursor, dragFrom), 26, Math.abs(cursor - dragFrom), layout.axis - 26); pen.globalAlpha = 1;
  }
  drawTooltip(colours, groups);
}

function drawTooltip(palette, groups) {
  const bin = cursor === null ? -1 : fromX(cursor), group = groups.find((g) => bin >= g.bin && bin < g.end);
  tip.hidden = !group;
  if (!group) return;
  const reach = Math.max(6 / width() * (view[1] - view[0]), (group.end - group.bin) / 2), middle = (group.bin + group.end) / 2;
  pen.globalAlpha = .6; line(cursor, 26, cursor, layout.axis, palette.ink); pen.globalAlpha = 1;
  tip.replaceChildren();
  const row = (label, value, colour, bad) => {
    const div = document.createElement("div"), name = document.createElement("span");
    if (colour) { const dot = document.createElement("i"); dot.style.background = colour; name.append(dot); }
    name.append(label); div.append(name, value);
    if (bad) div.className = "bad";
    tip.append(div);
  };
  const scenario = run.scenarios.find((s) => middle >= toBin(s.started) && middle < toBin(s.ended));
  row(clock(group.bin), `${group.all} in ${((group.end - group.bin) * bins.seconds).toFixed(1)} s`);
  if (scenario) row(scenario.name, "");
  group.parts.forEach((count, n) => { if (count) row(short(bins.releases[n].tag), String(count), palette.releases[n]); });
  if (group.rest) row("release unknown", String(group.rest), palette.rest);
  if (group.all) { row("longest", `${group.max} ms`); row("p99 over 1 s", `${group.p99} ms`); }
  for (const step of steps) if (Math.abs(step.bin - middle) <= reach) row(`${clock(step.bin)} ${step.name}`, "");
  let near = 0;
  bins.failed.forEach((count, i) => { if (Math.abs(i + .5 - middle) <= reach) near += count; });
  if (near) row(`${near} failed`, "", palette.alarm, true);
  const close = failures.filter((f) => Math.abs(Math.floor(toBin(f.at)) + .5 - middle) <= reach);
  for (const f of close.slice(0, 3)) row(`${f.method} ${f.path}: ${f.error || f.status}`, "", null, true);
  const room = canvas.clientWidth - tip.offsetWidth;
  tip.style.left = `${Math.max(0, cursor + 14 > room ? Math.min(room, cursor - tip.offsetWidth - 14) : cursor + 14)}px`;
  tip.style.top = `${layout.bars}px`;
}

function setView(from, to) {
  const least = Math.min(10, length), span = Math.min(length, Math.max(least, to - from));
  const start = Math.min(Math.max(0, from + (to - from - span) / 2), length - span);
  view = [start, start + span]; cursor = null;
  draw();
}
const showScenario = (scenario) => setView(toBin(scenario.started) - 5, toBin(scenario.ended) + 5);
const zoom = (factor) => {
  const middle = cursor === null ? (view[0] + view[1]) / 2 : fromX(cursor), half = (view[1] - view[0]) / 2 * factor;
  setView(middle - half, middle + half);
};

canvas.addEventListener("pointermove", (event) => { cursor = Math.max(left, event.offsetX); draw(); });
canvas.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse" && dragFrom === null) { cursor = null; draw(); } });
canvas.addEventListener("pointerdown", (event) => {
  cursor = Math.max(left, event.offsetX);
  if (event.pointerType === "mouse") { dragFrom = cursor; canvas.setPointerCapture(event.pointerId); }
  draw();
});
canvas.addEventListener("pointerup", (event) => {
  const from = dragFrom;
  dragFrom = null;
  if (from !== null && Math.abs(cursor - from) > 6) return setView(fromX(Math.min(from, cursor)), fromX(Math.max(from, cursor)));
  if (event.offsetY < 24) {
    const bin = fromX(event.offsetX), scenario = run.scenarios.find((s) => bin >= toBin(s.started) && bin < toBin(s.ended));
    if (scenario) return showScenario(scenario);
  }
  draw();
});
canvas.addEventListener("pointercancel", () => { dragFrom = null; });
canvas.addEventListener("dblclick", () => setView(0, length));
$("zoom-reset").onclick = () => setView(0, length);
$("zoom-in").onclick = () => zoom(.4);
$("zoom-out").onclick = () => zoom(2.5);
document.querySelectorAll("[data-scenario]").forEach((button) => {
  button.onclick = () => { showScenario(run.scenarios[button.dataset.scenario]); canvas.scrollIntoView({ block: "center", behavior: "smooth" }); };
});

function applyColours() {
  const style = getComputedStyle(document.documentElement), colour = (name) => style.getPropertyValue(`--${name}`).trim();
  colours = Object.fromEntries(["card", "ink", "quiet", "line", "band", "rest", "alarm", "fine", "step", "slow", "slowest"].map((n) => [n, colour(n)]));
  colours.releases = bins.releases.map((_, n) => colour(`r${n % 8}`));
  const entries = bins.releases.map((r, n) => [short(r.tag), colours.releases[n]]);
  entries.push(["release unknown", colours.rest], ["failed", colours.alarm]);
  $("legend").replaceChildren(...entries.map(([text, fill], n) => {
    const item = document.createElement("li"), dot = document.createElement("i"), name = document.createElement(n < bins.releases.length ? "b" : "span");
    dot.style.background = fill; name.textContent = text; item.append(dot, name);
    return item;
  }));
  draw();
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", applyColours);
addEventListener("resize", draw);
applyColours();
