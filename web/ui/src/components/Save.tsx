import type { RefObject } from "react";

import type { Analysis } from "../api";
import type { View } from "../emotions";
import { answerCsv, answerJson, headline, summary } from "../exports";
import { draw } from "../picture";
import { SaveAs } from "./SaveAs";

interface Props {
  source: string;
  analysis: Analysis;
  /** Views in the radar chart. */
  shown: View[];
  /** Element that contains the radar chart. */
  chart: RefObject<HTMLElement | null>;
}

/** Buttons that copy the answer, or save it as a file. */
export function Save({ source, analysis, shown, chart }: Props) {
  async function picture(): Promise<Blob> {
    const scale = chart.current!.querySelector("figcaption")?.textContent ?? "";
    const model = `Model version ${analysis.checkpoint.slice(0, 8)}${analysis.untrained.length ? "; parts of it were never trained" : ""}.`;
    try {
      return await draw(chart.current!, { title: `Emotion analysis – ${source}`, label: headline(analysis), shown, notes: [scale, model] });
    } catch {
      throw new Error("Your browser can't draw the chart as an image.");
    }
  }

  return (
    <SaveAs
      source={source}
      text={() => summary(analysis)}
      formats={[
        { name: "JSON", type: "application/json", contents: () => answerJson(analysis) },
        { name: "CSV", type: "text/csv", contents: () => answerCsv(analysis) },
        { name: "PNG", type: "image/png", contents: picture },
      ]}
    />
  );
}
