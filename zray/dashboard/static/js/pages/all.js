// The pages by name, in the order of the menu.  `under`: a page that the menu shows as part of another.
import {actor, actors} from "./actors.js";
import {control, events, groups, jobs} from "./cluster.js";
import {logs} from "./logs.js";
import {metrics} from "./metrics.js";
import {nodes} from "./nodes.js";
import {objects} from "./objects.js";
import {overview} from "./overview.js";
import {task, tasks} from "./tasks.js";
import {timeline} from "./timeline.js";

export const PAGES = {
  overview: {title: "Overview", make: overview},
  nodes: {title: "Nodes", make: nodes},
  jobs: {title: "Jobs", make: jobs},
  tasks: {title: "Tasks", make: tasks},
  task: {title: "Task", make: task, under: "tasks"},
  actors: {title: "Actors", make: actors},
  actor: {title: "Actor", make: actor, under: "actors"},
  objects: {title: "Objects", make: objects},
  groups: {title: "Placement groups", make: groups},
  control: {title: "Control store", make: control},
  events: {title: "Events", make: events},
  logs: {title: "Logs", make: logs},
  timeline: {title: "Timeline", make: timeline},
  metrics: {title: "Metrics", make: metrics},
};
