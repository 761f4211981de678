"""The Usage page's parts."""
