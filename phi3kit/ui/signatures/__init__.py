"""The Signatures page's parts."""
