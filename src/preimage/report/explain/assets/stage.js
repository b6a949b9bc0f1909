// The stage: the arrays of a mode side by side, with what takes part in the current step marked.

const TITLES = {input: 'input', weight: 'stencil (weights)', bias: 'bias', output: 'output', grad_output: 'gradient of the output', grad_input: 'gradient of the input',
  grad_weight: 'gradient of the stencil', grad_bias: 'gradient of the bias', stamp: 'stencil × input', products: 'products, one per position'};
const MODE_NAMES = {paint: 'Paint', slide: 'Slide', grad_input: 'Input gradient', grad_weight: 'Weight gradient', grad_bias: 'Bias gradient'};
/** The arrays of a mode in the order of the formula, and the signs between them. */
const STAGES = {
  paint: [['input', 'weight', 'stamp', 'output'], ['×', '=', '→']],
  slide: [['input', 'weight', 'output'], ['·', '=']],
  slide_bias: [['input', 'weight', 'bias', 'output'], ['·', '+', '=']],
  grad_input: [['grad_output', 'weight', 'grad_input'], ['·', '=']],
  grad_weight: [['input', 'grad_output', 'products', 'grad_weight'], ['·', '→', 'Σ']],
  grad_bias: [['grad_output', 'grad_bias'], ['Σ']],
};
const MOST_PLANES = 4, CAPTION_WIDTH = 98;

class Stage {
  constructor(parent, app) {
    this.parent = parent;
    this.app = app;
  }

  /** Build the grids anew: another mode or another layer. */
  build() {
    const {app, parent} = this, {layer, state} = app, [names, signs] = STAGES[state.mode === 'slide' && layer.hasBias ? 'slide_bias' : state.mode];
    const held = document.activeElement && document.activeElement.closest('#stage') ? document.activeElement.dataset.array : null;
    parent.textContent = '';
    this.grids = new Map();
    names.forEach((name, i) => {
      if (i) element('span', {class: 'sign', 'aria-hidden': 'true', text: signs[i - 1]}, parent);
      const made = name === 'stamp' || name === 'products';
      const grid = new Grid(parent, {name, title: TITLES[name], quiet: made, onHover: index => app.hover(name, index), onPick: index => app.pick(name, index),
        onEdit: index => app.edit(name, index)});
      grid.canvas.dataset.array = name;
      this.grids.set(name, grid);
    });
    this.measure();
    if (held && this.grids.has(held)) this.grids.get(held).canvas.focus();
  }

  shapeOf(name) {
    const {shapes} = this.app.layer, f = this.app.layer.frame;
    if (name === 'stamp' && this.app.layer.spec.kind === 'linear') return shapes.output;
    if (name === 'stamp') return this.scattersLarge() ? [f.largePer, ...f.kernel] : [f.smallPer, ...f.kernel];
    if (name === 'products') return this.app.layer.spec.kind === 'linear' ? [1, 1, 1] : [1, ...f.small];
    if (name === 'bias' || name === 'grad_bias') return [shapes[name][0], 1, 1];  // a plane a channel
    return shapes[name];
  }

  /** Whether painting walks over the small side, so that whole stencils land on the large one. */
  scattersLarge() { return this.app.layer.inputFace === SMALL; }

  /** Padding is drawn around the large side of the convolution wherever windows or stamps reach over it. */
  marginOf(name) {
    const {layer, state} = this.app, f = layer.frame, large = layer.transposed ? ['output', 'grad_output'] : ['input', 'grad_input'];
    if (!large.includes(name) || state.mode === 'grad_bias' || layer.spec.kind === 'linear') return [0, 0, 0, 0];
    const ends = [0, 1].map(axis => {
      const [lo] = f.padding[axis], reach = (f.small[axis] - 1) * f.stride[axis] + extentOf(f.kernel[axis], f.dilation[axis]) - lo - f.large[axis];
      return [Math.max(0, lo), Math.max(0, reach)];
    });
    return [ends[0][0], ends[1][1], ends[0][1], ends[1][0]];
  }

  planesOf(name) {
    const shape = this.shapeOf(name), planes = product(shape.slice(0, -2));
    if (planes <= MOST_PLANES) return Array.from({length: planes}, (_, i) => i);
    return [Math.min(planes - 1, Math.max(0, this.focusPlane(name)))];
  }

  /** The plane of an array that the current product lies in. */
  focusPlane(name) {
    const {sum, term} = this.app, per = product(this.shapeOf(name).slice(-2));
    if (sum.to === name) return Math.floor(sum.index / per);
    if (!sum.rows.length) return 0;
    const row = sum.rows[term] || sum.rows[0];
    const index = {input: row.input, grad_input: row.input, weight: row.weight, grad_weight: row.weight, output: row.output, grad_output: row.output, bias: sum.mode === 'slide' ? this.app.layer.biasOf(sum.index) : 0}[name];
    return index >= 0 ? Math.floor(index / per) : 0;
  }

  /** Fit all grids into the width there is: one size of cell for input, stencil and output, so that sizes can be compared. */
  measure() {
    const width = this.parent.clientWidth, names = [...this.grids.keys()], narrow = width < 620;
    const cells = names.map(name => {
      const shape = this.shapeOf(name), m = this.marginOf(name), planes = Math.min(MOST_PLANES, product(shape.slice(0, -2))), shown = product(shape.slice(0, -2)) > MOST_PLANES ? 1 : planes;
      const perRow = shown === 4 ? 2 : shown, [rows, columns] = [shape[shape.length - 2] + m[0] + m[2], shape[shape.length - 1] + m[1] + m[3]];
      const stacked = rows * 3 < columns;  // flat ones lie one below the other
      return {name, shape, m, perRow: stacked ? 1 : perRow, shown, rows, columns};
    });
    const lines = narrow ? this.split(cells) : [cells], tallest = Math.max(...cells.map(g => g.rows * Math.ceil(g.shown / g.perRow)));
    const common = () => Math.max(2.5, Math.min(narrow ? 40 : 46, 440 / tallest, ...lines.map(line => this.spread(line, width, narrow))));
    let cell = common();
    if (cell < 14) {  // stencils too small to read are enlarged
      for (const g of cells) if (['weight', 'stamp', 'grad_weight'].includes(g.name) && g.columns * g.perRow <= 21 && g.rows <= 7) g.own = g.columns * g.perRow <= 7 ? 22 : 12;
      cell = common();
    }
    this.cell = cell >= 6 ? Math.floor(cell) : Math.floor(cell * 4) / 4;
    for (const g of cells) {
      const grid = this.grids.get(g.name);
      grid.layout(g.shape, this.planesOf(g.name), g.m, g.own || this.cell, g.perRow);
      grid.caption.style.width = Math.max(grid.width, CAPTION_WIDTH) + 'px';
    }
    this.parent.classList.toggle('narrow', narrow);
  }

  /** The size of a cell with which a line of arrays fills the width. Small arrays are as wide as their caption at least. */
  spread(line, width, narrow) {
    const gaps = line.reduce((n, g) => n + (g.perRow - 1) * PLANE_GAP + 6, 0) + (line.length - 1) * (narrow ? 12 : 44) + 2;
    const set = line.filter(g => g.own), wide = g => g.columns * g.perRow;
    let open = line.filter(g => !g.own), room = width - gaps - set.reduce((n, g) => n + Math.max(CAPTION_WIDTH, wide(g) * g.own), 0), cell = 46;
    for (let again = open.length > 0; again;) {
      cell = room / open.reduce((n, g) => n + wide(g), 0);
      const tight = open.filter(g => wide(g) * cell < CAPTION_WIDTH);
      again = tight.length > 0 && tight.length < open.length;
      if (again) { open = open.filter(g => !tight.includes(g)); room -= tight.length * CAPTION_WIDTH; }
    }
    return cell;
  }

  /** On a narrow page: small arrays share a line, wide ones have their own. */
  split(cells) {
    const lines = [];
    for (const g of cells) {
      const last = lines[lines.length - 1], wide = g.columns * g.perRow;
      if (last && last.reduce((n, h) => n + h.columns * h.perRow, 0) + wide <= 12) last.push(g);
      else lines.push([g]);
    }
    return lines;
  }

  /** Marks of the current sum on one array. */
  marks(name) {
    const {sum, term, layer, hovered, state} = this.app, marks = [], seen = new Set();
    const indexOf = row => ({input: row.input, output: row.output, weight: row.weight, grad_output: row.output, grad_input: row.input, grad_weight: row.weight}[name]);
    const takesPart = sum.to === name ? false : {paint: ['weight', 'output'], slide: ['input', 'weight'], grad_input: ['grad_output', 'weight'],
      grad_weight: ['input', 'grad_output'], grad_bias: ['grad_output']}[state.mode].includes(name);
    if (takesPart && !(state.mode === 'paint' && name === 'weight')) for (const row of sum.rows) {
      const index = indexOf(row);
      if (index >= 0 && !row.padded && !seen.has(index)) { seen.add(index); marks.push({index, kind: 'lit'}); }
    }
    if (sum.to === name) marks.push({index: sum.index, kind: 'current'});
    if (name === 'bias' && state.mode === 'slide') marks.push({index: layer.biasOf(sum.index), kind: 'lit'});
    const row = sum.rows[term];
    if (row && takesPart) marks.push(...(row.padded ? this.paddedMark(name, row) : []), {index: indexOf(row), kind: 'term'});
    if (hovered) marks.push(...this.hoverMarks(name, hovered, layer));
    return marks;
  }

  paddedMark(name, row) {
    const large = this.app.layer.transposed ? ['output', 'grad_output'] : ['input', 'grad_input'];
    if (!large.includes(name) || this.marginOf(name).every(m => !m)) return [];
    const f = this.app.layer.frame, per = product(f.small), w = row.weight, taps = product(f.kernel);
    const s = (this.app.layer.transposed ? row.input : row.output) % per, y = Math.floor(s / f.small[1]), x = s % f.small[1];
    const a = Math.floor(w % taps / f.kernel[1]), b = w % f.kernel[1];
    const group = Math.floor(Math.floor(w / (taps * f.largePer)) / f.smallPer), plane = group * f.largePer + Math.floor(w / taps) % f.largePer;
    return [{at: [plane, y * f.stride[0] - f.padding[0][0] + a * f.dilation[0], x * f.stride[1] - f.padding[1][0] + b * f.dilation[1]], kind: 'term'}];
  }

  /** What a number under the pointer is made of and what it feeds, on the other arrays. */
  hoverMarks(name, hovered, layer) {
    const side = {input: 'input', grad_input: 'input', output: 'output', grad_output: 'output', weight: 'weight', grad_weight: 'weight'};
    if (hovered.name === name) return [{index: hovered.index, kind: 'hover'}];
    const key = side[name];
    if (!key || side[hovered.name] === key || !hovered.sum) return [];
    const indices = new Set(hovered.sum.rows.filter(r => !r.padded).map(r => r[key]));
    return indices.size > 600 ? [] : [...indices].map(index => ({index, kind: 'hover'}));
  }

  draw() {
    const {layer, state, sum} = this.app, v = layer.values, done = state.step;
    for (const [name, grid] of this.grids) {
      const planes = this.planesOf(name);
      if (planes.length === 1) grid.planes = planes;
      const options = {scale: this.app.scales[name], marks: this.marks(name), names: plane => this.planeName(name, plane)};
      if (name === 'stamp') this.drawStamp(grid);
      else if (name === 'products') this.drawProducts(grid);
      else if (state.mode === 'paint' && name === 'output') grid.draw({...options, values: layer.paintedBy(done + 1)});
      else if (sum.to === name && state.mode !== 'paint') grid.draw({...options, values: v[name], shown: i => i <= done});
      else grid.draw({...options, values: v[name], key: this.app.version});
      if (name !== 'stamp' && name !== 'products') this.outline(name, grid);
      if (!grid.options.quiet) this.label(name, grid);
    }
  }

  planeName(name, plane) {
    const {layer} = this.app, f = layer.frame, {channels} = this.app;
    const named = channels.length === layer.spec.in_channels;
    const input = channel => named ? channels[channel].replace(/ d\d+/, '') : channel;
    if (name !== 'weight' && name !== 'grad_weight') return name === 'stamp' ? '' : name === 'bias' || name === 'grad_bias' ? String(plane) : named && (name === 'input' || name === 'grad_input') ? channels[plane] : `channel ${plane}`;
    if (layer.spec.kind === 'linear') return `to output ${layer.place('output', Math.floor(plane / f.largePer))}`;
    const small = Math.floor(plane / f.largePer), large = plane % f.largePer + Math.floor(small / f.smallPer) * f.largePer;
    return layer.transposed ? `${input(small)} ↔ ${large}` : `${small} ↔ ${input(large)}`;
  }

  /** The window that slides, or the stamp that lands, as a block around all its cells. */
  outline(name, grid) {
    const {layer, state, sum, term} = this.app, f = layer.frame, m = state.mode;
    const large = layer.transposed ? ['output', 'grad_output'] : ['input', 'grad_input'];
    if (layer.spec.kind === 'linear' || !large.includes(name) || sum.to === name || m === 'grad_bias' || m === 'grad_weight') return;
    const fixedSmall = (m === 'slide' && !layer.transposed) || (m !== 'slide' && layer.transposed);
    if (!fixedSmall) return;
    const s = sum.index % product(f.small), y = Math.floor(s / f.small[1]), x = s % f.small[1], row = sum.rows[term];
    const top = y * f.stride[0] - f.padding[0][0], left = x * f.stride[1] - f.padding[1][0];
    const planes = new Set(sum.rows.map(r => layer.transposed ? r.output : r.input).filter(i => i >= 0).map(i => Math.floor(i / product(f.large))));
    if (!planes.size && row) planes.add(grid.planes[0]);
    for (const plane of planes) grid.drawBlock(plane, top, left, extentOf(f.kernel[0], f.dilation[0]), extentOf(f.kernel[1], f.dilation[1]), false);
  }

  /** The stencil times the current input number: what is about to be added. */
  drawStamp(grid) {
    const {layer, sum, term} = this.app, shape = this.shapeOf('stamp'), values = new Float32Array(product(shape)), f = layer.frame, taps = product(f.kernel);
    const spots = new Map();
    sum.rows.forEach((row, i) => {
      const plane = this.scattersLarge() ? Math.floor(row.weight / taps) % f.largePer : Math.floor(row.weight / (taps * f.largePer)) % f.smallPer;
      const spot = layer.spec.kind === 'linear' ? row.output : plane * taps + row.weight % taps;
      values[spot] = row.product;
      spots.set(i, spot);
    });
    const present = new Set(spots.values()), at = spots.get(term);
    const planes = this.planesOf('stamp');
    if (planes.length === 1) grid.planes = planes;
    grid.draw({values, scale: this.app.scales.stamp, shown: i => present.has(i), marks: at === undefined ? [] : [{index: at, kind: 'term'}], names: () => ''});
    grid.caption.firstChild.textContent = `stencil × ${brief(sum.rows.length ? sum.rows[0].av : layer.values.input[sum.index])}`;
  }

  drawProducts(grid) {
    const {sum, term} = this.app, values = new Float32Array(product(this.shapeOf('products')));
    const present = sum.rows.map(r => !r.padded);
    sum.rows.forEach((row, i) => { if (i < values.length) values[i] = row.product; });
    grid.draw({values, scale: Math.max(1e-30, scaleOf(values)), shown: i => present[i], marks: [{index: term, kind: 'term'}]});
  }

  label(name, grid) {
    const text = `${grid.options.title}, ${this.shapeOf(name).join(' by ')}. Arrow keys move, Enter edits where it is given.`;
    if (grid.canvas.getAttribute('aria-label') !== text) grid.canvas.setAttribute('aria-label', text);
  }
}
