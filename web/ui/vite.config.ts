import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

export default defineConfig({
  plugins: [react()],
  build: {
    assetsInlineLimit: 0, // the page's policy allows no data: URLs for sound
    chunkSizeWarningLimit: 700, // kB before gzip; budget.js is what counts
  },
  server: {
    fs: { allow: ["../.."] }, // the example recordings
    proxy: { "/api": "http://localhost:8080" },
  },
  test: { environment: "jsdom", setupFiles: "src/test-setup.ts", restoreMocks: true },
});
