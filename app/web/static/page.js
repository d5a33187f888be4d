// The page starts here: it connects its parts and polls the server.

import * as api from "./api.js";
import { Bring } from "./bring.js";
import { Compare } from "./compare.js";
import { Details } from "./details.js";
import { Engines } from "./engines.js";
import { Gallery } from "./gallery.js";
import { showJudges } from "./judges.js";
import { Make } from "./make.js";
import { offerNotifications } from "./notify.js";
import { Queue } from "./queue.js";
import { Submitted } from "./submitted.js";
import { title } from "./words.js";

const BUSY_MS = 1500; // between two polls while something is in progress
const IDLE_MS = 5000;

const find = (id) => document.getElementById(id);
const settings = JSON.parse(document.body.dataset.settings);
const open = (id) => details.open(id);

// What can be done with a result, wherever it is shown.
const actions = {
  again: (job, options) => make.again(job, options),
  reuse: (job) => make.reuse(job),
  changed: () => gallery.load(),
  removed: (job) => {
    submitted.forget(job.id);
    gallery.load();
  },
};

const engines = new Engines();
const compare = new Compare(find("compare"), settings);
const gallery = new Gallery(find("results"), { open, compare: compareJobs });
const submitted = new Submitted(find("now"), settings, actions, { finished: () => poll(), open });
const queue = new Queue(find("queue"), { followed: () => submitted.ids, open, changed: () => poll() });
const details = new Details(find("details"), settings, actions, (id) => gallery.neighbours(id));
const make = new Make(find("make"), settings, (jobs) => {
  submitted.show(jobs);
  poll();
});
new Bring(settings, { usePicture: (file) => make.usePicture(file), compare });
offerNotifications(find("notify"));

function compareJobs(jobs) {
  const sides = jobs.map((job) => {
    const name = api.splat(job);
    const read = async (progress) => ({ bytes: await api.file(job, name, progress), name });
    return { words: `${title(job)}, seed ${job.seed}`, read };
  });
  compare.open(`${jobs.length} results`, sides);
}

for (const banner of document.querySelectorAll("[data-dismiss]")) {
  banner.hidden = localStorage.getItem(banner.dataset.dismiss) !== null;
  banner.querySelector("button").addEventListener("click", () => {
    localStorage.setItem(banner.dataset.dismiss, "dismissed");
    banner.hidden = true;
  });
}

async function look() {
  try {
    const stats = await api.ask("/v1/stats");
    engines.show(stats);
    gallery.queued = stats.queued + stats.running;
    await Promise.all([queue.load(stats), gallery.load()]);
    details.showNeighbours();
  } catch (problem) {
    if (!(problem instanceof api.Problem)) throw problem;
    engines.away(problem.message);
  }
}

let next;

async function poll() {
  clearTimeout(next);
  try {
    if (!document.hidden) await look();
  } finally {
    clearTimeout(next); // of a call that came meanwhile
    next = setTimeout(poll, queue.busy ? BUSY_MS : IDLE_MS);
  }
}

document.addEventListener("visibilitychange", () => document.hidden || poll());
details.followAddress();
submitted.restore().then(poll, poll);
showJudges(find("feedback")).catch((problem) => console.warn(problem.message));
