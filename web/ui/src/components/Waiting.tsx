import { useEffect, useState } from "react";

/** What is going on, and for how long. */
export function Waiting({ doing, onCancel }: { doing: string; onCancel: () => void }) {
  const [seconds, setSeconds] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => setSeconds((count) => count + 1), 1000);
    return () => clearInterval(timer);
  }, []);

  return (
    <div className="card waiting">
      <span className="spinner" aria-hidden="true" />
      <p>{doing}</p>
      <span aria-hidden="true">{seconds} s</span>
      <button type="button" onClick={onCancel}>
        Cancel
      </button>
    </div>
  );
}
