"""Usage: what turns cost, from the moment they end (outbox) to the chart."""
