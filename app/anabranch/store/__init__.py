"""What several gateways know together: counters, entries, messages, leases. One interface, in memory and in Redis or Valkey."""
