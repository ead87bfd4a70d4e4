"""Runs one client request: schedules the steps of a plan, collects their outcomes, decides between answer, partial answer and problem."""
