"""What several pages use: resources, errors, the sidebar, choosing a model, asking it, drawing an answer."""
