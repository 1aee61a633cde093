import { scoreLine } from "./chart.js";

const PAGE = 12;
const NEAREST = 8;
const EXAMPLES = 3;
const WIDEST_CHART = 736;
const MAIN_METRICS = [
  ["edit/exact_match", "Edits answered exactly"],
  ["generalization", "Rephrasings answered exactly"],
  ["locality/same_subject", "Same subject, left alone"],
  ["locality/unrelated", "Unrelated, left alone"],
  ["portability", "Implied facts followed"],
  ["routing/true_route", "Queries in scope routed in"],
];
const THEMES = ["auto", "light", "dark"];

const by = (id) => document.getElementById(id);
const state = { offset: 0, search: "", asked: 0, searched: 0 };

function make(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function request(path, options = {}) {
  const headers = { ...options.headers };
  const key = sessionStorage.getItem("serac-key");
  if (key) headers["x-serac-key"] = key;
  const answer = await fetch(path, { ...options, headers, credentials: "omit" });
  if (answer.ok) return answer;
  let message = `The server answered ${answer.status}.`;
  try {
    message = (await answer.json()).error.message;
  } catch {
    // not in the API's format: the status has to do
  }
  throw new Refused(answer.status, message);
}

const get = async (path) => (await request(path)).json();
const post = async (path, content) =>
  (
    await request(path, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(content),
    })
  ).json();

function complain(error) {
  const needsKey = error.status === 401 || error.status === 403;
  if (needsKey) showKey(true);
  by("error").textContent = needsKey
    ? `${error.message} Enter an API key above.`
    : error instanceof Refused
      ? error.message
      : "The server can't be reached. Is it running?";
  by("error").hidden = false;
}

// Asking

async function ask(query) {
  const turn = (state.asked += 1);
  by("question").value = query;
  by("error").hidden = true;
  by("status").textContent = "Asking both models";
  by("status").classList.remove("hidden");
  by("ask-button").disabled = true;
  try {
    const [answer, explained] = await Promise.all([
      post("/answer", { query }),
      post("/explain", { query, k: NEAREST }),
    ]);
    if (turn === state.asked) await show(answer, explained);
  } catch (error) {
    if (turn !== state.asked) return;
    by("status").textContent = "";
    by("result").hidden = true;
    complain(error);
  } finally {
    if (turn === state.asked) by("ask-button").disabled = false;
  }
}

async function show(answer, explained) {
  const inScope = answer.in_scope;
  const edit = inScope ? await editOf(answer.edit_id) : null;
  by("route").classList.toggle("in", inScope);
  by("route-title").textContent = inScope
    ? "In scope: answered from an edit"
    : "Out of scope: the base model's own answer";
  by("route-text").textContent = inScope
    ? edit
      ? `${edit.prompt} → ${edit.target_new}`
      : answer.edit_id
    : explained.candidates.length
      ? "An edit comes near, and is not what was asked."
      : "No edit comes into question.";
  say("base-answer", answer.base_answer);
  say("edited-answer", answer.edited_answer);
  by("edited-card").classList.toggle("in", inScope);
  by("figures").textContent = explained.candidates.length
    ? `Score ${explained.score.toFixed(4)}, threshold ${explained.threshold.toFixed(4)}, ` +
      `margin ${explained.margin >= 0 ? "+" : "−"}${Math.abs(explained.margin).toFixed(4)}.`
    : "The question names nothing that an edit is about.";
  by("candidates").replaceChildren(
    ...explained.candidates.map((candidate) => {
      const row = make("li", undefined, candidate.edit_id === answer.edit_id ? "matched" : "");
      row.append(
        make("span", candidate.score.toFixed(4), "score"),
        make("span", candidate.prompt, "prompt"),
        make("code", candidate.edit_id),
      );
      return row;
    }),
  );
  by("reason").textContent = explained.reason;
  by("result").hidden = false;
  state.explained = explained;
  drawChart();
  by("status").classList.add("hidden"); // for screen readers: the page shows it all
  by("status").textContent =
    `${inScope ? "In scope" : "Out of scope"}. Base model: ${by("base-answer").textContent}. ` +
    `Edited model: ${by("edited-answer").textContent}.`;
}

function say(id, words) {
  by(id).textContent = words.trim() || "(nothing)";
  by(id).classList.toggle("nothing", !words.trim());
}

function drawChart() {
  const { candidates, threshold, edit_id: matched } = state.explained ?? { candidates: [] };
  const width = Math.min(by("chart").clientWidth, WIDEST_CHART);
  const drawn = candidates.length && width ? [scoreLine(candidates, threshold, matched, width)] : [];
  by("chart").replaceChildren(...drawn);
}

async function editOf(id) {
  try {
    const found = await get(`/edits?limit=10&search=${encodeURIComponent(id)}`);
    return found.edits.find((edit) => edit.id === id) ?? null;
  } catch {
    return null;
  }
}

// The release

async function loadRelease() {
  const release = await get("/release");
  const count = release.edits.toLocaleString("en");
  by("served").classList.add("ready");
  by("served-text").textContent = `${release.release}, ${count} edits`;
  const facts = [
    ["Name", release.release],
    ["Live edits", count],
    ["Base model", release.base_model],
    ["Classifier", `${release.variant} on ${release.provider}`],
    ["Manifest", release.manifest_sha256.slice(0, 16)],
  ];
  by("release-facts").replaceChildren(
    ...facts.flatMap(([name, value]) => [make("dt", name), make("dd", value)]),
  );
  const names = [...new Set([...metricNames(release.metrics), ...metricNames(release.live_metrics)])];
  by("report").hidden = names.length === 0;
  by("metrics-main").replaceChildren(
    ...MAIN_METRICS.filter(([name]) => names.includes(name)).map(([name, said]) => {
      const row = make("tr");
      row.append(heading(said), cell(release.metrics[name]), cell(release.live_metrics[name]));
      return row;
    }),
  );
  by("metrics-all").replaceChildren(
    ...names.map((name) => {
      const row = make("tr");
      row.append(
        heading(name),
        cell(release.metrics[name]),
        interval(release.metrics, name),
        cell(release.live_metrics[name]),
        interval(release.live_metrics, name),
      );
      return row;
    }),
  );
}

const metricNames = (metrics) =>
  Object.keys(metrics).filter((name) => typeof metrics[name] === "number");

function heading(text) {
  const made = make("th", text);
  made.scope = "row";
  return made;
}

function figure(value) {
  if (typeof value !== "number") return "–";
  return Number.isInteger(value) && Math.abs(value) > 1 ? value.toLocaleString("en") : value.toFixed(4);
}

const cell = (value) => make("td", figure(value), "number");

function interval(metrics, name) {
  const found = metrics.intervals?.[name];
  return make("td", found ? `${figure(found.low)} to ${figure(found.high)}` : "", "number");
}

// A link can't send a key, so with one the report is fetched and saved.
async function openReport(event) {
  if (!sessionStorage.getItem("serac-key")) return;
  event.preventDefault();
  try {
    const content = await (await request("/release/report")).blob();
    const link = make("a");
    link.href = URL.createObjectURL(content);
    link.download = "report.html";
    link.click();
    URL.revokeObjectURL(link.href);
  } catch (error) {
    complain(error);
  }
}

// Edits

async function loadEdits() {
  const turn = (state.searched += 1);
  const query = new URLSearchParams({ search: state.search, offset: state.offset, limit: PAGE });
  const found = await get(`/edits?${query}`);
  if (turn !== state.searched) return;
  const last = found.offset + found.edits.length;
  by("edits-count").textContent = found.total
    ? `${found.offset + 1} to ${last} of ${found.total.toLocaleString("en")}, newest first`
    : state.search
      ? `No edit has “${state.search}” in it.`
      : "There are no live edits.";
  by("previous").disabled = found.offset === 0;
  by("next").disabled = last >= found.total;
  by("edit-rows").replaceChildren(...found.edits.map(editRow));
  if (!state.search && found.offset === 0) showExamples(found.edits.slice(0, EXAMPLES));
}

function editRow(edit) {
  const row = make("tr");
  const asked = make("td");
  const button = make("button", "Ask", "quiet small");
  button.type = "button";
  button.setAttribute("aria-label", `Ask: ${edit.prompt}`);
  button.addEventListener("click", () => {
    by("ask-title").scrollIntoView({ block: "start" });
    by("question").focus({ preventScroll: true });
    ask(edit.prompt);
  });
  asked.append(button);
  const id = make("td", undefined, "wide-only");
  id.append(make("code", edit.id));
  row.append(
    make("td", edit.prompt),
    make("td", edit.target_new, "target"),
    make("td", edit.subject ?? "–", "wide-only"),
    id,
    asked,
  );
  return row;
}

function showExamples(edits) {
  by("examples").hidden = edits.length === 0;
  by("examples-list").replaceChildren(
    ...edits.map((edit) => {
      const button = make("button", edit.prompt, "chip");
      button.type = "button";
      button.addEventListener("click", () => ask(edit.prompt));
      const row = make("li");
      row.append(button);
      return row;
    }),
  );
}

// Key and theme

function showKey(shown) {
  by("key-panel").hidden = !shown;
  by("key-button").setAttribute("aria-expanded", String(shown));
  if (shown) by("key").focus();
}

function setTheme(theme) {
  localStorage.setItem("serac-theme", theme);
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  by("theme-button").textContent = `Theme: ${theme}`;
}

async function load() {
  try {
    await Promise.all([loadRelease(), loadEdits()]);
    by("error").hidden = true;
  } catch (error) {
    by("served").classList.remove("ready");
    by("served-text").textContent = error.status === 503 ? "no release" : "not available";
    complain(error);
  }
}

by("ask-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const query = by("question").value.trim();
  if (query) ask(query);
});

let waiting;
by("search").addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    state.search = by("search").value.trim();
    state.offset = 0;
    loadEdits().catch(complain);
  }, 200);
});
by("search-form").addEventListener("submit", (event) => event.preventDefault());
for (const [id, step] of [["previous", -PAGE], ["next", PAGE]]) {
  by(id).addEventListener("click", () => {
    state.offset = Math.max(0, state.offset + step);
    loadEdits().catch(complain);
  });
}

new ResizeObserver(drawChart).observe(by("result"));
by("report-link").addEventListener("click", openReport);
by("key-button").addEventListener("click", () => showKey(by("key-panel").hidden));
by("key-panel").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("serac-key", by("key").value.trim());
  by("key").value = "";
  showKey(false);
  by("question").focus();
  load();
});
by("key-forget").addEventListener("click", () => {
  sessionStorage.removeItem("serac-key");
  showKey(false);
  by("key-button").focus();
});
by("theme-button").addEventListener("click", () => {
  const now = THEMES.indexOf(localStorage.getItem("serac-theme") ?? "auto");
  setTheme(THEMES[(now + 1) % THEMES.length]);
});

setTheme(localStorage.getItem("serac-theme") ?? "auto");
load();
