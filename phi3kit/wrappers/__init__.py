"""What goes into a logged model. onnx_model.py imports nothing of phi3kit, so it loads anywhere."""
