import { type RefObject, useId, useState } from "react";

import type { Analysis } from "../api";
import { download } from "../download";
import type { View } from "../emotions";
import { answerCsv, answerJson, fileName, headline, summary } from "../exports";
import { draw } from "../picture";

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
  const [message, setMessage] = useState("");
  const heading = useId();

  function save(contents: BlobPart, ending: string, type: string) {
    setMessage("");
    download(new Blob([contents], { type }), fileName(source, ending));
  }

  async function copy() {
    setMessage(""); // so that screen readers announce a second "Copied" too
    try {
      await navigator.clipboard.writeText(summary(analysis)); // absent on pages without HTTPS
      setMessage("Copied");
    } catch {
      setMessage("Your browser does not let this page copy; save the answer as a file instead.");
    }
  }

  async function savePicture() {
    const scale = chart.current!.querySelector("figcaption")?.textContent ?? "";
    const model = `Model version ${analysis.checkpoint.slice(0, 8)}${analysis.untrained.length ? "; parts of it were never trained" : ""}.`;
    try {
      const title = `Emotion analysis – ${source}`;
      const picture = await draw(chart.current!, { title, label: headline(analysis), shown, notes: [scale, model] });
      save(picture, "png", "image/png");
    } catch {
      setMessage("Your browser can't draw the chart as an image.");
    }
  }

  return (
    <div className="save" role="group" aria-labelledby={heading}>
      <h3 id={heading}>Save the answer</h3>
      <div className="row">
        <button type="button" onClick={() => void copy()}>
          Copy
        </button>
        <button type="button" onClick={() => save(answerJson(analysis), "json", "application/json")}>
          JSON
        </button>
        <button type="button" onClick={() => save(answerCsv(analysis), "csv", "text/csv")}>
          CSV
        </button>
        <button type="button" onClick={() => void savePicture()}>
          PNG
        </button>
        <small role="status">{message}</small>
      </div>
    </div>
  );
}
