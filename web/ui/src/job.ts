/** The input of one analysis, as the components hand it to the page. */

import type { Input } from "./api";

export interface Job extends Input {
  /** Name of the input in the list of recent analyses: "Spoken", "Typed", a file name, or EXAMPLE and a name. */
  source: string;
  /** Whether the recording belongs to the user, who may want it back: recorded here or a file, not an example. */
  own?: boolean;
}

/** Start of the source of a built-in example; recent analyses of this browser keep it. */
export const EXAMPLE = "Example: ";
