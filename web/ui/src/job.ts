/** The input of one analysis, as the components hand it to the page. */

import type { Input } from "./api";

export interface Job extends Input {
  /** Name of the input in the list of recent analyses: "Spoken", "Typed" or a file name. */
  source: string;
  /** Whether the recording belongs to the user, who may want it back: recorded here or a file, not an example. */
  own?: boolean;
}
