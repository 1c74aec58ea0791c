"""The HTTP calls under `/v1`, health, metrics, and the OpenAPI document."""
