for (const box of document.querySelectorAll('.compare')) {
  const top = box.querySelector('.top'), bar = box.querySelector('.bar'), range = box.querySelector('input');
  const show = () => { top.style.clipPath = `inset(0 ${100 - range.value}% 0 0)`; bar.style.left = range.value + '%'; };
  range.addEventListener('input', show); show();
}
for (const box of document.querySelectorAll('.painter')) {
  const frames = JSON.parse(box.querySelector('script').textContent), image = box.querySelector('img');
  const range = box.querySelector('input'), text = box.querySelector('output'), button = box.querySelector('button');
  let timer = 0;
  const show = n => { range.value = n; image.src = frames[n][0]; text.textContent = frames[n][1]; };
  const stop = () => { clearInterval(timer); timer = 0; button.textContent = 'Paint'; };
  range.addEventListener('input', () => { stop(); show(+range.value); });
  button.addEventListener('click', () => {
    if (timer) return stop();
    let n = +range.value >= frames.length - 1 ? 0 : +range.value; show(n); button.textContent = 'Pause';
    timer = setInterval(() => { if (++n >= frames.length) return stop(); show(n); }, 700);
  });
  show(frames.length - 1);
}
