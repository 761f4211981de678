"""Registry: logged models, their registered versions and aliases, and what is known of each."""
