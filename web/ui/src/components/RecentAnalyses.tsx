import { useState } from "react";

import { download } from "../download";
import { clock, percent } from "../emotions";
import { counted, recentCsv } from "../exports";
import { type Recent, title } from "../recent";
import { Comparison } from "./Comparison";
import { EmotionBars } from "./EmotionBars";

const COLLAPSED = 6; // analyses that are shown at first

interface Props {
  recent: Recent[];
  onOpen: (one: Recent) => void;
  onClear: () => void;
}

/** List of the recent analyses with their probabilities; each can be opened, and two can be compared. */
export function RecentAnalyses({ recent, onOpen, onClear }: Props) {
  const [compared, setCompared] = useState<number[]>([]);
  const [all, setAll] = useState(false);
  const pair = compared.map((id) => recent.find((one) => one.id === id)).filter((one) => one !== undefined);
  if (!recent.length) return null;

  function toggle(id: number) {
    setCompared((chosen) => (chosen.includes(id) ? chosen.filter((one) => one !== id) : [...chosen.slice(-1), id]));
  }

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
      <ul id="recent-list">
        {recent.slice(0, all ? undefined : COLLAPSED).map((one) => (
          <Card key={one.id} one={one} compared={compared.includes(one.id)} onOpen={() => onOpen(one)} onCompare={() => toggle(one.id)} />
        ))}
      </ul>
      {recent.length > COLLAPSED && (
        <button type="button" className="more" aria-expanded={all} aria-controls="recent-list" onClick={() => setAll(!all)}>
          {all ? `Show the last ${COLLAPSED}` : `Show all ${recent.length}`}
        </button>
      )}
      <p className="fine">
        The last 100 are kept in this browser only, without the recordings. Choose two to compare them. “Save as CSV” saves all.
      </p>
    </section>
  );
}

interface CardProps {
  one: Recent;
  compared: boolean;
  onOpen: () => void;
  onCompare: () => void;
}

function Card({ one, compared, onOpen, onCompare }: CardProps) {
  const { label, status = "ok", probabilities, source, text, seconds, utterances, analysis } = one;
  return (
    <li className="card">
      <h3>
        <span className="label" data-emotion={label ?? undefined}>
          {title(one)}
        </span>{" "}
        {label && status === "ok" && percent(probabilities[label])}
      </h3>
      <EmotionBars probabilities={probabilities} />
      {utterances !== undefined && (
        <p>
          {clock(seconds ?? 0)} long, {counted(utterances)}
        </p>
      )}
      <p className="words" dir="auto">
        {text || "No words"}
      </p>
      <small dir="auto">
        {source}, {new Date(one.when).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })}
      </small>
      <div className="row">
        {analysis ? (
          <button type="button" onClick={onOpen}>
            Open
          </button>
        ) : (
          <small>Only this summary is still stored.</small>
        )}
        <button type="button" aria-pressed={compared} onClick={onCompare}>
          Compare
        </button>
      </div>
    </li>
  );
}
