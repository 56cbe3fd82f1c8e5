import { type FormEvent, useEffect, useState } from "react";

import { type Failure, setKey } from "../api";

const AGAIN = ["busy", "away", "late", "slow_upload", "too_often", "fault"]; // for these, the same may work later

interface Props {
  failure: Failure;
  /** Sends the same again; absent where nothing was sent. */
  onRetry?: () => void;
  onDismiss: () => void;
}

/** A failure, and a way on. */
export function Problem({ failure, onRetry, onDismiss }: Props) {
  return (
    <div className="card problem" role="alert">
      <p>{failure.message}</p>
      {failure.code === "key" && onRetry ? (
        <KeyForm onKey={onRetry} />
      ) : (
        <div className="row">
          {onRetry && AGAIN.includes(failure.code) && <Retry key={failure.message} after={failure.retryAfter} onRetry={onRetry} />}
          <button type="button" onClick={onDismiss}>
            Close
          </button>
        </div>
      )}
    </div>
  );
}

function Retry({ after = 0, onRetry }: { after?: number; onRetry: () => void }) {
  const [left, setLeft] = useState(after);
  useEffect(() => {
    if (left <= 0) return;
    const timer = setTimeout(() => setLeft(left - 1), 1000);
    return () => clearTimeout(timer);
  }, [left]);
  return (
    <button type="button" className="primary" disabled={left > 0} onClick={onRetry}>
      {left > 0 ? `Try again in ${left} s` : "Try again"}
    </button>
  );
}

function KeyForm({ onKey }: { onKey: () => void }) {
  function submit(event: FormEvent<HTMLFormElement>) {
    event.preventDefault();
    setKey(String(new FormData(event.currentTarget).get("key")));
    onKey();
  }
  return (
    <form className="row" onSubmit={submit}>
      <label>
        Access key <input name="key" type="password" autoComplete="off" required />
      </label>
      <button type="submit" className="primary">
        Use it
      </button>
    </form>
  );
}
