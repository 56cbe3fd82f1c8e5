import { type FormEvent, useEffect, useState } from "react";

import { setKey } from "../api";
import type { Failure } from "../analyses";

const RETRYABLE_CODES = ["busy", "away", "late", "slow_upload", "too_often", "fault"];

interface Props {
  failure: Failure;
  /** Number of jobs that wait behind the failed one. */
  others?: number;
  onRetry: () => void;
  onDismiss: () => void;
  /** Ends the jobs that wait as well. */
  onCancel?: () => void;
}

/** Error message with the action that may solve it: retry, enter a key, close, or end all analyses. */
export function Problem({ failure: { error, job, automatic }, others = 0, onRetry, onDismiss, onCancel }: Props) {
  return (
    <div className="card problem" role="alert">
      <p>{error.message}</p>
      {error.code === "key" && job ? (
        <KeyForm onKey={onRetry} />
      ) : (
        <div className="row">
          {job && RETRYABLE_CODES.includes(error.code) && (
            <button type="button" className="primary" onClick={onRetry}>
              {automatic ? "Try now" : "Try again"}
            </button>
          )}
          <button type="button" onClick={onDismiss}>
            {others > 0 ? "Skip this one" : automatic ? "Stop trying" : "Close"}
          </button>
          {others > 0 && (
            <button type="button" onClick={onCancel}>
              Stop all
            </button>
          )}
          {automatic && <Countdown seconds={error.retryAfter ?? 0} onEnd={onRetry} />}
        </div>
      )}
    </div>
  );
}

function Countdown({ seconds, onEnd }: { seconds: number; onEnd: () => void }) {
  const [left, setLeft] = useState(seconds);
  useEffect(() => {
    const timer = left > 0 ? setTimeout(() => setLeft(left - 1), 1000) : setTimeout(onEnd);
    return () => clearTimeout(timer);
  }, [left, onEnd]);
  return <small aria-live="off">Trying again in {left} s</small>;
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
