// What ran where, over minutes, and the same as a file for Perfetto.
import {Lanes} from "../charts.js";
import {h, write} from "../dom.js";
import {clean, count} from "../format.js";
import {card} from "../parts.js";

const SPANS = {"1 minute": "60", "5 minutes": "300", "15 minutes": "900", "1 hour": "3600"};

export function timeline(context) {
  const lanes = new Lanes("Timeline");
  const chosen = context.parameters.span || "300";
  const span = h("select", {"aria-label": "Span"}, ...Object.entries(SPANS).map(([label, value]) => h("option", {value, selected: value === chosen}, label)));
  span.addEventListener("change", () => context.change({span: span.value}));
  const note = h("p", {class: "aside"});
  const save = h("button", {type: "button", onclick: async () => {
    save.disabled = true;
    write(note, "Collecting the trace of all nodes …");
    try {
      const trace = await context.ask("trace");
      const file = URL.createObjectURL(new Blob([JSON.stringify(trace)], {type: "application/json"}));
      h("a", {href: file, download: "zray-timeline.json"}).click();
      setTimeout(() => URL.revokeObjectURL(file), 10000);
      write(note, `${count(trace.traceEvents.length)} events saved: open the file at ui.perfetto.dev.`);
    } catch (error) {
      write(note, clean(error.message));
    }
    save.disabled = false;
  }}, "Save the trace");
  return {
    element: h("div", {class: "stack"}, card("What ran where", h("div", {class: "table-tools"}, span, save), lanes.element, note)), view: "timeline",
    update(data) {
      lanes.update(data);
      if (data.left_out) write(note, `${count(data.left_out)} older tasks are left out; the saved trace has them.`);
    },
    tick() { lanes.draw(); },
  };
}
