// Announces finished jobs while the page is in the background: in the title, and by a notification if the user wants one.

import { ended, title, verdict } from "./words.js";

const NAME = document.title;

addEventListener("focus", () => (document.title = NAME));

// jobs: those that were submitted last, after one of them changed.
export function announce(jobs) {
  const waiting = jobs.filter((job) => !ended(job));
  const words = waiting.length ? progress(jobs, waiting) : jobs.map((job) => verdict(job).word).join(", ");
  document.title = waiting.length || document.hidden ? `${words} – ${NAME}` : NAME;
  if (waiting.length || !document.hidden || !allowed()) return;
  new Notification(`“${title(jobs[0])}”: ${words}`, { tag: jobs[0].id });
}

function progress(jobs, waiting) {
  if (jobs.length > 1) return `${jobs.length - waiting.length} of ${jobs.length}`;
  return waiting[0].fraction === null ? "Waiting" : `${Math.round(waiting[0].fraction * 100)} %`;
}

function allowed() {
  return "Notification" in window && Notification.permission === "granted";
}

// Makes a button request the permission. It is hidden if there is nothing to request.
export function offerNotifications(button) {
  const askable = () => "Notification" in window && Notification.permission === "default";
  button.hidden = !askable();
  button.addEventListener("click", async () => {
    await Notification.requestPermission();
    button.hidden = !askable();
  });
}
