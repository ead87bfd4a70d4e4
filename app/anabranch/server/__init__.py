"""The process: sockets, the HTTP parser with its bounds, admission, workers, drain, health and the admin port. Knows no endpoint."""
