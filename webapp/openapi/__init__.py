"""The description of the API in OpenAPI 3.1, made of the schemas that requests are checked with."""
