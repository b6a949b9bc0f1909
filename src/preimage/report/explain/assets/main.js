// What the page listens to, the tables, the field for editing in place, and the start.

function listenToPage(app) {
  byId('modes').append(...MODES.map((mode, i) => element('button', {type: 'button', 'data-mode': mode, 'aria-pressed': mode === app.state.mode, title: `Key ${i + 1}`, text: MODE_NAMES[mode], onclick: () => app.setMode(mode)})));
  for (const [id, kind] of [['matrix-layer', 'layer'], ['matrix-product', 'product']]) byId(id).onclick = () => {
    app.matrix.kind = kind;
    byId('matrix-layer').setAttribute('aria-pressed', String(kind === 'layer')); byId('matrix-product').setAttribute('aria-pressed', String(kind === 'product'));
    app.matrix.draw();
  };
  byId('help-open').onclick = () => byId('help').showModal();
  byId('theme').onclick = () => { const next = {auto: 'light', light: 'dark', dark: 'auto'}[schemeChoice()]; try { localStorage.setItem('preimage-scheme', next); } catch (error) { /* storage may be off */ } document.documentElement.dataset.choice = next; applyScheme(); repaint(app); };
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { applyScheme(); repaint(app); });
  byId('copy-link').onclick = () => copyLink(app);
  byId('tables').addEventListener('toggle', () => { if (byId('tables').open) fillTables(app); });
  let width = window.innerWidth;
  window.addEventListener('resize', () => { if (window.innerWidth !== width) { width = window.innerWidth; app.stage.measure(); app.trio.build(); app.matrix.key = ''; app.draw(); app.controls.drawSizes(); if (app.learning) { app.learning.layout(); app.learning.draw(); } } });
  // The event's own address: by now app.remember may have written the former state over the one asked for.
  window.addEventListener('hashchange', event => { const hash = new URL(event.newURL).hash, state = fromHash(hash, app.first); if (state && hash !== toHash(app.state)) { app.transport.pause(); app.start(state); } });
  document.addEventListener('keydown', event => key(app, event));
}

function key(app, event) {
  const target = event.target, typing = target.closest('input:not([type=range]):not([type=checkbox]), select, textarea, dialog');
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const ranged = target.matches('input[type=range]'), pressed = target.matches('button, summary, input[type=checkbox]');
  const {transport, state} = app;
  const act = {
    ' ': () => pressed || ranged && target.id !== 'scrubber' ? false : transport.playing ? transport.pause() : transport.play(),
    ArrowRight: () => ranged ? false : transport.go(state.step + 1), ArrowLeft: () => ranged ? false : transport.go(state.step - 1),
    ArrowDown: () => ranged ? false : app.setTerm(app.term + 1), ArrowUp: () => ranged ? false : app.setTerm(app.term - 1),
    Home: () => ranged ? false : transport.go(0), End: () => ranged ? false : transport.go(app.steps - 1), '?': () => byId('help').showModal(),
    Escape: () => app.hovered ? app.point('', -1, false) : false,
  }[event.key] || (/^[1-5]$/.test(event.key) ? () => app.setMode(MODES[event.key - 1]) : null);
  if (act && act() !== false) event.preventDefault();
}

function schemeChoice() {
  if (!document.documentElement.dataset.choice) {
    let kept = null;
    try { kept = localStorage.getItem('preimage-scheme'); } catch (error) { /* storage may be off */ }
    document.documentElement.dataset.choice = ['light', 'dark'].includes(kept) ? kept : 'auto';
  }
  return document.documentElement.dataset.choice;
}

function applyScheme() {
  const choice = schemeChoice(), dark = choice === 'dark' || choice === 'auto' && matchMedia('(prefers-color-scheme: dark)').matches;
  document.documentElement.dataset.scheme = dark ? 'dark' : 'light';
  byId('theme').textContent = `Theme: ${choice}`;
  readTheme();
}

function repaint(app) { app.matrix.key = ''; app.draw(); app.controls.drawCoverage(); if (app.learning) app.learning.draw(); }

async function copyLink(app) {
  const link = location.href.split('#')[0] + toHash(app.state), button = byId('copy-link');
  try { history.replaceState(null, '', toHash(app.state)); } catch (error) { /* a page inside a frame may not */ }
  let text = 'Copied';
  try { await navigator.clipboard.writeText(link); } catch (error) { text = 'Link is in the address'; }
  button.textContent = text;
  app.say(text);
  setTimeout(() => { button.textContent = 'Copy link'; }, 1500);
}

/** A field over a cell; Enter sets, Escape leaves. */
function openEditor(app, grid, name, index) {
  const form = byId('in-place'), field = byId('in-place-value'), corner = grid.corner(index), box = grid.canvas.getBoundingClientRect();
  if (!corner) return;
  app.transport.pause();
  form.hidden = false;
  field.value = shortest(app.layer.values[name][index]);
  field.setAttribute('aria-label', `New value of ${TITLES[name]} ${app.layer.place(name, index)}`);
  form.style.left = Math.max(4, Math.min(window.innerWidth - 96, box.left + corner[0] + grid.cell / 2 - 45)) + window.scrollX + 'px';
  form.style.top = box.top + window.scrollY + corner[1] + grid.cell / 2 - 18 + 'px';
  field.focus({preventScroll: true});
  field.select();
  const close = () => { form.hidden = true; form.onsubmit = field.onkeydown = field.onblur = null; grid.canvas.focus({preventScroll: true}); };
  form.onsubmit = event => { event.preventDefault(); const text = field.value; close(); app.change(name, index, text); };
  field.onkeydown = event => { if (event.key === 'Escape') { event.stopPropagation(); close(); } };
  field.onblur = () => { if (!form.hidden) { form.hidden = true; form.onsubmit = field.onkeydown = field.onblur = null; } };
}

const MOST_TABLE = 4096;

/** Every array as tables of exact numbers. */
function fillTables(app) {
  const box = byId('tables-body'), {layer} = app, key = app.version;
  if (box.dataset.version === String(key)) return;
  box.dataset.version = key;
  box.textContent = '';
  for (const name of [...GIVEN, ...COMPUTED]) {
    if (!layer.hasBias && name.endsWith('bias')) continue;
    const shape = layer.shapes[name], [rows, columns] = shape.length > 1 ? shape.slice(-2) : [1, shape[0]], values = layer.values[name];
    const holder = element('div', {}, box);
    if (values.length > MOST_TABLE) { element('p', {class: 'soft', text: `${TITLES[name]}: ${values.length.toLocaleString('en')} numbers, too many for a table`}, holder); continue; }
    for (let plane = 0; plane < values.length / (rows * columns); plane++) {
      const table = element('table', {}, holder), many = values.length > rows * columns;
      element('caption', {text: TITLES[name] + (many ? `, ${app.stage.planeName(name, plane)}` : '')}, table);
      const head = element('tr', {}, element('thead', {}, table)), body = element('tbody', {}, table);
      element('th', {scope: 'col', text: ''}, head);
      for (let c = 0; c < columns; c++) element('th', {scope: 'col', text: c}, head);
      for (let r = 0; r < rows; r++) {
        const line = element('tr', {}, body);
        element('th', {scope: 'row', text: r}, line);
        for (let c = 0; c < columns; c++) element('td', {text: shortest(values[(plane * rows + r) * columns + c])}, line);
      }
    }
  }
}

applyScheme();
const app = new App(JSON.parse(byId('data').textContent));
requestAnimationFrame(() => setTimeout(() => app.open(), 0));
/** For tests and for the curious: the page's arithmetic, and its state. */
window.preimage = {
  app,
  problems: problemsOf,
  sizes: outputSize,
  encode: encodeArray,
  link: () => toHash(app.state),
  compute: (layer, values) => {
    const problems = problemsOf(layer);
    if (problems.length) return {error: problems[0].message};
    const given = valuesFor({from: {input: 'given', weight: 'given', bias: values.bias ? 'given' : 'zeros', grad_output: 'given'}, seed: 0, edits: {}}, shapesOf(layer), Object.fromEntries(Object.entries(values).map(([k, v]) => [k, decodeArray(v)])));
    const made = new Layer(layer, given);
    return Object.fromEntries(COMPUTED.map(name => [name, encodeArray(made.values[name])]));
  },
};
