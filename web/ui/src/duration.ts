/** Finds the duration of a recording in the browser. */

const TIMEOUT_MS = 5_000;

/** Returns the duration in seconds; null if the browser can't read this kind of recording. */
export function duration(audio: Blob): Promise<number | null> {
  return new Promise((resolve) => {
    const url = URL.createObjectURL(audio);
    const player = document.createElement("audio");
    const timer = setTimeout(() => finish(null), TIMEOUT_MS);
    let ended = false;

    function finish(seconds: number | null) {
      if (ended) return; // removing the source causes an error event
      ended = true;
      clearTimeout(timer);
      player.removeAttribute("src");
      player.load();
      URL.revokeObjectURL(url);
      resolve(seconds);
    }

    function read() {
      if (Number.isFinite(player.duration)) finish(player.duration);
      else player.currentTime = Number.MAX_SAFE_INTEGER; // browsers write WebM without its duration, and find it at the end
    }

    player.preload = "metadata";
    player.onloadedmetadata = read;
    player.ondurationchange = () => Number.isFinite(player.duration) && finish(player.duration);
    player.onerror = () => finish(null);
    player.src = url;
  });
}
