// The turntable video of a result, and the button that makes it.

import * as api from "./api.js";
import { button, element, say } from "./dom.js";
import { ended, failure, title, verdict } from "./words.js";

export const VIDEO = "turntable.mp4";

export function video(job) {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const made = element("video", {
    src: api.asset(job, VIDEO), controls: true, loop: true, playsinline: true,
    "aria-label": `A turntable video of the splat of “${title(job)}”`,
  });
  made.muted = true;
  made.autoplay = !still;
  return element("section", {}, element("h3", {}, "Turntable video"), made);
}

// owner: the Result that shows the job: it is told when the video is there, and stops the progress if it shows another.
export function videoMaker(job, owner) {
  const status = element("p", { role: "status", class: "quiet" });
  const failed = (words) => {
    say(status, words);
    make.disabled = false;
  };
  const changed = (videoJob) => {
    if (videoJob.fraction !== null) say(status, `Rendering the video, ${Math.round(videoJob.fraction * 100)} %`);
    if (videoJob.state === "DONE") owner.videoMade(job).catch((problem) => failed(problem.message));
    else if (ended(videoJob)) failed(failure(videoJob) || verdict(videoJob).word);
  };
  const order = async () => {
    make.disabled = true;
    say(status, "Rendering the video…");
    const videoJob = await api.submit({ kind: "turntable", source: job.id });
    owner.stop = api.follow(videoJob.id, changed);
  };
  const make = button("Make a turntable video", () => order().catch((problem) => failed(problem.message)));
  return element("section", {}, make, status);
}
