"""The journal: its records, writer, segments, recovery and readers."""
