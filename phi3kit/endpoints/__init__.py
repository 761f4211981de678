"""Endpoints: whatever answers: local workers, remote connections; and the client that asks them."""
