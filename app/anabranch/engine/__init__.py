"""Runs one client request: schedules the steps of a plan, collects their outcomes, and decides between full, partial and failed response."""
