// What the guard did: a lane a reason over time, and the same as a list with the details.

import { byId, el, setText } from './dom.js';
import { themed } from './color.js';
import { clock, plural, seconds, text, words } from './format.js';
import { fit } from './scale.js';

const LANE = 26;
const LOG_MAX = 60;
/** An action that was seen this lately is still going on: two or three ticks. */
const NOW_MS = 1_600;

const COLORS = { information: 'faint', notice: 'accent', warning: 'warn' };

let explained = new Map();
let parts = null;

/** Takes up the server's explanations of the reasons. */
export function explain(reasons) {
  explained = new Map(reasons.map((reason) => [reason.name, reason]));
}

/** A reason's name with its meaning as a tooltip; reachable with the keyboard. */
export function reasonChip(name) {
  const reason = explained.get(name);
  return el('button', {
    type: 'button',
    class: `chip ${reason?.weight ?? ''}`,
    text: name,
    data: { tip: reason?.meaning ?? words(name) },
  });
}

function build() {
  parts = {
    labels: el('div', { class: 'labels' }),
    canvas: el('canvas', { 'aria-hidden': 'true' }),
    log: el('ol', { class: 'log', tabindex: '0', 'aria-label': "The guard's actions, newest first" }),
    quiet: el('p', { class: 'quiet' }),
  };
  parts.lanes = el('div', { class: 'lanes' }, parts.labels, el('div', { class: 'spans' }, parts.canvas));
  byId('guard').append(parts.lanes, parts.log, parts.quiet);
}

export function showGuard({ episodes, timeline }, { from, to }) {
  if (!parts) build();
  const shown = episodes.filter((episode) => episode.to_ms >= from);
  const going = (episode) => episode.to_ms >= (timeline.times.at(-1) ?? to) - NOW_MS;
  const now = shown.filter(going).length;
  setText(byId('guard-note'), now ? `${plural(now, 'action')} in force now` : 'nothing in force now');
  parts.lanes.hidden = parts.log.hidden = shown.length === 0;
  parts.quiet.hidden = shown.length > 0;
  if (!shown.length) {
    setText(parts.quiet, 'The guard had nothing to change or refuse in the time shown.');
    return;
  }
  showLanes(shown, from, to);
  showLog(shown, going);
}

function showLanes(shown, from, to) {
  const reasons = [...explained.keys()].filter((name) => shown.some((episode) => episode.reason === name));
  const key = reasons.join();
  if (parts.labels.dataset.key !== key) {
    parts.labels.dataset.key = key;
    parts.labels.replaceChildren(...reasons.map(reasonChip));
  }
  parts.canvas.parentNode.style.height = `${reasons.length * LANE}px`;
  const { context, width } = fit(parts.canvas);
  const x = (time) => Math.max(0, ((time - from) / (to - from)) * width);
  reasons.forEach((name, lane) => {
    const middle = lane * LANE + LANE / 2;
    context.globalAlpha = 1;
    context.fillStyle = themed('grid');
    context.fillRect(0, Math.round(middle), width, 1);
    context.fillStyle = themed(COLORS[explained.get(name)?.weight] ?? 'faint');
    context.globalAlpha = 0.7;
    for (const episode of shown) {
      if (episode.reason !== name) continue;
      const left = x(episode.from_ms);
      context.beginPath();
      context.roundRect(left, middle - 5, Math.max(3, x(episode.to_ms) - left), 10, 3);
      context.fill();
    }
  });
  context.globalAlpha = 1;
}

function showLog(shown, going) {
  const rows = [...shown].sort((a, b) => b.to_ms - a.to_ms || b.from_ms - a.from_ms).slice(0, LOG_MAX);
  const key = JSON.stringify(rows.map((row) => [row.reason, row.endpoint, row.from_ms, going(row) ? row.detail : row.to_ms]));
  if (parts.log.dataset.key === key) return;
  // A reader who has scrolled or is on a chip is not disturbed.
  if (parts.log.dataset.key && (parts.log.scrollTop > 0 || parts.log.contains(document.activeElement) || parts.log.matches(':hover'))) return;
  parts.log.dataset.key = key;
  parts.log.replaceChildren(
    ...rows.map((row) => {
      const lasted = text(seconds((row.to_ms - row.from_ms) / 1000));
      const span = el('span', { class: 'span' }, `${clock(row.from_ms)} `);
      if (going(row)) span.append(el('span', { class: 'now', text: row.ticks > 1 ? `for ${lasted}, now` : 'now' }));
      else span.append(row.ticks > 1 ? `for ${lasted}` : 'one tick');
      const who = row.endpoint ?? (row.endpoints > 1 ? plural(row.endpoints, 'endpoint') : 'all endpoints');
      return el('li', {}, span, el('span', {}, reasonChip(row.reason)), el('span', { class: 'who', text: who }), el('span', { class: 'detail', text: row.detail }));
    }),
  );
}
