"""Where journal records are shipped, at least once."""
