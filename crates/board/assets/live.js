// The stream of a run's state. It is opened again when it breaks.

/** The time before each reopening of the stream, in ms. */
const AGAIN = [500, 1000, 2000, 4000];

/** The stream sends an event at least every 5 s. After this many ms without an event it counts as broken. */
const SILENCE = 12000;

/** The stream of a run. A hidden page has no stream, so that the browser has connections left. */
export class Live {
  /**
   * @param {(state: any) => void} onState
   * @param {(isLive: boolean) => void} onLink
   */
  constructor(onState, onLink) {
    this.onState = onState;
    this.onLink = onLink;
    this.run = null;
    this.failures = 0;
    this.source = null;
    this.timer = 0;
    this.heard = 0;
    document.addEventListener("visibilitychange", () => this.follow(this.run));
    setInterval(() => {
      if (this.source && performance.now() - this.heard > SILENCE) this.broken();
    }, 1000);
  }

  /** Follows a run from now on; null stands for the first run. */
  follow(run) {
    this.run = run;
    this.close();
    if (document.visibilityState === "hidden") return;
    const source = new EventSource(run === null ? "api/live" : `api/live?run=${encodeURIComponent(run)}`);
    this.source = source;
    this.heard = performance.now();
    source.addEventListener("state", event => {
      if (this.source !== source) return;
      this.failures = 0;
      this.heard = performance.now();
      this.onLink(true);
      this.onState(JSON.parse(event.data));
    });
    source.addEventListener("error", () => { if (this.source === source) this.broken(); });
  }

  broken() {
    this.close();
    this.onLink(false);
    const wait = AGAIN[Math.min(this.failures, AGAIN.length - 1)];
    this.failures += 1;
    this.timer = setTimeout(() => this.follow(this.run), wait);
    // If the board was restarted with another view token, the page is loaded again, and asks for the token.
    fetch("api/enter").then(answer => { if (answer.status === 401) location.reload(); }, () => {});
  }

  close() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }
}
