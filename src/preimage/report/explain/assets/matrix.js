// The same step as matrices: the whole layer as one matrix (its transpose is the backward pass), or im2col and a matrix product.

const MOST_ENTRIES = 600000, MOST_WHOLE = 100000, BLOCK_GAP = 26, MATRIX_TOP = 20;

class MatrixView {
  constructor(app) {
    this.app = app;
    this.canvas = byId('matrix');
    this.context = this.canvas.getContext('2d');
    this.base = document.createElement('canvas');
    this.kind = 'layer';
    this.text = byId('matrix-text');
  }

  /** The blocks of this layer and mode, laid out and painted once; a step only marks them. */
  build() {
    const {app} = this, {layer, state} = app, key = app.version + state.mode + this.kind + this.canvas.parentElement.clientWidth + theme.card;
    this.group = this.kind === 'product' ? this.groupOfFocus() : String(this.pair = this.pairOfFocus());
    if (key + this.group === this.key) return;
    this.key = key + this.group;
    this.blocks = this.kind === 'layer' ? this.layerBlocks(layer, state.mode) : this.productBlocks(layer, state.mode);
    this.arrange();
    this.paintBase();
  }

  groupOfFocus() {
    const {app} = this, f = app.layer.frame, row = app.sum.rows[app.term];
    return row && row.weight >= 0 ? Math.floor(Math.floor(row.weight / (f.largePer * product(f.kernel))) / f.smallPer) : 0;
  }

  /** Of a layer whose matrix is too large: the output channel and the input channel of the current product, whose block is drawn. */
  pairOfFocus() {
    const {layer, sum, term} = this.app, row = sum.rows[term], {input, output} = layer.shapes;
    if (multiplyAdds(layer.frame) <= MOST_WHOLE || layer.spec.kind === 'linear' || input[0] * output[0] === 1) return null;
    const plane = (index, shape) => index === undefined || index < 0 ? 0 : Math.floor(index / product(shape.slice(1)));
    return [plane(row && row.output, output), plane(row && row.input, input)];
  }

  layerBlocks(layer, mode) {
    const v = layer.values, flip = mode === 'grad_input', {pair} = this;
    const [perOut, perIn] = [layer.shapes.output, layer.shapes.input].map(shape => product(shape.slice(1)));
    this.from = pair ? {output: pair[0] * perOut, input: pair[1] * perIn} : {output: 0, input: 0};
    const outs = pair ? perOut : v.output.length, ins = pair ? perIn : v.input.length;
    const entries = pair ? multiplyAdds(layer.frame) / (layer.frame.largePer * layer.frame.smallChannels) : multiplyAdds(layer.frame);
    const blocks = [{name: flip ? 'Mᵀ' : 'M', rows: flip ? ins : outs, columns: flip ? outs : ins, entries: entries <= MOST_ENTRIES ? this.entriesOf(layer, flip, outs, ins) : null, scale: this.app.scales.weight}];
    const column = (name, array, sign) => {
      const output = array.endsWith('output'), from = output ? this.from.output : this.from.input;
      return {name, sign, rows: output ? outs : ins, columns: 1, value: r => v[array][from + r], scale: this.app.scales[array]};
    };
    if (flip) blocks.push(column('g', 'grad_output', ''), column('∂x', 'grad_input', '='));
    else if (mode === 'grad_weight' || mode === 'grad_bias') blocks.push(column('x', 'input', ''), column('g', 'grad_output', ' '));
    else blocks.push(column('x', 'input', ''), column('y', 'output', '='));
    return blocks;
  }

  entriesOf(layer, flip, outs, ins) {
    const rows = [], columns = [], values = [], w = layer.values.weight, I = layer.inputFace, {from} = this;
    for (let o = 0; o < outs; o++) {
      const terms = layer.termsOfOutput(from.output + o);
      for (let t = 0; t < terms.length; t += 3) {
        const i = terms[t + I] - from.input;
        if (terms[t + I] >= 0 && i >= 0 && i < ins) { rows.push(flip ? i : o); columns.push(flip ? o : i); values.push(w[terms[t + WEIGHT]]); }
      }
    }
    return {rows, columns, values};
  }

  /** What the mode is among the three contractions: small from large, large from small, or the weight's gradient. */
  contraction() {
    const {layer, state} = this.app;
    if (state.mode === 'grad_weight' || state.mode === 'grad_bias') return 'weight';
    return (state.mode === 'grad_input') === layer.transposed ? 'small' : 'large';
  }

  productBlocks(layer, mode) {
    const f = layer.frame, v = layer.values, g = this.group, P = product(f.small), taps = product(f.kernel), K = f.largePer * taps, O = f.smallPer;
    const back = mode.startsWith('grad'), largeName = layer.transposed ? (back ? 'grad_output' : 'output') : (mode === 'grad_input' ? 'grad_input' : 'input');
    const smallName = layer.transposed ? (mode === 'grad_input' ? 'grad_input' : 'input') : (back ? 'grad_output' : 'output');
    const weight = (o, k) => v.weight[(g * O + o) * K + k], small = (o, p) => v[smallName][(g * O + o) * P + p];
    const large = (k, p) => {
      const tap = k % taps, a = Math.floor(tap / f.kernel[1]), b = tap % f.kernel[1], y = Math.floor(p / f.small[1]), x = p % f.small[1];
      const r = y * f.stride[0] - f.padding[0][0] + a * f.dilation[0], c = x * f.stride[1] - f.padding[1][0] + b * f.dilation[1];
      return r < 0 || r >= f.large[0] || c < 0 || c >= f.large[1] ? 0 : v[largeName][((g * f.largePer + Math.floor(k / taps)) * f.large[0] + r) * f.large[1] + c];
    };
    const ws = this.app.scales['weight'], ls = this.app.scales[largeName], ss = this.app.scales[smallName];
    const names = {input: 'x', output: 'y', grad_output: 'g', grad_input: '∂x'};
    const kind = this.contraction();
    if (kind === 'small') return [
      {name: 'W', role: 'W', rows: O, columns: K, value: weight, scale: ws}, {name: 'im2col', role: 'columns', sign: '', rows: K, columns: P, value: large, scale: ls},
      {name: names[smallName], role: 'small', sign: '=', rows: O, columns: P, value: small, scale: ss}];
    if (kind === 'large') {
      const spread = (k, p) => { let sum = 0; for (let o = 0; o < O; o++) sum = fma32(small(o, p), weight(o, k), sum); return sum; };
      return [{name: 'Wᵀ', role: 'Wt', rows: K, columns: O, value: (k, o) => weight(o, k), scale: ws}, {name: names[smallName], role: 'small', sign: '', rows: O, columns: P, value: small, scale: ss},
        {name: 'columns', role: 'columns', sign: '=', rows: K, columns: P, value: spread, scale: ls}];
    }
    return [{name: names[smallName], role: 'small', rows: O, columns: P, value: small, scale: ss}, {name: 'im2colᵀ', role: 'columnsT', sign: '', rows: P, columns: K, value: (p, k) => large(k, p), scale: ls},
      {name: '∂w', role: 'W', sign: '=', rows: O, columns: K, value: (o, k) => v.grad_weight[(g * O + o) * K + k], scale: this.app.scales['grad_weight']}];
  }

  /** Blocks side by side (one below the other where one is far wider than high), one size of cell. */
  arrange() {
    const width = Math.max(200, this.canvas.parentElement.clientWidth - 2), blocks = this.blocks, high = Math.max(...blocks.map(b => b.rows)), wide = blocks.reduce((n, b) => n + b.columns, 0);
    const stacked = Math.max(...blocks.map(b => b.columns)) > 3 * high;
    const gaps = (blocks.length - 1) * BLOCK_GAP + 4, room = 380;
    if (stacked) this.cell = Math.min(18, (width - 4) / Math.max(...blocks.map(b => b.columns)), (room - 60) / blocks.reduce((n, b) => n + b.rows, 0));
    else this.cell = Math.min(18, (width - gaps) / wide, (room - MATRIX_TOP) / high);
    const thin = n => Math.max(n * this.cell, n === 1 ? 6 : 3);
    let x = 2, y = MATRIX_TOP;
    for (const b of blocks) {
      Object.assign(b, {x, y, width: Math.max(2, thin(b.columns)), height: Math.max(2, thin(b.rows))});
      if (stacked) y += b.height + BLOCK_GAP; else x += b.width + BLOCK_GAP;
    }
    this.stacked = stacked;
    this.width = Math.ceil(stacked ? width : x - BLOCK_GAP + 2);
    this.height = Math.ceil(stacked ? y - BLOCK_GAP + 4 : MATRIX_TOP + Math.max(...blocks.map(b => b.height)) + 4);
    const ratio = this.ratio = Math.min(2, window.devicePixelRatio || 1);
    for (const canvas of [this.canvas, this.base]) { canvas.width = Math.round(this.width * ratio); canvas.height = Math.round(this.height * ratio); }
    this.canvas.style.width = this.width + 'px';
    this.canvas.style.height = this.height + 'px';
  }

  paintBase() {
    const c = this.base.getContext('2d');
    c.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    c.clearRect(0, 0, this.width, this.height);
    for (const b of this.blocks) {
      c.fillStyle = theme.soft; c.font = '12px ' + theme.mono; c.textAlign = 'left'; c.textBaseline = 'alphabetic';
      c.fillText(b.name, b.x, b.y - 6);
      if (b.sign && !this.stacked) c.fillText(b.sign, b.x - 17, b.y + Math.min(b.height / 2 + 5, 40));
      c.fillStyle = b.value ? theme.zero : theme.card;
      c.fillRect(b.x, b.y, b.width, b.height);
      const w = b.width / b.columns, h = b.height / b.rows, gap = Math.min(w, h) >= 7 ? 1 : 0;
      if (b.value && b.rows * b.columns <= 250000) this.paintDense(c, b, w, h, gap);
      else if (b.entries) for (let i = 0; i < b.entries.rows.length; i++) {
        c.fillStyle = shadeOf(b.entries.values[i], b.scale).fill;
        c.fillRect(b.x + b.entries.columns[i] * w, b.y + b.entries.rows[i] * h, Math.max(w - gap, .75), Math.max(h - gap, .75));
      } else { c.fillStyle = theme.soft; c.fillText('too large to draw', b.x + 8, b.y + 24); }
      c.strokeStyle = theme.line; c.lineWidth = 1;
      c.strokeRect(b.x - .5, b.y - .5, b.width + 1, b.height + 1);
    }
  }

  paintDense(c, b, w, h, gap) {
    const stepR = Math.max(1, Math.floor(.5 / h)), stepC = Math.max(1, Math.floor(.5 / w));
    for (let r = 0; r < b.rows; r += stepR) for (let k = 0; k < b.columns; k += stepC) {
      const value = b.value(r, k);
      if (value === 0 && gap === 0) continue;
      c.fillStyle = shadeOf(value, b.scale).fill;
      c.fillRect(b.x + k * w, b.y + r * h, Math.max(stepC * w - gap, .75), Math.max(stepR * h - gap, .75));
    }
  }

  draw() {
    this.build();
    const c = this.context;
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.clearRect(0, 0, this.canvas.width, this.canvas.height);
    c.drawImage(this.base, 0, 0);
    c.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    (this.kind === 'layer' ? this.markLayer : this.markProduct).call(this);
    setText(this.text, this.words());
  }

  mark(b, row, column, rows, columns, kind) {
    if (row < 0 || column < 0 || row >= b.rows || column >= b.columns) return;  // in another block
    const c = this.context, w = b.width / b.columns, h = b.height / b.rows, x = b.x + column * w, y = b.y + row * h, W = Math.max(columns * w, 2), H = Math.max(rows * h, 2);
    if (kind === 'band') { c.globalAlpha = .16; c.fillStyle = theme.accent; c.fillRect(x, y, W, H); c.globalAlpha = 1; }
    c.lineWidth = kind === 'term' ? 2 : 1.5; c.strokeStyle = kind === 'term' ? theme.ink : theme.accent;
    c.strokeRect(x - .5, y - .5, W + .5, H + .5);
  }

  /** Many entries in one stroke. */
  markMany(b, entries) {
    const c = this.context, w = b.width / b.columns, h = b.height / b.rows;
    c.beginPath();
    for (const [row, column] of entries) c.rect(b.x + column * w - .5, b.y + row * h - .5, Math.max(w, 2) + .5, Math.max(h, 2) + .5);
    c.lineWidth = 1.5; c.strokeStyle = theme.accent;
    c.stroke();
  }

  markLayer() {
    const {sum, term, state} = this.app, flip = state.mode === 'grad_input', [M, first, second] = this.blocks, row = sum.rows[term], {from} = this;
    const out = r => r.output - from.output, into = r => r.input - from.input;
    const output = sum.index - from.output, input = sum.index - from.input;
    if (state.mode === 'slide') { this.mark(M, output, 0, 1, M.columns, 'band'); this.mark(second, output, 0, 1, 1, 'lit'); }
    if (flip) { this.mark(M, input, 0, 1, M.columns, 'band'); this.mark(second, input, 0, 1, 1, 'lit'); }
    if (state.mode === 'paint') { this.mark(M, 0, input, M.rows, 1, 'band'); this.mark(first, input, 0, 1, 1, 'lit'); }
    if (state.mode === 'grad_bias') {
      const per = sum.rows.length;
      this.mark(second, sum.index * per - from.output, 0, per, 1, 'band');
      return;
    }
    if (state.mode === 'grad_weight') this.markMany(M, sum.rows.filter(r => !r.padded).map(r => [out(r), into(r)]));
    if (!row || row.padded) return;
    const [y, x] = flip ? [into(row), out(row)] : [out(row), into(row)];
    this.mark(M, y, x, 1, 1, 'term'); this.mark(first, x, 0, 1, 1, 'term'); this.mark(second, y, 0, 1, 1, 'term');
  }

  markProduct() {
    const {sum, term, layer, state} = this.app, f = layer.frame, P = product(f.small), K = f.largePer * product(f.kernel), O = f.smallPer, of = {};
    for (const b of this.blocks) of[b.role] = b;
    const place = r => { const small = layer.transposed ? r.input : r.output; return {k: r.weight % K, o: Math.floor(r.weight / K) - this.group * O, p: small % P}; };
    const spot = (r, kind) => {
      const {k, o, p} = place(r);
      if (of.W) this.mark(of.W, o, k, 1, 1, kind); else this.mark(of.Wt, k, o, 1, 1, kind);
      if (of.columns) this.mark(of.columns, k, p, 1, 1, kind); else this.mark(of.columnsT, p, k, 1, 1, kind);
      this.mark(of.small, o, p, 1, 1, kind);
    };
    if (state.mode === 'grad_bias') { this.mark(of.small, Math.min(O - 1, Math.max(0, sum.index - this.group * O)), 0, 1, of.small.columns, 'band'); return; }
    const here = sum.rows.filter(r => { const {o} = place(r); return o >= 0 && o < O; });
    if (!here.length) return;
    if (sum.mode === 'grad_weight') {
      const {k, o} = place(here[0]);
      this.mark(of.small, o, 0, 1, P, 'band'); this.mark(of.columnsT, 0, k, P, 1, 'band'); this.mark(of.W, o, k, 1, 1, 'lit');
    } else if (new Set(here.map(r => place(r).p)).size === 1 && here.length > 1 || P === 1) {  // one position: a column of the columns
      const {p, o} = place(here[0]);
      this.mark(of.columns, 0, p, K, 1, 'band');
      if (of.W && this.contraction() === 'small' && O >= 1) this.mark(of.W, o, 0, 1, K, 'band');
    } else this.markMany(of.columns, here.map(r => { const {k, p} = place(r); return [k, p]; }));
    const row = sum.rows[term];
    if (row) spot(row, 'term');
  }

  words() {
    const {layer, state} = this.app, [first, second, third] = this.blocks, mode = state.mode, fc = layer.spec.kind === 'linear';
    const groups = layer.frame.groups > 1 && this.kind === 'product' ? ` Group ${this.group} of ${layer.frame.groups}.` : '';
    if (this.kind === 'layer') {
      if (this.pair) return `The matrix of the whole layer is ${layer.values.output.length.toLocaleString('en')} × ${layer.values.input.length.toLocaleString('en')}; this is its block from input channel ${this.pair[1]} to output channel ${this.pair[0]}, ${first.rows} × ${first.columns}${state.mode === 'grad_input' ? ', transposed: the backward pass' : ''}. All its entries are ${product(layer.frame.kernel)} weights.`;
      const size = `${first.rows} × ${first.columns}`, used = multiplyAdds(layer.frame), weights = layer.values.weight.length;
      const head = {
        slide: `y = M·x, M is ${size}. Sliding computes row by row: the lit row times the whole input.`,
        paint: `y = M·x, M is ${size}. Painting adds column by column: the lit column times its one input number.`,
        grad_input: `∂x = Mᵀ·g: the backward pass is the same matrix transposed (${size}), so it is ${layer.transposed ? 'a convolution' : 'a transposed convolution'}.`,
        grad_weight: `Every place where this weight stands in M is lit: its gradient adds g × x over all of them.`,
        grad_bias: 'The bias is added to every output of its channel, so its gradient adds all of g there.',
      }[mode];
      return head + (fc ? ` Every entry is a weight of its own: ${weights}.` : ` Of ${(first.rows * first.columns).toLocaleString('en')} entries at most ${used.toLocaleString('en')} are not zero, made of ${weights} weights.`);
    }
    const sizes = `${first.name} ${first.rows}×${first.columns} · ${second.name} ${second.rows}×${second.columns} = ${third.name} ${third.rows}×${third.columns}.`;
    const kind = this.contraction();
    return `${sizes} ` + (kind === 'small' ? `im2col copies the ${product(layer.frame.kernel)} numbers under each window into a column; one matrix product does the rest.`
      : kind === 'large' ? 'One matrix product gives a column per position: its stamp. col2im then adds every stamp into the picture where it belongs.'
        : 'The gradient of the weights is one matrix product: rows of one side with the windows of the other.') + groups;
  }
}

