"use strict";

const element = (id) => document.getElementById(id);

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store" });
  if (!answer.ok) throw new Error(`${path} answered ${answer.status}`);
  return answer.json();
}

/** Run a task and say on the page whether the API answered. */
async function attempt(task) {
  try {
    await task();
    element("trouble").hidden = true;
  } catch (error) {
    element("trouble").textContent = `The API does not answer (${error.message}). Reload to try again.`;
    element("trouble").hidden = false;
  }
}

function make(name, ...children) {
  const node = document.createElement(name);
  node.append(...children);
  return node;
}

function moment(iso) {
  const time = make("time", new Date(iso).toLocaleString());
  time.dateTime = iso;
  return time;
}

/** A page of a list into `list`; the button asks for the next one until there is none. */
async function fill(list, button, path, show) {
  const url = button.dataset.next ? `${path}?before=${button.dataset.next}` : path;
  const page = await ask(url);
  list.append(...page.items.map(show));
  button.dataset.next = page.next ?? "";
  button.hidden = page.next === null;
}

function showNote(note) {
  return make("li", moment(note.created_at), " ", note.text);
}

function showRelease(release) {
  const list = make("ul");
  const more = make("button", "Older notes");
  more.type = "button";
  more.hidden = true;
  const path = `/releases/${encodeURIComponent(release.tag)}/notes`;
  const load = () => attempt(() => fill(list, more, path, showNote));
  more.addEventListener("click", load);

  const notes = make("details", make("summary", "Notes"), list, more);
  notes.addEventListener("toggle", () => {
    if (!notes.open) return;
    list.replaceChildren();
    more.dataset.next = "";
    load();
  });
  return make("li", make("code", release.tag), " ", moment(release.recorded_at), notes);
}

async function showLive() {
  const live = await ask("/version");
  element("live").replaceChildren(make("code", live.tag), ` (${live.environment}) since `, moment(live.started_at));
}

async function showReleases() {
  await fill(element("releases"), element("more"), "/releases", showRelease);
  element("none").hidden = element("releases").childElementCount > 0;
}

element("more").addEventListener("click", () => attempt(showReleases));
attempt(async () => {
  await showLive();
  await showReleases();
});
