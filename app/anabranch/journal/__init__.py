"""The journal: records, the writer, segments, recovery, reading."""
