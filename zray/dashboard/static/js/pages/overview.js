// What runs, what waits and why, what failed last, and the nodes.
import {h} from "../dom.js";
import {clean, count, shortId, shortTask} from "../format.js";
import {address, badge, card, empty, figure, link, redraw, since, text} from "../parts.js";
import {nodeCards} from "./nodes.js";

export function overview(context) {
  const figures = h("div", {class: "figures"});
  const running = h("div");
  const waiting = h("div");
  const failed = h("div");
  const nodes = nodeCards(context, false);
  const element = h("div", {class: "stack"}, figures,
    h("div", {class: "columns"}, card("What runs", running), card("What waits, and why", waiting)),
    card("Recent failures", failed), card("Nodes", nodes.element));
  return {
    element, view: "overview",
    update(data) {
      const phases = data.phases;
      const alive = data.nodes.filter((node) => node.state === "ALIVE").length;
      const made = [phases, data.actors, data.jobs, alive, data.nodes.length];
      redraw(figures, made, () => [
        figure("tasks run", count(phases.runs || 0), "run", "tasks?state=RUNNING"),
        figure("blocked in get or wait", count(phases.blocked || 0), phases.blocked ? "warn" : "", "tasks"),
        figure("tasks wait", count(phases.waits || 0), "wait", "tasks"),
        figure("failed", count(phases.failed || 0), phases.failed ? "bad" : "", "tasks?state=FAILED"),
        figure("actors live", count(data.actors.ALIVE || 0), "", "actors?state=ALIVE"),
        figure("jobs run", count(data.jobs.RUNNING || 0), "", "jobs"),
        figure(data.nodes.length > alive ? `of ${data.nodes.length} nodes live` : "nodes live", count(alive),
          data.nodes.length > alive ? "warn" : "", "nodes")]);
      redraw(running, [data.running, data.blocked], () => runs(data));
      redraw(waiting, data.waiting, () => data.waiting.length ? [h("ul", {class: "list"}, ...data.waiting.map(waits))]
        : [empty("Nothing waits for a worker or for its turn.")]);
      redraw(failed, data.failures, () => data.failures.length ? [h("ul", {class: "list"}, ...data.failures.map(failure))]
        : [empty("No task that is still known has failed.")]);
      nodes.update(data.nodes);
    },
  };
}

function runs(data) {
  const found = [];
  if (data.running.length) {
    found.push(h("ul", {class: "list"}, ...data.running.map((group) => h("li", {},
      h("span", {class: "lead"}, h("b", {}, `${count(group.runs + group.blocked)} × `),
        link(address("tasks", {search: clean(group.name).slice(0, 80)}), text(group.name))),
      h("span", {class: "aside"}, "the oldest for ", since(group.oldest_ms), group.blocked ? ` · ${count(group.blocked)} blocked` : "")))));
  } else {
    found.push(empty("No task runs."));
  }
  if (data.blocked.length) {
    found.push(h("h3", {}, "Blocked in get or wait"), h("ul", {class: "list"}, ...data.blocked.map((row) => h("li", {},
      link(address("task", {id: row.task_id}), text(row.name)),
      h("span", {class: "aside"}, ` pid ${row.pid}, job ${row.job}: open it and ask why`)))));
  }
  return found;
}

function waits(row) {
  const what = row.kind === "actor" ? "actor " : "";
  const target = row.actor ? address("actor", {id: row.actor}) : address("tasks", {search: clean(row.what).slice(0, 80)});
  return h("li", {}, h("span", {class: "lead"}, h("b", {}, `${count(row.count)} × `), what, link(target, text(row.what))),
    h("span", {class: "why"}, text(row.cause)), row.detail ? h("span", {class: "aside"}, text(row.detail)) : null);
}

function failure(row) {
  return h("li", {}, h("span", {class: "lead"}, link(address("task", {id: row.task_id}), text(row.name)),
    row.attempt ? ` attempt ${row.attempt + 1}` : "", " ", h("span", {class: "aside"}, since(row.end_ms, " ago"))),
  h("span", {class: "why"}, badge("FAILED"), " ", text(row.message || row.error_type || "")),
  h("span", {class: "unseen"}, ` task ${shortTask(row.task_id)} ${shortId(row.task_id)}`));
}
