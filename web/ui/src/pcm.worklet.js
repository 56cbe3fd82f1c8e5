/* global AudioWorkletProcessor, registerProcessor, sampleRate */

const BATCH_S = 0.1;

/** Posts mono sound as ArrayBuffers of 16-bit samples, little endian as on every platform with this API. */
class PcmProcessor extends AudioWorkletProcessor {
  batch = new Int16Array(Math.round(BATCH_S * sampleRate));
  length = 0;

  process([input]) {
    for (const sample of input[0] ?? []) {
      this.batch[this.length++] = Math.round(32767 * Math.min(1, Math.max(-1, sample)));
      if (this.length === this.batch.length) {
        this.port.postMessage(this.batch.buffer, [this.batch.buffer]);
        this.batch = new Int16Array(Math.round(BATCH_S * sampleRate));
        this.length = 0;
      }
    }
    return true;
  }
}

registerProcessor("pcm", PcmProcessor);
