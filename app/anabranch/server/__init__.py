"""The server process: sockets, the HTTP parser and its limits, admission, workers, drain, health and the admin port. Independent of
endpoints."""
