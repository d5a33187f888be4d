// The report on the feedback of the judges, as a picture. Hidden while there is no feedback.

import { ask } from "./api.js";
import { element } from "./dom.js";
import { count } from "./words.js";

const dark = matchMedia("(prefers-color-scheme: dark)");

export async function showJudges(section) {
  const report = await ask("/v1/feedback/report");
  if (!report.answers) return;
  const picture = element("img", { alt: "", loading: "lazy" });
  const draw = () => (picture.src = `/v1/feedback/report.png?theme=${dark.matches ? "dark" : "light"}`);
  dark.addEventListener("change", draw);
  draw();
  section.append(element("p", {}, said(report)), ...advice(report), picture);
  section.hidden = false;
}

function said({ answers, acceptance: { share, total, low, high }, failed }) {
  const parts = [
    `${count(answers)} ${answers === 1 ? "answer" : "answers"}`,
    share !== null && `${percent(share)} of ${count(total)} accepted`,
    share !== null && `95 % interval ${percent(low)} to ${percent(high)}`,
    failed > 0 && `${count(failed)} failed on the judges’ side`,
  ];
  return `${parts.filter(Boolean).join(", ")}.`;
}

function advice({ threshold, min_gaussians }) {
  return [threshold, min_gaussians].map((each) => element("p", { class: "quiet" }, `${each.setting}: ${each.reason}`));
}

function percent(share) {
  return `${(100 * share).toFixed(0)} %`;
}
