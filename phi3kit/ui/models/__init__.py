"""The Models page's parts."""
