"""Pure algorithms and the plain data that the layers exchange. No I/O and no asyncio; the current time is an argument."""
