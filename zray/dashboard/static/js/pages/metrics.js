// A plot for each metric, of the time since a page has been open.
import {LineChart} from "../charts.js";
import {h, keyed, write} from "../dom.js";
import {bytes, clean, count, plain} from "../format.js";

export function metrics(context) {
  const plots = h("div", {class: "plots"});
  const note = h("p", {class: "aside"});
  const search = h("input", {type: "search", placeholder: "Search", "aria-label": "Search metrics", value: context.parameters.search || "", autocomplete: "off"});
  let timer = 0;
  search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => context.change({search: search.value}), 250);
  });
  return {
    element: h("div", {class: "stack"}, h("div", {class: "table-tools"}, search, note), plots), view: "metrics",
    update(data) {
      keyed(plots, data.families, (family) => family.name, (family) => {
        const chart = new LineChart(clean(family.name));
        const part = h("section", {class: "card plotcard"}, h("h2", {}, h("bdi", {}, clean(family.name))), h("p", {class: "aside"}), chart.element);
        part.zrayChart = chart;
        return part;
      }, (part, family) => {
        write(part.children[1], `${clean(family.description) || "no description"}${family.kind === "counter" ? ", a second" : ""}` +
          (family.series_total > family.series.length ? ` (${family.series.length} of ${count(family.series_total)} series)` : ""));
        part.zrayChart.update(family.series, family.name.includes("bytes") ? bytes : plain);
      });
      write(note, data.families.length ? `${count(data.total)} metrics, the last 5 minutes while a page is open` +
        (data.left_out ? `; ${count(data.left_out)} series left out` : "") : "No metric matches.");
    },
  };
}
