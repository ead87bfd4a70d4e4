"""HTTP/1.1 as a server reads and writes it (RFC 9112): strict, without I/O but in `connection` and `cycle`."""
