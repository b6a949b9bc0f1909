// The sum behind the current step (or the number pointed at), term by term in the order in which the library adds them.

const MOST_CHIPS = 64;
const GREEK = {paint: 'paint', slide: 'output', grad_input: '∂L/∂input', grad_weight: '∂L/∂weight', grad_bias: '∂L/∂bias'};
const LAWS = {
  conv: {paint: 'y[o, p] += x[c, i] · w[o, c, k]   for every tap k and position p with p·stride − before + k·dilation = i', slide: 'y[o, p] = Σ over k, c   x[c, p·stride − before + k·dilation] · w[o, c, k]   + b[o]',
    grad_input: '∂L/∂x[c, i] = Σ over k, o   g[o, p] · w[o, c, k]   with p·stride − before + k·dilation = i', grad_weight: '∂L/∂w[o, c, k] = Σ over all positions p   x[c, p·stride − before + k·dilation] · g[o, p]'},
  conv_transpose: {paint: 'y[o, p·stride − before + k·dilation] += x[c, p] · w[c, o, k]   for every tap k', slide: 'y[o, q] = Σ over k, c   x[c, p] · w[c, o, k]   with p·stride − before + k·dilation = q,   + b[o]',
    grad_input: '∂L/∂x[c, p] = Σ over k, o   g[o, p·stride − before + k·dilation] · w[c, o, k]', grad_weight: '∂L/∂w[c, o, k] = Σ over all positions p   x[c, p] · g[o, p·stride − before + k·dilation]'},
  linear: {paint: 'y[o] += x[i] · w[o, i]   for every output o', slide: 'y[o] = Σ over all i   x[i] · w[o, i]   + b[o]', grad_input: '∂L/∂x[i] = Σ over all o   g[o] · w[o, i]',
    grad_weight: '∂L/∂w[o, i] = x[i] · g[o]   (one product: no sharing)'},
};
const lawOf = (kind, mode) => mode === 'grad_bias' ? (kind === 'linear' ? '∂L/∂b[o] = g[o]' : '∂L/∂b[o] = Σ over all positions   g[o, p]') : LAWS[kind][mode];

class Formula {
  constructor(app) {
    this.app = app;
    this.title = byId('sum-title');
    this.result = byId('sum-result');
    this.law = byId('law');
    this.more = byId('sum-more');
    this.chips = [];
    this.list = byId('terms');
    this.editor = byId('cell-editor');
    this.editField = byId('cell-value');
    this.list.addEventListener('click', event => {
      const chip = event.target.closest('button');
      if (chip && !app.hovered) app.setTerm(+chip.dataset.term);
    });
    this.list.addEventListener('pointerover', event => {
      const chip = event.target.closest('button');
      if (chip && !app.hovered && !app.transport.playing) app.setTerm(+chip.dataset.term);
    });
    this.editor.addEventListener('submit', event => {
      event.preventDefault();
      if (app.hovered) app.change(app.hovered.name, app.hovered.index, this.editField.value);
    });
  }

  chip(i) {
    if (!this.chips[i]) {
      const node = element('button', {type: 'button', class: 'term'}, this.list);
      this.chips[i] = {node, product: element('span', {class: 'product'}, node), value: element('span', {class: 'value'}, node), text: '', state: ''};
      node.dataset.term = i;
    }
    return this.chips[i];
  }

  draw() {
    const {app} = this, {layer, hovered} = app, sum = hovered ? hovered.sum : app.sum, term = hovered ? -1 : app.term;
    const name = hovered ? hovered.name : sum.to, index = hovered ? hovered.index : sum.index;
    this.law.textContent = lawOf(layer.spec.kind, sum.mode);
    const scatter = sum.mode === 'paint', value = layer.values[name][index];
    setText(this.title, `${TITLES[name].replace(' (weights)', '')} ${layer.place(name, index)}`);
    setText(this.result, `${scatter || hovered && GIVEN.includes(name) ? '=' : '= Σ ='} ${shortest(value)}`);
    const rows = this.chosen(sum, term);
    rows.forEach((i, slot) => this.fill(this.chip(slot), sum.rows[i], i, i === term, scatter, sum));
    for (let slot = 0; slot < this.chips.length; slot++) {
      const hidden = slot >= rows.length;
      if (this.chips[slot].node.hidden !== hidden) this.chips[slot].node.hidden = hidden;
    }
    const left = sum.rows.length - rows.length, bias = sum.bias === null ? '' : ` + bias ${shortest(sum.bias)}`;
    const zero = sum.rows.filter(r => r.padded).length, count = `${sum.rows.length} product${sum.rows.length === 1 ? '' : 's'}`;
    setText(this.more, scatter ? `feeds ${sum.rows.length - zero} output number${sum.rows.length - zero === 1 ? '' : 's'}${zero ? `; ${zero} fall${zero === 1 ? 's' : ''} on the padding and ${zero === 1 ? 'is' : 'are'} cut off` : ''}${left ? `; ${left} not listed` : ''}`
      : `${count}${zero ? `, ${zero} of them over padding` : ''}${left ? `, the first ${rows.length} listed` : ''}${bias}`);
    const editable = hovered && hovered.pinned && GIVEN.includes(name);
    this.editor.classList.toggle('off', !editable);
    this.editField.disabled = byId('cell-set').disabled = !editable;
    if (editable && document.activeElement !== this.editField) this.editField.value = shortest(value);
  }

  /** Which terms are listed: all, or a stretch that holds the current one. */
  chosen(sum, term) {
    const count = sum.rows.length;
    if (count <= MOST_CHIPS) return sum.rows.map((_, i) => i);
    const first = term < MOST_CHIPS ? 0 : Math.min(term - MOST_CHIPS / 2, count - MOST_CHIPS);
    return Array.from({length: MOST_CHIPS}, (_, i) => first + i);
  }

  fill(chip, row, i, current, scatter, sum) {
    const product = sum.mode === 'grad_bias' ? brief(row.av) : `${brief(row.av)} × ${brief(row.bv)}`;
    const value = scatter ? row.output < 0 ? 'cut off' : `${this.app.layer.place('output', row.output)} += ${brief(row.product)}` : row.running === undefined ? '' : `so far ${brief(row.running)}`;
    const text = product + '|' + value + i, state = (current ? 'now ' : '') + (row.padded ? 'pad' : '');
    if (text !== chip.text) {
      chip.text = text; chip.product.textContent = product; chip.value.textContent = value; chip.node.dataset.term = i;
    }
    if (state !== chip.state) { chip.state = state; chip.node.className = 'term ' + state; chip.node.setAttribute('aria-current', current ? 'true' : 'false'); }
  }
}

function setText(node, text) { if (node.textContent !== text) node.textContent = text; }
