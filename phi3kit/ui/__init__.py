"""User interface: what every page shares. The only place of the kit that imports streamlit."""
