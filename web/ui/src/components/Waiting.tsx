import { useEffect, useState } from "react";

interface Props {
  activity: string;
  /** Number of analyses that wait behind this one. */
  others: number;
  onCancel: () => void;
}

/** Progress of the pending analysis: current activity, elapsed seconds, and a button that cancels all of them. */
export function Waiting({ activity, others, onCancel }: Props) {
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
        {others > 0 && <small> {others} more waiting</small>}
      </p>
      <span aria-hidden="true">{seconds} s</span>
      <button type="button" onClick={onCancel}>
        Cancel
      </button>
    </div>
  );
}
