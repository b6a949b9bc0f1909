"""Small ONNX models with graphs inside nodes, as onnx.parser reads them: what the tests run and the fuzz mutates."""

HEAD = '<ir_version: 8, opset_import: ["": 16, "own": 1]> net '
BRANCHES = """(float[N, 3] x, bool c) => (float[N, 3] y, float[M, 3] z)
<float[3] w = {1.0, -2.0, 0.5}>
{
  a = Add (x, w)
  y, z = If (c) <
    then_branch = t () => (float[N, 3] p, float[M, 3] q) { p = Mul (a, w)  k = Constant <value = float[1] {2.0}> ()  q = Mul (a, k) },
    else_branch = e () => (float[N, 3] r, float[N, 3] s) { r = Relu (x)  s = Identity (a) }
  >
}"""
#: Newton's square roots until they no longer move; the body takes x from outside, and an If inside takes the loop's own values and x.
WHILE = """(float[2, 3] x, int64 most, bool go) => (float[2, 3] root, float[K, 2, 3] steps, int64[K] counts)
<float half = {0.5}, float small = {0.001}>
{
  root, steps, counts = Loop (most, go, x) <
    body = b (int64 i, bool c, float[2, 3] r) => (bool more, float[2, 3] next, float[2, 3] step, int64 i_out) {
      q = Div (x, r)  s = Add (r, q)  m = Mul (s, half)
      zero = Constant <value = int64 {0}> ()
      first = Equal (i, zero)
      next = If (first) <
        then_branch = t () => (float[2, 3] u) { u = Identity (m) },
        else_branch = e () => (float[2, 3] v) { h = Div (x, m)  g = Add (m, h)  v = Mul (g, half) }
      >
      d = Sub (next, r)  e2 = Abs (d)  w = ReduceMax <keepdims = 0> (e2)
      more = Greater (w, small)
      step = Identity (next)
      i_out = Identity (i)
    }
  >
}"""
SCAN = """(float[3] start, float[4, 5, 3] x, float[5, 2] t) => (float[3] last, float[3, 5] sums, float[5, 2] u)
<float[3] w = {0.5, 2.0, -1.0}>
{
  last, sums, u = Scan (start, x, t) <num_scan_inputs = 2, scan_input_axes = [1, 0], scan_input_directions = [1, 0],
    scan_output_axes = [1, 0], scan_output_directions = [0, 1],
    body = b (float[3] s, float[4, 3] xi, float[2] ti) => (float[3] s2, float[3] o, float[2] v) {
      axes = Constant <value = int64[1] {0}> ()
      m = ReduceSum <keepdims = 0> (xi, axes)  n = Mul (m, w)  p = Add (s, n)  s2 = Tanh (p)
      o = Identity (s2)
      v = Neg (ti)
    }
  >
}"""

#: Its w (2, 20, 3), r (2, 20, 5) and b (2, 40) are added where it is used.
RECURRENT = """(float[4, 2, 3] x) => (float[4, 2, 2, 5] y, float[2, 2, 5] h)
<int32[2] n = {4, 2}>
{ y, h = LSTM <hidden_size = 5, direction = "bidirectional"> (x, w, r, b, n) }"""

#: Quantised arithmetic, a function of the model's own, and an image read at positions.
QUANTISED = """(float[1, 2, 6, 5] x, float[1, 4, 3, 2] at) => (float[1, 3, 4, 3] y, float[4, 6] z)
<float s = {0.02}, uint8 o = {128}, int8[3, 2, 1, 1] w = {1, -2, 3, 4, -5, 6}, float[3] ws = {0.1, 0.2, 0.3}, int8[3] wo = {0, 1, -1},
 float ys = {0.1}, int32[3] b = {5, -6, 7}, int8[5, 6] m = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3}>
{
  q = QuantizeLinear (x, s, o)
  c = QLinearConv <pads = [0, 0, 0, 0]> (q, s, o, w, ws, wo, ys, o, b)
  f = DequantizeLinear (c, ys, o)
  y = GridSample <mode = "bilinear", padding_mode = "reflection"> (f, at)
  d, e, g = DynamicQuantizeLinear (x)
  k = Constant <value = int64[2] {-1, 5}> ()
  r = Reshape (d, k)
  n = Constant <value = int64[4] {0, 3, 5, 7}> ()
  u = Gather (r, n)
  i = MatMulInteger (u, m, g)
  z = own.scaled <by = 0.5> (i, e)
}
<domain: "own", opset_import: ["": 16]>
scaled <by> (i, e) => (z) { f = Cast <to = 1> (i)  t = Mul (f, e)  z = ThresholdedRelu <alpha: float = @by> (t) }"""
