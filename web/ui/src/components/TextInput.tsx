import { type FormEvent, type KeyboardEvent, useId } from "react";

import type { Job } from "../job";

interface Props {
  text: string;
  onText: (text: string) => void;
  limit: number;
  busy: boolean;
  onJob: (job: Job) => void;
}

export function TextInput({ text, onText, limit, busy, onJob }: Props) {
  const id = useId();
  const ready = !busy && text.trim() !== "";

  function submit(event: FormEvent | KeyboardEvent) {
    event.preventDefault();
    if (ready) onJob({ text, source: "Typed" });
  }

  return (
    <form className="type" onSubmit={submit}>
      <label htmlFor={id}>Text to analyse</label>
      <textarea
        id={id}
        dir="auto"
        rows={4}
        maxLength={limit}
        value={text}
        placeholder="I can't believe that it worked!"
        onChange={(event) => onText(event.target.value)}
        onKeyDown={(event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && submit(event)}
      />
      <div className="row">
        <small>{limit - text.length} characters left</small>
        <button type="submit" className="primary" disabled={!ready}>
          Analyse
        </button>
      </div>
    </form>
  );
}
