"""`caffe.proto`: the messages of caffe_pb2, without protobuf."""

from preimage.caffe.proto import caffe_pb2

__all__ = ["caffe_pb2"]
