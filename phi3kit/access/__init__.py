"""Access: who may do what, and where requests of this app may go: roles, sign-in, API keys, hosts."""
