"""The Build page's parts."""
