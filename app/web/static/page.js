// The page begins here: joins form, progress, results and details, and asks the server how things stand.

import { ask, Problem, submit } from "./api.js";
import { Details } from "./details.js";
import { duration, element, say } from "./dom.js";
import { showJudges } from "./judges.js";
import { Now } from "./now.js";
import { Results } from "./results.js";

const BUSY_MS = 1500; // between two looks while something is in progress
const IDLE_MS = 5000;

const settings = JSON.parse(document.body.dataset.settings);
const details = new Details(document.getElementById("details"), settings);
const results = new Results((id) => (location.hash = `job=${id}`));
const now = new Now(document.getElementById("now"), (job) => results.put(job), (id) => (location.hash = `job=${id}`));

const form = document.getElementById("make");
const formProblem = document.getElementById("make-error");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  say(formProblem, "");
  const prompt = form.elements.prompt.value.trim();
  const file = form.elements.picture?.files[0];
  if (!prompt && !file) return refuse("Say first what to make.");
  const button = form.querySelector("button[type=submit]");
  button.disabled = true;
  try {
    const job = await submit({ prompt, ...(await picture(file)), ...numbers("seed"), ...numbers("attempts") });
    now.show(job);
    results.followed = job.id;
    results.put(job);
    keepLooking();
  } catch (problem) {
    refuse(problem.message);
  } finally {
    button.disabled = false;
  }
});

async function picture(file) {
  if (!file) return {};
  const reader = new FileReader();
  await new Promise((resolve) => {
    reader.addEventListener("loadend", resolve);
    reader.readAsDataURL(file);
  });
  if (reader.error) throw new Problem(0, `The picture cannot be read: ${reader.error.message}`);
  return { picture: reader.result };
}

function refuse(words) {
  say(formProblem, words);
  form.elements.prompt.focus();
}

// A field that is left empty is left out: then the server's configuration decides.
function numbers(name) {
  const text = form.elements[name].value.trim();
  return text === "" ? {} : { [name]: Number(text) };
}

// ---- how things stand ----------------------------------------------------------------------------------------------

const pill = document.getElementById("readiness");
const banner = document.getElementById("engines");

async function look() {
  try {
    const stats = await ask("/v1/stats");
    showEngines(stats.engines);
    showTally(stats);
    results.total(stats.queued, stats.running);
    await results.load();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    pill.dataset.state = "away";
    say(pill, problem.message);
  }
}

// Ready means what it means for /readyz: at least one engine serves.
function showEngines(engines) {
  const serving = engines.filter((engine) => ["READY", "BUSY"].includes(engine.state)).length;
  pill.dataset.state = serving ? "ready" : "waiting";
  say(pill, serving > 1 ? `Ready, ${serving} engines` : serving ? "Ready" : "Not ready yet");
  const silent = serving ? ["READY", "BUSY", "LOST"] : []; // one that was lost has its successor
  const lines = engines.filter((engine) => !silent.includes(engine.state)).map(engineLine);
  if (!engines.length) lines.push("No engine has reported yet. What is ordered now waits until one is ready.");
  banner.hidden = !lines.length;
  if (banner.innerText !== lines.join("\n")) banner.replaceChildren(...lines.map((line) => element("p", {}, line)));
}

function engineLine(engine) {
  const share = engine.progress === null ? "" : `, ${Math.round(engine.progress * 100)} %`;
  const left = engine.eta === null ? "" : `, about ${duration(engine.eta)} left`;
  const why = engine.why ? `: ${engine.why.replace(/^\[\d\/\d\] /, "")}` : "";
  return `Engine on ${engine.device}: ${engine.state.toLowerCase()}${share}${left}${why}`;
}

const tally = document.getElementById("tally");

function showTally({ tallies, medians }) {
  const of = (label) => tallies.find((each) => each.what === "outcome" && each.label === label)?.count ?? 0;
  const [passed, refused] = [of("passed"), of("refused")];
  if (!passed && !refused) return;
  const time = medians.generate ? ` One takes ${duration(medians.generate)} (median).` : "";
  say(tally, `${passed} passed and ${refused} refused since the beginning.${time}`);
}

let next;

async function keepLooking() {
  clearTimeout(next);
  try {
    if (!document.hidden) await look();
  } finally {
    clearTimeout(next); // of another call, which came meanwhile
    next = setTimeout(keepLooking, results.busy ? BUSY_MS : IDLE_MS);
  }
}

document.addEventListener("visibilitychange", () => document.hidden || keepLooking());

// ---- a job in full has an address ----------------------------------------------------------------------------------

function openFromAddress() {
  const id = /^#job=([0-9a-zA-Z-]+)$/.exec(location.hash)?.[1];
  if (id) details.open(id);
}

addEventListener("hashchange", openFromAddress);
openFromAddress();
keepLooking();
showJudges(document.getElementById("feedback")).catch((problem) => console.warn(problem.message));
