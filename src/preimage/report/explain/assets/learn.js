// Gradient descent made visible: a stencil is learned from pairs of inputs and outputs, beside a fully connected layer. The inputs lie in
// the left part of the picture; the test inputs are the same ones, moved to the right.

const LEARN_TASKS = {
  conv: {text: 'convolution 3 × 3, 9 weights', words: {kind: 'conv', kernel_size: 3, padding: 1, input_size: 8}, hidden: [0, 1, 0, -1, .5, 1, 0, -1, 0]},
  conv_transpose: {text: 'deconvolution 4 × 4, stride 2, 16 weights', words: {kind: 'conv_transpose', kernel_size: 4, stride: 2, padding: 1, input_size: 6}, hidden: [0, .5, .5, 0, .5, 1, -1, .5, .5, -1, 1, .5, 0, .5, .5, 0]},
};
const LEARN_PAIRS = 4, CURVES = [['conv', 'error', 'stencil, training', '--accent', ''], ['conv', 'test', 'stencil, moved test', '--accent', '6 5'], ['dense', 'error', 'fully connected, training', '--plus', ''], ['dense', 'test', 'fully connected, moved test', '--plus', '6 5']];

/** One learner: a layer's spec, its weights, and what gradient descent needs. */
class Learner {
  constructor(spec) {
    this.spec = spec;
    this.frame = frameOf(spec);
    this.transposed = spec.kind === 'conv_transpose';
    this.weight = new Float32Array(this.frame.smallChannels * this.frame.largePer * product(this.frame.kernel));
    this.errors = {error: [], test: []};
  }

  forward(x) { return this.transposed ? transpose(this.frame, x, this.weight, null) : convolve(this.frame, x, this.weight, null); }
  gradientOf(x, g) { return this.transposed ? weightGradient(this.frame, g, x) : weightGradient(this.frame, x, g); }

  /** The mean squared error of some pairs, over that of answering zero. */
  error(pairs) {
    let wrong = 0, all = 0;
    for (const {x, y} of pairs) { const out = this.forward(x); for (let i = 0; i < y.length; i++) { wrong += (out[i] - y[i]) ** 2; all += y[i] ** 2; } }
    return wrong / all;
  }

  /** The gradient of half the summed squared error, averaged over the pairs; parts keeps each pair's residual. */
  gradient(pairs) {
    const total = new Float32Array(this.weight.length), parts = [];
    for (const {x, y} of pairs) {
      const out = this.forward(x), g = out.map((v, i) => Math.fround(v - y[i]) / pairs.length), grad = this.gradientOf(x, g);
      for (let i = 0; i < total.length; i++) total[i] += grad[i];
      parts.push({x, g});
    }
    return {total, parts};
  }

  step(pairs, rate) {
    const {total} = this.gradient(pairs);
    for (let i = 0; i < total.length; i++) this.weight[i] = fma32(-rate, total[i], this.weight[i]);
  }
}

class Learning {
  constructor() {
    this.box = byId('learn-body');
    this.task = 'conv';
    this.rate = 2;
    this.chosen = 4;
    this.running = false;
    this.bar();
    this.frame();
    this.reset();
  }

  get learningRate() { return Math.fround([.001, .003, .01, .02, .05, .1, .2, .5][this.rate]); }

  bar() {
    const bar = element('div', {class: 'learn-bar', role: 'group', 'aria-label': 'Learning'}, this.box);
    this.runButton = element('button', {type: 'button', class: 'main', id: 'learn-run', text: 'Run', onclick: () => this.running ? this.stop() : this.run()}, bar);
    element('button', {type: 'button', id: 'learn-step', text: 'One step', onclick: () => { this.stop(); this.advance(); this.draw(); }}, bar);
    element('button', {type: 'button', id: 'learn-reset', text: 'Reset', onclick: () => { this.stop(); this.reset(); }}, bar);
    const label = element('label', {text: 'Learning rate '}, bar), range = element('input', {type: 'range', id: 'learn-rate', min: 0, max: 7, value: this.rate}, label);
    this.rateText = element('output', {}, label);
    range.oninput = () => { this.rate = +range.value; this.draw(); };
    const which = element('label', {text: 'Task '}, bar), select = element('select', {id: 'learn-task'}, which);
    for (const [name, task] of Object.entries(LEARN_TASKS)) element('option', {value: name, text: task.text}, select);
    select.value = this.task;
    select.onchange = () => { this.stop(); this.task = select.value; this.chosen = LEARN_TASKS[this.task].words.kernel_size + 1; this.reset(); };
  }

  frame() {
    const grid = element('div', {class: 'learn-grid'}, this.box);
    const column = title => { const box = element('div', {}, grid); element('h3', {text: title}, box); return box; };
    const errors = column('The error falls');
    this.chart = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
    this.chart.setAttribute('viewBox', '0 0 360 230'); this.chart.setAttribute('class', 'chart'); this.chart.setAttribute('role', 'img');
    errors.append(this.chart);
    this.paths = CURVES.map(([, , , colour, dash]) => { const path = document.createElementNS('http://www.w3.org/2000/svg', 'path'); path.setAttribute('style', `stroke:var(${colour})`); path.setAttribute('stroke-dasharray', dash); return path; });
    this.axes();
    const legend = element('ul', {class: 'legend'}, errors);
    this.legend = CURVES.map(([, , text, colour, dash]) => { const item = element('li', {}, legend); element('i', {class: dash ? 'dashed' : '', style: `border-color:var(${colour})`}, item); item.append(text + ' '); return element('b', {text: ''}, item); });
    const stencils = column('The stencil appears'), row = element('div', {class: 'row tight'}, stencils);
    const grid2 = (parent, name, title, pick) => new Grid(parent, {name, title, quiet: !pick, onHover: () => {}, onPick: index => { if (pick && index >= 0) { this.chosen = index; this.draw(); } }, onEdit: () => {}});
    this.grids = {learned: grid2(row, 'learned', 'learned: pick a weight', true), hidden: grid2(row, 'hidden', 'hidden truth', false)};
    this.denseBox = element('div', {}, stencils);
    element('p', {class: 'soft small', id: 'dense-text'}, stencils);
    this.dense = element('canvas', {role: 'img', 'aria-label': 'The weights of the fully connected layer as a matrix'}, this.denseBox);
    const gradient = column('The gradient of one weight');
    this.gradientText = element('p', {class: 'small learn-text', 'aria-live': 'off'}, gradient);
    this.gradientRow = element('div', {class: 'row'}, gradient);
    this.grids.products = grid2(this.gradientRow, 'products', 'products at each position, all pairs', false);
    this.grids.products.figure.classList.add('wide');
    const tests = column('The moved test'), testRow = element('div', {class: 'row tight'}, tests);
    element('p', {class: 'soft small', text: 'The input stands where no training input did. The stencil came to know its pattern everywhere at once; the fully connected layer never saw this corner.'}, tests);
    this.grids.x = grid2(testRow, 'x', 'test input', false);
    this.grids.want = grid2(testRow, 'want', 'wanted', false);
    this.grids.got = grid2(testRow, 'got', 'by the stencil', false);
    this.grids.gotDense = grid2(testRow, 'gotDense', 'fully connected', false);
  }

  axes() {
    const add = (tag, attributes, text) => { const node = document.createElementNS('http://www.w3.org/2000/svg', tag); for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v); if (text) node.textContent = text; this.chart.append(node); return node; };
    [1, .1, .01, .001].forEach((value, i) => { const y = 16 + i * 60; add('line', {x1: 46, x2: 352, y1: y, y2: y, class: 'axis'}); add('text', {x: 40, y: y + 4, 'text-anchor': 'end'}, i ? String(value) : '1'); });
    this.stepsText = add('text', {x: 352, y: 224, 'text-anchor': 'end'}, 'steps');
    add('text', {x: 46, y: 224}, 'relative error, steps →');
    this.chart.append(...this.paths);
  }

  reset() {
    const task = LEARN_TASKS[this.task], spec = Controls.full(task.words, 2), truth = new Learner(spec), out = outputSize(spec);
    truth.weight.set(task.hidden);
    const dense = {...spec, kind: 'linear', output_size: out};
    this.conv = new Learner(spec);
    this.fc = new Learner(dense);
    this.truth = truth;
    const [H, W] = spec.input_size, random = generator(11), shift = Math.floor(W / 2), blank = () => new Float32Array(H * W);
    const make = x => ({x, y: truth.forward(x)});
    this.pairs = []; this.tests = [];
    for (let n = 0; n < LEARN_PAIRS; n++) {
      const here = blank(), moved = blank();
      for (let r = 1; r < H - 1; r++) for (let c = 0; c < W - shift; c++) if (random() < .45) { const v = Math.fround(Math.round(random() * 4) / 2 - .5); here[r * W + c] = v; moved[r * W + c + shift] = v; }
      this.pairs.push(make(here)); this.tests.push(make(moved));
    }
    this.count = 0;
    this.note();
    this.layout();
    this.draw();
  }

  note() {
    this.conv.errors.error.push(this.conv.error(this.pairs)); this.conv.errors.test.push(this.conv.error(this.tests));
    this.fc.errors.error.push(this.fc.error(this.pairs)); this.fc.errors.test.push(this.fc.error(this.tests));
  }

  advance() {
    this.conv.step(this.pairs, this.learningRate);
    this.fc.step(this.pairs, this.learningRate);
    this.count += 1;
    this.note();
  }

  run() {
    this.running = true;
    this.runButton.textContent = 'Pause';
    let last = 0;
    const frame = now => {
      if (!this.running) return;
      if (now - last > 60) { last = now; this.advance(); this.draw(); if (this.count >= 400) return this.stop(); }
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  stop() { this.running = false; this.runButton.textContent = 'Run'; }

  layout() {
    const g = this.grids, size = this.conv.spec.input_size, out = outputSize(this.conv.spec), k = this.conv.frame.kernel, width = Math.max(220, this.chart.parentElement.clientWidth);
    const stencil = Math.floor(Math.min(34, (width - 30) / (2 * k[1])));
    for (const name of ['learned', 'hidden']) g[name].layout([1, ...k], [0], [0, 0, 0, 0], stencil, 1);
    const small = this.transposedProducts() ? size : out, one = Math.floor(Math.min(30, (width - 8) / small[1]));
    g.products.layout([1, ...small], [0], [0, 0, 0, 0], one, 1);
    const cell = Math.floor(Math.min(13, (width - 30) / (2 * out[1])));
    g.x.layout([1, ...size], [0], [0, 0, 0, 0], Math.floor(cell * out[1] / size[1]), 1);
    for (const name of ['want', 'got', 'gotDense']) g[name].layout([1, ...out], [0], [0, 0, 0, 0], cell, 1);
    for (const name of ['x', 'want', 'got', 'gotDense']) g[name].caption.style.width = Math.max(104, g.want.width) + 'px';
    const ratio = Math.min(2, window.devicePixelRatio || 1), side = Math.min(width - 4, 250);
    this.dense.width = this.dense.height = side * ratio;
    this.dense.style.width = this.dense.style.height = side + 'px';
    this.denseSide = side; this.denseRatio = ratio;
  }

  transposedProducts() { return this.conv.transposed; }

  draw() {
    const g = this.grids, {conv, fc, truth} = this, scale = scaleOf(truth.weight);
    this.rateText.textContent = String(+this.learningRate.toPrecision(2));
    g.learned.draw({values: conv.weight, scale, marks: [{index: this.chosen, kind: 'current'}]});
    g.learned.canvas.setAttribute('aria-label', 'The learned stencil; pick a weight to see its gradient');
    g.hidden.draw({values: truth.weight, scale});
    const test = this.tests[0], outScale = scaleOf(test.y);
    g.x.draw({values: test.x, scale: scaleOf(test.x)});
    g.want.draw({values: test.y, scale: outScale});
    g.got.draw({values: conv.forward(test.x), scale: outScale});
    g.gotDense.draw({values: fc.forward(test.x), scale: outScale});
    this.drawGradient();
    this.drawDense();
    this.drawCurves();
  }

  /** The products that make the gradient of the chosen weight, those of all pairs added at each position. */
  drawGradient() {
    const {conv, chosen} = this, {total, parts} = conv.gradient(this.pairs), I = conv.transposed ? SMALL : LARGE, O = conv.transposed ? LARGE : SMALL;
    const terms = termsOfWeight(conv.frame, chosen), sums = new Float32Array(terms.length / 3);
    let count = 0;
    for (const {x, g} of parts) for (let t = 0; t < terms.length; t += 3) if (terms[t + I] >= 0 && terms[t + O] >= 0) { sums[t / 3] += x[terms[t + I]] * g[terms[t + O]]; count++; }
    this.grids.products.draw({values: sums, scale: Math.max(scaleOf(sums), .02)});
    const rate = this.learningRate, next = fma32(-rate, total[chosen], conv.weight[chosen]);
    setText(this.gradientText, `Weight ${Math.floor(chosen / conv.frame.kernel[1])}, ${chosen % conv.frame.kernel[1]} meets ${count} products (input × error), ${terms.length / 3} positions in each of ${LEARN_PAIRS} pairs. They add up to its gradient, ${brief(total[chosen])}. `
      + `Next step: ${brief(conv.weight[chosen])} − ${brief(rate)} × ${brief(total[chosen])} = ${brief(next)}. A weight of the fully connected layer meets ${LEARN_PAIRS}: one in each pair.`);
  }

  drawDense() {
    const {fc} = this, c = this.dense.getContext('2d'), rows = fc.frame.smallChannels, columns = fc.weight.length / rows, side = this.denseSide, scale = scaleOf(this.truth.weight);
    c.setTransform(this.denseRatio, 0, 0, this.denseRatio, 0, 0);
    c.fillStyle = theme.zero;
    c.fillRect(0, 0, side, side);
    for (let r = 0, i = 0; r < rows; r++) for (let k = 0; k < columns; k++, i++) {
      if (Math.abs(fc.weight[i]) < scale / 64) continue;
      c.fillStyle = shadeOf(fc.weight[i], scale).fill;
      c.fillRect(k * side / columns, r * side / rows, Math.max(.8, side / columns), Math.max(.8, side / rows));
    }
    setText(byId('dense-text'), `The fully connected layer as its matrix: ${rows} × ${columns} = ${fc.weight.length.toLocaleString('en')} weights, beside ${this.conv.weight.length}. Columns of inputs that were always zero stay empty.`);
  }

  drawCurves() {
    const most = Math.max(40, this.count), y = e => 16 + 180 * Math.min(1, Math.max(0, -Math.log10(Math.min(1e3, Math.max(e, 1e-9))) / 3)), x = i => 46 + 306 * i / most;
    CURVES.forEach(([who, what], n) => {
      const errors = (who === 'conv' ? this.conv : this.fc).errors[what];
      this.paths[n].setAttribute('d', 'M' + errors.map((e, i) => `${x(i).toFixed(1)} ${Number.isFinite(e) ? y(e).toFixed(1) : 16}`).join('L'));
      setText(this.legend[n], Number.isFinite(errors[this.count]) && errors[this.count] < 1e6 ? errors[this.count].toPrecision(3).replace(/e.*/, m => m) : 'diverges');
    });
    setText(this.stepsText, `${this.count} steps`);
    this.chart.setAttribute('aria-label', `After ${this.count} steps the relative errors are: ` + CURVES.map(([, , text], n) => `${text} ${this.legend[n].textContent}`).join('; '));
  }
}
