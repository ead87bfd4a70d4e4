"""Describes the API and the document format: OpenAPI, documentation pages, problem pages, reference and JSON Schema."""
