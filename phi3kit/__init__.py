"""phi3kit: package Phi-3 as an MLflow model in two ways, compare, chat, and measure tokens."""

__version__ = "0.1.0"
