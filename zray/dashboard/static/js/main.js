// The page: which of its parts is shown, the stream that feeds it, and what is told when that ends.
import {h, set, write} from "./dom.js";
import {clean, setClock} from "./format.js";
import * as net from "./net.js";
import {say, tick} from "./parts.js";
import {PAGES} from "./pages/all.js";

const RETRY_MS = [1000, 2000, 5000, 10000];
const $ = (id) => document.getElementById(id);

let session = null;
let current = null;  // {name, page, parameters, abort}
let paused = false;
let ended = false;
let failures = 0;
let keys = localStorage.getItem("zray-keys") !== "off";

// ---------------------------------------------------------------- addresses

function takeToken() {
  const match = location.hash.match(/^#token=([\w-]+)$/);
  if (!match) return;
  net.keep(match[1]);
  history.replaceState(null, "", "#/overview");  // no token stays in the address or in the history
}

function route() {
  const [name, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  return {name: PAGES[name] ? name : "overview", parameters: Object.fromEntries(new URLSearchParams(query))};
}

function addressOf(name, parameters) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== "" && value !== undefined));
  return `#/${name}${query.size ? "?" + query : ""}`;
}

// ---------------------------------------------------------------- one page

function show() {
  if (location.hash.startsWith("#token=")) { takeToken(); start(); return; }
  if (location.hash === "#main") { $("main").focus(); return; }
  const {name, parameters} = route();
  if (current && current.name === name && sameThing(current.parameters, parameters)) {
    Object.keys(current.parameters).forEach((key) => delete current.parameters[key]);
    Object.assign(current.parameters, parameters);
    listen();
    return;
  }
  current?.abort?.abort();
  const definition = PAGES[name];
  const own = {...parameters};
  const context = {
    parameters: own, session,
    change(more) {
      Object.assign(own, more);
      for (const key of Object.keys(own)) if (own[key] === "" || own[key] === undefined) delete own[key];
      history.replaceState(null, "", addressOf(name, own));
      listen();
    },
    ask: (question, given) => net.read(`/api/ask/${question}`, given),
    async act(method, id, more) {
      try { tell(await net.act(method, id, more), "info"); } catch (error) { tell(error.message, "bad"); }
    },
    tell,
  };
  const page = definition.make(context);
  current = {name, page, parameters: own, abort: null};
  write($("title"), definition.title);
  document.title = `${definition.title} – zray`;
  $("page").replaceChildren(page.element);
  delete $("page").dataset.fed;
  for (const link of $("nav").querySelectorAll("a")) {
    set(link, {"aria-current": link.dataset.page === (definition.under || name) ? "page" : null});
  }
  if (!ended) tell("");
  listen();
}

// Whether the address names the same thing, seen with another filter or order.
function sameThing(one, other) {
  return (one.id || "") === (other.id || "");
}

// ---------------------------------------------------------------- the stream

async function listen() {
  const mine = current;
  mine.abort?.abort();
  if (paused || ended || document.hidden) return;
  const abort = mine.abort = new AbortController();
  try {
    await net.stream({...mine.parameters, ...(mine.page.asks?.() || {}), view: mine.page.view}, abort.signal, (name, data) => {
      if (abort.signal.aborted) return;
      if (name === "ended") { finish(data.why); return; }
      if (name === "bad") { tell(data.error, "bad"); return; }
      failures = 0;
      state("live");
      if (data.error) { tell(data.error, "bad"); return; }
      if (!ended) tell(data.missing.length ? `Not complete: ${data.missing.join("; ")}` : "", "warn");
      mine.page.update(data);
      tick($("page"));
      $("page").dataset.fed = mine.name;
    });
    if (!abort.signal.aborted && !ended) again("The dashboard closed the stream.");
  } catch (error) {
    if (abort.signal.aborted) return;
    if (error instanceof net.Refused && error.status === 401) { askToken(); return; }
    if (error instanceof net.Refused && error.status < 500) { tell(error.message, "bad"); return; }
    again(error instanceof net.Refused ? error.message : "The dashboard does not answer: its session may have ended.");
  }
}

function again(why) {
  const wait = RETRY_MS[Math.min(failures, RETRY_MS.length - 1)];
  failures += 1;
  state("no connection");
  tell(`${why} Trying again in ${wait / 1000} s; what is shown is the last that came.`, "warn");
  const mine = current;
  setTimeout(() => { if (mine === current && !paused && !ended) listen(); }, wait);
}

function finish(why) {
  ended = true;
  state("ended");
  tell(`${why} What is shown is its last state.`, "warn");
}

function state(word) {
  set($("state"), {class: `state ${word.replace(" ", "-")}`});
  write($("state"), word);
}

let told = "";
function tell(message, tone = "info") {
  told = message;
  const banner = $("banner");
  set(banner, {class: `banner ${tone}`});
  write(banner, clean(message));
  banner.hidden = !message;
  if (message && tone === "info") setTimeout(() => { if (told === message) tell(""); }, 6000);
}

// ---------------------------------------------------------------- the token

function askToken() {
  current?.abort?.abort();
  net.keep("");
  state("no access");
  document.body.classList.add("locked");
  const input = h("input", {type: "password", id: "token", autocomplete: "off", required: true});
  const form = h("form", {class: "card login"}, h("h2", {}, "This page needs its token"),
    h("p", {}, "The token is missing, or it is of an earlier session. Run ", h("code", {}, "zray dashboard"),
      " and open the link that it prints, or paste the token here."),
    h("label", {for: "token"}, "Token"), input, h("button", {type: "submit"}, "Open"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    net.keep(input.value.trim().replace(/^.*token=/, ""));
    start();
  });
  write($("title"), "zray");
  $("page").replaceChildren(form);
  $("banner").hidden = true;
  input.focus();
}

// ---------------------------------------------------------------- tools

function theme(next) {
  const order = ["auto", "light", "dark"];
  const now = localStorage.getItem("zray-theme") || "auto";
  const chosen = next ? order[(order.indexOf(now) + 1) % order.length] : now;
  localStorage.setItem("zray-theme", chosen);
  set(document.documentElement, {"data-theme": chosen === "auto" ? null : chosen});
  write($("theme"), `Theme: ${chosen}`);
}

function pause() {
  paused = !paused;
  set($("pause"), {"aria-pressed": String(paused)});
  write($("pause"), paused ? "Go on" : "Pause");
  state(ended ? "ended" : paused ? "paused" : "live");
  if (paused) current?.abort?.abort();
  else listen();
}

function help() {
  const box = h("input", {type: "checkbox", id: "keys", checked: keys});
  box.addEventListener("change", () => {
    keys = box.checked;
    localStorage.setItem("zray-keys", keys ? "on" : "off");
  });
  const rows = [["/", "search"], ["p", "pause, go on"], ["g, then a letter", "go to a page: o overview, n nodes, j jobs, " +
    "t tasks, a actors, b objects, p placement groups, c control store, e events, l logs, i timeline, m metrics"],
    ["?", "this"], ["Esc", "close this"]];
  say("Keys and help", h("table", {class: "keys"}, h("tbody", {}, ...rows.map(([key, what]) =>
    h("tr", {}, h("th", {scope: "row"}, h("kbd", {}, key)), h("td", {}, what))))),
  h("p", {}, box, " ", h("label", {for: "keys"}, "Use these keys")),
  h("p", {}, "Numbers are of the moment. While no page is open, the cluster is not asked. docs/dashboard.md has the limits."));
}

let after = "";
function pressed(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || !keys || $("dialog").open) return;
  if (event.target.matches("input, select, textarea")) return;
  const key = event.key;
  const go = {o: "overview", n: "nodes", j: "jobs", t: "tasks", a: "actors", b: "objects", p: "groups", c: "control",
    e: "events", l: "logs", i: "timeline", m: "metrics"};
  if (after === "g" && go[key]) location.hash = `#/${go[key]}`;
  else if (key === "/") { event.preventDefault(); document.querySelector("#page input[type=search]")?.focus(); }
  else if (key === "p") pause();
  else if (key === "?") help();
  after = after === "g" ? "" : key;
}

// ---------------------------------------------------------------- start

async function start() {
  try {
    session = await net.read("/api/session");
  } catch (error) {
    if (error instanceof net.Refused && error.status === 401) { askToken(); return; }
    state("no connection");
    tell(`${error instanceof net.Refused ? error.message : "The dashboard does not answer: its session may have ended."} ` +
      "Trying again.", "warn");
    setTimeout(start, 3000);
    return;
  }
  document.body.classList.remove("locked");
  setClock(session.now_ms);
  write($("session"), clean(`${session.session_dir}${session.name ? " · " + session.name : ""} · zray ${session.version}`));
  tell("");
  state("live");
  current = null;
  show();
}

$("nav").append(h("ul", {}, ...Object.entries(PAGES).filter(([, page]) => !page.under).map(([name, page]) =>
  h("li", {}, h("a", {href: `#/${name}`, "data-page": name}, page.title)))));
$("pause").addEventListener("click", pause);
$("theme").addEventListener("click", () => theme(true));
$("help").addEventListener("click", help);
addEventListener("hashchange", () => { if (session || location.hash.startsWith("#token=")) show(); });
addEventListener("keydown", pressed);
document.addEventListener("visibilitychange", () => {  // a tab that nobody sees costs nothing
  if (!current || !session) return;
  if (document.hidden) current.abort?.abort();
  else listen();
});
setInterval(() => { if (!paused && !ended) { tick($("page")); current?.page.tick?.(); } }, 1000);
theme(false);
takeToken();
start();
