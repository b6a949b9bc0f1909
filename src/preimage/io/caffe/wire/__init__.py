"""Caffe's files as messages: the schema of its fields, messages as objects, and their binary and text forms."""
