"use strict";

const EVERY = 15_000; // milliseconds, while the page is seen
const RETRY = 10_000; // while the API does not answer
const PATIENCE = 8_000; // with one request
const FIRST = 5; // rollbacks that are shown at once
const WORDS = { live: "went live", refused: "refused", rolled_back: "rolled back to" };

// In memory only: a browser may write sessionStorage to disk, and who has this may write to the ledger.
let token = "";

const element = (id) => document.getElementById(id);

/** A new element; data goes into it as text only. */
function make(name, attributes, ...children) {
  const svg = name.startsWith("svg:") && "http://www.w3.org/2000/svg";
  const node = svg ? document.createElementNS(svg, name.slice(4)) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(key, value);
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

/** Replace what is in `parent`; the keyboard's focus stays on what has the same data-key. */
function fill(parent, ...children) {
  const focused = parent.contains(document.activeElement) ? document.activeElement.dataset.key : "";
  parent.replaceChildren(...children);
  if (focused) focus(focused);
}

const focus = (key) => document.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });

const seen = {};
/** Whether this is other data than last time. */
const changed = (name, data) => seen[name] !== (seen[name] = JSON.stringify(data));

const steps = (seconds) => Object.entries(seconds).map(([step, took]) => `${step} ${number(took)}`).join(", ");
const total = (seconds) => Object.values(seconds).reduce((sum, each) => sum + each, 0);
const number = (value) => value.toLocaleString(undefined, { maximumFractionDigits: 1 });
const day = (iso) => new Date(iso).toLocaleDateString(undefined, { day: "numeric", month: "short" });

const short = (text) => (text.length > 200 ? `${text.slice(0, 160)}…` : text);

function duration(seconds) {
  if (seconds < 100) return `${number(seconds)} s`;
  if (seconds < 100 * 60) return `${number(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${number(seconds / 3600)} h`;
  return `${number(seconds / 86400)} days`;
}

/** The local time, with UTC for who hovers and for machines. */
function moment(iso) {
  const local = new Date(iso).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
  const utc = new Date(iso).toISOString().replace("T", " ").slice(0, 19);
  return make("time", { datetime: iso, title: `${utc} UTC` }, local);
}

const problem = (status, detail, request = "") => Object.assign(new Error(detail), { status, request });
const told = (error) => `${error.message}${error.request ?? ""}`;

/** What the API answers; when it is an error, a problem with the API's own words. */
async function ask(path, { bearer = token, headers = {}, ...options } = {}) {
  if (bearer) headers.Authorization = `Bearer ${bearer}`;
  let answer;
  try {
    answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE), headers, ...options });
  } catch {
    throw problem(0, "no answer from the server");
  }
  const body = await answer.json().catch(() => null);
  const request = answer.status >= 500 && body?.request_id ? `, request ${body.request_id}` : "";
  if (!answer.ok) throw problem(answer.status, body?.detail ?? `status ${answer.status}`, request);
  if (!body) throw problem(0, "the answer was cut off");
  return body;
}

// --- what is shown

/** A button, with what only a screen reader needs to hear of it. */
function button(text, more, key, click) {
  return make("button", { type: "button", "data-key": key, click }, text, make("span", { class: "unseen" }, more));
}

const notesButton = (tag, key) => button("Notes", ` on ${tag}`, key, () => openNotes(tag, key));

function showLive(version, live, last) {
  element("live").hidden = false;
  element("refused").hidden = last?.outcome !== "refused";
  if (last) element("refused").textContent = `The last deploy, of ${last.tag}, was refused: ${short(last.reason)}`;
  if (!changed("live", [version, live])) return;
  element("live-tag").textContent = version.tag;
  const started = make("p", {}, `${version.environment}, started `, moment(version.started_at));
  if (live === undefined) return fill(element("live-facts"), started);
  if (live?.tag === version.tag) {
    const parts = steps(live.seconds);
    const took = parts && `Its deploy took ${duration(total(live.seconds))}: ${parts}.`;
    const since = make("p", {}, "since ", moment(live.since), live.by && ` by ${live.by}`);
    return fill(element("live-facts"), since, make("p", { class: "quiet" }, took), notesButton(live.tag, "notes-live"));
  }
  const known = live
    ? ["The ledger was not told of its deploy yet; the last that it knows of is ", make("code", {}, live.tag), "."]
    : [
        "The ledger was not told of any deploy that went live. deploy.sh tells it when the server's .env says ",
        make("code", {}, `NOTIFY_URL=${location.origin}/deploys`), " and, as ", make("code", {}, "NOTIFY_TOKEN"),
        ", one of ", make("code", {}, "API_TOKEN"), ".",
      ];
  fill(element("live-facts"), started, make("p", {}, ...known));
}

function showEarlier(items) {
  if (!changed("earlier", items)) return;
  element("back-none").hidden = items.length > 0;
  element("back").hidden = items.length === 0;
  element("back-more").hidden = items.length <= FIRST;
  fill(element("back-first"), ...items.slice(0, FIRST).map(earlier));
  fill(element("back-rest"), ...items.slice(FIRST).map(earlier));
}

function earlier({ tag, live_at }) {
  const line = make("code", {}, `IMAGE_TAG=${tag}`);
  const copy = button("Copy", ` IMAGE_TAG=${tag}`, `copy-${tag}`, () => copyLine(line, copy));
  return make("li", {}, line, make("span", { class: "quiet" }, "went live ", moment(live_at)), copy);
}

async function copyLine(line, pressed) {
  let copied = true;
  try {
    await navigator.clipboard.writeText(line.textContent);
  } catch {
    // There is no clipboard over plain HTTP, nor where it is forbidden.
    getSelection().selectAllChildren(line);
    copied = document.execCommand("copy");
  }
  pressed.firstChild.data = copied ? "Copied" : "Selected";
  const next = "Put it into the server's .env, then run deploy.sh.";
  element("news").textContent = copied ? `Copied ${line.textContent}. ${next}` : `Copy what is selected. ${next}`;
  setTimeout(() => (pressed.firstChild.data = "Copy"), 4000);
}

let deploys = [];
let older = null;

/** The newest deploys, before those that are shown already. */
function addDeploys({ items, next }) {
  const last = deploys.findIndex((each) => each.attempt === items.at(-1)?.attempt);
  const news = deploys.length && items[0]?.attempt !== deploys[0].attempt && items[0];
  const kept = last < 0 ? [] : deploys.slice(last + 1);
  if (!kept.length) older = next;
  deploys = [...items, ...kept];
  if (news) element("news").textContent = `${news.tag} ${WORDS[news.outcome]}.`;
}

function showDeploys() {
  element("deploys-none").hidden = deploys.length > 0;
  element("deploys").hidden = deploys.length === 0;
  element("older").hidden = older === null;
  if (!changed("deploys", deploys)) return;
  fill(element("rows"), ...deploys.map(row));
  draw();
}

function row(deploy) {
  const cell = (attributes, ...children) => make("td", { role: "cell", ...attributes }, ...children);
  const more = (brief, all) => make("details", {}, make("summary", {}, brief), all);
  const brief = short(deploy.reason);
  const reason = brief === deploy.reason ? brief : more(brief, deploy.reason);
  const parts = steps(deploy.seconds);
  return make("tr", { role: "row" },
    make("th", { role: "rowheader", scope: "row" }, make("code", { title: deploy.tag }, deploy.tag)),
    cell({ class: "how" }, make("b", { class: deploy.outcome }, WORDS[deploy.outcome]), deploy.reason && ": ", reason),
    cell({}, moment(deploy.ended_at), deploy.actor && make("span", { class: "quiet" }, ` by ${deploy.actor}`)),
    cell({ class: "number" }, parts ? more(duration(total(deploy.seconds)), parts) : "–"),
    cell({ class: "act" }, notesButton(deploy.tag, `notes-${deploy.attempt}`)));
}

/** A bar for each deploy, as many as there is room for; what they say is in the table, too. */
function draw() {
  const width = element("chart").clientWidth;
  const [height, left, top, base] = [170, 34, 10, 146];
  if (!width || !deploys.length) return;
  const shown = deploys.slice(0, Math.floor((width - left) / 8)).reverse();
  const seconds = shown.map((deploy) => total(deploy.seconds));
  const most = Math.max(...seconds, 1);
  const step = [0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600].find((each) => most / each <= 4) ?? most;
  const y = (value) => base - ((base - top) * value) / (Math.ceil(most / step) * step);
  const slot = (width - left) / Math.max(shown.length, 12);
  const wide = Math.min(slot * 0.7, 28);
  const parts = [];
  for (let value = 0; value < most + step; value += step) {
    parts.push(make("svg:line", { x1: left, x2: width, y1: y(value), y2: y(value) }),
      make("svg:text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, number(value)));
  }
  let free = 0; // where the next day has room for its name
  shown.forEach((deploy, index) => {
    const [x, when] = [left + index * slot, day(deploy.ended_at)];
    if (x >= free && x < width - 40 && when !== (index && day(shown[index - 1].ended_at))) {
      parts.push(make("svg:text", { x, y: height - 6 }, when));
      free = x + 64;
    }
    const bar = { class: deploy.outcome, x: x + 1, width: wide, rx: 1 };
    const tall = Math.max(base - y(seconds[index]), 2);
    const label = `${deploy.tag} ${WORDS[deploy.outcome]}, ${when}, ${duration(seconds[index])}`;
    parts.push(make("svg:rect", { ...bar, y: base - tall, height: tall }, make("svg:title", {}, label)));
  });
  element("chart").replaceChildren(...parts);
  const sorted = [...seconds].sort((a, b) => a - b);
  const count = (outcome) => shown.filter((deploy) => deploy.outcome === outcome).length;
  element("chart-text").textContent =
    `Seconds that ${shown.length === 1 ? "the last deploy" : `each of the last ${shown.length} deploys`} took, ` +
    `from ${day(shown[0].ended_at)} to ${day(shown.at(-1).ended_at)}: ${count("live")} went live, ` +
    `${count("refused")} refused, ${count("rolled_back")} rolled back to; median ` +
    `${duration(sorted[Math.floor(sorted.length / 2)])}, longest ${duration(sorted.at(-1))}.`;
}

function often(perDay) {
  if (perDay >= 1) return `${number(perDay)} a day`;
  return perDay * 7 >= 1 ? `${number(perDay * 7)} a week` : `${number(perDay * 30)} a month`;
}

function showFigures({ days, ...figures }) {
  const shapes = { deploys_per_day: often, change_failure_rate: (rate) => `${number(rate * 100)} %` };
  element("days").textContent = days;
  for (const [name, value] of Object.entries(figures)) {
    element(name).textContent = value === null ? "no data yet" : (shapes[name] ?? duration)(value);
    element(name).className = value === null ? "none" : "value";
  }
}

// --- asking again and again

let timer;
let asking = false;
let shownAt = "";

async function refresh() {
  if (asking || document.hidden) return;
  clearTimeout(timer);
  asking = true;
  let wait = EVERY;
  try {
    const version = await ask("/version");
    const nothing = (error) => (error.status === 404 ? null : Promise.reject(error));
    const asked = [ask("/live").catch(nothing), ask("/deploys"), ask("/rollbacks"), ask("/figures")];
    const [live, page, back, figures] = await Promise.all(asked).catch((error) => {
      if (error.status === 401) showLive(version);
      throw error;
    });
    showLive(version, live, page.items[0]);
    showEarlier(back.items);
    addDeploys(page);
    element("ledger").hidden = false;
    element("locked").hidden = true;
    showDeploys();
    showFigures(figures);
    answered();
  } catch (error) {
    wait = error.status === 401 ? 0 : RETRY;
    if (error.status === 401) lock(error);
    else failed(error);
  }
  asking = false;
  if (wait) timer = setTimeout(refresh, wait);
}

function answered() {
  if (!element("trouble").hidden) element("news").textContent = "The API answers again.";
  element("trouble").hidden = true;
  shownAt = new Date().toLocaleTimeString();
  element("updated").textContent = `as of ${shownAt}`;
}

function failed(error) {
  const old = shownAt ? `What is shown is of ${shownAt}.` : "";
  const what = "status" in error ? "The API does not answer" : "This page fails in this browser";
  const text = (why) => `${what} (${why}). ${old} It is asked again every ${RETRY / 1000} s.`;
  if (changed("trouble", text(error.message))) element("trouble").textContent = text(told(error)); // said aloud once
  element("trouble").hidden = false;
  if (!shownAt) element("updated").textContent = "";
}

function lock(error) {
  element("trouble").hidden = true;
  element("updated").textContent = "";
  element("locked-said").textContent = token ? `Not shown: ${error.message}.` : "";
  element("locked").hidden = false;
  token = "";
}

element("locked").addEventListener("submit", (event) => {
  event.preventDefault();
  token = element("read-token").value;
  refresh();
});

element("older").addEventListener("click", async () => {
  const before = older;
  try {
    const { items, next } = await ask(`/deploys?before=${before}`);
    if (before !== older) return; // pressed twice
    deploys.push(...items);
    older = next;
    showDeploys();
    if (next === null) focus(`notes-${items[0].attempt}`); // the button is gone
  } catch (error) {
    failed(error);
  }
});

for (const warning of document.querySelectorAll(".plain")) warning.hidden = isSecureContext;
document.addEventListener("visibilitychange", refresh);
new ResizeObserver(draw).observe(element("chart"));
refresh();

// --- notes

let noted = { tag: "", key: "", next: null }; // the release, and what opened its notes
const drafts = new Map(); // of each release: the text that is typed, and a key of its own

function say(text, wrong = false) {
  element("note-said").textContent = text;
  element("note-said").className = wrong ? "wrong" : "";
}

const notesPath = () => `/releases/${encodeURIComponent(noted.tag)}/notes`;

function openNotes(tag, key) {
  noted = { tag, key, next: null };
  element("notes-tag").textContent = tag;
  element("notes-list").replaceChildren();
  element("notes-none").hidden = element("notes-older").hidden = true;
  element("note-text").value = drafts.get(tag)?.text ?? "";
  element("note-token").value = token;
  say("");
  element("notes").showModal();
  loadNotes();
}

/** The newest notes, or those before `before`. */
async function loadNotes(before = "") {
  const asked = noted;
  try {
    const { items, next } = await ask(`${notesPath()}${before && `?before=${before}`}`);
    if (asked !== noted || (before && before !== noted.next)) return;
    if (!before) element("notes-list").replaceChildren();
    const shown = items.map((note) => make("li", { tabindex: -1 }, moment(note.created_at), make("p", {}, note.text)));
    element("notes-list").append(...shown);
    element("notes-none").hidden = element("notes-list").childElementCount > 0;
    element("notes-older").hidden = next === null;
    if (before && next === null) shown[0].focus(); // the button is gone
    noted.next = next;
  } catch (error) {
    if (asked === noted) say(`The notes cannot be read: ${told(error)}.`, true);
  }
}

/** A key for one note. crypto.randomUUID is not there over plain HTTP. */
const newKey = () => crypto.getRandomValues(new Uint32Array(4)).join("-");

async function leaveNote(event) {
  event.preventDefault();
  const [tag, bearer] = [noted.tag, element("note-token").value];
  const draft = drafts.get(tag);
  if (draft.sending) return;
  draft.sending = true;
  say("Sending…");
  try {
    const headers = { "Content-Type": "application/json", "Idempotency-Key": draft.key };
    await ask(notesPath(), { method: "POST", bearer, headers, body: JSON.stringify({ text: draft.text }) });
    token = bearer;
    if (drafts.get(tag) === draft) drafts.delete(tag); // else more was typed meanwhile
    if (noted.tag !== tag) return; // the notes of another are open by now
    element("note-text").value = drafts.get(tag)?.text ?? "";
    say("The note is left.");
    await loadNotes();
  } catch (error) {
    draft.sending = false;
    const again = error.status && error.status < 500 ? "" : " Send it again: it will not be left twice.";
    if (noted.tag === tag) say(`Not left: ${told(error)}.${again}`, true);
  }
}

// The key stays while the text is the same: sent again after an answer was lost, it is still left once.
element("note-text").addEventListener("input", ({ target }) => {
  drafts.set(noted.tag, { text: target.value, key: newKey(), sending: false });
});
element("note").addEventListener("submit", leaveNote);
element("notes-older").addEventListener("click", () => loadNotes(noted.next));
element("notes-close").addEventListener("click", () => element("notes").close());
element("notes").addEventListener("close", () => focus(noted.key));
