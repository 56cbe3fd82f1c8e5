import { type FormEvent, type KeyboardEvent, useId, useState } from "react";

import type { Job } from "../App";

interface Props {
  limit: number;
  busy: boolean;
  onJob: (job: Job) => void;
}

export function TextInput({ limit, busy, onJob }: Props) {
  const [text, setText] = useState("");
  const id = useId();
  const ready = !busy && text.trim() !== "";

  function submit(event: FormEvent | KeyboardEvent) {
    event.preventDefault();
    if (ready) onJob({ text, source: "Typed" });
  }

  return (
    <form className="type" onSubmit={submit}>
      <label htmlFor={id}>What would be said</label>
      <textarea
        id={id}
        rows={4}
        maxLength={limit}
        value={text}
        placeholder="I can't believe that it worked!"
        onChange={(event) => setText(event.target.value)}
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
