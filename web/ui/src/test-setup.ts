import "@testing-library/jest-dom/vitest";

import { cleanup, configure } from "@testing-library/react";
import { afterEach, beforeEach, vi } from "vitest";

configure({ asyncUtilTimeout: 10_000 }); // other tests may load the machine

// jsdom has no layout, no audio playback and no modal dialogs
vi.mock("./duration", () => ({ duration: vi.fn(async () => 2) }));
vi.mock("wavesurfer.js", () => ({ default: { create: () => ({ on: vi.fn(), destroy: vi.fn(), setTime: vi.fn() }) } }));
globalThis.ResizeObserver = class {
  observe() {}
  unobserve() {}
  disconnect() {}
};
HTMLDialogElement.prototype.showModal = function () {
  this.open = true;
};
HTMLDialogElement.prototype.close = function () {
  this.open = false;
  this.dispatchEvent(new Event("close"));
};
URL.createObjectURL = () => "blob:test";
URL.revokeObjectURL = () => {};

beforeEach(() => {
  localStorage.clear();
  sessionStorage.clear();
  localStorage.setItem("emoserve.notice", "true"); // read and accepted
});
afterEach(cleanup);
