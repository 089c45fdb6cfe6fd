// The server: one stream of events that reconnects by itself, and a few plain requests.

const RETRY_MS_MIN = 1_000;
const RETRY_MS_MAX = 10_000;

/** A JSON answer; throws an Error with the server's own message. */
async function get(path, parameters = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null));
  const response = await fetch(query.size ? `${path}?${query}` : path);
  const body = await response.json();
  if (!response.ok) throw new Error(body?.error?.message ?? `${path}: ${response.status}`);
  return body;
}

export const fetchHistory = (parameters) => get('/api/v1/history', parameters);
export const fetchReasons = () => get('/api/v1/reasons');

/**
 * The stream of one backend. Callbacks: `onEndpoints(event)`, `onTick(event)`, `onState('connecting' | 'live' | 'lost')`.
 * While the page is hidden the stream is closed: browsers allow six connections to a server, and nobody looks.
 */
export class Stream {
  #source = null;
  #timer = 0;
  #retryMs = RETRY_MS_MIN;
  #backend = null;

  constructor(callbacks) {
    this.callbacks = callbacks;
    document.addEventListener('visibilitychange', () => {
      if (document.hidden) return this.#close();
      callbacks.onState('connecting');
      this.#open();
    });
    window.addEventListener('pagehide', () => this.#close());
    window.addEventListener('pageshow', () => this.#source ?? this.#open());
  }

  /** Follows `backend`; `null`: the first one there is. */
  follow(backend) {
    this.#backend = backend;
    this.callbacks.onState('connecting');
    this.#open();
  }

  #close() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
  }

  #open() {
    this.#close();
    const query = this.#backend === null ? '' : `?${new URLSearchParams({ backend: this.#backend })}`;
    const source = new EventSource(`/api/v1/stream${query}`);
    this.#source = source;
    let live = false;
    source.addEventListener('endpoints', (event) => this.callbacks.onEndpoints(JSON.parse(event.data)));
    source.addEventListener('tick', (event) => {
      if (!live) this.callbacks.onState('live');
      live = true;
      this.#retryMs = RETRY_MS_MIN;
      this.callbacks.onTick(JSON.parse(event.data));
    });
    source.addEventListener('error', () => {
      live = false;
      this.callbacks.onState('lost');
      // The browser retries dropped connections itself, but not refusals (the backend is gone, the server is full).
      if (source.readyState !== EventSource.CLOSED || source !== this.#source) return;
      this.#close();
      this.#backend = null;
      this.#timer = setTimeout(() => this.#open(), this.#retryMs);
      this.#retryMs = Math.min(this.#retryMs * 2, RETRY_MS_MAX);
    });
  }
}
