/** Positions of the labels on a time axis. */

const STEPS_S = [1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600];
const MAX_STEPS = 6; // at a page width of 320 px a step is then at least 41 px wide, and a label 33 px
const LABEL_SHARE = 0.14; // of the axis: width of a label at a page width of 320 px

/** Returns the times in seconds that get a label to their right, so that labels neither overlap nor leave the axis. */
export function timeTicks(seconds: number): number[] {
  const step = STEPS_S.find((one) => seconds / one <= MAX_STEPS) ?? Math.ceil(seconds / MAX_STEPS);
  const last = Math.floor((seconds * (1 - LABEL_SHARE)) / step);
  return Array.from({ length: last + 1 }, (_, index) => index * step);
}
