import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

export default defineConfig({
  plugins: [react()],
  build: {
    assetsInlineLimit: 0, // the Content-Security-Policy allows no data: URLs for audio
    chunkSizeWarningLimit: 2000, // kB before gzip, of the API page; budget.js checks the page's size after gzip
    rolldownOptions: { input: ["index.html", "api-docs.html"] },
  },
  server: {
    fs: { allow: ["../.."] }, // the example recordings are outside of web/ui
    proxy: { "/api": { target: "http://localhost:8080", ws: true } },
  },
  test: { environment: "jsdom", setupFiles: "src/test-setup.ts", restoreMocks: true, testTimeout: 30_000 },
});
