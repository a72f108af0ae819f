"""One OpenAPI document of all services: made of the code, compared with its release."""
