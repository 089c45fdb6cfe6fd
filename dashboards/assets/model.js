// Which version of the policy decides, and how far a new one has come; nothing where no store of versions is followed.

import { byId, el, setText } from './dom.js';
import { clock, fixed, plural } from './format.js';

/** The way of a new version, as the store's log names its stages. */
const STAGES = [
  ['shadow', 'It proposes; nothing of it is applied.'],
  ['5%', 'It decides 5 % of the time, in turns with what is in force.'],
  ['25%', 'It decides a quarter of the time.'],
  ['50%', 'It decides half of the time, until it is shown to be better, or no better.'],
  ['100%', 'It is in force; the fallback takes short turns to compare with.'],
];

let shown = '';

/** Shows the rollout of the selected backend. */
export function showModel({ tick }) {
  const { model } = tick.backend;
  const section = byId('model');
  section.hidden = model.in_force === '';
  if (section.hidden) return;
  setText(byId('model-note'), model.candidate === null ? 'no new version on its way' : `${model.candidate} is being tried`);
  const key = JSON.stringify(model);
  if (key === shown) return;
  shown = key;
  byId('model-panel').replaceChildren(...[stages(model), facts(model), verdict(model)].filter(Boolean));
}

function stages({ candidate, stage }) {
  if (candidate === null) return null;
  const at = STAGES.findIndex(([name]) => name === stage);
  const steps = STAGES.map(([name, tip], index) =>
    el('li', { class: index === at ? 'now' : index < at ? 'passed' : '', text: name, tabindex: 0, data: { tip }, 'aria-current': index === at ? 'step' : null }),
  );
  return el('ol', { class: 'stages', 'aria-label': `Stages of ${candidate}` }, ...steps);
}

function facts(model) {
  const { candidate, decides, in_force: inForce, pinned, stage_since_ms: since, blocks, difference, drift } = model;
  const rows = [
    ['Decides now', decides, 'The version that decided in the last tick.'],
    ['In force', pinned ? `${inForce} (pinned)` : inForce, pinned ? 'A person has pinned it: nothing new is tried.' : 'But for the turns of what is being tried.'],
    since === null ? null : ['In this stage since', clock(since), ''],
    candidate === null ? null : ['Compared', plural(blocks, 'block'), 'Periods in turns that were compared in this stage.'],
    difference === null ? null : ['Cost against what it is compared with', signed(100 * Math.expm1(difference)), 'Mean over the blocks of this stage; less is better.'],
    ['Drift', fixed(drift, 2), 'How far the input has lain outside of what the policy was trained on lately, in widths of the range that training saw.'],
  ];
  return el('dl', {}, ...rows.filter(Boolean).map(([title, value, tip]) =>
    el('div', {}, el('dt', { text: title }), el('dd', tip ? { text: value, tabindex: 0, data: { tip } } : { text: value })),
  ));
}

const signed = (percent) => `${percent > 0 ? '+' : ''}${fixed(percent, 1)}\u202f%`;

function verdict({ verdict: words }) {
  return words ? el('p', { text: words }) : null;
}
