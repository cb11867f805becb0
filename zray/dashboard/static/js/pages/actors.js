// Actors: their queues and the age of the head, and one actor with its stack.
import {h, write} from "../dom.js";
import {clean, cleanLines, count, shortActor, shortId} from "../format.js";
import {address, badge, card, confirm, empty, facts, link, redraw, since, text} from "../parts.js";
import {Table} from "../table.js";
import {taskColumns} from "./tasks.js";

export function actors(context) {
  const summary = h("p", {class: "aside"});
  const table = new Table(context, {caption: "actors", key: (row) => row.actor_id, filters: [{name: "state", label: "State"}],
    none: "No actor was made.", columns: [
      {name: "class_name", label: "Class", from: ["class_name", "actor_id"], wide: true, show: (row) =>
        link(address("actor", {id: row.actor_id}), text(row.class_name))},
      {name: "name", label: "Name", wide: true, show: (row) => text(row.name || "")},
      {name: "state", label: "State", show: (row) => badge(row.state)},
      {name: "queued", label: "Queue", num: true, show: (row) => count(row.queued)},
      {name: "head_ms", label: "Head waits", num: true, show: (row) => since(row.head_ms)},
      {name: "running", label: "Runs", from: ["running", "running_ms"], show: (row) =>
        row.running ? h("span", {}, text(row.running), " for ", since(row.running_ms)) : "–"},
      {name: "num_restarts", label: "Restarts", num: true},
      {name: "pid", label: "Pid", num: true, show: (row) => String(row.pid || "–")},
      {name: "node_id", label: "Node", show: (row) => shortId(row.node_id)},
      {name: "job_id", label: "Job", show: (row) => String(parseInt(row.job_id, 16))},
      {name: "actor_id", label: "Id", show: (row) => h("code", {title: row.actor_id}, shortActor(row.actor_id))},
    ]});
  return {
    element: h("div", {class: "stack"}, summary, table.element), view: "actors",
    update(data) {
      table.options("state", Object.keys(data.states).sort());
      table.update(data.table);
      write(summary, Object.entries(data.states).map(([state, n]) => `${count(n)} ${state.toLowerCase()}`).join(", "));
    },
  };
}

export function actor(context) {
  const about = h("div");
  const buttons = h("div", {class: "buttons"});
  const answer = h("div");
  const calls = new Table({parameters: {}, change() {}}, {caption: "calls", key: (row) => `${row.task_id}-${row.attempt_number}`,
    columns: taskColumns().map((column) => ({...column, sort: false})), search: false, none: "No call is known."});
  const element = h("div", {class: "stack"}, h("p", {}, link("actors", "All actors")), card("Actor", about, buttons, answer),
    card("Its latest calls", calls.element));
  return {
    element, view: "actor",
    update(data) {
      if (!data.found) {
        redraw(about, data, () => [empty(`No actor with the id ${clean(data.id)} is known.`)]);
        return;
      }
      const row = data.actor;
      redraw(about, [row, data.queue], () => describe(row, data.queue));
      redraw(buttons, [row.state, row.actor_id, context.session.methods], () => actions(context, row, answer));
      calls.update(data.calls);
    },
  };
}

function describe(row, queue) {
  const death = Object.values(row.death_cause || {})[0];
  return [h("h3", {}, text(row.class_name), " ", badge(row.state)), facts([
    ["name", row.name || "none"], ["queue", queue ? h("span", {}, `${count(queue.queued)} calls wait`,
      queue.head_ms ? [", the first for ", since(queue.head_ms)] : "") : "no call waits or runs"],
    ["runs", queue?.running ? h("span", {}, text(queue.running), " for ", since(queue.running_ms)) : "nothing"],
    ["process", row.pid ? `pid ${row.pid} on node ${shortId(row.node_id)}` : "none"],
    ["holds", Object.entries(row.required_resources || {}).map(([name, amount]) => `${name} ${amount}`).join(", ") || "nothing"],
    ["restarts", String(row.num_restarts)], ["detached", row.is_detached ? "yes" : "no"], ["namespace", row.ray_namespace],
    ["job", String(parseInt(row.job_id, 16))], ["id", row.actor_id], row.call_site ? ["made at", row.call_site] : null]),
  ...(death ? [h("h4", {}, "Why it is dead"), h("pre", {tabindex: 0, role: "region", "aria-label": "cause of death"},
    cleanLines(death.error_message || death.formatted_exception_string || ""))] : [])];
}

function actions(context, row, answer) {
  if (row.state === "DEAD") return [];
  const found = [h("button", {type: "button", onclick: async () => {
    answer.replaceChildren(empty("Asking the process …"));
    try {
      const {text: told} = await context.ask("stack", {actor: row.actor_id});
      answer.replaceChildren(h("pre", {tabindex: 0, role: "region", "aria-label": "stack"}, cleanLines(told)));
    } catch (error) {
      answer.replaceChildren(empty(clean(error.message)));
    }
  }}, "Show its stack")];
  if (row.node_id) {
    found.push(link(address("logs", {node: row.node_id, actor: row.actor_id}), "Its logs", {class: "button"}));
  }
  if (context.session.methods.includes("kill")) {
    found.push(h("button", {type: "button", class: "danger", onclick: async () => {
      if (await confirm("Kill this actor?", `${clean(row.class_name)} (${shortActor(row.actor_id)}) ends at once, also in the ` +
          "middle of a call, and is not restarted.", "Kill")) context.act("kill", row.actor_id);
    }}, "Kill"));
  }
  return found;
}
