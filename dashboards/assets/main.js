// The page: connects the stream to the parts, and draws once a frame however much arrives.

import { fetchHistory, fetchReasons, Stream } from './api.js';
import { byId, installTips, setText } from './dom.js';
import { freshTheme, onTheme } from './color.js';
import { showCharts } from './charts.js';
import { showClasses } from './classes.js';
import { explain, showGuard } from './guard.js';
import { showBackends, showBanners, showFacts, showFoot, showLink } from './header.js';
import { showModel } from './model.js';
import { showNumbers } from './numbers.js';
import { onResize } from './scale.js';
import { Store, TRACKED_MAX, WINDOW_MS } from './store.js';
import { buildTable, showTable } from './table.js';

/** Rows that a history is asked for: more than the charts have pixels would not be seen. */
const POINTS = 600;
/** With more endpoints than are drawn, those that matter are chosen anew this often. */
const RECHOOSE_MS = 30_000;
/** Without a tick for so long, the numbers on the page are called old. */
const STALE_MS = 4_000;

const store = new Store();
let rangeMs = WINDOW_MS;
let link = 'connecting';
let tickAt = performance.now();
let chosenAt = 0;
let loading = null;
let drawing = false;

/** The backend that the address names, e.g. `#default/web:80`. */
const wanted = () => (location.hash.length > 1 ? decodeURIComponent(location.hash.slice(1)) : null);

const stream = new Stream({
  onEndpoints(event) {
    if (event.backend !== store.backend) store.forget();
    store.endpoints(event);
    if (wanted() !== event.backend && event.backends.includes(wanted())) return stream.follow(wanted());
    chosenAt = 0;
  },
  onTick(tick) {
    tickAt = performance.now();
    if (!store.accept(tick)) return;
    const many = store.names.length > TRACKED_MAX;
    if (tick.backend && (chosenAt === 0 || (many && tickAt - chosenAt > RECHOOSE_MS))) load();
    schedule();
  },
  onState(state) {
    // What was missed while the connection was away comes from the history.
    if (state === 'live') chosenAt = 0;
    link = state;
    schedule();
  },
});

/** Fetches the history of the backend, and of the selected endpoint if it is not among those that matter. */
async function load() {
  if (loading) return;
  chosenAt = performance.now();
  const { backend } = store;
  loading = fetchHistory({ backend, limit: TRACKED_MAX, points: POINTS });
  try {
    const history = await loading;
    if (store.backend === backend) store.load(history);
    await adopt(store.selected);
  } catch (error) {
    // The page lives without its past, and asks again in a while.
    console.warn(`history: ${error.message}`);
    chosenAt = performance.now() - RECHOOSE_MS + 5_000;
  } finally {
    loading = null;
    schedule();
  }
}

/** Fetches the history of one endpoint, if it is not there yet. */
async function adopt(name) {
  const { backend } = store;
  if (name === null || store.timeline.series.has(name)) return;
  const history = await fetchHistory({ backend, endpoint: name, points: POINTS });
  if (store.backend === backend) store.timeline.adopt(history);
}

function choose(name) {
  if (name !== null) {
    store.selected = name;
    adopt(name).then(schedule, schedule);
  }
  schedule();
}

function chooseBackend(name) {
  history.replaceState(null, '', `#${encodeURIComponent(name)}`);
  store.forget();
  stream.follow(name);
}

function schedule() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    draw();
  });
}

function draw() {
  freshTheme();
  const ageMs = performance.now() - tickAt;
  const waiting = waitingFor();
  const stale = link === 'live' && !waiting && ageMs > STALE_MS;
  showLink(stale ? 'stale' : link, ageMs / 1000);
  showBanners(troubles(stale, ageMs));
  showBackends(store, chooseBackend);
  byId('waiting').hidden = !waiting;
  byId('content').hidden = Boolean(waiting);
  if (waiting) {
    setText(byId('waiting-title'), waiting[0]);
    setText(byId('waiting-text'), waiting[1]);
    byId('facts').hidden = true;
    return;
  }
  byId('facts').hidden = false;
  const range = shownRange();
  showFacts(store);
  showNumbers(store, range);
  showCharts(store, range, choose);
  showGuard(store, range);
  showModel(store);
  showClasses(store);
  showTable(store);
  showFoot(store);
}

/** What there is to wait for, as title and text; `null` when there is something to show. */
function waitingFor() {
  const { tick } = store;
  if (!tick) {
    return link === 'lost'
      ? ['Connection lost, retrying', 'The controller does not answer. This page connects again by itself.']
      : ['Connecting', 'The page is connecting to the controller.'];
  }
  if (tick.backend) return null;
  if (tick.at_ms > 0) return ['No backends yet', 'The controller is running, but its configuration names no backend.'];
  return ['Waiting for the first tick', 'The controller is up; its first look at the backends is on its way.'];
}

function troubles(stale, ageMs) {
  const found = [];
  const { tick } = store;
  if (link === 'lost' && tick) found.push({ level: 'bad', title: 'Connection lost, retrying', lines: ['The numbers below are the last that arrived.'] });
  if (stale) found.push({ level: 'warn', title: 'No new tick', lines: [`The controller answers, but its last tick was ${Math.round(ageMs / 1000)} s ago.`] });
  if (tick?.problems.length) found.push({ level: 'warn', title: tick.problems.length > 1 ? 'Problems' : 'Problem', lines: tick.problems });
  if (tick?.backend && tick.proxies.length === 0) found.push({ level: 'warn', title: 'No proxy', lines: ['No proxy is connected, so nothing is routed by these weights.'] });
  return found;
}

/** The time shown: up to the last tick, and not further back than there is something, so that a new page is not half empty. */
function shownRange() {
  const { times } = store.timeline;
  const to = times.at(-1) ?? store.tick.at_ms;
  const first = times[0] ?? to;
  const span = Math.min(rangeMs, Math.max(30_000, (to - first) * 1.02));
  return { from: to - span, to };
}

installTips();
buildTable(choose, schedule);
onTheme(schedule);
onResize(schedule);
window.addEventListener('hashchange', () => wanted() && wanted() !== store.backend && chooseBackend(wanted()));
byId('range').addEventListener('change', (event) => {
  rangeMs = Number(event.target.value) * 1000;
  schedule();
});
setInterval(() => link === 'live' && performance.now() - tickAt > STALE_MS && schedule(), 1_000);
fetchReasons().then(explain, () => {}).then(schedule);
stream.follow(null);
