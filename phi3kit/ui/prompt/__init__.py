"""The Prompt page's parts."""
