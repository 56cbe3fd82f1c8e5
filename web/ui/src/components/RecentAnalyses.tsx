import { useState } from "react";

import { download } from "../download";
import { EMOTIONS, percent, verdict } from "../emotions";
import { recentCsv } from "../exports";
import type { Recent } from "../recent";
import { Comparison } from "./Comparison";

interface Props {
  recent: Recent[];
  onOpen: (one: Recent) => void;
  onClear: () => void;
}

/** List of the recent analyses with their probabilities; each can be opened, and two can be compared. */
export function RecentAnalyses({ recent, onOpen, onClear }: Props) {
  const [compared, setCompared] = useState<number[]>([]);
  const pair = compared.map((id) => recent.find((one) => one.id === id)).filter((one) => one !== undefined);
  if (!recent.length) return null;
  return (
    <section className="recent" aria-labelledby="recent">
      <div className="row">
        <h2 id="recent">Recent analyses</h2>
        <div className="row">
          <button type="button" onClick={() => download(new Blob([recentCsv(recent)], { type: "text/csv" }), "recent-emotions.csv")}>
            Save as CSV
          </button>
          <button type="button" onClick={onClear}>
            Clear
          </button>
        </div>
      </div>
      {pair.length === 2 && <Comparison pair={[pair[0]!, pair[1]!]} />}
      <ul>
        {recent.map((one) => (
          <li key={one.id} className="card">
            <h3>
              <span className="label" data-emotion={one.label}>
                {verdict(one.status, one.label, one.probabilities)}
              </span>{" "}
              {(one.status ?? "ok") === "ok" && percent(one.probabilities[one.label])}
            </h3>
            <dl>
              {EMOTIONS.map((emotion) => (
                <div key={emotion}>
                  <dt>{emotion}</dt>
                  <dd>
                    <span className="bar" aria-hidden="true">
                      <span style={{ width: `${100 * one.probabilities[emotion]}%` }} data-emotion={emotion} />
                    </span>
                    {percent(one.probabilities[emotion])}
                  </dd>
                </div>
              ))}
            </dl>
            <p dir="auto">{one.text || "No words"}</p>
            <small>
              {one.source}, {new Date(one.when).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })}
            </small>
            <div className="row">
              {one.analysis && (
                <button type="button" onClick={() => onOpen(one)}>
                  Open
                </button>
              )}
              <button
                type="button"
                aria-pressed={compared.includes(one.id)}
                onClick={() =>
                  setCompared((chosen) =>
                    chosen.includes(one.id) ? chosen.filter((id) => id !== one.id) : [...chosen.slice(-1), one.id],
                  )
                }
              >
                Compare
              </button>
            </div>
          </li>
        ))}
      </ul>
      <p className="fine">Kept in this browser only, without the recordings. Choose two to compare them.</p>
    </section>
  );
}
