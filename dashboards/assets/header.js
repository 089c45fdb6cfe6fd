// The header's facts, the connection's state, banners for problems, and the footer.

import { byId, el, setQuantity, setText } from './dom.js';
import { count, latency, plural, seconds, text } from './format.js';

const MODES = {
  Off: 'The policy does not run; the fallback is applied.',
  Shadow: 'The policy decides and is recorded; the fallback is applied.',
  Active: "The policy's decision is applied, within the guard.",
};

const LINK = { connecting: 'connecting', live: 'live', lost: 'connection lost, retrying' };

const facts = new Map();

/** A fact's value node; made when it is first asked for. */
function fact(title, tip) {
  let node = facts.get(title);
  if (!node) {
    node = el('dd');
    facts.set(title, node);
    byId('facts').append(el('div', {}, el('dt', { text: title }), node));
  }
  if (tip && node.dataset.tip !== tip) {
    node.dataset.tip = tip;
    node.tabIndex = 0;
  }
  return node;
}

/** Shows the connection: 'connecting', 'live', 'stale' (with the seconds since the last tick) or 'lost'. */
export function showLink(state, ageS) {
  byId('link').dataset.state = state;
  setText(byId('link-text'), state === 'stale' ? `no tick for ${text(seconds(Math.round(ageS)))}` : LINK[state]);
}

export function showBackends(store, choose) {
  const select = byId('backend');
  const title = byId('backend-name');
  const several = store.backends.length > 1;
  select.hidden = !several;
  title.className = several ? 'hidden' : '';
  setText(title, store.backend ?? 'no backend yet');
  if (!several) return;
  const names = store.backends.join('\n');
  if (select.dataset.names !== names) {
    select.dataset.names = names;
    select.replaceChildren(...store.backends.map((name) => el('option', { value: name, text: name })));
    select.onchange = () => choose(select.value);
  }
  if (store.backend !== null) select.value = store.backend;
}

export function showFacts({ tick }) {
  const { backend, proxies } = tick;
  const synced = proxies.filter((proxy) => proxy.in_sync).length;
  setText(fact('Algorithm', 'How the proxies pick an endpoint for each request.'), backend.algorithm);
  setText(fact('Mode', MODES[backend.mode]), backend.mode);
  const objective = fact(
    'Objective',
    backend.objective_derived
      ? 'The latency that counts as good, derived from what the service does when it is not overloaded.'
      : 'The latency that counts as good, as configured.',
  );
  if (backend.objective_ms === null) setText(objective, 'none yet');
  else {
    const { number, unit } = latency(backend.objective_ms);
    setQuantity(objective, { number, unit: `${unit} ${backend.objective_derived ? 'derived' : 'set'}` });
  }
  setText(fact('Default policy', 'What decides where no other version is in force.'), tick.policy_version || '–');
  const proxyFact = fact('Proxies', 'Connected proxies that have acknowledged the newest weights. Details are at the foot of the page.');
  setQuantity(proxyFact, proxies.length ? { number: `${synced} of ${proxies.length}`, unit: 'in sync' } : { number: 'none', unit: 'connected' });
  proxyFact.classList.toggle('warn', synced < proxies.length || proxies.length === 0);
  setQuantity(fact('Tick time', `What the last tick took, all backends together. This backend is at tick ${backend.tick}.`), latency(tick.tick_ms));
  const p99 = backend.latency_ms_p99 === null ? '' : ` · p99 ${text(latency(backend.latency_ms_p99))}`;
  document.title = `${backend.name}${p99} · Trimtab`;
}

/** One banner a kind of trouble; `troubles`: [{level, title, lines}]. */
export function showBanners(troubles) {
  const holder = byId('banners');
  const key = JSON.stringify(troubles);
  if (holder.dataset.key === key) return;
  holder.dataset.key = key;
  holder.replaceChildren(
    ...troubles.map(({ level, title, lines }) =>
      el(
        'div',
        { class: `banner ${level}` },
        el('strong', { text: title }),
        lines.length === 1 ? el('span', { text: lines[0] }) : el('ul', {}, ...lines.map((line) => el('li', { text: line }))),
      ),
    ),
  );
}

export function showFoot({ tick }) {
  const { backend, proxies, recording } = tick;
  const foot = byId('foot');
  if (!foot.firstChild) {
    for (const id of ['proxies', 'parameters']) {
      foot.append(el('details', { id: `foot-${id}` }, el('summary'), el('div')));
    }
    foot.append(el('p', { id: 'foot-recording' }), el('p', { id: 'foot-version' }));
  }
  const [summary, body] = byId('foot-proxies').children;
  setText(summary, proxies.length === 1 ? '1 proxy' : `${proxies.length} proxies`);
  if (byId('foot-proxies').open) body.replaceChildren(proxyTable(proxies));
  if (backend) {
    const [title, text] = byId('foot-parameters').children;
    setText(title, 'Rule parameters in force');
    const p = backend.parameters;
    setText(
      text,
      `exponent κ ${round(p.exponent)} · offset g ${round(p.offset)} · latency exponent z ${round(p.latency_exponent)} · ` +
        `latency reference ${round(p.latency_reference_ms)} ms · error exponent a ${round(p.error_exponent)}`,
    );
  }
  const line = recording
    ? `Recording to ${recording.url}: ${plural(recording.rows_written, 'row')} written, ${recording.rows_dropped.toLocaleString('en')} dropped.` +
      (recording.last_error ? ` Last error: ${recording.last_error}` : '')
    : 'Recording is off.';
  setText(byId('foot-recording'), line);
  setText(byId('foot-version'), tick.version ? `Trimtab ${tick.version}` : 'Trimtab');
}

const round = (value) => String(+value.toPrecision(4));

function proxyTable(proxies) {
  const head = ['Proxy', 'In sync', 'Last report', 'Acknowledged', 'Refused', 'Last refusal'];
  const rows = proxies.slice(0, 200).map((proxy) =>
    el(
      'tr',
      {},
      el('td', { text: proxy.id }),
      el('td', { text: proxy.in_sync ? 'yes' : 'no', class: proxy.in_sync ? '' : 'warn' }),
      el('td', { text: proxy.report_age_s === null ? 'none yet' : `${text(seconds(proxy.report_age_s))} ago`, class: 'num' }),
      el('td', { text: text(count(proxy.acks)), class: 'num' }),
      el('td', { text: text(count(proxy.nacks)), class: `num${proxy.nacks ? ' bad' : ''}` }),
      el('td', { text: proxy.last_nack ?? '' }),
    ),
  );
  const heads = head.map((title, index) => el('th', { text: title, scope: 'col', class: index >= 2 && index <= 4 ? 'num' : '' }));
  return el('table', {}, el('thead', {}, el('tr', {}, ...heads)), el('tbody', {}, ...rows));
}

