"""The admin port: reloads, the journal, execution times, explain."""
