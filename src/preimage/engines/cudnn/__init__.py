"""cuDNN's classic calls, as Caffe's CuDNNConvolutionLayer makes them, by ctypes: deterministic algorithms only."""
