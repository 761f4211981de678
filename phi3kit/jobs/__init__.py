"""Jobs: long work as processes of their own that others can watch, cancel and read afterwards."""
