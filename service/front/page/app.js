"use strict";

const REFRESH_MS = 15_000; // while the page is visible
const RETRY_MS = 10_000; // after a failed request
const TIMEOUT_MS = 8_000; // of one request
const RECENT_COUNT = 5; // rollback candidates outside the collapsed list
const OUTCOME_TEXTS = { live: "went live", refused: "refused", rollback: "rollback" };

// Kept in memory only: browsers may write sessionStorage to disk, and the token permits writes.
let token = "";

const element = (id) => document.getElementById(id);

/** Create an element. Strings become text nodes, never HTML. */
function create(name, attributes, ...children) {
  const svg = name.startsWith("svg:") && "http://www.w3.org/2000/svg";
  const node = svg ? document.createElementNS(svg, name.slice(4)) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(key, value);
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

/** Replace the children of `parent`, and restore the focus to the element with the same data-key. */
function replaceChildren(parent, ...children) {
  const focused = parent.contains(document.activeElement) ? document.activeElement.dataset.key : "";
  parent.replaceChildren(...children);
  if (focused) focus(focused);
}

const focus = (key) => document.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });

const lastData = {};
/** Store the data under this name, and return whether it differs from the data stored before. */
const storeChange = (name, data) => lastData[name] !== (lastData[name] = JSON.stringify(data));

const outcomeText = (outcome) => OUTCOME_TEXTS[outcome] ?? outcome;
const stepsText = (seconds) => Object.entries(seconds).map(([step, each]) => `${step} ${formatDuration(each)}`)
  .join(", ");
const sum = (seconds) => Object.values(seconds).reduce((subtotal, each) => subtotal + each, 0);
/** Return the median of sorted numbers. */
const median = (sorted) => (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
const formatNumber = (value) => value.toLocaleString(undefined, { maximumFractionDigits: 1 });
const formatDay = (iso) => new Date(iso).toLocaleDateString(undefined, { day: "numeric", month: "short" });
const shorten = (text) => (text.length > 200 ? `${text.slice(0, 160)}…` : text);

function formatDuration(seconds) {
  if (seconds < 100) return `${formatNumber(seconds)} s`;
  if (seconds < 100 * 60) return `${formatNumber(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${formatNumber(seconds / 3600)} h`;
  return `${formatNumber(seconds / 86400)} days`;
}

/** Create a time element with the local time, and UTC as its tooltip. */
function createTime(iso) {
  const local = new Date(iso).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
  const utc = new Date(iso).toISOString().replace("T", " ").slice(0, 19);
  return create("time", { datetime: iso, title: `${utc} UTC` }, local);
}

const createError = (status, detail, suffix = "") => Object.assign(new Error(detail), { status, suffix });
const errorText = (error) => `${error.message}${error.suffix ?? ""}`;

/** Send a request and return its JSON. Throws an error with `status`, 0 without a complete response. */
async function request(path, { bearer = token, headers = {}, ...options } = {}) {
  if (bearer) headers.Authorization = `Bearer ${bearer}`;
  let response;
  try {
    response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS), headers, ...options });
  } catch {
    throw createError(0, "the server did not respond");
  }
  const body = await response.json().catch(() => null);
  const suffix = response.status >= 500 && body?.request_id ? `, request ${body.request_id}` : "";
  if (!response.ok) throw createError(response.status, body?.detail ?? `status ${response.status}`, suffix);
  if (!body) throw createError(0, "the response was incomplete");
  return body;
}

// --- rendering

/** Create a button; `hidden` is additional text for screen readers. */
function createButton(text, hidden, key, click) {
  const label = create("span", { class: "visually-hidden" }, hidden);
  return create("button", { type: "button", "data-key": key, click }, text, label);
}

const createNotesButton = (tag, key) => createButton("Notes", ` on ${tag}`, key, () => openNotes(tag, key));

const UNKNOWN = "unknown"; // in place of the live release, as long as reads require a token

/** Show the running release and its deploy. `live` is null without a recorded live release, or UNKNOWN. */
function renderLive(version, live, last) {
  element("live").hidden = false;
  element("refused").hidden = last?.outcome !== "refused";
  if (last) element("refused").textContent = `The last deploy (${last.tag}) was refused: ${shorten(last.reason)}`;
  if (!storeChange("live", [version, live])) return;
  element("live-tag").textContent = version.tag;
  const details = element("live-details");
  const started = create("p", {}, `${version.environment}, started `, createTime(version.started_at));
  if (live === UNKNOWN) return replaceChildren(details, started);
  if (live?.tag === version.tag) {
    const steps = stepsText(live.seconds);
    const took = steps && `The deploy took ${formatDuration(sum(live.seconds))}: ${steps}.`;
    const since = create("p", {}, "since ", createTime(live.since), live.by && ` by ${live.by}`);
    const notes = createNotesButton(live.tag, "notes-live");
    return replaceChildren(details, since, create("p", { class: "muted" }, took), notes);
  }
  const explanation = live
    ? ["The ledger has no record of this deploy yet. Last recorded live release: ", create("code", {}, live.tag), "."]
    : [
        "The ledger has no record of a live release. deploy.sh records deploys when the server's .env sets ",
        create("code", {}, `NOTIFY_URL=${location.origin}/deploys`), " and sets ",
        create("code", {}, "NOTIFY_TOKEN"), " to one of the tokens in ", create("code", {}, "API_TOKEN"), ".",
      ];
  replaceChildren(details, started, create("p", {}, ...explanation));
}

function renderRollbackCandidates(items) {
  if (!storeChange("rollback", items)) return;
  element("rollback-none").hidden = items.length > 0;
  element("rollback").hidden = items.length === 0;
  element("rollback-more").hidden = items.length <= RECENT_COUNT;
  replaceChildren(element("rollback-recent"), ...items.slice(0, RECENT_COUNT).map(createCandidate));
  replaceChildren(element("rollback-older"), ...items.slice(RECENT_COUNT).map(createCandidate));
}

function createCandidate({ tag, live_at }) {
  const line = create("code", {}, `IMAGE_TAG=${tag}`);
  const copy = createButton("Copy", ` IMAGE_TAG=${tag}`, `copy-${tag}`, () => copyLine(line, copy));
  return create("li", {}, line, create("span", { class: "muted" }, "went live ", createTime(live_at)), copy);
}

async function copyLine(line, button) {
  let copied = true;
  try {
    await navigator.clipboard.writeText(line.textContent);
  } catch {
    // Browsers offer no clipboard over plain HTTP or without the permission.
    getSelection().selectAllChildren(line);
    copied = document.execCommand("copy");
  }
  button.firstChild.data = copied ? "Copied" : "Selected";
  const next = "Put it in the server's .env, then run deploy.sh.";
  const done = copied ? `Copied ${line.textContent}.` : "Copy the selected text.";
  element("announcement").textContent = `${done} ${next}`;
  setTimeout(() => (button.firstChild.data = "Copy"), 4000);
}

/** Return the deploy that ended last, in the order of /live. The most recently recorded deploys come first. */
function findLastEnded(items) {
  const endedLater = (last, each) => (new Date(each.ended_at) > new Date(last.ended_at) ? each : last);
  return items.length ? items.reduce(endedLater) : undefined;
}

let deploys = [];
let older = null; // the cursor of the next page

/** Put the newest page in front of the deploys that are already loaded. */
function mergeDeploys({ items, next }) {
  const last = deploys.findIndex((each) => each.attempt === items.at(-1)?.attempt);
  const newest = deploys.length && items[0]?.attempt !== deploys[0].attempt && items[0];
  const kept = last < 0 ? [] : deploys.slice(last + 1);
  if (!kept.length) older = next;
  deploys = [...items, ...kept];
  if (newest) element("announcement").textContent = `${newest.tag}: ${outcomeText(newest.outcome)}.`;
}

function renderDeploys() {
  element("deploys-none").hidden = deploys.length > 0;
  element("deploys").hidden = deploys.length === 0;
  element("older").hidden = older === null;
  if (!storeChange("deploys", deploys)) return;
  replaceChildren(element("rows"), ...deploys.map(createRow));
  drawChart();
}

function createRow(deploy) {
  const cell = (attributes, ...children) => create("td", { role: "cell", ...attributes }, ...children);
  const expandable = (brief, full) => create("details", {}, create("summary", {}, brief), full);
  const brief = shorten(deploy.reason);
  const reason = brief === deploy.reason ? brief : expandable(brief, deploy.reason);
  const outcome = create("b", { class: deploy.outcome }, outcomeText(deploy.outcome));
  const actor = deploy.actor && create("span", { class: "muted" }, ` by ${deploy.actor}`);
  const steps = stepsText(deploy.seconds);
  return create("tr", { role: "row" },
    create("th", { role: "rowheader", scope: "row" }, create("code", { title: deploy.tag }, deploy.tag)),
    cell({ class: "outcome" }, outcome, deploy.reason && ": ", reason),
    cell({}, createTime(deploy.ended_at), actor),
    cell({ class: "number" }, steps ? expandable(formatDuration(sum(deploy.seconds)), steps) : "–"),
    cell({ class: "actions" }, createNotesButton(deploy.tag, `notes-${deploy.attempt}`)));
}

/** Draw a bar for each deploy that fits. The table contains the same data. */
function drawChart() {
  const width = element("chart").clientWidth;
  const [height, left, top, base] = [170, 34, 10, 146];
  if (!width || !deploys.length) return;
  const shown = deploys.slice(0, Math.floor((width - left) / 8)).reverse();
  const seconds = shown.map((deploy) => sum(deploy.seconds));
  const maximum = Math.max(...seconds, 1);
  const intervals = [0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600];
  const interval = intervals.find((each) => maximum / each <= 4) ?? maximum;
  const y = (value) => base - ((base - top) * value) / (Math.ceil(maximum / interval) * interval);
  const slotWidth = (width - left) / Math.max(shown.length, 12);
  const barWidth = Math.min(slotWidth * 0.7, 28);
  const parts = [];
  for (let value = 0; value < maximum + interval; value += interval) {
    parts.push(create("svg:line", { x1: left, x2: width, y1: y(value), y2: y(value) }),
      create("svg:text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, formatNumber(value)));
  }
  let nextLabelX = 0; // keeps the labels of the days from overlapping
  shown.forEach((deploy, index) => {
    const [x, day] = [left + index * slotWidth, formatDay(deploy.ended_at)];
    if (x >= nextLabelX && x < width - 40 && day !== (index && formatDay(shown[index - 1].ended_at))) {
      parts.push(create("svg:text", { x, y: height - 6 }, day));
      nextLabelX = x + 64;
    }
    const barHeight = Math.max(base - y(seconds[index]), 2);
    const bar = { class: deploy.outcome, x: x + 1, y: base - barHeight, width: barWidth, height: barHeight, rx: 1 };
    const label = `${deploy.tag} ${outcomeText(deploy.outcome)}, ${day}, ${formatDuration(seconds[index])}`;
    parts.push(create("svg:rect", bar, create("svg:title", {}, label)));
  });
  element("chart").replaceChildren(...parts);
  const sorted = [...seconds].sort((a, b) => a - b);
  const count = (outcome) => shown.filter((deploy) => deploy.outcome === outcome).length;
  const rollbacks = count("rollback");
  element("chart-text").textContent =
    `Duration of the last ${shown.length === 1 ? "deploy" : `${shown.length} deploys`} in seconds, ` +
    `${formatDay(shown[0].ended_at)} to ${formatDay(shown.at(-1).ended_at)}: ${count("live")} went live, ` +
    `${count("refused")} refused, ${rollbacks} ${rollbacks === 1 ? "rollback" : "rollbacks"}; median ` +
    `${formatDuration(median(sorted))}, longest ${formatDuration(sorted.at(-1))}.`;
}

function formatFrequency(perDay) {
  if (perDay >= 1) return `${formatNumber(perDay)} a day`;
  return perDay * 7 >= 1 ? `${formatNumber(perDay * 7)} a week` : `${formatNumber(perDay * 30)} a month`;
}

const formatRate = (rate) => `${formatNumber(rate * 100)}%`;

function renderMetrics({ days, ...metrics }) {
  const formats = { deploys_per_day: formatFrequency, change_failure_rate: formatRate };
  element("days").textContent = days;
  for (const [name, value] of Object.entries(metrics)) {
    element(name).textContent = value === null ? "no data in this period" : (formats[name] ?? formatDuration)(value);
    element(name).className = value === null ? "no-data" : "value";
  }
}

// --- polling

let timer;
let latestRefresh = null; // identifies the refresh in flight; the responses of one that it replaced are ignored
let updatedAt = "";

function refresh() {
  if (!latestRefresh && !document.hidden) startRefresh();
}

/** Use this token from now on, and ignore responses to requests that were sent with another one. */
function setToken(value) {
  token = value;
  startRefresh();
}

async function startRefresh() {
  clearTimeout(timer);
  const own = (latestRefresh = Symbol("refresh"));
  let delay = REFRESH_MS;
  try {
    const data = await loadData(token);
    if (own !== latestRefresh) return;
    render(data);
    if (data.denied) delay = 0;
  } catch (error) {
    if (own !== latestRefresh) return;
    showError(error);
    delay = RETRY_MS;
  }
  latestRefresh = null;
  if (delay) timer = setTimeout(refresh, delay);
}

/** Request all data. If the ledger requires another token, return the version only, and the error as `denied`. */
async function loadData(bearer) {
  const version = await request("/version", { bearer });
  const nullIf404 = (error) => (error.status === 404 ? null : Promise.reject(error));
  const read = (path) => request(path, { bearer });
  try {
    const [live, page, candidates, metrics] = await Promise.all([
      read("/live").catch(nullIf404), read("/deploys"), read("/rollbacks"), read("/figures"),
    ]);
    return { version, live, page, candidates, metrics };
  } catch (error) {
    if (error.status !== 401) throw error;
    return { version, denied: error };
  }
}

function render({ version, live, page, candidates, metrics, denied }) {
  if (denied) {
    renderLive(version, UNKNOWN);
    showSignIn(denied);
    return;
  }
  renderLive(version, live, findLastEnded(page.items));
  renderRollbackCandidates(candidates.items);
  mergeDeploys(page);
  element("ledger").hidden = false;
  element("sign-in").hidden = true;
  renderDeploys();
  renderMetrics(metrics);
  showUpdated();
}

function showUpdated() {
  if (!element("error").hidden) element("announcement").textContent = "The API is available again.";
  element("error").hidden = true;
  updatedAt = new Date().toLocaleTimeString();
  element("updated").textContent = `as of ${updatedAt}`;
}

/** Show why a request failed. `next` says what happens next, or what to do. */
function showError(error, next = `Retrying every ${RETRY_MS / 1000} s.`) {
  const summary = "status" in error ? "The request to the API failed" : "An error occurred on this page";
  const age = updatedAt ? `The data below is from ${updatedAt}. ` : "";
  const text = (cause) => `${summary} (${cause}). ${age}${next}`;
  // The request ID differs with each retry: without a new cause, screen readers should not repeat the alert.
  if (storeChange("error", text(error.message))) element("error").textContent = text(errorText(error));
  element("error").hidden = false;
  if (!updatedAt) element("updated").textContent = "";
}

/** Ask for a token. Hide the ledger: it may be visible if the token was revoked. */
function showSignIn(error) {
  element("error").hidden = element("ledger").hidden = true;
  element("updated").textContent = updatedAt = "";
  element("sign-in-error").textContent = token ? `Access denied: ${error.message}.` : "";
  element("sign-in").hidden = false;
  token = "";
}

element("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken(element("sign-in-token").value);
});

element("older").addEventListener("click", async () => {
  const before = older;
  try {
    const { items, next } = await request(`/deploys?before=${before}`);
    if (before !== older) return; // a double click
    deploys.push(...items);
    older = next;
    renderDeploys();
    // The focused button is hidden now. A page can be empty if rows were removed, for example by a restore.
    if (next === null) focus(`notes-${(items[0] ?? deploys.at(-1)).attempt}`);
  } catch (error) {
    showError(error, "To try again, select “Older deploys”.");
  }
});

for (const warning of document.querySelectorAll(".insecure")) warning.hidden = isSecureContext;
document.addEventListener("visibilitychange", refresh);
new ResizeObserver(drawChart).observe(element("chart"));
refresh();

// --- notes

let opened = { tag: "", key: "", next: null }; // the release, the data-key of the opening button, the next cursor
const drafts = new Map(); // by release: the text, its idempotency key, and whether it is being sent

function showNoteStatus(text, isError = false) {
  element("note-status").textContent = text;
  element("note-status").className = isError ? "error" : "";
}

const notesPath = () => `/releases/${encodeURIComponent(opened.tag)}/notes`;

function openNotes(tag, key) {
  opened = { tag, key, next: null };
  element("notes-tag").textContent = tag;
  element("notes-list").replaceChildren();
  element("notes-none").hidden = element("notes-older").hidden = true;
  element("note-text").value = drafts.get(tag)?.text ?? "";
  element("note-token").value = token;
  showNoteStatus("");
  element("notes").showModal();
  loadNotes();
}

/** Load the newest notes, or those older than the cursor `before`. */
async function loadNotes(before = "") {
  const requested = opened;
  try {
    const { items, next } = await request(`${notesPath()}${before && `?before=${before}`}`);
    if (requested !== opened || (before && before !== opened.next)) return;
    if (!before) element("notes-list").replaceChildren();
    const notes = items.map((note) => {
      return create("li", { tabindex: -1 }, createTime(note.created_at), create("p", {}, note.text));
    });
    element("notes-list").append(...notes);
    element("notes-none").hidden = element("notes-list").childElementCount > 0;
    element("notes-older").hidden = next === null;
    if (before && next === null) (notes[0] ?? element("notes-list").lastChild).focus(); // as for older deploys
    opened.next = next;
  } catch (error) {
    if (requested === opened) showNoteStatus(`Loading the notes failed: ${errorText(error)}.`, true);
  }
}

/** Create an idempotency key. crypto.randomUUID is unavailable over plain HTTP. */
const createKey = () => crypto.getRandomValues(new Uint32Array(4)).join("-");

async function addNote(event) {
  event.preventDefault();
  const [tag, bearer] = [opened.tag, element("note-token").value];
  const draft = drafts.get(tag);
  if (draft.sending) return;
  draft.sending = true;
  showNoteStatus("Sending…");
  try {
    const headers = { "Content-Type": "application/json", "Idempotency-Key": draft.key };
    await request(notesPath(), { method: "POST", bearer, headers, body: JSON.stringify({ text: draft.text }) });
    if (bearer !== token) setToken(bearer);
    if (drafts.get(tag) === draft) drafts.delete(tag); // unless the text changed in the meantime
    if (opened.tag !== tag) return;
    element("note-text").value = drafts.get(tag)?.text ?? "";
    showNoteStatus("Note added.");
    await loadNotes();
  } catch (error) {
    draft.sending = false;
    if (opened.tag !== tag) return;
    const isRejected = error.status && error.status < 500;
    const retry = " You can send it again; it will be added only once.";
    if (isRejected) showNoteStatus(`Not added: ${errorText(error)}.`, true);
    else showNoteStatus(`Not confirmed: ${errorText(error)}.${retry}`, true);
  }
}

// The key changes only with the text, so that a note sent again after a lost response is added once.
element("note-text").addEventListener("input", ({ target }) => {
  drafts.set(opened.tag, { text: target.value, key: createKey(), sending: false });
});
element("note").addEventListener("submit", addNote);
element("notes-older").addEventListener("click", () => loadNotes(opened.next));
element("notes-close").addEventListener("click", () => element("notes").close());
element("notes").addEventListener("close", () => focus(opened.key));
