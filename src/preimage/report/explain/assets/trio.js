// One product seen as a part of three sums: those that share its output, its input, its weight. Three small stages.

const THREE = [
  {mode: 'slide', title: 'This output', button: 'Slide to this output', text: n => `adds ${n} product${n === 1 ? '' : 's'}: its window (or the stamps that reach it).`},
  {mode: 'paint', title: 'This input', button: 'Paint with this input', text: n => `feeds ${n} output${n === 1 ? '' : 's'}; its gradient gathers from the same ${n}.`},
  {mode: 'grad_weight', title: 'This weight', button: 'Gradient of this weight', text: n => `is used ${n} time${n === 1 ? '' : 's'}; its gradient is the sum over all of them.`},
];

class Trio {
  constructor(app) {
    this.app = app;
    this.panels = THREE.map(what => {
      const box = element('div', {}, byId('trio'));
      element('h3', {text: what.title}, box);
      const text = element('p', {}, box), mini = element('div', {class: 'mini'}, box);
      const button = element('button', {type: 'button', text: what.button, onclick: () => this.open(what.mode)}, box);
      const grids = ['input', 'weight', 'output'].map(name => new Grid(mini, {name, title: name === 'weight' ? 'stencil' : name, quiet: true}));
      return {what, text, mini, button, grids};
    });
  }

  build() {
    const {layer} = this.app, width = this.panels[0].mini.clientWidth;
    const boxes = ['input', 'weight', 'output'].map(name => layer.shapes[name].slice(-2));
    const cell = Math.max(1, Math.min(16, (width - 44) / boxes.reduce((n, b) => n + b[1], 0), 140 / Math.max(...boxes.map(b => b[0]))));
    for (const panel of this.panels) panel.grids.forEach(grid => grid.layout(layer.shapes[grid.options.name], [0], [0, 0, 0, 0], cell >= 4 ? Math.floor(cell) : cell, 1));
  }

  open(mode) {
    const row = this.row();
    if (!row) return;
    const key = {slide: 'output', paint: 'input', grad_weight: 'weight'}[mode];
    this.app.setMode(mode, row[key], r => r.input === row.input && r.weight === row.weight && r.output === row.output);
    byId('stage').scrollIntoView({block: 'nearest', behavior: matchMedia('(prefers-reduced-motion: reduce)').matches ? 'auto' : 'smooth'});
  }

  /** The current product, where it is a whole one. */
  row() {
    const {sum, term} = this.app, row = sum.rows[term];
    return row && row.input >= 0 && row.weight >= 0 && row.output >= 0 ? row : null;
  }

  draw() {
    const {app} = this, {layer} = app, row = this.row();
    for (const {what, text, grids, button} of this.panels) {
      button.disabled = !row;
      const key = {slide: 'output', paint: 'input', grad_weight: 'weight'}[what.mode];
      const rows = row ? layer.sum(what.mode, row[key]).rows.filter(r => !r.padded && r.output >= 0 && r.input >= 0) : [];
      setText(text, row ? `${layer.place(key, row[key])} ${what.text(rows.length)}` : '');
      for (const grid of grids) {
        const name = grid.options.name, per = product(layer.shapes[name].slice(-2)), marks = [], seen = new Set();
        if (row) grid.planes = [Math.floor(row[name] / per)];
        if (name !== key) for (const r of rows) if (!seen.has(r[name])) { seen.add(r[name]); marks.push({index: r[name], kind: 'lit'}); }
        if (row) marks.push({index: row[name], kind: name === key ? 'current' : 'term'});
        grid.draw({values: layer.values[name], scale: app.scales[name], marks, names: () => '', key: app.version});
      }
    }
    setText(byId('trio-lead'), row ? `Input ${layer.place('input', row.input)} × weight ${layer.place('weight', row.weight)}, for output ${layer.place('output', row.output)}: every product of the layer belongs to exactly three sums. Forward, backward and learning differ only in which one is added up.`
      : 'A bias takes part in no product: it is added to every output of its channel.');
  }
}
