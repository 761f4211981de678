"""The Batch page's parts."""
