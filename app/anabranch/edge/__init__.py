"""Serves client requests: route table, parameters, body, response and problems, and the routes in Python."""
