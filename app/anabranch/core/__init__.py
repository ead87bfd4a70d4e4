"""Pure algorithms and the plain data that travels between the layers. No I/O, no asyncio; the clock is passed in."""
