import { useEffect, useState } from "react";

import type { LongAnalysis } from "../utterances";

interface Props {
  activity: string;
  /** Position among several files, such as "3 of 20 files"; empty for a single one. */
  position: string;
  /** What has arrived of the answer to a long recording. */
  partial: LongAnalysis | null;
  onCancel: () => void;
}

/** Progress of the pending analysis: current activity, elapsed seconds, and a button that cancels all of them. */
export function Waiting({ activity, position, partial, onCancel }: Props) {
  const [seconds, setSeconds] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => setSeconds((count) => count + 1), 1000);
    return () => clearInterval(timer);
  }, []);

  return (
    <div className="card waiting">
      <span className="spinner" aria-hidden="true" />
      <p>
        {activity}
        {position && <small> {position}</small>}
      </p>
      <span aria-hidden="true">{seconds} s</span>
      <button type="button" onClick={onCancel}>
        Cancel
      </button>
      {partial && <Progress done={partial.utterances.length} total={partial.total} />}
    </div>
  );
}

/** Number of utterances that are answered. Screen readers announce it four times, not for every utterance. */
function Progress({ done, total }: { done: number; total: number }) {
  const quarter = Math.floor((4 * done) / total) / 4;
  return (
    <div className="progress">
      <progress aria-label="Utterances" max={total} value={done} />
      <small aria-hidden="true">
        {done} of {total} utterances
      </small>
      <span className="hidden">{quarter > 0 ? `${100 * quarter} % of the utterances are analysed` : `${total} utterances found`}</span>
    </div>
  );
}
