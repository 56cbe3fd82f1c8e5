/** Tabs after the ARIA Authoring Practices: arrow keys move between them. */

import { type KeyboardEvent, type ReactNode, useId, useRef, useState } from "react";

interface Props {
  label: string;
  tabs: Record<string, ReactNode>;
  /** Tab in which something is going on. */
  marked?: string;
}

export function Tabs({ label, tabs, marked }: Props) {
  const names = Object.keys(tabs);
  const [chosen, setChosen] = useState(names[0]!);
  const id = useId();
  const list = useRef<HTMLDivElement>(null);

  function move(event: KeyboardEvent) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = (names.indexOf(chosen) + step + names.length) % names.length;
    setChosen(names[next]!);
    list.current?.querySelectorAll<HTMLElement>("[role=tab]")[next]?.focus();
  }

  return (
    <>
      <div className="tabs" role="tablist" aria-label={label} ref={list}>
        {names.map((name) => (
          <button
            key={name}
            type="button"
            role="tab"
            data-marked={name === marked}
            id={`${id}-${name}`}
            aria-selected={name === chosen}
            aria-controls={`${id}-panel`}
            tabIndex={name === chosen ? 0 : -1}
            onClick={() => setChosen(name)}
            onKeyDown={move}
          >
            {name}
          </button>
        ))}
      </div>
      <div className="panel" role="tabpanel" id={`${id}-panel`} aria-labelledby={`${id}-${chosen}`}>
        {tabs[chosen]}
      </div>
    </>
  );
}
