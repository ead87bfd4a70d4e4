"""Observability: logs, metrics, traces, execution times. Attached through hooks: observed code must not import `observe`."""
