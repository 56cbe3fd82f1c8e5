/** Keeps the focus on the page when the element that has it disappears or is disabled. */

import { type RefObject, useEffect } from "react";

/** Moves the focus to `fallback` whenever it would be lost, so that the keyboard does not start at the top again. */
export function useKeptFocus(fallback: RefObject<HTMLElement | null>) {
  useEffect(() => {
    let last: Element | null = null;
    const remember = (event: FocusEvent) => (last = event.target as Element);
    const observer = new MutationObserver(() => {
      const active = document.activeElement;
      const lost = active === document.body && last !== null && !last.isConnected;
      if (lost || active?.matches(":disabled")) fallback.current?.focus({ preventScroll: true });
    });
    addEventListener("focusin", remember);
    observer.observe(document.body, { subtree: true, childList: true, attributes: true, attributeFilter: ["disabled"] });
    return () => {
      removeEventListener("focusin", remember);
      observer.disconnect();
    };
  }, [fallback]);
}
