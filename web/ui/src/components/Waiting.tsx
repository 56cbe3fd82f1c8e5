import { useEffect, useState } from "react";

/** What is going on, and for how long. */
export function Waiting({ spoken, onCancel }: { spoken: boolean; onCancel: () => void }) {
  const [seconds, setSeconds] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => setSeconds((count) => count + 1), 1000);
    return () => clearInterval(timer);
  }, []);

  return (
    <div className="card waiting">
      <span className="spinner" aria-hidden="true" />
      <p role="status">{spoken ? "Listening to the voice and writing down the words" : "Reading"}</p>
      <span aria-hidden="true">{seconds} s</span>
      <button type="button" onClick={onCancel}>
        Cancel
      </button>
    </div>
  );
}
