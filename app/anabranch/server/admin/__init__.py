"""What the admin port serves: reloads, the journal, execution times, explain."""
