// Whether the engines are ready, and what the counts say.

import { element, say } from "./dom.js";
import { duration } from "./words.js";

const SERVING = ["READY", "BUSY"];

export class Engines {
  constructor() {
    [this.pill, this.banner, this.tally] = ["readiness", "engines", "tally"].map((id) => document.getElementById(id));
  }

  // stats: of /v1/stats.
  show({ engines, tallies, medians }) {
    this.showEngines(engines);
    this.showTally(tallies, medians);
  }

  away(words) {
    this.pill.dataset.state = "away";
    say(this.pill, words);
  }

  // Ready as /readyz means it: at least one engine serves.
  showEngines(engines) {
    const serving = engines.filter((engine) => SERVING.includes(engine.state)).length;
    this.pill.dataset.state = serving ? "ready" : "waiting";
    say(this.pill, serving > 1 ? `Ready, ${serving} engines` : serving ? "Ready" : "Not ready yet");
    const silent = serving ? [...SERVING, "LOST"] : []; // a lost engine has been replaced
    const lines = engines.filter((engine) => !silent.includes(engine.state)).map(engineLine);
    if (!engines.length) lines.push("No engine has reported yet. Jobs wait until one is ready.");
    this.banner.hidden = !lines.length;
    if (this.banner.innerText !== lines.join("\n")) this.banner.replaceChildren(...lines.map((line) => element("p", {}, line)));
  }

  showTally(tallies, medians) {
    const of = (label) => tallies.find((each) => each.what === "outcome" && each.label === label)?.count ?? 0;
    const [passed, refused] = [of("passed"), of("refused")];
    if (!passed && !refused) return;
    const time = medians.generate ? ` A splat takes ${duration(medians.generate)} (median).` : "";
    say(this.tally, `${passed} passed and ${refused} refused so far.${time}`);
  }
}

function engineLine(engine) {
  const share = engine.progress === null ? "" : `, ${Math.round(engine.progress * 100)} %`;
  const left = engine.eta === null ? "" : `, about ${duration(engine.eta)} left`;
  const why = engine.why ? `: ${engine.why}` : "";
  return `Engine on ${engine.device}: ${engine.state.toLowerCase()}${share}${left}${why}`;
}
