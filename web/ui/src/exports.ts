/** The answer and the recent analyses as text that people can save or copy. */

import type { Analysis } from "./api";
import { type Cell, csv } from "./csv";
import { EMOTIONS, percent, type Probabilities, strongest, verdict, VIEW, type View, VIEWS, type Views } from "./emotions";
import type { Recent } from "./recent";

export function viewsOf(analysis: Analysis): Views {
  return { fused: analysis.probabilities, audio: analysis.audio_probabilities, text: analysis.text_probabilities };
}

/** Returns the headline of an answer. Only a sure answer has a share, such as "sadness 62 %". */
export function headline({ status, label, probabilities }: Analysis): string {
  const name = verdict(status, label, probabilities);
  return status === "ok" ? `${name} ${percent(probabilities[label])}` : name;
}

/** Returns the answer in one line, such as "sadness 83 % (voice: sadness 70 %, words: neutral 40 %)". */
export function summary(analysis: Analysis): string {
  const views = viewsOf(analysis);
  const parts = (["audio", "text"] as const).filter((view) => views[view]).map((view) => `${VIEW[view].short}: ${strongest(views[view])}`);
  const warning = analysis.untrained.length ? "; parts of the model were never trained" : "";
  return `${headline(analysis)} (${parts.join(", ")})${warning}`;
}

export function answerJson(analysis: Analysis): string {
  return `${JSON.stringify(analysis, null, 2)}\n`;
}

/** Returns the answer as CSV: a row for each view, then a row with start and end in seconds for each window of the timeline. */
export function answerCsv(analysis: Analysis): string {
  const views = viewsOf(analysis);
  const { label, status, confidence, text, timeline } = analysis;
  const verdictOf = (view: View): Cell[] => (view === "fused" ? [label, status, confidence, text] : ["", "", "", ""]);
  return csv([
    ["view", "start", "end", ...EMOTIONS, "label", "status", "confidence", "text"],
    ...VIEWS.filter((view) => views[view]).map((view) => [VIEW[view].short, "", "", ...shares(views[view]), ...verdictOf(view)]),
    ...timeline.map(({ start, end, probabilities }) => [VIEW.audio.short, start, end, ...shares(probabilities), ...verdictOf("audio")]),
  ]);
}

/** Returns the recent analyses as CSV, one row each. */
export function recentCsv(recent: Recent[]): string {
  return csv([
    ["name", "when", "label", "status", "confidence", ...EMOTIONS, "text"],
    ...recent.map(({ source, when, label, status, analysis, probabilities, text }) => [
      source,
      when,
      label,
      status,
      analysis?.confidence,
      ...shares(probabilities),
      text,
    ]),
  ]);
}

/** Returns a file name after the input's name, such as "clip-emotions.csv" for "clip.flac". */
export function fileName(source: string, ending: string): string {
  const stem = source.replace(/\.\w{1,5}$/, "").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "");
  return `${stem.slice(0, 60) || "answer"}-emotions.${ending}`;
}

function shares(probabilities: Probabilities | null): Cell[] {
  return EMOTIONS.map((emotion) => probabilities?.[emotion]);
}
