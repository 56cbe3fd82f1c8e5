import { EMOTIONS, percent, verdict } from "../emotions";
import type { Recent } from "../recent";

/** List of the recent analyses with their probabilities. */
export function RecentAnalyses({ recent, onClear }: { recent: Recent[]; onClear: () => void }) {
  if (!recent.length) return null;
  return (
    <section className="recent" aria-labelledby="recent">
      <div className="row">
        <h2 id="recent">Recent analyses</h2>
        <button type="button" onClick={onClear}>
          Clear
        </button>
      </div>
      <ul>
        {recent.map(({ id, when, source, text, label, status, probabilities }) => (
          <li key={id} className="card">
            <h3>
              <span className="label" data-emotion={label}>
                {verdict(status, label, probabilities)}
              </span>{" "}
              {(status ?? "ok") === "ok" && percent(probabilities[label])}
            </h3>
            <dl>
              {EMOTIONS.map((emotion) => (
                <div key={emotion}>
                  <dt>{emotion}</dt>
                  <dd>
                    <span className="bar" aria-hidden="true">
                      <span style={{ width: `${100 * probabilities[emotion]}%` }} data-emotion={emotion} />
                    </span>
                    {percent(probabilities[emotion])}
                  </dd>
                </div>
              ))}
            </dl>
            <p>{text || "No words"}</p>
            <small>
              {source}, {new Date(when).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })}
            </small>
          </li>
        ))}
      </ul>
      <p className="fine">Kept in this browser only, without the recordings.</p>
    </section>
  );
}
