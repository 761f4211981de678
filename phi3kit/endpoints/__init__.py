"""Endpoints: local workers and remote connections, and the client that asks them."""
