"""The Access page's parts."""
