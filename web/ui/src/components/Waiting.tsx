import { useEffect, useState } from "react";

/** Progress of the pending analysis: current activity, elapsed seconds, and a button that cancels it. */
export function Waiting({ activity, onCancel }: { activity: string; onCancel: () => void }) {
  const [seconds, setSeconds] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => setSeconds((count) => count + 1), 1000);
    return () => clearInterval(timer);
  }, []);

  return (
    <div className="card waiting">
      <span className="spinner" aria-hidden="true" />
      <p>{activity}</p>
      <span aria-hidden="true">{seconds} s</span>
      <button type="button" onClick={onCancel}>
        Cancel
      </button>
    </div>
  );
}
