"""The Tour page's parts."""
