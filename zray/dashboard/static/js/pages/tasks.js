// Tasks: counts by function and state, the stream of what runs, the table, and the story of one task.
import {Lanes} from "../charts.js";
import {h, keyed, write} from "../dom.js";
import {clean, cleanLines, count, duration, moment, shortActor, shortId, shortTask} from "../format.js";
import * as net from "../net.js";
import {address, badge, card, confirm, empty, facts, link, redraw, since, text} from "../parts.js";
import {Table} from "../table.js";

const COUNTS = ["runs", "blocked", "waits", "finished", "failed"];

export function taskColumns() {
  return [
    {name: "name", label: "Name", from: ["name", "task_id", "count"], wide: true, show: (row) => h("span", {},
      link(address("task", {id: row.task_id}), text(row.name)), row.count > 1 ? ` × ${count(row.count)}` : "")},
    {name: "state", label: "State", show: (row) => badge(row.state)},
    {name: "pending_reason", label: "Why", from: ["pending_reason", "error_type"], wide: true, show: (row) =>
      text(row.pending_reason || row.error_type || "")},
    {name: "start_time_ms", label: "Time", num: true, from: ["start_time_ms", "end_time_ms", "creation_time_ms", "state"], show: time},
    {name: "worker_pid", label: "Pid", num: true, show: (row) => String(row.worker_pid ?? "–")},
    {name: "node_id", label: "Node", show: (row) => shortId(row.node_id)},
    {name: "job_id", label: "Job", show: (row) => String(parseInt(row.job_id, 16))},
    {name: "task_id", label: "Id", from: ["task_id", "attempt_number"], show: (row) =>
      h("code", {title: row.task_id}, shortTask(row.task_id) + (row.attempt_number ? ` #${row.attempt_number + 1}` : ""))},
  ];
}

function time(row) {
  if (row.state === "FINISHED" || row.state === "FAILED") {
    return row.start_time_ms && row.end_time_ms ? duration(row.end_time_ms - row.start_time_ms) : "–";
  }
  return row.start_time_ms ? since(row.start_time_ms) : since(row.creation_time_ms, " waits");
}

export function tasks(context) {
  const lanes = new Lanes("The last 30 seconds");
  const groups = h("tbody");
  const note = h("p", {class: "aside"});
  const table = new Table(context, {caption: "tasks", key: (row) => `${row.task_id}-${row.attempt_number}`, columns: taskColumns(),
    filters: [{name: "state", label: "State"}], none: "No task has run."});
  const element = h("div", {class: "stack"},
    card("By function", h("div", {class: "scroller", tabindex: 0, role: "region", "aria-label": "counts by function"},
      h("table", {class: "counts"}, h("caption", {class: "unseen"}, "tasks by function and state"), h("thead", {}, h("tr", {},
        h("th", {scope: "col"}, "Function"), ...COUNTS.map((name) => h("th", {scope: "col", class: "num"}, name)),
        h("th", {scope: "col", class: "num"}, "mean time"), h("th", {scope: "col", class: "num"}, "oldest that runs"))), groups)), note),
    card("The last 30 seconds", lanes.element), card("All tasks", table.element));
  const stop = streamInto(lanes, element);
  return {
    element, view: "tasks",
    update(data) {
      table.options("state", data.states);
      table.update(data.table);
      keyed(groups, data.counts.groups.slice(0, 40), (group) => group.name, makeGroup, setGroup);
      write(note, data.table.total > data.table.kept ? `Counts are of ${count(data.table.kept)} of ${count(data.table.total)} ` +
        "attempts: those that are not finished, and the newest." : data.counts.functions > 40 ? `The first 40 of ${count(data.counts.functions)} functions.` : "");
      stop.look();
    },
    tick() { lanes.draw(); },
  };
}

// The bars come with a request of their own: the page's stream carries its table.
function streamInto(lanes, element) {
  let last = 0;
  return {async look() {
    if (Date.now() - last < 900 || !element.isConnected) return;
    last = Date.now();
    try { lanes.update(await net.read("/api/read", {view: "stream", span: 30})); } catch { /* the page's stream tells it */ }
  }};
}

function makeGroup() {
  return h("tr", {}, h("td", {class: "wide", "data-label": "Function"}), ...COUNTS.map((name) => h("td", {class: "num", "data-label": name})),
    h("td", {class: "num", "data-label": "mean time"}), h("td", {class: "num", "data-label": "oldest that runs"}));
}

function setGroup(line, group) {
  redraw(line.children[0], group.name, () => [link(address("tasks", {search: clean(group.name).slice(0, 80)}), text(group.name))]);
  COUNTS.forEach((name, i) => {
    write(line.children[i + 1], count(group[name]));
    line.children[i + 1].className = `num ${group[name] ? "tone-" + name : "zero"}`;
  });
  write(line.children[6], group.timed ? duration(group.busy_ms / group.timed) : "–");
  redraw(line.children[7], group.oldest_ms, () => [since(group.oldest_ms)]);
}

// ---------------------------------------------------------------- one task

export function task(context) {
  const story = h("div");
  const answer = h("div");
  const related = h("div");
  const buttons = h("div", {class: "buttons"});
  const element = h("div", {class: "stack"}, h("p", {}, link("tasks", "All tasks")), card("Story", story, buttons, answer),
    card("Its place in the graph", related));
  return {
    element, view: "task",
    update(data) {
      if (!data.found) {
        redraw(story, data, () => [empty(`No task with the id ${clean(data.id)} is known: it was forgotten, or its node has ended.`)]);
        return;
      }
      const first = data.attempts[0];
      redraw(story, data.attempts, () => [h("h3", {}, text(first.name)), ...data.attempts.map(attempt)]);
      const over = first.state === "FINISHED" || first.state === "FAILED";
      redraw(buttons, [over, data.id, context.session.methods], () => over ? [] : [
        h("button", {type: "button", onclick: () => why(context, answer, data.id)}, "Why is it not finished?"),
        ...(context.session.methods.includes("cancel") ? [h("button", {type: "button", class: "danger", onclick: async () => {
          if (await confirm("Cancel this task?", `${clean(first.name)} (${shortTask(data.id)}) is not started, or gets a ` +
            "KeyboardInterrupt; get() of its result raises TaskCancelledError.", "Cancel the task")) context.act("cancel", data.id);
        }}, "Cancel the task")] : [])]);
      redraw(related, [data.parent, data.parent_id, data.children], () => [
        h("h3", {}, "Made by"), data.parent ? h("p", {}, brief(data.parent)) : h("p", {}, /^f{40}/.test(data.parent_id)
          ? `the driver of job ${parseInt(data.parent_id.slice(40), 16)}` : `task ${shortTask(data.parent_id)}, which is not known any more`),
        h("h3", {}, `Made ${count(data.children_total)} tasks`), h("ul", {class: "list"}, ...data.children.map((row) => h("li", {}, brief(row))))]);
    },
  };
}

function brief(row) {
  return h("span", {}, link(address("task", {id: row.task_id}), text(row.name)), " ", badge(row.state), " ",
    row.pending_reason ? h("span", {class: "why"}, text(row.pending_reason)) : "");
}

function attempt(row) {
  const resources = Object.entries(row.required_resources || {}).map(([name, amount]) => `${name} ${amount}`).join(", ");
  const file = (row.task_log_info?.stdout_file || "").split("/").pop();
  const log = (suffix) => link(address("logs", {node: row.node_id, file: file.replace(/\.out$/, suffix)}), suffix === ".out" ? "output" : "errors");
  const steps = (row.events || []).map((event) => h("li", {}, h("b", {}, moment(event.created_ms)), " ", badge(event.state)));
  const parts = [h("p", {}, `Attempt ${row.attempt_number + 1}: `, badge(row.state), " ", row.start_time_ms && row.end_time_ms
    ? `ran ${duration(row.end_time_ms - row.start_time_ms)}` : row.start_time_ms ? since(row.start_time_ms) : since(row.creation_time_ms, " since it was made")),
  h("ol", {class: "steps"}, ...steps)];
  if (row.pending_reason) parts.push(h("p", {class: "why"}, "It waits: ", text(row.pending_reason)));
  parts.push(facts([["type", row.type], ["id", row.task_id], ["job", String(parseInt(row.job_id, 16))],
    ["asks for", resources || "nothing"], row.worker_pid ? ["process", `pid ${row.worker_pid} on node ${shortId(row.node_id)}`] : null,
    row.actor_id ? ["actor", link(address("actor", {id: row.actor_id}), shortActor(row.actor_id))] : null,
    row.count > 1 ? ["items", count(row.count)] : null, row.call_site ? ["made at", row.call_site] : null,
    row.node_id && file ? ["logs", h("span", {}, log(".out"), ", ", log(".err"))] : null]));
  if (row.name.length > 150) parts.push(h("details", {}, h("summary", {}, "The whole name"), h("p", {}, text(row.name))));
  if (row.error_message) {
    parts.push(h("h4", {}, text(row.error_type || "Error")), h("pre", {tabindex: 0, role: "region", "aria-label": "error"}, cleanLines(row.error_message)));
  }
  return h("div", {class: "attempt"}, ...parts);
}

async function why(context, answer, id) {
  answer.replaceChildren(empty("Asking the processes that know it …"));
  try {
    const {text: told} = await context.ask("why", {task: id});
    answer.replaceChildren(h("pre", {tabindex: 0, role: "region", "aria-label": "why it waits"}, cleanLines(told)));
  } catch (error) {
    answer.replaceChildren(empty(clean(error.message)));
  }
}
