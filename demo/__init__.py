"""The demo: five small services with real data, a gateway document over them, and `python -m demo`, which starts it all."""
