"""Wrappers: what goes into a logged model. onnx_wrapper.py imports nothing of phi3kit, so it loads anywhere."""
