// Elements without markup: all text goes in as text, so a pod's name can never become HTML.

/** An element. `attributes`: `class`, `text`, `on` ({event: handler}), `data` (dataset), anything else is set as an attribute. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === 'class') node.className = value;
    else if (name === 'text') node.textContent = value;
    else if (name === 'on') for (const [event, handler] of Object.entries(value)) node.addEventListener(event, handler);
    else if (name === 'data') Object.assign(node.dataset, value);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Sets text only where it differs: an unchanged node costs no layout. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Sets a class name only where it differs. */
export function setClass(node, name) {
  if (node.className !== name) node.className = name;
}

/** Shows a quantity ({number, unit}) with its unit set smaller. */
export function setQuantity(node, { number, unit }) {
  const text = unit ? `${number}\u202f${unit}` : number;
  if (node.textContent === text) return;
  node.replaceChildren(number, ...(unit ? [el('span', { class: 'unit', text: `\u202f${unit}` })] : []));
}

export const byId = (id) => document.getElementById(id);

/** Tooltips for everything with a `data-tip`, on hover and on focus, placed inside the window; Escape hides them. */
export function installTips() {
  const tip = byId('tip');
  let owner = null;
  const hide = () => {
    owner?.removeAttribute('aria-describedby');
    owner = null;
    tip.hidden = true;
  };
  const show = (target) => {
    if (target === owner) return;
    hide();
    if (!target) return;
    owner = target;
    tip.textContent = target.dataset.tip;
    tip.hidden = false;
    target.setAttribute('aria-describedby', 'tip');
    const at = target.getBoundingClientRect();
    const box = tip.getBoundingClientRect();
    const left = Math.min(Math.max(12, at.left), window.innerWidth - box.width - 12);
    const below = at.bottom + 8;
    const top = below + box.height > window.innerHeight - 8 ? at.top - box.height - 8 : below;
    tip.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
  };
  const of = (event) => event.target.closest?.('[data-tip]') ?? null;
  document.addEventListener('pointerover', (event) => show(of(event)));
  document.addEventListener('focusin', (event) => show(of(event)));
  document.addEventListener('focusout', hide);
  document.addEventListener('scroll', hide, true);
  document.addEventListener('keydown', (event) => event.key === 'Escape' && hide());
}
