/** Shortens a recording in the browser. */

const SAMPLE_RATE = 16_000; // the service's own rate, so that nothing is lost
const HEADER_BYTES = 44;

/** Returns the first seconds of a recording as a WAV file, 16 kHz, 16 bits, mono. Throws if it can't be decoded. */
export async function trim(audio: Blob, seconds: number): Promise<Blob> {
  const context = new OfflineAudioContext(1, 1, SAMPLE_RATE); // decodes to its own rate
  const decoded = await context.decodeAudioData(await audio.arrayBuffer());
  const length = Math.min(decoded.length, Math.floor(seconds * SAMPLE_RATE));
  const channels = Array.from({ length: decoded.numberOfChannels }, (_, index) => decoded.getChannelData(index));
  const samples = new Int16Array(length);
  for (let index = 0; index < length; index++) {
    const mean = channels.reduce((sum, channel) => sum + channel[index]!, 0) / channels.length;
    samples[index] = Math.round(32_767 * Math.min(1, Math.max(-1, mean)));
  }
  return new Blob([header(length), samples], { type: "audio/wav" });
}

/** Returns the header of a WAV file with this number of samples. */
function header(samples: number): ArrayBuffer {
  const bytes = new DataView(new ArrayBuffer(HEADER_BYTES));
  const put = (at: number, name: string) => [...name].forEach((letter, index) => bytes.setUint8(at + index, letter.charCodeAt(0)));
  put(0, "RIFF");
  bytes.setUint32(4, HEADER_BYTES - 8 + 2 * samples, true);
  put(8, "WAVEfmt ");
  bytes.setUint32(16, 16, true);
  bytes.setUint16(20, 1, true); // PCM
  bytes.setUint16(22, 1, true); // channels
  bytes.setUint32(24, SAMPLE_RATE, true);
  bytes.setUint32(28, 2 * SAMPLE_RATE, true);
  bytes.setUint16(32, 2, true);
  bytes.setUint16(34, 16, true); // bits
  put(36, "data");
  bytes.setUint32(40, 2 * samples, true);
  return bytes.buffer;
}
