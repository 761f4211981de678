"""The Deploy page's parts."""
