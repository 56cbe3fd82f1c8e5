import { type FormEvent, useEffect, useState } from "react";

import { type ApiError, setKey } from "../api";

const RETRYABLE_CODES = ["busy", "away", "late", "slow_upload", "too_often", "fault"];

interface Props {
  error: ApiError;
  /** Sends the same input again; absent if nothing was sent. */
  onRetry?: () => void;
  onDismiss: () => void;
}

/** Error message with the action that may solve it: retry, enter a key, or close. */
export function Problem({ error, onRetry, onDismiss }: Props) {
  return (
    <div className="card problem" role="alert">
      <p>{error.message}</p>
      {error.code === "key" && onRetry ? (
        <KeyForm onKey={onRetry} />
      ) : (
        <div className="row">
          {onRetry && RETRYABLE_CODES.includes(error.code) && <Retry key={error.message} after={error.retryAfter} onRetry={onRetry} />}
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
        Use this key
      </button>
    </form>
  );
}
