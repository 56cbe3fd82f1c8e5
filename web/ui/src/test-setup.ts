import "@testing-library/jest-dom/vitest";

import { cleanup } from "@testing-library/react";
import { afterEach, beforeEach, vi } from "vitest";

// jsdom has no layout and no audio playback
vi.mock("wavesurfer.js", () => ({ default: { create: () => ({ on: vi.fn(), destroy: vi.fn(), setTime: vi.fn() }) } }));
globalThis.ResizeObserver = class {
  observe() {}
  unobserve() {}
  disconnect() {}
};
URL.createObjectURL = () => "blob:test";
URL.revokeObjectURL = () => {};

beforeEach(() => {
  localStorage.clear();
  sessionStorage.clear();
});
afterEach(cleanup);
