"""From the document to plans: everything that can be decided before a request comes is decided here. Pure: no I/O, clock or asyncio."""
