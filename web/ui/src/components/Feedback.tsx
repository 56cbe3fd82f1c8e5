/** "This is wrong" under an answer: the user chooses the right emotion, and the service stores it with the input. */

import { type FormEvent, useEffect, useId, useRef, useState } from "react";

import { ApiError, type Input } from "../api";
import { type Emotion, EMOTIONS } from "../emotions";
import { sendFeedback } from "../feedback";
import { Problem } from "./Problem";

interface Props {
  /** The recording and the words of the answer; at least one of them. */
  input: Input;
  /** Whether the service stores feedback. */
  offered: boolean;
}

export function Feedback({ input, offered }: Props) {
  const [shown, setShown] = useState(offered);
  const [id, setId] = useState<string>();
  if (offered && !shown) setShown(true); // it stays while the service is unavailable for a moment
  if (!shown) return null;

  return (
    <details className="feedback">
      <summary>This is wrong</summary>
      {id === undefined ? <FeedbackForm input={input} onStored={setId} /> : <Thanks id={id} />}
    </details>
  );
}

function FeedbackForm({ input, onStored }: { input: Input; onStored: (id: string) => void }) {
  const [emotion, setEmotion] = useState<Emotion>();
  const [sending, setSending] = useState(false);
  const [error, setError] = useState<ApiError | null>(null);
  const name = useId();
  const button = useRef<HTMLButtonElement>(null);

  async function send() {
    button.current!.focus(); // a button of the error message is gone
    setError(null);
    setSending(true);
    try {
      onStored(await sendFeedback(input, emotion!));
    } catch (error) {
      setError(error as ApiError);
      setSending(false);
    }
  }

  function submit(event: FormEvent) {
    event.preventDefault();
    if (!sending) void send();
  }

  return (
    <>
      <form onSubmit={submit}>
        <fieldset>
          <legend>What was it?</legend>
          {EMOTIONS.map((one) => (
            <label key={one}>
              <input type="radio" name={name} required checked={one === emotion} onChange={() => setEmotion(one)} />
              <span className="label" data-emotion={one}>
                {one}
              </span>
            </label>
          ))}
        </fieldset>
        <label className="consent">
          <input type="checkbox" required />
          <span>
            I agree that {contents(input)} and the emotion I chose are stored on the service’s disk, to train later models.
            Without this, nothing can be sent.
          </span>
        </label>
        <button type="submit" ref={button} aria-disabled={sending}>
          Send
        </button>
        <small role="status">{sending && "Sending"}</small>
      </form>
      {error && (
        <Problem
          failure={{ error, job: { ...input, source: "Feedback" }, automatic: false }}
          onRetry={() => void send()}
          onDismiss={() => {
            setError(null);
            button.current!.focus();
          }}
        />
      )}
    </>
  );
}

/** Says what of the input is stored. */
function contents({ audio, text }: Input): string {
  if (audio && text) return `the recording, its words (“${text}”)`;
  return audio ? "the recording" : `the words (“${text}”)`;
}

function Thanks({ id }: { id: string }) {
  const message = useRef<HTMLParagraphElement>(null);
  useEffect(() => message.current?.focus(), []); // the form with the focus is gone

  return (
    <p ref={message} className="thanks" tabIndex={-1}>
      Thank you. It is stored. Keep this id if you want it deleted later: <code>{id}</code>
    </p>
  );
}
