"""Ground floor: errors, records, settings, the data folder, the machine, processes, SQLite, redaction."""
