"""Anabranch: an API aggregation gateway. A request branches out to many services and rejoins as one JSON document."""

__version__ = "0.1.0"
