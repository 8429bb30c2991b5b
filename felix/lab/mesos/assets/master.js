// Shows /overview, again after every event. Text goes in as text: names come from whoever wrote an application.
"use strict";

const byId = (id) => document.getElementById(id);

function fill(body, rows) {
  body.replaceChildren(...rows.map((cells) => {
    const row = document.createElement("tr");
    for (const cell of cells) {
      const [text, kind] = Array.isArray(cell) ? cell : [cell, ""];
      const box = document.createElement("td");
      box.textContent = text;
      if (kind) box.className = kind;
      row.append(box);
    }
    return row;
  }));
}

function describeHealth(task) {
  const results = task.healthCheckResults || [];
  if (!results.length) return ["", ""];
  const bad = results.filter((one) => !one.alive);
  if (!bad.length) return ["healthy", "good"];
  return [bad[0].lastFailureCause || "not known yet", bad[0].lastFailureCause ? "bad" : "wait"];
}

function show(seen) {
  byId("lab").textContent = `lab ${seen.lab}`;
  fill(byId("agents"), seen.agents.map((one) => [one.host, one.address, one.id, [one.problems.join("; "), "bad"]]));
  const rows = [];
  for (const task of seen.tasks) {
    const addresses = task.ipAddresses.map((one) => one.ipAddress).join(", ");
    const kind = task.state === "TASK_RUNNING" ? "good" : "wait";
    rows.push([task.appId, [task.state, kind], task.host, addresses, task.ports.join(", "), task.groups.join(", "),
      describeHealth(task)]);
  }
  for (const one of seen.waiting) rows.push([`/${one}`, ["waits for an offer", "wait"], "", "", "", "", ""]);
  fill(byId("tasks"), rows);
  const news = [seen.deployments ? `${seen.deployments} under way` : "", ...Object.values(seen.failures).slice(-1)];
  byId("news").textContent = news.filter(Boolean).join(". ");
}

let asking = false;
let again = false;

async function refresh() {
  if (asking) { again = true; return; }
  asking = true;
  do {
    again = false;
    try {
      show(await (await fetch("/overview")).json());
    } catch (failure) {
      byId("news").textContent = `the master does not answer: ${failure.message}`;
    }
  } while (again);
  asking = false;
}

const events = new EventSource("/v2/events");
for (const kind of ["event_stream_attached", "status_update_event", "health_status_changed_event",
  "deployment_success", "deployment_failed"]) {
  events.addEventListener(kind, refresh);
}
events.onerror = () => { byId("news").textContent = "the master does not answer; trying again"; };
refresh();
