"""Access: who may do what here, and how much of it: profiles, roles, limits."""
