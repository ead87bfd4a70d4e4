"""The demo: five small services with real data, a gateway document for them, and `python -m demo`, which starts everything."""
