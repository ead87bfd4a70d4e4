"""What the gateway tells of itself: logs, metrics, traces, execution times. Reached through hooks; the rest does not know it."""
