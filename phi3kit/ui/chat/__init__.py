"""The Chat page's parts."""
