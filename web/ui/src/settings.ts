/** Settings that this browser remembers. */

import { useState } from "react";

/** Returns a stored boolean and a function that changes it; it lasts until the page is closed if storage is forbidden. */
export function useSetting(key: string, initial: boolean): [boolean, (value: boolean) => void] {
  const [value, setValue] = useState(() => read(key) ?? initial);
  return [
    value,
    (next) => {
      setValue(next);
      try {
        localStorage.setItem(key, String(next));
      } catch {
        // storage is full or forbidden
      }
    },
  ];
}

function read(key: string): boolean | undefined {
  try {
    return { true: true, false: false }[localStorage.getItem(key) ?? ""];
  } catch {
    return undefined;
  }
}
