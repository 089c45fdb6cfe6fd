// What the page knows of the selected backend: the present tick, and ten minutes of history for the endpoints that are drawn.
// Only those are kept as series, so that 5,000 endpoints cost no more than 24.

export const WINDOW_MS = 600_000;

/** Endpoints that are drawn by themselves; with more, the server chooses those that matter most. */
export const TRACKED_MAX = 24;

const TOTALS = ['rps', 'goodput_rps', 'shed_rps', 'error_share', 'latency_ms_p50', 'latency_ms_p99', 'objective_ms', 'in_flight'];
const FIELDS = ['weight_baseline', 'weight_proposed', 'weight_applied', 'share', 'rps', 'in_flight', 'latency_ms_p99', 'error', 'capacity_rps'];

/** What is charted by endpoint, and so has a spread over all endpoints. */
const SPREAD = ['weight_applied', 'in_flight', 'latency_ms_p99', 'error', 'capacity_rps'];
const PARTS = ['low', 'middle', 'high'];

const none = (count) => new Array(count).fill(null);

/** 5th, 50th and 95th percentile of a column, as the server reckons them. */
function spread(column) {
  const values = Float64Array.from((column ?? []).filter((value) => value !== null)).sort();
  return [0.05, 0.5, 0.95].map((share) => values[Math.round(share * (values.length - 1))] ?? null);
}

/** Columns of numbers over a shared time axis. */
export class Timeline {
  constructor() {
    this.times = [];
    this.totals = Object.fromEntries(TOTALS.map((name) => [name, []]));
    this.spread = Object.fromEntries(SPREAD.map((name) => [name, { low: [], middle: [], high: [] }]));
    this.series = new Map();
    this.spacingMs = 500;
  }

  /** Replaces everything by the server's history; ticks that came later than it are kept. */
  load(history) {
    const before = { times: this.times, totals: this.totals, spread: this.spread, series: this.series };
    this.times = history.at_ms;
    this.spacingMs = history.spacing_ms ?? 500;
    this.totals = Object.fromEntries(TOTALS.map((name) => [name, history.totals[name]]));
    this.spread = Object.fromEntries(SPREAD.map((name) => [name, history.spread[name] ?? { low: [], middle: [], high: [] }]));
    this.series = new Map(history.endpoints.map(({ name, ...fields }) => [name, fields]));
    const last = this.times.at(-1) ?? -Infinity;
    const later = before.times.findIndex((time) => time > last);
    if (later < 0) return;
    this.times.push(...before.times.slice(later));
    for (const name of TOTALS) this.totals[name].push(...before.totals[name].slice(later));
    for (const name of SPREAD) for (const part of PARTS) this.spread[name][part].push(...before.spread[name][part].slice(later));
    for (const [name, fields] of this.series) {
      const old = before.series.get(name);
      for (const field of FIELDS) fields[field].push(...(old?.[field].slice(later) ?? none(before.times.length - later)));
    }
  }

  /** Adds one endpoint's history to the present axis, by the nearest row before each of its times. */
  adopt(history) {
    const [{ name, ...fields }] = history.endpoints;
    const adopted = Object.fromEntries(FIELDS.map((field) => [field, none(this.times.length)]));
    let row = -1;
    this.times.forEach((time, index) => {
      while (row + 1 < history.at_ms.length && history.at_ms[row + 1] <= time) row += 1;
      if (row >= 0) for (const field of FIELDS) adopted[field][index] = fields[field][row];
    });
    this.series.set(name, adopted);
  }

  /** Adds a tick. `names` are the endpoints in the order of its columns. */
  push(tick, names, indexOf) {
    const { backend } = tick;
    if (this.times.length && tick.at_ms <= this.times.at(-1)) {
      if (tick.at_ms > this.times.at(-1) - 2_000) return;
      Object.assign(this, new Timeline()); // The clock was set back.
    }
    if (names.length <= TRACKED_MAX) {
      for (const name of names) {
        if (!this.series.has(name)) {
          this.series.set(name, Object.fromEntries(FIELDS.map((field) => [field, none(this.times.length)])));
        }
      }
    }
    this.times.push(tick.at_ms);
    const columns = backend.endpoints;
    const inFlight = columns.in_flight.reduce((sum, value) => sum + value, 0);
    for (const name of TOTALS) this.totals[name].push(name === 'in_flight' ? inFlight : backend[name]);
    for (const name of SPREAD) {
      const quantiles = names.length > TRACKED_MAX ? spread(columns[name]) : [null, null, null];
      PARTS.forEach((part, index) => this.spread[name][part].push(quantiles[index]));
    }
    for (const [name, fields] of this.series) {
      const index = indexOf.get(name);
      for (const field of FIELDS) fields[field].push(index === undefined ? null : (columns[field]?.[index] ?? null));
    }
    this.#forget(tick.at_ms - WINDOW_MS);
  }

  #forget(before) {
    // In steps, because dropping from the front moves everything.
    const gone = this.times.findIndex((time) => time >= before);
    if (gone < 60) return;
    this.times.splice(0, gone);
    for (const name of TOTALS) this.totals[name].splice(0, gone);
    for (const name of SPREAD) for (const part of PARTS) this.spread[name][part].splice(0, gone);
    for (const [name, fields] of this.series) {
      for (const field of FIELDS) fields[field].splice(0, gone);
      if (fields.weight_applied.every((value) => value === null)) this.series.delete(name);
    }
  }
}

/** What all names begin with, up to a dash and if it is long enough to be in the way: "checkout-6d8f7c9b5d-". */
function commonPrefix(names) {
  if (names.length < 2) return '';
  const [first] = names;
  let length = first.length;
  for (const name of names) while (!name.startsWith(first.slice(0, length))) length -= 1;
  const prefix = first.slice(0, first.lastIndexOf('-', length - 1) + 1);
  return prefix.length >= 8 ? prefix : '';
}

/** Everything of one backend. */
export class Store {
  constructor() {
    this.backends = [];
    this.backend = null;
    this.forget();
  }

  /** Begins anew: another backend, or a connection that was away. */
  forget() {
    this.roster = null;
    this.names = [];
    this.addresses = [];
    this.prefix = '';
    this.indexOf = new Map();
    this.tick = null;
    this.timeline = new Timeline();
    this.episodes = [];
    this.selected = null;
  }

  endpoints(event) {
    this.backends = event.backends;
    this.backend = event.backend;
    this.roster = event.roster;
    this.states = event.states;
    this.reasons = event.reasons;
    this.names = event.name;
    this.addresses = event.address;
    this.prefix = commonPrefix(event.name);
    this.indexOf = new Map(event.name.map((name, index) => [name, index]));
  }

  /** Takes up a tick; one whose columns are of another list of endpoints is not for us. */
  accept(tick) {
    if (tick.roster !== this.roster) return false;
    this.tick = tick;
    if (!tick.backend) return true;
    this.timeline.push(tick, this.names, this.indexOf);
    this.#log(tick.at_ms, tick.backend.guard);
    if (!this.selected || !(this.indexOf.has(this.selected) || this.timeline.series.has(this.selected))) {
      this.selected = this.#heaviest();
    }
    return true;
  }

  load(history) {
    this.timeline.load(history);
    const live = this.episodes.filter((episode) => episode.from_ms > (history.at_ms.at(-1) ?? 0));
    this.episodes = [...history.guard, ...live];
  }

  /** A name without what all names begin with. */
  short(name) {
    return this.prefix && name.startsWith(this.prefix) ? `…\u2060${name.slice(this.prefix.length)}` : name;
  }

  /** Reasons of one endpoint at this tick, by name. */
  reasonsOf(index) {
    const mask = this.tick.backend.endpoints.reasons[index];
    return mask ? this.reasons.filter((_, bit) => mask & (1 << bit)) : [];
  }

  #heaviest() {
    const weights = this.tick.backend.endpoints.weight_applied;
    let best = 0;
    weights.forEach((weight, index) => weight > weights[best] && (best = index));
    return this.names[best] ?? null;
  }

  /** The same folding into episodes as the server's: a reason that comes back within 3 s goes on. */
  #log(atMs, actions) {
    for (const action of actions) {
      const same = this.episodes.findLast(
        (episode) =>
          episode.reason === action.reason &&
          episode.endpoint === action.endpoint &&
          (episode.endpoints === 1) === (action.endpoints === 1) &&
          atMs - episode.to_ms <= 3_000,
      );
      if (same && atMs <= same.to_ms) continue;
      if (same) Object.assign(same, action, { to_ms: atMs, ticks: same.ticks + 1 });
      else this.episodes.push({ ...action, from_ms: atMs, to_ms: atMs, ticks: 1 });
    }
    this.episodes = this.episodes.filter((episode) => episode.to_ms >= atMs - WINDOW_MS).slice(-400);
  }
}
